"""Class 0x90b5, the copy engines: linear and block-linear copies with an optional query. Methods as their
firmware has them.
"""

from __future__ import annotations

import time
from math import inf
from typing import ClassVar

import numpy as np

from gpuvm.gpu import transfer
from gpuvm.gpu.classes.method import ClassObject, DataError, Method, MethodTable, Rejected
from gpuvm.gpu.classes.rectangle import Rectangle, copy_rectangle
from gpuvm.gpu.classes.tiling import Surface

_TILE = ("TILE_MODE", "TILE_XSIZE", "TILE_YSIZE", "TILE_ZSIZE", "TILE_ZOFF", "TILE_XOFF", "TILE_YOFF")

COPY = MethodTable(
    0x90B5,
    "GF100_COPY",
    (
        Method(0x0100, "NOP"),
        Method(0x0140, "PM_TRIGGER"),
        *(Method(0x0200 + 4 * at, f"SRC_{name}") for at, name in enumerate(_TILE)),
        *(Method(0x0220 + 4 * at, f"DST_{name}") for at, name in enumerate(_TILE)),
        Method(0x0300, "EXEC", trigger=True),
        Method(0x0304, "WRCACHE_FLUSH"),
        Method(0x030C, "SRC_ADDRESS_HIGH"),
        Method(0x0310, "SRC_ADDRESS_LOW"),
        Method(0x0314, "DST_ADDRESS_HIGH"),
        Method(0x0318, "DST_ADDRESS_LOW"),
        Method(0x031C, "SRC_PITCH"),
        Method(0x0320, "DST_PITCH"),
        Method(0x0324, "XCNT"),
        Method(0x0328, "YCNT"),
        Method(0x032C, "FORMAT"),
        Method(0x0330, "SWZ_CONST0"),
        Method(0x0334, "SWZ_CONST1"),
        Method(0x0338, "QUERY_ADDRESS_HIGH"),
        Method(0x033C, "QUERY_ADDRESS_LOW"),
        Method(0x0340, "QUERY_COUNTER"),
    ),
)

_TILE_MASKS = (0xFFF, 0x7FFFF, 0x1FFF, 0x7FF, 0xFFF, 0x7FFFF, 0x1FFF)
MASKS = {
    **{0x200 + 4 * at: mask for at, mask in enumerate(_TILE_MASKS)},
    **{0x220 + 4 * at: mask for at, mask in enumerate(_TILE_MASKS)},
    0x30C: 0xFF,
    0x314: 0xFF,
    0x31C: 0x7FFFF,
    0x320: 0x7FFFF,
    0x324: 0xFFFF,
    0x328: 0x1FFF,
    0x32C: 0x0333FFFF,
    0x338: 0xFF,
}
"""Bits that each method takes; others are refused."""

FORMAT, LINEAR_IN, LINEAR_OUT, QUERY, QUERY_SHORT = 1 << 0, 1 << 4, 1 << 8, 1 << 12, 1 << 13


class Copy(ClassObject):
    """An object of PCOPY0."""

    TABLE: ClassVar = COPY
    ENGINE: ClassVar = 4

    def submit(self, method: int, words: memoryview, step: int, deadline: float) -> int:
        at = method
        for number, value in enumerate(words):
            mask = MASKS.get(at)
            if mask is not None and value & ~mask:
                trap = Rejected(DataError.INVALID_BITFIELD)
                super().submit(method, words[:number], step, inf)
                trap.consumed = number + 1
                raise trap
            at += 4 if step else 0
        return super().submit(method, words, step, deadline)

    def on_exec(self, value: int) -> None:
        state = self.state
        began = time.perf_counter_ns()
        length, lines = state[0x324 >> 2], state[0x328 >> 2]
        if value & FORMAT:
            self._swizzle(value, length, lines)
        elif value & LINEAR_IN and value & LINEAR_OUT:
            pitches = (state[0x31C >> 2], state[0x320 >> 2])
            source, target = self.address(0x30C), self.address(0x314)
            transfer.take_up(
                self,
                lambda done: transfer.copy_lines(
                    self.gpu, self.channel, source, target, pitches, length, lines, done
                ),
            )
        else:
            copy_rectangle(self.gpu, self.channel, *self._sides(value, 1, 1), length, lines)
        self.gpu.counters.copy_ended(self.channel.number, began)
        if value & QUERY:
            self._query(value)

    def _sides(self, value: int, source_bytes: int, target_bytes: int) -> tuple[Rectangle, Rectangle]:
        state = self.state
        sides = []
        for address, pitch, tile, linear, size in (
            (0x30C, 0x31C, 0x200, value & LINEAR_IN, source_bytes),
            (0x314, 0x320, 0x220, value & LINEAR_OUT, target_bytes),
        ):
            mode, width, height, depth, z, x, y = state[tile >> 2 : (tile >> 2) + 7]
            surface = None if linear else Surface(mode, width * size, height, depth)
            sides.append(Rectangle(self.address(address), state[pitch >> 2], surface, x * size, y, z))
        return sides[0], sides[1]

    def _swizzle(self, value: int, count: int, lines: int) -> None:
        """Copy elements of up to four components, each taken from the source, from a constant, or 0."""
        layout = self.state[0x32C >> 2]
        size, sources, targets = (layout >> 16 & 3) + 1, (layout >> 20 & 3) + 1, (layout >> 24 & 3) + 1
        source, target = self._sides(value, sources * size, targets * size)
        if count == 0 or lines == 0:
            return
        taken = source.read(self.channel.space, count * sources * size, lines)
        constants = [self.state[at >> 2].to_bytes(4, "little")[:size] for at in (0x330, 0x334)]
        result = []
        for line in taken:
            elements = np.frombuffer(line, np.uint8).reshape(count, sources, size)
            made = np.zeros((count, targets, size), np.uint8)
            for component in range(targets):
                choice = layout >> 4 * component & 0xF
                if choice < sources:
                    made[:, component] = elements[:, choice]
                elif choice in (4, 5):
                    made[:, component] = np.frombuffer(constants[choice - 4], np.uint8)
            result.append(memoryview(made.tobytes()))
        target.write(self.gpu, self.channel.space, result)

    def _query(self, value: int) -> None:
        space, address = self.channel.space, self.address(0x338)
        if not value & QUERY_SHORT:
            now = self.gpu.ptimer.now()
            space.write32(address + 12, now >> 32)
            space.write32(address + 8, now & 0xFFFFFFFF)
            space.write32(address + 4, 0)
        space.write32(address, self.state[0x340 >> 2])
        self.gpu.runner.memory_changed()


class Copy1(Copy):
    """An object of PCOPY1."""

    ENGINE: ClassVar = 5

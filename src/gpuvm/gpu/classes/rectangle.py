"""Rectangles of bytes in linear and block-linear surfaces, and copies between them that are not linear on
both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.gpu.classes.method import DataError, Rejected
from gpuvm.gpu.classes.tiling import Surface
from gpuvm.gpu.translations import Translations

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

SURFACE_SIZE_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Where a rectangle starts.

    Attributes
    ----------
    address : int
        GPU virtual address of the surface; of the rectangle itself where it is linear.
    pitch : int
        Bytes from line to line of a linear surface.
    surface : Surface or None
        Layout if block-linear.
    x, y, z : int
        Position in a block-linear surface: bytes, lines, layer.
    """

    address: int
    pitch: int
    surface: Surface | None
    x: int = 0
    y: int = 0
    z: int = 0

    def check(self, length: int, lines: int) -> None:
        """Refuse a rectangle that leaves its surface (Rejected)."""
        surface = self.surface
        if surface is None:
            return
        if surface.mode & 0xF or surface.size() > SURFACE_SIZE_MAX:
            raise Rejected(DataError.INVALID_VALUE)
        if (
            self.x + length > -(-surface.width // 64) * 64
            or self.z >= max(surface.depth, 1) * surface.block_depth
        ):
            raise Rejected(DataError.INVALID_VALUE)
        if self.y + lines > -(-surface.height // surface.block_height) * surface.block_height:
            raise Rejected(DataError.INVALID_VALUE)

    def read(self, space: Translations, length: int, lines: int) -> list[memoryview]:
        """Return the rectangle's lines (MmuFault, Rejected)."""
        self.check(length, lines)
        if self.surface is None:
            return [memoryview(space.read(self.address + at * self.pitch, length)) for at in range(lines)]
        result = []
        for line in range(lines):
            offsets = self.surface.offsets(self.x, length, self.y + line, self.z)
            low = int(offsets[0]) & ~0x1FF
            data = np.frombuffer(
                space.read(self.address + low, (int(offsets[-1]) | 0x1FF) + 1 - low), np.uint8
            )
            result.append(memoryview(data[offsets - low].tobytes()))
        return result

    def write(self, space: Translations, lines: Sequence[memoryview]) -> None:
        """Write the rectangle's lines (MmuFault, Rejected)."""
        length = len(lines[0]) if lines else 0
        self.check(length, len(lines))
        for line, data in enumerate(lines):
            if self.surface is None:
                space.write(self.address + line * self.pitch, data)
            elif length:
                self._write_line(space, self.surface, line, data)

    def _write_line(self, space: Translations, surface: Surface, line: int, data: memoryview) -> None:
        """Write 16-byte sectors, the pieces that stay together."""
        offsets = surface.offsets(self.x, len(data), self.y + line, self.z)
        breaks = np.flatnonzero(np.diff(offsets) != 1) + 1
        edges = [0, *breaks.tolist(), len(data)]
        for first, last in pairwise(edges):
            space.write(self.address + int(offsets[first]), data[first:last])


def copy_rectangle(
    gpu: Gf100, channel: Channel, source: Rectangle, target: Rectangle, length: int, lines: int
) -> None:
    """Copy `lines` lines of `length` bytes (MmuFault, Rejected)."""
    if length == 0 or lines == 0:
        return
    target.check(length, lines)
    target.write(channel.space, source.read(channel.space, length, lines))
    vram = gpu.vram
    from_device = channel.space.runs(source.address, 1, False)[0][0] is vram
    to_device = channel.space.runs(target.address, 1, True)[0][0] is vram
    gpu.counters.copied(channel.number, length * lines, from_device, to_device)

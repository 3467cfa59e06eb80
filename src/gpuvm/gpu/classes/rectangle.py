"""Rectangles of bytes in linear and block-linear surfaces, and copies between them that are not linear on
both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.gpu.classes.canvas import bands
from gpuvm.gpu.classes.method import DataError, Rejected
from gpuvm.gpu.classes.scatter import Elements
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

    def _elements(self, space: Translations, length: int, first: int, lines: int, write: bool) -> Elements:
        """Lines `first` on of a block-linear rectangle in the largest units that stay together."""
        surface = self.surface
        assert surface is not None
        unit = next(each for each in (16, 4, 1) if not (self.x | length) % each)
        columns = np.arange(self.x, self.x + length, unit, dtype=np.int64)[None, :]
        rows = np.arange(self.y + first, self.y + first + lines, dtype=np.int64)[:, None]
        return Elements(space, self.address + surface.place(columns, rows, self.z), unit, write)

    def read(self, space: Translations, length: int, lines: int, first: int = 0) -> list[memoryview]:
        """Return lines `first` on of the rectangle (MmuFault, Rejected)."""
        self.check(length, first + lines)
        if self.surface is None:
            starts = (self.address + (first + at) * self.pitch for at in range(lines))
            return [memoryview(space.read(start, length)) for start in starts]
        data = self._elements(space, length, first, lines, False).read()
        return [line.data for line in data.reshape(lines, length)]

    def write(self, gpu: Gf100, space: Translations, lines: Sequence[memoryview], first: int = 0) -> None:
        """Write lines `first` on of the rectangle (MmuFault, Rejected)."""
        length = len(lines[0]) if lines else 0
        self.check(length, first + len(lines))
        if self.surface is None:
            for line, data in enumerate(lines, first):
                space.write(self.address + line * self.pitch, data)
        elif length:
            joined = np.frombuffer(b"".join(lines), np.uint8)
            self._elements(space, length, first, len(lines), True).write(gpu, joined)


def copy_rectangle(
    gpu: Gf100, channel: Channel, source: Rectangle, target: Rectangle, length: int, lines: int
) -> None:
    """Copy `lines` lines of `length` bytes (MmuFault, Rejected)."""
    if length == 0 or lines == 0:
        return
    source.check(length, lines)
    target.check(length, lines)
    for first, count in bands(gpu, channel, length, lines):
        target.write(gpu, channel.space, source.read(channel.space, length, count, first), first)
    vram = gpu.vram
    if channel.stop is not None:
        return
    from_device = channel.space.runs(source.address, 1, False)[0][0] is vram
    to_device = channel.space.runs(target.address, 1, True)[0][0] is vram
    gpu.counters.copied(channel.number, length * lines, from_device, to_device)

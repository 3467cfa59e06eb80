"""A surface of pixels, linear or block-linear: rectangles of it are read, written and filled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpuvm.gpu.classes.method import DataError, Rejected
from gpuvm.gpu.classes.scatter import Elements
from gpuvm.gpu.classes.tiling import Surface

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

CANVAS_SIZE_MAX = 1 << 30
"""Most bytes of a surface, so that one method cannot keep the engine for long."""

BAND_PIXELS = 1 << 18
"""Pixels that are worked on at a time."""

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Canvas:
    """A surface.

    Attributes
    ----------
    address : int
        GPU virtual address.
    width, height : int
        Pixels.
    size : int
        Bytes of a pixel.
    pitch : int
        Bytes from line to line if linear.
    layout : Surface or None
        Layout, widths in bytes, if block-linear.
    layer : int
        Which layer of a block-linear one.
    """

    gpu: Gf100
    channel: Channel
    address: int
    width: int
    height: int
    size: int
    pitch: int
    layout: Surface | None
    layer: int = 0

    def check(self) -> None:
        """Refuse what no surface can be (Rejected)."""
        layout = self.layout
        if layout is None:
            fits = self.height * self.pitch <= CANVAS_SIZE_MAX
        else:
            fits = not layout.mode & 0xF and layout.size() <= CANVAS_SIZE_MAX
            fits = fits and self.layer < max(layout.depth, 1) * layout.block_depth
        if not fits or self.width > 0x10000 or self.height > 0x10000:
            raise Rejected(DataError.INVALID_VALUE)

    def places(self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the addresses of pixels (x, y), which broadcast against each other."""
        if self.layout is None:
            return self.address + y * self.pitch + x * self.size
        return self.address + self.layout.place(x * self.size, y, self.layer)

    def _elements(self, x: int, y: int, width: int, height: int, write: bool) -> Elements:
        columns, rows = np.arange(x, x + width)[None, :], np.arange(y, y + height)[:, None]
        return Elements(self.channel.space, self.places(columns, rows), self.size, write)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """Return a rectangle, uint8[height, width, size] (MmuFault)."""
        return self._elements(x, y, width, height, False).read()

    def sample(self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64]) -> Pixels:
        """Return pixels by column and row, those outside taken from the edge (MmuFault)."""
        columns, rows = np.clip(x, 0, self.width - 1), np.clip(y, 0, self.height - 1)
        return Elements(self.channel.space, self.places(columns, rows), self.size, False).read()

    def write(self, x: int, y: int, pixels: Pixels) -> None:
        """Replace a rectangle (MmuFault)."""
        height, width = pixels.shape[:2]
        self._elements(x, y, width, height, True).write(self.gpu, pixels)

    def fill(self, x: int, y: int, width: int, height: int, pixel: bytes) -> None:
        """Fill a rectangle with one value (MmuFault)."""
        value = np.frombuffer(pixel, np.uint8)
        for first, lines in bands(self.gpu, self.channel, width, height):
            self.write(x, y + first, np.broadcast_to(value, (lines, width, self.size)))

    def clip(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Return the part of a rectangle that lies in the surface, as (left, top, right, bottom)."""
        return max(x, 0), max(y, 0), min(x + width, self.width), min(y + height, self.height)


def bands(
    gpu: Gf100, channel: Channel, width: int, height: int, upwards: bool = False
) -> Iterator[tuple[int, int]]:
    """Yield (first line, lines) of the pieces in which a rectangle is worked on; ends early if the channel was
    stopped.
    """
    lines = max(1, BAND_PIXELS // max(width, 1))
    starts = range(0, height, lines)
    for first in reversed(starts) if upwards else starts:
        if channel.stop is not None or gpu.runner.closing:
            return
        yield first, min(lines, height - first)

"""Block-linear surfaces of Fermi: where the byte (x, y, z) of a surface lies.

A block is one GOB (64 bytes by 8 lines) wide and 2**h by 2**d GOBs high and deep; blocks follow each other
along x, then y, then z. Within a GOB, 16-byte sectors are swizzled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

GOB_WIDTH, GOB_HEIGHT, GOB_SIZE = 64, 8, 512


@dataclass(frozen=True, slots=True)
class Surface:
    """Layout of a block-linear surface.

    Attributes
    ----------
    mode : int
        Block dimensions: log2 of GOBs high in bits 4-7, deep in bits 8-11 (width is one GOB).
    width, height, depth : int
        Bytes, lines, layers.
    """

    mode: int
    width: int
    height: int
    depth: int

    @property
    def block_height(self) -> int:
        """Lines of a block."""
        return GOB_HEIGHT << (self.mode >> 4 & 0xF)

    @property
    def block_depth(self) -> int:
        return 1 << (self.mode >> 8 & 0xF)

    @property
    def row_size(self) -> int:
        """Bytes of one row of blocks."""
        across = -(-self.width // GOB_WIDTH)
        return across * GOB_WIDTH * self.block_height * self.block_depth

    def size(self) -> int:
        """Bytes that the whole surface takes."""
        layers = -(-max(self.depth, 1) // self.block_depth)
        return self.row_size * -(-self.height // self.block_height) * layers

    def offsets(self, x: int, length: int, y: int, z: int) -> npt.NDArray[np.int64]:
        """Offsets of the bytes x to x + length - 1 of line y in layer z, int64[length]."""
        return self.place(np.arange(x, x + length, dtype=np.int64), np.int64(y), z)

    def place(
        self, x: npt.NDArray[np.int64], y: npt.NDArray[np.int64] | np.int64, z: int
    ) -> npt.NDArray[np.int64]:
        """Offsets of bytes x of lines y in layer z; x and y broadcast against each other."""
        height, depth = self.block_height, self.block_depth
        rows = -(-self.height // height)
        block = (z // depth) * rows * self.row_size + (y // height) * self.row_size
        inside = y % height
        line = inside % GOB_HEIGHT
        base = block + (z % depth) * height * GOB_WIDTH + (inside // GOB_HEIGHT) * GOB_SIZE
        base = base + (line >> 1) * 64 + (line & 1) * 16
        across = (x >> 6) * (GOB_WIDTH * height * depth)
        within = (x >> 5 & 1) * 256 + (x >> 4 & 1) * 32 + (x & 15)
        result: npt.NDArray[np.int64] = base + (across + within)
        return result

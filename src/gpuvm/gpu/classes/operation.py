"""How the 2D engine combines what it draws with what is there: copy, raster operation with a pattern, blending,
colour key.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from gpuvm.gpu.classes.canvas import Pixels
from gpuvm.gpu.classes.formats import FORMATS, Colours, Format
from gpuvm.gpu.classes.method import DataError, Rejected

SRCCOPY_AND, ROP_AND, BLEND, SRCCOPY, ROP, SRCCOPY_PREMULT, BLEND_PREMULT = range(7)

PATTERN_8X8, PATTERN_64X1, PATTERN_1X64, PATTERN_COLOUR = range(4)

_PATTERN_FORMATS = {0: 0xE8, 1: 0xE9, 2: 0xCF, 3: 0xF3}
_KEY_BITS = {0: 0xFFFF, 1: 0x7FFF, 2: 0xFFFFFF, 3: 0x3FFFFFFF, 4: 0xFF, 5: 0xFFFF, 6: 0xFFFFFFFF}


class Operation:
    """The operation that a 2D object's state asks for, on a surface of format `kind`."""

    def __init__(self, state: array[int], kind: Format) -> None:
        self._state = state
        self._kind = kind
        self._number = state[0x2AC >> 2]
        if self._number > BLEND_PREMULT:
            raise Rejected(DataError.INVALID_ENUM)
        self.plain = self._number == SRCCOPY
        """Whether the source simply replaces what is there."""

    def convert(self, pixels: Pixels, source: Format) -> Pixels:
        """Return pixels of another format in the surface's."""
        if source.number == self._kind.number or (
            source.components == self._kind.components and (source.kind == self._kind.kind)
        ):
            return pixels
        return self._kind.pack(source.unpack(pixels))

    def key(self, pixels: Pixels, source: Format) -> npt.NDArray[np.bool_] | None:
        """Return which source pixels are not of the key's colour; None if there is no key."""
        state = self._state
        if not state[0x29C >> 2] & 1:
            return None
        bits = _KEY_BITS.get(state[0x294 >> 2])
        if bits is None:
            raise Rejected(DataError.INVALID_ENUM)
        words = np.zeros((*pixels.shape[:-1], 4), np.uint8)
        words[..., : min(4, source.size)] = pixels[..., :4]
        kept: npt.NDArray[np.bool_] = (words.view(np.uint32)[..., 0] & bits) != state[0x298 >> 2] & bits
        return kept

    def combine(self, old: Pixels, pixels: Pixels, source: Format, x: int, y: int) -> Pixels:
        """Return what is there after the operation; `old` is what was, (x, y) where it lies."""
        number = self._number
        if number in (SRCCOPY, ROP, ROP_AND):
            new = self.convert(pixels, source)
            if number == SRCCOPY:
                return new
            new = self._rop(old, new, x, y)
            return new if number == ROP else self._where_alpha(self._kind.unpack(new), new, old)
        colours = source.unpack(pixels)
        if number == SRCCOPY_AND:
            return self._where_alpha(colours, self.convert(pixels, source), old)
        if number == SRCCOPY_PREMULT:
            return self._kind.pack(colours * self._beta4())
        under = self._kind.unpack(old)
        if number == BLEND:
            beta = (self._state[0x2A4 >> 2] >> 23 & 0xFF) / 255
            share = colours[..., 3:] * beta
            return self._kind.pack((1 - share) * under + colours * share)
        return self._kind.pack((1 - colours[..., 3:] * self._beta4()[3]) * under + colours * self._beta4())

    def _beta4(self) -> Colours:
        word = self._state[0x2A8 >> 2]
        return np.array([word >> 16 & 0xFF, word >> 8 & 0xFF, word & 0xFF, word >> 24]) / 255

    @staticmethod
    def _where_alpha(colours: Colours, new: Pixels, old: Pixels) -> Pixels:
        return np.where(colours[..., 3:] != 0, new, old)

    # Raster operations

    def _rop(self, old: Pixels, new: Pixels, x: int, y: int) -> Pixels:
        """Apply the truth table: bit 0 of the index is what is there, bit 1 the source, bit 2 the pattern."""
        table = self._state[0x2A0 >> 2] & 0xFF
        pattern = self._pattern(x, y, new.shape[0], new.shape[1]) if table >> 4 != table & 0xF else new
        result = np.zeros_like(old)
        for index in range(8):
            if table >> index & 1:
                term = old if index & 1 else ~old
                term = term & (new if index & 2 else ~new)
                result |= term & (pattern if index & 4 else ~pattern)
        return result

    def _pattern(self, x: int, y: int, height: int, width: int) -> Pixels:
        """Return the pattern under a rectangle, in the surface's format."""
        state = self._state
        kind = FORMATS.get(_PATTERN_FORMATS.get(state[0x2E8 >> 2], -1))
        if kind is None:
            raise Rejected(DataError.INVALID_ENUM)
        offset, select = state[0x2B0 >> 2], state[0x2B4 >> 2]
        columns = (np.arange(x, x + width) + (offset & 0x3F))[None, :]
        rows = (np.arange(y, y + height) + (offset >> 8 & 0x3F))[:, None]
        if select == PATTERN_COLOUR:
            tile = self._colour_tile(kind)
            return self.convert(tile[rows % 8, columns % 8], kind)
        bitmap = state[0x2F8 >> 2].to_bytes(4, "little") + state[0x2FC >> 2].to_bytes(4, "little")
        order = "little" if state[0x2EC >> 2] & 1 else "big"
        bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder=order)  # type: ignore[call-overload]
        if select == PATTERN_8X8:
            chosen = bits[rows % 8 * 8 + columns % 8]
        elif select in (PATTERN_64X1, PATTERN_1X64):
            along = columns if select == PATTERN_64X1 else rows
            chosen = np.broadcast_to(bits[along % 64], (height, width))
        else:
            raise Rejected(DataError.INVALID_ENUM)
        pair = np.array([list(state[at >> 2].to_bytes(4, "little")) for at in (0x2F0, 0x2F4)], np.uint8)
        return self.convert(pair[chosen.astype(np.intp)][..., : kind.size], kind)

    def _colour_tile(self, kind: Format) -> Pixels:
        """The 8 x 8 pattern of colours, from the methods of its format."""
        start = {4: 0x300, 2: 0x480 if kind.number == 0xE9 else 0x400, 1: 0x500}[kind.size]
        words = self._state[start >> 2 : (start >> 2) + 16 * kind.size]
        return np.frombuffer(words.tobytes(), np.uint8).reshape(8, 8, kind.size)

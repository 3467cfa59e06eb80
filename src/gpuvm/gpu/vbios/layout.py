"""Places the pieces of a ROM image and resolves the pointers between them.

An image is a PCI expansion ROM (PCI Firmware Specification 3.0): signature, a pointer to the PCIR structure,
and bytes that sum to 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

ROM_SIGNATURE = 0xAA55
PCIR_POINTER_AT, PCIR_LENGTH = 0x18, 0x18
PCIR_LAST_IMAGE = 0x80
BLOCK = 512


class LayoutError(Exception):
    """The pieces of an image do not fit together."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """Where another piece starts, `size` bytes wide (2 or 4), little-endian; `label` empty gives 0."""

    label: str
    size: int = 2


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes; pointers in it are resolved once all pieces are placed."""

    parts: tuple[bytes | Pointer, ...]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(part.size if isinstance(part, Pointer) else len(part) for part in self.parts)

    def resolve(self, labels: dict[str, int]) -> bytes:
        """Return the bytes, pointers filled in from `labels`.

        Raises
        ------
        LayoutError
            If a pointer names a label that no piece has, or does not reach it.
        """
        result = b""
        for part in self.parts:
            if isinstance(part, bytes):
                result += part
                continue
            if part.label and part.label not in labels:
                raise LayoutError(f"a pointer must name a piece of the image, got {part.label!r}")
            target = labels[part.label] if part.label else 0
            if target >> 8 * part.size:
                raise LayoutError(f"{part.label} must lie below 1 << {8 * part.size}, it is at {target:#x}")
            result += target.to_bytes(part.size, "little")
        return result


class Image:
    """A ROM image under construction.

    Parameters
    ----------
    size : int
        Bytes, a multiple of 512.
    """

    def __init__(self, size: int) -> None:
        if size % BLOCK or not 0 < size <= 255 * BLOCK:
            raise LayoutError(f"an image must have 1 to 255 blocks of {BLOCK} bytes, got {size} bytes")
        self.size = size
        self._labels: dict[str, int] = {}
        self._pieces: list[tuple[int, Piece]] = []
        self._end = 0

    def put(self, label: str, piece: Piece, at: int | None = None, align: int = 4) -> None:
        """Place `piece`: at byte `at`, or behind all others at the next multiple of `align`.

        Raises
        ------
        LayoutError
            If it overlaps what was placed before, or the label is taken.
        """
        start = -(-self._end // align) * align if at is None else at
        if start < self._end:
            raise LayoutError(
                f"{label} must lie behind {self._end:#x}, where the last piece ends, got {start:#x}"
            )
        if start + piece.size > self.size - 1:
            raise LayoutError(
                f"{label} must end below {self.size - 1:#x}, it ends at {start + piece.size:#x}"
            )
        if label in self._labels:
            raise LayoutError(f"labels must differ, got {label} twice")
        self._labels[label] = start
        self._pieces.append((start, piece))
        self._end = start + piece.size

    def finish(self) -> bytes:
        """Return the image, its last byte such that all sum to 0."""
        image = bytearray(self.size)
        for start, piece in self._pieces:
            image[start : start + piece.size] = piece.resolve(self._labels)
        image[-1] = -sum(image[:-1]) & 0xFF
        return bytes(image)


def header(size: int) -> Piece:
    """Return the first bytes of a ROM, up to the PCIR pointer."""
    start = struct.pack("<HB", ROM_SIGNATURE, size // BLOCK)
    return Piece((start.ljust(PCIR_POINTER_AT, b"\0"), Pointer("PCIR")))


def pcir(vendor: int, device: int, class_code: int, size: int) -> Piece:
    """Return the PCIR structure of the only image of a ROM, code type 0."""
    fields = struct.pack(
        "<4sHHHHB3s", b"PCIR", vendor, device, 0, PCIR_LENGTH, 0, class_code.to_bytes(3, "little")
    )
    return Piece((fields + struct.pack("<HHBBH", size // BLOCK, 0, 0, PCIR_LAST_IMAGE, 0),))

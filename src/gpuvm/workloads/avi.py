"""Reader of uncompressed 8-bit AVI files, the form of Rodinia's heart wall video."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gpuvm.workloads.base import Array, WorkloadError
from gpuvm.workloads.data import load

GRAY_BITS = 8


def read_frames(path: Path, limit: int) -> Array:
    """The first `limit` frames, top row first, shape (frames, rows, columns), float32 of 0 to 255.

    Raises
    ------
    WorkloadError
        Not an AVI file, compressed, not 8 bits a pixel, or without frames.
    """
    content = load(path)
    if len(content) < 12 or content[:4] != b"RIFF" or content[8:12] != b"AVI ":
        raise WorkloadError(f"{path} must be an AVI file (RIFF form 'AVI '), but opens with {content[:12]!r}")
    columns = rows = 0
    upside_down = True
    images: list[Array] = []
    for kind, body in _chunks(content, 12, len(content)):
        if kind == b"strf" and not columns and len(body) >= 20:
            columns, height, _, bits, compression = struct.unpack_from("<iiHHI", body, 4)
            upside_down, rows = height > 0, abs(height)
            if compression or bits != GRAY_BITS or columns < 1 or rows < 1:
                raise WorkloadError(
                    f"{path} must hold uncompressed images of {GRAY_BITS} bits a pixel, but has {bits} bits, "
                    f"compression {compression:#x} and {columns} x {rows} pixels"
                )
        elif kind[2:] in (b"db", b"dc") and len(images) < limit and body:
            images.append(_image(body, rows, columns, upside_down, path))
    if not images:
        raise WorkloadError(f"{path} must hold at least one frame, but has none")
    return np.stack(images)


def _image(body: bytes, rows: int, columns: int, upside_down: bool, path: Path) -> Array:
    # Rows are whole words by the format; Rodinia's own writer does not fill them up.
    for stride in (columns, (columns + 3) & ~3):
        if rows and len(body) == rows * stride:
            image = np.frombuffer(body, np.uint8).reshape(rows, stride)[:, :columns]
            return (image[::-1] if upside_down else image).astype(np.float32)
    raise WorkloadError(f"every frame of {path} must hold {columns} x {rows} bytes, but one has {len(body)}")


def _chunks(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """All chunks between two offsets, those inside lists too, in file order, to the end or the cut."""
    pending = [(start, end)]
    while pending:
        at, end = pending.pop()
        while at + 8 <= end:
            kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
            after = at + 8 + size + (size & 1)
            if kind == b"LIST":
                pending.append((after, end))
                at, end = at + 12, min(at + 8 + size, end)
                continue
            yield kind, content[at + 8 : min(at + 8 + size, end)]
            at = after

"""Readers of Rodinia's input formats; a file that is not what it must be is a `WorkloadError`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from gpuvm.workloads.base import Array, WorkloadError

RECORD = 49
"""Bytes of one record of a hurricane file, line end included."""
GRAY_MAP = re.compile(rb"(P[25])" + 3 * rb"\s+(?:#[^\n]*\n\s*)*(\d+)" + rb"\s")
"""Header of a portable gray map: kind, columns, rows, deepest value, with comments between."""
LATITUDE = slice(27, 32)
LONGITUDE = slice(33, 38)


def load(path: Path) -> bytes:
    """The bytes of a file."""
    try:
        return path.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkloadError(f"the input file {path} must be readable, but: {reason}") from None


def numbers(text: bytes, path: Path) -> Array:
    """All numbers of a text as float64; refuses infinities and NaN."""
    try:
        values = np.array(text.split(), dtype=np.float64)
    except ValueError as error:
        raise WorkloadError(f"{path} must hold numbers only, but: {error}") from None
    if not np.isfinite(values).all():
        raise WorkloadError(f"{path} must hold finite numbers only")
    return values


def integers(text: bytes, path: Path) -> Array:
    """All numbers of a text as int64; refuses fractions."""
    values = numbers(text, path)
    if np.any(values != np.rint(values)) or np.any(np.abs(values) > 1 << 53):
        raise WorkloadError(f"{path} must hold whole numbers only")
    return values.astype(np.int64)


def grid(path: Path, n: int) -> Array:
    """An n x n grid of floats, one a line, row after row."""
    values = numbers(load(path), path)
    if values.size != n * n:
        raise WorkloadError(f"{path} must hold {n} x {n} = {n * n} numbers, but holds {values.size}")
    return values.astype(np.float32).reshape(n, n)


def matrix(path: Path) -> Array:
    """A square matrix of floats: its size, then its rows."""
    values = numbers(load(path), path)
    n = int(values[0]) if values.size else 0
    if n < 1 or values.size != 1 + n * n:
        raise WorkloadError(f"{path} must hold a size n and n x n numbers, but holds {values.size} numbers")
    return values[1:].astype(np.float32).reshape(n, n)


def records(path: Path) -> Array:
    """Latitude and longitude of each record of a hurricane file, shape (records, 2), float32."""
    content = load(path)
    if not content or len(content) % RECORD:
        raise WorkloadError(f"{path} must hold records of {RECORD} bytes, but has {len(content)} bytes")
    table = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if np.any(table[:, -1] != ord("\n")):
        raise WorkloadError(f"every record of {path} must end in a line end as its {RECORD}th byte")
    columns = []
    for part in (LATITUDE, LONGITUDE):
        width = part.stop - part.start
        field = np.ascontiguousarray(table[:, part]).view(f"S{width}").reshape(-1)
        try:
            columns.append(np.char.strip(field).astype(np.float32))
        except ValueError as error:
            raise WorkloadError(
                f"{path} must hold numbers in columns {part.start} to {part.stop - 1}, but: {error}"
            ) from None
    return np.stack(columns, axis=1)


def image(path: Path) -> Array:
    """A portable gray map (plain or raw), shape (rows, columns), float32."""
    content = load(path)
    header = GRAY_MAP.match(content)
    if header is None:
        raise WorkloadError(f"{path} must be a portable gray map (P2 or P5), but its header is not one")
    kind, columns, rows, deepest = header[1], int(header[2]), int(header[3]), int(header[4])
    if kind == b"P2":
        values = integers(content[header.end() :], path)
    else:
        values = np.frombuffer(content[header.end() :], np.uint8 if deepest < 256 else ">u2")
    if rows * columns == 0 or values.size != rows * columns:
        raise WorkloadError(f"{path} must hold {columns} x {rows} pixels, but holds {values.size}")
    return values.astype(np.float32).reshape(rows, columns)


def graph(path: Path) -> tuple[Array, Array, int]:
    """A graph: nodes (first edge, edge count) of shape (nodes, 2), edge targets, and the source."""
    values = integers(load(path), path)
    count = int(values[0]) if values.size else 0
    head = 1 + 2 * count
    if count < 1 or values.size < head + 2:
        raise WorkloadError(f"{path} must hold a node count, a pair per node, a source and an edge count")
    nodes = values[1:head].reshape(count, 2)
    source, edge_count = int(values[head]), int(values[head + 1])
    rest = values[head + 2 :]
    if rest.size != 2 * edge_count:
        raise WorkloadError(
            f"{path} must hold {edge_count} edges (target, weight), but holds {rest.size / 2:g}"
        )
    targets = rest[::2]
    ends = nodes[:, 0] + nodes[:, 1]
    if not 0 <= source < count or nodes.min() < 0 or ends.max() > edge_count:
        raise WorkloadError(f"{path} must name a source and edges that exist, but does not")
    if edge_count and not (targets.min() >= 0 and targets.max() < count):
        raise WorkloadError(f"the edges of {path} must end at nodes 0 to {count - 1}, but one does not")
    return nodes.astype(np.int32), targets.astype(np.int32), source

"""Translations on disk: object code and what the executor must know of it, found by content.

An entry is used only if it is whole (its digest matches) and its code bytes equal those in GPU memory. Files
are
written beside their place and renamed, so processes can share a directory; the oldest go when it grows too
large.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvm import directories

MAGIC = b"gpuvmjit"
VERSION = 1
LIMIT = 256 << 20
"""Bytes that a directory may hold."""
_HEADER = struct.Struct("<8sII32s")


def default_directory() -> Path:
    """$GPUVM_CACHE_DIR/jit, or gpuvm/jit in the user's cache directory."""
    return directories.cache("jit")


@dataclass
class Entry:
    """One stored translation: JSON-able facts, raw attachments (code bytes) and object code."""

    facts: dict[str, Any]
    parts: list[bytes] = field(default_factory=list)

    def pack(self) -> bytes:
        head = json.dumps({"facts": self.facts, "sizes": [len(part) for part in self.parts]}).encode()
        body = head + b"".join(self.parts)
        return _HEADER.pack(MAGIC, VERSION, len(head), hashlib.sha256(body).digest()) + body

    @staticmethod
    def unpack(raw: bytes) -> Entry | None:
        """None if the bytes are not a whole entry."""
        if len(raw) < _HEADER.size:
            return None
        magic, version, size, digest = _HEADER.unpack_from(raw)
        body = raw[_HEADER.size :]
        if magic != MAGIC or version != VERSION or hashlib.sha256(body).digest() != digest:
            return None
        head = json.loads(body[:size])
        parts: list[bytes] = []
        at = size
        for length in head["sizes"]:
            parts.append(body[at : at + length])
            at += length
        return Entry(head["facts"], parts)


class DiskCache:
    """Entries by key; several entries may share a key (kernels that begin alike).

    Parameters
    ----------
    directory : Path, optional
        None: the default one. A directory that cannot be written is a cache that never holds anything.
    """

    def __init__(self, directory: Path | str | None = None, limit: int = LIMIT) -> None:
        self.directory = Path(directory) if directory is not None else default_directory()
        self.limit = limit
        self._writes = 0

    @staticmethod
    def key(*parts: object) -> str:
        """A name for what an entry depends on."""
        return hashlib.sha256("\n".join(repr(part) for part in parts).encode()).hexdigest()[:40]

    def find(self, key: str) -> Iterator[Entry]:
        """Whole entries under a key."""
        folder = self.directory / key[:2]
        try:
            names = [name for name in os.listdir(folder) if name.startswith(key)]
        except OSError:
            return
        for name in names:
            path = folder / name
            try:
                raw = path.read_bytes()
                os.utime(path)
            except OSError:
                continue
            entry = Entry.unpack(raw)
            if entry is not None:
                yield entry
            else:
                with contextlib.suppress(OSError):
                    path.unlink()

    def put(self, key: str, entry: Entry) -> None:
        """Store an entry; failing to is no error."""
        raw = entry.pack()
        name = f"{key}-{hashlib.sha256(raw).hexdigest()[:16]}"
        folder = self.directory / key[:2]
        temporary: str | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
            with os.fdopen(handle, "wb") as out:
                out.write(raw)
            os.replace(temporary, folder / name)
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            return
        self._writes += 1
        if self._writes % 32 == 1:
            self.trim()

    def trim(self) -> None:
        """Take the least recently used entries away until the directory fits its limit."""
        files: list[tuple[float, int, Path]] = []
        for path in self.directory.glob("*/*"):
            with contextlib.suppress(OSError):
                stat = path.stat()
                files.append((stat.st_mtime, stat.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda item: item[0]):
            if total <= self.limit:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size

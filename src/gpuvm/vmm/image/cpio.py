"""Writer of initial RAM file systems: cpio archives in the "newc" format that the Linux kernel unpacks.

The same files give the same bytes: owner root, no times, entries in the order of their names.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import IO

_MAGIC = "070701"
_TRAILER = "TRAILER!!!"


class Cpio:
    """Files for an initial RAM file system, gathered in memory and then written in order.

    Parent folders come by themselves.
    """

    def __init__(self) -> None:
        self._entries: dict[str, tuple[int, bytes, tuple[int, int]]] = {}

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def files(self) -> Iterator[tuple[str, bytes, int]]:
        """Regular files and symbolic links: path, contents or target, mode with its type bits."""
        for path, (mode, data, _) in sorted(self._entries.items()):
            if stat.S_ISREG(mode) or stat.S_ISLNK(mode):
                yield path, data, mode

    def remove(self, path: str) -> None:
        """Take a file out again."""
        del self._entries[path.strip("/")]

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """A character device."""
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def _add(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        path = path.strip("/")
        parent = path.rpartition("/")[0]
        if parent and parent not in self._entries:
            self.folder(parent)
        self._entries[path] = (mode, data, device)

    def write(self, out: IO[bytes]) -> None:
        """Write the archive."""
        for number, path in enumerate(sorted(self._entries), 1):
            mode, data, device = self._entries[path]
            _entry(out, path, number, mode, data, device)
        _entry(out, _TRAILER, 0, 0, b"", (0, 0))


def _entry(out: IO[bytes], path: str, number: int, mode: int, data: bytes, device: tuple[int, int]) -> None:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (2), device of a special file (2), name's size, checksum
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
    head = (_MAGIC + "".join(f"{field:08X}" for field in fields)).encode() + name
    out.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))

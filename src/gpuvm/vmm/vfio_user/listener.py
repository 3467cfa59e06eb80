"""A listening Unix socket at a path: a stale one is replaced, a live one is refused, ours is removed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

_PROBE_S = 1.0


class Listener:
    """Listen at `path`, mode 0600.

    Attributes
    ----------
    socket : socket.socket
        Listens.

    Raises
    ------
    OSError
        EADDRINUSE if somebody listens there, EEXIST if the path is no socket, or why it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Nobody else takes a stale socket away between our look and our bind.
            with _locked(path.parent):
                _remove_stale(path)
                before = os.umask(0o177)
                try:
                    self.socket.bind(os.fspath(path))
                finally:
                    os.umask(before)
                self.socket.listen()
            self._inode = path.stat().st_ino
        except OSError:
            self.socket.close()
            raise

    def shut_down(self) -> None:
        """Let `accept` in other threads fail."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening; remove the socket unless it is another's by now."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(errno.EEXIST, "the path of a socket must be free or a socket", str(path))
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another server listens on this socket", str(path))

"""Output of programs that run at the same time in one process: whole lines with their machine's name."""

from __future__ import annotations

import io
import threading
from typing import TextIO


class Prefixed(io.TextIOBase):
    """A text stream that forwards whole lines to `target`, each after `prefix`."""

    def __init__(self, target: TextIO, prefix: str, lock: threading.Lock) -> None:
        self._target = target
        self._prefix = prefix
        self._lock = lock
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._rest = (self._rest + text).split("\n")
            for line in lines:
                self._target.write(f"{self._prefix}{line}\n")
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def finish(self) -> None:
        """Write out a last line that has no newline."""
        if self._rest:
            self.write("\n")


class ByThread(io.TextIOBase):
    """A text stream that is another one on each thread: the one that `routes` names, else `default`.

    Threads that a program starts belong to its machine: `threading.Thread.start` hands the route on.
    """

    def __init__(self, default: TextIO) -> None:
        self.default = default
        self.routes: dict[int, TextIO] = {}

    def _stream(self) -> TextIO:
        return self.routes.get(threading.get_ident(), self.default)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

    def isatty(self) -> bool:
        return self.default.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.default.encoding

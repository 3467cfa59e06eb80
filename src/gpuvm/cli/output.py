"""Output of programs that run at the same time in one process: whole lines with their machine's name."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from typing import TextIO


class Prefixed(io.TextIOBase):
    """A text stream that forwards whole lines to `target`, each after `prefix`.

    Parameters
    ----------
    lock : Lock
        Shared by all streams that forward to the same place.
    """

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


class Divided(io.TextIOBase):
    """A text stream that is another one for each machine.

    Parameters
    ----------
    default : TextIO
        For threads that belong to no machine.
    streams : mapping
        By name of the machine.
    here : callable
        Returns the name of the machine that the calling thread belongs to, None if it belongs to none.
    """

    def __init__(
        self, default: TextIO, streams: Mapping[str, TextIO | Prefixed], here: Callable[[], str | None]
    ) -> None:
        self._default = default
        self._streams = streams
        self._here = here

    def _stream(self) -> TextIO | Prefixed:
        name = self._here()
        return self._default if name is None else self._streams.get(name, self._default)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return self._stream().write(text)

    def flush(self) -> None:
        self._stream().flush()

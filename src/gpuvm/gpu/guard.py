"""The lock on the registers, with what has to be told to the machine once it is free."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Guard:
    """A re-entrant lock; once its last holder let go and `dirty` was set, calls are collected and made.

    Parameters
    ----------
    collect : callable
        Returns the calls to make; called with the lock held.
    """

    def __init__(self, collect: Callable[[], tuple[Callable[[], None], ...]]) -> None:
        self.dirty = False
        self._lock = threading.RLock()
        self._depth = 0
        self._collect = collect

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self.dirty and not self._depth:
            self.dirty = False
            calls = self._collect()
            self._lock.release()
            for call in calls:
                call()
        else:
            self._lock.release()

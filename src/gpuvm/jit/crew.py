"""Threads that run one launch and can be parked in the middle of its thread blocks."""

from __future__ import annotations

import threading
import weakref

import numpy as np

from gpuvm.jit.fault import (
    POOL_DEADLINE,
    POOL_QUIT,
    POOL_SIZE,
    POOL_WORKERS,
    runtime,
)


def serve(pool: int, index: int, memory: object) -> None:
    """Be worker `index` of a pool, whose memory is kept for as long as this thread looks at it."""
    runtime().worker(pool, index)


def leave(pool: int, memory: object) -> None:
    """End a pool's workers: what an owner that nobody closed does when it is dropped. Harmless when they ended
    before.
    """
    runtime().pool_quit(pool)


class Crew:
    """A pool of native threads beside the caller's. Each launch that is parked keeps its own.

    Parameters
    ----------
    threads : int
        How many, at least 1.
    """

    def __init__(self, threads: int) -> None:
        self._runtime = runtime()
        raw = np.zeros(POOL_SIZE + 64, np.uint8)
        skip = -raw.ctypes.data % 64
        self._raw = raw
        self._words = raw[skip : skip + POOL_SIZE].view(np.int64)
        self.address = int(self._words.ctypes.data)
        self._words.view(np.int32)[POOL_WORKERS // 4] = threads
        self._threads = [
            threading.Thread(
                target=serve,
                args=(self.address, index, raw),
                name=f"gpuvm-crew-{index}",
                daemon=True,
            )
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        weakref.finalize(self, leave, self.address, raw)

    def run(self, job: int, wanted: int) -> bool:
        """Run the job at an address, or go on with the one that is parked; True if it is parked (again)."""
        return bool(self._runtime.crew(self.address, job, wanted))

    def set_deadline(self, when: int) -> None:
        """Park the job that runs at this time (`time.monotonic_ns`); 0 for never."""
        if self._words[POOL_DEADLINE // 8] != when:
            self._words[POOL_DEADLINE // 8] = when
            self.nudge()

    def nudge(self) -> None:
        """Have the caller of `run` look at the stop word and the deadline again."""
        self._runtime.nudge(self.address)

    def wake(self, word: int) -> None:
        """Have the threads that are parked on a stop word, at this address, look at it again."""
        self._runtime.wake(word)

    def close(self) -> None:
        """End the threads; no job may be parked."""
        assert not self._words.view(np.int32)[POOL_QUIT // 4]
        self._runtime.pool_quit(self.address)
        for thread in self._threads:
            thread.join()

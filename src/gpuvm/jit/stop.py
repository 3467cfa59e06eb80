"""How a running launch is asked to stop, from any thread."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from gpuvm.jit import layout as at
from gpuvm.jit.crew import Crew


class StopFlag:
    """Asks a running launch to stop, from any thread.

    `preempt` lets the blocks that run end; `kill` stops at the next loop back-edge too (the launch cannot be
    resumed). `park` is between them: a thread leaves at the end of its block or waits at its next loop
    back-edge, whichever comes first, and the launch can go on from there.

    Parameters
    ----------
    parkable : bool
        Whether the launch may run on threads that can be parked, which costs a short launch a few
        microseconds.
    """

    def __init__(self, parkable: bool = False) -> None:
        self.word: npt.NDArray[np.int32] = np.zeros(1, np.int32)
        self.parkable = parkable
        self._crew: Crew | None = None
        self._deadline = 0
        self._lock = threading.Lock()

    def preempt(self) -> None:
        with self._lock:
            if self.word[0] == at.STOP_NONE:
                self.word[0] = at.STOP_BLOCK
                self._tell()

    def park(self) -> None:
        """Switch the launch out as soon as its threads come to a block's end or a loop's."""
        with self._lock:
            if self.word[0] == at.STOP_NONE:
                self.word[0] = at.STOP_BLOCK if self._crew is None else at.STOP_PARK
                self._tell()

    def kill(self) -> None:
        with self._lock:
            self.word[0] = at.STOP_NOW
            self._tell()

    def clear(self) -> None:
        """Let a launch that was switched out go on; a kill stays."""
        with self._lock:
            if self.word[0] != at.STOP_NOW:
                self.word[0] = at.STOP_NONE

    @property
    def requested(self) -> bool:
        return bool(self.word[0])

    @property
    def killed(self) -> bool:
        return int(self.word[0]) == at.STOP_NOW

    @property
    def deadline(self) -> int:
        """When the launch is parked by itself, in nanoseconds of `time.monotonic_ns`; 0 if never."""
        return self._deadline

    @deadline.setter
    def deadline(self, when: int) -> None:
        with self._lock:
            self._deadline = when
            if self._crew is not None:
                self._crew.set_deadline(when)

    # For the executor

    def attach(self, crew: Crew) -> None:
        """The launch runs on a crew now: requests must wake who waits for it."""
        with self._lock:
            self._crew = crew
            crew.set_deadline(self._deadline)
            if self.word[0] == at.STOP_BLOCK:
                self.word[0] = at.STOP_PARK

    def detach(self) -> None:
        with self._lock:
            self._crew = None

    def _tell(self) -> None:
        if self._crew is not None:
            self._crew.nudge()
            # Threads that stand at a back-edge sleep on the word itself.
            self._crew.wake(self.word.ctypes.data)

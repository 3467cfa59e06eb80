"""The live dispatcher: doorbells of all VMs go in, a scheduling policy says whose is next, and it reaches
the GPU.

One thread. It rings the real doorbell, waits for the GPU to say that the channel is idle, and charges the VM
with the time between. A policy that is `concurrent` needs no thread: its commands go straight through.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from gpuvm.hypervisor.counters import Counters
from gpuvm.schedulers.policy import Command, Scheduler

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 64
"""Commands of one channel that wait apart; a later doorbell then replaces the value of the last (it only
moves GP_PUT on)."""

POLL_S = 0.004
"""How often the dispatcher looks at the GPU itself while no completion event comes."""

IDLE_POLLS = 2
"""Looks in a row that must find the GPU idle: a channel that waits for another's semaphore never becomes so
by event."""


@dataclass(slots=True)
class Doorbell:
    """A write of GP_PUT that waits for its turn."""

    channel: int
    """Physical channel."""
    value: int
    counters: Counters
    done: Callable[[], None] | None = None
    """Called when the turn is over, without any lock held."""
    cancelled: bool = False


class Dispatcher:
    """Drives a scheduler by the wall clock.

    Parameters
    ----------
    ring : callable
        `ring(channel, value)` writes the physical doorbell.
    consumed : callable
        `consumed(channel, value)` says whether the GPU is idle and has fetched all up to GP_PUT `value`: a
        doorbell that brings nothing new is over at once, and no event will come for it.
    busy : callable
        `busy(channel)` says whether the GPU still works on a channel; asked only when no event came for a
        while.
    """

    def __init__(
        self,
        scheduler: Scheduler[Doorbell],
        ring: Callable[[int, int], None],
        consumed: Callable[[int, int], bool],
        busy: Callable[[int], bool],
    ) -> None:
        self.scheduler = scheduler
        self._ring = ring
        self._consumed = consumed
        self._busy = busy
        self._wake = threading.Condition()
        self._ringing = threading.Lock()
        """Held while a doorbell is rung, so that one which is cancelled meanwhile is not; taken before
        `_wake`."""
        self._pending: dict[int, deque[Command[Doorbell]]] = {}
        self._last: dict[int, int] = {}
        """Channel -> value that was rung last."""
        self._active: Command[Doorbell] | None = None
        self._done = False
        self._closed = False
        self._thread: threading.Thread | None = None
        if not scheduler.concurrent:
            self._thread = threading.Thread(target=self._run, name="gpuvm-dispatcher", daemon=True)
            self._thread.start()

    def add(self, vm: int, weight: int, cap: float | None = None) -> None:
        """Let a VM submit."""
        with self._wake:
            self.scheduler.add(vm, weight, cap)

    def remove(self, vm: int) -> None:
        """Forget a VM and what it has queued."""
        with self._wake:
            for command in self.scheduler.remove(vm):
                self._forget(command)
            self._wake.notify_all()

    def submit(
        self,
        vm: int,
        channel: int,
        value: int,
        counters: Counters,
        done: Callable[[], None] | None = None,
    ) -> None:
        """Queue a doorbell of a VM that was added; dropped if it is gone.

        Parameters
        ----------
        done : callable, optional
            Called when its turn is over; not by a policy that is `concurrent`, under which it has none.
        """
        if self.scheduler.concurrent:
            self._ring(channel, value)
            counters.commands_completed += 1
            return
        with self._wake:
            if vm not in self.scheduler.shares:
                return
            queue = self._pending.setdefault(channel, deque())
            if len(queue) >= QUEUE_LIMIT:
                queue[-1].payload.value = value
                return
            command = Command(vm, Doorbell(channel, value, counters, done))
            queue.append(command)
            self.scheduler.enqueue(time.monotonic_ns(), command)
            self._wake.notify_all()

    def cancel(self, channel: int) -> None:
        """Drop what a physical channel has queued: it was stopped or killed. None of it is rung after this
        returns."""
        with self._ringing, self._wake:
            for command in self._pending.get(channel, ()):
                command.payload.cancelled = True
            if self._active is not None and self._active.payload.channel == channel:
                self._active.payload.cancelled = True
            self._finish(channel)

    def idle(self, channel: int) -> None:
        """The GPU says that a channel has run all that was submitted to it."""
        with self._wake:
            self._finish(channel)

    def holds(self, channel: int) -> bool:
        """Whether a command of a physical channel waits or runs."""
        with self._wake:
            return channel in self._pending or self.active_channel == channel

    @property
    def active_channel(self) -> int | None:
        """The physical channel whose command runs now."""
        active = self._active
        return None if active is None else active.payload.channel

    def close(self) -> None:
        """Stop the thread; what is queued is dropped."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _finish(self, channel: int) -> None:
        if self._active is not None and self._active.payload.channel == channel:
            self._done = True
            self._wake.notify_all()

    def _forget(self, command: Command[Any]) -> None:
        channel = command.payload.channel
        queue = self._pending.get(channel)
        if queue is not None and command in queue:
            queue.remove(command)
            if not queue:
                del self._pending[channel]

    def _run(self) -> None:
        scheduler = self.scheduler
        next_period = 0
        while True:
            with self._wake:
                command = None
                while command is None and not self._closed:
                    now = time.monotonic_ns()
                    if scheduler.period is not None and now >= next_period:
                        scheduler.replenish(now)
                        next_period = now + scheduler.period
                    command = scheduler.pick(now)
                    if command is None:
                        due = scheduler.next_event_time(now)
                        if due is None and scheduler.period is not None and scheduler.queued:
                            due = next_period
                        self._wake.wait(None if due is None else max(due - now, 0) / 1e9)
                if self._closed or command is None:
                    return
                self._forget(command)
                if command.payload.cancelled:
                    scheduler.complete(time.monotonic_ns(), command, 0)
                    continue
                self._active, self._done = command, False
            self._execute(command)

    def _execute(self, command: Command[Doorbell]) -> None:
        """Ring, wait until the channel is idle, charge."""
        doorbell = command.payload
        started = time.monotonic_ns()
        try:
            with self._ringing:
                if not doorbell.cancelled:
                    self._ring(doorbell.channel, doorbell.value)
            if self._last.get(doorbell.channel) == doorbell.value:
                self._done = self._consumed(doorbell.channel, doorbell.value) or self._done
            self._last[doorbell.channel] = doorbell.value
        except Exception:
            log.exception("ringing a doorbell of the physical GPU failed", channel=doorbell.channel)
            self._done = True
        idle = 0
        while idle < IDLE_POLLS:
            with self._wake:
                if not self._done and not self._closed:
                    self._wake.wait(POLL_S)
                if self._done or self._closed:
                    break
            idle = 0 if self._busy(doorbell.channel) else idle + 1
        with self._wake:
            now = time.monotonic_ns()
            self._active = None
            doorbell.counters.gpu_ns += now - started
            doorbell.counters.commands_completed += 1
            self.scheduler.complete(now, command, now - started)
        if doorbell.done is not None:
            doorbell.done()

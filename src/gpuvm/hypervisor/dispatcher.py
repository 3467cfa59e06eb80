"""The live dispatcher: doorbells of all VMs go in, a scheduling policy says whose is next, and it reaches
the GPU.

It acts where something happens: on the thread of the guest that rings, and on the GPU's own when a command
ends, its time slice ends, or it waits for a semaphore; so that the next command is on its way with no thread
switched between. A thread of its own sees to what happens with time: periods, a policy's waiting, commands
that the GPU says nothing about. What is charged is the engines' own time.

A policy that is `concurrent` has none of this: its commands go straight through. Under one that is
`preemptive` a channel has the engines for a time slice, and rests then, switched out, until it is its turn
again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from gpuvm.hypervisor.counters import Counters
from gpuvm.schedulers.policy import Command, Scheduler

log = structlog.get_logger(__name__)

QUEUE_LIMIT = 64
"""Commands of one channel that wait apart; a later doorbell then replaces the value of the last (it only
moves GP_PUT on)."""

CHANNELS = 128
"""Physical channels of the GPU."""

POLL_NS = 4_000_000
"""How long the GPU may say nothing of a command before it is looked at."""

IDLE_POLLS = 2
"""Looks in a row that must find the GPU idle: a channel that is not on the playlist never becomes so by
event."""

RETRY_MIN_NS, RETRY_MAX_NS = 250_000, 4_000_000
"""After what time a command that waits for a semaphore gets its turn again, at first and at most; at once when
another one of its VM ended."""


@dataclass(slots=True, eq=False)
class Doorbell:
    """A write of GP_PUT that waits for its turn, or has had a part of it."""

    channel: int
    """Physical channel."""
    value: int
    counters: Counters
    done: Callable[[], None] | None = None
    """Called when its turn is over."""
    rung: bool = False
    """Whether the GPU knows of it."""
    retry: int = 0
    """Last time that was waited before it was tried again."""


class Engines(Protocol):
    """What the dispatcher asks of the physical GPU."""

    def ring(self, channel: int, value: int) -> None:
        """Write the physical doorbell."""

    def consumed(self, channel: int, value: int) -> bool:
        """Whether the GPU is idle and has fetched all up to GP_PUT `value`: a doorbell that brings nothing new
        is over at once, and no event will come for it."""

    def busy(self, channel: int) -> bool:
        """Whether the GPU works, or is about to work on this channel."""

    def give(self, channel: int, until: int) -> None:
        """Let a channel run until a time of `time.monotonic_ns`; 0 for as long as it has work."""

    def rest(self, channel: int) -> None:
        """Keep a channel off the engines until it is given time."""

    def engine_ns(self, channel: int) -> int:
        """Nanoseconds for which a channel had the engines so far."""


class Dispatcher:
    """Drives a scheduler by the wall clock.

    Parameters
    ----------
    scheduler : Scheduler
        The policy.
    engines : Engines
        The physical GPU.
    """

    def __init__(self, scheduler: Scheduler[Doorbell], engines: Engines) -> None:
        self.scheduler = scheduler
        self._engines = engines
        self._lock = threading.RLock()
        self._timer = threading.Condition(self._lock)
        self._pending: dict[int, deque[Command[Doorbell]]] = {}
        """By channel: what waits for its turn, in order."""
        self._waiting: list[tuple[int, Command[Doorbell]]] = []
        """Commands that wait for a semaphore, and when they are tried again."""
        self._last: dict[int, int] = {}
        """Channel -> value that was rung last."""
        self._active: Command[Doorbell] | None = None
        self._base = 0
        """Engine time of the active channel when its command began."""
        self._until = 0
        self._look = 0
        self._idle_looks = 0
        self._next_period = 0
        self._sleeps_until = 0
        """When the timer's thread wakes by itself; 0 if it does not."""
        self._over: list[Callable[[], None]] = []
        self._scheduling = False
        self._closed = False
        self._thread: threading.Thread | None = None
        if not scheduler.concurrent:
            self._start_thread()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="gpuvm-dispatcher", daemon=True)
        self._thread.start()

    def add(self, vm: int, weight: int, cap: float | None = None) -> None:
        """Let a VM submit."""
        with self._lock:
            self.scheduler.add(vm, weight, cap)

    def change(self, vm: int, weight: int, cap: float | None) -> None:
        """Give a VM another weight and cap.

        Raises
        ------
        ValueError
            If the policy does not take them.
        """
        with self._lock:
            self.scheduler.change(time.monotonic_ns(), vm, weight, cap)
            self._schedule()
        self._tell()

    def reschedule(self, scheduler: Scheduler[Doorbell]) -> None:
        """Let another policy decide from now on, with the VMs that there are and what they have queued.

        Raises
        ------
        ValueError
            If it does not take their weights and caps; nothing has changed then.
        """
        with self._lock:
            before = self.scheduler
            shares = list(before.shares.values())
            for share in shares:
                scheduler.add(share.vm, share.weight, share.cap)
                scheduler.shares[share.vm].used = share.used
            queued = sorted(
                (command for share in shares for command in before.remove(share.vm)),
                key=lambda command: command.sequence,
            )
            self.scheduler = scheduler
            self._next_period = 0
            if before.preemptive:
                for channel in range(CHANNELS):
                    self._engines.give(channel, 0)
            for command in queued:
                if scheduler.concurrent:
                    self._let_through(command)
                else:
                    scheduler.enqueue(time.monotonic_ns(), command)
            if self._thread is None and not scheduler.concurrent and not self._closed:
                self._start_thread()
            self._schedule()
        self._tell()

    def _let_through(self, command: Command[Doorbell]) -> None:
        """Ring a queued doorbell without its turn."""
        self._forget(command)
        doorbell = command.payload
        if not doorbell.rung:
            self._engines.ring(doorbell.channel, doorbell.value)
        doorbell.counters.commands_completed += 1
        if doorbell.done is not None:
            self._over.append(doorbell.done)

    def remove(self, vm: int) -> None:
        """Forget a VM and what it has queued."""
        with self._lock:
            for command in self.scheduler.remove(vm):
                self._forget(command)
            self._waiting = [each for each in self._waiting if each[1].vm != vm]
            self._schedule()

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
            self._engines.ring(channel, value)
            counters.commands_completed += 1
            return
        with self._lock:
            if self.scheduler.concurrent:
                # Since a moment ago; what was queued has been rung.
                self._engines.ring(channel, value)
                counters.commands_completed += 1
                return
            if vm not in self.scheduler.shares or self._closed:
                return
            queue = self._pending.setdefault(channel, deque())
            if len(queue) >= QUEUE_LIMIT:
                queue[-1].payload.value = value
                return
            command = Command(vm, Doorbell(channel, value, counters, done))
            queue.append(command)
            self.scheduler.enqueue(time.monotonic_ns(), command)
            self._schedule()
        self._tell()

    def cancel(self, channel: int) -> None:
        """Drop what a physical channel has queued: it was stopped or killed. None of it is rung after this
        returns."""
        with self._lock:
            now = time.monotonic_ns()
            for command in self._pending.pop(channel, ()):
                self.scheduler.withdraw(now, command)
            self._waiting = [each for each in self._waiting if each[1].payload.channel != channel]
            self._last.pop(channel, None)
            if self._is_active(channel):
                self._finish()
            self._schedule()
        self._tell()

    def idle(self, channel: int) -> None:
        """The GPU says that a channel has run all that was submitted to it, or stopped it."""
        with self._lock:
            if self._is_active(channel):
                self._finish()
                self._schedule()
        self._tell()

    def switched(self, channel: int, waits: bool) -> None:
        """The GPU says that a channel's time slice ended, or (`waits`) that it waits for a semaphore."""
        with self._lock:
            active = self._active
            if active is None or active.payload.channel != channel:
                if not waits and not self._holds(channel):
                    # Nobody would give it time again.
                    self._engines.give(channel, 0)
                return
            now = time.monotonic_ns()
            if not waits:
                elapsed = self._stop()
                self._pending.setdefault(channel, deque()).appendleft(active)
                self.scheduler.preempt(now, active, elapsed)
            elif self.scheduler.preemptive:
                self._engines.rest(channel)
                self.scheduler.complete(now, active, self._stop())
                doorbell = active.payload
                doorbell.retry = min(max(2 * doorbell.retry, RETRY_MIN_NS), RETRY_MAX_NS)
                self._waiting.append((now + doorbell.retry, active))
            else:
                # It stays on the GPU, which goes on with it when it can; its turn is over.
                self._finish()
            self._schedule()
        self._tell()

    def holds(self, channel: int) -> bool:
        """Whether a command of a physical channel waits or runs."""
        with self._lock:
            return self._holds(channel)

    @property
    def active_channel(self) -> int | None:
        """The physical channel whose command runs now."""
        active = self._active
        return None if active is None else active.payload.channel

    def close(self) -> None:
        """Stop the thread; what is queued is dropped."""
        with self._lock:
            self._closed = True
            self._timer.notify_all()
        if self._thread is not None:
            self._thread.join()

    # With the lock held

    def _is_active(self, channel: int) -> bool:
        return self._active is not None and self._active.payload.channel == channel

    def _holds(self, channel: int) -> bool:
        return (
            bool(self._pending.get(channel))
            or self._is_active(channel)
            or any(each[1].payload.channel == channel for each in self._waiting)
        )

    def _forget(self, command: Command[Any]) -> None:
        channel = command.payload.channel
        queue = self._pending.get(channel)
        if queue is not None and command in queue:
            queue.remove(command)
            if not queue:
                del self._pending[channel]

    def _stop(self) -> int:
        """The active command left the engines; returns the engine time that it took since it was picked."""
        active, self._active = self._active, None
        assert active is not None
        doorbell = active.payload
        elapsed = max(self._engines.engine_ns(doorbell.channel) - self._base, 0)
        doorbell.counters.gpu_ns += elapsed
        return elapsed

    def _finish(self) -> None:
        """The active command is over."""
        active = self._active
        assert active is not None
        now = time.monotonic_ns()
        self.scheduler.complete(now, active, self._stop())
        doorbell = active.payload
        doorbell.counters.commands_completed += 1
        if doorbell.done is not None:
            self._over.append(doorbell.done)
        for number, (_, command) in enumerate(self._waiting):
            if command.vm == active.vm:
                # It may have released what that one waits for.
                self._waiting[number] = (now, command)

    def _schedule(self) -> None:
        """Bring the next command to the GPU, or move the end of the time slice of the one that is there."""
        if self._closed or self._scheduling:
            return
        self._scheduling = True
        try:
            now = time.monotonic_ns()
            self._clock(now)
            while self._active is None:
                command = self.scheduler.pick(now)
                if command is None:
                    break
                self._start(now, command)
                now = time.monotonic_ns()
            self._limit(now)
            self._wind(now)
        finally:
            self._scheduling = False

    def _clock(self, now: int) -> None:
        """Do what is due by now: a period's end, commands that are tried again."""
        scheduler = self.scheduler
        if scheduler.period is not None and now >= self._next_period:
            if now >= self._next_period + scheduler.period:
                # More than one went by: in those after the first nothing was charged.
                scheduler.replenish(now)
            scheduler.replenish(now)
            self._next_period = now - (now - self._next_period) % scheduler.period + scheduler.period
        if self._waiting:
            due = [command for when, command in self._waiting if when <= now]
            if due:
                self._waiting = [each for each in self._waiting if each[0] > now]
                for command in due:
                    if command.vm in scheduler.shares:
                        self._pending.setdefault(command.payload.channel, deque()).appendleft(command)
                        scheduler.enqueue(now, command)

    def _start(self, now: int, command: Command[Doorbell]) -> None:
        self._forget(command)
        doorbell = command.payload
        channel = doorbell.channel
        self._active = command
        self._look, self._idle_looks = now + POLL_NS, 0
        self._base = self._engines.engine_ns(channel)
        self._until = 0
        if self.scheduler.preemptive:
            self._until = self.scheduler.deadline(now) or 0
            self._engines.give(channel, self._until)
        if doorbell.rung:
            if not self.scheduler.preemptive:
                # It was switched out under a policy that preempts.
                self._engines.give(channel, 0)
            return
        doorbell.rung = True
        try:
            self._engines.ring(channel, doorbell.value)
            again = self._last.get(channel) == doorbell.value
            self._last[channel] = doorbell.value
            if again and self._engines.consumed(channel, doorbell.value):
                self._finish()
        except Exception:
            log.exception("ringing a doorbell of the physical GPU failed", channel=channel)
            if self._active is command:
                self._finish()

    def _limit(self, now: int) -> None:
        active = self._active
        if active is None or not self.scheduler.preemptive:
            return
        until = self.scheduler.deadline(now) or 0
        if until != self._until:
            self._until = until
            self._engines.give(active.payload.channel, until)

    def _wind(self, now: int) -> None:
        """See that the timer's thread wakes in time."""
        due = self._due(now)
        if due is not None and not 0 < self._sleeps_until <= due:
            self._timer.notify_all()

    def _due(self, now: int) -> int | None:
        """When something happens with time."""
        scheduler = self.scheduler
        times = [when for when, _ in self._waiting]
        if self._active is not None:
            times.append(self._look)
        else:
            event = scheduler.next_event_time(now)
            if event is not None:
                times.append(event)
            if scheduler.period is not None and scheduler.queued:
                times.append(self._next_period)
        return min(times) if times else None

    # Without the lock

    def _tell(self) -> None:
        """Call who wanted to hear of the end of its command."""
        while self._over:
            try:
                done = self._over.pop(0)
            except IndexError:
                return
            try:
                done()
            except Exception:
                log.exception("what follows a command failed")

    def _run(self) -> None:
        """The timer's thread."""
        while True:
            with self._lock:
                while not self._closed:
                    now = time.monotonic_ns()
                    due = self._due(now)
                    if due is not None and due <= now:
                        break
                    self._sleeps_until = due or 0
                    self._timer.wait(None if due is None else (due - now) / 1e9)
                    self._sleeps_until = 0
                if self._closed:
                    return
                self._inspect(now)
                self._schedule()
            self._tell()

    def _inspect(self, now: int) -> None:
        """Look at the GPU itself where it said nothing of the active command for a while."""
        active = self._active
        if active is None or now < self._look:
            return
        self._look = now + POLL_NS
        self._idle_looks = 0 if self._engines.busy(active.payload.channel) else self._idle_looks + 1
        if self._idle_looks >= IDLE_POLLS:
            self._finish()

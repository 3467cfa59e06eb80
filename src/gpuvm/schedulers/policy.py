"""What a scheduler is: a state machine that decides whose command reaches the GPU next, and that is told the
time.

The live dispatcher drives it by the wall clock and a simulator by a virtual one. A policy starts no thread,
takes no lock and reads no clock; its caller serialises the calls. Times are integers in nanoseconds of the
caller's clock and never run backwards.

The caller's part, for each event:

- a command comes: `enqueue`; ask `deadline` again if one runs;
- the GPU is free: `pick`; None means that nothing may run before `next_event_time` or the next `enqueue`;
- the command that runs ends: `complete`, with the GPU time it took since it was picked;
- its `deadline` passes: switch it out at the next thread-block boundary, then `preempt`, with the same;
- `period` nanoseconds passed: `replenish`.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

Payload = TypeVar("Payload")

MS = 1_000_000
US = 1_000

CAP_WINDOW = 20 * MS
"""A capped VM may use its share of this long at once; over longer times the cap holds exactly."""


@dataclass(slots=True, eq=False)
class Command(Generic[Payload]):
    """One command of one VM: a doorbell, and whatever its owner needs to ring it."""

    vm: int
    payload: Payload
    submitted: int = 0
    """When it was enqueued."""
    started: int = 0
    """When it was picked last."""
    used: int = 0
    """Nanoseconds of GPU time charged for it so far; more than one piece if it was preempted."""
    sequence: int = 0
    """Order of arrival over all VMs."""


class Share:
    """What a policy keeps about one VM; policies extend it.

    Attributes
    ----------
    used : int
        Nanoseconds of GPU time charged so far.
    cap : float or None
        Largest part of the GPU's time, whoever else wants it or not.
    """

    __slots__ = ("allowance", "cap", "queue", "refilled", "throttled", "used", "vm", "weight")

    def __init__(self, vm: int, weight: int, cap: float | None) -> None:
        self.vm = vm
        self.weight = weight
        self.cap = cap
        self.used = 0
        self.queue: deque[Command[Any]] = deque()
        self.allowance = 0 if cap is None else int(cap * CAP_WINDOW)
        """Nanoseconds that the cap lets it use now; may be negative."""
        self.refilled = 0
        self.throttled = False

    @property
    def queued(self) -> int:
        """Commands not picked."""
        return len(self.queue)


class Scheduler(ABC, Generic[Payload]):
    """A policy. The VMs are added and removed at run time; a command of a VM that was never added is refused.

    A subclass says which of the VMs that have something to run goes next (`_select`), and hears when a VM
    becomes one of them (`_ready`), stops being one (`_unready`), and is charged (`_charge`).

    Attributes
    ----------
    concurrent : bool
        True if commands go to the GPU without waiting for the one before (no queue, nothing charged).
    preemptive : bool
        Whether commands are switched out at their `deadline`.
    period : int or None
        Nanoseconds between two calls of `replenish`, None if the policy has no periods.
    weighted : bool
        Whether weights matter.
    """

    concurrent: ClassVar[bool] = False
    preemptive: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    share_type: ClassVar[type[Share]] = Share
    period: int | None = None

    def __init__(self) -> None:
        self.shares: dict[int, Any] = {}
        self.total_weight = 0
        self.queued = 0
        """Commands not picked."""
        self.running: Command[Payload] | None = None
        self._throttled: list[tuple[int, int]] = []
        self._sequence = 0

    # VMs

    def add(self, vm: int, weight: int = 1, cap: float | None = None) -> None:
        """Let a VM take part.

        Parameters
        ----------
        weight : int
            Relative share, at least 1.
        cap : float, optional
            Largest part of the GPU's time, above 0 and up to 1.
        """
        if weight < 1:
            raise ValueError(f"a virtual machine's weight must be at least 1, got {weight}")
        if cap is not None and not 0 < cap <= 1:
            raise ValueError(
                f"a virtual machine's cap must be a part of the GPU above 0 and up to 1, got {cap}"
            )
        if cap is not None and self.concurrent:
            raise ValueError("a scheduler must queue commands to keep caps; this one lets them through")
        if vm in self.shares:
            raise ValueError(f"virtual machine {vm} must be added to the scheduler once")
        self.shares[vm] = self.share_type(vm, weight, cap)
        self.total_weight += weight

    def remove(self, vm: int) -> list[Command[Payload]]:
        """Forget a VM; return its commands that were not picked, in order."""
        share = self.shares.pop(vm, None)
        if share is None:
            return []
        self.total_weight -= share.weight
        dropped = list(share.queue)
        self.queued -= len(dropped)
        share.queue.clear()
        self._unready(share)
        return dropped

    def change(self, now: int, vm: int, weight: int, cap: float | None) -> None:
        """Give a VM another weight and cap. It starts afresh with what it has queued; time charged stays.

        Raises
        ------
        ValueError
            If they are out of range; nothing has changed then.
        """
        before = self.shares[vm]
        commands = self.remove(vm)
        try:
            self.add(vm, weight, cap)
        except ValueError:
            self.add(vm, before.weight, before.cap)
            raise
        finally:
            self.shares[vm].used = before.used
            for command in commands:
                self.enqueue(now, command)

    def withdraw(self, now: int, command: Command[Payload]) -> None:
        """Take a command that was not picked out of its queue; nothing if it is not there."""
        share = self.shares.get(command.vm)
        if share is None or command not in share.queue:
            return
        share.queue.remove(command)
        self.queued -= 1
        if not share.queue:
            self._unready(share)
        elif not share.throttled:
            self._ready(now, share)

    # Events

    def enqueue(self, now: int, command: Command[Payload]) -> None:
        """Take a command."""
        share = self.shares[command.vm]
        self._sequence += 1
        command.submitted = now
        command.sequence = self._sequence
        share.queue.append(command)
        self.queued += 1
        if len(share.queue) == 1:
            self._came(now, share)
            self._admit(now, share)

    def pick(self, now: int) -> Command[Payload] | None:
        """Return the command to run now, or None if there is none or the policy waits (see
        `next_event_time`)."""
        throttled = self._throttled
        while throttled and throttled[0][0] <= now:
            _, vm = heapq.heappop(throttled)
            share = self.shares.get(vm)
            if share is not None and share.throttled:
                share.throttled = False
                if share.queue:
                    self._admit(now, share)
        share = self._select(now)
        if share is None:
            return None
        command: Command[Payload] = share.queue.popleft()
        self.queued -= 1
        command.started = now
        self.running = command
        if share.queue:
            self._ready(now, share)
        else:
            self._unready(share)
        return command

    def complete(self, now: int, command: Command[Payload], elapsed: int) -> None:
        """Charge a picked command that ended; `elapsed` is the GPU time it took since it was picked."""
        share = self._account(now, command, elapsed)
        if share is not None:
            self._ended(now, share, command)

    def preempt(self, now: int, command: Command[Payload], elapsed: int) -> None:
        """Charge a picked command that was switched out; it is the next of its VM's to run."""
        share = self._account(now, command, elapsed)
        if share is not None:
            share.queue.appendleft(command)
            self.queued += 1
            if not share.throttled:
                self._ready(now, share)

    def deadline(self, now: int) -> int | None:
        """When the command that runs must be switched out, if it runs that long; None if never. It may
        change with each `enqueue`."""
        command = self.running
        share = None if command is None else self.shares.get(command.vm)
        if command is None or share is None:
            return None
        due = self._slice_end(now, share, command)
        if share.cap is not None and self.preemptive:
            ends = now + max(self._allowed(now, share) - (now - command.started), 0)
            due = ends if due is None else min(due, ends)
        return due

    def replenish(self, now: int) -> None:
        """Start a new period."""

    def next_event_time(self, now: int) -> int | None:
        """When `pick` should be called next although nothing was enqueued or completed; None if never."""
        return self._throttled[0][0] if self._throttled else None

    # Caps

    def _allowed(self, now: int, share: Share) -> int:
        """Nanoseconds that a capped VM may use now."""
        assert share.cap is not None
        gained = int((now - share.refilled) * share.cap)
        share.allowance = min(share.allowance + gained, int(share.cap * CAP_WINDOW))
        share.refilled = now
        return share.allowance

    def _admit(self, now: int, share: Share) -> None:
        """A VM has something to run: let it wait for its turn, or for its cap."""
        if share.throttled:
            return
        if share.cap is not None and self._allowed(now, share) <= 0:
            share.throttled = True
            # Not before a tenth of what it may hold came in: each turn costs the GPU a switch.
            missing = int(share.cap * CAP_WINDOW / 10) - share.allowance
            heapq.heappush(self._throttled, (now + int(missing / share.cap) + 1, share.vm))
            return
        self._ready(now, share)

    def _account(self, now: int, command: Command[Payload], elapsed: int) -> Any:
        if self.running is command:
            self.running = None
        command.used += elapsed
        share = self.shares.get(command.vm)
        if share is None:
            return None
        share.used += elapsed
        if share.cap is not None:
            self._allowed(now, share)
            share.allowance -= elapsed
        self._charge(now, share, elapsed)
        if share.cap is not None and share.allowance <= 0 and not share.throttled:
            self._unready(share)
            self._admit(now, share)
        return share

    # A policy's own

    @abstractmethod
    def _select(self, now: int) -> Any:
        """The share whose first command runs now; None to wait."""

    def _came(self, now: int, share: Any) -> None:
        """A VM that had nothing queued has something again."""

    def _ready(self, now: int, share: Any) -> None:
        """A VM has something to run and may; told again whenever its first command changes."""

    def _unready(self, share: Any) -> None:
        """A VM has nothing to run, or must not."""

    def _charge(self, now: int, share: Any, elapsed: int) -> None:
        """Account GPU time in the policy's own terms."""

    def _ended(self, now: int, share: Any, command: Command[Payload]) -> None:
        """A command ran to its end."""

    def _slice_end(self, now: int, share: Any, command: Command[Payload]) -> int | None:
        """When the running command must make way. A policy that does not preempt has no such time."""
        return None

"""What a scheduler is: a state machine that decides whose command reaches the GPU next, and that is told the
time.

The live dispatcher drives it by the wall clock and a simulator by a virtual one. A policy starts no thread,
takes no lock and reads no clock; its caller serialises the calls. Times are integers in nanoseconds of the
caller's clock and never run backwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Payload = TypeVar("Payload")


@dataclass(slots=True, eq=False)
class Command(Generic[Payload]):
    """One command of one VM: a doorbell, and whatever its owner needs to ring it."""

    vm: int
    payload: Payload
    submitted: int = 0
    """When it was enqueued."""
    started: int = 0
    """When it was picked."""


@dataclass(slots=True)
class Share:
    """What a policy keeps about one VM."""

    vm: int
    weight: int = 1
    queued: int = 0
    used: int = 0
    """Nanoseconds of GPU time charged so far."""
    extra: dict[str, int] = field(default_factory=dict)


class Scheduler(ABC, Generic[Payload]):
    """A policy. The VMs are added and removed at run time; a command of a VM that was never added is refused.

    Attributes
    ----------
    concurrent : bool
        True if commands go to the GPU without waiting for the one before (no queue, nothing charged).
    period : int or None
        Nanoseconds between two calls of `replenish`, None if the policy has no periods.
    """

    concurrent = False
    period: int | None = None

    def __init__(self) -> None:
        self.shares: dict[int, Share] = {}

    def add(self, vm: int, weight: int = 1) -> None:
        """Let a VM take part, with a relative weight of at least 1."""
        if weight < 1:
            raise ValueError(f"a virtual machine's weight must be at least 1, got {weight}")
        if vm in self.shares:
            raise ValueError(f"virtual machine {vm} must be added to the scheduler once")
        self.shares[vm] = Share(vm, weight)

    def remove(self, vm: int) -> list[Command[Payload]]:
        """Forget a VM; return its commands that were not picked, in order."""
        dropped = self._drop(vm)
        self.shares.pop(vm, None)
        return dropped

    def enqueue(self, now: int, command: Command[Payload]) -> None:
        """Take a command."""
        share = self.shares[command.vm]
        share.queued += 1
        command.submitted = now
        self._put(now, command)

    def pick(self, now: int) -> Command[Payload] | None:
        """Return the command to run now, or None if there is none or the policy waits (see
        `next_event_time`)."""
        command = self._choose(now)
        if command is not None:
            self.shares[command.vm].queued -= 1
            command.started = now
        return command

    def complete(self, now: int, command: Command[Payload], elapsed: int) -> None:
        """Charge a picked command that ended; `elapsed` is the GPU time it took."""
        share = self.shares.get(command.vm)
        if share is not None:
            share.used += elapsed
            self._charge(now, share, elapsed)

    def replenish(self, now: int) -> None:
        """Start a new period."""

    def next_event_time(self, now: int) -> int | None:
        """When `pick` or `replenish` should be called next although nothing was enqueued or completed; None
        if never."""
        return None

    @property
    def queued(self) -> int:
        """Commands not yet picked."""
        return sum(share.queued for share in self.shares.values())

    @abstractmethod
    def _put(self, now: int, command: Command[Payload]) -> None:
        """Queue a command of a known VM."""

    @abstractmethod
    def _choose(self, now: int) -> Command[Payload] | None:
        """Take the next command out of the queues."""

    @abstractmethod
    def _drop(self, vm: int) -> list[Command[Payload]]:
        """Take all commands of a VM out of the queues."""

    def _charge(self, now: int, share: Share, elapsed: int) -> None:
        """Account GPU time in the policy's own terms."""

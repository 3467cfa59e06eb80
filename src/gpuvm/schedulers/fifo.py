"""FIFO: one queue for all VMs, in order of arrival; and DIRECT, which does not even wait for the command
before."""

from __future__ import annotations

from collections import deque

from gpuvm.schedulers.policy import Command, Payload, Scheduler


class FifoScheduler(Scheduler[Payload]):
    """Commands run one at a time in the order in which they came, whoever sent them."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[Command[Payload]] = deque()

    def _put(self, now: int, command: Command[Payload]) -> None:
        self._queue.append(command)

    def _choose(self, now: int) -> Command[Payload] | None:
        return self._queue.popleft() if self._queue else None

    def _drop(self, vm: int) -> list[Command[Payload]]:
        dropped = [command for command in self._queue if command.vm == vm]
        self._queue = deque(command for command in self._queue if command.vm != vm)
        return dropped


class DirectScheduler(FifoScheduler[Payload]):
    """No scheduling: a command goes to the GPU when it comes, and the GPU's own channel switching decides."""

    concurrent = True

"""FIFO: one queue for all VMs, in order of arrival; and DIRECT, which does not even wait for the command
before."""

from __future__ import annotations

import heapq
from typing import ClassVar

from gpuvm.schedulers.policy import Payload, Scheduler, Share


class FifoScheduler(Scheduler[Payload]):
    """Commands run one at a time in the order in which they came, whoever sent them. A capped VM's commands
    let others pass while it waits."""

    def __init__(self) -> None:
        super().__init__()
        self._heads: list[tuple[int, int]] = []
        """Of each VM that may run, its first command's number; entries that no longer hold are skipped."""

    def _ready(self, now: int, share: Share) -> None:
        heapq.heappush(self._heads, (share.queue[0].sequence, share.vm))

    def _select(self, now: int) -> Share | None:
        while self._heads:
            sequence, vm = heapq.heappop(self._heads)
            share: Share | None = self.shares.get(vm)
            if share is None or share.throttled or not share.queue:
                continue
            if share.queue[0].sequence == sequence:
                return share
        return None


class DirectScheduler(FifoScheduler[Payload]):
    """No scheduling: a command goes to the GPU when it comes, and the GPU's own channel switching decides."""

    concurrent: ClassVar[bool] = True

"""CREDIT, as published: budgets in periods; a VM that has used up its budget lets those that have not go
first. Not preemptive, so a command runs to its end whatever the budget.
"""

from __future__ import annotations

from typing import ClassVar

from gpuvm.schedulers.order import Order
from gpuvm.schedulers.policy import MS, Command, Payload, Scheduler, Share


class CreditShare(Share):
    """Budget and place in the order of VMs."""

    __slots__ = ("active", "budget", "place", "spent")

    def __init__(self, vm: int, weight: int, cap: float | None) -> None:
        super().__init__(vm, weight, cap)
        self.budget = 0
        """Nanoseconds."""
        self.place = 0
        """Lower goes first."""
        self.spent = 0
        """GPU time in the present period."""
        self.active = False


class CreditScheduler(Scheduler[Payload]):
    """The published CREDIT.

    At each period's end the VMs get the time in which the GPU was busy, in proportion to their weights; what
    a command took is subtracted when it ends. A budget above twice the grant falls back to the VM's part of a
    period, a debt below minus twice the grant is forgiven. The VM that ran goes to the end of the order. The
    first VM in the order that has a command and no debt runs, else the first that has a command.

    Parameters
    ----------
    period : int
        Nanoseconds; 30 ms in the authors' code of 2015, 500 ms in that of 2013.
    """

    weighted: ClassVar[bool] = True
    share_type: ClassVar[type[Share]] = CreditShare

    def __init__(self, period: int = 30 * MS) -> None:
        super().__init__()
        if period <= 0:
            raise ValueError(f"a scheduler's period must be above 0 ns, got {period}")
        self.period = period
        self._under: Order[CreditShare] = Order(self.shares, self._under_key)
        self._over: Order[CreditShare] = Order(self.shares, self._over_key)
        self._places = 0
        self._spent = 0
        self._active: dict[int, CreditShare] = {}
        """VMs whose budget may still change: the others are clamped already, and a period costs nothing for
        them."""

    def add(self, vm: int, weight: int = 1, cap: float | None = None) -> None:
        super().add(vm, weight, cap)
        self._to_the_end(self.shares[vm])

    def remove(self, vm: int) -> list[Command[Payload]]:
        self._active.pop(vm, None)
        return super().remove(vm)

    def replenish(self, now: int) -> None:
        """Share out the time in which the GPU was busy."""
        spent, self._spent = self._spent, 0
        for share in list(self._active.values()):
            part = self._part(share, self.period or 0)
            grant = self._part(share, spent)
            limit = self._limit(grant)
            share.budget += grant
            clamped = False
            if not spent:
                clamped = share.budget >= 0
                share.budget = min(share.budget, part)
            elif share.budget > limit:
                share.budget, clamped = part, True
            elif share.budget < -limit:
                share.budget = 0
            idle = not share.spent and not share.queue
            share.spent = 0
            if idle and clamped:
                share.active = False
                del self._active[share.vm]
            elif share.queue and not share.throttled:
                self._ready(now, share)

    def _part(self, share: Share, time: int) -> int:
        return time * share.weight // max(self.total_weight, 1)

    def _limit(self, grant: int) -> int:
        return 2 * grant

    def _to_the_end(self, share: CreditShare) -> None:
        self._places += 1
        share.place = self._places

    def _came(self, now: int, share: CreditShare) -> None:
        if not share.active:
            share.active = True
            self._active[share.vm] = share

    def _waits(self, share: CreditShare) -> bool:
        return bool(share.queue) and not share.throttled

    def _under_key(self, share: CreditShare) -> int | None:
        return share.place if share.budget >= 0 and self._waits(share) else None

    def _over_key(self, share: CreditShare) -> int | None:
        return share.place if share.budget < 0 and self._waits(share) else None

    def _ready(self, now: int, share: CreditShare) -> None:
        self._under.put(share)
        self._over.put(share)

    def _charge(self, now: int, share: CreditShare, elapsed: int) -> None:
        share.budget -= elapsed
        share.spent += elapsed
        self._spent += elapsed
        self._to_the_end(share)
        self._ready(now, share)

    def _select(self, now: int) -> CreditShare | None:
        return self._under.first() or self._over.first()

"""BAND, as published: CREDIT that looks at bandwidth, too, and waits a little for a VM that is below its
share.
"""

from __future__ import annotations

from gpuvm.schedulers.credit import CreditScheduler, CreditShare
from gpuvm.schedulers.order import Order
from gpuvm.schedulers.policy import MS, US, Command, Payload


class BandScheduler(CreditScheduler[Payload]):
    """The published BAND.

    As CREDIT, but a VM goes to the end of the order only if it is in debt *and* used more than its share of
    this period (or than its share of the period before). First come VMs below their share, then those above
    it without debt, then those in debt. If the next one is above its share, the one that ran last is below
    it and has used less, the GPU idles up to `wait` for that one's next command.

    Parameters
    ----------
    period : int
        Nanoseconds.
    wait : int
        Nanoseconds that the GPU may idle; the published 500 us.
    """

    def __init__(self, period: int = 30 * MS, wait: int = 500 * US) -> None:
        super().__init__(period)
        if wait < 0:
            raise ValueError(f"a scheduler's wait must be 0 ns or more, got {wait}")
        self.wait = wait
        self._before = 0
        """GPU time of the period before."""
        self._band: Order[CreditShare] = Order(self.shares, self._band_key)
        self._rising: Order[CreditShare] = Order(self.shares, self._rising_key)
        """The same VMs by what they used: as others run, they come to be below their share."""
        self._last: CreditShare | None = None
        self._patience: int | None = None
        """Until when the GPU waits for the one that ran last."""

    def remove(self, vm: int) -> list[Command[Payload]]:
        if self._last is not None and self._last.vm == vm:
            self._last = self._patience = None
        return super().remove(vm)

    def replenish(self, now: int) -> None:
        self._before = self._spent
        super().replenish(now)

    def _limit(self, grant: int) -> int:
        return self.period or 0

    def _fair_use(self) -> float:
        """Nanoseconds for each unit of weight above which a VM is over its share; below 0 all are."""
        if not self._spent:
            return -1.0
        return min(self._before, self._spent) / max(self.total_weight, 1)

    def _above(self, share: CreditShare) -> bool:
        return share.spent / share.weight > self._fair_use()

    def _under_key(self, share: CreditShare) -> int | None:
        return share.place if share.budget >= 0 and self._waits(share) and not self._above(share) else None

    def _band_key(self, share: CreditShare) -> int | None:
        return share.place if share.budget >= 0 and self._waits(share) and self._above(share) else None

    def _rising_key(self, share: CreditShare) -> float | None:
        return share.spent / share.weight if share.budget >= 0 and self._waits(share) else None

    def _ready(self, now: int, share: CreditShare) -> None:
        super()._ready(now, share)
        self._band.put(share)
        self._rising.put(share)

    def _charge(self, now: int, share: CreditShare, elapsed: int) -> None:
        share.budget -= elapsed
        share.spent += elapsed
        self._spent += elapsed
        if share.budget < 0 and self._above(share):
            self._to_the_end(share)
        self._last = share
        self._patience = None
        self._ready(now, share)

    def _select(self, now: int) -> CreditShare | None:
        chosen = self._choose()
        last = self._last
        if chosen is None or last is None or chosen is last:
            return chosen
        if not (self._above(chosen) and not self._above(last) and chosen.spent > last.spent):
            return chosen
        if self._patience is None:
            self._patience = now + self.wait
        if self._waits(last):
            return last
        return chosen if now >= self._patience else None

    def _choose(self) -> CreditShare | None:
        while (share := self._rising.first()) is not None and not self._above(share):
            self._rising.pop()
            self._under.put(share)
        return self._under.first() or self._band.first() or self._over.first()

    def next_event_time(self, now: int) -> int | None:
        due = super().next_event_time(now)
        if self.queued and self._patience is not None and self._patience > now:
            return self._patience if due is None else min(due, self._patience)
        return due

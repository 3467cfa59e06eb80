"""A queue of VMs by key from which entries are dropped lazily: what a policy's classes of VMs are kept in."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Generic, TypeVar

S = TypeVar("S", bound=Any)


class Order(Generic[S]):
    """VMs by key, lowest first.

    A VM's key may change and a VM may stop belonging here without this being told: `first` drops entries that
    `key` no longer confirms. Each VM that belongs must have been put under its present key.

    Parameters
    ----------
    key : callable
        `key(share)` is the VM's present key, None if it does not belong here now.
    """

    def __init__(self, shares: dict[int, S], key: Callable[[S], float | None]) -> None:
        self._shares = shares
        self._key = key
        self._heap: list[tuple[float, int]] = []
        self._listed: dict[int, float] = {}
        """VM -> the key last put and still in the heap: nothing is put twice."""

    def put(self, share: S) -> None:
        """List a VM under its present key; nothing if it does not belong here."""
        key = self._key(share)
        if key is not None and self._listed.get(share.vm) != key:
            self._listed[share.vm] = key
            heapq.heappush(self._heap, (key, share.vm))

    def first(self) -> S | None:
        """The VM with the lowest key; it stays."""
        while self._heap:
            key, vm = self._heap[0]
            share = self._shares.get(vm)
            if share is not None and self._key(share) == key:
                return share
            self.pop()
        return None

    def pop(self) -> None:
        """Drop the first entry."""
        key, vm = heapq.heappop(self._heap)
        if self._listed.get(vm) == key:
            del self._listed[vm]

    def __bool__(self) -> bool:
        return self.first() is not None

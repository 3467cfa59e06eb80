"""Barriers: the pages of a guest's video memory whose writes by the guest's CPU the hypervisor has to see,
because a shadow was made of what they hold (instance blocks, page directories, page tables).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuvm.hypervisor.address import GuestMemory

PAGE_SHIFT = 12

Written = Callable[[int, int], None]
"""Told (first, end): the bytes of the guarded object that were written."""


@dataclass(slots=True, eq=False)
class Barrier:
    """One guarded object: card addresses `start` to `end - 1`.

    Attributes
    ----------
    written : callable or None
        Who carries writes over; None once the barrier is removed, or if nobody has to (the object is only
        kept from being mapped into the guest).
    """

    start: int
    end: int
    written: Written | None


class Barriers:
    """All barriers of one guest. Objects may overlap and share pages.

    Attributes
    ----------
    pages : bytearray
        By 4 KiB page of the guest's video memory: 1 where an object lies.
    changed : callable
        Told (card address, bytes) when pages became guarded or were let go.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._base = memory.base
        self.pages = bytearray(memory.size >> PAGE_SHIFT)
        self._by_page: dict[int, list[Barrier]] = {}
        self.changed: Callable[[int, int], None] = _nobody

    def add(self, physical: int, size: int, written: Written | None) -> Barrier:
        """Guard `size` bytes at a card address, all of them the guest's own."""
        barrier = Barrier(physical, physical + size, written)
        fresh = False
        for page in self._pages(physical, size):
            there = self._by_page.get(page)
            if there is None:
                self._by_page[page] = [barrier]
                self.pages[page] = fresh = True
            else:
                there.append(barrier)
        if fresh:
            self.changed(physical, size)
        return barrier

    def remove(self, barrier: Barrier) -> None:
        """Let an object go."""
        barrier.written = None
        gone = False
        for page in self._pages(barrier.start, barrier.end - barrier.start):
            there = self._by_page[page]
            there.remove(barrier)
            if not there:
                del self._by_page[page]
                self.pages[page] = 0
                gone = True
        if gone:
            self.changed(barrier.start, barrier.end - barrier.start)

    def hit(self, physical: int, length: int) -> bool:
        """Whether any page of a range of the guest's memory is guarded."""
        first = physical - self._base >> PAGE_SHIFT
        last = physical + length - 1 - self._base >> PAGE_SHIFT
        return self.pages.find(1, first, last + 1) >= 0

    def write(self, physical: int, length: int) -> None:
        """The CPU wrote a range: tell the owner of each object in it, once."""
        end = physical + length
        told: dict[Barrier, None] = {}
        for page in self._pages(physical, length):
            told.update(dict.fromkeys(self._by_page.get(page, ())))
        for barrier in told:
            # One that is told may remove another: what was written to a table that is no longer one is data.
            if barrier.written is not None and physical < barrier.end and end > barrier.start:
                barrier.written(
                    max(physical, barrier.start) - barrier.start, min(end, barrier.end) - barrier.start
                )

    def _pages(self, physical: int, size: int) -> range:
        return range(
            physical - self._base >> PAGE_SHIFT, (physical + size - 1 - self._base >> PAGE_SHIFT) + 1
        )


def _nobody(physical: int, size: int) -> None:
    """Nobody wants to know."""

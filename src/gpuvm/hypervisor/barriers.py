"""Barriers: the pages of a guest's video memory whose writes by the guest's CPU the hypervisor has to see,
because a shadow was made of what they hold (instance blocks, page directories, page tables).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuvm.hypervisor.address import GuestMemory

PAGE_SHIFT = 12
CHUNK_SHIFT = 18
"""Barriers are looked up by pieces of 256 KiB, the size of the largest object."""

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
    base : int
        Card address of the first page.
    changed : callable
        Told (card address, bytes) when pages became guarded or were let go.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self.base = memory.base
        self.pages = bytearray(memory.size >> PAGE_SHIFT)
        self._by_chunk: dict[int, list[Barrier]] = {}
        self.changed: Callable[[int, int], None] = _nobody

    def add(self, physical: int, size: int, written: Written | None) -> Barrier:
        """Guard `size` bytes at a card address, all of them the guest's own."""
        barrier = Barrier(physical, physical + size, written)
        for chunk in self._chunks(physical, size):
            self._by_chunk.setdefault(chunk, []).append(barrier)
        first, last = self._span(physical, size)
        if self.pages.find(0, first, last) >= 0:
            self.pages[first:last] = b"\1" * (last - first)
            self.changed(physical, size)
        return barrier

    def remove(self, barrier: Barrier) -> None:
        """Let an object go."""
        barrier.written = None
        physical, size = barrier.start, barrier.end - barrier.start
        first, last = self._span(physical, size)
        self.pages[first:last] = bytes(last - first)
        for chunk in self._chunks(physical, size):
            there = self._by_chunk[chunk]
            there.remove(barrier)
            for other in there:
                start, end = self._span(other.start, other.end - other.start)
                start, end = max(start, first), min(end, last)
                if start < end:
                    self.pages[start:end] = b"\1" * (end - start)
            if not there:
                del self._by_chunk[chunk]
        if self.pages.find(0, first, last) >= 0:
            self.changed(physical, size)

    def hit(self, physical: int, length: int) -> bool:
        """Whether any page of a range of the guest's memory is guarded."""
        return self.pages.find(1, *self._span(physical, length)) >= 0

    def write(self, physical: int, length: int) -> None:
        """The CPU wrote a range: tell the owner of each object in it, once."""
        end = physical + length
        told: dict[Barrier, None] = {}
        for chunk in self._chunks(physical, length):
            for barrier in self._by_chunk.get(chunk, ()):
                if physical < barrier.end and end > barrier.start:
                    told[barrier] = None
        for barrier in told:
            # One that is told may remove another: what was written to a table that is no longer one is data.
            if barrier.written is not None:
                first, last = max(physical, barrier.start), min(end, barrier.end)
                barrier.written(first - barrier.start, last - barrier.start)

    def _span(self, physical: int, size: int) -> tuple[int, int]:
        """First page of a range, and the one behind its last."""
        return physical - self.base >> PAGE_SHIFT, (physical + size - 1 - self.base >> PAGE_SHIFT) + 1

    def _chunks(self, physical: int, size: int) -> range:
        first = physical - self.base
        return range(first >> CHUNK_SHIFT, (first + size - 1 >> CHUNK_SHIFT) + 1)


def _nobody(physical: int, size: int) -> None:
    """Nobody wants to know."""

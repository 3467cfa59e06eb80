"""Pages of a BAR that a guest reaches without a trap: what the VM's second-level page tables map.

A machine that can map and unmap pages of a BAR while its guest runs says so when a device is plugged in
(`gpuvm.pci.device.Remappable`). For such a machine a technique opens the window of BAR3, or of BAR1 too: pages
that show the guest's video memory, and no object that has a barrier, are mapped, and an access to them costs
the hypervisor nothing. Everything else traps.
"""

from __future__ import annotations

from gpuvm.hypervisor.barriers import Barriers
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.shadow import BarTable
from gpuvm.pci.memory import PAGE

PAGE_SHIFT = 12


class Window:
    """The mapped pages of one BAR: those of its table, less those with a barrier and those of its hole.

    Parameters
    ----------
    bar : int
        1 or 3.
    in_ranges : bool
        Whether one call to the VM's monitor maps a whole range; otherwise each page takes one.

    Attributes
    ----------
    opened : bool
        Whether anything is mapped at all.
    hole : range
        Pages that trap whatever they show.
    """

    def __init__(
        self, bar: int, table: BarTable, barriers: Barriers, counters: Counters, in_ranges: bool
    ) -> None:
        self.opened = False
        self.hole = range(0)
        self._bar = bar
        self._frames = table.frames
        self._pages = table.pages
        self._guarded = barriers.pages
        self._base = barriers.base
        self._counters = counters
        self._in_ranges = in_ranges

    def address(self, offset: int, size: int) -> int:
        """Card address of an access that the machine makes without the hypervisor, -1 if it traps."""
        page, within = offset >> PAGE_SHIFT, offset & PAGE - 1
        if not self.opened or not 0 <= page < self._pages or within + size > PAGE or page in self.hole:
            return -1
        frame: int = self._frames[page]
        if frame < 0 or self._guarded[frame - self._base >> PAGE_SHIFT]:
            return -1
        return frame + within

    def pieces(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Split a range of the BAR where mapped and trapped pages meet: (offset, length, card address or
        -1)."""
        out: list[tuple[int, int, int]] = []
        end = offset + length
        while offset < end:
            start, address = offset, self.address(offset, 1)
            offset = min(end, (offset >> PAGE_SHIFT) + 1 << PAGE_SHIFT)
            while offset < end and self.address(offset, 1) == (address + offset - start if address >= 0 else -1):
                offset = min(end, offset + PAGE)
            out.append((start, offset - start, address))
        return out

    def changed(self, pages: int, ranges: int = 1) -> None:
        """Count what mapping or unmapping so many pages, in so many ranges, takes."""
        if self.opened and pages:
            self._counters.map_calls += ranges if self._in_ranges else pages

    def count_read(self, length: int, width: int) -> None:
        """Count what a CPU's loads of `width` bytes make of a mapped range."""
        counters = self._counters
        if self._bar == 3:
            counters.direct_bar3_read += -(-length // width)
            counters.direct_bar3_bytes_read += length
        else:
            counters.direct_bar1_read += -(-length // width)
            counters.direct_bar1_bytes_read += length

    def count_write(self, length: int, width: int) -> None:
        """Count what a CPU's stores of `width` bytes make of a mapped range."""
        counters = self._counters
        if self._bar == 3:
            counters.direct_bar3_write += -(-length // width)
            counters.direct_bar3_bytes_written += length
        else:
            counters.direct_bar1_write += -(-length // width)
            counters.direct_bar1_bytes_written += length

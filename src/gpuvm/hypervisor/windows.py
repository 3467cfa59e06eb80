"""Pages of a BAR that a guest reaches without a trap: what the VM's second-level page tables map.

A machine that can map and unmap pages of a BAR while its guest runs says so when a device is plugged in
(`gpuvm.pci.device.Remappable`). For such a machine a technique fills the window of BAR3, or of BAR1 too; an
access to a mapped page goes to video memory and costs the hypervisor nothing. Everything else traps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.counters import Counters
from gpuvm.pci.memory import PAGE

PAGE_SHIFT = 12


class Window:
    """The mapped pages of one BAR.

    Parameters
    ----------
    bar : int
        1 or 3.
    pages : int
        4 KiB pages of the BAR.
    memory : memoryview of uint8
        Video memory.
    in_ranges : bool
        Whether one call to the VM's monitor maps a whole range; otherwise each page takes one.

    Attributes
    ----------
    frames : memoryview of int64
        Card address of each page, -1 where an access traps.
    """

    def __init__(
        self, bar: int, pages: int, memory: memoryview, counters: Counters, in_ranges: bool = False
    ) -> None:
        self.bar = bar
        self._bytes = memory
        self._counters = counters
        self._in_ranges = in_ranges
        self._frames: npt.NDArray[np.int64] = np.full(pages, -1, np.int64)
        self.frames: memoryview = self._frames.data
        self.mapped = 0

    def set(self, first: int, frames: npt.NDArray[np.int64]) -> None:
        """Map pages `first`... to card addresses, -1 for none."""
        held = self._frames[first : first + len(frames)]
        changed = held != frames
        if not changed.any():
            return
        self._counters.map_calls += self._calls(held, frames, changed)
        self.mapped += int(np.count_nonzero(frames >= 0)) - int(np.count_nonzero(held >= 0))
        held[:] = frames

    def clear(self) -> None:
        """Map nothing."""
        self._frames.fill(-1)
        self.mapped = 0

    def _calls(
        self, held: npt.NDArray[np.int64], frames: npt.NDArray[np.int64], changed: npt.NDArray[np.bool_]
    ) -> int:
        if not self._in_ranges:
            return int(np.count_nonzero(changed))
        # A range: changed pages in a row, all unmapped or all continuing each other in video memory.
        steps = np.diff(frames)
        joined = changed[1:] & changed[:-1] & ((steps == PAGE) | ((steps == 0) & (frames[1:] < 0)))
        return int(np.count_nonzero(changed)) - int(np.count_nonzero(joined))

    def pieces(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """Split a range of the BAR where mapped and trapped pages meet: (offset, length, card address or
        -1)."""
        out: list[tuple[int, int, int]] = []
        frames, pages, end = self.frames, len(self.frames), offset + length
        while offset < end:
            page = offset >> PAGE_SHIFT
            frame = frames[page] if 0 <= page < pages else -1
            start, address = offset, frame + (offset & 0xFFF) if frame >= 0 else -1
            offset = min(end, page + 1 << PAGE_SHIFT)
            while offset < end:
                page += 1
                following = frames[page] if 0 <= page < pages else -1
                if following != (address + offset - start if address >= 0 else -1):
                    break
                offset = min(end, page + 1 << PAGE_SHIFT)
            out.append((start, offset - start, address))
        return out

    def read(self, address: int, length: int) -> bytes:
        return bytes(self._bytes[address : address + length])

    def write(self, address: int, data: bytes | memoryview) -> None:
        self._bytes[address : address + len(data)] = data

    def count_read(self, length: int, width: int) -> None:
        """Count what a CPU's loads of `width` bytes make of a mapped range."""
        counters = self._counters
        if self.bar == 3:
            counters.direct_bar3_read += -(-length // width)
            counters.direct_bar3_bytes_read += length
        else:
            counters.direct_bar1_read += -(-length // width)
            counters.direct_bar1_bytes_read += length

    def count_write(self, length: int, width: int) -> None:
        """Count what a CPU's stores of `width` bytes make of a mapped range."""
        counters = self._counters
        if self.bar == 3:
            counters.direct_bar3_write += -(-length // width)
            counters.direct_bar3_bytes_written += length
        else:
            counters.direct_bar1_write += -(-length // width)
            counters.direct_bar1_bytes_written += length

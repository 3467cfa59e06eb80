"""What the guest's driver needs of the machine that it runs in: RAM at bus address 0, PCI devices,
interrupts.
`gpuvm.vmm.inprocess` implements it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from gpuvm.guest.ranges import OutOfSpace, RangeAllocator
from gpuvm.pci.device import PciDevice
from gpuvm.pci.memory import PAGE, MemoryRegion


class RamPages:
    """Page allocator of a machine's RAM: what an operating system's page allocator is to its drivers.

    A request is met with as few contiguous runs of pages as possible; freed pages read 0 again when they are
    handed out next and cost the host nothing meanwhile.

    Parameters
    ----------
    memory : MemoryRegion
        The RAM; bus address 0 is its first byte.
    reserved : int
        Bytes at the bottom that are never handed out (a bus address of 0 is a bug, not a buffer).
    """

    def __init__(self, memory: MemoryRegion, reserved: int = 1 << 16) -> None:
        self._memory = memory
        self._lock = threading.Lock()
        self._ranges = RangeAllocator(reserved, memory.size - reserved, PAGE, "the machine's RAM")

    @property
    def free_bytes(self) -> int:
        return self._ranges.free_bytes

    @property
    def used_bytes(self) -> int:
        return self._ranges.used_bytes

    def allocate(self, size: int, contiguous: bool = False) -> list[tuple[int, int]]:
        """Return runs (bus address, bytes) of zeroed whole pages, `size` bytes in all (rounded up to pages).

        Raises
        ------
        OutOfSpace
            If so many pages are not free, or not in one run when `contiguous`.
        """
        size = max(-(-size // PAGE) * PAGE, PAGE)
        with self._lock:
            if contiguous or self._ranges.largest() >= size:
                return [(self._ranges.allocate(size), size)]
            if self._ranges.free_bytes < size:
                raise OutOfSpace(self._ranges.name, size, self._ranges.free_bytes)
            runs = []
            while size:
                length = min(size, self._ranges.largest())
                runs.append((self._ranges.allocate(length), length))
                size -= length
            return runs

    def free(self, runs: Sequence[tuple[int, int]]) -> None:
        """Give runs back."""
        for address, size in runs:
            self._memory.zero(address, size)
        with self._lock:
            for address, size in runs:
                self._ranges.free(address, size)


class Machine(Protocol):
    """A machine as its drivers see it."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def memory(self) -> MemoryRegion:
        """RAM; its first byte is bus address 0."""

    @property
    def pages(self) -> RamPages:
        """The allocator of that RAM."""

    @property
    def devices(self) -> Sequence[PciDevice]:
        """The PCI functions plugged in, in slot order."""

    def on_interrupt(self, device: PciDevice, handler: Callable[[], None] | None) -> None:
        """Call `handler` at each interrupt (MSI or asserted INTx) of `device`; None stops it.

        The handler is a top half: it may be called from any thread, the device's own included, takes no lock
        that is held over a device access and touches no device.
        """

"""The shared page of a split driver: words in the guest's RAM through which both sides speak without a trap."""

from __future__ import annotations

from gpuvm.paravirt.abi import SHARED_SIZE
from gpuvm.pci.memory import BusMemory, DmaError, MemoryRegion


class SharedPage:
    """The page as the hypervisor reaches it. The guest may change any word at any time, and its machine may
    go away: then it reads 0.

    Parameters
    ----------
    address : int
        Bus address, a multiple of 4 KiB.

    Raises
    ------
    DmaError
        If no RAM of the virtual machine is there.
    """

    def __init__(self, bus: BusMemory, address: int) -> None:
        region, offset = bus.find(address)
        if offset + SHARED_SIZE > region.size:
            raise DmaError(address)
        self._region: MemoryRegion = region
        self._first = offset >> 2

    def __getitem__(self, word: int) -> int:
        try:
            value: int = self._region.word_view[self._first + word]
        except (IndexError, ValueError):
            return 0
        return value

    def __setitem__(self, word: int, value: int) -> None:
        try:
            self._region.word_view[self._first + word] = value & 0xFFFFFFFF
        except (IndexError, ValueError):
            return

    def increment(self, word: int) -> None:
        """Let a word grow that only the hypervisor writes."""
        self[word] = self[word] + 1

"""What the addresses of one VM mean on the machine: its part of video memory and the window of its RAM on
the GPU's bus.

A guest's VRAM address `a` is `base + a` on the card, a guest's bus address `a` is `window + a` on the
machine's bus. Both are range-checked here and nowhere else, so every shadow (registers, instance blocks,
page tables, playlists) agrees about them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.partition import Range
from gpuvm.pci.memory import BusMemory, DmaError, MemoryRegion

WINDOW_SHIFT = 33
"""A VM's window on the machine's bus is 8 GiB: page-table entries carry 40 address bits, so 127 VMs fit
beside the empty first window."""

WINDOW_SIZE = 1 << WINDOW_SHIFT
WINDOW_COUNT = 1 << (40 - WINDOW_SHIFT)


class MachineBus(BusMemory):
    """The bus that the physical GPU's DMA reaches: the RAM of each VM in a window of its own.

    A look-up goes to the VM's own `BusMemory`, so RAM that a VM gains or loses later is seen at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._windows: dict[int, BusMemory] = {}

    def attach(self, window: int, memory: BusMemory) -> None:
        """Let `memory` appear at bus address `window`, a multiple of `WINDOW_SIZE`."""
        self._windows[window >> WINDOW_SHIFT] = memory

    def detach(self, window: int) -> None:
        """Remove the window; DMA into it fails from now on."""
        self._windows.pop(window >> WINDOW_SHIFT, None)

    def find(self, address: int) -> tuple[MemoryRegion, int]:
        memory = self._windows.get(address >> WINDOW_SHIFT)
        if memory is None:
            return super().find(address)
        try:
            return memory.find(address & (WINDOW_SIZE - 1))
        except DmaError:
            raise DmaError(address) from None


class GuestMemory:
    """One VM's memory as the hypervisor sees it.

    Parameters
    ----------
    vram : MemoryRegion
        The card's video memory.
    part : Range
        The VM's bytes of it.
    window : int
        Bus address of the VM's RAM on the machine's bus.
    """

    def __init__(self, vram: MemoryRegion, part: Range, window: int) -> None:
        self.vram = vram
        self.base = part.base
        self.size = part.size
        self.window = window
        self.bus = BusMemory()

    def vram_address(self, guest: int, length: int = 1) -> int | None:
        """Address on the card of `length` bytes at the guest's VRAM address, or None if they are not all its
        own."""
        if guest < 0 or guest + length > self.size:
            return None
        return self.base + guest

    def guest_address(self, physical: int) -> int | None:
        """The guest's VRAM address of a card address, or None if it is not this guest's."""
        if self.base <= physical < self.base + self.size:
            return physical - self.base
        return None

    def ram(self) -> Sequence[tuple[int, int]]:
        """The VM's RAM as (first, last + 1) bus addresses inside its window."""
        return tuple(
            (base, min(base + region.size, WINDOW_SIZE))
            for region, base in self.bus.regions()
            if base < WINDOW_SIZE
        )

    def words(self, guest: int, count: int, system: bool = False) -> npt.NDArray[np.uint32] | None:
        """Copy `count` 32-bit words of VRAM, or of the VM's RAM if `system`; None if they are not all the
        guest's."""
        if guest & 3:
            return None
        if not system:
            at = self.vram_address(guest, 4 * count)
            return None if at is None else self.vram.words[at >> 2 : (at >> 2) + count].copy()
        if guest + 4 * count > WINDOW_SIZE:
            return None
        try:
            return np.frombuffer(self.bus.read(guest, 4 * count), dtype=np.uint32).copy()
        except DmaError:
            return None

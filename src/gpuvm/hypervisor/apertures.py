"""The hypervisor's own channels of the physical BAR1 and BAR3: one instance block and one page table each,
in which every VM has an arena."""

from __future__ import annotations

import struct

from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.physical import BAR1_INSTANCE, BAR3_INSTANCE, PhysicalGpu
from gpuvm.hypervisor.tables import DIRECTORY_BYTES, PDE_VRAM, SMALL_SHIFT, Words, put
from gpuvm.pci.memory import PAGE

INSTANCE_DIRECTORY = 0x200
INSTANCE_LIMIT = 0x208
FLUSH_HUB = 0x5
"""TLB trigger: all pages, also of the hub's clients (the BARs are one)."""


class Aperture:
    """One BAR of the physical GPU, mapped by a page table of the hypervisor.

    Parameters
    ----------
    memory : RangeAllocator
        The hypervisor's video memory.
    bar : int
        1 or 3.
    reserved : int
        Bytes at the start that are no arena (the poll area in BAR1).
    """

    def __init__(self, gpu: PhysicalGpu, memory: RangeAllocator, bar: int, reserved: int = 0) -> None:
        self.gpu = gpu
        self.size = gpu.bars[bar].size
        self._register = BAR1_INSTANCE if bar == 1 else BAR3_INSTANCE
        self._instance = memory.allocate(PAGE, PAGE)
        self._directory = memory.allocate(DIRECTORY_BYTES, PAGE)
        self._table = memory.allocate(max(8 * (self.size >> SMALL_SHIFT), PAGE), PAGE)
        self.arenas = RangeAllocator(f"bytes of BAR{bar}", reserved, self.size - reserved)
        words = gpu.vram.words
        self._entries = words[
            self._table.base >> 2 : (self._table.base >> 2) + 2 * (self.size >> SMALL_SHIFT)
        ].reshape(-1, 2)

    def start(self) -> None:
        """Write the instance block and an empty table, and point the GPU's register at it."""
        vram = self.gpu.vram
        for part in (self._instance, self._directory, self._table):
            vram.zero(part.base, part.size)
        struct.pack_into(
            "<QQ", vram.view, self._instance.base + INSTANCE_DIRECTORY, self._directory.base, self.size - 1
        )
        struct.pack_into("<II", vram.view, self._directory.base, 0, self._table.base >> 8 | PDE_VRAM)
        self.gpu.write(self._register, 0x80000000 | self._instance.base >> 12)
        self.flush()

    def map(self, offset: int, entries: Words) -> int:
        """Put translated page-table entries at an offset of the BAR; return how many changed. Needs a
        `flush`."""
        first = offset >> SMALL_SHIFT
        target = self._entries[first : first + len(entries)]
        return put(target, entries)

    def clear(self, part: Range) -> None:
        """Map nothing in a part of the BAR. Needs a `flush`."""
        self._entries[part.base >> SMALL_SHIFT : part.end >> SMALL_SHIFT] = 0

    def flush(self) -> None:
        """Drop the GPU's cached translations of this BAR."""
        self.gpu.flush_tlb(self._directory.base, FLUSH_HUB)

    def arena(self, size: int) -> Range | None:
        """Take an arena of `size` bytes, or less if less is free (halved down to 64 KiB), or None."""
        while size >= 1 << 16:
            if self.arenas.largest >= size:
                return self.arenas.allocate(size, PAGE)
            size >>= 1
        return None

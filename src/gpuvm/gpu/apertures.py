"""How a CPU reaches GPU memory: the PRAMIN window onto physical memory, and BAR1 and BAR3 through page
tables.

An access of 4 or 8 bytes is the hot path: one dictionary look-up and one word. Nothing here runs channel
work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuvm.gpu.paging import MmuFault
from gpuvm.gpu.physical import Target
from gpuvm.gpu.translations import Translations

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

PRAMIN_BASE, PRAMIN_SIZE = 0x700000, 0x100000

ENABLE = 1 << 31
FAULT_UNITS = {1: 4, 3: 5}
"""Fault unit of each BAR (rnndb GF100_VM_ENGINE)."""


class Pramin:
    """1 MiB of BAR0 that shows physical memory from a base that moves in steps of 64 KiB."""

    def __init__(self, gpu: Gf100) -> None:
        self._memory = gpu.memory
        self._target = int(Target.VRAM)
        self._base = 0
        self._words = gpu.memory.words(gpu.vram)
        self._watched = gpu.memory.watched
        self._limit = gpu.vram.size

    def move(self, value: int) -> None:
        """Take the value of PBUS.HOST_MEM."""
        self._base = (value & 0xFFFFFF) << 16
        self._target = value >> 24 & 3

    def close(self) -> None:
        """Let go of the memory."""
        self._words, self._limit = memoryview(b"").cast("I"), 0

    def read32(self, offset: int) -> int:
        """Read the word at `offset` in the window."""
        address = self._base + offset
        if self._target == 0 and address < self._limit:
            word: int = self._words[address >> 2]
            return word
        return self._memory.read32(self._target, address)

    def write32(self, offset: int, value: int) -> None:
        address = self._base + offset
        if self._target == 0 and address < self._limit:
            self._words[address >> 2] = value
            if self._watched[address >> 12]:
                self._memory.epoch += 1
        else:
            self._memory.write32(self._target, address, value)

    def read_block(self, offset: int, length: int) -> bytes:
        return self._memory.read(self._target, self._base + offset, length)

    def write_block(self, offset: int, data: memoryview) -> None:
        self._memory.write(self._target, self._base + offset, data)


class BarAperture:
    """One BAR that is translated by the page tables of an instance block.

    Parameters
    ----------
    bar : int
        1 or 3.
    """

    def __init__(self, gpu: Gf100, bar: int) -> None:
        self._gpu = gpu
        self.bar = bar
        self._space: Translations | None = None
        self.instance = 0

    def bind(self, value: int) -> None:
        """Take the value of PBUS.BARx_CHAN: instance block >> 12, aperture in bits 28-29, enable in 31."""
        if self._space is not None:
            self._gpu.mmu.release(self._space)
            self._space = None
        self.instance = (value & 0x0FFFFFFF) << 12
        if value & ENABLE:
            self._space = self._gpu.mmu.acquire(value >> 28 & 3, self.instance)

    def read32(self, offset: int) -> int:
        """Read the aligned word at `offset`; 0 and a fault if no page is there."""
        space = self._space
        if space is None:
            return 0
        try:
            return space.read32(offset)
        except MmuFault as fault:
            self._fault(fault)
            return 0

    def write32(self, offset: int, value: int) -> None:
        space = self._space
        if space is None:
            return
        try:
            space.write32(offset, value)
        except MmuFault as fault:
            self._fault(fault)

    def read_block(self, offset: int, length: int) -> bytes:
        """Read bytes; what is not mapped reads 0 and faults once."""
        space = self._space
        if space is None:
            return bytes(length)
        parts = []
        told = False
        while length > 0:
            count = min(length, 4096 - offset % 4096)
            try:
                region, start = space.place(offset >> 12, False)
                parts.append(region.read(start + offset % 4096, count))
            except MmuFault as fault:
                parts.append(bytes(count))
                told = told or self._fault(fault)
            offset += count
            length -= count
        return b"".join(parts)

    def write_block(self, offset: int, data: memoryview) -> None:
        """Write bytes; what is not mapped is dropped and faults once."""
        space = self._space
        if space is None:
            return
        done, told = 0, False
        while done < len(data):
            count = min(len(data) - done, 4096 - offset % 4096)
            try:
                region, start = space.place(offset >> 12, True)
                region.write(start + offset % 4096, data[done : done + count])
                self._gpu.memory.wrote(region, start, 4096)
            except MmuFault as fault:
                told = told or self._fault(fault)
            offset += count
            done += count

    def _fault(self, fault: MmuFault) -> bool:
        hub_client = 8 if fault.write else 7
        self._gpu.pfifo.report_fault(FAULT_UNITS[self.bar], self.instance, fault, hub_client, None)
        return True

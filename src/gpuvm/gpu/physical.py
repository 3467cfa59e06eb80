"""The memory that the GPU reaches by physical address: VRAM, and the machine's memory over the bus."""

from __future__ import annotations

import enum
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpuvm.pci.memory import BusMemory, DmaError, MemoryRegion


class Target(enum.IntEnum):
    """Aperture of a physical address, as instance blocks and page-table entries encode it (rnndb
    g80_mem_target).
    """

    VRAM = 0
    INVALID = 1
    SYSTEM = 2
    """The bus, CPU caches snooped."""
    SYSTEM_NOSNOOP = 3
    """The bus without snooping; the same bytes in this model."""


class PhysicalMemory:
    """VRAM and bus memory behind one look-up; what is not backed reads 0 and drops writes."""

    def __init__(self, vram: MemoryRegion) -> None:
        self.vram = vram
        self.bus = BusMemory()
        self._size = vram.size
        self.epoch = 0
        """Grows after each write that may have changed a page table (see `watch`)."""
        self.watched = bytearray(vram.size >> 12)
        """Per 4 KiB of VRAM: 1 where a page table lies that translations were read from."""
        self.watches = 0
        self.on_watch: Callable[[], None] = lambda: None

    def connect(self, bus: BusMemory) -> None:
        """Put another machine's memory behind the system targets."""
        self.bus = bus

    def watch(self, address: int, size: int) -> None:
        """Count writes to this range of VRAM in `epoch`: a page table is there."""
        first, last = address >> 12, min(address + size + 0xFFF, self._size) >> 12
        if self.watched.find(0, first, last) >= 0:
            self.watched[first:last] = b"\1" * (last - first)
            self.watches += 1
            self.on_watch()

    def wrote(self, region: MemoryRegion, offset: int, size: int) -> None:
        """Say that a range was written by other means than `write` and `write32`."""
        if region is self.vram and self.watched.find(1, offset >> 12, (offset + size + 0xFFF) >> 12) >= 0:
            self.epoch += 1

    def locate(self, target: int, address: int) -> tuple[MemoryRegion, int] | None:
        """Return the region and the offset in it of a physical address; None if nothing is there."""
        if target == Target.VRAM:
            return (self.vram, address) if 0 <= address < self._size else None
        if target == Target.INVALID:
            return None
        try:
            return self.bus.find(address)
        except DmaError:
            return None

    def words(self, region: MemoryRegion) -> memoryview:
        """The region as little-endian words, the fastest single-word access there is."""
        return region.word_view

    def array(self, target: int, address: int, size: int) -> npt.NDArray[np.uint64]:
        """Up to `size` bytes as 64-bit words, without a copy; shorter where the backing ends. `address` is
        8-aligned.
        """
        found = self.locate(target, address)
        if found is None:
            return np.empty(0, np.uint64)
        region, offset = found
        length = min(size, region.size - offset) & ~7
        return region.bytes[offset : offset + length].view(np.uint64)

    def read(self, target: int, address: int, size: int) -> bytes:
        """Read bytes, zeros where nothing is there."""
        parts = []
        while size > 0:
            found = self.locate(target, address)
            if found is None:
                length = min(size, 4096 - address % 4096)
                parts.append(bytes(length))
            else:
                region, offset = found
                length = min(size, region.size - offset)
                parts.append(region.read(offset, length))
            address += length
            size -= length
        return b"".join(parts)

    def read32(self, target: int, address: int) -> int:
        found = self.locate(target, address)
        if found is None or found[1] & 3:
            return 0
        word: int = self.words(found[0])[found[1] >> 2]
        return word

    def write32(self, target: int, address: int, value: int) -> None:
        found = self.locate(target, address)
        if found is not None and not found[1] & 3:
            self.words(found[0])[found[1] >> 2] = value
            self.wrote(found[0], found[1], 4)

    def write(self, target: int, address: int, data: memoryview) -> None:
        """Write bytes; what nothing backs is dropped."""
        done = 0
        while done < len(data):
            found = self.locate(target, address + done)
            if found is None:
                done += 4096 - (address + done) % 4096
                continue
            region, offset = found
            length = min(len(data) - done, region.size - offset)
            region.write(offset, data[done : done + length])
            self.wrote(region, offset, length)
            done += length

    def forget(self) -> None:
        """Let go of all memory; from now on nothing is there."""
        self._size = 0
        self.bus = BusMemory()

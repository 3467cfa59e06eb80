"""A GPU virtual address space: page directory, page tables, what is mapped where.

VRAM is mapped with 128 KiB pages, host memory with 4 KiB pages, in ranges that never share a directory
entry. Host buffers appear at their own host address.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from gpuvm.guest.driver.errors import OutOfMemory
from gpuvm.guest.driver.hardware import (
    BIG_PAGE,
    BIG_SHIFT,
    DIRECTORY_SPAN,
    PTE_PRESENT,
    PTE_READ_ONLY,
    PTE_SYSTEM_SNOOPED,
    SMALL_SHIFT,
)
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.tables import Entries, Tables
from gpuvm.guest.ranges import OutOfSpace, RangeAllocator

DEVICE_BASE = 0x2_0000_0000
"""Above the shared and local windows of generic addresses (0xfe000000 to 4 GiB), which must stay unmapped."""
DEVICE_SIZE = 0x40_0000_0000
SPACE_LIMIT = (1 << 40) - 1


class Space(ABC):
    """A GPU virtual address space: where what is mapped. How it is mapped, the way to the GPU says.

    Attributes
    ----------
    stale : bool
        Whether something changed that the GPU need not see before `flush`.
    """

    def __init__(self) -> None:
        self._device = RangeAllocator(DEVICE_BASE, DEVICE_SIZE, BIG_PAGE, "the GPU address space")
        self.stale = False
        self.mapped_bytes = 0

    def map_vram(self, pieces: Sequence[tuple[int, int]], read_only: bool = False) -> int:
        """Map VRAM pieces (address, bytes; whole big pages) one behind the other; returns the GPU virtual
        address.

        Raises
        ------
        OutOfMemory
            If the address space or the memory for page tables is used up; nothing is mapped then.
        """
        size = sum(length for _, length in pieces)
        try:
            va = self._device.allocate(size)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None
        try:
            self._set_vram(va, pieces, read_only)
        except OutOfMemory:
            self._device.free(va, size)
            raise
        self.mapped_bytes += size
        return va

    def unmap_vram(self, va: int, size: int) -> None:
        self._clear_vram(va, size)
        self._device.free(va, size)
        self.mapped_bytes -= size

    def map_host(self, buffer: HostBuffer, read_only: bool = False) -> None:
        """Map a host buffer at its own address."""
        self._set_host(buffer, read_only)
        self.mapped_bytes += buffer.size

    def unmap_host(self, buffer: HostBuffer) -> None:
        self._clear_host(buffer)
        self.mapped_bytes -= buffer.size

    @abstractmethod
    def _set_vram(self, va: int, pieces: Sequence[tuple[int, int]], read_only: bool) -> None: ...

    @abstractmethod
    def _clear_vram(self, va: int, size: int) -> None: ...

    @abstractmethod
    def _set_host(self, buffer: HostBuffer, read_only: bool) -> None: ...

    @abstractmethod
    def _clear_host(self, buffer: HostBuffer) -> None: ...

    @abstractmethod
    def flush(self) -> None:
        """Make every change since the last flush visible to the GPU."""

    @abstractmethod
    def close(self) -> None:
        """Free it (no channel may use it any more)."""


class AddressSpace(Space):
    """One page directory and its tables."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables
        self.directory = tables.new_directory()
        self._big: dict[int, int] = {}
        self._small: dict[int, int] = {}

    @property
    def directory_address(self) -> int:
        return self.tables.directory_address(self.directory)

    def _set_vram(self, va: int, pieces: Sequence[tuple[int, int]], read_only: bool) -> None:
        flags = PTE_PRESENT | (PTE_READ_ONLY if read_only else 0)
        entries = np.concatenate([_entries(at, length, BIG_SHIFT, flags) for at, length in pieces])
        self._write(va, entries, BIG_SHIFT, self._big)

    def _clear_vram(self, va: int, size: int) -> None:
        self._write(va, np.zeros(size >> BIG_SHIFT, np.uint64), BIG_SHIFT, self._big)

    def _set_host(self, buffer: HostBuffer, read_only: bool) -> None:
        flags = PTE_PRESENT | PTE_SYSTEM_SNOOPED | (PTE_READ_ONLY if read_only else 0)
        entries = np.concatenate([_entries(at, length, SMALL_SHIFT, flags) for at, length in buffer.runs])
        self._write(buffer.address, entries, SMALL_SHIFT, self._small)

    def _clear_host(self, buffer: HostBuffer) -> None:
        self._write(buffer.address, np.zeros(buffer.size >> SMALL_SHIFT, np.uint64), SMALL_SHIFT, self._small)

    def flush(self) -> None:
        if self.stale:
            self.stale = False
            self.tables.flush(self.directory)

    def close(self) -> None:
        self.tables.free(self.directory)
        for table in [*self._big.values(), *self._small.values()]:
            self.tables.free(table)
        self._big.clear()
        self._small.clear()

    def _write(self, va: int, entries: Entries, shift: int, tables: dict[int, int]) -> None:
        self.stale = True
        done = 0
        while done < len(entries):
            at = va + (done << shift)
            index = at // DIRECTORY_SPAN
            first = at % DIRECTORY_SPAN >> shift
            count = min(len(entries) - done, (DIRECTORY_SPAN >> shift) - first)
            table = tables.get(index)
            if table is None:
                table = self.tables.new_table(shift == BIG_SHIFT)
                tables[index] = table
                self.tables.link(self.directory, index, self._big.get(index), self._small.get(index))
            self.tables.write(table, first, entries[done : done + count])
            done += count


def _entries(address: int, size: int, shift: int, flags: int) -> Entries:
    count = size >> shift
    first = address >> 8 | flags
    return np.uint64(first) + (np.arange(count, dtype=np.uint64) << np.uint64(shift - 8))

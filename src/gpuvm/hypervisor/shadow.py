"""Shadow page tables: what the GPU walks instead of the tables that a guest wrote.

A `ShadowSpace` belongs to one guest page directory. `rebuild` reads the whole of the guest's tables, as the
original does at each TLB flush, and leaves a translated and range-checked copy in the hypervisor's video
memory. What it costs is counted as the original would have paid it: every directory entry and every entry of
every present table is visited, whether or not anything changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.tables import (
    DIRECTORY_BYTES,
    DIRECTORY_ENTRIES,
    LARGE_ENTRIES,
    LARGE_SHIFT,
    PDE_SIZE,
    PDE_TARGET,
    PDE_VRAM,
    PTE_APERTURE,
    PTE_APERTURE_SHIFT,
    PTE_PRESENT,
    SMALL_ENTRIES,
    SMALL_SHIFT,
    SPAN_SHIFT,
    Words,
    large_entries,
    put,
    table_address,
    translate,
)
from gpuvm.pci.memory import PAGE, MemoryRegion


class ShadowPool:
    """One VM's pages of the hypervisor's video memory, zeroed when handed out, up to a quota.

    Parameters
    ----------
    quota : int
        Bytes that this VM's shadows may take, so that a guest cannot starve the others.
    empty : int
        Card address of a page directory that maps nothing, for channels without an address space.
    """

    def __init__(self, vram: MemoryRegion, allocator: RangeAllocator, quota: int, empty: int) -> None:
        self.vram = vram
        self.empty = empty
        self._allocator = allocator
        self._ranges: dict[int, Range] = {}
        self.quota = quota
        self.used = 0

    def allocate(self, size: int) -> int:
        """Return the card address of `size` zeroed bytes (whole pages).

        Raises
        ------
        OutOfResourcesError
            If the quota or the hypervisor's memory does not suffice.
        """
        if not self.has(size):
            raise OutOfResourcesError(
                f"a guest's shadows must fit its quota of {self.quota} bytes, and {self.used} + {size} do not"
            )
        taken = self._allocator.allocate(size, PAGE)
        self.vram.zero(taken.base, taken.size)
        self._ranges[taken.base] = taken
        self.used += size
        return taken.base

    def has(self, size: int) -> bool:
        """Whether the quota leaves room for `size` bytes."""
        return self.used + size <= self.quota

    def release(self, address: int) -> None:
        """Give back what `allocate` returned."""
        taken = self._ranges.pop(address)
        self.used -= taken.size
        self.vram.zero(taken.base, taken.size)
        self._allocator.release(taken)

    def close(self) -> None:
        """Give everything back."""
        for address in list(self._ranges):
            self.release(address)


@dataclass(slots=True)
class _Table:
    """A shadow table, and what the last pass saw in the guest's so that an unchanged one is not translated
    again."""

    address: int
    guest: Words | None = None
    ram: Sequence[tuple[int, int]] = ()
    present: int = 0
    system: int = 0
    refused: int = 0


class ShadowSpace:
    """The shadow of one guest address space.

    Parameters
    ----------
    directory : int
        Guest VRAM address of the page directory.
    limit : int
        Last virtual address of the space, from the instance block.

    Attributes
    ----------
    address : int
        Card address of the shadow page directory: what the GPU is given.
    users : int
        Instance blocks that point here; the owner frees the space when none is left.
    """

    def __init__(self, memory: GuestMemory, pool: ShadowPool, directory: int, limit: int) -> None:
        self.memory = memory
        self.pool = pool
        self.directory = directory
        self.limit = limit
        self.users = 0
        self.address = pool.allocate(DIRECTORY_BYTES)
        self._tables: dict[tuple[int, bool], _Table] = {}
        self._retired: list[int] = []

    def close(self) -> None:
        """Free the shadow."""
        for table in self._tables.values():
            self.pool.release(table.address)
        self._tables.clear()
        self._release_retired()
        self.pool.release(self.address)

    def rebuild(self, counters: Counters) -> None:
        """One shadowing pass over the whole of the guest's tables."""
        counters.shadow_passes += 1
        counters.entries_visited += DIRECTORY_ENTRIES
        counters.shadow_reads += 2 * DIRECTORY_ENTRIES
        counters.shadow_writes += 2 * DIRECTORY_ENTRIES
        guest = self._read_directory(counters)
        shadow = np.zeros((DIRECTORY_ENTRIES, 2), np.uint32)
        ram = self.memory.ram()
        live: set[tuple[int, bool]] = set()
        for index in np.flatnonzero((guest[:, 0] | guest[:, 1]) & PDE_TARGET).tolist():
            big, small = (int(word) for word in guest[index])
            if big & PDE_TARGET:
                table = self._refresh(index, True, big, large_entries(big), LARGE_SHIFT, ram, live, counters)
                if table:
                    shadow[index, 0] = table >> 8 | big & PDE_SIZE | PDE_VRAM
            if small & PDE_TARGET:
                table = self._refresh(index, False, small, SMALL_ENTRIES, SMALL_SHIFT, ram, live, counters)
                if table:
                    shadow[index, 1] = table >> 8 | PDE_VRAM
        counters.entries_changed += self._store(self.address, shadow)
        # The GPU may be walking a table that just left the directory: freed after the flush that follows.
        self._release_retired()
        for key in self._tables.keys() - live:
            self._retired.append(self._tables.pop(key).address)

    def _release_retired(self) -> None:
        for address in self._retired:
            self.pool.release(address)
        self._retired.clear()

    def resolve(self, va: int) -> tuple[int, int] | None:
        """Walk the shadow as the GPU does: (card or machine bus address, aperture) of a virtual address, or
        None."""
        words = self.pool.vram.words
        at = (self.address >> 2) + 2 * (va >> SPAN_SHIFT)
        rest = va & ((1 << SPAN_SHIFT) - 1)
        for word, shift, count in (
            (int(words[at + 1]), SMALL_SHIFT, SMALL_ENTRIES),
            (int(words[at]), LARGE_SHIFT, large_entries(int(words[at]))),
        ):
            if not word & PDE_TARGET or rest >> shift >= count:
                continue
            entry = (table_address(word) >> 2) + 2 * (rest >> shift)
            if words[entry] & 1:
                address = (int(words[entry]) & 0xFFFFFFF0) << 8
                return address + (rest & ((1 << shift) - 1)), int(words[entry + 1]) >> 1 & 3
        return None

    def _read_directory(self, counters: Counters) -> Words:
        """The guest's directory, zero beyond its limit; all zero if it is not the guest's own."""
        count = min(DIRECTORY_ENTRIES, (self.limit >> SPAN_SHIFT) + 1)
        out = np.zeros((DIRECTORY_ENTRIES, 2), np.uint32)
        if self.directory:
            words = self.memory.words(self.directory, 2 * count)
            if words is None:
                counters.denied_addresses += 1
            else:
                out[:count] = words.reshape(count, 2)
        return out

    def _refresh(
        self,
        index: int,
        big: bool,
        word: int,
        count: int,
        shift: int,
        ram: Sequence[tuple[int, int]],
        live: set[tuple[int, bool]],
        counters: Counters,
    ) -> int:
        """Shadow one table of the directory; return the shadow's address, 0 if the guest may not have it."""
        system = word & PDE_TARGET != PDE_VRAM
        key = (index, big)
        table = self._tables.get(key)
        size = 8 * (LARGE_ENTRIES if big else SMALL_ENTRIES)
        if table is None and not self.pool.has(size):
            # Checked before the guest's table is read: a pass over aliased directories stays as cheap as its
            # shadows.
            counters.denied_addresses += 1
            return 0
        reach = min(count, ((self.limit - (index << SPAN_SHIFT)) >> shift) + 1)
        words = self.memory.words(table_address(word), 2 * reach, system)
        if words is None:
            counters.denied_addresses += 1
            return 0
        if table is None:
            # A shadow table of its own for each directory entry, also where two entries share the guest's.
            try:
                table = self._tables[key] = _Table(self.pool.allocate(size))
            except OutOfResourcesError:
                counters.denied_addresses += 1
                return 0
        live.add(key)
        if system:
            counters.hypercalls += -(-8 * reach // PAGE)
        if table.guest is None or table.ram != ram or not np.array_equal(table.guest, words):
            result = translate(words.reshape(reach, 2), self.memory, shift, ram)
            if table.guest is not None and len(table.guest) > 2 * reach:
                counters.entries_changed += self._store(table.address, np.zeros((count, 2), np.uint32))
            counters.entries_changed += self._store(table.address, result.words)
            table.guest, table.ram = words, ram
            table.present, table.system, table.refused = result.present, result.system, result.refused
        # The original reads word 1 and writes a second word only of entries that are present.
        counters.entries_visited += count
        counters.shadow_reads += count + table.present
        counters.shadow_writes += count + table.present
        counters.hypercalls += table.system
        counters.denied_addresses += table.refused
        return table.address

    def _store(self, address: int, entries: Words) -> int:
        """Put entries into the shadow; return how many differ from what was there."""
        target = self.pool.vram.words[address >> 2 : (address >> 2) + entries.size].reshape(-1, 2)
        return put(target, entries)


class BarTable:
    """How one of a guest's apertures (BAR1, BAR3) maps to video memory, as of the last TLB flush.

    Parameters
    ----------
    size : int
        Bytes of the aperture, at most 128 MiB: one directory entry.

    Attributes
    ----------
    frames : memoryview of int64
        Card address of each 4 KiB page of the aperture, -1 where nothing of the guest's is mapped.
    entries : uint32[pages, 2]
        The same pages as translated small-page entries.
    """

    def __init__(self, memory: GuestMemory, size: int) -> None:
        self.memory = memory
        self.pages = size >> SMALL_SHIFT
        self.directory: int | None = None
        self._addresses = np.full(self.pages, -1, np.int64)
        self.frames: memoryview = self._addresses.data
        self.entries = np.zeros((self.pages, 2), np.uint32)

    def clear(self) -> None:
        """Map nothing."""
        self.directory = None
        self._addresses.fill(-1)
        self.entries.fill(0)

    def put(self, first: int, entries: Words) -> int:
        """Set translated entries of pages `first`...; of those in system memory none is shown.

        Returns
        -------
        int
            Entries that changed.
        """
        entries = entries.copy()
        present = (entries[:, 0] & np.uint32(PTE_PRESENT)) != 0
        shown = present & ((entries[:, 1] >> np.uint32(PTE_APERTURE_SHIFT)) & np.uint32(PTE_APERTURE) == 0)
        entries[~shown] = 0
        end = first + len(entries)
        self._addresses[first:end] = np.where(
            shown, (entries[:, 0] >> np.uint32(4)).astype(np.int64) << np.int64(12), -1
        )
        return put(self.entries[first:end], entries)

    def rebuild(self, directory: int, limit: int, counters: Counters) -> None:
        """Read the tables of the aperture's first directory entry again.

        Parameters
        ----------
        directory : int
            Guest VRAM address of the page directory, 0 for none.
        limit : int
            Last address of the aperture, from the instance block.
        """
        pages = min(self.pages, (limit >> SMALL_SHIFT) + 1)
        counters.shadow_passes += 1
        counters.entries_visited += 1
        counters.shadow_reads += 2
        self.directory = directory
        words = self.memory.words(directory, 2) if directory else None
        entries = np.zeros((self.pages, 2), np.uint32)
        if words is None:
            counters.denied_addresses += 1
        else:
            big, small = int(words[0]), int(words[1])
            ratio = 1 << (LARGE_SHIFT - SMALL_SHIFT)
            if big & PDE_TARGET:
                count = min(large_entries(big), -(-pages // ratio))
                large = self._read(big, count, LARGE_SHIFT, counters)
                spread = np.repeat(large, ratio, axis=0)[:pages]
                step = np.tile(np.arange(ratio, dtype=np.uint32) << np.uint32(4), count)[:pages]
                spread[:, 0] += np.where(spread[:, 0] & 1, step[: len(spread)], 0).astype(np.uint32)
                entries[: len(spread)] = spread
            if small & PDE_TARGET:
                table = self._read(small, pages, SMALL_SHIFT, counters)
                present = np.flatnonzero(table[:, 0] & 1)
                entries[present] = table[present]
        # Only video memory can be seen through an aperture of a virtual GPU.
        where = np.flatnonzero(entries[:, 0] & 1)
        in_vram = (entries[where, 1] >> np.uint32(PTE_APERTURE_SHIFT)) & np.uint32(PTE_APERTURE) == 0
        entries[where[~in_vram]] = 0
        counters.entries_changed += put(self.entries, entries)
        where = where[in_vram]
        self._addresses.fill(-1)
        self._addresses[where] = (entries[where, 0] >> np.uint32(4)).astype(np.int64) << 12

    def _read(self, word: int, count: int, shift: int, counters: Counters) -> Words:
        system = word & PDE_TARGET != PDE_VRAM
        words = self.memory.words(table_address(word), 2 * count, system)
        if words is None:
            counters.denied_addresses += 1
            return np.zeros((count, 2), np.uint32)
        result = translate(words.reshape(count, 2), self.memory, shift, self.memory.ram())
        counters.entries_visited += count
        counters.shadow_reads += count + result.present
        counters.hypercalls += result.system
        counters.denied_addresses += result.refused
        return result.words

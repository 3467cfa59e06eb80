"""Shadow page tables: what the GPU walks instead of the tables that a guest wrote.

`ShadowTables` is the storage: a directory and tables in the hypervisor's video memory. A `ShadowSpace` fills it
from one guest page directory. Its `rebuild` reads the whole of the guest's tables, as the original does at
each TLB flush, and leaves a translated and range-checked copy. What it costs is counted as the original would
have paid it: every directory entry and every entry of every present table is visited, whether or not anything
changed. `gpuvm.hypervisor.tracked` has the space that follows single writes instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.tables import (
    APERTURE_VRAM,
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
    """One VM's pages of the hypervisor's video memory, up to a quota. They are zeroed when they come back, so
    what is handed out is zero.

    Parameters
    ----------
    quota : int
        Bytes that this VM's shadows may take, so that a guest cannot starve the others.
    empty : int
        Card address of a page directory that maps nothing, for channels without an address space.

    Attributes
    ----------
    used, peak : int
        Bytes handed out now, and at most so far.
    """

    def __init__(self, vram: MemoryRegion, allocator: RangeAllocator, quota: int, empty: int) -> None:
        self.vram = vram
        self.empty = empty
        self._allocator = allocator
        self._ranges: dict[int, Range] = {}
        self.quota = quota
        self.used = 0
        self.peak = 0

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
        self._ranges[taken.base] = taken
        self.used += size
        self.peak = max(self.peak, self.used)
        return taken.base

    def has(self, size: int) -> bool:
        """Whether the quota leaves room for `size` bytes."""
        return self.used + size <= self.quota

    def release(self, address: int, zeroed: bool = False) -> None:
        """Give back what `allocate` returned; `zeroed` if the caller has zeroed it."""
        taken = self._ranges.pop(address)
        self.used -= taken.size
        if taken.size == PAGE:
            self.vram.bytes[taken.base : taken.end] = 0
        elif not zeroed:
            self.vram.zero(taken.base, taken.size)
        self._allocator.release(taken)

    def close(self) -> None:
        """Give everything back."""
        for address in list(self._ranges):
            self.release(address)


class ShadowTables:
    """A page directory and its tables in the hypervisor's video memory.

    Attributes
    ----------
    address : int
        Card address of the directory: what the GPU is given.
    """

    def __init__(self, pool: ShadowPool) -> None:
        self.pool = pool
        self.address = pool.allocate(DIRECTORY_BYTES)
        self.directory_words = self.words_at(self.address, DIRECTORY_ENTRIES)
        """uint32[8192, 2], as the GPU reads it."""
        self._retired: list[int] = []
        self._walked: list[int] = []

    def words_at(self, address: int, entries: int) -> Words:
        """The entries at a card address, uint32[n, 2], not copied."""
        return self.pool.vram.words[address >> 2 : (address >> 2) + 2 * entries].reshape(-1, 2)

    def new_table(self, big: bool) -> int:
        """Return the card address of an empty table.

        Raises
        ------
        OutOfResourcesError
            If the VM's quota does not suffice.
        """
        return self.pool.allocate(8 * (LARGE_ENTRIES if big else SMALL_ENTRIES))

    def retire(self, address: int) -> None:
        """Free a table that left the directory, once the GPU cannot be walking it any more."""
        self._retired.append(address)

    def reclaim(self) -> None:
        """Free what was retired before the last call: the TLB was flushed since."""
        for address in self._walked:
            self.pool.release(address)
        self._walked, self._retired = self._retired, []

    def close(self, zeroed: bool = False) -> None:
        """Free the directory, `zeroed` or not, and what was retired."""
        self.reclaim()
        self.reclaim()
        self.pool.release(self.address, zeroed)

    def resolve(self, va: int) -> tuple[int, int] | None:
        """Walk the shadow as the GPU does: (card or machine bus address, aperture) of a virtual address, or
        None."""
        words = self.pool.vram.words
        big, small = (int(word) for word in self.directory_words[va >> SPAN_SHIFT])
        rest = va & ((1 << SPAN_SHIFT) - 1)
        for word, shift, count in (
            (small, SMALL_SHIFT, SMALL_ENTRIES),
            (big, LARGE_SHIFT, large_entries(big)),
        ):
            if not word & PDE_TARGET or rest >> shift >= count:
                continue
            entry = (table_address(word) >> 2) + 2 * (rest >> shift)
            if words[entry] & 1:
                address = (int(words[entry]) & 0xFFFFFFF0) << 8
                return address + (rest & ((1 << shift) - 1)), int(words[entry + 1]) >> 1 & 3
        return None


class GuestSpace(ShadowTables, ABC):
    """The shadow of one guest address space.

    Parameters
    ----------
    directory : int
        Guest VRAM address of the page directory.
    limit : int
        Last virtual address of the space, from the instance block.

    Attributes
    ----------
    users : int
        Instance blocks that point here; the owner frees the space when none is left.
    dirty : bool
        Whether the guest flushed its TLB and the shadow did not follow yet.
    """

    def __init__(self, memory: GuestMemory, pool: ShadowPool, directory: int, limit: int) -> None:
        super().__init__(pool)
        self.memory = memory
        self.directory = directory
        self.limit = limit
        self.users = 0
        self.dirty = False

    @abstractmethod
    def synchronize(self, counters: Counters) -> None:
        """Make the shadow say what the guest's tables say now."""


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


class ShadowSpace(GuestSpace):
    """A space that is brought in step by whole passes.

    Attributes
    ----------
    objects : set of (int, int)
        Guest VRAM address and bytes of the directory and of each table that the last pass read.
    """

    def __init__(self, memory: GuestMemory, pool: ShadowPool, directory: int, limit: int) -> None:
        super().__init__(memory, pool, directory, limit)
        self.objects: set[tuple[int, int]] = set()
        self._tables: dict[tuple[int, bool], _Table] = {}

    def close(self, zeroed: bool = False) -> None:
        """Free the shadow."""
        for table in self._tables.values():
            self.pool.release(table.address)
        self._tables.clear()
        super().close(zeroed)

    def synchronize(self, counters: Counters) -> None:
        self.dirty = False
        self.rebuild(counters)

    def rebuild(self, counters: Counters) -> None:
        """One shadowing pass over the whole of the guest's tables."""
        counters.shadow_passes += 1
        counters.entries_visited += DIRECTORY_ENTRIES
        counters.shadow_reads += 2 * DIRECTORY_ENTRIES
        counters.shadow_writes += 2 * DIRECTORY_ENTRIES
        self.objects = set()
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
        counters.entries_changed += put(self.directory_words, shadow)
        for key in self._tables.keys() - live:
            self.retire(self._tables.pop(key).address)
        self.reclaim()

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
                self.objects.add((self.directory, 8 * count))
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
                table = self._tables[key] = _Table(self.new_table(big))
            except OutOfResourcesError:
                counters.denied_addresses += 1
                return 0
        live.add(key)
        if system:
            counters.hypercalls += -(-8 * reach // PAGE)
        else:
            self.objects.add((table_address(word), 8 * reach))
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
        return put(self.words_at(address, len(entries)), entries)


class BarTable:
    """How one of a guest's apertures (BAR1, BAR3) maps to video memory, as of the last TLB flush.

    Parameters
    ----------
    size : int
        Bytes of the aperture, at most 128 MiB: one directory entry.

    Attributes
    ----------
    addresses : int64[pages]
        Card address of each 4 KiB page of the aperture, -1 where nothing of the guest's is mapped.
    frames : memoryview of int64
        The same.
    entries : uint32[pages, 2]
        The same pages as translated small-page entries.
    """

    def __init__(self, memory: GuestMemory, size: int) -> None:
        self.memory = memory
        self.pages = size >> SMALL_SHIFT
        self.directory: int | None = None
        self.addresses = np.full(self.pages, -1, np.int64)
        self.frames: memoryview = self.addresses.data
        self.entries = np.zeros((self.pages, 2), np.uint32)
        self.reach = 0
        """Pages up to the aperture's limit."""
        self.tables: tuple[int, int] = (0, 0)
        """The two words of the directory entry."""

    def clear(self) -> None:
        """Map nothing."""
        self.directory = None
        self.reach = 0
        self.tables = (0, 0)
        self.addresses.fill(-1)
        self.entries.fill(0)

    def rebuild(self, directory: int, limit: int, counters: Counters) -> None:
        """Read the tables of the aperture's first directory entry again.

        Parameters
        ----------
        directory : int
            Guest VRAM address of the page directory, 0 for none.
        limit : int
            Last address of the aperture, from the instance block.
        """
        counters.shadow_passes += 1
        counters.entries_visited += 1
        counters.shadow_reads += 2
        self.directory = directory
        self.reach = min(self.pages, (limit >> SMALL_SHIFT) + 1)
        words = self.memory.words(directory, 2) if directory else None
        counters.denied_addresses += words is None
        self.tables = (int(words[0]), int(words[1])) if words is not None else (0, 0)
        self.update(0, self.reach, counters)
        self.put(self.reach, np.zeros((self.pages - self.reach, 2), np.uint32))

    def update(self, first: int, count: int, counters: Counters) -> int:
        """Read the tables' entries for pages `first`... of the aperture again; return how many changed."""
        big, small = self.tables
        entries: Words | None = None
        if big & PDE_TARGET and count:
            ratio = 1 << (LARGE_SHIFT - SMALL_SHIFT)
            start, end = first // ratio, min(-(-(first + count) // ratio), large_entries(big))
            if end > start:
                entries = np.zeros((count, 2), np.uint32)
                large = self._read(big, start, end - start, LARGE_SHIFT, counters)
                pages = np.arange(first, min(first + count, end * ratio))
                spread = large[pages // ratio - start]
                step = (pages % ratio).astype(np.uint32) << np.uint32(4)
                spread[:, 0] += np.where(spread[:, 0] & 1, step, 0).astype(np.uint32)
                entries[: len(spread)] = spread
        if small & PDE_TARGET and count:
            table = self._read(small, first, count, SMALL_SHIFT, counters)
            if entries is None:
                entries = table
            else:
                np.copyto(entries, table, where=(table[:, :1] & np.uint32(PTE_PRESENT)) != 0)
        changed = self.put(first, np.zeros((count, 2), np.uint32) if entries is None else entries)
        counters.entries_changed += changed
        return changed

    def put(self, first: int, entries: Words) -> int:
        """Set translated entries of pages `first`...; of those in system memory none is shown.

        Returns
        -------
        int
            Entries that changed.
        """
        present = (entries[:, 0] & np.uint32(PTE_PRESENT)) != 0
        aperture = (entries[:, 1] >> np.uint32(PTE_APERTURE_SHIFT)) & np.uint32(PTE_APERTURE)
        shown = present & (aperture == APERTURE_VRAM)
        if not shown.all():
            entries = np.where(shown[:, None], entries, np.uint32(0))
        changed = put(self.entries[first : first + len(entries)], entries)
        if changed:
            addresses = (entries[:, 0] >> np.uint32(4)).astype(np.int64) << np.int64(12)
            addresses[~shown] = -1
            self.addresses[first : first + len(entries)] = addresses
        return changed

    def objects(self) -> set[tuple[int, int]]:
        """Guest VRAM address and bytes of the directory entry and of the tables that are read."""
        found = {(self.directory, 8)} if self.directory else set()
        for word, shift in zip(self.tables, (LARGE_SHIFT, SMALL_SHIFT), strict=True):
            if word & PDE_TARGET == PDE_VRAM and self.reach:
                entries = -(-(self.reach << SMALL_SHIFT) >> shift)
                found.add((table_address(word), 8 * entries))
        return {(at, size) for at, size in found if self.memory.vram_address(at, size) is not None}

    def _read(self, word: int, first: int, count: int, shift: int, counters: Counters) -> Words:
        system = word & PDE_TARGET != PDE_VRAM
        words = self.memory.words(table_address(word) + 8 * first, 2 * count, system)
        if words is None:
            counters.denied_addresses += 1
            return np.zeros((count, 2), np.uint32)
        result = translate(words.reshape(count, 2), self.memory, shift, self.memory.ram())
        counters.entries_visited += count
        counters.shadow_reads += count + result.present
        counters.hypercalls += result.system
        counters.denied_addresses += result.refused
        return result.words

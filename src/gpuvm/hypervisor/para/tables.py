"""Page directories and tables of a para-virtual guest: the hypervisor owns their memory, the guest names them
by opaque ids and passes entries, which are checked and translated when they arrive. Nothing is ever scanned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.para.calls import Refused
from gpuvm.hypervisor.shadow import ShadowPool
from gpuvm.hypervisor.tables import (
    DIRECTORY_ENTRIES,
    LARGE_ENTRIES,
    LARGE_SHIFT,
    PDE_VRAM,
    PTE_PRESENT,
    SMALL_ENTRIES,
    SMALL_SHIFT,
    Words,
    put,
    translate,
    translate_one,
)
from gpuvm.paravirt.abi import Kind, Result

FRAMES_A_CALL = 512
"""Guest frames whose machine frames one hypercall finds out: a page of answers."""

Entries = npt.NDArray[np.uint64]


class Table:
    """A page table. `links` counts the directory entries that name it, `below` masks the address bits of an
    entry that must be zero for its page's size."""

    __slots__ = ("address", "below", "big", "count", "id", "links", "shift", "words")

    def __init__(self, number: int, big: bool, address: int, words: Words) -> None:
        self.id = number
        self.big = big
        self.address = address
        self.shift = LARGE_SHIFT if big else SMALL_SHIFT
        self.below = (1 << self.shift - 8) - (1 << SMALL_SHIFT - 8)
        self.count = LARGE_ENTRIES if big else SMALL_ENTRIES
        self.words = words
        self.links = 0


class Directory:
    """A page directory.

    Attributes
    ----------
    entries : dict
        Index -> (big-page table, small-page table).
    users : int
        Channels and BARs that have it set.
    unlinked : bool
        Whether it lost a table since its last flush: the GPU may still walk that one.
    """

    __slots__ = ("address", "entries", "id", "unlinked", "users", "words")

    def __init__(self, number: int, address: int, words: Words) -> None:
        self.id = number
        self.address = address
        self.words = words
        self.entries: dict[int, tuple[Table | None, Table | None]] = {}
        self.users = 0
        self.unlinked = False


class TableMemory:
    """All directories and tables of one VM.

    Parameters
    ----------
    pool : ShadowPool
        Their memory, up to the VM's quota.
    flush : callable
        Called with the card address of a directory whose cached translations must go.

    Notes
    -----
    Every method that takes what a guest said raises `Refused`, and has changed nothing then.
    """

    def __init__(
        self, memory: GuestMemory, pool: ShadowPool, counters: Counters, flush: Callable[[int], None]
    ) -> None:
        self._memory = memory
        self._pool = pool
        self._counters = counters
        self._flush = flush
        self._objects: dict[int, Table | Directory] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._objects)

    def allocate(self, kind: int) -> int:
        """Make an object of a `Kind`; returns its id, which is never used again."""
        if kind not in (Kind.DIRECTORY, Kind.BIG_TABLE, Kind.SMALL_TABLE):
            raise Refused(Result.BAD_ARGUMENT)
        entries = {
            Kind.DIRECTORY: DIRECTORY_ENTRIES, Kind.BIG_TABLE: LARGE_ENTRIES, Kind.SMALL_TABLE: SMALL_ENTRIES,
        }[Kind(kind)]  # fmt: skip
        try:
            address = self._pool.allocate(8 * entries)
        except OutOfResourcesError:
            raise Refused(Result.NO_MEMORY) from None
        words = self._pool.vram.words[address >> 2 : (address >> 2) + 2 * entries].reshape(-1, 2)
        number = self._next
        self._next += 1
        if kind == Kind.DIRECTORY:
            self._objects[number] = Directory(number, address, words)
        else:
            self._objects[number] = Table(number, kind == Kind.BIG_TABLE, address, words)
        return number

    def free(self, number: int) -> None:
        """Free an object that nothing uses."""
        found = self._objects.get(number)
        if found is None:
            raise Refused(Result.BAD_ID)
        if isinstance(found, Directory):
            if found.users:
                raise Refused(Result.BUSY)
            self._flush(found.address)
            for tables in found.entries.values():
                for table in tables:
                    if table is not None:
                        table.links -= 1
        else:
            if found.links:
                raise Refused(Result.BUSY)
            for other in self._objects.values():
                if isinstance(other, Directory) and other.unlinked:
                    self.flush(other)
        del self._objects[number]
        self._pool.release(found.address)

    def close(self) -> None:
        """Free everything; the GPU uses none of it any more."""
        for found in self._objects.values():
            self._pool.release(found.address)
        self._objects.clear()

    def directory(self, number: int) -> Directory:
        """Return the directory with an id."""
        found = self._objects.get(number)
        if not isinstance(found, Directory):
            raise Refused(Result.BAD_ID)
        return found

    def table(self, number: int) -> Table:
        """Return the table with an id."""
        found = self._objects.get(number)
        if not isinstance(found, Table):
            raise Refused(Result.BAD_ID)
        return found

    def flush(self, directory: Directory) -> None:
        """Drop what the GPU cached of an address space."""
        directory.unlinked = False
        self._flush(directory.address)

    # Directory entries

    def link(self, directory: Directory, first: int, pairs: Sequence[tuple[int, int]]) -> None:
        """Set directory entries `first`... to pairs of ids (big, small), 0 for no table."""
        if not 0 <= first <= DIRECTORY_ENTRIES - len(pairs):
            raise Refused(Result.BAD_ARGUMENT)
        wanted = [(self._named(big, True), self._named(small, False)) for big, small in pairs]
        for index, tables in enumerate(wanted, first):
            old = directory.entries.pop(index, (None, None))
            for table in tables:
                if table is not None:
                    table.links += 1
            for table in old:
                if table is not None:
                    table.links -= 1
                    directory.unlinked |= table not in tables
            if tables != (None, None):
                directory.entries[index] = tables
            words = [0 if table is None else table.address >> 8 | PDE_VRAM for table in tables]
            directory.words[index] = words
        self._counters.call_entries += len(wanted)
        self._counters.shadow_writes += 2 * len(wanted)

    def _named(self, number: int, big: bool) -> Table | None:
        if number == 0:
            return None
        table = self.table(number)
        if table.big != big:
            raise Refused(Result.BAD_ID)
        return table

    # Entries

    def set_one(self, table: Table, index: int, entry: int) -> None:
        """Set one entry."""
        if not 0 <= index < table.count:
            raise Refused(Result.BAD_ARGUMENT)
        words = translate_one(entry, self._memory, table.shift, self._memory.ram())
        if words is None or (entry & PTE_PRESENT and entry & table.below):
            self._counters.denied_addresses += 1
            raise Refused(Result.BAD_ADDRESS)
        table.words[index] = words
        self._count(1, int(words[1] >> 1 & 2 != 0))

    def set_many(self, table: Table, first: int, entries: Entries) -> None:
        """Set entries `first`...; all are checked before any is set."""
        self._check(table, first, len(entries))
        result = translate(
            entries.view(np.uint32).reshape(-1, 2), self._memory, table.shift, self._memory.ram()
        )
        odd = np.count_nonzero(entries & np.uint64(table.below) * (entries & np.uint64(PTE_PRESENT)))
        if result.refused or odd:
            self._counters.denied_addresses += result.refused + int(odd)
            raise Refused(Result.BAD_ADDRESS)
        put(table.words[first : first + len(entries)], result.words)
        self._count(len(entries), -(-result.system // FRAMES_A_CALL))

    def set_run(self, table: Table, first: int, count: int, entry: int) -> None:
        """Set entries `first`... to pages that follow each other, from `entry` on."""
        self._check(table, first, count)
        step = 1 << (table.shift - 8)
        last = entry + step * (count - 1)
        # The pages between two that lie in one piece of the guest's memory lie there too.
        words = translate_one(entry, self._memory, table.shift, self._memory.ram())
        ends = translate_one(last, self._memory, table.shift, self._memory.ram())
        odd = entry & PTE_PRESENT and entry & table.below
        if last >> 32 != entry >> 32 or words is None or ends is None or odd:
            self._counters.denied_addresses += 1
            raise Refused(Result.BAD_ADDRESS)
        if entry & PTE_PRESENT and not self._together(entry, last):
            entries = np.uint64(entry) + np.arange(count, dtype=np.uint64) * np.uint64(step)
            self.set_many(table, first, entries)
            return
        low = table.words[first : first + count, 0]
        if words[0]:
            low[:] = np.arange(words[0], words[0] + step * count, step, dtype=np.uint64)
        else:
            low[:] = 0
        table.words[first : first + count, 1] = words[1]
        self._count(count, -(-count // FRAMES_A_CALL) if entry >> 32 & 6 else 0)

    def _together(self, entry: int, last: int) -> bool:
        """Whether the pages of two entries, each the guest's own, lie in one piece of its memory."""
        if not entry >> 32 & 6:
            return True
        frame, end = (each >> 4 & 0xFFFFFFF for each in (entry, last))
        return any(first >> 12 <= frame and end < last_one >> 12 for first, last_one in self._memory.ram())

    def clear(self, table: Table, first: int, count: int) -> None:
        """Clear entries."""
        self._check(table, first, count)
        table.words[first : first + count] = 0
        self._count(count, 0)

    def _check(self, table: Table, first: int, count: int) -> None:
        if not (count > 0 and 0 <= first <= table.count - count):
            raise Refused(Result.BAD_ARGUMENT)

    def _count(self, entries: int, system: int) -> None:
        counters = self._counters
        counters.call_entries += entries
        counters.shadow_writes += 2 * entries
        counters.hypercalls += system

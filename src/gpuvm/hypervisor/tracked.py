"""Shadow page tables that follow the guest's single writes.

The pages that hold a guest's directories and tables are guarded, so each write of the guest's CPU to an entry
is seen, translated, checked and carried over at once: a TLB flush finds the shadow in step and costs no pass.
Two kinds of tables can change unseen, and are compared in bulk when they are about to be used: those in the
machine's RAM, and those that the guest's own GPU work may write (`GpuPages`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.barriers import Barrier, Barriers
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.shadow import BarTable, GuestSpace, ShadowPool
from gpuvm.hypervisor.tables import (
    APERTURE_VRAM,
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
    straight,
    table_address,
    translate,
    translate_one,
)

FEW = 4
"""Entries up to which a write is translated one by one."""

FRAMES_A_CALL = 512
"""Guest frames whose machine frames one hypercall finds out: a page of answers."""

_MANY_RUNS = 32

ENTRY = 8


class GpuPages:
    """Pages of a guest's video memory that its GPU work may write: those that a shadow entry ever named.

    A page is forgotten when the guest has no address space left.

    Attributes
    ----------
    flags : bytearray
        By 4 KiB page of the guest's video memory.
    """

    def __init__(self, memory: GuestMemory) -> None:
        self._first = memory.base >> SMALL_SHIFT
        self.flags = bytearray(memory.size >> SMALL_SHIFT)
        self._array: npt.NDArray[np.uint8] = np.frombuffer(self.flags, np.uint8)
        self._spaces = 0
        self._used = (len(self.flags), 0)
        """First page that was noted, and the one behind the last."""

    def opened(self) -> None:
        """An address space more."""
        self._spaces += 1

    def closed(self) -> None:
        """An address space less."""
        self._spaces -= 1
        if not self._spaces:
            self._array[slice(*self._used)] = 0
            self._used = (len(self.flags), 0)

    def may_write(self, guest: int, size: int) -> bool:
        """Whether GPU work may write in a range of the guest's video memory."""
        return self.flags.find(1, guest >> SMALL_SHIFT, (guest + size - 1 >> SMALL_SHIFT) + 1) >= 0

    def note_one(self, low: int, high: int, frames: int) -> None:
        """Take note of a translated entry for `frames` small pages."""
        if low & PTE_PRESENT and high >> PTE_APERTURE_SHIFT & PTE_APERTURE == APERTURE_VRAM:
            self.note_run((low >> 4) - self._first, frames)

    def note(self, entries: Words, frames: int) -> None:
        """Take note of translated entries, each for `frames` small pages."""
        aperture = entries[:, 1] >> np.uint32(PTE_APERTURE_SHIFT) & np.uint32(PTE_APERTURE)
        named = entries[:, 0][(entries[:, 0] & np.uint32(PTE_PRESENT) != 0) & (aperture == APERTURE_VRAM)]
        if not len(named):
            return
        firsts = (named >> np.uint32(4)).astype(np.int64) - self._first
        breaks = np.flatnonzero(np.diff(firsts) != frames) + 1
        if len(breaks) <= _MANY_RUNS:
            edges = [0, *breaks.tolist(), len(firsts)]
            for start, end in pairwise(edges):
                self.note_run(int(firsts[start]), (end - start) * frames)
        else:
            self._array[(firsts[:, None] + np.arange(frames)).ravel()] = 1
            self._note_span(int(firsts.min()), int(firsts.max()) + frames)

    def note_run(self, first: int, pages: int) -> None:
        """Take note of small pages of the guest's video memory."""
        self._array[first : first + pages] = 1
        self._note_span(first, first + pages)

    def _note_span(self, first: int, end: int) -> None:
        self._used = (min(self._used[0], first), max(self._used[1], end))


@dataclass(slots=True)
class Tracking:
    """What the tracked tables of one guest share.

    Attributes
    ----------
    flush : callable
        Called with the card address of a shadow directory whose cached translations must go.
    stored : callable
        Called with card address and bytes of a shadow that was changed.
    """

    memory: GuestMemory
    pool: ShadowPool
    barriers: Barriers
    counters: Counters
    flush: Callable[[int], None]
    stored: Callable[[int, int], None]
    gpu_pages: GpuPages = field(init=False)

    def __post_init__(self) -> None:
        self.gpu_pages = GpuPages(self.memory)


class _Table:
    """One guest table under one directory entry, and its shadow.

    Attributes
    ----------
    guest : int
        Address of the guest's table, in its video memory or, if `system`, in its RAM.
    reach : int
        Entries that the space's limit lets the GPU use.
    seen : uint32[reach, 2] or None
        What was translated last, of a table that may change unseen.

    Notes
    -----
    Of the shadow only entries `_first` to `_end - 1` were ever set; the rest is zero.
    """

    __slots__ = (
        "_end", "_entries64", "_first", "_frames", "_ram", "_shift", "_tracking", "address", "barrier", "big",
        "guest", "quads", "reach", "seen", "shadow", "system",
    )  # fmt: skip

    def __init__(self, tracking: Tracking, big: bool, address: int, shadow: Words) -> None:
        self._tracking = tracking
        self.big = big
        self._shift = LARGE_SHIFT if big else SMALL_SHIFT
        self._frames = 1 << self._shift - SMALL_SHIFT
        self._ram: Sequence[tuple[int, int]] = ()
        self.address = address
        self.shadow = shadow
        self._entries64 = shadow.view(np.uint64)[:, 0]
        self.quads = self._entries64.data
        self._first, self._end = len(shadow), 0
        self.guest = -1
        self.reach = 0
        self.system = False
        self.barrier: Barrier | None = None
        self.seen: Words | None = None

    def follow(self, guest: int, reach: int, system: bool, ram: Sequence[tuple[int, int]]) -> None:
        """Take over a guest's table that was checked to be the guest's own."""
        self.ignore()
        self.guest, self.reach, self.system = guest, reach, system
        if not system:
            memory = self._tracking.memory
            self.barrier = self._tracking.barriers.add(memory.base + guest, ENTRY * reach, self.written)
        if self._end > reach:
            self._entries64[reach : self._end] = 0
            self._tracking.stored(self.address + ENTRY * reach, ENTRY * (self._end - reach))
        self.compare(ram)

    def ignore(self) -> None:
        """Let the guest's table go."""
        if self.barrier is not None:
            self._tracking.barriers.remove(self.barrier)
            self.barrier = None
        self.seen = None

    def empty(self) -> None:
        """Zero the shadow, before its memory goes back."""
        self._entries64[self._first : self._end] = 0

    @property
    def unseen(self) -> bool:
        """Whether the table may change without a write that traps."""
        return self.system or self._tracking.gpu_pages.may_write(self.guest, ENTRY * self.reach)

    def written(self, first: int, end: int) -> None:
        """Carry bytes of the guest's table over that its CPU wrote."""
        start, stop = first // ENTRY, min(-(-end // ENTRY), self.reach)
        if start >= stop:
            return
        tracking = self._tracking
        tracking.counters.table_writes += 1
        tracking.counters.entries_visited += stop - start
        if self.seen is not None:
            self.seen[start:stop] = self._entries(start, stop)
        if stop - start <= FEW:
            self._carry_few(start, stop)
        else:
            self._carry(start, self._entries(start, stop))

    def compare(self, ram: Sequence[tuple[int, int]]) -> None:
        """Look at the whole of the guest's table again."""
        tracking, reach = self._tracking, self.reach
        if self.system:
            words = tracking.memory.words(self.guest, 2 * reach, True)
            now = np.zeros((reach, 2), np.uint32) if words is None else words.reshape(reach, 2)
        else:
            now = self._entries(0, reach)
        if self.seen is not None and self._ram == ram and np.array_equal(self.seen, now):
            return
        self._ram = ram
        self.seen = now.copy() if self.unseen else None
        tracking.counters.entries_visited += reach
        self._carry(0, now)

    def _entries(self, start: int, stop: int) -> Words:
        """Entries of a table in the guest's video memory, not copied."""
        memory = self._tracking.memory
        at = memory.base + self.guest >> 2
        return memory.vram.words[at + 2 * start : at + 2 * stop].reshape(-1, 2)

    def _carry_few(self, start: int, stop: int) -> None:
        tracking, quads = self._tracking, self.quads
        memory, counters = tracking.memory, tracking.counters
        words = memory.vram.word_view
        at = memory.base + self.guest >> 2
        for index in range(start, stop):
            entry = words[at + 2 * index] | words[at + 2 * index + 1] << 32
            found = translate_one(entry, memory, self._shift, self._ram)
            if found is None:
                counters.denied_addresses += 1
                found = (0, 0)
            low, high = found
            quad = low | high << 32
            if quads[index] == quad:
                continue
            tracking.gpu_pages.note_one(low, high, self._frames)
            quads[index] = quad
            self._first, self._end = min(self._first, index), max(self._end, index + 1)
            counters.entries_changed += 1
            counters.shadow_writes += 2
            counters.hypercalls += high >> PTE_APERTURE_SHIFT & PTE_APERTURE != APERTURE_VRAM
            tracking.stored(self.address + ENTRY * index, ENTRY)

    def _carry(self, start: int, entries: Words) -> None:
        """Translate entries of the guest's table, from entry `start` on, and store what changed."""
        tracking, counters = self._tracking, self._tracking.counters
        end = start + len(entries)
        used = np.flatnonzero(entries.view(np.uint64)[:, 0])
        low, high = (start + int(used[0]), start + int(used[-1]) + 1) if len(used) else (end, end)
        changed = self._zero(start, low) + self._zero(high, end)
        if high > low:
            part = entries[low - start : high - start]
            run = straight(part.view(np.uint64)[:, 0], tracking.memory, self._shift, self._ram)
            if run is not None:
                fresh, system = run.quads, 0 if run.in_vram else len(run.quads)
                if run.in_vram:
                    tracking.gpu_pages.note_run(run.frame, run.pages)
            else:
                result = translate(part, tracking.memory, self._shift, self._ram)
                tracking.gpu_pages.note(result.words, self._frames)
                counters.denied_addresses += result.refused
                fresh, system = result.words.view(np.uint64)[:, 0], result.system
            counters.hypercalls += -(-system // FRAMES_A_CALL)
            target = self._entries64[low:high]
            changed += int(np.count_nonzero(target != fresh))
            target[:] = fresh
            self._first, self._end = min(self._first, low), max(self._end, high)
        if changed:
            counters.entries_changed += changed
            counters.shadow_writes += 2 * changed
            tracking.stored(self.address + ENTRY * start, ENTRY * len(entries))

    def _zero(self, first: int, end: int) -> int:
        """Zero entries of the shadow; return how many were not."""
        first, end = max(first, self._first), min(end, self._end)
        if first >= end:
            return 0
        part = self._entries64[first:end]
        changed = int(np.count_nonzero(part))
        part[:] = 0
        return changed


class TrackedSpace(GuestSpace):
    """A space that follows the guest's writes entry by entry."""

    def __init__(self, tracking: Tracking, directory: int, limit: int) -> None:
        super().__init__(tracking.memory, tracking.pool, directory, limit)
        self._tracking = tracking
        self._tables: dict[tuple[int, bool], _Table] = {}
        self._wanting: set[int] = set()
        """Directory entries with a table for which there was no memory."""
        self._ram: Sequence[tuple[int, int]] = ()
        self._barrier: Barrier | None = None
        self._count = min(DIRECTORY_ENTRIES, (limit >> SPAN_SHIFT) + 1)
        self._seen: npt.NDArray[np.uint64] = np.zeros(self._count, np.uint64)
        self._fresh = True
        """Whether the tables were not looked at yet."""
        self.unseen = False
        """Whether something may have changed without a write that traps."""
        tracking.gpu_pages.opened()
        if directory:
            physical = self.memory.vram_address(directory, ENTRY * self._count)
            if physical is None:
                tracking.counters.denied_addresses += 1
            else:
                self._barrier = tracking.barriers.add(physical, ENTRY * self._count, self._written)

    def close(self, zeroed: bool = True) -> None:
        """Let the guest's tables go and free the shadow."""
        if self._barrier is not None:
            self._tracking.barriers.remove(self._barrier)
            self._barrier = None
        quads = self.directory_words.view(np.uint64)
        for (index, _), table in self._tables.items():
            quads[index, 0] = 0
            self._release(table)
        self._tables.clear()
        self._tracking.gpu_pages.closed()
        super().close(zeroed=True)

    def _release(self, table: _Table) -> None:
        table.ignore()
        table.empty()
        self.pool.release(table.address, zeroed=True)

    def synchronize(self, counters: Counters) -> None:
        """Make up for what no trap told: the first look at the tables, and those that change unseen."""
        self.dirty = False
        ram = self.memory.ram()
        moved = ram != self._ram and not self._fresh
        self._ram = ram
        self.catch_up(moved)
        self.reclaim()
        if self._wanting:
            for index in tuple(self._wanting):
                self._take(index, int(self._seen[index]))

    def catch_up(self, moved: bool = False) -> None:
        """Compare what may have changed unseen; everything, if the machine's RAM `moved`."""
        if self._barrier is None:
            return
        self.unseen = self._tracking.gpu_pages.may_write(self.directory, ENTRY * self._count)
        if self._fresh or self.unseen:
            self._fresh = False
            self._look(0, self._count)
        for table in self._tables.values():
            if table.unseen:
                self.unseen = True
                table.compare(self._ram)
            elif moved:
                table.compare(self._ram)

    def _written(self, first: int, end: int) -> None:
        self._tracking.counters.table_writes += 1
        self._look(first // ENTRY, -(-end // ENTRY))

    def _look(self, start: int, stop: int) -> None:
        """Take over directory entries that are not as they were."""
        at = self.memory.base + self.directory
        memory = self.memory.vram.bytes[at + ENTRY * start : at + ENTRY * stop]
        now = memory.view(np.uint64)
        differ = np.flatnonzero(now != self._seen[start:stop])
        self._tracking.counters.entries_visited += stop - start
        for place in differ.tolist():
            self._seen[start + place] = now[place]
            self._take(start + place, int(now[place]))

    def _take(self, index: int, entry: int) -> None:
        """Make a directory entry of the shadow name the shadows of the two tables."""
        big, small = entry & 0xFFFFFFFF, entry >> 32
        self._wanting.discard(index)
        large = self._shadow_of(index, True, big, large_entries(big))
        little = self._shadow_of(index, False, small, SMALL_ENTRIES)
        word = large >> 8 | big & PDE_SIZE | PDE_VRAM if large else 0
        quad = word | (little >> 8 | PDE_VRAM if little else 0) << 32
        quads = self.directory_words.view(np.uint64)
        if int(quads[index, 0]) != quad:
            quads[index, 0] = quad
            self._tracking.counters.entries_changed += 1
            self._tracking.counters.shadow_writes += 2
            self._tracking.stored(self.address + ENTRY * index, ENTRY)

    def _shadow_of(self, index: int, big: bool, word: int, count: int) -> int:
        """Card address of the shadow of the table that a directory word names, 0 for none."""
        key = (index, big)
        table = self._tables.get(key)
        counters = self._tracking.counters
        guest, system = table_address(word), word & PDE_TARGET != PDE_VRAM
        shift = LARGE_SHIFT if big else SMALL_SHIFT
        reach = min(count, ((self.limit - (index << SPAN_SHIFT)) >> shift) + 1)
        owned = bool(word & PDE_TARGET) and self._owns(guest, ENTRY * reach, system)
        if not owned:
            counters.denied_addresses += bool(word & PDE_TARGET)
            if table is not None:
                del self._tables[key]
                table.ignore()
                self.retire(table.address)
            return 0
        if table is None:
            address = self._allocate(big)
            if not address:
                counters.denied_addresses += 1
                self._wanting.add(index)
                return 0
            entries = LARGE_ENTRIES if big else SMALL_ENTRIES
            table = _Table(self._tracking, big, address, self.words_at(address, entries))
            self._tables[key] = table
        if (table.guest, table.reach, table.system) != (guest, reach, system):
            table.follow(guest, reach, system, self._ram)
            self.unseen |= system
        return table.address

    def _owns(self, guest: int, size: int, system: bool) -> bool:
        if system:
            return self.memory.words(guest, size >> 2, True) is not None
        return self.memory.vram_address(guest, size) is not None

    def _allocate(self, big: bool) -> int:
        """Memory for a shadow table, 0 if there is none."""
        try:
            return self.new_table(big)
        except OutOfResourcesError:
            # Tables that left the directory count until the GPU cannot be walking them.
            self._tracking.flush(self.address)
            self.reclaim()
            self.reclaim()
        try:
            return self.new_table(big)
        except OutOfResourcesError:
            return 0


class TrackedBarTable(BarTable):
    """An aperture that follows the guest's writes to its tables.

    Parameters
    ----------
    changed : callable
        Called with (first page, pages) that may show something else, and how many of them were counted as
        changed by a write.
    """

    def __init__(self, tracking: Tracking, size: int, changed: Callable[[int, int, int], None]) -> None:
        super().__init__(tracking.memory, size)
        self._tracking = tracking
        self._barriers = tracking.barriers
        self._counters = tracking.counters
        self._changed = changed
        self._entries64 = self.entries.view(np.uint64)[:, 0]
        self._quads = self._entries64.data
        self._held: list[Barrier] = []
        self._limit = 0
        self._steady = False
        """Whether all tables are where writes are seen."""

    def clear(self) -> None:
        self._release()
        super().clear()
        self._changed(0, self.pages, 0)

    def rebuild(self, directory: int, limit: int, counters: Counters) -> None:
        """Follow an aperture's tables from now on; nothing is read if they are followed already."""
        if self._steady and (directory, limit) == (self.directory, self._limit):
            pages = self._tracking.gpu_pages
            base = self.memory.base
            if not any(pages.may_write(held.start - base, held.end - held.start) for held in self._held):
                return
        self._follow(directory, limit, counters)
        self._changed(0, self.pages, 0)

    def _follow(self, directory: int, limit: int, counters: Counters) -> None:
        self._release()
        self._limit = limit
        super().rebuild(directory, limit, counters)
        physical = self.memory.vram_address(directory, ENTRY) if directory else None
        if physical is None:
            return
        self._held.append(self._barriers.add(physical, ENTRY, self._directory_written))
        self._steady = True
        for word, ratio in zip(self.tables, (1 << LARGE_SHIFT - SMALL_SHIFT, 1), strict=True):
            if not word & PDE_TARGET or not self.reach:
                continue
            size = ENTRY * -(-self.reach // ratio)
            table = self.memory.vram_address(table_address(word), size)
            if word & PDE_TARGET != PDE_VRAM:
                self._steady = False
            elif table is not None:
                self._held.append(self._barriers.add(table, size, partial(self.entries_written, ratio=ratio)))

    def entries_written(self, first: int, end: int, ratio: int) -> None:
        """Bytes of a table were written whose entries are for `ratio` pages each."""
        start = first // ENTRY * ratio
        stop = min(-(-end // ENTRY) * ratio, self.reach)
        if start < stop:
            self._counters.table_writes += 1
            if self.tables[0] & PDE_TARGET:
                changed = self.update(start, stop - start, self._counters)
            elif stop - start <= FEW:
                changed = self._update_few(start, stop)
            else:
                changed = self._update_run(start, stop)
            if changed:
                self._changed(start, stop - start, changed)

    def _update_few(self, start: int, stop: int) -> int:
        """Read single entries of the small pages' table again, the only one; return how many changed."""
        memory, counters = self.memory, self._counters
        words = memory.vram.word_view
        at = memory.base + table_address(self.tables[1]) >> 2
        changed = 0
        for index in range(start, stop):
            entry = words[at + 2 * index] | words[at + 2 * index + 1] << 32
            low, high = translate_one(entry, memory, SMALL_SHIFT, ()) or (0, 0)
            counters.denied_addresses += bool(entry & PTE_PRESENT and not low)
            if int(self._quads[index]) != low | high << 32:
                self._quads[index] = low | high << 32
                self.frames[index] = low >> 4 << SMALL_SHIFT if low else -1
                changed += 1
        counters.entries_visited += stop - start
        counters.entries_changed += changed
        return changed

    def _update_run(self, start: int, stop: int) -> int:
        """The same for entries that are all zero, or name pages of video memory that follow each other."""
        memory, count = self.memory, stop - start
        at = memory.base + table_address(self.tables[1]) + ENTRY * start
        quads = memory.vram.bytes[at : at + ENTRY * count].view(np.uint64)
        target = self._entries64[start:stop]
        if not quads.any():
            changed = int(np.count_nonzero(target))
            target[:] = 0
            self.addresses[start:stop] = -1
        else:
            run = straight(quads, memory, SMALL_SHIFT, ())
            if run is None:
                return self.update(start, count, self._counters)
            changed = int(np.count_nonzero(target != run.quads))
            target[:] = run.quads
            first = memory.base + (run.frame << SMALL_SHIFT)
            self.addresses[start:stop] = np.arange(first, first + (count << SMALL_SHIFT), 1 << SMALL_SHIFT)
        self._counters.entries_visited += count
        self._counters.entries_changed += changed
        return changed

    def _directory_written(self, first: int, end: int) -> None:
        words = self.memory.words(self.directory or 0, 2)
        if words is not None and (int(words[0]), int(words[1])) != self.tables:
            self._counters.table_writes += 1
            self._steady = False
            self.rebuild(self.directory or 0, self._limit, self._counters)

    def _release(self) -> None:
        self._steady = False
        for barrier in self._held:
            self._barriers.remove(barrier)
        self._held.clear()

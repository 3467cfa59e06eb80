"""What the TLBs hold of one GPU address space, and the host's view of it.

Single pages (BAR apertures, semaphores) are kept one by one; copies and launches work on whole directories of
128 MiB, read from the tables in bulk. What is held stays, however the tables change, until a flush; what is
missing is walked when it is needed. A flush marks everything stale, and the next use keeps what the tables
still say, so that unchanged pages cost nothing.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gpuvm.gpu import paging
from gpuvm.gpu.paging import MmuFault, Reason, Root
from gpuvm.gpu.physical import PhysicalMemory, Target
from gpuvm.jit.space import AddressSpace, MappingLimitError
from gpuvm.pci.memory import MemoryRegion

Run = tuple[MemoryRegion, int, int]
"""Region, offset in it, bytes."""

Page = tuple[memoryview, int, bool, MemoryRegion, int, bool]
"""Words of the region, index of the page's first word, writable without ado, region, offset in it, writable.

A page that holds a page table is not written without ado: such a write is counted.
"""

_EMPTY = np.empty(0, np.uint64)

_FEW = 0x4000
"""Bytes up to which a range goes page by page."""
_MANY = 64
"""Pieces from which on a range is resolved in bulk."""

_memcmp = ctypes.CDLL(None).memcmp
_memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


_REFUSED_WRITE = paging.SUPERVISOR | paging.READ_ONLY


class Directory:
    """128 MiB of address space: the tables as last read and the entries held, one for each 4 KiB."""

    __slots__ = ("_breaks", "_entries", "large", "pde", "pieces", "small", "stale")

    def __init__(self) -> None:
        self.pde = 0
        self.small = _EMPTY
        self.large = _EMPTY
        self.entries = np.zeros(paging.SMALL_ENTRIES, np.uint64)
        self.stale = False
        self.pieces = 0
        """Mappings that the host's view of these 128 MiB takes."""

    @property
    def entries(self) -> npt.NDArray[np.uint64]:
        """The entries held; replaced as a whole, never changed in place."""
        return self._entries

    @entries.setter
    def entries(self, entries: npt.NDArray[np.uint64]) -> None:
        self._entries = entries
        self._breaks: npt.NDArray[np.int32] | None = None

    def straight(self, first: int, count: int) -> int:
        """Return entry `first` if it is present and the `count - 1` behind it continue it, else 0."""
        if self._breaks is None:
            steps = np.diff(self._entries) != np.uint64(paging.PAGE_STEP)
            self._breaks = np.concatenate(([0], np.cumsum(steps, dtype=np.int32))).astype(np.int32)
        if self._breaks[first + count - 1] != self._breaks[first]:
            return 0
        return int(self._entries[first])


class Budget:
    """What all address spaces together may hold, so that hostile page tables cannot exhaust the host.

    Notes
    -----
    A directory costs up to 520 KiB of host memory, a piece one host mapping; Linux allows 65,530 of these by
    default.
    """

    def __init__(self, directories: int = 1024, pieces: int = 48_000) -> None:
        self.directories = directories
        self.directories_used = 0
        self.pieces = pieces
        self.pieces_used = 0
        self.reclaim: Callable[[Translations], None] = lambda keep: None


class Translations:
    """Translations of one page directory.

    Parameters
    ----------
    memory : PhysicalMemory
        What the page tables live in and point to.
    root : Root
        Page directory and limit.
    budget : Budget
        Shared with the other spaces of the GPU.
    new_space : callable
        Makes the host's view (`gpuvm.jit.space.AddressSpace`) when a launch first needs one.
    """

    def __init__(
        self, memory: PhysicalMemory, root: Root, budget: Budget, new_space: Callable[[], AddressSpace]
    ) -> None:
        self.root = root
        self.users = 0
        self._memory = memory
        self._budget = budget
        self._new_space = new_space
        self._space: AddressSpace | None = None
        self._pages: dict[int, Page] = {}
        self._directories: dict[int, Directory] = {}
        self._root_table = _EMPTY
        self._present: set[int] = set()
        self._current = -1
        """Epoch of the memory at which the host's view was last brought up to date; -1 if it must be."""
        self._changes = 0
        self._judged = (-1, -1)
        self._dangerous = False
        self._lock = threading.RLock()
        self._running = 0

    # Single pages

    def page(self, number: int, write: bool) -> Page:
        """Return the page that holds virtual address `number << 12`.

        Raises
        ------
        MmuFault
            If there is none, or it may not be written.
        """
        page = self._pages.get(number)
        if page is None:
            page = self._walk(number, write)
        if write and not page[5]:
            raise MmuFault(number << 12, True, Reason.PAGE_READ_ONLY)
        return page

    def place(self, number: int, write: bool) -> tuple[MemoryRegion, int]:
        """Return region and offset of a page (MmuFault as `page`)."""
        page = self.page(number, write)
        return page[3], page[4]

    def _walk(self, number: int, write: bool) -> Page:
        address = number << 12
        try:
            entry = paging.walk(self._memory, self.root, address)
        except MmuFault as fault:
            fault.write = write
            raise
        if entry & paging.SUPERVISOR:
            raise MmuFault(address, write, Reason.PAGE_SUPERVISOR_ONLY)
        found = self._memory.locate(entry >> paging.TARGET_SHIFT, (entry & paging.ADDRESS_MASK) << 8)
        if found is None:
            raise MmuFault(address, write, Reason.PAGE_NOT_PRESENT)
        region, offset = found
        writable = not entry & paging.READ_ONLY
        words = self._memory.words(region)
        if len(self._pages) > 65536:
            self._pages.clear()
        in_vram = region is self._memory.vram
        while True:
            quick = writable and not (in_vram and self._memory.watched[offset >> 12])
            page = self._pages[number] = (words, offset >> 2, quick, region, offset, writable)
            if not (quick and in_vram and self._memory.watched[offset >> 12]):
                return page

    def read32(self, address: int) -> int:
        """Read an aligned word (MmuFault as `page`)."""
        page = self._pages.get(address >> 12) or self.page(address >> 12, False)
        value: int = page[0][page[1] + ((address & 0xFFF) >> 2)]
        return value

    def write32(self, address: int, value: int) -> None:
        """Write an aligned word (MmuFault as `page`)."""
        page = self._pages.get(address >> 12)
        if page is None or not page[2]:
            page = self.page(address >> 12, True)
        page[0][page[1] + ((address & 0xFFF) >> 2)] = value
        if not page[2]:
            self._memory.epoch += 1

    # Ranges

    def runs(self, address: int, size: int, write: bool) -> list[Run]:
        """Return the pieces of host memory behind a range, in order.

        Raises
        ------
        MmuFault
            At the first page of the range that is not there or may not be written.
        """
        if size <= 0:
            return []
        last = address + size - 1
        if last > self.root.limit:
            raise MmuFault(max(address, self.root.limit + 1), write, Reason.VSPACE_LIMIT)
        pieces: list[Run] = []
        if size <= _FEW:
            self._few(address, last, write, pieces)
            return pieces
        with self._lock:
            while address <= last:
                index = address >> paging.DIRECTORY_SHIFT
                end = min(last + 1, (index + 1) << paging.DIRECTORY_SHIFT)
                first = (address >> 12) & (paging.SMALL_ENTRIES - 1)
                count = ((end - 1) >> 12) - (address >> 12) + 1
                directory = self._directories.get(index)
                entry = 0 if directory is None or directory.stale else directory.straight(first, count)
                if entry and not entry & (_REFUSED_WRITE if write else paging.SUPERVISOR):
                    self._locate(entry, address, end, write, pieces)
                else:
                    entries = self._held(index, first, count, write)
                    self._resolve(entries, address, end, write, pieces)
                address = end
        return pieces

    def _few(self, address: int, last: int, write: bool, pieces: list[Run]) -> None:
        """Short ranges go page by page."""
        while address <= last:
            try:
                region, offset = self.place(address >> 12, write)
            except MmuFault as fault:
                fault.address = address
                raise
            length = min(last + 1 - address, 0x1000 - (address & 0xFFF))
            _append(pieces, region, offset + (address & 0xFFF), length)
            address += length

    def _held(self, index: int, first: int, count: int, write: bool) -> npt.NDArray[np.uint64]:
        directory = self._directories.get(index)
        if directory is None or directory.stale or not directory.entries[first : first + count].all():
            directory = self._refresh(index)
        entries = directory.entries[first : first + count]
        base = (index << paging.DIRECTORY_SHIFT) + (first << 12)
        bad = np.bitwise_or.reduce(entries) & np.uint64(
            paging.SUPERVISOR | (paging.READ_ONLY if write else 0)
        )
        if bad or not entries.all():
            self._blame(entries, base, write)
        return entries

    def _blame(self, entries: npt.NDArray[np.uint64], base: int, write: bool) -> None:
        for number, entry in enumerate(entries.tolist()):
            if entry & paging.SUPERVISOR:
                raise MmuFault(base + (number << 12), write, Reason.PAGE_SUPERVISOR_ONLY)
            if write and entry & paging.READ_ONLY:
                raise MmuFault(base + (number << 12), write, Reason.PAGE_READ_ONLY)
            if not entry:
                self._walk((base >> 12) + number, write)
                raise MmuFault(base + (number << 12), write, Reason.PAGE_NOT_PRESENT)

    def _resolve(
        self, entries: npt.NDArray[np.uint64], address: int, end: int, write: bool, pieces: list[Run]
    ) -> None:
        at = address
        found_runs = paging.runs(entries)
        if len(found_runs) > _MANY and self._scattered(entries, found_runs, address, end, pieces):
            return
        for first, pages in found_runs:
            stop = min(end, ((address >> 12) + first + pages) << 12)
            self._locate(int(entries[first]), at, stop, write, pieces)
            at = stop

    def _locate(self, entry: int, at: int, stop: int, write: bool, pieces: list[Run]) -> None:
        """Append the memory behind a range whose pages continue `entry`."""
        target = entry >> paging.TARGET_SHIFT
        physical = ((entry & paging.ADDRESS_MASK) << 8) + (at & 0xFFF)
        while at < stop:
            found = self._memory.locate(target, physical)
            if found is None:
                raise MmuFault(at, write, Reason.PAGE_NOT_PRESENT)
            region, offset = found
            length = min(stop - at, region.size - offset)
            _append(pieces, region, offset, length)
            at += length
            physical += length

    def _scattered(
        self,
        entries: npt.NDArray[np.uint64],
        found: list[tuple[int, int]],
        address: int,
        end: int,
        pieces: list[Run],
    ) -> bool:
        """Resolve scattered pages of one region at once; False if they are not of one."""
        starts, lengths = np.array(found, np.int64).T
        targets = entries >> np.uint64(paging.TARGET_SHIFT)
        physical = ((entries & np.uint64(paging.ADDRESS_MASK)) << np.uint64(8)).astype(np.int64)
        target, first, last = int(targets[0]), int(physical.min()), int(physical.max())
        low, high = self._memory.locate(target, first), self._memory.locate(target, last)
        if low is None or high is None or low[0] is not high[0] or high[1] - low[1] != last - first:
            return False
        if (targets != targets[0]).any():
            return False
        offsets = physical[starts] - (first - low[1])
        sizes = lengths << 12
        offsets[0] += address & 0xFFF
        sizes[0] -= address & 0xFFF
        sizes[-1] -= -end & 0xFFF
        pieces.extend((low[0], a, b) for a, b in zip(offsets.tolist(), sizes.tolist(), strict=True))
        return True

    def read(self, address: int, size: int) -> bytes:
        """Read a range (MmuFault as `runs`)."""
        parts = self.runs(address, size, False)
        if len(parts) == 1:
            region, offset, length = parts[0]
            return region.read(offset, length)
        return b"".join(region.read(offset, length) for region, offset, length in parts)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write a range, all or nothing (MmuFault as `runs`)."""
        view = memoryview(data).cast("B")
        done = 0
        for region, offset, length in self.runs(address, len(view), True):
            region.write(offset, view[done : done + length])
            self._memory.wrote(region, offset, length)
            done += length

    # Directories

    def _refresh(self, index: int) -> Directory:
        """Bring the entries of one directory up to date with the tables, as far as a TLB would."""
        entry = self._memory.array(self.root.target, self.root.directory + 8 * index, 8)
        pde = int(entry[0]) if entry.size else 0
        directory = self._directories.get(index)
        if directory is not None and not directory.stale and directory.pde == pde == 0:
            return directory
        small_at, large_at, span = paging.tables(pde)
        small = self._table(small_at, paging.SMALL_ENTRIES)
        large = self._table(large_at, paging.LARGE_ENTRIES)
        if directory is None:
            if self._budget.directories_used >= self._budget.directories:
                self._budget.reclaim(self)
            if self._budget.directories_used >= self._budget.directories:
                raise MmuFault(index << paging.DIRECTORY_SHIFT, False, Reason.PT_NOT_PRESENT)
            directory = self._directories[index] = Directory()
            self._budget.directories_used += 1
        elif (
            not directory.stale
            and directory.pde == pde
            and _same(small, directory.small)
            and _same(large, directory.large)
        ):
            return directory
        small, large = small.copy(), large.copy()
        fresh = paging.expand(small, large, span)
        if not directory.stale:
            np.copyto(fresh, directory.entries, where=directory.entries != 0)
        if self._space is not None:
            self._remap(index, directory, fresh)
        if not fresh.any():
            del self._directories[index]
            self._budget.directories_used -= 1
            self._budget.pieces_used -= directory.pieces
            directory.pieces = 0
        directory.pde, directory.small, directory.large = pde, small, large
        directory.entries = fresh
        directory.stale = False
        self._changes += 1
        return directory

    def _table(self, place: tuple[int, int] | None, entries: int) -> npt.NDArray[np.uint64]:
        return _EMPTY if place is None else self._memory.array(place[0], place[1], 8 * entries)

    # The host's view

    def prepare(self) -> AddressSpace:
        """Return the host's view with every page that the tables name now and the TLB may hold.

        Raises
        ------
        MmuFault
            If the tables name more than the host can map (1024 directories, or scattered in too many pieces).
        """
        epoch = self._memory.epoch
        with self._lock:
            if self._space is not None and self._current == epoch:
                return self._space
            try:
                if self._space is None:
                    self._space = self._new_space()
                    for index, directory in self._directories.items():
                        if directory.stale:
                            # Nothing of it is in the new view: `_refresh` must find every page changed.
                            directory.entries = np.zeros_like(directory.entries)
                        else:
                            self._map(index, directory, directory.entries)
                size = 8 * paging.DIRECTORY_ENTRIES
                table = self._memory.array(self.root.target, self.root.directory, size)
                if not _same(table, self._root_table):
                    self._root_table = table.copy()
                    present = np.flatnonzero(self._root_table & np.uint64(0x3_0000_0003))
                    last = self.root.limit >> paging.DIRECTORY_SHIFT
                    self._present = set(present[present <= last].tolist())
                for index in sorted(self._present | self._directories.keys()):
                    self._refresh(index)
                watches = self._memory.watches
                # A table watched from now on may have changed since it was read.
                again = self._reaches_system() or self._memory.watches != watches
                self._current = -1 if again else epoch
                return self._space
            except MmuFault:
                self._abandon()
                raise
            except MappingLimitError as refused:
                self._abandon()
                raise MmuFault(0, False, Reason.PT_NOT_PRESENT) from refused

    def _reaches_system(self) -> bool:
        """Whether tables lie in the machine's memory, whose writes nobody counts; watch the ones in VRAM."""
        root, watch = self.root, self._memory.watch
        system = root.target != Target.VRAM
        if not system:
            watch(root.directory, 8 * paging.DIRECTORY_ENTRIES)
        for index in self._present:
            small, large, _ = paging.tables(int(self._root_table[index]))
            for place, entries in ((small, paging.SMALL_ENTRIES), (large, paging.LARGE_ENTRIES)):
                if place is not None and place[0] == Target.VRAM:
                    watch(place[1], 8 * entries)
                elif place is not None:
                    system = True
        return system

    def _writes_tables(self) -> bool:
        """Whether a kernel of this space could write a page table that is watched."""
        if self._judged == (self._memory.watches, self._changes):
            return self._dangerous
        self._judged = (self._memory.watches, self._changes)
        watched = np.frombuffer(self._memory.watched, np.uint8)
        self._dangerous = False
        bits = np.uint64(3 << paging.TARGET_SHIFT | paging.READ_ONLY | paging.PRESENT)
        for directory in self._directories.values():
            entries = directory.entries[(directory.entries & bits) == np.uint64(paging.PRESENT)]
            pages = (entries & np.uint64(paging.ADDRESS_MASK)) >> np.uint64(4)
            if watched[pages[pages < watched.size]].any():
                self._dangerous = True
        return self._dangerous

    def _abandon(self) -> None:
        """Empty the host's view: after a mapping failed half-way, nothing may stay unaccounted for."""
        if self._space is not None:
            self._space.clear()
        self._current = -1
        for directory in self._directories.values():
            self._budget.pieces_used -= directory.pieces
        self._budget.directories_used -= len(self._directories)
        self._directories.clear()

    def _remap(self, index: int, directory: Directory, fresh: npt.NDArray[np.uint64]) -> None:
        space = self._space
        assert space is not None
        changed = fresh != directory.entries
        if not changed.any():
            return
        gone = changed & (directory.entries != 0)
        base = index << paging.DIRECTORY_SHIFT
        if gone.any():
            if gone.all() or not fresh.any():
                space.unmap(base, 1 << paging.DIRECTORY_SHIFT)
                self._budget.pieces_used -= directory.pieces
                directory.pieces = 0
            else:
                for first, count in _stretches(gone):
                    space.unmap(base + (first << 12), count << 12)
        self._map(index, directory, np.where(changed, fresh, np.uint64(0)))

    def _map(self, index: int, directory: Directory, entries: npt.NDArray[np.uint64]) -> None:
        """Map the pages of `entries` that are not 0."""
        space = self._space
        assert space is not None
        base = index << paging.DIRECTORY_SHIFT
        usable = (entries != 0) & ((entries & np.uint64(paging.SUPERVISOR)) == 0)
        for start, count in _stretches(usable):
            part = entries[start : start + count]
            for first, pages in paging.runs(part):
                entry = int(part[first])
                self._map_run(space, directory, base + ((start + first) << 12), pages << 12, entry)

    def _map_run(
        self, space: AddressSpace, directory: Directory, address: int, size: int, entry: int
    ) -> None:
        target, physical = entry >> paging.TARGET_SHIFT, (entry & paging.ADDRESS_MASK) << 8
        writable = not entry & paging.READ_ONLY
        while size > 0:
            found = self._memory.locate(target, physical)
            if found is None:
                length = min(size, 4096)
            else:
                region, offset = found
                length = min(size, region.size - offset)
                if self._budget.pieces_used >= self._budget.pieces:
                    self._budget.reclaim(self)
                if self._budget.pieces_used >= self._budget.pieces:
                    raise MmuFault(address, False, Reason.PAGE_NOT_PRESENT)
                space.map(address, length, region.fd, region.offset + offset, writable)
                directory.pieces += 1
                self._budget.pieces_used += 1
            address += length
            physical += length
            size -= length

    # Flush

    def forget_pages(self) -> None:
        """Drop single pages; they are walked again."""
        self._pages.clear()

    def flush(self) -> None:
        """Forget what is held: the next use asks the tables. A launch in progress sees the new tables at
        once.
        """
        with self._lock:
            self._pages.clear()
            self._current = -1
            for directory in self._directories.values():
                directory.stale = True
            if self._running and self._space is not None:
                try:
                    for index in list(self._directories):
                        self._refresh(index)
                except (MmuFault, MappingLimitError):
                    self._abandon()

    def running(self, change: int) -> None:
        """Tell that a launch starts (+1) or ends (-1) to use the host's view."""
        with self._lock:
            self._running += change
            if change < 0 and self._writes_tables():
                self._memory.epoch += 1

    @property
    def busy(self) -> bool:
        return self._running > 0

    def close(self) -> None:
        """Drop everything, the host's view included; what is needed again is walked again."""
        with self._lock:
            self._pages.clear()
            self._current = -1
            self._budget.directories_used -= len(self._directories)
            self._budget.pieces_used -= sum(each.pieces for each in self._directories.values())
            self._directories.clear()
            if self._space is not None:
                self._space.close()
                self._space = None


def _same(table: npt.NDArray[np.uint64], snapshot: npt.NDArray[np.uint64]) -> bool:
    if table.size != snapshot.size:
        return False
    return not table.size or _memcmp(table.ctypes.data, snapshot.ctypes.data, table.nbytes) == 0


def _append(pieces: list[Run], region: MemoryRegion, offset: int, length: int) -> None:
    """Append a piece, or make the last one longer."""
    if pieces:
        before, start, size = pieces[-1]
        if before is region and start + size == offset:
            pieces[-1] = (region, start, size + length)
            return
    pieces.append((region, offset, length))


def _stretches(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """(first, count) of the stretches of true."""
    edges = np.flatnonzero(np.diff(mask.astype(np.int8), prepend=0, append=0))
    return [(int(a), int(b - a)) for a, b in edges.reshape(-1, 2)]

"""Buffers and address spaces of a split driver: the hypervisor allocates the virtual machine's share of video
memory and writes the page tables; the guest names both by numbers that it chose.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from dataclasses import dataclass

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.para.calls import Refused
from gpuvm.hypervisor.para.tables import Directory, Table, TableMemory
from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.tables import LARGE_SHIFT, SMALL_SHIFT, SPAN_SHIFT
from gpuvm.paravirt.abi import BUFFER_LIMIT, SPACE_LIMIT, Kind, Result

ADDRESS_LIMIT = 1 << 40
LARGE_PAGE = 1 << LARGE_SHIFT
PRESENT, READ_ONLY = 1, 4
SYSTEM_SNOOPED = 5 << 32
"""Aperture 2 and volatile."""
MAPPING_LIMIT = 1 << 16
"""Most mappings of one virtual machine."""
CALL_LIMIT = 1 << 30
"""Most bytes of host memory that one operation maps."""


@dataclass(slots=True)
class Buffer:
    """Video memory: pieces of the virtual machine's partition, in whole large pages."""

    pieces: list[Range]
    maps: int = 0

    @property
    def size(self) -> int:
        return sum(piece.size for piece in self.pieces)


class Buffers:
    """A virtual machine's share of video memory, by buffers.

    Parameters
    ----------
    size : int
        Bytes of the partition; addresses count from its start.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._memory = RangeAllocator("bytes of a guest's video memory", 0, size)
        self._buffers: dict[int, Buffer] = {}

    def __len__(self) -> int:
        return len(self._buffers)

    def __getitem__(self, number: int) -> Buffer:
        found = self._buffers.get(number)
        if found is None:
            raise Refused(Result.BAD_ID)
        return found

    def new(self, number: int, pages: int) -> None:
        """Allocate, in one piece if there is one."""
        if not 0 < number < BUFFER_LIMIT or number in self._buffers:
            raise Refused(Result.BAD_ID)
        size = pages << LARGE_SHIFT
        if size <= 0:
            raise Refused(Result.BAD_ARGUMENT)
        if size > self._memory.free:
            raise Refused(Result.NO_MEMORY)
        pieces: list[Range] = []
        try:
            while size:
                length = min(size, self._memory.largest & -LARGE_PAGE)
                if not length:
                    raise Refused(Result.NO_MEMORY)
                pieces.append(self._memory.allocate(length, LARGE_PAGE))
                size -= length
        except (OutOfResourcesError, Refused):
            for piece in pieces:
                self._memory.release(piece)
            raise Refused(Result.NO_MEMORY) from None
        self._buffers[number] = Buffer(pieces)

    def free(self, number: int) -> None:
        """Free one that is mapped nowhere."""
        if self[number].maps:
            raise Refused(Result.BUSY)
        for piece in self._buffers.pop(number).pieces:
            self._memory.release(piece)

    def clear(self) -> None:
        """Free everything."""
        self._buffers.clear()
        self._memory = RangeAllocator(self._memory.what, 0, self._size)


@dataclass(frozen=True, slots=True)
class Mapping:
    """A range of an address space; `buffer` is None for host memory."""

    address: int
    size: int
    buffer: Buffer | None


class Space:
    """One address space: a directory, the tables under it as they are needed, and its mappings.

    Attributes
    ----------
    users : int
        Channels that run in it.
    stale : bool
        Whether it changed since the GPU's cached translations were dropped.
    """

    def __init__(self, tables: TableMemory) -> None:
        self._tables = tables
        self._id = tables.allocate(Kind.DIRECTORY)
        self.directory: Directory = tables.directory(self._id)
        self._parts: dict[tuple[int, bool], Table] = {}
        self._starts: list[int] = []
        self._mappings: dict[int, Mapping] = {}
        self.users = 0
        self.stale = False

    def __len__(self) -> int:
        return len(self._mappings)

    def at(self, address: int) -> Mapping | None:
        """The mapping that an address lies in."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        mapping = self._mappings[self._starts[index]]
        return mapping if address < mapping.address + mapping.size else None

    def map_buffer(self, address: int, buffer: Buffer, read_only: bool) -> None:
        """Map a buffer."""
        self._check(address, buffer.size, LARGE_PAGE)
        flags = PRESENT | (READ_ONLY if read_only else 0)
        self._write(address, [(piece.base, piece.size) for piece in buffer.pieces], flags, True)
        self._add(Mapping(address, buffer.size, buffer))
        buffer.maps += 1

    def map_host(self, address: int, runs: list[tuple[int, int]], read_only: bool) -> None:
        """Map runs (bus address, bytes) of the virtual machine's RAM, known to be its own."""
        size = sum(length for _, length in runs)
        self._check(address, size, 1 << SMALL_SHIFT)
        flags = PRESENT | SYSTEM_SNOOPED | (READ_ONLY if read_only else 0)
        self._write(address, runs, flags, False)
        self._add(Mapping(address, size, None))

    def unmap(self, address: int, size: int) -> int:
        """Take away the mappings inside a range; returns how many there were."""
        end = address + size
        first, last = bisect_right(self._starts, address) - 1, bisect_left(self._starts, end)
        if first < 0 or self._starts[first] != address:
            if self.at(address) is not None:
                raise Refused(Result.BAD_ARGUMENT)
            first += 1
        found = [self._mappings[start] for start in self._starts[first:last]]
        if found and found[-1].address + found[-1].size > end:
            raise Refused(Result.BAD_ARGUMENT)
        del self._starts[first:last]
        for mapping in found:
            del self._mappings[mapping.address]
            big = mapping.buffer is not None
            shift = LARGE_SHIFT if big else SMALL_SHIFT
            for key, index, _, count in _parts(mapping.address, mapping.size >> shift, big):
                self._tables.clear(self._parts[key], index, count)
            if mapping.buffer is not None:
                mapping.buffer.maps -= 1
            self.stale = True
        return len(found)

    def close(self) -> int:
        """Free it; returns how many mappings it had."""
        count = len(self._mappings)
        for mapping in self._mappings.values():
            if mapping.buffer is not None:
                mapping.buffer.maps -= 1
        self._tables.free(self._id)
        for table in self._parts.values():
            self._tables.free(table.id)
        self._mappings.clear()
        self._starts.clear()
        self._parts.clear()
        return count

    def flush(self) -> None:
        """Make every change since the last flush visible to the GPU."""
        if self.stale:
            self.stale = False
            self._tables.flush(self.directory)

    def _check(self, address: int, size: int, page: int) -> None:
        if address % page or size <= 0 or address + size > ADDRESS_LIMIT:
            raise Refused(Result.BAD_ARGUMENT)
        index = bisect_left(self._starts, address)
        if self.at(address) is not None:
            raise Refused(Result.BUSY)
        if index < len(self._starts) and self._starts[index] < address + size:
            raise Refused(Result.BUSY)

    def _write(self, address: int, runs: list[tuple[int, int]], flags: int, big: bool) -> None:
        """Set the entries of runs (address, bytes) of memory, one behind the other; the tables that are missing
        are made first, so that no part is set if one fails."""
        shift = LARGE_SHIFT if big else SMALL_SHIFT
        for key, *_ in _parts(address, sum(size for _, size in runs) >> shift, big):
            if key not in self._parts:
                self._parts[key] = self._tables.table(
                    self._tables.allocate(Kind.BIG_TABLE if big else Kind.SMALL_TABLE)
                )
                pair = [self._parts.get((key[0], kind)) for kind in (True, False)]
                ids = [0 if table is None else table.id for table in pair]
                self._tables.link(self.directory, key[0], [(ids[0], ids[1])])
        for at, size in runs:
            for key, index, first, count in _parts(address, size >> shift, big):
                self._tables.set_run(self._parts[key], index, count, at + (first << shift) >> 8 | flags)
            address += size
        self.stale = True

    def _add(self, mapping: Mapping) -> None:
        self._mappings[mapping.address] = mapping
        insort(self._starts, mapping.address)


class Spaces:
    """All address spaces of one virtual machine.

    Attributes
    ----------
    stale : set of Space
        Those that lost a mapping since they were flushed.
    """

    def __init__(self, tables: TableMemory, memory: GuestMemory, buffers: Buffers) -> None:
        self._tables = tables
        self._memory = memory
        self._buffers = buffers
        self._spaces: dict[int, Space] = {}
        self._mappings = 0
        self.stale: set[Space] = set()

    def __len__(self) -> int:
        return len(self._spaces)

    def __getitem__(self, number: int) -> Space:
        found = self._spaces.get(number)
        if found is None:
            raise Refused(Result.BAD_ID)
        return found

    def new(self, number: int) -> None:
        """Make an address space."""
        if not 0 < number < SPACE_LIMIT or number in self._spaces:
            raise Refused(Result.BAD_ID)
        self._spaces[number] = Space(self._tables)

    def free(self, number: int) -> None:
        """Free one that no channel runs in."""
        space = self[number]
        if space.users:
            raise Refused(Result.BUSY)
        del self._spaces[number]
        self.stale.discard(space)
        self._mappings -= space.close()

    def map_buffer(self, number: int, address: int, buffer: int, read_only: bool) -> None:
        """Map a buffer into a space."""
        self._room()
        self[number].map_buffer(address, self._buffers[buffer], read_only)
        self._mappings += 1

    def map_host(self, number: int, address: int, runs: list[tuple[int, int]], read_only: bool) -> None:
        """Map the machine's RAM into a space."""
        self._room()
        space = self[number]
        if sum(length for _, length in runs) > CALL_LIMIT:
            raise Refused(Result.BAD_ARGUMENT)
        ram = self._memory.ram()
        for at, length in runs:
            if (at | length) & (1 << SMALL_SHIFT) - 1 or not length:
                raise Refused(Result.BAD_ARGUMENT)
            if not any(first <= at and at + length <= end for first, end in ram):
                raise Refused(Result.BAD_ADDRESS)
        space.map_host(address, runs, read_only)
        self._mappings += 1

    def unmap(self, number: int, address: int, size: int) -> None:
        """Take mappings away; the GPU loses them at the next `flush`."""
        space = self[number]
        self._mappings -= space.unmap(address, size)
        if space.stale:
            self.stale.add(space)

    def flush(self) -> None:
        """Drop what the GPU cached of spaces that lost mappings."""
        for space in self.stale:
            space.flush()
        self.stale.clear()

    def clear(self) -> None:
        """Forget everything; the memory of the tables is freed by its owner."""
        self._spaces.clear()
        self.stale.clear()
        self._mappings = 0

    def _room(self) -> None:
        if self._mappings >= MAPPING_LIMIT:
            raise Refused(Result.NO_MEMORY)


def _parts(address: int, count: int, big: bool) -> Iterator[tuple[tuple[int, bool], int, int, int]]:
    """Split a range of entries by tables: (directory entry, kind), first entry there, first of the range,
    entries."""
    shift = LARGE_SHIFT if big else SMALL_SHIFT
    per_table = 1 << (SPAN_SHIFT - shift)
    done = 0
    while done < count:
        at = (address >> shift) + done
        first = at % per_table
        length = min(count - done, per_table - first)
        yield (at // per_table, big), first, done, length
        done += length

"""Page-table format of the GF100 MMU: instance block, directory and table entries, and a walk of one address.

Two levels over 40 bits: a directory entry spans 128 MiB and names a table of small pages (4 KiB) and one of
large pages (128 KiB); the small one is tried first. Source: rnndb memory/gf100_vm.xml and what nouveau
writes.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from gpuvm.gpu.physical import PhysicalMemory, Target

ADDRESS_BITS = 40
PAGE_SHIFT = 12
LARGE_SHIFT = 17
DIRECTORY_SHIFT = 27
DIRECTORY_ENTRIES = 1 << (ADDRESS_BITS - DIRECTORY_SHIFT)
SMALL_ENTRIES = 1 << (DIRECTORY_SHIFT - PAGE_SHIFT)
LARGE_ENTRIES = 1 << (DIRECTORY_SHIFT - LARGE_SHIFT)
PAGES_PER_LARGE = 1 << (LARGE_SHIFT - PAGE_SHIFT)

PDB_LOW, PDB_HIGH, LIMIT_LOW, LIMIT_HIGH = 0x200, 0x204, 0x208, 0x20C
"""Where an instance block keeps its page directory and the last virtual address."""

PRESENT, SUPERVISOR, READ_ONLY = 1 << 0, 1 << 1, 1 << 2
ADDRESS_MASK = 0xFFFFFFF0
"""Of a table entry: physical address >> 12 from bit 4 on."""
PAGE_STEP = 0x10
"""What the next 4 KiB add to an entry."""
TARGET_SHIFT = 33
ENTRY_MASK = 0x6_0000_0000 | ADDRESS_MASK | READ_ONLY | SUPERVISOR | PRESENT
"""The bits of a table entry that decide where an access goes; storage kind and compression tag do not."""

_WITHIN = 1 << DIRECTORY_SHIFT


class Reason(enum.IntEnum):
    """Why a translation failed (rnndb GF100_VM_FAULT)."""

    PT_NOT_PRESENT = 0
    PT_TOO_SHORT = 1
    PAGE_NOT_PRESENT = 2
    VSPACE_LIMIT = 3
    NO_CHANNEL = 4
    PAGE_SUPERVISOR_ONLY = 5
    PAGE_READ_ONLY = 6


class MmuFault(Exception):
    """A GPU virtual address that may not be accessed so.

    Attributes
    ----------
    address : int
        GPU virtual address.
    """

    def __init__(self, address: int, write: bool, reason: Reason) -> None:
        super().__init__(address, write, reason)
        self.address = address
        self.write = write
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Root:
    """What identifies an address space: the page directory and the last address that may be used."""

    target: int
    directory: int
    limit: int


def root(memory: PhysicalMemory, target: int, instance: int) -> Root:
    """Read the page directory of the instance block at physical address `instance`."""
    low, high, limit_low, limit_high = (
        memory.read32(target, instance + at) for at in (PDB_LOW, PDB_HIGH, LIMIT_LOW, LIMIT_HIGH)
    )
    directory = (low & 0xFFFFF000) | (high & 0xFF) << 32
    limit = (limit_low | 0xFFF | (limit_high & 0xFF) << 32) if limit_low | limit_high else 0
    return Root(low & 3, directory, limit)


def tables(entry: int) -> tuple[tuple[int, int] | None, tuple[int, int] | None, int]:
    """Decode a directory entry: (target, address) of the small and of the large table, bytes of VA that they
    span.
    """
    low, high = entry & 0xFFFFFFFF, entry >> 32
    return _table(high), _table(low), _WITHIN >> (low >> 2 & 3)


def _table(word: int) -> tuple[int, int] | None:
    kind = word & 3
    if kind == 0:
        return None
    return (Target.VRAM if kind == 1 else kind), (word & 0xFFFFFFF0) << 8


def walk(memory: PhysicalMemory, where: Root, address: int) -> int:
    """Walk the tables for one address and return its entry as for a small page, masked with `ENTRY_MASK`.

    Raises
    ------
    MmuFault
        If no page is there; rights are the caller's matter.
    """
    if address > where.limit:
        raise MmuFault(address, False, Reason.VSPACE_LIMIT)
    entry = _read64(memory, where.target, where.directory + 8 * (address >> DIRECTORY_SHIFT))
    small, large, span = tables(entry)
    if small is None and large is None:
        raise MmuFault(address, False, Reason.PT_NOT_PRESENT)
    within = address & (_WITHIN - 1)
    if within >= span:
        raise MmuFault(address, False, Reason.PT_TOO_SHORT)
    if small is not None:
        page = _read64(memory, small[0], small[1] + 8 * (within >> PAGE_SHIFT))
        if page & PRESENT:
            return page & ENTRY_MASK
    if large is not None:
        page = _read64(memory, large[0], large[1] + 8 * (within >> LARGE_SHIFT))
        if page & PRESENT:
            base = page & ENTRY_MASK & ~(PAGE_STEP * PAGES_PER_LARGE - PAGE_STEP)
            return base | (within >> PAGE_SHIFT & (PAGES_PER_LARGE - 1)) * PAGE_STEP
    raise MmuFault(address, False, Reason.PAGE_NOT_PRESENT)


def _read64(memory: PhysicalMemory, target: int, address: int) -> int:
    """Read an entry at once: its writer may be another thread."""
    found = memory.locate(target, address)
    if found is None or found[1] & 7:
        return 0
    region, offset = found
    return int.from_bytes(region.view[offset : offset + 8], "little")


_SUBPAGES = np.tile(np.arange(PAGES_PER_LARGE, dtype=np.uint64) * np.uint64(PAGE_STEP), LARGE_ENTRIES)


def expand(small: npt.NDArray[np.uint64], large: npt.NDArray[np.uint64], span: int) -> npt.NDArray[np.uint64]:
    """Merge the two tables of a directory entry into one entry for each 4 KiB page; 0 where no page is.

    Parameters
    ----------
    small, large : uint64[<= 32768], uint64[<= 1024]
        Raw tables, empty where there is none.
    span : int
        Bytes of VA that the tables cover.
    """
    result = np.zeros(SMALL_ENTRIES, np.uint64)
    if large.size:
        entries = large & np.uint64(ENTRY_MASK & ~(PAGE_STEP * PAGES_PER_LARGE - PAGE_STEP))
        entries[(large & np.uint64(PRESENT)) == 0] = 0
        used = large.size * PAGES_PER_LARGE
        result[:used] = np.repeat(entries, PAGES_PER_LARGE)
        np.bitwise_or(result[:used], _SUBPAGES[:used], out=result[:used], where=result[:used] != 0)
    if small.size:
        present = (small & np.uint64(PRESENT)) != 0
        np.copyto(result[: small.size], small & np.uint64(ENTRY_MASK), where=present)
    result[span >> PAGE_SHIFT :] = 0
    return result


def runs(entries: npt.NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Return (first page, pages) of the stretches in which each entry continues the one before it."""
    if entries.size <= 1:
        return [(0, entries.size)] if entries.size else []
    breaks = np.flatnonzero(np.diff(entries) != np.uint64(PAGE_STEP)) + 1
    edges = [0, *breaks.tolist(), entries.size]
    return [(a, b - a) for a, b in pairwise(edges)]

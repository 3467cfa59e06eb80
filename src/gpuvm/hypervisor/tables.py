"""The page-table format of the GF100 MMU as data, and the translation of whole tables of it with range
checks.

A page directory has 8,192 entries of 128 MiB; an entry points to a table of large pages (128 KiB, word 0)
and a table of small pages (4 KiB, word 1). Sources: `docs/hw/memory/gf100-vm` of envytools, nouveau
`vmmgf100.c`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuvm.hypervisor.address import GuestMemory

Words = npt.NDArray[np.uint32]

DIRECTORY_ENTRIES = 8192
DIRECTORY_BYTES = 8 * DIRECTORY_ENTRIES
SPAN_SHIFT = 27
"""Log2 of the bytes that one directory entry covers."""

SMALL_SHIFT = 12
LARGE_SHIFT = 17
SMALL_ENTRIES = 1 << (SPAN_SHIFT - SMALL_SHIFT)
LARGE_ENTRIES = 1 << (SPAN_SHIFT - LARGE_SHIFT)

PDE_TARGET = 0x3
"""Where a table lies: 0 nowhere, 1 VRAM, 2 or 3 the system's memory."""

PDE_VRAM = 1
PDE_SIZE = 0xC
"""Word 0: the large table covers 128 MiB shifted right by this field."""

PDE_SIZE_SHIFT = 2
ADDRESS = 0xFFFFFFF0
"""Bits of word 0 of an entry, and of both words of a directory entry, that hold address >> 8 (bits 12 to
39)."""

PTE_PRESENT = 0x1
PTE_FLAGS = 0xF
"""Present, privileged, read-only, encrypted."""

PTE_APERTURE_SHIFT = 1
PTE_APERTURE = 0x3
APERTURE_VRAM, APERTURE_SNOOPED, APERTURE_UNSNOOPED = 0, 2, 3
PTE_HIGH = 0xFFF
"""Word 1 without the compression tags: those name cells of a memory that is not partitioned."""


def large_entries(word: int) -> int:
    """Entries of the large-page table of a directory entry whose word 0 is `word`."""
    return LARGE_ENTRIES >> ((word & PDE_SIZE) >> PDE_SIZE_SHIFT)


def table_address(word: int) -> int:
    """Address of the table that a word of a directory entry points to."""
    return (word & ADDRESS) << 8


def put(target: Words, entries: Words) -> int:
    """Store entries, uint32[n, 2], where they differ from `target`; return how many did.

    An entry is stored as one 64-bit word: whoever walks the table meanwhile sees the old one or the new one.
    """
    words, fresh = target.view(np.uint64)[:, 0], np.ascontiguousarray(entries).view(np.uint64)[:, 0]
    changed = np.flatnonzero(words != fresh)
    if len(changed):
        words[changed] = fresh[changed]
    return len(changed)


@dataclass(frozen=True, slots=True)
class Translation:
    """A table of entries with machine addresses.

    Attributes
    ----------
    words : uint32[n, 2]
        The entries; what the guest may not have is zero.
    present : int
        Entries that the guest's table marks present.
    system : int
        Those of them in system memory: each is a frame whose machine frame had to be found.
    refused : int
        Present entries made not-present because they point outside what the guest owns.
    """

    words: Words
    present: int
    system: int
    refused: int


def translate(entries: Words, memory: GuestMemory, shift: int, ram: Sequence[tuple[int, int]]) -> Translation:
    """Translate a table of page-table entries.

    Parameters
    ----------
    entries : uint32[n, 2]
        As the guest wrote them.
    shift : int
        12 for a small-page table, 17 for a large-page one.
    ram : sequence of (int, int)
        `memory.ram()`, taken once for a pass.
    """
    quads = np.ascontiguousarray(entries).view(np.uint64)[:, 0]
    run = straight(quads, memory, shift, ram)
    if run is not None:
        words = run.quads.view(np.uint32).reshape(-1, 2)
        return Translation(words, len(quads), 0 if run.in_vram else len(quads), 0)
    out = np.zeros_like(entries)
    where = np.flatnonzero(entries[:, 0] & PTE_PRESENT)
    if not len(where):
        return Translation(out, 0, 0, 0)
    low = entries[where, 0]
    high = entries[where, 1]
    frame = (low >> np.uint32(4)).astype(np.int64)
    aperture = (high >> np.uint32(PTE_APERTURE_SHIFT)) & np.uint32(PTE_APERTURE)
    frames = 1 << (shift - 12)
    # As the MMU does, which ignores the bits below the page's size.
    frame &= -frames
    in_vram = aperture == APERTURE_VRAM
    in_system = aperture >= APERTURE_SNOOPED

    mine = in_vram & (frame + frames <= memory.size >> 12)
    machine = np.where(in_vram, frame + (memory.base >> 12), frame + (memory.window >> 12))
    backed = np.zeros(len(where), np.bool_)
    for first, end in ram:
        backed |= (frame >= first >> 12) & (frame + frames <= end >> 12)
    allowed = mine | (in_system & backed)

    kept = where[allowed]
    out[kept, 0] = (machine[allowed] << 4).astype(np.uint32) | (low[allowed] & np.uint32(PTE_FLAGS))
    out[kept, 1] = high[allowed] & np.uint32(PTE_HIGH)
    return Translation(
        out, len(where), int(np.count_nonzero(in_system)), len(where) - int(np.count_nonzero(allowed))
    )


def translate_one(
    entry: int, memory: GuestMemory, shift: int, ram: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Translate one entry as `translate` does a table of them.

    Returns
    -------
    (int, int) or None
        The two words, (0, 0) of an entry that is not present; None if the guest may not have it.
    """
    if not entry & PTE_PRESENT:
        return 0, 0
    low, high = entry & 0xFFFFFFFF, entry >> 32
    frames = 1 << (shift - 12)
    frame = low >> 4 & -frames
    aperture = high >> PTE_APERTURE_SHIFT & PTE_APERTURE
    if aperture == APERTURE_VRAM:
        if frame + frames > memory.size >> 12:
            return None
        machine = frame + (memory.base >> 12)
    elif aperture >= APERTURE_SNOOPED and any(
        first >> 12 <= frame and frame + frames <= end >> 12 for first, end in ram
    ):
        machine = frame + (memory.window >> 12)
    else:
        return None
    return machine << 4 & 0xFFFFFFFF | low & PTE_FLAGS, high & PTE_HIGH


@dataclass(frozen=True, slots=True)
class Run:
    """Translated entries of pages that follow each other.

    Attributes
    ----------
    quads : uint64[n]
        The entries.
    frame, pages : int
        First small page of the guest's memory, and how many.
    in_vram : bool
        Whether that memory is the guest's video memory, or its RAM.
    """

    quads: npt.NDArray[np.uint64]
    frame: int
    pages: int
    in_vram: bool


_RAMPS = {
    shift: np.arange(count, dtype=np.uint64) << np.uint64(shift - 8)
    for shift, count in ((SMALL_SHIFT, SMALL_ENTRIES), (LARGE_SHIFT, LARGE_ENTRIES))
}


def straight(
    quads: npt.NDArray[np.uint64], memory: GuestMemory, shift: int, ram: Sequence[tuple[int, int]]
) -> Run | None:
    """Translate entries of pages that follow each other in one memory, as most tables are written; None if
    they do not, or not all may be had."""
    count = len(quads)
    if not count or count > len(_RAMPS[shift]):
        return None
    first = int(quads[0])
    ramp = _RAMPS[shift][:count]
    if not first & PTE_PRESENT or (first & 0xFFFFFFFF) + int(ramp[-1]) > 0xFFFFFFFF:
        return None
    if not (quads - quads[0] == ramp).all():
        return None
    words = translate_one(first, memory, shift, ram)
    if words is None:
        return None
    frames = 1 << (shift - 12)
    frame, pages = (first & 0xFFFFFFFF) >> 4 & -frames, count * frames
    in_vram = words[1] >> PTE_APERTURE_SHIFT & PTE_APERTURE == APERTURE_VRAM
    if in_vram:
        if frame + pages > memory.size >> 12:
            return None
    elif not any(low >> 12 <= frame and frame + pages <= end >> 12 for low, end in ram):
        return None
    return Run(ramp + np.uint64(words[0] | words[1] << 32), frame, pages, in_vram)

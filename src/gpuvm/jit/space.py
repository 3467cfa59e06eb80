"""The host alias of one GPU virtual address space: a reservation of host memory into which GPU pages are
mapped.

Byte `va` of the GPU address space is byte `base + va` of this process, so translated code reaches memory
without
any look-up. What is not mapped is PROT_NONE: touching it is a SIGSEGV that `gpuvm.jit.fault` turns into an
error.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator

PAGE = 4096
VA_BITS = 40
VA_SIZE = 1 << VA_BITS
"""A GF100 virtual address has 40 bits."""
GUARD = 64 << 30
"""Never mapped, on both sides: translated code clamps an address to VA_SIZE + 4 GiB or adds at most 32 GiB to
one."""

_PROT_NONE, _PROT_READ, _PROT_WRITE = 0, mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS, _MAP_NORESERVE = 0x1, 0x2, 0x10, 0x20, 0x4000
_RESERVE = _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class AccessError(Exception):
    """An access to a GPU virtual address that is not mapped, or a write to a read-only page.

    Attributes
    ----------
    va : int
        The first address that failed.
    write : bool
        Whether it was a write.
    """

    def __init__(self, va: int, write: bool) -> None:
        super().__init__(f"GPU address {va:#x} must be mapped{' writable' if write else ''}; it is not")
        self.va = va
        self.write = write


class MappingLimitError(Exception):
    """The host refused one more mapping or reservation (vm.max_map_count, or its address space is used
    up)."""


class AddressSpace:
    """Host alias of one 40-bit GPU virtual address space. Costs a few hundred bytes until something is
    mapped."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._reservation = 0
        self._base = 0
        self._starts: list[int] = []
        self._ranges: list[tuple[int, int, bool]] = []
        self._closed = False

    @property
    def base(self) -> int:
        """Host address of GPU address 0; the reservation is made at first use.

        Raises
        ------
        MappingLimitError
            If the host has no room for one more reservation (about 110 fit).
        """
        if self._base == 0:
            with self._lock:
                if self._closed:
                    raise ValueError("an address space must be open to be used; this one was closed")
                if self._base == 0:
                    at = _libc.mmap(None, VA_SIZE + 2 * GUARD, _PROT_NONE, _RESERVE, -1, 0)
                    if at == _FAILED or at is None:
                        raise MappingLimitError(
                            f"the host must have {(VA_SIZE + 2 * GUARD) >> 40} TiB of address space free for a GPU "
                            f"address space; it refused: {os.strerror(ctypes.get_errno())}. Close unused channels."
                        )
                    self._reservation = at
                    self._base = at + GUARD
        return self._base

    @property
    def mapped(self) -> int:
        """Mapped bytes."""
        return sum(end - start for start, end, _ in self._ranges)

    def map(self, va: int, size: int, fd: int, offset: int, writable: bool) -> None:
        """Make `size` bytes of file `fd` from `offset` appear at GPU address `va`; replaces what was there.

        Parameters
        ----------
        va, size, offset : int
            Bytes, multiples of 4096.

        Raises
        ------
        MappingLimitError
            If the host has no mapping left (vm.max_map_count).
        """
        self._check(va, size)
        if size == 0:
            return
        with self._lock:
            prot = _PROT_WRITE if writable else _PROT_READ
            at = _libc.mmap(self.base + va, size, prot, _MAP_SHARED | _MAP_FIXED, fd, offset)
            if at == _FAILED or at is None:
                code = ctypes.get_errno()
                if code == errno.ENOMEM:
                    raise MappingLimitError(
                        f"a GPU address space must fit in vm.max_map_count host mappings; one more ({size:#x} bytes at "
                        f"{va:#x}) was refused. Raise that setting or use larger pages."
                    )
                raise OSError(code, f"mmap of {size:#x} bytes at GPU address {va:#x} must succeed", None)
            self._forget(va, va + size)
            self._remember(va, va + size, writable)

    def unmap(self, va: int, size: int) -> None:
        """Take `size` bytes at `va` away (multiples of 4096); what was not mapped stays so."""
        self._check(va, size)
        with self._lock:
            for start, end, _ in list(self._overlaps(va, va + size)):
                first, last = max(start, va), min(end, va + size)
                self._hide(first, last - first)
            self._forget(va, va + size)

    def clear(self) -> None:
        """Take every mapping away."""
        with self._lock:
            if self._ranges:
                low, high = self._ranges[0][0], self._ranges[-1][1]
                self._hide(low, high - low)
                self._ranges, self._starts = [], []

    def ranges(self) -> Iterator[tuple[int, int, bool]]:
        """Yield (start, end, writable) of what is mapped, in order of address."""
        return iter(list(self._ranges))

    def read(self, va: int, size: int) -> bytes:
        """Return `size` bytes at GPU address `va`.

        Raises
        ------
        AccessError
            If a byte is not mapped.
        """
        with self._lock:
            self._require(va, size, False)
            return ctypes.string_at(self._base + va, size) if size else b""

    def write(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at GPU address `va`.

        Raises
        ------
        AccessError
            If a byte is not mapped writable.
        """
        raw = bytes(data)
        with self._lock:
            self._require(va, len(raw), True)
            if raw:
                ctypes.memmove(self._base + va, raw, len(raw))

    def close(self) -> None:
        """Give the reservation back. No launch may be running in it."""
        with self._lock:
            self._closed = True
            if self._base:
                _libc.munmap(self._reservation, VA_SIZE + 2 * GUARD)
                self._base = self._reservation = 0
            self._ranges, self._starts = [], []

    def __del__(self) -> None:
        if getattr(self, "_base", 0):
            self.close()

    def _check(self, va: int, size: int) -> None:
        if va % PAGE or size % PAGE or va < 0 or size < 0 or va + size > VA_SIZE:
            raise ValueError(
                f"a mapping must lie in {VA_BITS} bits and start and end at multiples of {PAGE}, "
                f"got {size:#x} at {va:#x}"
            )

    def _hide(self, va: int, size: int) -> None:
        if _libc.mmap(self.base + va, size, _PROT_NONE, _RESERVE | _MAP_FIXED, -1, 0) == _FAILED:
            raise MappingLimitError(
                f"taking {size:#x} bytes at GPU address {va:#x} away must leave at most vm.max_map_count host mappings"
            )

    def _overlaps(self, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
        where = max(bisect_right(self._starts, start) - 1, 0)
        while where < len(self._ranges) and self._ranges[where][0] < end:
            if self._ranges[where][1] > start:
                yield self._ranges[where]
            where += 1

    def _forget(self, start: int, end: int) -> None:
        hit = list(self._overlaps(start, end))
        if not hit:
            return
        first = bisect_right(self._starts, hit[0][0]) - 1
        keep: list[tuple[int, int, bool]] = []
        if hit[0][0] < start:
            keep.append((hit[0][0], start, hit[0][2]))
        if hit[-1][1] > end:
            keep.append((end, hit[-1][1], hit[-1][2]))
        self._ranges[first : first + len(hit)] = keep
        self._starts[first : first + len(hit)] = [piece[0] for piece in keep]

    def _remember(self, start: int, end: int, writable: bool) -> None:
        where = bisect_right(self._starts, start)
        below = self._ranges[where - 1] if where else None
        above = self._ranges[where] if where < len(self._ranges) else None
        first = last = where
        if below and below[1] == start and below[2] == writable:
            start, first = below[0], where - 1
        if above and above[0] == end and above[2] == writable:
            end, last = above[1], where + 1
        self._ranges[first:last] = [(start, end, writable)]
        self._starts[first:last] = [start]

    def _require(self, va: int, size: int, write: bool) -> None:
        at, end = va, va + size
        while at < end:
            where = bisect_right(self._starts, at) - 1
            if where < 0 or self._ranges[where][1] <= at or (write and not self._ranges[where][2]):
                raise AccessError(at, write)
            at = self._ranges[where][1]

"""Host memory that a device can reach: regions backed by a file descriptor, placed in a bus address space.

VRAM, a virtual machine's RAM and the hypervisor's own memory are all a `MemoryRegion`; the file descriptor
is what lets the same bytes appear in a GPU address space (`gpuvm.jit.space`) and, later, in another process.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

PAGE = 4096


class MemoryRegion:
    """Zero-filled host memory of `size` bytes, shared and sparse: it costs only what is touched.

    Parameters
    ----------
    size : int
        Bytes; rounded up to a whole page.
    name : str
        For the people who read /proc/PID/maps.
    fd, offset : int, optional
        Map this file descriptor (taken over, closed by `close`) from `offset` instead of making a new one.
    """

    def __init__(self, size: int, name: str = "gpuvm", *, fd: int | None = None, offset: int = 0) -> None:
        size = -(-size // PAGE) * PAGE
        self._own = fd is None
        if fd is None:
            fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(fd, size)
            # Who maps it in another process may rely on its size.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        self.fd = fd
        self.offset = offset
        self.size = size
        self.name = name
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        self.bytes: npt.NDArray[np.uint8] = np.frombuffer(self._map, dtype=np.uint8)
        """All bytes, uint8[size]."""
        self.address = int(self.bytes.ctypes.data)
        """Host virtual address of the first byte."""
        self.words: npt.NDArray[np.uint32] = self.bytes.view(np.uint32)
        """The same memory as little-endian words, uint32[size / 4]."""
        self.view = memoryview(self._map)
        """The same memory for struct and slices."""
        self.word_view = self.view.cast("I")
        """The same memory as little-endian words, the fastest single-word access there is."""

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.view[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.view[offset : offset + len(data)] = data

    def zero(self, offset: int, size: int) -> None:
        """Zero bytes and give whole pages back to the host."""
        first, last = -(-offset // PAGE) * PAGE, (offset + size) // PAGE * PAGE
        if last > first:
            _punch(self.fd, self.offset + first, last - first)
            self.bytes[offset:first] = 0
            self.bytes[last : offset + size] = 0
        else:
            self.bytes[offset : offset + size] = 0

    def close(self) -> None:
        """Give the memory back; arrays handed out earlier stay valid and, if it was made here, read zeros."""
        if self.fd < 0:
            return
        if self._own:
            _punch(self.fd, 0, self.size)
        os.close(self.fd)
        self.fd = -1
        self.view.release()
        self.word_view = memoryview(b"").cast("I")
        self.bytes = np.empty(0, np.uint8)
        self.words = np.empty(0, np.uint32)
        del self._map  # it holds a file descriptor of its own


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def _punch(fd: int, offset: int, size: int) -> None:
    if _libc.fallocate(fd, _KEEP_SIZE | _PUNCH_HOLE, offset, size) != 0:
        raise OSError(ctypes.get_errno(), "fallocate(PUNCH_HOLE) must work on the memory's file")


class DmaError(Exception):
    """A bus address that no region answers.

    Attributes
    ----------
    address : int
        The first bus address that is not backed.
    """

    def __init__(self, address: int) -> None:
        super().__init__(f"bus address {address:#x} must lie in a region added to this bus; none is there")
        self.address = address


class BusMemory:
    """A bus address space: what a device reaches by DMA. Regions are added at page-aligned bases and may not
    overlap.
    """

    def __init__(self) -> None:
        self._bases: list[int] = []
        self._regions: list[MemoryRegion] = []

    def add(self, base: int, region: MemoryRegion) -> None:
        if base % PAGE:
            raise ValueError(f"a region's base must be a multiple of {PAGE}, got {base:#x}")
        for other, at in self.regions():
            if base < at + other.size and at < base + region.size:
                raise ValueError(
                    f"region {region.name!r} at {base:#x} must not overlap {other.name!r} at {at:#x}"
                )
        where = bisect_right(self._bases, base)
        # Lists are replaced, not changed: readers on other threads see the old or the new pair of lists.
        self._bases, self._regions = (
            [*self._bases[:where], base, *self._bases[where:]],
            [*self._regions[:where], region, *self._regions[where:]],
        )

    def remove(self, base: int) -> MemoryRegion:
        where = self._bases.index(base)
        region = self._regions[where]
        self._bases, self._regions = (
            self._bases[:where] + self._bases[where + 1 :],
            self._regions[:where] + self._regions[where + 1 :],
        )
        return region

    def regions(self) -> Iterator[tuple[MemoryRegion, int]]:
        """Yield (region, base) in order of address."""
        return zip(self._regions, self._bases, strict=True)

    def find(self, address: int) -> tuple[MemoryRegion, int]:
        """Return (region, offset in it) of a bus address.

        Raises
        ------
        DmaError
            If no region is there.
        """
        where = bisect_right(self._bases, address) - 1
        if where >= 0:
            offset = address - self._bases[where]
            if offset < self._regions[where].size:
                return self._regions[where], offset
        raise DmaError(address)

    def spans(self, address: int, size: int) -> Iterator[tuple[MemoryRegion, int, int]]:
        """Yield (region, offset, length) for the pieces of a range, in order."""
        while size > 0:
            region, offset = self.find(address)
            length = min(size, region.size - offset)
            yield region, offset, length
            address += length
            size -= length

    def read(self, address: int, size: int) -> bytes:
        return b"".join(region.read(offset, length) for region, offset, length in self.spans(address, size))

    def write(self, address: int, data: bytes | memoryview) -> None:
        done = 0
        view = memoryview(data)
        for region, offset, length in list(self.spans(address, len(view))):
            region.write(offset, view[done : done + length])
            done += length

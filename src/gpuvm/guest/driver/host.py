"""Host memory that the GPU can reach: RAM pages of the machine, seen by the program and by the GPU at one
address.

An operating system gives a process virtual memory and the GPU's driver maps the same pages at the same
address for the GPU (unified virtual addressing). Here the process is this one: the machine's RAM pages are
mapped below 2**40, in a window that no allocator of the process uses, so the address fits the GPU's 40 bits.
The window is shared by all machines of the process: an address names one buffer.
"""

from __future__ import annotations

import ctypes
import os
import threading

from gpuvm.guest.driver.errors import OutOfMemory
from gpuvm.guest.machine import Machine
from gpuvm.guest.ranges import OutOfSpace, RangeAllocator
from gpuvm.pci.memory import PAGE

WINDOW_BASE = 0x60_0000_0000
WINDOW_SIZE = 0x90_0000_0000

_PROT_READ, _PROT_WRITE = 1, 2
_MAP_SHARED, _MAP_PRIVATE, _MAP_FIXED, _MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
_MAP_NORESERVE, _MAP_FIXED_NOREPLACE = 0x4000, 0x100000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
]  # fmt: skip
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

_CHUNK_HEADER, _CHUNK_IS_MAPPED = 16, 2

_lock = threading.Lock()
_window = RangeAllocator(WINDOW_BASE, WINDOW_SIZE, PAGE, "the window of GPU-visible host addresses")


def _map(address: int, size: int, flags: int, fd: int, offset: int) -> None:
    at = _libc.mmap(address, size, _PROT_READ | _PROT_WRITE, flags, fd, offset)
    if at is None or at == ctypes.c_void_p(-1).value:
        raise OutOfMemory(
            f"the host must map {size} bytes at {address:#x}: {os.strerror(ctypes.get_errno())}"
        )
    if at != address:
        _libc.munmap(at, size)
        raise OutOfMemory(f"the host must map {size} bytes at {address:#x}; it offered {at:#x}")


class HostBuffer:
    """Page-locked RAM of a machine, mapped into this process.

    Attributes
    ----------
    address : int
        Where the program sees it; address spaces map it at the same GPU virtual address.
    runs : list of (int, int)
        Its pages as (bus address, bytes).
    """

    def __init__(self, machine: Machine, size: int) -> None:
        self._machine = machine
        self.size = max(-(-size // PAGE) * PAGE, PAGE)
        try:
            self.runs = machine.pages.allocate(self.size)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None
        try:
            self.address = self._place()
        except OutOfMemory:
            machine.pages.free(self.runs)
            raise

    def _place(self) -> int:
        memory = self._machine.memory
        for _ in range(64):
            with _lock:
                try:
                    base = _window.allocate(self.size)
                except OutOfSpace as error:
                    raise OutOfMemory(str(error)) from None
            try:
                _map(
                    base,
                    self.size,
                    _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_NORESERVE | _MAP_FIXED_NOREPLACE,
                    -1,
                    0,
                )
            except OutOfMemory:
                # Something else of the process lies there: leave that range out of the window for good.
                continue
            at = base
            for bus, length in self.runs:
                _map(at, length, _MAP_SHARED | _MAP_FIXED, memory.fd, memory.offset + bus)
                at += length
            return base
        raise OutOfMemory(
            f"the process must leave the addresses from {WINDOW_BASE:#x} to the driver; they are taken"
        )

    @property
    def gpu_address(self) -> int:
        """Where address spaces map it."""
        return self.address

    def view(self) -> memoryview:
        """The bytes, writable."""
        return memoryview((ctypes.c_ubyte * self.size).from_address(self.address)).cast("B")

    def free(self) -> None:
        """Unmap it and give the pages back."""
        _libc.munmap(self.address, self.size)
        with _lock:
            _window.free(self.address, self.size)
        self._machine.pages.free(self.runs)
        self.runs = []


class RegisteredBuffer(HostBuffer):
    """Memory that the program already has, made page-locked: its pages are exchanged for the machine's RAM in
    place.

    The contents move into RAM pages of the machine, which are then mapped where the program's own pages were;
    `free` moves them back. Only whole pages of the program's can be exchanged: see `owns_its_pages`.

    Attributes
    ----------
    gpu_address : int
        Where address spaces map it: a host address of this process does not fit the GPU's 40 bits.
    """

    def __init__(self, machine: Machine, address: int, size: int) -> None:
        first = address // PAGE * PAGE
        super().__init__(machine, address + size - first)
        self._first = first
        self._delta = address - first
        ctypes.memmove(self.address, first, self.size)
        try:
            self._exchange()
        except OutOfMemory:
            super().free()
            raise

    @property
    def gpu_address(self) -> int:
        return self.address + self._delta

    def _exchange(self) -> None:
        at = self._first
        for bus, length in self.runs:
            _map(
                at,
                length,
                _MAP_SHARED | _MAP_FIXED,
                self._machine.memory.fd,
                self._machine.memory.offset + bus,
            )
            at += length

    def free(self) -> None:
        if not self._in_place():
            # The program unmapped its memory while it was registered; what lies there now is not ours to
            # replace.
            super().free()
            return
        copy = ctypes.create_string_buffer(self.size)
        ctypes.memmove(copy, self.address, self.size)
        _map(self._first, self.size, _MAP_PRIVATE | _MAP_ANONYMOUS | _MAP_FIXED, -1, 0)
        ctypes.memmove(self._first, copy, self.size)
        super().free()

    def _in_place(self) -> bool:
        """Whether the program's addresses still show the machine's RAM."""
        at, end = self._first, self._first + self.size
        inode = os.fstat(self._machine.memory.fd).st_ino
        with open("/proc/self/maps") as maps:
            for line in maps:
                span, _, _, _, number, *_ = line.split()
                low, high = (int(each, 16) for each in span.split("-"))
                if low <= at < high and int(number) == inode:
                    at = high
                    if at >= end:
                        return True
        return False


def owns_its_pages(address: int, size: int) -> bool:
    """Whether no other data of the process can lie in the pages of a range, so they may be exchanged.

    True for page-aligned ranges, and for what the C library allocated with pages of its own: such a block
    begins with a 16-byte header at the start of a page, which says so and holds the number of bytes up to
    the block's end.
    """
    if address % PAGE == 0 and size % PAGE == 0:
        return True
    if address % PAGE != _CHUNK_HEADER:
        return False
    word = int(ctypes.c_uint64.from_address(address - 8).value)
    length = word & ~7
    return word & 7 == _CHUNK_IS_MAPPED and length % PAGE == 0 and size + _CHUNK_HEADER <= length

"""VRAM and the CPU's way to it: sizing, the VRAM allocator, the PRAMIN window, and instance memory mapped in
BAR3."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Protocol

from gpuvm.guest.driver.errors import DriverError, OutOfMemory
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import (
    BAR_INSTANCE,
    BAR_MMIO,
    BIG_PAGE,
    DIRECTORY_SIZE,
    INSTANCE_DIRECTORY,
    INSTANCE_LIMIT,
    INSTANCE_SIZE,
    PDE_VRAM,
    PRAMIN_SIZE,
    PTE_PRESENT,
    SMALL_PAGE,
    SMALL_SHIFT,
    Reg,
)
from gpuvm.guest.ranges import OutOfSpace, RangeAllocator

MIB = 1 << 20
RESERVED_HEAD = 256 << 10
"""VGA memory at the bottom of VRAM, as nouveau leaves it."""
RESERVED_TAIL = 1 << 20
"""The VBIOS's own memory at the top."""
UPPER_BASE = 0x2_0000_0000
"""Where partitions that are larger than the smallest one put the rest of their memory."""
BAR3_WINDOW = 32 * MIB
"""Most of BAR3 that this driver uses: its page table costs 8 bytes a 4 KiB page to zero at start."""


def vram_ranges(function: Function) -> list[tuple[int, int]]:
    """Read the memory partitions and return usable VRAM as (address, bytes), as nouveau does."""
    count = function.read(Reg.UNITS_FBP_COUNT) & 0x1F
    disabled = function.read(Reg.UNITS_FBP_DISABLE)
    sizes = [function.read(Reg.PFFB_SIZE + 0x1000 * n) * MIB for n in range(count) if not disabled >> n & 1]
    sizes = [size for size in sizes if size]
    total = sum(sizes)
    if total <= RESERVED_HEAD + RESERVED_TAIL:
        raise DriverError(
            f"the GPU must report more than {RESERVED_HEAD + RESERVED_TAIL} bytes of VRAM; "
            f"its {count} memory partitions report {total}"
        )
    common = min(sizes) * len(sizes)
    if common == total:
        return [(RESERVED_HEAD, total - RESERVED_HEAD - RESERVED_TAIL)]
    upper = UPPER_BASE + min(sizes)
    return [(RESERVED_HEAD, common - RESERVED_HEAD), (upper, total - common - RESERVED_TAIL)]


class Vram:
    """Allocator of VRAM. Small things come from the bottom in 4 KiB pages, buffers in 128 KiB pages."""

    def __init__(self, ranges: list[tuple[int, int]]) -> None:
        self._ranges = RangeAllocator(0, 0, SMALL_PAGE, "VRAM")
        self.total = 0
        for address, size in ranges:
            self._ranges.free(address, size // SMALL_PAGE * SMALL_PAGE)
            self.total += size
        self._ranges.size = self._ranges.free_bytes

    @property
    def free_bytes(self) -> int:
        return self._ranges.free_bytes

    @property
    def used_bytes(self) -> int:
        return self._ranges.used_bytes

    def allocate(self, size: int, align: int = SMALL_PAGE) -> int:
        """Return the address of contiguous VRAM.

        Raises
        ------
        OutOfMemory
        """
        try:
            return self._ranges.allocate(size, align)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None

    def allocate_pieces(self, size: int) -> list[tuple[int, int]]:
        """Return (address, bytes) pieces of whole big pages, one piece if VRAM is not too fragmented."""
        size = -(-size // BIG_PAGE) * BIG_PAGE
        largest = self._ranges.largest(BIG_PAGE) // BIG_PAGE * BIG_PAGE
        if largest >= size:
            return [(self._ranges.allocate(size, BIG_PAGE), size)]
        pieces: list[tuple[int, int]] = []
        left = size
        while left:
            length = min(left, self._ranges.largest(BIG_PAGE) // BIG_PAGE * BIG_PAGE)
            if length == 0:
                for address, taken in pieces:
                    self._ranges.free(address, taken)
                raise OutOfMemory(
                    f"VRAM must have {size} free bytes in 128 KiB pages; {self.free_bytes} are free"
                )
            pieces.append((self._ranges.allocate(length, BIG_PAGE), length))
            left -= length
        return pieces

    def free(self, address: int, size: int) -> None:
        self._ranges.free(address, size)


class Instance:
    """A piece of VRAM that the CPU reaches through BAR3: instance blocks, page tables, playlists.

    Attributes
    ----------
    address : int
        VRAM address.
    offset : int
        Where BAR3 shows it.
    """

    __slots__ = ("_memory", "address", "offset", "size")

    def __init__(self, memory: InstanceMemory, address: int, offset: int, size: int) -> None:
        self._memory = memory
        self.address = address
        self.offset = offset
        self.size = size

    def write(self, at: int, data: bytes | memoryview) -> None:
        """Write bytes, 8 at a time as a 64-bit CPU does."""
        self._memory.function.device.write_block(
            BAR_INSTANCE, self.offset + at, bytes(data), 4 if (at | len(data)) & 7 else 8
        )

    def write32(self, at: int, value: int) -> None:
        self._memory.function.device.write(BAR_INSTANCE, self.offset + at, 4, value & 0xFFFFFFFF)

    def read(self, at: int, size: int) -> bytes:
        return self._memory.function.device.read_block(BAR_INSTANCE, self.offset + at, size, 4)

    def zero(self) -> None:
        self.write(0, bytes(self.size))

    def free(self) -> None:
        self._memory.release(self)


class Window(Protocol):
    """How pages come to be shown in BAR3."""

    def set(self, offset: int, entries: Sequence[int]) -> None:
        """Set the page-table entries of the pages from `offset` on; the CPU sees them when this returns."""

    def close(self) -> None:
        """Show nothing any more."""


class HardwareWindow:
    """BAR3's page table in VRAM, written through the PRAMIN window, switched on, and from then on through
    itself."""

    def __init__(self, memory: InstanceMemory, size: int) -> None:
        self._memory = memory
        vram, function = memory.vram, memory.function
        table_size = (size >> SMALL_SHIFT) * 8
        table = vram.allocate(table_size)
        directory = vram.allocate(DIRECTORY_SIZE)
        block = vram.allocate(INSTANCE_SIZE)
        self._boot = [(table, table_size), (directory, DIRECTORY_SIZE), (block, INSTANCE_SIZE)]
        self._directory = directory
        entries = bytearray(table_size)
        self._table_offset = memory.reserve(table_size)
        for page in range(-(-table_size // SMALL_PAGE)):
            struct.pack_into(
                "<Q", entries, (self._table_offset // SMALL_PAGE + page) * 8, _pte(table + page * SMALL_PAGE)
            )
        memory.pramin(table, bytes(entries))
        entry = bytearray(DIRECTORY_SIZE)
        struct.pack_into("<II", entry, 0, 0, PDE_VRAM | table >> 8)
        memory.pramin(directory, bytes(entry))
        memory.pramin(block, _address_space_block(directory, size))
        memory.flush()
        function.write(Reg.PBUS_BAR3_INSTANCE, 0x80000000 | block >> 12)
        memory.flush_tlb(directory, hub=True)

    def set(self, offset: int, entries: Sequence[int]) -> None:
        at = self._table_offset + (offset >> SMALL_SHIFT) * 8
        self._memory.function.device.write_block(
            BAR_INSTANCE, at, struct.pack(f"<{len(entries)}Q", *entries), 8
        )
        self._memory.flush()
        self._memory.flush_tlb(self._directory, hub=True)

    def close(self) -> None:
        self._memory.function.write(Reg.PBUS_BAR3_INSTANCE, 0)
        for address, size in self._boot:
            self._memory.vram.free(address, size)


class InstanceMemory:
    """Instance memory behind BAR3.

    Parameters
    ----------
    make_window : callable
        Makes the `Window`, given this object and the bytes of BAR3 to use.
    """

    def __init__(
        self,
        function: Function,
        vram: Vram,
        make_window: Callable[[InstanceMemory, int], Window] = HardwareWindow,
    ) -> None:
        self.function = function
        self.vram = vram
        size = min(function.bar_sizes[BAR_INSTANCE], BAR3_WINDOW)
        self._offsets = RangeAllocator(0, size, SMALL_PAGE, "the BAR3 window")
        self._window = make_window(self, size)

    def reserve(self, size: int) -> int:
        """Take `size` bytes of the window; returns their offset."""
        return self._offsets.allocate(size)

    def allocate(self, size: int, align: int = SMALL_PAGE, zero: bool = True) -> Instance:
        """Return `size` bytes of VRAM shown in BAR3.

        Raises
        ------
        OutOfMemory
        """
        size = -(-size // SMALL_PAGE) * SMALL_PAGE
        address = self.vram.allocate(size, align)
        try:
            instance = self.show(address, size)
        except OutOfMemory:
            self.vram.free(address, size)
            raise
        if zero:
            instance.zero()
        return instance

    def show(self, address: int, size: int) -> Instance:
        """Show VRAM that somebody else allocated in BAR3, until `hide`.

        Raises
        ------
        OutOfMemory
            If the BAR3 window is full.
        """
        size = -(-size // SMALL_PAGE) * SMALL_PAGE
        try:
            offset = self._offsets.allocate(size)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None
        self._window.set(offset, [_pte(address + at) for at in range(0, size, SMALL_PAGE)])
        return Instance(self, address, offset, size)

    def hide(self, instance: Instance) -> None:
        self._window.set(instance.offset, [0] * (instance.size // SMALL_PAGE))
        self._offsets.free(instance.offset, instance.size)

    def release(self, instance: Instance) -> None:
        self.hide(instance)
        self.vram.free(instance.address, instance.size)

    def close(self) -> None:
        self._window.close()

    def pramin(self, address: int, data: bytes) -> None:
        """Write VRAM through the PRAMIN window (1 MiB of VRAM, moved in steps of 64 KiB)."""
        done = 0
        while done < len(data):
            base = (address + done) >> 16
            inside = (address + done) & 0xFFFF
            piece = data[done : done + PRAMIN_SIZE - inside]
            self.function.write(Reg.PBUS_PRAMIN_BASE, base)
            self.function.device.write_block(BAR_MMIO, Reg.PRAMIN + inside, piece, 4)
            done += len(piece)

    def flush(self) -> None:
        """Wait until writes through the BARs are in VRAM."""
        self.function.write(Reg.BAR_FLUSH, 1)
        self.function.wait(Reg.BAR_FLUSH, 2, 0, "BAR flush")

    def flush_tlb(self, directory: int, hub: bool = False) -> None:
        """Drop the MMU's cached translations of one page directory (VRAM address)."""
        function = self.function
        function.write(Reg.PFB_TLB_DIRECTORY, directory >> 8)
        function.write(Reg.PFB_TLB_TRIGGER, 0x80000000 | (5 if hub else 1))
        function.wait(Reg.PFB_FLUSH_STATUS, 0x00008000, 0x00008000, "TLB flush")


def _pte(address: int) -> int:
    return address >> 8 | PTE_PRESENT


def _address_space_block(directory: int, size: int) -> bytes:
    block = bytearray(INSTANCE_SIZE)
    struct.pack_into("<Q", block, INSTANCE_DIRECTORY, directory)
    struct.pack_into("<Q", block, INSTANCE_LIMIT, size - 1)
    return bytes(block)

"""Page tables as operations: what changes between a driver that owns its page tables and a para-virtual one.

`HardwareTables` writes the tables into VRAM through BAR3 and flushes the TLB by register. A para-virtual
driver gives `AddressSpace` another object of the same shape whose operations are hypercalls.
"""

from __future__ import annotations

import struct
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpuvm.guest.driver.hardware import (
    BIG_TABLE_SIZE,
    DIRECTORY_SIZE,
    INSTANCE_DIRECTORY,
    INSTANCE_LIMIT,
    INSTANCE_SIZE,
    PDE_VRAM,
    SMALL_TABLE_SIZE,
    Reg,
)
from gpuvm.guest.driver.instance import Instance, InstanceMemory

Entries = npt.NDArray[np.uint64]


class Tables(Protocol):
    """Operations on the page tables of address spaces. Directories and tables are named by what `new_*`
    returned."""

    def new_directory(self) -> int: ...

    def directory_address(self, directory: int) -> int:
        """The word pair that an instance block holds at 0x200: VRAM address of the directory."""

    def new_table(self, big: bool) -> int: ...

    def link(self, directory: int, index: int, big: int | None, small: int | None) -> None:
        """Make directory entry `index` (128 MiB of address space) name its tables."""

    def write(self, table: int, first: int, entries: Entries) -> None:
        """Set entries `first`... of a table; a zero entry unmaps."""

    def flush(self, directory: int) -> None:
        """Make the GPU forget cached translations of this directory."""

    def free(self, handle: int) -> None:
        """Give back a table that no directory names any more, or a directory that nothing uses."""

    def bind(self, channel: int, directory: int) -> bool:
        """Say, before a channel is started, which directory is its; 0 after it was stopped. False if the GPU is
        known to have no such channel.
        """

    def show(self, directory: int, size: int) -> None:
        """Make a directory that of BAR1, `size` bytes of it; 0 for none."""


class HardwareTables:
    """Page tables in VRAM, written through BAR3, as the hardware defines them."""

    def __init__(self, memory: InstanceMemory) -> None:
        self._memory = memory
        self._objects: dict[int, Instance] = {}
        self._bar1: Instance | None = None
        self.flushes = 0

    def new_directory(self) -> int:
        return self._new(DIRECTORY_SIZE)

    def directory_address(self, directory: int) -> int:
        return directory

    def new_table(self, big: bool) -> int:
        return self._new(BIG_TABLE_SIZE if big else SMALL_TABLE_SIZE)

    def link(self, directory: int, index: int, big: int | None, small: int | None) -> None:
        entry = struct.pack(
            "<II",
            0 if big is None else PDE_VRAM | big >> 8,
            0 if small is None else PDE_VRAM | small >> 8,
        )
        self._objects[directory].write(index * 8, entry)

    def write(self, table: int, first: int, entries: Entries) -> None:
        self._objects[table].write(first * 8, entries.tobytes())

    def flush(self, directory: int) -> None:
        self.flushes += 1
        self._memory.flush()
        self._memory.flush_tlb(directory)

    def free(self, handle: int) -> None:
        self._objects.pop(handle).free()

    def bind(self, channel: int, directory: int) -> bool:
        """The channel's instance block says it."""
        return True

    def show(self, directory: int, size: int) -> None:
        function = self._memory.function
        if self._bar1 is not None:
            function.write(Reg.PBUS_BAR1_INSTANCE, 0)
            self._bar1.free()
            self._bar1 = None
        if directory:
            block = self._bar1 = self._memory.allocate(INSTANCE_SIZE)
            block.write(INSTANCE_DIRECTORY, struct.pack("<Q", directory))
            block.write(INSTANCE_LIMIT, struct.pack("<Q", size - 1))
            self._memory.flush()
            function.write(Reg.PBUS_BAR1_INSTANCE, 0x80000000 | block.address >> 12)
            self._memory.flush_tlb(directory, hub=True)

    def _new(self, size: int) -> int:
        instance = self._memory.allocate(size)
        self._objects[instance.address] = instance
        return instance.address

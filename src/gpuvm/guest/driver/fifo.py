"""PFIFO: the playlist, the USERD (doorbell) area in BAR1, channel numbers and instance blocks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.guest.driver.errors import DeviceTimeout, OutOfMemory
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import (
    BAR_VRAM,
    BIG_PAGE,
    BIG_SHIFT,
    ENABLE_PFIFO,
    INSTANCE_DIRECTORY,
    INSTANCE_GRAPH,
    INSTANCE_SIZE,
    PTE_PRESENT,
    SUBFIFO_STRIDE,
    USERD_GP_PUT,
    USERD_SIZE,
    Reg,
)
from gpuvm.guest.driver.instance import Instance, InstanceMemory
from gpuvm.guest.driver.space import SPACE_LIMIT, AddressSpace, Space
from gpuvm.guest.driver.tables import Tables
from gpuvm.registers.ramfc import ramfc

if TYPE_CHECKING:
    from gpuvm.guest.driver.context import DeviceBuffer

CHANNELS = 128
PLAYLIST_SIZE = 0x1000
KILL_PATIENCE_S = 0.2
"""How long a channel that is to be killed may still take to leave its engine by itself."""


class Fifo:
    """PFIFO and its channel table.

    Attributes
    ----------
    subfifos : int
        PBDMA units.
    golden : bytes
        The graphics context that new channels start from.
    """

    def __init__(self, function: Function, memory: InstanceMemory, tables: Tables) -> None:
        self._function = function
        self._memory = memory
        self._tables = tables
        self.golden = b""
        self._running: set[int] = set()
        self._numbers = set(range(1, CHANNELS))
        self._share = CHANNELS
        self._playlists = [memory.allocate(PLAYLIST_SIZE), memory.allocate(PLAYLIST_SIZE)]
        self._userd_size = -(-CHANNELS * USERD_SIZE // BIG_PAGE) * BIG_PAGE
        self._userd = memory.vram.allocate(self._userd_size, BIG_PAGE)
        self._bar1 = self._map_userd()
        function.mask(Reg.PMC_ENABLE, ENABLE_PFIFO, 0)
        function.mask(Reg.PMC_ENABLE, 0, ENABLE_PFIFO)
        function.write(Reg.PMC_SUBFIFO_ENABLE, 0xFFFFFFFF)
        function.write(Reg.PFIFO_SUBFIFO_ENABLE, 0xFFFFFFFF)
        self.subfifos = function.read(Reg.PMC_SUBFIFO_ENABLE).bit_count()
        if self.subfifos >= 3:
            for engine, unit in enumerate((0, 1, 1, 1, 2, 1)):
                function.write(Reg.PFIFO_ENGINE_SUBFIFO + 4 * engine, ~(1 << unit))
        for unit in range(self.subfifos):
            at = SUBFIFO_STRIDE * unit
            function.mask(Reg.SUBFIFO_CONTROL + at, 0x10000100, 0)
            function.write(Reg.SUBFIFO_INTR + at, 0xFFFFFFFF)
            function.write(Reg.SUBFIFO_INTR_EN + at, 0xFFFFFEFF)
        function.mask(Reg.PFIFO_ENABLE, 0, 1)
        function.write(Reg.PFIFO_USERD_BASE, 0x10000000)
        function.write(Reg.PFIFO_RUNLIST_INTR, 0xFFFFFFFF)

    @property
    def channels_in_use(self) -> int:
        return self._share - 1 - len(self._numbers)

    def take_number(self) -> int:
        """Return a free channel number.

        Raises
        ------
        OutOfMemory
        """
        if not self._numbers:
            raise OutOfMemory(f"{self._share - 1} channels are all in use: destroy a context first")
        number = min(self._numbers)
        self._numbers.remove(number)
        return number

    def doorbell(self, number: int) -> Callable[[int], None]:
        """Return what writes a channel's GP_PUT."""
        write, offset = self._function.device.write, number * USERD_SIZE + USERD_GP_PUT
        return lambda put: write(BAR_VRAM, offset, 4, put)

    def new_block(self, number: int, space: Space, ring: int, entries: int) -> ChannelBlock:
        """Make a channel's instance block.

        Parameters
        ----------
        space : Space
            Where the channel runs.
        ring, entries : int
            GPU virtual address of the GPFIFO and its number of entries, a power of two.
        """
        assert isinstance(space, AddressSpace)
        instance = self._memory.allocate(INSTANCE_SIZE, INSTANCE_SIZE, zero=False)
        data = bytearray(INSTANCE_SIZE)
        words = ramfc(self._userd + number * USERD_SIZE, ring, entries.bit_length() - 1)
        data[: len(words)] = words
        struct.pack_into("<QQ", data, INSTANCE_DIRECTORY, space.directory_address, SPACE_LIMIT)
        instance.write(0, bytes(data))
        # The USERD page may hold the last user's pointers.
        self._function.device.write_block(BAR_VRAM, number * USERD_SIZE, bytes(0x100), 4)
        return ChannelBlock(self, number, instance, space.directory)

    def write_golden(self, address: int) -> None:
        """Put the context image that new channels start from into VRAM."""
        self._memory.pramin(address, self.golden)

    def start(self, number: int, block: Instance, directory: int) -> None:
        """Put a channel on the playlist.

        Raises
        ------
        OutOfMemory
            If the GPU has fewer channels: a virtual GPU's register for one that it has not keeps nothing.
        """
        there = self._tables.bind(number, directory)
        self._memory.flush()
        self._function.write(Reg.PFIFO_CHANNEL + 8 * number, 0xC0000000 | block.address >> 12)
        if not (there and self._function.read(Reg.PFIFO_CHANNEL + 8 * number)):
            self._share = number
            self._numbers = {each for each in self._numbers if each < number}
            raise OutOfMemory(f"this GPU has {number - 1} channels for programs and all are in use")
        self._function.write(Reg.PFIFO_CHANNEL + 8 * number + 4, 0x001F0001)
        self._running.add(number)
        self._update_playlist()

    def stop(self, number: int, kill: bool = False) -> None:
        """Take a channel off the playlist and wait until no engine runs it.

        Parameters
        ----------
        kill : bool
            Do not wait for a kernel that runs: take the channel's instance block away, which ends it.
        """
        function = self._function
        self._running.discard(number)
        function.mask(Reg.PFIFO_CHANNEL + 8 * number + 4, 1, 0)
        function.write(Reg.PFIFO_CHANNEL_KILL, number)
        try:
            patience = KILL_PATIENCE_S if kill else 0.0
            function.wait(Reg.PFIFO_CHANNEL_KILL, 0x00100000, 0, "channel kill", patience)
        except DeviceTimeout:
            if not kill:
                raise
            function.write(Reg.PFIFO_CHANNEL + 8 * number, 0)
            function.wait(Reg.PFIFO_CHANNEL_KILL, 0x00100000, 0, "channel kill")
            function.wait(Reg.PGRAPH_STATUS, 1, 0, "PGRAPH idle")
        self._update_playlist()

    def remove(self, number: int) -> None:
        """Forget a stopped channel's instance block and free its number."""
        self._function.write(Reg.PFIFO_CHANNEL + 8 * number, 0)
        self._tables.bind(number, 0)
        if number < self._share:
            self._numbers.add(number)

    def close(self) -> None:
        self._tables.show(0, 0)
        for handle in self._bar1:
            self._tables.free(handle)
        for instance in self._playlists:
            instance.free()
        self._memory.vram.free(self._userd, self._userd_size)

    def _update_playlist(self) -> None:
        function = self._function
        playlist = self._playlists[0]
        self._playlists.reverse()
        if self._running:
            playlist.write(0, b"".join(struct.pack("<II", number, 4) for number in sorted(self._running)))
        self._memory.flush()
        function.write(Reg.PFIFO_PLAYLIST, playlist.address >> 12)
        function.write(Reg.PFIFO_PLAYLIST_COUNT, 0x01F00000 | len(self._running))
        function.wait(Reg.PFIFO_PLAYLIST_STATUS, 0x00100000, 0, "playlist update")

    def _map_userd(self) -> list[int]:
        """Make BAR1's address space and show the USERD area at its start."""
        tables = self._tables
        directory, table = tables.new_directory(), tables.new_table(True)
        tables.link(directory, 0, table, None)
        first = np.arange(self._userd_size >> BIG_SHIFT, dtype=np.uint64) << np.uint64(BIG_SHIFT - 8)
        tables.write(table, 0, np.uint64(self._userd >> 8 | PTE_PRESENT) + first)
        tables.show(directory, self._function.bar_sizes[BAR_VRAM])
        return [directory, table]


class ChannelBlock:
    """The instance block of one channel."""

    def __init__(self, fifo: Fifo, number: int, instance: Instance, directory: int) -> None:
        self._fifo = fifo
        self._number = number
        self._instance = instance
        self._directory = directory
        self.address = instance.address

    def set_context(self, buffer: DeviceBuffer, offset: int) -> None:
        """Give the channel a fresh graphics context in a mapped buffer."""
        self._fifo.write_golden(buffer.pieces[0][0] + offset)
        write_context(self._instance, buffer.address + offset)

    def start(self) -> None:
        """Put the channel on the playlist."""
        self._fifo.start(self._number, self._instance, self._directory)

    def free(self) -> None:
        self._instance.free()


def write_context(instance: Instance, va: int) -> None:
    """Say in an instance block where the graphics context is."""
    instance.write32(INSTANCE_GRAPH, va & 0xFFFFFFFF | 4)
    instance.write32(INSTANCE_GRAPH + 4, va >> 32)

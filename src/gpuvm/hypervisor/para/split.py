"""The split driver: the guest asks for buffers, address spaces and channels, and submits; the hypervisor's half
of the driver does everything that touches the GPU.

The guest writes no page table, no instance block and no register. A submission is a word in the shared page,
and a kick (one trap) only when the hypervisor is not going to look there anyway.
"""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.hypervisor.channels import CONTEXTS, DIRECTORY, ShadowChannel
from gpuvm.hypervisor.engines import CONTEXT_SIZE
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.full import CHANNEL_RUN, Grant
from gpuvm.hypervisor.para.calls import CallGpu, Refused, arguments, array
from gpuvm.hypervisor.para.shared import SharedPage
from gpuvm.hypervisor.para.spaces import Buffers, Space, Spaces
from gpuvm.hypervisor.para.tables import TableMemory
from gpuvm.hypervisor.partition import Range
from gpuvm.hypervisor.physical import PFIFO_CHANNELS, PMC_SUBFIFO_ENABLE
from gpuvm.hypervisor.tables import Words
from gpuvm.paravirt.abi import (
    BATCH_LIMIT,
    RUN_LIMIT,
    SHARED_SIZE,
    SPLIT,
    Op,
    Register,
    Result,
    Shared,
)
from gpuvm.pci.memory import PAGE, DmaError
from gpuvm.registers.ramfc import ramfc

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

ADDRESS_LIMIT = (1 << 40) - 1
ORDER_LIMIT = 24
"""Log2 of the most entries that a GPFIFO has."""
CONTEXT_VIRTUAL = 0x4
GPC_COUNT = 0x409604
GPC, GPC_STRIDE, GPC_UNITS = 0x500000, 0x8000, 0x2608
PCOPY0_MEMORY = 0x104108


class SplitChannel(ShadowChannel):
    """A channel that the hypervisor's half of the driver made.

    Its instance block exists only on the hypervisor's side; where an event names one, the guest sees the
    channel's number in its place.
    """

    home: Space | None = None
    """The address space that it runs in."""
    userd = 0
    """Card address of its page of the poll area."""
    submitted = 0
    """GP_PUT that was handed to the dispatcher last."""


class SplitGpu(CallGpu):
    """A virtual GPU for a split driver."""

    mode = "pv-drm"
    operations = SPLIT

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        super().__init__(aggregator, number, name, grant)
        self.tables = TableMemory(self.memory, grant.pool, self.counters, self._flush_space)
        self.buffers = Buffers(grant.vram.size)
        self.spaces_of_guest = Spaces(self.tables, self.memory, self.buffers)
        self._shared: SharedPage | None = None
        self._shared_at = 0
        self._waits = False
        """Whether a thread of the guest sleeps until work is done."""
        self._door = threading.Lock()
        """Around a channel's submissions: a kick and the end of a command may meet. Taken after this VM's
        lock and before the aggregator's."""

    def _make_channel(self, number: int) -> ShadowChannel:
        return SplitChannel(
            number,
            self._grant.channels.base + number,
            self.memory,
            self._grant.pool,
            self.spaces,
            self.counters,
            self._flush_space,
        )

    def _stop_all(self) -> bool:
        self._shared, self._shared_at = None, 0
        self._waits = False
        quiet = super()._stop_all()
        if quiet:
            self.spaces_of_guest.clear()
            self.buffers.clear()
            self.tables.close()
        return quiet

    # The guest has no channel registers

    def write_channel(self, offset: int, value: int) -> None:
        self.counters.denied += 1

    write_playlist = write_kill = write_userd = write_channel

    def _map_poll(self) -> None:
        """A channel's page of the poll area is shown when the channel is made."""

    # Registers of the call device

    def _write_register(self, offset: int, value: int) -> None:
        if offset == Register.KICK:
            self.counters.calls_kick += 1
            if value < len(self.channels):
                self._look(self._split_channel(value))
            else:
                self.counters.call_failures += 1
        elif offset == Register.WAITS:
            self._waits = bool(value)
            self._aggregator.update_nonstall()
        elif offset == Register.SHARED_LOW:
            self._share(self._shared_at >> 32 << 32 | value & ~(SHARED_SIZE - 1))
        elif offset == Register.SHARED_HIGH:
            self._share(self._shared_at & 0xFFFFFFFF | (value & 0xFF) << 32)
        else:
            super()._write_register(offset, value)

    def _share(self, address: int) -> None:
        self._shared_at = address
        try:
            self._shared = SharedPage(self.memory.bus, address) if address else None
        except DmaError:
            self._shared = None
            self.counters.denied_addresses += 1

    def _split_channel(self, number: int) -> SplitChannel:
        if number >= len(self.channels):
            raise Refused(Result.BAD_ARGUMENT)
        channel = self.channels[number]
        assert isinstance(channel, SplitChannel)
        return channel

    # Submissions

    def _look(self, channel: SplitChannel) -> None:
        """Hand the dispatcher what the guest has submitted to a channel since it was looked at last; with
        nothing new, the guest has to kick again."""
        with self._door:
            shared, home = self._shared, channel.home
            if shared is None or home is None:
                return
            active = Shared.ACTIVE + channel.number
            put = shared[Shared.PUT + channel.number]
            if put == channel.submitted:
                shared[active] = 0
                # The guest may have submitted before it saw that.
                put = shared[Shared.PUT + channel.number]
                if put == channel.submitted:
                    return
            channel.submitted = put
            shared[active] = int(not self._aggregator.dispatcher.scheduler.concurrent)
            home.flush()
            self.counters.doorbells += 1
            self._aggregator.dispatcher.submit(
                self.id, channel.physical, put, self.counters, lambda: self._look(channel)
            )

    # Operations

    def _batch(self, data: bytes) -> tuple[int, ...]:
        count, _ = arguments(Op.BATCH, data)
        if not 0 < count <= BATCH_LIMIT:
            raise Refused(Result.BAD_ARGUMENT, (0,))
        at = 8
        try:
            for done in range(count):  # noqa: B007
                if at + 8 > len(data):
                    raise Refused(Result.BAD_ARGUMENT)
                number, size = struct.unpack_from("<II", data, at)
                if number in (Op.BATCH, Op.INFO) or at + 8 + size > len(data):
                    raise Refused(Result.BAD_ARGUMENT)
                self._perform(number, data[at + 8 : at + 8 + size])
                at += 8 + -(-size // 8) * 8
        except Refused as refused:
            raise Refused(refused.result, (done,)) from None
        finally:
            self.spaces_of_guest.flush()
        return (count,)

    def _info(self, data: bytes) -> tuple[int, ...]:
        read = self._gpu.read
        clusters = read(GPC_COUNT) & 0x1F
        shape = sum((read(GPC + GPC_STRIDE * gpc + GPC_UNITS) & 0xF) << 4 * gpc for gpc in range(clusters))
        return (
            self.memory.size,
            CONTEXT_SIZE,
            int(read(PCOPY0_MEMORY) != 0),
            bin(read(PMC_SUBFIFO_ENABLE)).count("1"),
            clusters,
            shape,
            len(self.channels),
        )

    def _space_new(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.SPACE_NEW, data)
        self.spaces_of_guest.new(number)
        return ()

    def _space_free(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.SPACE_FREE, data)
        self.spaces_of_guest.free(number)
        return ()

    def _buffer_new(self, data: bytes) -> tuple[int, ...]:
        number, pages = arguments(Op.BUFFER_NEW, data)
        self.buffers.new(number, pages)
        return ()

    def _buffer_free(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.BUFFER_FREE, data)
        # The GPU must have lost what was unmapped before the memory serves another purpose.
        self.spaces_of_guest.flush()
        self.buffers.free(number)
        return ()

    def _buffer_map(self, data: bytes) -> tuple[int, ...]:
        space, buffer, address, read_only, _ = arguments(Op.BUFFER_MAP, data)
        self.spaces_of_guest.map_buffer(space, address, buffer, bool(read_only))
        return ()

    def _host_map(self, data: bytes) -> tuple[int, ...]:
        space, count, address, read_only, _ = arguments(Op.HOST_MAP, data)
        words = array(Op.HOST_MAP, data, count, RUN_LIMIT).tolist()
        runs = list(zip(words[::2], words[1::2], strict=True))
        self.spaces_of_guest.map_host(space, address, runs, bool(read_only))
        return ()

    def _unmap(self, data: bytes) -> tuple[int, ...]:
        space, _, address, size = arguments(Op.UNMAP, data)
        self.spaces_of_guest.unmap(space, address, size)
        self.counters.tlb_flushes += 1
        return ()

    def _call(self, slot: int) -> None:
        super()._call(slot)
        self.spaces_of_guest.flush()

    def _channel_new(self, data: bytes) -> tuple[int, ...]:
        number, space_number, ring, order, _, context = arguments(Op.CHANNEL_NEW, data)
        channel = self._split_channel(number)
        space = self.spaces_of_guest[space_number]
        if channel.instance is not None:
            raise Refused(Result.BUSY)
        if order > ORDER_LIMIT or ring & 7 or ring > ADDRESS_LIMIT:
            raise Refused(Result.BAD_ARGUMENT)
        self._clear_context(space, context)
        pool = self._grant.pool
        if not pool.has(2 * PAGE):
            raise Refused(Result.NO_MEMORY)
        try:
            channel.shadow, channel.userd = pool.allocate(PAGE), pool.allocate(PAGE)
        except OutOfResourcesError:
            raise Refused(Result.NO_MEMORY) from None
        channel.instance = number * PAGE
        channel.home = space
        channel.submitted = 0
        space.users += 1
        view, block = pool.vram.view, channel.shadow
        words = ramfc(channel.userd, ring, order)
        view[block : block + len(words)] = words
        struct.pack_into("<QQ", view, block + DIRECTORY, space.directory.address, ADDRESS_LIMIT)
        struct.pack_into(
            "<II", view, block + CONTEXTS.start, context & 0xFFFFFFFF | CONTEXT_VIRTUAL, context >> 32
        )
        self.counters.channel_binds += 1
        self._start(channel)
        return ()

    def _clear_context(self, space: Space, address: int) -> None:
        """Zero the memory of a graphics context: the state of a fresh one."""
        mapping = space.at(address)
        if mapping is None or mapping.buffer is None or address & PAGE - 1:
            raise Refused(Result.BAD_ADDRESS)
        offset, left = address - mapping.address, CONTEXT_SIZE
        if offset + left > mapping.size:
            raise Refused(Result.BAD_ADDRESS)
        for piece in mapping.buffer.pieces:
            if offset < piece.size and left:
                count = min(left, piece.size - offset)
                self.memory.vram.zero(self.memory.base + piece.base + offset, count)
                left -= count
                offset = 0
            else:
                offset -= min(offset, piece.size)

    def _start(self, channel: SplitChannel) -> None:
        """Show a channel's page of the poll area and let it run."""
        shared = self._shared
        if shared is not None:
            shared[Shared.PUT + channel.number] = shared[Shared.ACTIVE + channel.number] = 0
        aggregator = self._aggregator
        aggregator.instances[channel.shadow >> 12] = (self, channel)
        channel.started = True
        with aggregator.lock:
            aggregator.bar1.map(channel.physical << 12, _poll_entry(channel.userd))
            aggregator.bar1.flush()
            self._gpu.write(PFIFO_CHANNELS + 8 * channel.physical, 0xC0000000 | channel.shadow >> 12)
            self._gpu.write(PFIFO_CHANNELS + 8 * channel.physical + 4, CHANNEL_RUN)
            self._list_channels()

    def _list_channels(self) -> None:
        running = [channel.physical for channel in self.channels if channel.instance is not None]
        self.counters.playlist_updates += 1
        self._aggregator.playlist.set(self.id, running)

    def _channel_free(self, data: bytes) -> tuple[int, ...]:
        number, kill = arguments(Op.CHANNEL_FREE, data)
        channel = self._split_channel(number)
        if channel.instance is None:
            raise Refused(Result.BAD_ID)
        if not kill:
            self._run_channel(channel, CHANNEL_RUN & ~1)
            if self._aggregator.kill_channel(channel.physical):
                raise Refused(Result.BUSY)
        if not self._unbind_channel(channel):
            raise Refused(Result.BUSY)
        return ()

    def _unbind_channel(self, channel: ShadowChannel) -> bool:
        assert isinstance(channel, SplitChannel)
        if channel.instance is None:
            return True
        with self._door:
            home, channel.home = channel.home, None
        quiet = self._aggregator.stop_channel(channel.physical)
        self.in_flight.discard(channel.physical)
        if not quiet:
            channel.home = home
            return False
        aggregator = self._aggregator
        aggregator.instances.pop(channel.shadow >> 12, None)
        channel.instance = None
        channel.started = channel.held = False
        with aggregator.lock:
            self._list_channels()
            aggregator.bar1.clear(Range(channel.physical << 12, PAGE))
            aggregator.bar1.flush()
        for page in (channel.shadow, channel.userd):
            self._grant.pool.release(page)
        channel.shadow = channel.userd = 0
        if home is not None:
            home.users -= 1
        return True

    # Events

    @property
    def wants_nonstall(self) -> bool:
        return self._waits

    def nonstall(self, unit: int, value: int) -> None:
        shared = self._shared
        if shared is not None:
            shared.increment(Shared.COMPLETIONS)
        if self._waits:
            self._pin.pulse()

    def _set_pin(self, asserted: bool, rearm: bool) -> None:
        shared = self._shared
        if asserted and shared is not None:
            shared.increment(Shared.FAULTS)
        super()._set_pin(asserted, rearm)


def _poll_entry(userd: int) -> Words:
    """The translated page-table entry of a page of video memory."""
    return np.array([[userd >> 8 | 1, 0]], np.uint32)

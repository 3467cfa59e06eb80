"""Full virtualization: an unmodified driver on a virtual GPU.

`FullGpu` is the core that all techniques share, and by itself the original's without its optimizations
(`fv-naive`): shadow page tables are rebuilt whole at each TLB flush, each access to BAR1 and BAR3 is resolved
in software, instance blocks are guarded by barriers. The other techniques (`gpuvm.hypervisor.techniques`)
override when shadows follow (`_make_space`, `_make_bar_table`, `_flush_spaces`, `_before_use`) and say which
apertures are mapped into the VM (`direct`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from gpuvm.hypervisor.barriers import Barrier
from gpuvm.hypervisor.channels import DIRECTORY, ShadowChannel, Spaces
from gpuvm.hypervisor.channels import LIMIT as INSTANCE_LIMIT
from gpuvm.hypervisor.engines import ENABLE_PFIFO, ENABLE_PGRAPH, FECS_DATA
from gpuvm.hypervisor.partition import Range
from gpuvm.hypervisor.physical import (
    PFIFO_CHANNELS,
    PFIFO_INTR_ENABLE,
    PFIFO_INTR_NONSTALL,
    PGRAPH_STATUS,
)
from gpuvm.hypervisor.shadow import GuestSpace, ShadowPool, ShadowSpace
from gpuvm.hypervisor.trapped import GP_PUT, TrappedGpu
from gpuvm.pci.memory import PAGE, BusMemory

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

USERD_ENABLE = 1 << 28
PLAYLIST = 0x002270
TLB_DIRECTORY = 0x100CB8
TLB_ALL_DIRECTORIES = 0x2
TLB_FORWARDED = 0x5
ENABLE = 1 << 31
ADDRESS = 0x0FFFFFFF
TARGET_SHIFT = 28
CHANNEL_FLAGS = 0xC0000000
CHANNEL_RUN = 0x001F0001
PLAYLIST_LIMIT = 0xFFF


@dataclass(frozen=True, slots=True)
class Grant:
    """What the aggregator gives one virtual GPU."""

    vram: Range
    channels: Range
    window: int
    pool: ShadowPool
    arena1: Range | None
    arena3: Range | None


class FullGpu(TrappedGpu):
    """A virtual GPU under full virtualization without optimizations."""

    mode = "fv-naive"

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        self._aggregator = aggregator
        self._grant = grant
        super().__init__(number, name, aggregator.gpu, grant.vram, grant.window, grant.channels.size)
        self.engines.set_memory(grant.vram.size >> 20, aggregator.memory_partitions)
        self.in_flight: set[int] = set()
        """Physical channels with work on the GPU."""
        self.awaits_nonstall = False
        """Whether work was submitted since the last non-stall interrupt found this VM idle."""
        self.spaces = Spaces(self._make_space, self.counters)
        self.channels = [self._make_channel(number) for number in range(grant.channels.size)]
        self._channel_barriers: dict[int, Barrier] = {}
        """Channel number -> what guards its instance block."""
        self._bar_barriers: dict[int, Barrier] = {}
        self._submitted = [0] * grant.channels.size

    # What a technique may change

    def _make_channel(self, number: int) -> ShadowChannel:
        return ShadowChannel(
            number,
            self._grant.channels.base + number,
            self.memory,
            self._grant.pool,
            self.spaces,
            self.counters,
            self._flush_space,
        )

    def _make_space(self, directory: int, limit: int) -> GuestSpace:
        """Make the empty shadow of a page directory at a guest VRAM address."""
        return ShadowSpace(self.memory, self._grant.pool, directory, limit)

    def _flush_spaces(self, directory: int | None, trigger: int) -> None:
        """The guest flushed the TLB of a page directory (of all, if None): bring the shadows in step, then
        flush what the GPU cached."""
        for space in self.spaces.all() if directory is None else self.spaces.at(directory):
            space.synchronize(self.counters)
            self._flush_space(space.address, trigger & TLB_FORWARDED | 1)

    def _before_use(self, channel: ShadowChannel) -> None:
        """A channel is about to use its page tables: a doorbell, a bind by FECS, a write to its instance
        block."""

    @property
    def shadow_bytes(self) -> int:
        """Bytes of the hypervisor's video memory that this VM's shadows take now."""
        return self._grant.pool.used

    @property
    def shadow_bytes_peak(self) -> int:
        """The most that they took so far, or since `forget_peak`."""
        return self._grant.pool.peak

    def forget_peak(self) -> None:
        """Begin `shadow_bytes_peak` anew."""
        self._grant.pool.peak = self._grant.pool.used

    def reset(self) -> None:
        """Function-level reset: channels stop, shadows go, registers are as after power-on. Memory keeps its
        contents."""
        with self.lock:
            if self._gone:
                return
            self._stop_all()
            self._config.reset()
            self.engines.reset()
            self._pin.set(False, False)
            self._aggregator.update_nonstall()

    def release(self) -> bool:
        with self.lock:
            if self._gone:
                return True
            quiet = self._stop_all()
            self._die()
            self._aggregator.bus.detach(self.memory.window)
            return quiet

    def _attach(self, memory: BusMemory) -> None:
        self._aggregator.bus.attach(self.memory.window, memory)

    # Barriers: pages that hold instance blocks

    def _channel_block_written(self, channel: ShadowChannel, first: int, end: int) -> None:
        """Carry a CPU's write to an instance block over into its shadow."""
        self.counters.barrier_writes += 1
        self._before_use(channel)
        channel.reflect(first, end)

    def _bar_block_written(self, index: int, first: int, end: int) -> None:
        self.counters.barrier_writes += 1
        if first < INSTANCE_LIMIT + 8 and end > DIRECTORY:
            self._shadow_bar(index)

    # BAR1 and BAR3 instance blocks

    def read_bar1_instance(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    read_bar3_instance = read_bar1_instance

    def write_bar1_instance(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value
        self._bind_bar(1, value)

    def write_bar3_instance(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value
        self._bind_bar(3, value)

    def _bind_bar(self, index: int, value: int) -> None:
        bar = self._bars[index]
        if bar.instance is not None:
            self.barriers.remove(self._bar_barriers.pop(index))
            bar.instance = None
        instance = (value & ADDRESS) << 12
        if value & ENABLE:
            physical = self.memory.vram_address(instance, PAGE)
            if value >> TARGET_SHIFT & 3 or physical is None:
                self.counters.denied_addresses += 1
            else:
                bar.instance = instance
                written = partial(self._bar_block_written, index)
                self._bar_barriers[index] = self.barriers.add(physical, PAGE, written)
        self._shadow_bar(index)

    def _shadow_bar(self, index: int) -> None:
        """Read an aperture's instance block and tables again."""
        bar = self._bars[index]
        if bar.instance is None:
            bar.directory = bar.limit = 0
            bar.table.clear()
        else:
            self.counters.shadow_reads += 4
            words = self.memory.words(bar.instance + DIRECTORY, 4)
            if words is None:
                return
            low, high, limit_low, limit_high = (int(word) for word in words)
            bar.directory = (low | (high & 0xFF) << 32) & ~0xFFF
            bar.limit = limit_low | (limit_high & 0xFF) << 32
            if low & 3:
                self.counters.denied_addresses += 1
                bar.directory = 0
            self._rebuild_bar(index)
        self._map_bar(index)

    def _flush_bar(self, index: int) -> None:
        """The guest flushed the TLB of an aperture: bring its table in step."""
        self._rebuild_bar(index)
        self._map_bar(index)

    def _rebuild_bar(self, index: int) -> None:
        bar = self._bars[index]
        before = self.counters.entries_changed
        bar.table.rebuild(bar.directory, bar.limit, self.counters)
        self.windows[index].changed(self.counters.entries_changed - before)

    def _map_bar(self, index: int) -> None:
        """Bring the hypervisor's own aperture in step: poll pages and arena."""
        entries = self._bars[index].table.entries
        arena = self._grant.arena1 if index == 1 else self._grant.arena3
        with self._aggregator.lock:
            aperture = self._aggregator.bar1 if index == 1 else self._aggregator.bar3
            if arena is not None:
                visible = entries[: arena.size >> 12]
                aperture.map(arena.base, visible)
                self.counters.shadow_writes += 2 * len(visible)
            if index == 1:
                self._map_poll()
            aperture.flush()

    # Poll area

    def read_userd(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    def write_userd(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value
        self._set_poll((value & ADDRESS) << 12 if value & USERD_ENABLE else -1)
        with self._aggregator.lock:
            self._map_poll()
            self._aggregator.bar1.flush()

    def _set_poll(self, poll: int) -> None:
        """Move the poll area: accesses to it trap, as doorbells are among them."""
        self._poll = poll
        first = poll >> 12
        self.windows[1].hole = range(first, first + len(self.channels)) if poll >= 0 else range(0)

    def _map_poll(self) -> None:
        """Show the pages of the guest's poll area at its channels' pages of the physical one."""
        entries = self._bars[1].table.entries
        count = len(self.channels)
        pages = entries[:0]
        if self._poll >= 0:
            pages = entries[self._poll >> 12 : (self._poll >> 12) + count]
        target = self._grant.channels.base << 12
        self._aggregator.bar1.map(target, pages)
        self._aggregator.bar1.clear(Range(target + (len(pages) << 12), (count - len(pages)) << 12))
        self.counters.shadow_writes += 2 * count

    def _read_poll(self, poll: int, offset: int, size: int) -> int:
        value = self._read_aperture(self._frames1, offset, size)
        ahead = (poll & 0xFFF) - GP_PUT
        if not -size < ahead < 4:
            return value
        # The guest reads back what it submitted, also while that waits for its turn.
        shown = self._submitted[poll >> 12]
        if ahead >= 0:
            shown >>= 8 * ahead
            mask = (1 << 8 * min(size, 4 - ahead)) - 1
        else:
            shown <<= -8 * ahead
            mask = (1 << 8 * min(size + ahead, 4)) - 1 << -8 * ahead
        mask &= (1 << 8 * size) - 1
        return value & ~mask | shown & mask if self._is_shown(offset) else 0

    def _write_poll(self, poll: int, offset: int, size: int, value: int) -> None:
        ahead = (poll & 0xFFF) - GP_PUT
        if not -size < ahead < 4:
            self._write_aperture(self._frames1, offset, size, value)
        elif ahead == 0 and size == 4:
            self._write_gp_put(poll >> 12, offset, value)
        else:
            # Bytes of GP_PUT and around it: the word as it is then is what is submitted.
            word = self._submitted[poll >> 12]
            for at, byte in enumerate(value.to_bytes(size, "little"), ahead):
                if 0 <= at < 4:
                    word = word & ~(0xFF << 8 * at) | byte << 8 * at
                else:
                    self._write_aperture(self._frames1, offset - ahead + at, 1, byte)
            self._write_gp_put(poll >> 12, offset - ahead, word)

    def _write_gp_put(self, number: int, offset: int, value: int) -> None:
        if not self._is_shown(offset):
            self.counters.denied_addresses += 1
            return
        channel = self.channels[number]
        self._submitted[number] = value
        if channel.instance is not None:
            self._doorbell(channel, value)
        else:
            # Of a channel that is not bound, GP_PUT is mere memory, and changes at once.
            self._write_aperture(self._frames1, offset, 4, value)

    def _is_shown(self, offset: int) -> bool:
        """Whether a page of BAR1 shows memory of the guest's."""
        page = offset >> 12
        return page < len(self._frames1) and bool(self._frames1[page] >= 0)

    def _doorbell(self, channel: ShadowChannel, value: int) -> None:
        """A command was submitted: it waits for its turn at the dispatcher."""
        self.counters.doorbells += 1
        self._before_use(channel)
        self._aggregator.dispatcher.submit(self.id, channel.physical, value, self.counters)

    # Channel table, playlist, kill

    def read_channel(self, offset: int) -> int:
        index = offset - PFIFO_CHANNELS >> 3
        if offset & 4 and index < len(self.channels):
            self.counters.gpu_register_reads += 1
            channel = self.channels[index]
            return self._gpu.read(PFIFO_CHANNELS + 8 * channel.physical + 4) & ~1 | channel.started
        return self.engines.words[offset >> 2]

    def write_channel(self, offset: int, value: int) -> None:
        index = offset - PFIFO_CHANNELS >> 3
        if index >= len(self.channels):
            self._deny(offset, "write")
            return
        channel = self.channels[index]
        if offset & 4:
            channel.started = bool(value & 1)
            self._run_channel(channel, value)
            return
        self._bind_channel(channel, value)
        self.engines.words[offset >> 2] = value if value == 0 or channel.instance is not None else 0

    def _run_channel(self, channel: ShadowChannel, value: int) -> None:
        self.counters.gpu_register_writes += 1
        with self._aggregator.lock:
            self._gpu.write(PFIFO_CHANNELS + 8 * channel.physical + 4, value & ~int(channel.held))

    def hold(self, channel: ShadowChannel) -> None:
        """Keep a channel off the GPU while an event of it waits for the guest's driver."""
        channel.held = True
        self._run_channel(channel, CHANNEL_RUN)

    def let_go(self, channel: ShadowChannel) -> None:
        """The guest's driver has seen the event: the channel goes on if the driver left it enabled."""
        channel.held = False
        if channel.started and channel.instance is not None:
            self._run_channel(channel, CHANNEL_RUN)

    def _bind_channel(self, channel: ShadowChannel, value: int) -> None:
        """Give a physical channel the shadow of an instance block, or take it away."""
        register = PFIFO_CHANNELS + 8 * channel.physical
        instance = (value & ADDRESS) << 12
        wanted = value & ENABLE and not value >> TARGET_SHIFT & 3
        if value & ENABLE and not wanted:
            self.counters.denied_addresses += 1
        if not wanted or channel.instance != instance:
            self._unbind_channel(channel)
        if not wanted:
            return
        if channel.instance is None and not channel.bind(instance):
            return
        if channel.number not in self._channel_barriers:
            written = partial(self._channel_block_written, channel)
            physical = self.memory.base + instance
            self._channel_barriers[channel.number] = self.barriers.add(physical, PAGE, written)
        self._aggregator.instances[channel.shadow >> 12] = (self, channel)
        self.counters.gpu_register_writes += 1
        submitted = channel.withhold()
        with self._aggregator.lock:
            self._gpu.write(register, value & CHANNEL_FLAGS | channel.shadow >> 12)
        if submitted is not None:
            self._doorbell(channel, submitted)

    def _unbind_channel(self, channel: ShadowChannel) -> bool:
        """Take a channel off the GPU and free its shadow; False if the GPU did not let go of it."""
        if channel.instance is None:
            return True
        quiet = self._aggregator.stop_channel(channel.physical)
        self.in_flight.discard(channel.physical)
        barrier = self._channel_barriers.pop(channel.number, None)
        if barrier is not None:
            self.barriers.remove(barrier)
        self._aggregator.instances.pop(channel.shadow >> 12, None)
        if quiet:
            channel.unbind()
        return quiet

    def read_playlist(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    def write_playlist(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value
        self.counters.playlist_updates += 1
        where = self.engines.words[PLAYLIST >> 2]
        count = min(value & PLAYLIST_LIMIT, len(self.channels))
        system = where >> TARGET_SHIFT & 3
        entries = self.memory.words((where & ADDRESS) << 12, 2 * count, bool(system)) if count else None
        wanted = []
        if count and entries is None:
            self.counters.denied_addresses += 1
        for number in entries[::2].tolist() if entries is not None else ():
            if number < len(self.channels) and self.channels[number].instance is not None:
                wanted.append(self.channels[number].physical)
            else:
                self.counters.denied_addresses += 1
        self.counters.shadow_reads += count
        with self._aggregator.lock:
            self.counters.shadow_writes += 2 * self._aggregator.playlist.set(self.id, wanted)
            self.counters.gpu_register_writes += 2
        self.engines.playlist_done()

    def read_kill(self, offset: int) -> int:
        number = self.engines.words[offset >> 2]
        if number < len(self.channels) and self.channels[number].instance is not None:
            self.counters.gpu_register_reads += 1
            return number | self._aggregator.kill_channel(self.channels[number].physical)
        return number

    def write_kill(self, offset: int, value: int) -> None:
        number = value & 0x7F
        self.engines.words[offset >> 2] = number
        if number >= len(self.channels):
            self._deny(offset, "write")
            return
        self.counters.gpu_register_writes += 1
        self._aggregator.kill_channel(self.channels[number].physical)

    # Flushes

    def read_flush(self, offset: int) -> int:
        self.counters.gpu_register_reads += 1
        return self._gpu.read(offset)

    def write_flush(self, offset: int, value: int) -> None:
        self.counters.gpu_register_writes += 1
        self._gpu.write(offset, value)

    def read_tlb_flush(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    def write_tlb_flush(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value
        self.counters.tlb_flushes += 1
        word = self.engines.words[TLB_DIRECTORY >> 2]
        everything = bool(value & TLB_ALL_DIRECTORIES)
        directory = (word >> 4) << 12
        if word & 3 and not everything:
            self.counters.denied_addresses += 1
            return
        for index, bar in self._bars.items():
            if bar.instance is not None and (everything or bar.directory == directory):
                self._flush_bar(index)
        self._flush_spaces(None if everything else directory, value)

    def _flush_space(self, shadow: int, trigger: int = 1) -> None:
        """Flush what the GPU cached of a shadow page directory."""
        self.counters.gpu_register_writes += 2
        with self._aggregator.lock:
            self._gpu.flush_tlb(shadow, trigger)

    # Engines

    @property
    def wants_nonstall(self) -> bool:
        """Whether this VM wants to hear that work may be done."""
        return bool(self.engines.words[PFIFO_INTR_ENABLE >> 2] & PFIFO_INTR_NONSTALL)

    def read_pfifo_intr_enable(self, offset: int) -> int:
        return self.engines.read_pfifo_intr_enable(offset)

    def write_pfifo_intr_enable(self, offset: int, value: int) -> None:
        self.engines.write_pfifo_intr_enable(offset, value)
        self._aggregator.update_nonstall()

    def read_fecs_command(self, offset: int) -> int:
        return self.engines.read_fecs_command(offset)

    def write_fecs_command(self, offset: int, value: int) -> None:
        data = self.engines.words[FECS_DATA >> 2]
        if data & ENABLE and self.memory.vram_address((data & ADDRESS) << 12, PAGE) is None:
            self.counters.denied_addresses += 1
            return
        if data & ENABLE:
            instance = (data & ADDRESS) << 12
            for channel in self.channels:
                if channel.instance == instance:
                    self._before_use(channel)
        self.engines.write_fecs_command(offset, value)

    def read_copy_instance(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    def write_copy_instance(self, offset: int, value: int) -> None:
        if value and self.memory.vram_address((value & ADDRESS) << 12, PAGE) is None:
            self.counters.denied_addresses += 1
            value = 0
        self.engines.words[offset >> 2] = value

    def _reset_engines(self, bits: int) -> None:
        """A guest took engines away: its own channels stop, nobody else notices."""
        if bits & ENABLE_PGRAPH:
            # As on the chip, work in progress ends, and its channel stays stopped until it is bound again.
            for physical in tuple(self.in_flight):
                self._aggregator.stop_channel(physical)
                self.in_flight.discard(physical)
        if bits & ENABLE_PFIFO:
            for channel in self.channels:
                self._unbind_channel(channel)
                self.engines.words[PFIFO_CHANNELS + 8 * channel.number >> 2] = 0
            with self._aggregator.lock:
                self._aggregator.playlist.set(self.id, ())

    def _is_busy(self) -> bool:
        """Whether the chip works and some of it is this VM's (a channel that waits for a semaphore keeps
        nothing busy)."""
        return bool(self.in_flight) and self._gpu.read(PGRAPH_STATUS) != 0

    def _stop_all(self) -> bool:
        """Take every channel off the GPU and free all shadows."""
        quiet = True
        self._set_poll(-1)
        with self._aggregator.lock:
            self._aggregator.playlist.set(self.id, ())
        for channel in self.channels:
            quiet &= self._unbind_channel(channel)
        for index in self._bars:
            self._bind_bar(index, 0)
        self.in_flight.clear()
        self._submitted = [0] * len(self.channels)
        return quiet

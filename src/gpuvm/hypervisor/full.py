"""Full virtualization: an unmodified driver on a virtual GPU whose every access traps.

`FullGpu` is the original technique without its optimizations (`fv-naive`): shadow page tables are rebuilt
whole at each TLB flush, each access to BAR1 and BAR3 is resolved in software, instance blocks are guarded by
barriers. The other full techniques override `_flush_spaces`, `_doorbell` and the aperture methods.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.channels import DIRECTORY, ShadowChannel, Spaces
from gpuvm.hypervisor.channels import LIMIT as INSTANCE_LIMIT
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.engines import (
    ENABLE_PFIFO,
    ENABLE_PGRAPH,
    FECS_DATA,
    VirtualEngines,
)
from gpuvm.hypervisor.partition import Range
from gpuvm.hypervisor.physical import PFIFO_CHANNELS, PGRAPH_STATUS
from gpuvm.hypervisor.policy import Action, Rule, frozen
from gpuvm.hypervisor.shadow import BarTable, ShadowPool
from gpuvm.hypervisor.virtual import InterruptPin, VirtualGpu, copy_identity
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import PAGE, BusMemory

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

log = structlog.get_logger(__name__)

Reader = Callable[[int], int]
Writer = Callable[[int, int], None]

BAR0_SIZE = 16 << 20
PRAMIN = 0x700000
PRAMIN_SIZE = 0x100000
PRAMIN_WINDOW = 0x001700
PRAMIN_TARGET = 0x3000000
BAR1_INSTANCE = 0x001704
BAR3_INSTANCE = 0x001714
USERD_WINDOW = 0x002254
USERD_ENABLE = 1 << 28
PLAYLIST = 0x002270
TLB_DIRECTORY = 0x100CB8
TLB_ALL_DIRECTORIES = 0x2
TLB_FORWARDED = 0x5
GP_PUT = 0x8C
ENABLE = 1 << 31
ADDRESS = 0x0FFFFFFF
TARGET_SHIFT = 28
MSI_REARM = 0x704
CHANNEL_FLAGS = 0xC0000000
CHANNEL_RUN = 0x001F0001
PLAYLIST_LIMIT = 0xFFF
NAMED_LIMIT = 256
"""Different denied offsets that a VM's log names; later ones are only counted."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What the aggregator gives one virtual GPU."""

    vram: Range
    channels: Range
    window: int
    pool: ShadowPool
    arena1: Range | None
    arena3: Range | None


class _Bar:
    """One translated aperture of the guest: its instance block and its table as of the last flush."""

    def __init__(self, memory: GuestMemory, size: int) -> None:
        self.table = BarTable(memory, size)
        self.instance: int | None = None
        self.directory = 0
        self.limit = 0


class FullGpu(VirtualGpu):
    """A virtual GPU under full virtualization without optimizations."""

    mode = "fv-naive"

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        super().__init__(number, name, Counters())
        self._aggregator = aggregator
        self._gpu = aggregator.gpu
        self._grant = grant
        self._gone = False
        self._config = copy_identity(self._gpu.device, self._gpu.device.bars)
        self._pin = InterruptPin(self._config, self.counters)
        self.engines = VirtualEngines(
            self._gpu, self.counters, self._pin.set, self._reset_engines, self._is_busy
        )
        self.engines.set_memory(grant.vram.size >> 20, aggregator.memory_partitions)
        self.memory = GuestMemory(self._gpu.vram, grant.vram, grant.window)
        self.in_flight: set[int] = set()
        """Physical channels with work on the GPU."""
        self.awaits_nonstall = False
        """Whether work was submitted since the last non-stall interrupt found this VM idle."""
        self.spaces = Spaces(self.memory, grant.pool, self.counters)
        self.channels = [
            ShadowChannel(
                n,
                grant.channels.base + n,
                self.memory,
                grant.pool,
                self.spaces,
                self.counters,
                self._flush_space,
            )
            for n in range(grant.channels.size)
        ]
        self._barriers: dict[int, list[ShadowChannel]] = {}
        """Card address of a guest's page -> channels whose instance block it is."""
        self._bar_barriers: dict[int, set[int]] = {}
        """Card address of a guest's page -> apertures (1, 3) whose instance block it is."""
        sizes = {bar.index: bar.size for bar in self._config.bars}
        self._bars = {index: _Bar(self.memory, sizes[index]) for index in (1, 3)}
        self._frames1 = self._bars[1].table.frames
        self._frames3 = self._bars[3].table.frames
        self._submitted = [0] * grant.channels.size
        self._poll = -1
        self._pramin = 0
        self._words = self._gpu.vram.view.cast("I")
        self._quads = self._gpu.vram.view.cast("Q")
        self._bytes = self._gpu.vram.view
        self._named: set[int] = set()
        self._reads, self._writes = self._wire()

    def _wire(self) -> tuple[list[list[Reader]], list[list[Writer]]]:
        """Resolve the policy's handlers: by page of BAR0 and word, functions of (offset) and (offset,
        value)."""
        known: dict[int, tuple[Reader, Writer]] = {}

        def handlers(rule: Rule | None) -> tuple[Reader, Writer]:
            key = id(rule)
            if key not in known:
                how = "denied" if rule is None or rule.action is Action.DENIED else rule.how
                owner: object = self if hasattr(self, f"read_{how}") else self.engines
                known[key] = (getattr(owner, f"read_{how}"), getattr(owner, f"write_{how}"))
            return known[key]

        pages: dict[int, tuple[list[Reader], list[Writer]]] = {}
        reads, writes = [], []
        for page in frozen(BAR0_SIZE):
            if id(page) not in pages:
                pairs = [handlers(rule) for rule in page]
                pages[id(page)] = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            reads.append(pages[id(page)][0])
            writes.append(pages[id(page)][1])
        return reads, writes

    # PciDevice

    @property
    def bars(self) -> Sequence[Bar]:
        return self._config.bars

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        with self.lock:
            if self._gone:
                return
            self.memory.bus = memory
            self._aggregator.bus.attach(self.memory.window, memory)
            self._pin.connect(interrupts)

    def config_read(self, offset: int, size: int) -> int:
        self.counters.config_accesses += 1
        return self._config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        with self.lock:
            self.counters.config_accesses += 1
            self._config.write(offset, size, value)
            self._pin.update()

    def read(self, bar: int, offset: int, size: int) -> int:
        counters = self.counters
        with self.lock:
            if bar == 0:
                counters.traps_bar0_read += 1
                counters.bytes_bar0_read += size
                if size == 4 and not offset & 3 and 0 <= offset < BAR0_SIZE:
                    return self._reads[offset >> 12][offset >> 2 & 0x3FF](offset)
                return self._read_odd(offset, size)
            if bar == 3:
                counters.traps_bar3_read += 1
                counters.bytes_bar3_read += size
                return self._read_aperture(self._frames3, offset, size)
            if bar == 1:
                counters.traps_bar1_read += 1
                counters.bytes_bar1_read += size
                poll = offset - self._poll
                if self._poll >= 0 and 0 <= poll < len(self.channels) << 12:
                    return self._read_poll(poll, offset, size)
                return self._read_aperture(self._frames1, offset, size)
        return 0

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        counters = self.counters
        value &= (1 << 8 * size) - 1
        with self.lock:
            if bar == 0:
                counters.traps_bar0_write += 1
                counters.bytes_bar0_write += size
                if size == 4 and not offset & 3 and 0 <= offset < BAR0_SIZE:
                    self._writes[offset >> 12][offset >> 2 & 0x3FF](offset, value)
                else:
                    self._write_odd(offset, size, value)
            elif bar == 3:
                counters.traps_bar3_write += 1
                counters.bytes_bar3_write += size
                self._write_aperture(self._frames3, offset, size, value)
            elif bar == 1:
                counters.traps_bar1_write += 1
                counters.bytes_bar1_write += size
                poll = offset - self._poll
                if self._poll >= 0 and 0 <= poll < len(self.channels) << 12:
                    self._write_poll(poll, offset, size, value)
                else:
                    self._write_aperture(self._frames1, offset, size, value)

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        with self.lock:
            if bar == 0 and offset >= PRAMIN and offset + length <= PRAMIN + PRAMIN_SIZE:
                self._count("read", bar, length, width)
                physical = self._window(offset, length)
                if physical is None:
                    return bytes(length)
                self.counters.vram_accesses += -(-length // width)
                return bytes(self._bytes[physical : physical + length])
            if bar == 3 or (bar == 1 and not self._in_poll(offset, length)):
                self._count("read", bar, length, width)
                return self._read_pages(self._frames3 if bar == 3 else self._frames1, offset, length, width)
            return b"".join(
                self.read(bar, at, size).to_bytes(size, "little")
                for at, size in _split(offset, length, width)
            )

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        length = len(data)
        with self.lock:
            if bar == 0 and offset >= PRAMIN and offset + length <= PRAMIN + PRAMIN_SIZE:
                self._count("write", bar, length, width)
                physical = self._window(offset, length)
                if physical is not None:
                    self.counters.vram_accesses += -(-length // width)
                    self._bytes[physical : physical + length] = data
                    self._guard(physical, length)
            elif bar == 3 or (bar == 1 and not self._in_poll(offset, length)):
                self._count("write", bar, length, width)
                self._write_pages(self._frames3 if bar == 3 else self._frames1, offset, data, width)
            else:
                for at, size in _split(offset, length, width):
                    self.write(
                        bar, at, size, int.from_bytes(data[at - offset : at - offset + size], "little")
                    )

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
            self._pramin = 0

    def release(self) -> bool:
        with self.lock:
            if self._gone:
                return True
            quiet = self._stop_all()
            self._gone = True
            self._pin.connect(None)
            self._aggregator.bus.detach(self.memory.window)
            self.memory.bus = BusMemory()
            self._reads, self._writes = (
                [[self._dead_read] * 0x400] * 0x1000,
                [[self._dead_write] * 0x400] * 0x1000,
            )
            return quiet

    # Odd sizes and blocks

    def _read_odd(self, offset: int, size: int) -> int:
        value = 0
        first = offset & ~3
        for at in range(first, offset + size, 4):
            if 0 <= at < BAR0_SIZE:
                value |= self._reads[at >> 12][at >> 2 & 0x3FF](at) << 8 * (at - first)
        return value >> 8 * (offset - first) & ((1 << 8 * size) - 1)

    def _write_odd(self, offset: int, size: int, value: int) -> None:
        if size == 8 and not offset & 3:
            for at, part in ((offset, value & 0xFFFFFFFF), (offset + 4, value >> 32)):
                if 0 <= at < BAR0_SIZE:
                    self._writes[at >> 12][at >> 2 & 0x3FF](at, part)
            return
        if offset >= PRAMIN and offset + size <= PRAMIN + PRAMIN_SIZE:
            physical = self._window(offset, size)
            if physical is not None:
                self._store(physical, size, value)
            return
        first = offset & ~3
        if not 0 <= first < BAR0_SIZE:
            return
        shift = 8 * (offset - first)
        mask = ((1 << 8 * size) - 1) << shift & 0xFFFFFFFF
        # The bytes around keep what this VM wrote there last.
        word = self.engines.words[first >> 2] & ~mask | (value << shift & mask)
        self._writes[first >> 12][first >> 2 & 0x3FF](first, word)

    def _count(self, direction: str, bar: int, length: int, width: int) -> None:
        counters = self.counters
        accesses = -(-length // width)
        name = f"bar{bar}_{direction}"
        setattr(counters, f"traps_{name}", getattr(counters, f"traps_{name}") + accesses)
        setattr(counters, f"bytes_{name}", getattr(counters, f"bytes_{name}") + length)

    # Denied

    def read_denied(self, offset: int) -> int:
        self._deny(offset, "read")
        return 0

    def write_denied(self, offset: int, value: int) -> None:
        self._deny(offset, "write")

    def _deny(self, offset: int, kind: str) -> None:
        self.counters.denied += 1
        if offset not in self._named and len(self._named) < NAMED_LIMIT:
            self._named.add(offset)
            log.warning(
                "a register that the policy does not grant was accessed",
                vm=self.name,
                kind=kind,
                at=hex(offset),
            )

    def _dead_read(self, offset: int) -> int:
        return 0

    def _dead_write(self, offset: int, value: int) -> None:
        """The virtual GPU was destroyed."""

    # PRAMIN

    def _window(self, offset: int, length: int) -> int | None:
        """Card address of `length` bytes at a BAR0 offset in the window, None if they are not the guest's."""
        window = self.engines.words[PRAMIN_WINDOW >> 2]
        guest = ((window & 0xFFFFFF) << 16) + offset - PRAMIN
        physical = None if window & PRAMIN_TARGET else self.memory.vram_address(guest, length)
        if physical is None:
            self.counters.denied_addresses += 1
        return physical

    def read_pramin(self, offset: int) -> int:
        physical = self._window(offset, 4)
        if physical is None:
            return 0
        self.counters.vram_accesses += 1
        word: int = self._words[physical >> 2]
        return word

    def write_pramin(self, offset: int, value: int) -> None:
        physical = self._window(offset, 4)
        if physical is not None:
            self._store(physical, 4, value)

    # Apertures

    def _read_aperture(self, frames: memoryview, offset: int, size: int) -> int:
        page = offset >> 12
        if not 0 <= page < len(frames) or (base := frames[page]) < 0 or (offset & 0xFFF) + size > PAGE:
            return self._read_straddling(frames, offset, size)
        self.counters.vram_accesses += 1
        physical = base + (offset & 0xFFF)
        if size == 4 and not offset & 3:
            word: int = self._words[physical >> 2]
            return word
        return int.from_bytes(self._bytes[physical : physical + size], "little")

    def _write_aperture(self, frames: memoryview, offset: int, size: int, value: int) -> None:
        page = offset >> 12
        if not 0 <= page < len(frames) or (base := frames[page]) < 0 or (offset & 0xFFF) + size > PAGE:
            self._write_pages(frames, offset, value.to_bytes(size, "little"), size)
            return
        self._store(base + (offset & 0xFFF), size, value)

    def _store(self, physical: int, size: int, value: int) -> None:
        self.counters.vram_accesses += 1
        if size == 4 and not physical & 3:
            self._words[physical >> 2] = value
        elif size == 8 and not physical & 7:
            self._quads[physical >> 3] = value
        else:
            self._bytes[physical : physical + size] = value.to_bytes(size, "little")
        page = physical & ~0xFFF
        if page in self._barriers or page in self._bar_barriers:
            self._guard(physical, size)

    def _read_straddling(self, frames: memoryview, offset: int, size: int) -> int:
        return int.from_bytes(self._read_pages(frames, offset, size, size), "little")

    def _read_pages(self, frames: memoryview, offset: int, length: int, width: int) -> bytes:
        """Read through an aperture; pages that map nothing of the guest's read 0."""
        parts = []
        end = offset + length
        while offset < end:
            count = min(end - offset, PAGE - (offset & 0xFFF))
            page = offset >> 12
            base = frames[page] if 0 <= page < len(frames) else -1
            if base < 0:
                self.counters.denied_addresses += 1
                parts.append(bytes(count))
            else:
                self.counters.vram_accesses += -(-count // width)
                physical = base + (offset & 0xFFF)
                parts.append(bytes(self._bytes[physical : physical + count]))
            offset += count
        return b"".join(parts)

    def _write_pages(self, frames: memoryview, offset: int, data: bytes, width: int) -> None:
        """Write through an aperture; what goes to pages that map nothing of the guest's is dropped."""
        done = 0
        while done < len(data):
            count = min(len(data) - done, PAGE - (offset & 0xFFF))
            page = offset >> 12
            base = frames[page] if 0 <= page < len(frames) else -1
            if base < 0:
                self.counters.denied_addresses += 1
            else:
                self.counters.vram_accesses += -(-count // width)
                physical = base + (offset & 0xFFF)
                self._bytes[physical : physical + count] = data[done : done + count]
                self._guard(physical, count)
            offset += count
            done += count

    def _guard(self, physical: int, length: int) -> None:
        """Carry a CPU's write over into the shadows of the instance blocks that it touched."""
        first = physical & ~0xFFF
        for page in range(first, physical + length, PAGE):
            channels = self._barriers.get(page)
            apertures = self._bar_barriers.get(page)
            if channels is None and apertures is None:
                continue
            self.counters.barrier_writes += 1
            start, end = max(physical, page) - page, min(physical + length, page + PAGE) - page
            for channel in channels or ():
                channel.reflect(start, end)
            if start < INSTANCE_LIMIT + 8 and end > DIRECTORY:
                for bar in sorted(apertures or ()):
                    self._shadow_bar(bar)

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
            members = self._bar_barriers[self.memory.base + bar.instance]
            members.discard(index)
            if not members:
                del self._bar_barriers[self.memory.base + bar.instance]
            bar.instance = None
        instance = (value & ADDRESS) << 12
        if value & ENABLE:
            if value >> TARGET_SHIFT & 3 or self.memory.vram_address(instance, PAGE) is None:
                self.counters.denied_addresses += 1
            else:
                bar.instance = instance
                self._bar_barriers.setdefault(self.memory.base + instance, set()).add(index)
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
            bar.table.rebuild(bar.directory, bar.limit, self.counters)
        self._map_bar(index)

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
        self._poll = (value & ADDRESS) << 12 if value & USERD_ENABLE else -1
        with self._aggregator.lock:
            self._map_poll()
            self._aggregator.bar1.flush()

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

    def _in_poll(self, offset: int, length: int) -> bool:
        return (
            self._poll >= 0
            and offset < self._poll + (len(self.channels) << 12)
            and offset + length > self._poll
        )

    def _poll_mapped(self, offset: int) -> bool:
        page = offset >> 12
        if page < len(self._frames1) and self._frames1[page] >= 0:
            return True
        self.counters.denied_addresses += 1
        return False

    def _read_poll(self, poll: int, offset: int, size: int) -> int:
        if poll & 0xFFF == GP_PUT and size == 4:
            return self._submitted[poll >> 12]
        if not self._poll_mapped(offset):
            return 0
        self.counters.vram_accesses += 1
        return self._gpu.device.read(1, (self._grant.channels.base << 12) + poll, size)

    def _write_poll(self, poll: int, offset: int, size: int, value: int) -> None:
        if size == 8:
            self._write_poll(poll, offset, 4, value & 0xFFFFFFFF)
            if poll + 4 < len(self.channels) << 12:
                self._write_poll(poll + 4, offset + 4, 4, value >> 32)
            return
        if not self._poll_mapped(offset):
            return
        if poll & 0xFFF == GP_PUT and size == 4:
            self._submitted[poll >> 12] = value
            self._doorbell(self.channels[poll >> 12], value)
            return
        self.counters.vram_accesses += 1
        self._gpu.device.write(1, (self._grant.channels.base << 12) + poll, size, value)

    def _doorbell(self, channel: ShadowChannel, value: int) -> None:
        """A command was submitted: it waits for its turn at the dispatcher."""
        self.counters.doorbells += 1
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
            self.counters.denied += 1
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
        guarded = self._barriers.setdefault(self.memory.base + instance, [])
        if channel not in guarded:
            guarded.append(channel)
        self._aggregator.instances[channel.shadow >> 12] = (self, channel)
        self.counters.gpu_register_writes += 1
        with self._aggregator.lock:
            self._gpu.write(register, value & CHANNEL_FLAGS | channel.shadow >> 12)

    def _unbind_channel(self, channel: ShadowChannel) -> bool:
        """Take a channel off the GPU and free its shadow; False if the GPU did not let go of it."""
        if channel.instance is None:
            return True
        quiet = self._aggregator.stop_channel(channel.physical)
        self.in_flight.discard(channel.physical)
        page = self.memory.base + channel.instance
        self._barriers[page].remove(channel)
        if not self._barriers[page]:
            del self._barriers[page]
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
            self.counters.denied += 1
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
                bar.table.rebuild(bar.directory, bar.limit, self.counters)
                self._map_bar(index)
        self._flush_spaces(None if everything else directory, value)

    def _flush_spaces(self, directory: int | None, trigger: int) -> None:
        """Shadow the tables under a page directory again (under all, if None), then flush what the GPU
        cached."""
        for space in self.spaces.all() if directory is None else self.spaces.at(directory):
            space.rebuild(self.counters)
            self.counters.gpu_register_writes += 2
            with self._aggregator.lock:
                self._gpu.flush_tlb(space.address, trigger & TLB_FORWARDED | 1)

    def _flush_space(self, shadow: int) -> None:
        self.counters.gpu_register_writes += 2
        with self._aggregator.lock:
            self._gpu.flush_tlb(shadow)

    # Engines

    def read_fecs_command(self, offset: int) -> int:
        return self.engines.read_fecs_command(offset)

    def write_fecs_command(self, offset: int, value: int) -> None:
        data = self.engines.words[FECS_DATA >> 2]
        if data & ENABLE and self.memory.vram_address((data & ADDRESS) << 12, PAGE) is None:
            self.counters.denied_addresses += 1
            return
        self.engines.write_fecs_command(offset, value)

    def read_copy_instance(self, offset: int) -> int:
        return self.engines.words[offset >> 2]

    def write_copy_instance(self, offset: int, value: int) -> None:
        if value and self.memory.vram_address((value & ADDRESS) << 12, PAGE) is None:
            self.counters.denied_addresses += 1
            value = 0
        self.engines.words[offset >> 2] = value

    def read_pci(self, offset: int) -> int:
        return (
            self._config.read(offset & 0xFFC, 4)
            if offset & 0xFFF < 0x100
            else self.engines.words[offset >> 2]
        )

    def write_pci(self, offset: int, value: int) -> None:
        at = offset & 0xFFF
        if at < 0x100:
            self._config.write(at, 4, value)
            self._pin.update()
            return
        self.engines.words[offset >> 2] = value
        if at == MSI_REARM:
            self.engines.evaluate(rearm=True)

    def _reset_engines(self, bits: int) -> None:
        """A guest took engines away: its own channels stop, nobody else notices."""
        if bits & (ENABLE_PFIFO | ENABLE_PGRAPH):
            for channel in self.channels:
                if channel.instance is not None and bits & ENABLE_PFIFO:
                    self._unbind_channel(channel)
                    self.engines.words[PFIFO_CHANNELS + 8 * channel.number >> 2] = 0
        if bits & ENABLE_PFIFO:
            with self._aggregator.lock:
                self._aggregator.playlist.set(self.id, ())

    def _is_busy(self) -> bool:
        """Whether the chip works and some of it is this VM's (a channel that waits for a semaphore keeps
        nothing busy)."""
        return bool(self.in_flight) and self._gpu.read(PGRAPH_STATUS) != 0

    def _stop_all(self) -> bool:
        """Take every channel off the GPU and free all shadows."""
        quiet = True
        self._poll = -1
        with self._aggregator.lock:
            self._aggregator.playlist.set(self.id, ())
        for channel in self.channels:
            quiet &= self._unbind_channel(channel)
        for index in self._bars:
            self._bind_bar(index, 0)
        self.in_flight.clear()
        self._submitted = [0] * len(self.channels)
        return quiet


def _split(offset: int, length: int, width: int) -> list[tuple[int, int]]:
    """The accesses of a block: (offset, size), the rest in smaller ones."""
    pieces = []
    end = offset + length
    while offset < end:
        size = width
        while offset + size > end or size not in (1, 2, 4, 8):
            size >>= 1
        pieces.append((offset, max(size, 1)))
        offset += max(size, 1)
    return pieces

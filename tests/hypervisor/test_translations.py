"""Whatever a guest does with its page tables, every mode leads the GPU where the guest's own tables lead it, and
nowhere outside the guest's memory.

Random programs run on a GPU without a hypervisor and under each technique. Where the GPU is led is asked of the
GPU's own walk, from the instance block that it was given.

A TLB may hold an old translation until it is flushed, and need not. So after a flush there is one right answer,
and before it each one that the guest's tables gave since the last flush is right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvm.gpu import Gf100, paging
from gpuvm.gpu.paging import MmuFault
from gpuvm.hypervisor.aggregator import FULL_MODES, Aggregator
from gpuvm.hypervisor.para.split import SplitGpu
from gpuvm.hypervisor.techniques import TECHNIQUES
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20
VRAM, RAM = 16 * MIB, 4 * MIB
MODES = [technique.mode for technique in TECHNIQUES]
DIRECTORIES = (0x100000, 0x120000)
BLOCKS = {1: 0x140000, 2: 0x141000, 3: 0x142000}
"""Channels: two of the first directory, one of the second."""
SPACE_OF = {1: 0, 2: 0, 3: 1}
TABLES = tuple(0x200000 + 0x40000 * n for n in range(5))
"""In video memory; the last two share pages with each other, and RAM_TABLES lie in RAM."""
RAM_TABLES = (0x100000, 0x140000)
BAR3_BLOCK, BAR3_DIRECTORY, BAR3_TABLE = 0x150000, 0x151000, 0x160000
"""Both apertures show video memory as it is."""
POLL = 0x180000
INDICES = (0, 1, 5, 8191)
PAGES = (0, 1, 31, 32, 511, 1023)
PROBES = [(index << 27) + (page << shift) for index in INDICES for page in PAGES for shift in (12, 17)]

Where = tuple[int, int] | None
"""Aperture (0 video memory, 2 RAM) and guest address."""


@dataclass(frozen=True)
class Link:
    """Set a directory entry: tables by number, negative for RAM's, None for none."""

    directory: int
    index: int
    big: int | None
    small: int | None
    narrow: int = 0


@dataclass(frozen=True)
class Fill:
    """Write entries of a table: pages that follow each other, or anything."""

    table: int
    first: int
    words: tuple[tuple[int, int], ...]
    way: str = "pramin"


@dataclass(frozen=True)
class Flush:
    """Flush the TLB of a directory, of all if None."""

    directory: int | None


@dataclass(frozen=True)
class Use:
    """Ring a channel's doorbell and look where the GPU is led."""

    channel: int


@dataclass(frozen=True)
class Rebind:
    """Put a channel's instance block into the channel table anew."""

    channel: int


Step = Link | Fill | Flush | Use | Rebind


class Machine:
    """A GPU, native or under a technique, and a guest that writes its tables itself."""

    def __init__(self, mode: str) -> None:
        native = mode == "native"
        self.gpu = Gf100(vram=VRAM if native else 96 * MIB)
        self.aggregator = None if native else Aggregator(self.gpu, "direct")
        if self.aggregator is not None:
            # Not at the start of the card, where a forgotten translation would not show.
            self.aggregator.create("first", vram=MIB)
        self.device: Any = self.gpu if self.aggregator is None else self.aggregator.create("vm", mode, vram=VRAM)
        self.vm = VirtualMachine("vm", RAM)
        self.vm.plug(self.device)

    def start(self) -> None:
        """Begin as after power-on, with memory that is all zero."""
        self.device.reset()
        memory = self.gpu.vram if self.aggregator is None else self.device.memory.vram
        memory.zero(0 if self.aggregator is None else self.device.memory.base, VRAM)
        self.vm.memory.zero(0, RAM)
        block = bytearray(0x1000)
        struct.pack_into("<QQ", block, 0x200, BAR3_DIRECTORY, VRAM - 1)
        self.poke(BAR3_BLOCK, bytes(block))
        self.poke(BAR3_DIRECTORY, struct.pack("<II", 0, BAR3_TABLE >> 8 | 1))
        self.poke(BAR3_TABLE, b"".join(struct.pack("<II", page << 4 | 1, 0) for page in range(VRAM >> 12)))
        for register in (0x1704, 0x1714):
            self.write(register, 0x80000000 | BAR3_BLOCK >> 12)
        self.write(0x2254, 0x10000000 | POLL >> 12)
        for channel in BLOCKS:
            self.bind(channel)

    def write(self, offset: int, value: int) -> None:
        self.device.write(0, offset, 4, value)

    def poke(self, address: int, data: bytes) -> None:
        self.write(0x1700, address >> 16)
        self.device.write_block(0, 0x700000 + (address & 0xFFFF), data, 4)

    def bind(self, channel: int) -> None:
        block = bytearray(0x1000)
        struct.pack_into("<Q", block, 0x08, POLL + 0x1000 * channel)
        struct.pack_into("<QQ", block, 0x200, DIRECTORIES[SPACE_OF[channel]], (1 << 40) - 1)
        self.write(0x3000 + 8 * channel, 0)
        self.poke(BLOCKS[channel], bytes(block))
        self.write(0x3000 + 8 * channel, 0xC0000000 | BLOCKS[channel] >> 12)

    def run(self, step: Step) -> None:
        if isinstance(step, Link):
            words = [table_word(step.big) | (step.narrow << 2 if step.big is not None else 0)]
            words.append(table_word(step.small))
            self.poke(DIRECTORIES[step.directory] + 8 * step.index, struct.pack("<II", *words))
        elif isinstance(step, Fill):
            data = b"".join(struct.pack("<II", *pair) for pair in step.words)
            at = table_at(step.table) + 8 * step.first
            if step.table < 0:
                self.vm.memory.write(at, data)
            elif step.way == "bar3":
                self.device.write_block(3, at, data, 8)
            elif step.way == "words":
                for n in range(0, len(data), 4):
                    self.device.write(3, at + n, 4, int.from_bytes(data[n : n + 4], "little"))
            else:
                self.poke(at, data)
        elif isinstance(step, Flush):
            if step.directory is not None:
                self.write(0x100CB8, DIRECTORIES[step.directory] >> 8)
            self.write(0x100CBC, 0x80000001 if step.directory is not None else 0x80000003)
        elif isinstance(step, Rebind):
            self.bind(step.channel)
        else:
            self.device.write(1, POLL + 0x1000 * step.channel + 0x8C, 4, 0)

    def leads(self, channel: int) -> list[Where]:
        """Where the GPU's walk of each probe ends, as the guest counts; None if nothing is there."""
        native = self.aggregator is None
        instance = BLOCKS[channel] if native else self.device.channels[channel].shadow
        root = paging.root(self.gpu.memory, 0, instance)
        return [self._lead(root, va, None if native else self.device.memory) for va in PROBES]

    def _lead(self, root: paging.Root, va: int, memory: Any) -> Where:
        try:
            entry = paging.walk(self.gpu.memory, root, va)
        except MmuFault:
            return None
        aperture, address = entry >> paging.TARGET_SHIFT & 3, (entry & paging.ADDRESS_MASK) << 8
        if memory is not None:
            base = memory.window if aperture else memory.base
            size = RAM if aperture else VRAM
            assert base <= address < base + size, "the GPU is led out of the guest's memory"
            address -= base
        elif aperture == 1 or address >= (RAM if aperture else VRAM):
            return None
        return aperture, address

    def close(self) -> None:
        if self.aggregator is not None:
            self.aggregator.close()
        self.vm.close()
        self.gpu.close()


def table_at(number: int) -> int:
    return RAM_TABLES[-number - 1] if number < 0 else TABLES[number]


def table_word(number: int | None) -> int:
    return 0 if number is None else table_at(number) >> 8 | (2 if number < 0 else 1)


TABLE = st.integers(-len(RAM_TABLES), len(TABLES) - 1)
VRAM_ENTRY = st.integers(0, (VRAM >> 12) + 40).map(lambda frame: (frame << 4 | 1, 0))
RAM_ENTRY = st.integers(0, (RAM >> 12) + 40).map(lambda frame: (frame << 4 | 1, 5))
ENTRY = st.one_of(
    VRAM_ENTRY, RAM_ENTRY, st.just((0, 0)), st.tuples(st.integers(0, 0xFFFFFFFF), st.integers(0, 0xFFFFFFFF))
)


def runs(entry: tuple[int, int], count: int, step: int) -> tuple[tuple[int, int], ...]:
    return tuple((entry[0] + 0x10 * step * n & 0xFFFFFFFF, entry[1]) for n in range(count))


WORDS = st.one_of(
    st.lists(ENTRY, min_size=1, max_size=6).map(tuple),
    st.builds(runs, st.one_of(VRAM_ENTRY, RAM_ENTRY), st.integers(1, 40), st.sampled_from((1, 32))),
    st.integers(1, 40).map(lambda count: ((0, 0),) * count),
)
STEP: st.SearchStrategy[Step] = st.one_of(
    st.builds(
        Link,
        st.integers(0, 1),
        st.sampled_from(INDICES),
        st.none() | TABLE,
        st.none() | TABLE,
        st.integers(0, 3),
    ),
    st.builds(Fill, TABLE, st.sampled_from(PAGES), WORDS, st.sampled_from(("pramin", "bar3", "words"))),
    st.builds(Fill, TABLE, st.sampled_from(PAGES), WORDS, st.sampled_from(("pramin", "bar3", "words"))),
    st.builds(Flush, st.none() | st.integers(0, 1)),
    st.builds(Use, st.sampled_from(tuple(BLOCKS))),
    st.builds(Rebind, st.sampled_from(tuple(BLOCKS))),
)


@pytest.fixture(scope="module")
def machines() -> Iterator[dict[str, Machine]]:
    made: dict[str, Machine] = {}

    class Made(dict[str, Machine]):
        def __missing__(self, mode: str) -> Machine:
            self[mode] = Machine(mode)
            return self[mode]

    made = Made()
    yield made
    for machine in made.values():
        machine.close()


def follow(program: list[Step], native: Machine, machines: dict[str, Machine]) -> None:
    """Run a program natively and under modes, and look at every use and at the end."""
    for machine in (native, *machines.values()):
        machine.start()
    # By directory: for each probe, what the guest's tables said since the last flush.
    said: list[list[set[Where]]] = [[{None} for _ in PROBES] for _ in DIRECTORIES]
    channel_of = {0: 1, 1: 3}
    for step in (*program, Flush(None), *(Use(channel) for channel in BLOCKS)):
        native.run(step)
        for machine in machines.values():
            machine.run(step)
        for directory, answers in enumerate(said):
            flushed = isinstance(step, Flush) and step.directory in (None, directory)
            for answer, now in zip(answers, native.leads(channel_of[directory]), strict=True):
                if flushed:
                    answer.clear()
                answer.add(now)
        if isinstance(step, Use):
            for mode, machine in machines.items():
                places = zip(PROBES, machine.leads(step.channel), said[SPACE_OF[step.channel]], strict=True)
                for va, found, right in places:
                    assert found in right, (mode, step, hex(va))


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(program=st.lists(STEP, min_size=3, max_size=20))
def test_random_page_table_programs_lead_the_gpu_where_they_lead_it_natively(
    machines: dict[str, Machine], mode: str, program: list[Step]
) -> None:
    follow(program, machines["native"], {mode: machines[mode]})


LINKED = [Link(0, 0, None, 0), Link(0, 1, None, 0), Link(1, 5, 1, -1)]
STORIES: dict[str, list[Step]] = {
    "two directory entries name one table": [
        *LINKED, Fill(0, 0, ((0x1231, 0), (0x1241, 0))), Flush(0), Use(1),
        Fill(0, 1, ((0, 0),)), Flush(0), Use(2),
    ],
    "a table becomes data, and a table again": [
        *LINKED, Fill(0, 0, ((0x1231, 0),)), Flush(None), Use(1),
        Link(0, 0, None, None), Link(0, 1, None, None), Flush(0),
        Fill(0, 0, ((0xDEAD1, 0x77),)), Use(1),
        Fill(0, 0, ((0x2341, 0),)), Link(0, 8191, None, 0), Flush(0), Use(1),
    ],
    "the table itself is mapped for the GPU": [
        *LINKED, Fill(0, 2, ((TABLES[0] >> 8 | 1, 0),)), Flush(0), Use(1), Fill(0, 1, ((0x5551, 0),)), Flush(0), Use(1),
    ],
    "tables in RAM change without a trap": [
        *LINKED, Fill(-1, 0, ((0x3331, 5), (0x3341, 5))), Flush(1), Use(3),
        Fill(-1, 1, ((0, 0),)), Flush(1), Use(3),
    ],
    "a directory's tables are exchanged": [
        *LINKED, Fill(0, 0, ((0x1231, 0),)), Fill(2, 0, ((0x7771, 0),)), Flush(0), Use(1),
        Link(0, 0, None, 2), Flush(0), Use(1), Link(0, 0, 2, None), Flush(0), Use(1),
    ],
    "a flush of another directory is not this one's": [
        *LINKED, Link(1, 0, None, 0), Fill(0, 0, ((0x1231, 0),)), Flush(0), Use(1), Use(3), Flush(1), Use(3),
    ],
    "a channel is bound anew before a flush": [
        *LINKED, Fill(0, 0, ((0x1231, 0),)), Rebind(2), Use(2), Fill(0, 0, ((0x2221, 0),)), Flush(0), Use(2),
    ],
}  # fmt: skip


@pytest.mark.parametrize("story", STORIES)
def test_page_tables_as_drivers_and_attackers_use_them(machines: dict[str, Machine], story: str) -> None:
    follow(STORIES[story], machines["native"], {mode: machines[mode] for mode in MODES})


def test_writes_lead_the_gpu_at_once_where_shadows_follow_them(machines: dict[str, Machine]) -> None:
    """As without a hypervisor, a page that was not there before needs no flush."""
    native, tracked = machines["native"], machines["fv"]
    for machine in (native, tracked):
        machine.start()
    passes = tracked.device.counters.shadow_passes
    for step in (*LINKED, Fill(0, 0, ((0x1231, 0),), "words"), Fill(1, 3, ((0x4001, 0),), "bar3")):
        native.run(step)
        tracked.run(step)
        for channel in BLOCKS:
            assert tracked.leads(channel) == native.leads(channel)
    assert tracked.device.counters.shadow_passes == passes


@pytest.mark.parametrize("mode", MODES)
def test_what_gpu_work_writes_into_a_table_is_seen_at_the_next_flush(machine: Any, mode: str) -> None:
    """A table that is mapped for the GPU itself changes without the CPU."""
    guest = machine.guest("vm", mode=mode).start()
    table, window = 0x20000, 5 * MIB
    guest.poke(0x300000, struct.pack("<II", 0x100000 >> 8 | 1, 0))
    guest.poke(0x100000, b"seen")
    guest.flush()
    # The guest's tables lie in the memory that it maps one to one.
    assert guest.copy(table + 8 * (window >> 12), 0x300000, 8) == "done"
    guest.flush()
    assert guest.copy(0x301000, window, 4) == "done"
    assert guest.peek(0x301000, 4) == b"seen"


def where_the_driver_mapped(context: Any) -> dict[int, tuple[int, int, int]]:
    """Virtual address -> (aperture, guest address, bytes) of a context's buffers."""
    found = {}
    for buffer in context._buffers.values():
        at = buffer.address
        for address, size in buffer.pieces:
            found[at] = (0, address, size)
            at += size
    for host in context.driver.host_buffers.values():
        at = host.gpu_address
        for address, size in host.runs:
            found[at] = (2, address, size)
            at += size
    return found


DRIVERS = [mode for mode, kind in FULL_MODES.items() if not issubclass(kind, SplitGpu)]
"""Modes under which the guest's driver says itself what is mapped where."""

ACTION = st.one_of(
    st.tuples(st.just("allocate"), st.integers(1, 5)),
    st.tuples(st.just("host"), st.integers(1, 40)),
    st.tuples(st.just("free"), st.integers(0, 9)),
    st.tuples(st.just("free host"), st.integers(0, 9)),
    st.tuples(st.just("use"), st.integers(0, 1)),
)


@pytest.mark.parametrize("mode", DRIVERS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=st.lists(ACTION, min_size=4, max_size=16))
def test_a_drivers_maps_and_unmaps_lead_the_gpu_as_it_said(mode: str, actions: list[tuple[str, int]]) -> None:
    from gpuvm.guest.driver.device import Driver

    with Gf100(vram=128 * MIB) as gpu, Aggregator(gpu) as aggregator, VirtualMachine("vm", 32 * MIB) as vm:
        aggregator.create("first", vram=MIB)
        device: Any = aggregator.create("vm", mode, vram=64 * MIB)
        vm.plug(device)
        driver = Driver(vm)
        contexts = [driver.open_context() for _ in range(2)]
        seen: set[int] = set()

        def look(context: Any) -> None:
            context.channel.submit([])
            context.channel.drain()
            shadow = device.channels[context.channel.number].shadow
            root = paging.root(gpu.memory, 0, shadow)
            mapped = where_the_driver_mapped(context)
            seen.update(mapped)
            for va in seen:
                if not any(at <= va < at + size for at, (_, _, size) in mapped.items()):
                    with pytest.raises(MmuFault):
                        paging.walk(gpu.memory, root, va)
            for va, (aperture, address, size) in mapped.items():
                base = device.memory.window if aperture else device.memory.base
                for at in {0, size // 2 & ~0xFFF, size - 0x1000}:
                    entry = paging.walk(gpu.memory, root, va + at)
                    assert entry >> paging.TARGET_SHIFT & 3 == aperture
                    assert (entry & paging.ADDRESS_MASK) << 8 == base + address + at

        for kind, number in actions:
            context = contexts[number % 2]
            if kind == "allocate":
                context.allocate(number * 0x20000)
            elif kind == "host":
                driver.allocate_host(number * 0x1000)
            elif kind == "free" and len(context._buffers) > 1:
                context.free(list(context._buffers.values())[1 + number % (len(context._buffers) - 1)])
            elif kind == "free host" and driver.host_buffers:
                driver.free_host(list(driver.host_buffers.values())[number % len(driver.host_buffers)])
            else:
                look(context)
        for context in contexts:
            look(context)
        driver.close()



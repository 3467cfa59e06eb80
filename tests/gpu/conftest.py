"""A bench for the GPU: a machine of RAM and an interrupt line, and the few steps that every driver takes to
get a channel.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from gpuvm.gpu import SMALL, Gf100
from gpuvm.jit.executor import StopFlag
from gpuvm.jit.launch import Launch, Outcome, Statistics
from gpuvm.pci.config import COMMAND, MSI
from gpuvm.pci.memory import BusMemory, MemoryRegion

MIB = 1 << 20
VRAM, SYSTEM = 0, 2
PRAMIN = 0x700000


class Line:
    """Hears the GPU's interrupts."""

    def __init__(self) -> None:
        self.messages = 0
        self.asserted = False
        self.changed = threading.Condition()

    def message(self, vector: int) -> None:
        with self.changed:
            self.messages += 1
            self.changed.notify_all()

    def level(self, asserted: bool) -> None:
        with self.changed:
            self.asserted = asserted
            self.changed.notify_all()


class RecordingExecutor:
    """Stands in for the executor: keeps the launches, does what the test says and succeeds."""

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.effect: Callable[[Launch, StopFlag], Outcome] = lambda launch, stop: Outcome(
            statistics=Statistics(blocks=launch.grid[0], warp_instructions=10)
        )

    def prepare(self, launch: Launch) -> None:
        """There is nothing to translate."""

    def run(self, launch: Launch, stop: StopFlag | None) -> Outcome:
        self.launches.append(launch)
        assert stop is not None
        return self.effect(launch, stop)


class HostView:
    """Stands in for the host's view of an address space: keeps what was mapped where."""

    def __init__(self) -> None:
        self.pages: dict[int, tuple[int, int, bool]] = {}
        self.maps = 0

    def map(self, va: int, size: int, fd: int, offset: int, writable: bool) -> None:
        self.maps += 1
        for at in range(0, size, 4096):
            self.pages[va + at] = (fd, offset + at, writable)

    def unmap(self, va: int, size: int) -> None:
        for page in [page for page in self.pages if va <= page < va + size]:
            del self.pages[page]

    def clear(self) -> None:
        self.pages.clear()

    def close(self) -> None:
        self.pages.clear()


class PageTables:
    """One GPU address space as a driver builds it: instance block, directory, tables, all in VRAM."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.instance = rig.take(0x1000)
        self.directory = rig.take(0x10000)
        self._small: dict[int, int] = {}
        self._large: dict[int, int] = {}
        rig.poke64(self.instance + 0x200, self.directory)
        rig.poke64(self.instance + 0x208, (1 << 40) - 1)

    def _entry(self, index: int) -> None:
        large, small = self._large.get(index, 0), self._small.get(index, 0)
        low = large >> 8 | 1 if large else 0
        high = small >> 8 | 1 if small else 0
        self.rig.poke64(self.directory + 8 * index, low | high << 32)

    def table(self, address: int) -> int:
        """Physical address of the small-page table for a virtual address, made if there is none."""
        index = address >> 27
        if index not in self._small:
            self._small[index] = self.rig.take(0x40000)
            self._entry(index)
        return self._small[index]

    def entry(self, address: int) -> int:
        """Where the small-page entry of a virtual address lies in VRAM."""
        return self.table(address) + 8 * (address >> 12 & 0x7FFF)

    def map(
        self, address: int, physical: int, size: int = 0x1000, target: int = VRAM, flags: int = 1
    ) -> None:
        """Map small pages."""
        for at in range(0, size, 0x1000):
            self.rig.poke64(self.entry(address + at), (physical + at) >> 8 | flags | target << 33)

    def map_large(self, address: int, physical: int, flags: int = 1) -> None:
        """Map one page of 128 KiB in VRAM."""
        index = address >> 27
        if index not in self._large:
            self._large[index] = self.rig.take(0x2000)
            self._entry(index)
        self.rig.poke64(self._large[index] + 8 * (address >> 17 & 0x3FF), physical >> 8 | flags)

    def unmap(self, address: int) -> None:
        self.rig.poke64(self.entry(address), 0)

    def flush(self) -> None:
        """Flush the TLBs as nouveau does."""
        assert self.rig.rd(0x100C80) & 0x00FF0000
        self.rig.wr(0x100CB8, self.directory >> 8)
        self.rig.wr(0x100CBC, 0x80000001)
        assert self.rig.rd(0x100C80) & 0x8000


class Push:
    """Words of a pushbuffer."""

    def __init__(self) -> None:
        self.words: list[int] = []

    def method(self, subchannel: int, method: int, *data: int) -> Push:
        """Incrementing methods."""
        self.words += [
            1 << 29 | len(data) << 16 | subchannel << 13 | method >> 2,
            *(d & 0xFFFFFFFF for d in data),
        ]
        return self

    def same(self, subchannel: int, method: int, *data: int) -> Push:
        """One method again and again."""
        self.words += [3 << 29 | len(data) << 16 | subchannel << 13 | method >> 2, *data]
        return self

    def once(self, subchannel: int, method: int, *data: int) -> Push:
        self.words += [5 << 29 | len(data) << 16 | subchannel << 13 | method >> 2, *data]
        return self

    def immediate(self, subchannel: int, method: int, data: int) -> Push:
        self.words.append(4 << 29 | data << 16 | subchannel << 13 | method >> 2)
        return self

    def release(self, address: int, value: int, short: bool = True) -> Push:
        return self.method(0, 0x10, address >> 32, address, value, 0x01000002 if short else 2)

    def acquire(self, address: int, value: int, action: int = 4) -> Push:
        return self.method(0, 0x10, address >> 32, address, value, 0x1000 | action)


class GpuChannel:
    """A channel as nouveau sets it up: USERD in BAR1, GPFIFO and pushbuffers in system memory."""

    IB, PUSH, FENCE = 0x1000_0000, 0x1010_0000, 0x1020_0000
    ENTRIES = 64

    def __init__(self, rig: Rig, number: int, tables: PageTables | None = None) -> None:
        self.rig, self.number = rig, number
        self.tables = tables or PageTables(rig)
        offset = number * 0x0100_0000 if tables is not None else 0
        self.ib_va, self.push_va, self.fence_va = self.IB + offset, self.PUSH + offset, self.FENCE + offset
        self.ib, self.push, self.fence = rig.ram(0x1000), rig.ram(0x40000), rig.ram(0x1000)
        for va, at, size in (
            (self.ib_va, self.ib, 0x1000),
            (self.push_va, self.push, 0x40000),
            (self.fence_va, self.fence, 0x1000),
        ):
            self.tables.map(va, at, size, SYSTEM)
        self.instance = rig.take(0x1000)
        for at in range(0x200, 0x210, 4):
            rig.poke(self.instance + at, rig.peek(self.tables.instance + at))
        userd = rig.userd + 0x1000 * number
        rig.poke64(self.instance + 0x08, userd)
        rig.poke(self.instance + 0x10, 0xFACE)
        rig.poke64(self.instance + 0x48, self.ib_va | (self.ENTRIES.bit_length() - 1) << 48)
        self.put = 0
        self._push_at = 0
        rig.wr(0x3000 + 8 * number, 0xC0000000 | self.instance >> 12)
        rig.wr(0x3004 + 8 * number, 0x001F0001)
        rig.playlist.append(number)
        rig.commit_playlist()

    def submit(self, push: Push, ring: bool = True) -> None:
        """Put words into the next pushbuffer segment and ring the doorbell."""
        data = b"".join(word.to_bytes(4, "little") for word in push.words)
        if self._push_at + len(data) > 0x40000:
            self._push_at = 0
        self.rig.memory.write(self.push + self._push_at, data)
        self.entry(self.push_va + self._push_at, len(push.words))
        self._push_at += len(data)
        if ring:
            self.doorbell()

    def entry(self, address: int, words: int, high: int = 0) -> None:
        value = address | words << 42 | high << 32
        self.rig.memory.write(self.ib + 8 * self.put, value.to_bytes(8, "little"))
        self.put = (self.put + 1) % self.ENTRIES

    def doorbell(self) -> None:
        self.rig.gpu.write(1, self.rig.poll_area + 0x1000 * self.number + 0x8C, 4, self.put)

    @property
    def get(self) -> int:
        return self.rig.gpu.read(1, self.rig.poll_area + 0x1000 * self.number + 0x88, 4)

    def fence_value(self, at: int = 0) -> int:
        return int.from_bytes(self.rig.memory.read(self.fence + at, 4), "little")

    def wait_fence(self, value: int, at: int = 0) -> None:
        self.rig.until(lambda: self.fence_value(at) == value, f"fence {value:#x}")

    def run(self, push: Push) -> None:
        """Submit, and wait for a fence behind it."""
        self._fence = getattr(self, "_fence", 0) + 1
        push.release(self.fence_va + 0xF00, self._fence)
        self.submit(push)
        self.wait_fence(self._fence, 0xF00)


class Rig:
    """A GPU in a machine."""

    def __init__(self, vram: int = 64 * MIB, **options: object) -> None:
        self.executor = RecordingExecutor()
        self.memory = MemoryRegion(16 * MIB, "test ram")
        self.bus = BusMemory()
        self.bus.add(0, self.memory)
        self.line = Line()
        self.views: list[HostView] = []
        options.setdefault("executor", self.executor)
        options.setdefault("address_space", self._view)
        options.setdefault("profile", SMALL)
        self.gpu = Gf100(vram=vram, **options)  # type: ignore[arg-type]
        self.gpu.connect(self.bus, self.line)
        self._vram = 0x100000
        self._ram = 0x10000
        self.playlist: list[int] = []
        self.poll_area = 0
        self.userd = 0

    def _view(self) -> HostView:
        self.views.append(HostView())
        return self.views[-1]

    def rd(self, offset: int) -> int:
        return self.gpu.read(0, offset, 4)

    def wr(self, offset: int, value: int) -> None:
        self.gpu.write(0, offset, 4, value)

    def poke(self, address: int, value: int) -> None:
        """Write VRAM through PRAMIN."""
        self.wr(0x1700, address >> 16)
        self.wr(PRAMIN + (address & 0xFFFF), value)

    def peek(self, address: int) -> int:
        self.wr(0x1700, address >> 16)
        return self.rd(PRAMIN + (address & 0xFFFF))

    def poke64(self, address: int, value: int) -> None:
        self.poke(address, value & 0xFFFFFFFF)
        self.poke(address + 4, value >> 32)

    def take(self, size: int) -> int:
        """Take VRAM, in multiples of 128 KiB."""
        at = self._vram
        self._vram += -(-size // 0x20000) * 0x20000
        return at

    def ram(self, size: int) -> int:
        """Take system memory."""
        at = self._ram
        self._ram += -(-size // 0x1000) * 0x1000
        return at

    def boot(self) -> Rig:
        """Switch the function on, put the poll area into BAR1 and open the interrupts."""
        gpu = self.gpu
        gpu.config_write(COMMAND, 2, 0x0006)
        gpu.config_write(MSI + 2, 2, 1)
        self.wr(0x200, 0xFFFFFFFF)
        bar1 = PageTables(self)
        self.userd = self.take(128 * 0x1000)
        self.poll_area = 0x20_0000
        bar1.map(self.poll_area, self.userd, 128 * 0x1000)
        self.bar1 = bar1
        self.wr(0x1704, 0x80000000 | bar1.instance >> 12)
        self.wr(0x2254, 0x10000000 | self.poll_area >> 12)
        self.wr(0x2200, 1)
        self.wr(0x2100, 0xFFFFFFFF)
        self.wr(0x2140, 0x7FFFFFFF)
        self.wr(0x2628, 1)
        self.wr(0x400100, 0xFFFFFFFF)
        self.wr(0x40013C, 0xFFFFFFFF)
        for unit in range(3):
            self.wr(0x4010C + 0x2000 * unit, 0xFFFFFEFF)
        self.list_memory = self.take(0x1000)
        return self

    def interrupts_on(self) -> None:
        self.wr(0x640, 0x7FFFFFFF)
        self.wr(0x140, 1)

    def channel(self, number: int = 0, tables: PageTables | None = None) -> GpuChannel:
        return GpuChannel(self, number, tables)

    def commit_playlist(self) -> None:
        for at, number in enumerate(self.playlist):
            self.poke64(self.list_memory + 8 * at, number | 4 << 32)
        self.wr(0x2270, self.list_memory >> 12)
        self.wr(0x2274, 0x01F00000 | len(self.playlist))
        assert not self.rd(0x227C) & 0x100000
        self.wr(0x2A00, 0x10000000)

    def until(self, ready: Callable[[], bool], what: str) -> None:
        """Wait until something holds; a test that waits for ever is a failure."""
        end = time.monotonic() + 20
        while not ready():
            if time.monotonic() > end:
                raise AssertionError(f"{what} did not come")
            time.sleep(0.0005)

    def close(self) -> None:
        self.gpu.close()
        self.memory.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A GPU with 64 MiB, switched on."""
    made = Rig().boot()
    yield made
    made.close()


@pytest.fixture
def new_rig() -> Iterator[Callable[..., Rig]]:
    """Make GPUs with other options."""
    made: list[Rig] = []

    def build(**options: object) -> Rig:
        made.append(Rig(**options).boot())  # type: ignore[arg-type]
        return made[-1]

    yield build
    for each in made:
        each.close()


@pytest.fixture
def push() -> type[Push]:
    return Push


@pytest.fixture
def page_tables() -> type[PageTables]:
    return PageTables

"""A guest without a driver: it writes page tables, instance blocks, pushbuffers and registers itself, so
that a test can write wrong ones.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pytest

from gpuvm.gpu import Gf100
from gpuvm.gpu.pgraph import Executor
from gpuvm.hypervisor import Aggregator
from gpuvm.hypervisor.techniques import TECHNIQUES
from gpuvm.paravirt.abi import ARGUMENT_LAYOUTS, CALL_BAR, Op, Register
from gpuvm.pci.device import PciDevice
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20

DIRECTORY, TABLE = 0x10000, 0x20000
INSTANCE, PLAYLIST, USERD = 0x60000, 0x61000, 0x62000
BAR1_INSTANCE, BAR1_DIRECTORY, BAR1_TABLE = 0x80000, 0x81000, 0x82000
PUSH, RING, FENCE = 0xA0000, 0xA1000, 0xA2000
DATA = 0x100000
IDENTITY = 4 * MIB
"""Virtual addresses below are the guest's VRAM addresses; everything above is for the test."""

PARA_MODES = ("pv-naive", "pv-multicall")
M2MF, COPY, ENGINE_COPY = 0x9039, 0x90B5, 4 << 16
RELEASE = 0x01000002


def methods(subchannel: int, method: int, *data: int) -> list[int]:
    """A pushbuffer header for incrementing methods, and its data."""
    return [1 << 29 | len(data) << 16 | subchannel << 13 | method >> 2, *data]


class BareGuest:
    """One VM with one virtual GPU (or the GPU itself) and one channel on it."""

    def __init__(self, device: PciDevice, name: str = "guest", ram: int = 8 * MIB) -> None:
        self.device = device
        self.vm = VirtualMachine(name, ram)
        self.vm.plug(device)
        self.channel = 1
        self.sequence = 0
        self.put = 0

    # Registers and memory

    def read(self, offset: int) -> int:
        return self.device.read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.device.write(0, offset, 4, value)

    def poke(self, address: int, data: bytes) -> None:
        """Write VRAM through the PRAMIN window."""
        self.write(0x1700, address >> 16)
        self.device.write_block(0, 0x700000 + (address & 0xFFFF), data, 4)

    def peek(self, address: int, size: int = 4) -> bytes:
        self.write(0x1700, address >> 16)
        return self.device.read_block(0, 0x700000 + (address & 0xFFFF), size, 4)

    def peek32(self, address: int) -> int:
        return struct.unpack("<I", self.peek(address))[0]

    # Tables

    def entry(self, va: int, low: int, high: int = 0) -> None:
        """Write a small-page entry of the first 128 MiB."""
        self.poke(TABLE + 8 * (va >> 12), struct.pack("<II", low, high))

    def map_vram(self, va: int, address: int) -> None:
        self.entry(va, address >> 8 & 0xFFFFFFFF | 1)

    def map_ram(self, va: int, address: int) -> None:
        self.entry(va, address >> 8 & 0xFFFFFFF0 | 1, 2 << 1 | 1)

    def flush(self, trigger: int = 0x80000001) -> None:
        self.write(0x100CB8, DIRECTORY >> 8)
        self.write(0x100CBC, trigger)

    # Channel

    def start(self, channel: int = 1, instance: int = INSTANCE) -> BareGuest:
        """Make the address space, the poll area and one running channel."""
        self.channel = channel
        self.write(0x140, 0)
        self.write(0x640, 0xFFFFFFFF)
        self.write(0x2140, 0xFFFFFFFF)
        self.write(0x40013C, 0xFFFFFFFF)
        self.write(0x4010C, 0xFFFFFFFF)
        self.poke(DIRECTORY, struct.pack("<II", 0, TABLE >> 8 | 1) + bytes(0x10000 - 8))
        pages = IDENTITY >> 12
        self.poke(TABLE, b"".join(struct.pack("<II", page << 4 | 1, 0) for page in range(pages)))
        self.poke(BAR1_DIRECTORY, struct.pack("<II", 0, BAR1_TABLE >> 8 | 1))
        self.poke(BAR1_TABLE, b"".join(struct.pack("<II", (USERD >> 12) + n << 4 | 1, 0) for n in range(16)))
        block = bytearray(0x1000)
        struct.pack_into("<QQ", block, 0x200, BAR1_DIRECTORY, 0xFFFF)
        self.poke(BAR1_INSTANCE, bytes(block))
        self.write(0x1704, 0x80000000 | BAR1_INSTANCE >> 12)
        self.write(0x2254, 0x10000000)
        self.poke(instance, self.instance_block())
        self.bind(instance)
        return self

    def instance_block(
        self, directory: int = DIRECTORY, userd: int | None = None, limit: int = (1 << 40) - 1
    ) -> bytes:
        block = bytearray(0x1000)
        struct.pack_into("<Q", block, 0x08, USERD + 0x1000 * self.channel if userd is None else userd)
        struct.pack_into("<II", block, 0x48, RING, 9 << 16)
        struct.pack_into("<QQ", block, 0x200, directory, limit)
        return bytes(block)

    def bind(self, instance: int = INSTANCE) -> None:
        """Put an instance block into the channel table anew and run the channel."""
        self.poke(USERD + 0x1000 * self.channel, bytes(0x100))
        self.put = 0
        self.write(0x3000 + 8 * self.channel, 0)
        self.write(0x3000 + 8 * self.channel, 0xC0000000 | instance >> 12)
        self.write(0x3004 + 8 * self.channel, 0x001F0001)
        self.playlist(self.channel)

    def playlist(self, *channels: int) -> None:
        self.poke(PLAYLIST, b"".join(struct.pack("<II", number, 4) for number in channels))
        self.write(0x2270, PLAYLIST >> 12)
        self.write(0x2274, 0x01F00000 | len(channels))
        self.write(0x2A00, 0x10000000)

    def submit(self, words: list[int]) -> int:
        """Ring the doorbell for words that end in a release of the returned number to the fence."""
        self.sequence += 1
        words = words + methods(0, 0x10, 0, FENCE, self.sequence, RELEASE)
        slot = 0x400 * (self.put % 4)
        self.poke(PUSH + slot, struct.pack(f"<{len(words)}I", *words))
        self.poke(RING + 8 * self.put, struct.pack("<II", PUSH + slot, len(words) << 10))
        self.put += 1
        self.device.write(1, 0x1000 * self.channel + 0x8C, 4, self.put)
        return self.sequence

    def wait(self, sequence: int, seconds: float = 20.0) -> str:
        """Return "done" when the fence has passed, or the name of what stopped the channel."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.peek32(FENCE) >= sequence:
                return "done"
            status = self.read(0x2100)
            if status & 1 << 28:
                return "fault"
            if status & 1 << 29:
                return "pbdma"
            if self.read(0x400100):
                return "graph"
            time.sleep(0.001)
        return "timeout"

    def run(self, words: list[int], seconds: float = 20.0) -> str:
        return self.wait(self.submit(words), seconds)

    def copy(self, to: int, source: int, size: int) -> str:
        """Copy between virtual addresses with the memory-to-memory class."""
        return self.run(
            [
                *methods(2, 0, M2MF),
                *methods(2, 0x238, to >> 32, to & 0xFFFFFFFF),
                *methods(2, 0x30C, source >> 32, source & 0xFFFFFFFF, size, size, size, 1),
                *methods(2, 0x300, 0x100110),
            ]
        )

    def engine_copy(self, to: int, source: int, size: int) -> str:
        """Copy between virtual addresses with a copy engine."""
        return self.run(
            [
                *methods(4, 0, COPY | ENGINE_COPY),
                *methods(4, 0x30C, source >> 32, source & 0xFFFFFFFF, to >> 32, to & 0xFFFFFFFF),
                *methods(4, 0x31C, size, size, size, 1),
                *methods(4, 0x300, 0x110),
            ]
        )

    def take_fault(self) -> tuple[int, int, int]:
        """Acknowledge the first MMU fault; returns (unit, instance block address, fault address)."""
        units = self.read(0x259C)
        unit = (units & -units).bit_length() - 1
        base = 0x2800 + 0x10 * unit
        found = (unit, self.read(base) << 12, self.read(base + 8) << 32 | self.read(base + 4))
        self.write(0x259C, 1 << unit)
        return found

    def close(self) -> None:
        self.vm.close()


class ParaGuest(BareGuest):
    """The same guest with a para-virtual GPU: what it writes into page tables, it says in calls."""

    AREA = 0x100000

    def __init__(self, device: PciDevice, name: str = "guest", ram: int = 8 * MIB) -> None:
        super().__init__(device, name, ram)
        self.device.write(CALL_BAR, Register.AREA_LOW, 4, self.AREA)
        self.directory = self.table = 0

    def call(self, op: Op, *arguments: int) -> tuple[int, int]:
        """Perform a call; returns its result and the 64-bit word behind it."""
        memory = self.vm.memory
        memory.write(self.AREA, struct.pack("<II", op, 0) + ARGUMENT_LAYOUTS[op].pack(*arguments))
        self.device.write(CALL_BAR, Register.CALL, 4, 0)
        result, _, answer = struct.unpack("<IIQ", memory.read(self.AREA, 16))
        return result, answer

    def start(self, channel: int = 1, instance: int = INSTANCE) -> BareGuest:
        (_, self.directory), (_, self.table) = (self.call(Op.MEM_ALLOC, kind) for kind in (0, 2))
        self.call(Op.MAP_PGT, self.directory, 0, 0, 0, self.table)
        for page in range(IDENTITY >> 12):
            self.call(Op.MAP, self.table, page, 0, page << 4 | 1)
        (_, bar), (_, shown) = (self.call(Op.MEM_ALLOC, kind) for kind in (0, 2))
        self.call(Op.MAP_PGT, bar, 0, 0, 0, shown)
        for page in range(16):
            self.call(Op.MAP, shown, page, 0, (USERD >> 12) + page << 4 | 1)
        self.call(Op.SET_PGD, 1, 0, bar)
        for number in range(8):
            self.call(Op.SET_PGD, 0, number, self.directory)
        return super().start(channel, instance)

    def entry(self, va: int, low: int, high: int = 0) -> None:
        """Say an entry; one that is refused leaves nothing there."""
        self.call(Op.MAP, self.table, va >> 12, 0, 0)
        self.call(Op.MAP, self.table, va >> 12, 0, low | high << 32)

    def flush(self, trigger: int = 0x80000001) -> None:
        super().flush(trigger)
        self.call(Op.VM_FLUSH, self.directory)


class Machine:
    """A card, its aggregator, and guests on it."""

    def __init__(self, vram: int, scheduler: str, executor: Executor | None, watchdog_s: float) -> None:
        self.gpu = Gf100(vram=vram, executor=executor, watchdog_s=watchdog_s)
        self.aggregator = Aggregator(self.gpu, scheduler)
        self.guests: list[BareGuest] = []
        self.mode = "fv-naive"
        """Of guests that are made without one."""

    def guest(self, name: str, vram: int = 16 * MIB, channels: int = 8, mode: str = "") -> BareGuest:
        device = self.aggregator.create(name, mode or self.mode, vram=vram, channels=channels)
        guest = (ParaGuest if (mode or self.mode) in PARA_MODES else BareGuest)(device, name)
        self.guests.append(guest)
        return guest

    def close(self) -> None:
        self.aggregator.close()
        for guest in self.guests:
            guest.close()
        self.gpu.close()


@pytest.fixture
def make_machine() -> Iterator[Callable[..., Machine]]:
    made: list[Machine] = []

    def make(
        vram: int = 128 * MIB,
        scheduler: str = "fifo",
        executor: Executor | None = None,
        watchdog_s: float = 5.0,
    ) -> Machine:
        made.append(Machine(vram, scheduler, executor, watchdog_s))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make_machine: Callable[..., Machine]) -> Machine:
    return make_machine()


@pytest.fixture(params=[*(technique.mode for technique in TECHNIQUES), *PARA_MODES])
def any_machine(request: pytest.FixtureRequest, make_machine: Callable[..., Machine]) -> Machine:
    """A machine whose guests are under one technique, for each of them."""
    machine = make_machine()
    machine.mode = request.param
    return machine


@pytest.fixture(params=[technique.mode for technique in TECHNIQUES])
def full_machine(request: pytest.FixtureRequest, make_machine: Callable[..., Machine]) -> Machine:
    """The same for the techniques that read instance blocks and page tables from the guest's memory."""
    machine = make_machine()
    machine.mode = request.param
    return machine

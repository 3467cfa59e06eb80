"""A hostile guest tries to reach its neighbour, the hypervisor and the host, by every way that a guest
has."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from gpuvm.isa.assembler import assemble

MIB = 1 << 20
COMPUTE = 0x90C0
SECRET = b"only for Alice.." * 16
FETCHED = 0x180000
WINDOW = 5 * MIB
IDENTITY = 4 * MIB
INSTANCE, DIRECTORY, TABLE, USERD, DATA = 0x60000, 0x10000, 0x20000, 0x62000, 0x100000


def methods(subchannel: int, method: int, *data: int) -> list[int]:
    return [1 << 29 | len(data) << 16 | subchannel << 13 | method >> 2, *data]


class Pair:
    """Alice has secrets in her VRAM and her RAM; Mallory wants them."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        # Nobody of the two lies at the start of the card, where a forgotten translation would not show.
        machine.guest("first")
        self.alice = machine.guest("alice").start()
        self.mallory = machine.guest("mallory").start()
        self.alice.poke(DATA, SECRET)
        self.alice.vm.memory.write(0x4000, SECRET)
        self.alice_base = self.alice.device.memory.base
        self.mallory_base = self.mallory.device.memory.base
        # Where Alice's secret is for an address that nobody translates, and for one counted from Mallory's
        # partition.
        self.card = self.alice_base + DATA
        self.bus = self.alice.device.memory.window + 0x4000
        self.picture = self.snapshot()

    def snapshot(self) -> bytes:
        memory = self.alice.device.memory
        return bytes(memory.vram.read(memory.base + DATA, MIB)) + self.alice.vm.memory.read(0, MIB)

    def unharmed(self) -> None:
        """Alice's memory is as it was, and she can still work."""
        assert self.snapshot() == self.picture
        assert self.alice.copy(0x280000, DATA, 256) == "done"
        assert self.alice.peek(0x280000, 256) == SECRET

    def loot(self) -> bytes:
        """Everything that Mallory can have: all of its VRAM and RAM."""
        memory = self.mallory.device.memory
        return bytes(memory.vram.read(memory.base, memory.size)) + self.mallory.vm.memory.read(0, 8 * MIB)


@pytest.fixture
def pair(any_machine: Any) -> Pair:
    return Pair(any_machine)


@pytest.fixture
def full_pair(full_machine: Any) -> Pair:
    """The two where the guest's memory says what a para-virtual guest says in calls (for that see test_para.py)."""
    return Pair(full_machine)


def addresses_of_the_secret(pair: Pair) -> list[tuple[str, int, int]]:
    """Page-table entries that would show the secret if somebody forgot to translate or to check."""
    card, bus = pair.card, pair.bus
    between = (bus - pair.mallory.device.memory.window) & (1 << 40) - 1
    backwards = (card - pair.mallory_base) & (1 << 40) - 1
    return [
        ("its address on the card", card >> 8 | 1, 0),
        ("the distance from Mallory's partition, wrapped around", backwards >> 8 & 0xFFFFFFF0 | 1, 0),
        ("its address on the machine's bus, snooped", bus >> 8 & 0xFFFFFFF0 | 1, 2 << 1),
        ("its address on the machine's bus, not snooped", bus >> 8 & 0xFFFFFFF0 | 1, 3 << 1),
        ("the reserved aperture", card >> 8 | 1, 1 << 1),
        ("the distance between the two windows", between >> 8 & 0xFFFFFFF0 | 1, 2 << 1),
    ]


@pytest.mark.parametrize("engine", ["copy", "engine_copy"])
def test_page_tables_cannot_name_a_neighbours_memory(pair: Pair, engine: str) -> None:
    mallory = pair.mallory
    for what, low, high in addresses_of_the_secret(pair):
        mallory.poke(FETCHED, bytes(256))
        mallory.entry(WINDOW, low, high)
        mallory.flush()
        how = getattr(mallory, engine)(FETCHED, WINDOW + (pair.card & 0xFFF), 256)
        if how != "done":
            assert how == "fault", what
            assert mallory.take_fault()[1] == INSTANCE, "the fault names Mallory's own instance block"
            mallory.bind()
        assert SECRET not in pair.loot(), what
        # And writing there reaches nobody either.
        mallory.poke(FETCHED, b"overwritten....." * 16)
        if getattr(mallory, engine)(WINDOW + (pair.card & 0xFFF), FETCHED, 256) == "fault":
            mallory.take_fault()
            mallory.bind()
        assert pair.snapshot() == pair.picture, what
    pair.unharmed()


def test_page_directories_and_tables_cannot_lie_in_a_neighbours_memory(full_pair: Pair) -> None:
    pair = full_pair
    mallory, alice = pair.mallory, pair.alice
    # Alice's own table, which maps her secret, is where Mallory points a directory entry.
    for word in (
        (pair.alice_base + TABLE) >> 8 | 1,
        (alice.device.memory.window + 0x4000) >> 8 & 0xFFFFFFF0 | 2,
    ):
        mallory.poke(DIRECTORY + 8, struct.pack("<II", 0, word))
        mallory.flush()
        assert mallory.copy(FETCHED, (1 << 27) + DATA, 256) == "fault"
        mallory.take_fault()
        mallory.bind()
    mallory.poke(DIRECTORY + 8, bytes(8))
    # Alice's directory as Mallory's page directory: by card address, by distance, in system memory.
    for directory in (pair.alice_base + DIRECTORY, pair.alice_base + DIRECTORY | 2, pair.bus & ~0xFFF | 3):
        mallory.poke(0x70000, mallory.instance_block(directory=directory))
        mallory.bind(0x70000)
        sequence = mallory.submit([])
        assert mallory.wait(sequence, 0.3) in ("fault", "timeout")
        if mallory.read(0x259C):
            mallory.take_fault()
    assert SECRET not in pair.loot()
    pair.unharmed()


def test_an_instance_block_cannot_lie_in_or_point_to_a_neighbours_memory(pair: Pair) -> None:
    mallory = pair.mallory
    for value in (0xC0000000 | (pair.alice_base + INSTANCE) >> 12, 0xE0000000 | INSTANCE >> 12, 0xCFFFFFFF):
        mallory.write(0x3000 + 8, value)
        assert mallory.read(0x3000 + 8) == 0, "the channel table does not take it"
    # GP_GET is written by the GPU to where the block says: Alice's secret is not overwritten by it.
    for userd in (pair.card & ~0x1FF, (pair.card & ~0x1FF) - pair.mallory_base & (1 << 40) - 1, pair.bus | 2):
        mallory.poke(0x70000, mallory.instance_block(userd=userd))
        mallory.bind(0x70000)
        mallory.wait(mallory.submit([]), 0.2)
    assert pair.snapshot() == pair.picture
    # Context pointers that are not virtual addresses do not reach the shadow.
    block = bytearray(mallory.instance_block())
    struct.pack_into("<II", block, 0x210, pair.card & 0xFFFFFFF8 | 1, 0)
    struct.pack_into("<II", block, 0x230, 0x12344, 5)
    mallory.poke(0x71000, bytes(block))
    mallory.bind(0x71000)
    shadow = mallory.device.channels[1].shadow
    vram = pair.machine.gpu.vram.view
    assert struct.unpack_from("<II", vram, shadow + 0x210) == (0, 0)
    assert struct.unpack_from("<II", vram, shadow + 0x230) == (0x12344, 5)
    # The same through the barrier: the block is changed after it was bound.
    mallory.poke(0x71000 + 0x230, struct.pack("<II", pair.card & 0xFFFFFFF8 | 2, 0))
    mallory.poke(0x71000 + 0x200, struct.pack("<Q", pair.alice_base + DIRECTORY))
    mallory.poke(0x71000 + 0x08, struct.pack("<Q", pair.card))
    assert struct.unpack_from("<II", vram, shadow + 0x230) == (0, 0)
    directory, userd = (
        struct.unpack_from("<Q", vram, shadow + 0x200)[0],
        struct.unpack_from("<Q", vram, shadow + 8)[0],
    )
    for address in (directory, userd):
        assert not pair.alice_base <= address < pair.alice_base + 16 * MIB
    pair.unharmed()


def test_a_bound_channel_does_not_outlive_its_directory(full_pair: Pair) -> None:
    """The chip reads the directory when a channel is bound. A block that names another one later must not free
    the shadow that the GPU still walks: the next guest would get its memory."""
    mallory, machine = full_pair.mallory, full_pair.machine
    walked = mallory.device.channels[1].space.address
    for directory in (0x13_0000, 0x14_0000, DIRECTORY, 0x13_0000, 0):
        mallory.poke(INSTANCE + 0x200, struct.pack("<Q", directory))
    newcomer = machine.guest("newcomer").start()
    taken = newcomer.device._grant.pool._ranges.values()
    assert not [part for part in taken if part.base < walked + 0x10000 and part.end > walked]
    newcomer.poke(DATA, SECRET)
    mallory.copy(FETCHED, DATA, 256)
    assert SECRET not in full_pair.loot()
    mallory.bind()
    mallory.write(0x3008, 0)
    assert len(mallory.device.spaces.all()) == 0
    full_pair.unharmed()


def test_the_windows_of_bar0_end_at_the_partition(pair: Pair) -> None:
    mallory = pair.mallory
    bases = [pair.card >> 16, pair.alice_base >> 16, 0xFFFFFF, pair.card >> 16 | 1 << 24]
    bases += [pair.bus >> 16 & 0xFFFFFF | target << 24 for target in (2, 3)]
    for base in bases:
        mallory.write(0x1700, base)
        assert mallory.device.read_block(0, 0x700000, 0x1000) == bytes(0x1000)
        mallory.device.write_block(0, 0x700000, b"\xff" * 0x1000)
        mallory.device.write(0, 0x700000 + (pair.card & 0xFFFC), 4, 0xDEADBEEF)
    # The window crosses the partition's end: only what is inside is there.
    mallory.write(0x1700, (16 * MIB - 0x10000) >> 16)
    mallory.device.write(0, 0x700000 + 0xFFFC, 4, 0x600D)
    mallory.device.write(0, 0x700000 + 0x10000, 4, 0xBAD)
    assert mallory.device.read(0, 0x700000 + 0xFFFC, 4) == 0x600D
    assert mallory.device.read(0, 0x700000 + 0x10000, 4) == 0
    assert mallory.device.counters.denied_addresses > 10
    pair.unharmed()


def test_the_apertures_show_only_the_guests_memory(full_pair: Pair) -> None:
    pair = full_pair
    mallory = pair.mallory
    for bar, register in ((1, 0x1704), (3, 0x1714)):
        mallory.poke(0x78000, struct.pack("<QQ", 0, 0))
        block = bytearray(0x1000)
        struct.pack_into("<QQ", block, 0x200, 0x73000, 0xFFFFF)
        mallory.poke(0x72000, bytes(block))
        mallory.poke(0x73000, struct.pack("<II", 0, 0x74000 >> 8 | 1))
        entries = [(low, high) for _, low, high in addresses_of_the_secret(pair)]
        mallory.poke(0x74000, b"".join(struct.pack("<II", *entry) for entry in entries))
        mallory.write(register, 0x80000000 | 0x72000 >> 12)
        first = 0x2000 if bar == 1 else 0
        mallory.write(0x2254, 0x10000000 | 0x80)
        for page in range(len(entries)):
            assert mallory.device.read_block(bar, first + 0x1000 * page, 0x100) == bytes(0x100)
            mallory.device.write_block(bar, first + 0x1000 * page, b"\xff" * 0x1000)
            mallory.device.write(bar, first + 0x1000 * page + 0x8C, 4, 0xFFFFFFFF)
        # An aperture whose instance block, directory or table is a neighbour's shows nothing.
        mallory.write(register, 0x80000000 | (pair.alice_base + 0x80000) >> 12)
        assert mallory.device.read_block(bar, first, 0x1000) == bytes(0x1000)
        for at, value in ((0x200, pair.alice_base + 0x81000), (0x200, 0x81000 | 2)):
            mallory.poke(0x72000 + at, struct.pack("<Q", value))
            mallory.write(register, 0x80000000 | 0x72000 >> 12)
            assert mallory.device.read_block(bar, first, 0x1000) == bytes(0x1000)
    assert SECRET not in pair.loot()
    pair.unharmed()


def test_channels_of_a_neighbour_cannot_be_touched(pair: Pair) -> None:
    mallory, alice = pair.mallory, pair.alice
    ids = [alice.device.channels[1].physical, 8, 9, 127, 0x7F | 1 << 8]
    distance = alice.device.channels[1].physical - mallory.device.channels[0].physical
    for number in [*ids, distance & 0x7F]:
        if number < 8:
            continue
        if number < 128:
            mallory.write(0x3000 + 8 * number, 0)
            mallory.write(0x3004 + 8 * number, 0)
        mallory.write(0x2634, number)
        mallory.playlist(number, 1)
    mallory.playlist()
    # Doorbells behind the poll area, and poll pages that lie in nobody's aperture.
    for page in range(16):
        mallory.device.write(1, 0x1000 * page + 0x8C, 4, 1)
    pair.unharmed()
    mallory.bind()
    assert mallory.copy(0x200000, DATA, 64) == "done"


def test_engine_registers_do_not_reach_the_chip(pair: Pair) -> None:
    mallory, gpu = pair.mallory, pair.machine.gpu
    before = {
        offset: gpu.read(0, offset, 4)
        for offset in (0x200, 0x1704, 0x1714, 0x2254, 0x2140, 0x140, 0x640, 0x100C10)
    }
    instance = 0x40000000 | (pair.alice_base + INSTANCE) >> 12
    for offset in (0x104050, 0x104054, 0x105050, 0x105054):
        mallory.write(offset, instance)
        assert mallory.read(offset) == 0
    mallory.write(0x409500, 0x80000000 | (pair.alice_base + INSTANCE) >> 12)
    mallory.write(0x409504, 1)
    assert mallory.read(0x409B00) & 0x0FFFFFFF != (pair.alice_base + INSTANCE) >> 12
    mallory.write(0x200, 0)
    mallory.write(0x1718, 0x80000000 | pair.alice_base >> 12)
    for offset in (0x2140, 0x140, 0x640, 0x100C10, 0x17E8D4, 0x137000, 0x610010, 0x4188B4, 0xA0000):
        mallory.write(offset, pair.alice_base >> 8)
    mallory.write(0x9410, 0x7FFFFFFF)
    assert {offset: gpu.read(0, offset, 4) for offset in before} == before
    assert abs(alice_time(pair) - gpu.ptimer.now()) < 10**9
    assert mallory.read(0x9410) >= 0x7FFFFFFF
    pair.unharmed()


def alice_time(pair: Pair) -> int:
    return pair.alice.read(0x9410) << 32 | pair.alice.read(0x9400)


def test_a_playlist_in_a_neighbours_memory_is_not_read(pair: Pair) -> None:
    mallory = pair.mallory
    before = mallory.device.counters.denied_addresses
    for where in ((pair.alice_base + 0x61000) >> 12, 2 << 28 | pair.bus >> 12, 1 << 28):
        mallory.write(0x2270, where)
        mallory.write(0x2274, 0x01F00001)
    assert mallory.device.counters.denied_addresses >= before + 3
    assert not pair.machine.aggregator.playlist.runs(mallory.device.channels[1].physical)
    pair.unharmed()


def test_the_hypervisors_own_memory_stays_unread_and_unwritten(pair: Pair) -> None:
    mallory, gpu = pair.mallory, pair.machine.gpu
    own = pair.machine.aggregator.own_memory
    base = gpu.vram.size - own.used - own.free
    before = gpu.vram.read(base, 4 * MIB)
    for address in (base, base - pair.mallory_base):
        mallory.map_vram(WINDOW, address)
        mallory.flush()
        if mallory.copy(WINDOW, DATA, 4096) == "fault":
            mallory.take_fault()
        mallory.bind()
        mallory.poke(address, b"\xff" * 4096)
    after = gpu.vram.read(base, 4 * MIB)
    changed = [at for at in range(0, 4 * MIB, 4096) if before[at : at + 4096] != after[at : at + 4096]]
    mine = {mallory.device.channels[1].shadow}
    for shadows in mallory.device.spaces.all():
        mine.update(range(shadows.address, shadows.address + 0x10000, 4096))
    buffers = pair.machine.aggregator.playlist._buffers
    for at in changed:
        assert base + at in mine or base + at in buffers or b"\xff" * 64 not in after[at : at + 4096]
    pair.unharmed()


def test_memory_of_a_destroyed_guest_is_zero_for_the_next(pair: Pair) -> None:
    aggregator = pair.machine.aggregator
    assert pair.alice.copy(0x200000, DATA, 256) == "done"
    aggregator.destroy(pair.alice.device)
    successor = pair.machine.guest("bob")
    assert successor.device.memory.base == pair.alice_base
    memory = successor.device.memory
    assert not memory.vram.read(memory.base, memory.size).strip(b"\0")
    successor.start()
    assert successor.copy(0x200000, DATA, 256) == "done"
    assert successor.peek(0x200000, 256) == bytes(256)
    # Alice still holds the dead device: it reads 0 and does nothing.
    assert pair.alice.device.read(0, 0, 4) == 0
    pair.alice.device.write(1, 0x108C, 4, 1)
    pair.alice.poke(DATA, SECRET)
    assert successor.peek(DATA, 256) == bytes(256)
    assert pair.alice.device.config_read(0, 4) in (0x06D810DE, 0xFFFFFFFF)


CODE = 0x300000
THIEF = """
    MOV32I R0, {source:#x};
    MOV R1, RZ;
    MOV32I R4, {to:#x};
    MOV R5, RZ;
    LD.E R2, [R0];
    ST.E [R4], R2;
    EXIT;
"""


def launch(guest: Any, source: int, to: int) -> str:
    """Run a kernel of one thread that copies a word between virtual addresses."""
    guest.poke(CODE, assemble(THIEF.format(source=source, to=to)))
    return guest.run(
        [
            *methods(1, 0, COMPUTE),
            *methods(1, 0x1608, 0, CODE),
            *methods(1, 0x3B4, 0),
            *methods(1, 0x214, 0xFE000000),
            *methods(1, 0x77C, 0xFF000000),
            *methods(1, 0x238, 1 << 16 | 1, 1),
            *methods(1, 0x3AC, 1 << 16 | 1, 1),
            *methods(1, 0x2C0, 8),
            *methods(1, 0x368, 0x1000),
        ]
    )


def test_a_kernel_reaches_only_its_own_memory(pair: Pair) -> None:
    mallory = pair.mallory
    mallory.poke(DATA, b"mine")
    assert launch(mallory, DATA, FETCHED) == "done"
    assert mallory.peek(FETCHED, 4) == b"mine"
    for what, low, high in addresses_of_the_secret(pair):
        mallory.poke(FETCHED, bytes(4))
        mallory.entry(WINDOW, low, high)
        mallory.flush()
        for source, to in ((WINDOW, FETCHED), (DATA, WINDOW)):
            assert launch(mallory, source, to) == "fault", what
            assert mallory.take_fault()[2] & ~0xFFF == WINDOW
            mallory.bind()
        assert mallory.peek(FETCHED, 4) == bytes(4)
        assert pair.snapshot() == pair.picture
    for address in (pair.card, pair.bus & 0xFFFFFFFF | 0x40000000):
        assert launch(mallory, address & 0xFFFFFFFC | 0x10000000, FETCHED) == "fault"
        mallory.take_fault()
        mallory.bind()
    pair.unharmed()

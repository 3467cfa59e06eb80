"""Page tables by calls: what the GPU translates is what a model of the calls says, never outside the virtual
machine's memory; a hostile caller gets an error code."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.paravirt.abi import (
    AREA_SIZE,
    CALL_BAR,
    MULTICALL,
    NAIVE,
    OPERATIONS,
    SG_ENTRIES,
    SIGNATURE,
    SLOTS,
    SPLIT,
    Kind,
    Op,
    Register,
    Result,
    Target,
)
from support.para import AREA, MIB, Caller, Stage

MODES = ("pv-naive", "pv-multicall")
SPAN = 1 << 27
BIG, SMALL = 1 << 17, 1 << 12
SYSTEM = 5 << 32


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    stage = Stage()
    stage.caller("pv-multicall", "first")
    yield stage
    stage.close()


@pytest.fixture(params=MODES)
def guest(request: pytest.FixtureRequest, stage: Stage) -> Caller:
    stage.caller(request.param, "neighbour")
    return stage.caller(request.param)


def vram(address: int, flags: int = 1) -> int:
    return address >> 8 | flags


def ram(address: int, flags: int = 1) -> int:
    return address >> 8 | flags | SYSTEM


class Space:
    """An address space with one table of each kind at its first directory entry."""

    def __init__(self, guest: Caller) -> None:
        self.guest = guest
        (self.directory,) = guest.answer(Op.MEM_ALLOC, Kind.DIRECTORY)
        (self.big,) = guest.answer(Op.MEM_ALLOC, Kind.BIG_TABLE)
        (self.small,) = guest.answer(Op.MEM_ALLOC, Kind.SMALL_TABLE)
        assert guest.call(Op.MAP_PGT, self.directory, 0, 0, self.big, self.small) == Result.OK

    def at(self, va: int) -> tuple[int, int, bool] | None:
        return self.guest.translate(self.guest.device.tables.directory(self.directory).address, va)


def test_the_device_names_itself_and_what_it_offers(stage: Stage) -> None:
    for mode, offered in (("pv-naive", NAIVE), ("pv-multicall", MULTICALL), ("pv-drm", SPLIT)):
        guest = stage.caller(mode, mode)
        assert guest.device.read(CALL_BAR, Register.SIGNATURE, 4) == SIGNATURE
        assert guest.device.read(CALL_BAR, Register.SLOTS, 4) == SLOTS
        low, high = (guest.device.read(CALL_BAR, at, 4) for at in (8, 12))
        assert {op for op in Op if (low | high << 32) >> op & 1} == offered
        for op in set(Op) - offered:
            assert guest.raw(op, bytes(64)) == Result.UNKNOWN_OPERATION


def test_entries_lead_into_the_partition_and_the_window(guest: Caller) -> None:
    space, memory = Space(guest), guest.device.memory
    assert guest.call(Op.MAP, space.small, 3, 0, vram(0x5000)) == Result.OK
    assert guest.call(Op.MAP, space.small, 4, 0, ram(0x6000, 5)) == Result.OK
    assert guest.call(Op.MAP, space.big, 2, 0, vram(3 * BIG)) == Result.OK
    assert space.at(0x3010) == (0, memory.base + 0x5010, False)
    assert space.at(0x4010) == (2, memory.window + 0x6010, True)
    assert space.at(2 * BIG + 0x1234) == (0, memory.base + 3 * BIG + 0x1234, False)
    assert space.at(0x5000) is None
    assert guest.call(Op.MAP, space.small, 3, 0, 0) == Result.OK
    assert space.at(0x3010) is None
    assert guest.device.counters.calls_map == 4
    assert guest.device.counters.shadow_passes == 0, "no table is ever scanned"


FOREIGN = [
    ("behind the partition", "small", vram(16 * MIB)),
    ("the last address of an entry", "small", vram((1 << 36) - 0x1000)),
    ("a large page that only begins inside", "big", vram(16 * MIB - SMALL)),
    ("a large page that is not aligned", "big", vram(SMALL)),
    ("RAM that the machine does not have", "small", ram(8 * MIB)),
    ("another machine's window", "small", ram(1 << 33)),
    ("a large page over the end of RAM", "big", ram(8 * MIB - SMALL)),
    ("the reserved aperture", "small", vram(0x1000) | 1 << 33),
]


@pytest.mark.parametrize(("what", "table", "entry"), FOREIGN)
def test_an_entry_outside_the_machine_is_an_error(shared_stage: Stage, what: str, table: str, entry: int) -> None:
    guest = shared_stage.callers[0]
    space = Space(guest)
    number = getattr(space, table)
    good = vram(0)
    assert guest.call(Op.MAP, number, 7, 0, good) == Result.OK
    before = space.at(7 * (BIG if table == "big" else SMALL))
    assert guest.call(Op.MAP, number, 7, 0, entry) == Result.BAD_ADDRESS, what
    assert guest.call(Op.MAP_BATCH, number, 7, 1, entry) == Result.BAD_ADDRESS, what
    both = struct.pack("<QQ", good, entry)
    assert guest.call(Op.MAP_SG_BATCH, number, 7, 2, array=both) == Result.BAD_ADDRESS, what
    assert space.at(7 * (BIG if table == "big" else SMALL)) == before, "nothing has changed"
    assert guest.device.counters.denied_addresses >= 3
    for handle in (space.directory, space.big, space.small):
        assert guest.call(Op.MEM_FREE, handle) == Result.OK


def test_a_run_may_not_leave_the_machine_nor_wrap_around(stage: Stage) -> None:
    guest = stage.caller("pv-multicall")
    space = Space(guest)
    pages = 16 * MIB >> 12
    assert guest.call(Op.MAP_BATCH, space.small, 0, pages, vram(0)) == Result.OK
    assert guest.call(Op.MAP_BATCH, space.small, 0, pages + 1, vram(0)) == Result.BAD_ADDRESS
    assert guest.call(Op.MAP_BATCH, space.small, 0, 2, vram((1 << 40) - 0x1000)) == Result.BAD_ADDRESS
    assert guest.call(Op.MAP_BATCH, space.small, 0, 32768, vram((1 << 40) - 0x1000)) == Result.BAD_ADDRESS


@pytest.mark.parametrize(
    ("op", "arguments", "result"),
    [
        (Op.MAP, (999, 0, 0, 0), Result.BAD_ID),
        (Op.MAP, (0, 0, 0, 0), Result.BAD_ID),
        (Op.MAP, ("directory", 0, 0, 0), Result.BAD_ID),
        (Op.MAP, ("small", 32768, 0, 0), Result.BAD_ARGUMENT),
        (Op.MAP, ("big", 1024, 0, 0), Result.BAD_ARGUMENT),
        (Op.MAP_PGT, ("small", 0, 0, 0, 0), Result.BAD_ID),
        (Op.MAP_PGT, ("directory", 8192, 0, 0, 0), Result.BAD_ARGUMENT),
        (Op.MAP_PGT, ("directory", 0, 0, "small", 0), Result.BAD_ID),
        (Op.MAP_PGT, ("directory", 0, 0, 0, "directory"), Result.BAD_ID),
        (Op.VM_FLUSH, ("big",), Result.BAD_ID),
        (Op.MEM_ALLOC, (3,), Result.BAD_ARGUMENT),
        (Op.MEM_FREE, (1 << 63,), Result.BAD_ID),
        (Op.MEM_FREE, ("small",), Result.BUSY),
        (Op.BAR3_PGT, ("big",), Result.BAD_ID),
        (Op.SET_PGD, (2, 0, "directory"), Result.BAD_ARGUMENT),
        (Op.SET_PGD, (0, 4, "directory"), Result.BAD_ARGUMENT),
        (Op.SET_PGD, (0, 0, "small"), Result.BAD_ID),
        (Op.MAP_BATCH, ("small", 0, 0, 0), Result.BAD_ARGUMENT),
        (Op.MAP_BATCH, ("small", 1, 32768, 0), Result.BAD_ARGUMENT),
        (Op.MAP_BATCH, ("small", 0xFFFFFFFF, 0xFFFFFFFF, 0), Result.BAD_ARGUMENT),
        (Op.MAP_SG_BATCH, ("small", 0, SG_ENTRIES + 1), Result.BAD_ARGUMENT),
        (Op.MAP_SG_BATCH, ("small", 0, 0), Result.BAD_ARGUMENT),
        (Op.UNMAP_BATCH, ("small", 32767, 2), Result.BAD_ARGUMENT),
        (Op.MAP_PGT_BATCH, ("directory", 8191, 2), Result.BAD_ARGUMENT),
        (Op.MAP_PGT_BATCH, ("directory", 0, SG_ENTRIES + 1), Result.BAD_ARGUMENT),
    ],
)
def test_a_wrong_argument_is_an_error_code(
    shared_stage: Stage, op: Op, arguments: tuple[int | str, ...], result: Result
) -> None:
    guest = shared_stage.callers[0]
    space = Space(guest)
    guest.vm.memory.zero(AREA, 0x1000)
    numbers = [getattr(space, each) if isinstance(each, str) else each for each in arguments]
    failures = guest.device.counters.call_failures
    assert guest.call(op, *numbers) == result
    assert guest.device.counters.call_failures == failures + 1
    for handle in (space.directory, space.big, space.small):
        assert guest.call(Op.MEM_FREE, handle) == Result.OK


def test_slots_and_areas_that_are_not_there_are_counted_only(guest: Caller) -> None:
    counters = guest.device.counters
    for slot in (SLOTS, 0xFFFFFFFF, 1 << 20):
        guest.register(Register.CALL, slot)
    assert counters.call_failures == 3
    for area in (8 * MIB, 0xFFFFF000, 8 * MIB - 0x800 & ~0xFFF):
        guest.register(Register.AREA_LOW, area)
        guest.register(Register.CALL, SLOTS - 1)
    assert counters.call_failures == 6
    guest.register(Register.AREA_LOW, 0)
    guest.register(Register.CALL, 0)
    assert counters.call_failures == 7
    for size in (1, 2, 8):
        guest.device.write(CALL_BAR, Register.CALL, size, 0)
        assert guest.device.read(CALL_BAR, Register.SIGNATURE, size) == 0
    guest.register(Register.AREA_LOW, AREA)
    assert guest.answer(Op.MEM_ALLOC, Kind.SMALL_TABLE)[0] > 0


def test_ids_of_a_neighbour_mean_nothing(stage: Stage) -> None:
    alice, mallory = stage.caller("pv-multicall", "alice"), stage.caller("pv-multicall", "mallory")
    space = Space(alice)
    assert alice.call(Op.MAP, space.small, 0, 0, vram(0x1000)) == Result.OK
    for handle in (space.directory, space.big, space.small):
        assert mallory.call(Op.MEM_FREE, handle) == Result.BAD_ID
        assert mallory.call(Op.VM_FLUSH, handle) == Result.BAD_ID
        assert mallory.call(Op.UNMAP_BATCH, handle, 0, 8) == Result.BAD_ID
    found = space.at(0)
    assert found is not None
    assert alice.owns(found)
    assert not mallory.owns(found)


def test_the_memory_of_tables_ends_at_the_quota(guest: Caller) -> None:
    pool = guest.device._grant.pool
    results = {guest.call(Op.MEM_ALLOC, Kind.SMALL_TABLE) for _ in range(pool.quota // (256 << 10) + 1)}
    assert results == {Result.OK, Result.NO_MEMORY}
    assert pool.used <= pool.quota
    guest.device.reset()
    assert pool.used == 0
    guest.register(Register.AREA_LOW, AREA)
    assert guest.call(Op.MEM_ALLOC, Kind.SMALL_TABLE) == Result.OK


def test_what_is_in_use_is_not_freed(guest: Caller) -> None:
    space = Space(guest)
    assert guest.call(Op.SET_PGD, Target.CHANNEL, 1, space.directory) == Result.OK
    assert guest.call(Op.MEM_FREE, space.directory) == Result.BUSY
    assert guest.call(Op.SET_PGD, Target.BAR1, 0, space.directory) == Result.OK
    assert guest.call(Op.SET_PGD, Target.CHANNEL, 1, 0) == Result.OK
    assert guest.call(Op.MEM_FREE, space.directory) == Result.BUSY
    assert guest.call(Op.SET_PGD, Target.BAR1, 0, 0) == Result.OK
    assert guest.call(Op.BAR3_PGT, space.small) == Result.OK
    assert guest.call(Op.MEM_FREE, space.directory) == Result.OK
    assert guest.call(Op.MEM_FREE, space.small) == Result.BUSY
    assert guest.call(Op.BAR3_PGT, 0) == Result.OK
    assert guest.call(Op.MEM_FREE, space.small) == Result.OK
    assert guest.call(Op.MEM_FREE, space.small) == Result.BAD_ID, "an id is never used again"


def test_apertures_show_what_the_calls_say(guest: Caller) -> None:
    space, device = Space(guest), guest.device
    device.memory.vram.write(device.memory.base + 0x9000, b"in the partition")
    assert guest.call(Op.MAP, space.small, 5, 0, vram(0x9000)) == Result.OK
    assert guest.call(Op.SET_PGD, Target.BAR1, 0, space.directory) == Result.OK
    assert device.read_block(1, 0x5000, 16) == b"in the partition"
    assert device.read_block(3, 0x5000, 16) == bytes(16)
    assert guest.call(Op.BAR3_PGT, space.small) == Result.OK
    assert device.read_block(3, 0x5000, 16) == b"in the partition"
    # Later entries are seen too, of both kinds; system memory is not shown.
    assert guest.call(Op.MAP, space.big, 1, 0, vram(0)) == Result.OK
    assert device.read_block(1, BIG + 0x9000, 16) == b"in the partition"
    assert guest.call(Op.MAP, space.small, 5, 0, ram(0x9000)) == Result.OK
    assert device.read_block(1, 0x5000, 16) == device.read_block(3, 0x5000, 16) == bytes(16)
    device.write_block(3, 0x5000, b"\xff" * 16)
    assert guest.vm.memory.read(0x9000, 16) == bytes(16)
    assert guest.call(Op.MAP_PGT, space.directory, 0, 0, 0, 0) == Result.OK
    assert device.read_block(1, BIG + 0x9000, 16) == bytes(16)


def test_a_bound_channel_keeps_its_directory(guest: Caller) -> None:
    space = Space(guest)
    assert guest.call(Op.SET_PGD, Target.CHANNEL, 1, space.directory) == Result.OK
    guest.device.write(0, 0x3000 + 8, 4, 0x80000000 | 0x60)
    channel = guest.device.channels[1]
    assert channel.instance == 0x60000
    block = guest.device.memory.vram.read(channel.shadow, 0x210)
    address, limit = struct.unpack_from("<QQ", block, 0x200)
    assert address == guest.device.tables.directory(space.directory).address
    # The block's own directory word, written by the guest, means nothing.
    guest.device.memory.vram.write(guest.device.memory.base + 0x60200, struct.pack("<QQ", 0x1000, limit))
    guest.device.channels[1].reflect(0x200, 0x210)
    assert guest.device.memory.vram.read(channel.shadow + 0x200, 8) == struct.pack("<Q", address)
    assert guest.call(Op.SET_PGD, Target.CHANNEL, 1, 0) == Result.BUSY
    guest.device.write(0, 0x3000 + 8, 4, 0)
    assert guest.call(Op.SET_PGD, Target.CHANNEL, 1, 0) == Result.OK


# Random calls against a model

pages = st.integers(0, (16 * MIB >> 12) + 64)
entries = st.one_of(
    pages.map(lambda page: vram(page << 12)),
    pages.map(lambda page: vram(page << 12, 5)),
    st.integers(0, (8 * MIB >> 12) + 64).map(lambda page: ram(page << 12)),
    st.integers(0, 8).map(lambda page: vram(page * BIG)),
    st.just(0),
    st.integers(0, (1 << 64) - 1),
)
kinds = st.sampled_from(("big", "small"))
indexes = st.one_of(st.integers(0, 40), st.integers(1000, 1030), st.integers(32760, 32770))
counts = st.integers(0, 140)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("map"), kinds, indexes, entries),
        st.tuples(st.just("run"), kinds, indexes, counts, entries),
        st.tuples(st.just("scatter"), kinds, indexes, st.lists(entries, max_size=5)),
        st.tuples(st.just("clear"), kinds, indexes, counts),
        st.tuples(st.just("link"), st.integers(0, 2), st.booleans(), st.booleans()),
        st.tuples(st.just("flush")),
    ),
    max_size=12,
)


class Model:
    """What an address should translate to, by the calls alone."""

    def __init__(self, guest: Caller) -> None:
        self.memory, self.ram = guest.device.memory, guest.vm.memory.size
        self.tables: dict[str, dict[int, tuple[int, int, bool]]] = {"big": {}, "small": {}}
        self.links: dict[int, tuple[bool, bool]] = {0: (True, True)}

    def allowed(self, kind: str, entry: int) -> tuple[int, int, bool] | str | None:
        """The translation of an entry, None if it maps nothing, "no" if the guest may not have it."""
        if not entry & 1:
            return None
        size = BIG if kind == "big" else SMALL
        address, target = (entry & 0xFFFFFFF0) << 8, entry >> 33 & 3
        if address % size or target == 1:
            return "no"
        end, base = (self.memory.size, self.memory.base) if target == 0 else (self.ram, self.memory.window)
        if address + size > end:
            return "no"
        return target, base + address, bool(entry & 4)

    def put(self, kind: str, first: int, wanted: list[int]) -> bool:
        """Set entries, all or none; whether it may be done."""
        found = [self.allowed(kind, entry) for entry in wanted]
        if not wanted or first + len(wanted) > (1024 if kind == "big" else 32768) or "no" in found:
            return False
        for index, each in enumerate(found, first):
            self.tables[kind].pop(index, None)
            if isinstance(each, tuple):
                self.tables[kind][index] = each
        return True

    def at(self, va: int) -> tuple[int, int, bool] | None:
        big, small = self.links.get(va // SPAN, (False, False))
        rest = va % SPAN
        found = self.tables["small"].get(rest // SMALL) if small else None
        size = SMALL
        if found is None or found[1] is None:
            found, size = (self.tables["big"].get(rest // BIG) if big else None), BIG
        return None if found is None else (found[0], found[1] + rest % size, found[2])


@settings(max_examples=40, deadline=None)
@given(steps)
def test_the_gpu_translates_as_the_calls_say(shared_stage: Stage, program: list[tuple[object, ...]]) -> None:
    guest = shared_stage.callers[0]
    space, model = Space(guest), Model(guest)
    for step in program:
        how, *rest = step
        if how == "link":
            index, big, small = rest
            ids = struct.pack("<QQ", space.big if big else 0, space.small if small else 0)
            assert guest.call(Op.MAP_PGT_BATCH, space.directory, index, 1, array=ids) == Result.OK
            model.links[index] = (big, small)
            continue
        if how == "flush":
            assert guest.call(Op.VM_FLUSH, space.directory) == Result.OK
            continue
        kind, first = rest[0], rest[1]
        table = getattr(space, kind)
        if how == "map":
            wanted = [rest[2]]
            result = guest.call(Op.MAP, table, first, 0, rest[2])
        elif how == "clear":
            wanted = [0] * rest[2]
            result = guest.call(Op.UNMAP_BATCH, table, first, rest[2])
        elif how == "scatter":
            wanted = rest[2]
            result = guest.call(
                Op.MAP_SG_BATCH, table, first, len(wanted), array=struct.pack(f"<{len(wanted)}Q", *wanted)
            )
        else:
            count, entry = rest[2], rest[3]
            step_size = (BIG if kind == "big" else SMALL) >> 8
            wraps = (entry & 0xFFFFFFFF) + step_size * (count - 1) > 0xFFFFFFFF
            wanted = [] if wraps else [entry + step_size * n for n in range(count)]
            result = guest.call(Op.MAP_BATCH, table, first, count, entry)
        assert (result == Result.OK) == model.put(kind, first, wanted), (how, result)
    probes = [n * SMALL + 0x10 for n in (*range(45), *range(1000, 1032), 32760, 32767)]
    probes += [n * BIG + 0x2010 for n in (*range(45), 1000, 1023)]
    for base in range(3):
        for va in probes:
            found = space.at(base * SPAN + va)
            assert found == model.at(base * SPAN + va)
            assert found is None or guest.owns(found)
    assert guest.call(Op.MEM_FREE, space.directory) == Result.OK
    assert guest.call(Op.MEM_FREE, space.big) == guest.call(Op.MEM_FREE, space.small) == Result.OK
    assert len(guest.device.tables) == 0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.binary(max_size=256), st.integers(0, 70))
def test_any_bytes_in_a_slot_are_answered(shared_stage: Stage, op: int, data: bytes, slot: int) -> None:
    guest = shared_stage.callers[0]
    base = guest.device.memory.base
    if slot < SLOTS:
        assert guest.raw(op, data, slot) in set(Result)
    else:
        guest.register(Register.CALL, slot)
    for found in guest.device.tables._objects.values():
        words = np.asarray(found.words)
        assert base >= 0
        if hasattr(found, "count"):
            present = words[words[:, 0] & 1 != 0]
            in_vram = present[present[:, 1] >> 1 & 3 == 0]
            frames = (in_vram[:, 0].astype(np.int64) >> 4) << 12
            assert ((frames >= base) & (frames < base + 16 * MIB)).all()


def test_the_table_of_operations_is_consistent() -> None:
    assert set(OPERATIONS) == set(Op)
    for op, row in OPERATIONS.items():
        assert row.op is op
        assert row.text
        assert bool(row.array) == bool(row.array_words) or op is Op.BATCH
    assert AREA_SIZE == SLOTS * 0x1000

"""The hypervisor's half of a split driver, met by a guest that fills slots itself: buffers, address spaces,
channels, submissions, and everything wrong with them."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.paravirt.abi import (
    ARGUMENT_LAYOUTS,
    BATCH_LIMIT,
    BUFFER_LIMIT,
    CALL_BAR,
    RUN_LIMIT,
    Op,
    Register,
    Result,
    Shared,
)
from support.para import MIB, SHARED, Caller, Stage

PAGE, BIG = 0x1000, 1 << 17
DEVICE = 0x2_0000_0000
HOST = 0x60_0000_0000
RAM_AT = 0x200000
"""Bus address of the channel's ring, pushbuffer and fence."""


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.close()


@pytest.fixture(scope="module")
def shared_stage() -> Iterator[Stage]:
    stage = Stage()
    stage.caller("pv-drm", "neighbour")
    stage.caller("pv-drm", "guest")
    yield stage
    stage.close()


@pytest.fixture
def guest(stage: Stage) -> Caller:
    stage.caller("pv-drm", "neighbour")
    return stage.caller("pv-drm", "guest")


def batch(guest: Caller, *operations: tuple[Op, tuple[int, ...], bytes]) -> tuple[Result, int]:
    """Perform operations in one call; returns its result and how many were done."""
    data = b""
    for op, arguments, array in operations:
        record = ARGUMENT_LAYOUTS[op].pack(*arguments) + array
        data += struct.pack("<II", op, len(record)) + record + bytes(-len(record) % 8)
    result = guest.call(Op.BATCH, len(operations), 0, array=data)
    return result, struct.unpack("<I", guest.vm.memory.read(0x10008, 4))[0]


def runs(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QQ", *pair) for pair in pairs)


def at(guest: Caller, space: int, va: int) -> tuple[int, int, bool] | None:
    return guest.translate(guest.device.spaces_of_guest[space].directory.address, va)


class Channel:
    """A channel with its ring, pushbuffer and fence in one mapped piece of RAM."""

    def __init__(self, guest: Caller, number: int = 1, space: int = 1) -> None:
        self.guest, self.number, self.put, self.sequence = guest, number, 0, 0
        self.results = [
            guest.call(Op.SPACE_NEW, space),
            guest.call(Op.BUFFER_NEW, 1, 1),
            guest.call(Op.BUFFER_MAP, space, 1, DEVICE, 0, 0),
            guest.call(Op.HOST_MAP, space, 1, HOST, 0, 0, array=runs((RAM_AT, 0x4000))),
            guest.call(Op.CHANNEL_NEW, number, space, HOST, 9, 0, DEVICE),
        ]
        assert set(self.results) == {Result.OK}

    def submit(self, *words: int, kick: bool = True) -> None:
        self.sequence += 1
        memory = self.guest.vm.memory
        data = [*words, 1 << 29 | 4 << 16 | 4, HOST >> 32, (HOST + 0x3000) & 0xFFFFFFFF, self.sequence, 0x01000002]
        push = RAM_AT + 0x1000 + 0x100 * (self.put % 32)
        memory.write(push, struct.pack(f"<{len(data)}I", *data))
        va = HOST + push - RAM_AT
        memory.write(RAM_AT + 8 * (self.put % 512), struct.pack("<II", va & 0xFFFFFFFC, va >> 32 | len(data) << 10))
        self.put += 1
        self.guest.set_word(Shared.PUT + self.number, self.put % 512)
        if kick and not self.guest.word(Shared.ACTIVE + self.number):
            self.guest.register(Register.KICK, self.number)

    def done(self) -> bool:
        passed = int.from_bytes(self.guest.vm.memory.read(RAM_AT + 0x3000, 4), "little")
        return passed == self.sequence

    def finish(self) -> bool:
        return eventually(self.done)


def eventually(what: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def test_the_guest_learns_what_the_gpu_is(guest: Caller) -> None:
    memory, context, copy_engine, subfifos, clusters, shape, channels = guest.answer(Op.INFO)
    gpu = guest.device._gpu.device
    assert memory == 16 * MIB
    assert context == 0x1000
    assert copy_engine == (not gpu.read(0, 0x22500, 4) & 1 << 8)
    assert subfifos >= 1
    assert sum(shape >> 4 * gpc & 0xF for gpc in range(clusters)) == 14
    assert channels == 4


def test_buffers_and_host_memory_are_mapped_where_the_guest_says(guest: Caller) -> None:
    memory = guest.device.memory
    result, done = batch(
        guest,
        (Op.SPACE_NEW, (7,), b""),
        (Op.BUFFER_NEW, (3, 2), b""),
        (Op.BUFFER_MAP, (7, 3, DEVICE, 1, 0), b""),
        (Op.HOST_MAP, (7, 2, HOST, 0, 0), runs((0x8000, PAGE), (0x20000, 2 * PAGE))),
    )
    assert (result, done) == (Result.OK, 4)
    assert guest.device.counters.traps_call == 3, "the area's two registers, and one call for all four"
    found = at(guest, 7, DEVICE + BIG + 5)
    assert found is not None
    assert found[0] == 0
    assert found[2]
    assert guest.owns(found)
    assert at(guest, 7, HOST) == (2, memory.window + 0x8000, False)
    assert at(guest, 7, HOST + PAGE + 9) == (2, memory.window + 0x20009, False)
    assert at(guest, 7, HOST + 3 * PAGE) is None
    assert guest.call(Op.UNMAP, 7, 0, HOST, 3 * PAGE) == Result.OK
    assert at(guest, 7, HOST) is None
    assert guest.call(Op.BUFFER_FREE, 3) == Result.BUSY
    assert guest.call(Op.SPACE_FREE, 7) == Result.OK
    assert guest.call(Op.BUFFER_FREE, 3) == Result.OK
    assert len(guest.device.tables) == len(guest.device.buffers) == len(guest.device.spaces_of_guest) == 0


def test_a_batch_stops_at_what_fails(guest: Caller) -> None:
    result, done = batch(
        guest,
        (Op.SPACE_NEW, (1,), b""),
        (Op.BUFFER_MAP, (1, 5, DEVICE, 0, 0), b""),
        (Op.SPACE_NEW, (2,), b""),
    )
    assert (result, done) == (Result.BAD_ID, 1)
    assert len(guest.device.spaces_of_guest) == 1


@pytest.mark.parametrize(
    ("op", "arguments", "array", "result"),
    [
        (Op.SPACE_NEW, (0,), b"", Result.BAD_ID),
        (Op.SPACE_NEW, (1,), b"", Result.BAD_ID),
        (Op.SPACE_NEW, (1 << 16,), b"", Result.BAD_ID),
        (Op.SPACE_FREE, (9,), b"", Result.BAD_ID),
        (Op.BUFFER_NEW, (0, 1), b"", Result.BAD_ID),
        (Op.BUFFER_NEW, (1, 1), b"", Result.BAD_ID),
        (Op.BUFFER_NEW, (BUFFER_LIMIT, 1), b"", Result.BAD_ID),
        (Op.BUFFER_NEW, (2, 0), b"", Result.BAD_ARGUMENT),
        (Op.BUFFER_NEW, (2, 16 * MIB // BIG), b"", Result.NO_MEMORY),
        (Op.BUFFER_NEW, (2, 0xFFFFFFFF), b"", Result.NO_MEMORY),
        (Op.BUFFER_FREE, (1,), b"", Result.BUSY),
        (Op.BUFFER_MAP, (1, 1, DEVICE, 0, 0), b"", Result.BUSY),
        (Op.BUFFER_MAP, (1, 1, DEVICE + PAGE, 0, 0), b"", Result.BAD_ARGUMENT),
        (Op.BUFFER_MAP, (1, 1, (1 << 40) - PAGE, 0, 0), b"", Result.BAD_ARGUMENT),
        (Op.BUFFER_MAP, (1, 1, 1 << 63, 0, 0), b"", Result.BAD_ARGUMENT),
        (Op.BUFFER_MAP, (2, 1, 0, 0, 0), b"", Result.BAD_ID),
        (Op.HOST_MAP, (1, 0, HOST + BIG, 0, 0), b"", Result.BAD_ARGUMENT),
        (Op.HOST_MAP, (1, RUN_LIMIT + 1, HOST + BIG, 0, 0), b"", Result.BAD_ARGUMENT),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((0, 0)), Result.BAD_ARGUMENT),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((0x800, PAGE)), Result.BAD_ARGUMENT),
        (Op.HOST_MAP, (1, 1, HOST + BIG + 1, 0, 0), runs((0, PAGE)), Result.BAD_ARGUMENT),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((8 * MIB, PAGE)), Result.BAD_ADDRESS),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((8 * MIB - PAGE, 2 * PAGE)), Result.BAD_ADDRESS),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((1 << 33, PAGE)), Result.BAD_ADDRESS),
        (Op.HOST_MAP, (1, 1, HOST + BIG, 0, 0), runs((-PAGE & (1 << 64) - 1, PAGE)), Result.BAD_ADDRESS),
        (Op.HOST_MAP, (1, 1, HOST, 0, 0), runs((0, PAGE)), Result.BUSY),
        (Op.HOST_MAP, (1, 1, HOST - PAGE, 0, 0), runs((0, 2 * PAGE)), Result.BUSY),
        (Op.UNMAP, (1, 0, DEVICE, PAGE), b"", Result.BAD_ARGUMENT),
        (Op.UNMAP, (1, 0, HOST + PAGE, PAGE), b"", Result.BAD_ARGUMENT),
        (Op.CHANNEL_NEW, (1, 1, HOST, 9, 0, DEVICE), b"", Result.BUSY),
        (Op.CHANNEL_NEW, (4, 1, HOST, 9, 0, DEVICE), b"", Result.BAD_ARGUMENT),
        (Op.CHANNEL_NEW, (2, 9, HOST, 9, 0, DEVICE), b"", Result.BAD_ID),
        (Op.CHANNEL_NEW, (2, 1, HOST, 25, 0, DEVICE), b"", Result.BAD_ARGUMENT),
        (Op.CHANNEL_NEW, (2, 1, HOST + 1, 9, 0, DEVICE), b"", Result.BAD_ARGUMENT),
        (Op.CHANNEL_NEW, (2, 1, HOST, 9, 0, HOST), b"", Result.BAD_ADDRESS),
        (Op.CHANNEL_NEW, (2, 1, HOST, 9, 0, DEVICE + BIG), b"", Result.BAD_ADDRESS),
        (Op.CHANNEL_FREE, (2, 1), b"", Result.BAD_ID),
        (Op.CHANNEL_FREE, (77, 1), b"", Result.BAD_ARGUMENT),
        (Op.SPACE_FREE, (1,), b"", Result.BUSY),
        (Op.BATCH, (0, 0), b"", Result.BAD_ARGUMENT),
        (Op.BATCH, (BATCH_LIMIT + 1, 0), b"", Result.BAD_ARGUMENT),
        (Op.BATCH, (1, 0), struct.pack("<II", Op.BATCH, 8), Result.BAD_ARGUMENT),
        (Op.BATCH, (1, 0), struct.pack("<II", Op.SPACE_NEW, 0xFFFFFFFF), Result.BAD_ARGUMENT),
        (Op.BATCH, (1, 0), struct.pack("<II", Op.SPACE_NEW, 0), Result.BAD_ARGUMENT),
        (Op.BATCH, (1, 0), struct.pack("<II", Op.MAP, 64), Result.UNKNOWN_OPERATION),
    ],
)
def test_a_wrong_argument_is_an_error_code(
    guest: Caller, op: Op, arguments: tuple[int, ...], array: bytes, result: Result
) -> None:
    channel = Channel(guest)
    used = guest.device._grant.pool.used, len(guest.device.spaces_of_guest[1])
    guest.vm.memory.zero(0x10000, PAGE)
    assert guest.call(op, *arguments, array=array) == result
    assert (guest.device._grant.pool.used, len(guest.device.spaces_of_guest[1])) == used, "nothing has changed"
    channel.submit()
    assert channel.finish()


def test_submissions_need_a_kick_only_while_nobody_looks(guest: Caller) -> None:
    channel = Channel(guest)
    for _ in range(200):
        channel.submit()
        assert eventually(lambda: channel.put - channel.sequence == 0)
    assert channel.finish()
    counters = guest.device.counters
    assert 1 <= counters.calls_kick <= 200
    assert eventually(lambda: guest.word(Shared.ACTIVE + 1) == 0), "at rest the next one has to kick"
    kicks = counters.calls_kick
    # One that does not kick, and is not looked for, waits until somebody does.
    channel.submit(kick=False)
    time.sleep(0.02)
    assert not channel.done()
    guest.register(Register.KICK, 1)
    assert channel.finish()
    assert counters.calls_kick == kicks + 1
    assert counters.doorbells == counters.commands_completed or eventually(
        lambda: counters.doorbells == counters.commands_completed
    )


def test_kicks_of_nothing_change_nothing(guest: Caller) -> None:
    channel = Channel(guest)
    for number in (0, 1, 2, 3, 4, 127, 0xFFFFFFFF):
        guest.register(Register.KICK, number)
    guest.set_word(Shared.ACTIVE + 1, 0)
    channel.submit()
    assert channel.finish()
    # Without a shared page nothing is looked at, and the page may lie nowhere.
    guest.register(Register.SHARED_LOW, 0)
    guest.register(Register.KICK, 1)
    guest.register(Register.SHARED_HIGH, 0xFF)
    guest.register(Register.KICK, 1)
    guest.register(Register.SHARED_HIGH, 0)
    guest.register(Register.SHARED_LOW, SHARED)
    channel.submit()
    assert channel.finish()


def test_a_put_that_is_no_entry_hurts_its_own_channel_only(stage: Stage) -> None:
    alice, mallory = (stage.caller("pv-drm", name) for name in ("alice", "mallory"))
    good, bad = Channel(alice), Channel(mallory)
    for value in (511, 0xFFFFFFFF, 12345):
        mallory.set_word(Shared.PUT + 1, value)
        mallory.register(Register.KICK, 1)
        good.submit()
        assert good.finish()
    assert mallory.call(Op.CHANNEL_FREE, 1, 1) == Result.OK
    assert bad.results
    good.submit()
    assert good.finish()


def test_a_fault_names_the_channel_by_its_number(guest: Caller) -> None:
    channel = Channel(guest, number=2)
    device = guest.device
    device.config_write(4, 2, 6)
    for register in (0x640, 0x2140, 0x40013C):
        device.write(0, register, 4, 0xFFFFFFFF)
    device.write(0, 0x140, 4, 1)
    before = guest.word(Shared.FAULTS)
    # A release to an address that nothing is mapped at.
    channel.submit(1 << 29 | 4 << 16 | 4, 0x12, 0x34000000, 1, 0x01000002)
    assert eventually(lambda: device.read(0, 0x259C, 4) != 0)
    units = device.read(0, 0x259C, 4)
    unit = (units & -units).bit_length() - 1
    assert device.read(0, 0x2800 + 0x10 * unit, 4) << 12 == 2 << 12
    assert guest.word(Shared.FAULTS) > before
    device.write(0, 0x259C, 4, units)
    assert guest.call(Op.CHANNEL_FREE, 2, 1) == Result.OK
    assert guest.call(Op.CHANNEL_NEW, 2, 1, HOST, 9, 0, DEVICE) == Result.OK
    channel.put = 0
    guest.vm.memory.write(RAM_AT + 0x3000, bytes(4))
    channel.submit()
    assert channel.finish()


def test_the_guest_has_no_channel_registers(guest: Caller) -> None:
    channel, neighbour = Channel(guest), guest.device._aggregator.virtual_gpus()[0]
    for offset in (0x3000, 0x3008, 0x300C, 0x2270, 0x2274, 0x2634, 0x100CBC, 0x1704, 0x1714, 0x2254):
        for value in (0, 1, 0x80000060, 0xFFFFFFFF):
            guest.device.write(0, offset, 4, value)
    for page in range(8):
        guest.device.write(1, PAGE * page + 0x8C, 4, 1)
        guest.device.write(3, PAGE * page, 4, 1)
    channel.submit()
    assert channel.finish()
    assert neighbour.counters.traps == 2


def test_everything_is_given_back(stage: Stage) -> None:
    guest = stage.caller("pv-drm")
    aggregator = stage.aggregator
    free = aggregator.own_memory.free
    channel = Channel(guest)
    channel.submit()
    assert channel.finish()
    assert aggregator.own_memory.free < free
    guest.device.reset()
    assert aggregator.own_memory.free == free
    assert guest.device.read(CALL_BAR, Register.AREA_LOW, 4) == 0
    guest.register(Register.AREA_LOW, 0x10000)
    guest.register(Register.SHARED_LOW, SHARED)
    Channel(guest)
    aggregator.destroy(guest.device)
    assert aggregator.own_memory.free == free
    assert aggregator.vram.used == 0
    guest.register(Register.KICK, 1)
    guest.register(Register.CALL, 0)
    assert guest.device.read(CALL_BAR, Register.SIGNATURE, 4) in (0, 0x4D565047)


# Random operations against a model

numbers = st.integers(0, 4)
slots = st.integers(0, 6)
operations = st.lists(
    st.one_of(
        st.tuples(st.just(Op.SPACE_NEW), numbers),
        st.tuples(st.just(Op.SPACE_FREE), numbers),
        st.tuples(st.just(Op.BUFFER_NEW), numbers, st.integers(0, 60)),
        st.tuples(st.just(Op.BUFFER_FREE), numbers),
        st.tuples(st.just(Op.BUFFER_MAP), numbers, numbers, slots, st.booleans()),
        st.tuples(st.just(Op.HOST_MAP), numbers, slots, st.integers(0, 2050), st.integers(0, 40)),
        st.tuples(st.just(Op.UNMAP), numbers, slots, st.integers(1, 3)),
    ),
    max_size=25,
)
STEP = 1 << 26
"""Between the places where the test maps: two to a directory entry."""


@settings(max_examples=40, deadline=None)
@given(operations)
def test_address_spaces_hold_what_the_operations_say(
    shared_stage: Stage, program: list[tuple[object, ...]]
) -> None:
    guest = shared_stage.callers[1]
    device, memory = guest.device, guest.device.memory
    device.reset()
    guest.register(Register.AREA_LOW, 0x10000)
    buffers: dict[int, int] = {}
    spaces: dict[int, dict[int, tuple[str, int, int, bool]]] = {}
    for op, *rest in program:
        if op is Op.SPACE_NEW:
            good = rest[0] > 0 and rest[0] not in spaces
            result = guest.call(op, rest[0])
            if good:
                spaces[rest[0]] = {}
        elif op is Op.SPACE_FREE:
            good = spaces.pop(rest[0], None) is not None
            result = guest.call(op, rest[0])
        elif op is Op.BUFFER_NEW:
            number, count = rest
            good = number > 0 and number not in buffers and 0 < count <= 128 - sum(buffers.values())
            result = guest.call(op, number, count)
            if good:
                buffers[number] = count
        elif op is Op.BUFFER_FREE:
            mapped = any(each[:2] == ("buffer", rest[0]) for maps in spaces.values() for each in maps.values())
            good = rest[0] in buffers and not mapped
            result = guest.call(op, rest[0])
            if good:
                del buffers[rest[0]]
        elif op is Op.BUFFER_MAP:
            space, number, slot, read_only = rest
            good = space in spaces and number in buffers and slot not in spaces[space]
            result = guest.call(op, space, number, slot * STEP, int(read_only), 0)
            if good:
                spaces[space][slot] = ("buffer", number, buffers[number] * BIG, read_only)
        elif op is Op.HOST_MAP:
            space, slot, page, count = rest
            good = space in spaces and slot not in spaces[space] and count > 0 and page + count <= 2048
            result = guest.call(op, space, 1, slot * STEP, 0, 0, array=runs((page * PAGE, count * PAGE)))
            if good:
                spaces[space][slot] = ("host", page * PAGE, count * PAGE, False)
        else:
            space, slot, length = rest
            good = space in spaces
            result = guest.call(op, space, 0, slot * STEP, length * STEP)
            if good:
                spaces[space] = {
                    each: what for each, what in spaces[space].items() if not slot <= each < slot + length
                }
        assert (result == Result.OK) == good, (op, rest, result)
    seen: dict[int, tuple[int, int]] = {}
    for number, maps in spaces.items():
        for slot in range(10):
            what = maps.get(slot)
            for offset in (0, PAGE, 3 * BIG + PAGE, 39 * PAGE, 59 * BIG):
                found = at(guest, number, slot * STEP + offset)
                if what is None or offset >= what[2]:
                    assert found is None
                    continue
                assert found is not None
                assert guest.owns(found)
                assert found[2] == what[3]
                if what[0] == "host":
                    assert found[:2] == (2, memory.window + what[1] + offset)
                else:
                    # No two buffers share a page.
                    assert seen.setdefault(found[1] & -BIG, (what[1], offset & -BIG)) == (what[1], offset & -BIG)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 64), st.binary(max_size=300))
def test_any_bytes_in_a_slot_are_answered(shared_stage: Stage, op: int, data: bytes) -> None:
    guest = shared_stage.callers[0]
    assert guest.raw(op, data) in set(Result)
    assert guest.raw(Op.BATCH, struct.pack("<II", 3, 0) + data) in set(Result)

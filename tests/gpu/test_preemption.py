"""Channels that are switched out in the middle of a launch or a copy, by a kick, the playlist or the end of
their time slice, and go on later from there."""

from __future__ import annotations

import time

import numpy as np
import pytest

from gpuvm.gpu import transfer
from gpuvm.gpu.channel import Stop
from gpuvm.isa.assembler import assemble
from gpuvm.jit.executor import Executor
from gpuvm.jit.space import AddressSpace

CODE, DATA, CONSTANTS, SOURCE, TARGET = 0x3000_0000, 0x4000_0000, 0x4100_0000, 0x5000_0000, 0x5800_0000

TURNS = """
    S2R R0, SR_CTAID.X;
    S2R R1, SR_TID.X;
    SHL R0, R0, 0x5;
    IADD R0, R0, R1;
    MOV R4, c[0x0][0x28];
    MOV R5, R0;
head:
    IMUL R5, R5, 0x41;
    IADD R5, R5, R4;
    IADD R4, R4, -0x1;
    ISETP.GT.AND P0, PT, R4, RZ, PT;
    @P0 BRA head;
    SHL R2, R0, 0x2;
    IADD R2, R2, c[0x0][0x20];
    MOV R3, c[0x0][0x24];
    ST.E [R2], R5;
    EXIT;
"""
LONG, SHORT, FOREVER = 15_000_000, 3, 0x7FFFFFFF


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    with Executor(threads=2, cache_dir=tmp_path_factory.mktemp("code")) as made:
        yield made


@pytest.fixture
def machine(new_rig, executor):
    return new_rig(executor=executor, address_space=AddressSpace)


def channel_with(rig, number, turns):
    """A channel whose kernel takes so many turns for each thread."""
    channel = rig.channel(number)
    code, channel.data, constants = rig.take(0x1000), rig.take(0x1000), rig.take(0x1000)
    rig.gpu.vram.write(code, assemble(TURNS))
    for address, place in ((CODE, code), (DATA, channel.data), (CONSTANTS, constants)):
        channel.tables.map(address, place)
    channel.tables.flush()
    rig.gpu.vram.write(constants + 0x20, DATA.to_bytes(8, "little") + turns.to_bytes(4, "little"))
    channel.turns = turns
    return channel


def launch(push, blocks=4):
    return (
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x1608, 0, CODE)
        .method(1, 0x3B4, 0)
        .method(1, 0x2380, 0x100, 0, CONSTANTS)
        .immediate(1, 0x1694, 1)
        .method(1, 0x214, 0xFE000000)
        .method(1, 0x77C, 0xFF000000)
        .method(1, 0x238, 1 << 16 | blocks, 1)
        .method(1, 0x3AC, 1 << 16 | 32, 1)
        .method(1, 0x2C0, 16)
        .method(1, 0x368, 0)
    )


def stored(rig, channel):
    return np.frombuffer(rig.gpu.vram.read(channel.data, 512), np.uint32)


def expected(turns):
    value = np.arange(128, dtype=np.uint32)
    factor = np.uint32(0x41)
    with np.errstate(over="ignore"):
        for left in range(turns, 0, -1):
            value = value * factor + np.uint32(left)
    return value


def begin(rig, channel, push):
    """Submit a launch with a fence behind it, and wait until the engines have it."""
    channel.submit(launch(push).release(channel.fence_va, 7))
    rig.until(lambda: rig.rd(0x2640) >> 28 & 1 and rig.gpu.counters.channels[channel.number], "the launch")
    time.sleep(0.01)


def kick(rig, channel):
    rig.wr(0x3004 + 8 * channel.number, 0x001F0000)
    rig.wr(0x2634, channel.number)
    rig.until(lambda: not rig.rd(0x2634) & 1 << 20, "the kick")


@pytest.mark.parametrize("how", ["kick", "playlist", "slice"])
def test_a_short_launch_ends_while_a_long_one_is_switched_out(machine, push, how):
    first, second = channel_with(machine, 1, LONG), channel_with(machine, 2, SHORT)
    second.run(launch(push))
    begin(machine, first, push)
    if how == "kick":
        kick(machine, first)
    elif how == "playlist":
        machine.playlist.remove(1)
        machine.commit_playlist()
    else:
        machine.gpu.give(1, time.monotonic_ns() + 1_000_000)
    machine.until(lambda: not machine.rd(0x400700), "the switch")
    for _ in range(3):
        second.run(launch(push))
    assert (stored(machine, second) == expected(SHORT)).all()
    assert first.fence_value() != 7
    assert not stored(machine, first).all()
    work = machine.gpu.counters.channels[1]
    assert (work.launches, work.switches) == (0, 1)
    if how == "kick":
        machine.wr(0x3004 + 8, 0x001F0001)
    elif how == "playlist":
        machine.playlist.append(1)
        machine.commit_playlist()
    else:
        machine.gpu.give(1, 0)
    first.wait_fence(7)
    alone = channel_with(machine, 3, LONG)
    alone.run(launch(push))
    assert (stored(machine, first) == stored(machine, alone)).all()
    assert (work.launches, work.blocks) == (1, 4)
    assert work.warp_instructions == machine.gpu.counters.channels[3].warp_instructions


def test_many_slices_give_the_same_result(machine, push):
    first = channel_with(machine, 1, LONG)
    machine.gpu.give(1, time.monotonic_ns() + 1_000_000)
    first.submit(launch(push).release(first.fence_va, 7))
    end = time.monotonic() + 20
    slices = 0
    while first.fence_value() != 7:
        assert time.monotonic() < end
        if machine.gpu.pfifo.channels[1].resting:
            slices += 1
            machine.gpu.give(1, time.monotonic_ns() + 10_000_000)
        time.sleep(0.0002)
    assert slices > 1
    alone = channel_with(machine, 3, LONG)
    alone.run(launch(push))
    assert (stored(machine, first) == stored(machine, alone)).all()


def test_a_kicked_channel_that_may_still_run_goes_on_by_itself(machine, push):
    first = channel_with(machine, 1, LONG)
    begin(machine, first, push)
    machine.wr(0x2634, 1)
    first.wait_fence(7)
    assert machine.gpu.counters.channels[1].launches == 1


def test_a_channel_that_is_cleared_takes_its_launch_with_it(machine, push):
    first, second = channel_with(machine, 1, FOREVER), channel_with(machine, 2, SHORT)
    begin(machine, first, push)
    kick(machine, first)
    machine.wr(0x3000 + 8, 0)
    second.run(launch(push))
    assert (stored(machine, second) == expected(SHORT)).all()
    assert machine.gpu.counters.channels[1].launches == 0


def test_the_watchdog_counts_a_launchs_own_time(new_rig, executor, push):
    """Two stuck channels take turns by slices; each is ended after its own time on the engines, and a third one
    has its share meanwhile."""
    rig = new_rig(executor=executor, address_space=AddressSpace, watchdog_s=0.15)
    stuck = [channel_with(rig, number, FOREVER) for number in (1, 2)]
    good = channel_with(rig, 3, SHORT)
    for channel in stuck:
        rig.gpu.give(channel.number, time.monotonic_ns() + 5_000_000)
        channel.submit(launch(push))
    rounds = 0
    end = time.monotonic() + 20
    while any(rig.gpu.pfifo.channels[channel.number].stop is None for channel in stuck):
        assert time.monotonic() < end
        for channel in stuck:
            if rig.gpu.pfifo.channels[channel.number].resting:
                good.run(launch(push))
                rounds += 1
                rig.gpu.give(channel.number, time.monotonic_ns() + 5_000_000)
        time.sleep(0.0005)
    assert rounds > 4
    for channel in stuck:
        assert rig.gpu.pfifo.channels[channel.number].stop is Stop.TIMEOUT
        assert rig.gpu.counters.channels[channel.number].engine_ns > 0.1e9
    good.run(launch(push))


@pytest.mark.parametrize("lines", [1, 7])
def test_a_copy_goes_on_where_it_was_switched_out(machine, push, monkeypatch, lines):
    """Cut every 64 KiB, at each look."""
    monkeypatch.setattr(transfer, "PIECE", 0x10000)
    channel = machine.channel(1)
    size = 0x70000
    places = [machine.take(size), machine.take(size)]
    channel.tables.map(SOURCE, places[0], size)
    channel.tables.map(TARGET, places[1], size)
    channel.tables.flush()
    data = np.random.default_rng(1).integers(0, 256, size, np.uint8).tobytes()
    machine.gpu.vram.write(places[0], data)
    machine.gpu.give(1, 1)
    pitch, length = size // lines, size // lines - (0 if lines == 1 else 64)
    channel.submit(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x238, TARGET >> 32, TARGET & 0xFFFFFFFF)
        .method(2, 0x30C, SOURCE >> 32, SOURCE & 0xFFFFFFFF, pitch, pitch, length, lines)
        .method(2, 0x300, 1 << 4 | 1 << 8)
        .release(channel.fence_va, 9)
    )
    cuts = 0
    end = time.monotonic() + 20
    while channel.fence_value() != 9:
        assert time.monotonic() < end
        if machine.gpu.pfifo.channels[1].resting:
            cuts += 1
            machine.gpu.give(1, 1)
        time.sleep(0.0002)
    copied = machine.gpu.vram.read(places[1], size)
    for line in range(lines):
        at = line * pitch
        assert copied[at : at + length] == data[at : at + length]
        assert not any(copied[at + length : at + pitch])
    assert cuts >= 3
    assert machine.gpu.counters.channels[1].bytes_device_to_device == length * lines

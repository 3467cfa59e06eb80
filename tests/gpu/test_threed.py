"""The 3D class where compute needs it: clears of render targets, reports, conditions; and indirect launches by
macro.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from gpuvm.gpu.classes.tiling import Surface

TARGET, REPORT = 0x2000_0000, 0x2400_0000
SIZE = 0x40000
RGBA8, RGBA32F, R32UI, R11G11B10 = 0xD5, 0xC0, 0xE4, 0xE0


def word(value):
    return struct.unpack("<I", struct.pack("<f", value))[0]


@pytest.fixture
def channel(rig):
    made = rig.channel()
    made.target, made.report = rig.take(SIZE), rig.take(0x10000)
    made.tables.map(TARGET, made.target, SIZE)
    made.tables.map(REPORT, made.report, 0x10000)
    return made


def begin(push, format_, width=64, height=48, mode=0x10, array=1, stride=0, base=0):
    return (
        push()
        .method(0, 0, 0x9097)
        .method(0, 0x121C, 1)
        .method(0, 0x800, 0, TARGET, width, height, format_, mode, array, stride, base)
        .method(0, 0xFF4, 0x40000000, 0x40000000)
        .method(0, 0x10F8, 0)
    )


def look(rig, channel, width, height, size, mode=0x10, start=0):
    memory = np.frombuffer(rig.gpu.vram.read(channel.target + start, SIZE - start), np.uint8)
    layout = Surface(mode, width * size, height, 1)
    return np.array([memory[layout.offsets(0, width * size, y, 0)] for y in range(height)])


def test_a_clear_fills_the_target(rig, push, channel):
    colour = [word(each) for each in (1.0, 0.5, 0.0, 1.0)]
    channel.run(begin(push, RGBA8).method(0, 0xD80, *colour).method(0, 0x19D0, 0x3C))
    got = look(rig, channel, 64, 48, 4).view(np.uint32)
    assert set(got.reshape(-1).tolist()) == {0xFF0080FF}


def test_scissors_limit_a_clear(rig, push, channel):
    pushed = begin(push, R32UI).method(0, 0xD80, 7, 0, 0, 0).method(0, 0xFF4, 30 << 16 | 4, 40 << 16 | 2)
    pushed.method(0, 0x10F8, 0x100).method(0, 0xE00, 1, 20 << 16 | 8, 50 << 16 | 10).method(0, 0x19D0, 0x3C)
    channel.run(pushed)
    expected = np.zeros((48, 64), np.uint32)
    expected[10:42, 8:20] = 7
    assert np.array_equal(look(rig, channel, 64, 48, 4).view(np.uint32), expected)


def test_a_clear_of_some_channels_keeps_the_others(rig, push, channel):
    white = [word(1.0)] * 4
    channel.run(begin(push, RGBA8).method(0, 0xD80, *white).method(0, 0x19D0, 0x3C))
    channel.run(begin(push, RGBA8).method(0, 0xD80, 0, 0, 0, 0).method(0, 0x19D0, 0x08))
    assert set(look(rig, channel, 64, 48, 4).view(np.uint32).reshape(-1).tolist()) == {0xFFFF00FF}


def test_integers_and_floats_are_taken_as_they_are(rig, push, channel):
    words = [0x12345678, word(-2.5), word(1e20), 0x7FC00001]
    channel.run(begin(push, RGBA32F, 8, 8).method(0, 0xD80, *words).method(0, 0x19D0, 0x3C))
    assert look(rig, channel, 8, 8, 16).view(np.uint32)[3, 4:8].tolist() == words


def test_a_linear_target_is_how_buffers_are_cleared(rig, push, channel):
    pushed = begin(push, R32UI, 256, 3, 0x1000).method(0, 0xFF4, 10 << 16, 3 << 16)
    channel.run(pushed.method(0, 0xD80, 5, 0, 0, 0).method(0, 0x19D0, 0x3C))
    got = np.frombuffer(rig.gpu.vram.read(channel.target, 768), np.uint32).reshape(3, 64)
    assert (got[:, :10] == 5).all()
    assert not got[:, 10:].any()


def test_layers_lie_one_stride_apart(rig, push, channel):
    pushed = begin(push, R32UI, 16, 8, 0x00, array=4, stride=0x1000 // 4, base=1)
    channel.run(pushed.method(0, 0xD80, 6, 0, 0, 0).method(0, 0x19D0, 0x3C | 1 << 10))
    assert not look(rig, channel, 16, 8, 4, 0, 0x1000).any()
    assert (look(rig, channel, 16, 8, 4, 0, 0x2000).view(np.uint32) == 6).all()
    assert not look(rig, channel, 16, 8, 4, 0, 0x3000).any()


@pytest.mark.parametrize(("format_", "size", "expected"), [
    (0x0A, 4, 0x3F000000), (0x13, 2, 0x8000), (0x14, 4, 0x800000AB), (0x16, 4, 0xAB800000), (0x15, 4, 0x800000),
])  # fmt: skip
def test_depth_and_stencil(rig, push, channel, format_, size, expected):
    pushed = begin(push, 0).method(0, 0xFE0, 0, TARGET, format_, 0x10, 0).method(0, 0x1228, 16, 16, 1)
    pushed.method(0, 0x1538, 1).method(0, 0xD90, word(0.5)).method(0, 0xDA0, 0xAB).method(0, 0x19D0, 3)
    channel.run(pushed)
    got = look(rig, channel, 16, 16, size).view({2: np.uint16, 4: np.uint32}[size])
    assert set(got.reshape(-1).tolist()) == {expected}


def test_a_target_without_a_known_format_is_refused(rig, push, channel):
    channel.submit(begin(push, 0x33).method(0, 0x19D0, 0x3C))
    rig.until(lambda: rig.rd(0x400100) & 0x100000, "DATA_ERROR")
    assert rig.rd(0x400110) == 5


# Reports


def report(rig, channel, at=0):
    return [rig.peek(channel.report + at + 4 * each) for each in range(4)]


@pytest.mark.parametrize(("get", "first"), [
    (0x00005002, 9), (0x0100F002, 9), (0x09005002, 0), (0x05805002, 0), (0x00000010, 9),
])  # fmt: skip
@pytest.mark.parametrize("number", [0x9097, 0x90C0])
def test_a_long_report_has_a_counter_and_the_time(rig, push, channel, get, first, number):
    """A 32-bit counter stands behind the sequence; a 64-bit one in its place. Nothing was drawn: both are 0."""
    before = rig.gpu.ptimer.now()
    channel.run(push().method(0, 0, number).method(0, 0x1B00, 0, REPORT, 9, get))
    low, middle, *time = report(rig, channel)
    assert (low, middle) == (first, 0)
    assert before <= (time[1] << 32 | time[0]) <= rig.gpu.ptimer.now()


def test_a_short_report_is_the_sequence_alone(rig, push, channel):
    rig.poke(channel.report + 4, 0x77)
    channel.run(push().method(0, 0, 0x9097).method(0, 0x1B00, 0, REPORT, 33, 0x1000F010))
    assert report(rig, channel)[:2] == [33, 0x77]


# Conditions


@pytest.mark.parametrize(("mode", "first", "second", "passes"), [
    (0, 1, 1, False), (1, 0, 0, True), (2, 0, 0, False), (2, 4, 0, True), (3, 5, 5, True), (3, 5, 6, False),
    (4, 5, 5, False), (4, 5, 6, True),
])  # fmt: skip
def test_a_condition_holds_back_clears_and_launches(rig, push, channel, mode, first, second, passes):
    rig.poke(channel.report + 4, first)
    rig.poke(channel.report + 20, second)
    pushed = begin(push, R32UI).method(0, 0xD80, 8, 0, 0, 0)
    channel.run(pushed.method(0, 0x1550, 0, REPORT, mode).method(0, 0x19D0, 0x3C))
    assert (look(rig, channel, 64, 48, 4).view(np.uint32) == (8 if passes else 0)).all()
    launch = push().method(1, 0, 0x90C0).method(1, 0x1550, 0, REPORT, mode)
    launch.method(1, 0x238, 1 << 16 | 1, 1).method(1, 0x3AC, 1 << 16 | 32, 1).method(1, 0x2C0, 4)
    channel.run(launch.method(1, 0x368, 0x1000))
    assert len(rig.executor.launches) == int(passes)


# Indirect launches


def test_an_indirect_launch_takes_its_grid_from_memory(rig, push, channel):
    """The driver lets the pushbuffer's parameters of a macro come straight from the buffer with the grid's size."""
    send, move_address = 4, 2

    def immediate(use, source, value):
        return 1 | use << 4 | source << 11 | (value & 0x3FFFF) << 14

    words = [
        1 | 2 << 8,  # y
        1 | 3 << 8,  # z
        immediate(move_address, 0, 0x238 >> 2 | 1 << 12),
        2 | send << 4 | 1 << 11 | 2 << 14 | 16 << 22 | 16 << 27,  # x with y above it
        immediate(send, 3, 0),
        immediate(move_address, 0, 0x368 >> 2) | 0x80,
        immediate(send, 0, 0x1000),
    ]
    setup = push().method(1, 0, 0x90C0).method(1, 0x114, 0).same(1, 0x118, *words).method(1, 0x11C, 0, 0)
    channel.run(setup.method(1, 0x3AC, 1 << 16 | 32, 1).method(1, 0x2C0, 4))
    for at, value in enumerate((5, 6, 7)):
        rig.poke(channel.report + 4 * at, value)
    # A segment that is only a header, and one that is only data.
    header = push().once(1, 0x3800, 0, 0, 0)
    rig.poke(channel.report + 0x100, header.words[0])
    channel.entry(REPORT + 0x100, 1)
    channel.entry(REPORT, 3)
    channel.doorbell()
    rig.until(lambda: bool(rig.executor.launches), "the launch")
    assert rig.executor.launches[0].grid == (5, 6, 7)

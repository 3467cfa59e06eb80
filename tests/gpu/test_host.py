"""Channels side by side: semaphores, playlist, kicks, interrupts, pushbuffer formats, hostile ones."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvm.gpu.channel import Stop


@pytest.mark.parametrize(
    ("action", "wanted", "given_"), [(1, 5, 5), (4, 5, 6), (4, 5, 0x7FFFFFFF), (8, 4, 6)]
)
def test_a_channel_waits_for_another_one_s_semaphore(rig, push, action, wanted, given_):
    waiter = rig.channel(1)
    releaser = rig.channel(2)
    releaser.tables.map(0x5000_0000, waiter.fence, target=2)
    waiter.submit(push().acquire(waiter.fence_va, wanted, action).release(waiter.fence_va + 0x10, 1))
    rig.until(lambda: rig.gpu.pfifo.channels[1].retry_at > 0, "the wait")
    assert waiter.fence_value(0x10) == 0
    releaser.submit(push().release(0x5000_0000, given_))
    waiter.wait_fence(1, 0x10)


def test_a_channel_waits_for_the_cpu(rig, push):
    channel = rig.channel()
    channel.submit(push().acquire(channel.fence_va, 9, 1).release(channel.fence_va + 0x10, 1))
    rig.until(lambda: rig.gpu.pfifo.channels[0].retry_at > 0, "the wait")
    rig.memory.write(channel.fence, (9).to_bytes(4, "little"))
    channel.wait_fence(1, 0x10)


def test_a_wait_that_its_instance_block_limits_is_told_and_goes_on(rig, push):
    """SEMAPHORE_CONFIG: 1024 ns times TIMEOUT, shifted; the acquire is tried again once it was acknowledged."""
    channel = rig.channel(3)
    made = rig.gpu.pfifo.channels[3]
    rig.poke(made.instance + 0x30, 1 << 31 | 100 << 15 | 4 << 11 | 2)
    rig.wr(0x3000 + 8 * 3, 0)
    rig.wr(0x3000 + 8 * 3, 0xC0000000 | made.instance >> 12)
    assert rig.gpu.pfifo.channels[3].acquire_limit_s == pytest.approx(100 * 16 * 1.024e-6)
    channel.submit(push().acquire(channel.fence_va, 9, 1).release(channel.fence_va + 0x10, 1))
    for _ in range(2):
        rig.until(lambda: rig.rd(0x40108) & 1 << 26, "SEM_TIMEOUT")
        assert rig.rd(0x400C0) & 0xFFC == 0x1C
        assert rig.rd(0x400C4) == 9
        assert rig.rd(0x40120) & 0x7F == 3
        rig.wr(0x40108, 1 << 26)
    rig.memory.write(channel.fence, (9).to_bytes(4, "little"))

    def acknowledged() -> bool:
        rig.wr(0x40108, 1 << 26)
        return channel.fence_value(0x10) == 1

    rig.until(acknowledged, "the release")


def test_a_channel_that_waits_for_ever_keeps_no_one(rig, push):
    stuck, free = rig.channel(1), rig.channel(2)
    stuck.submit(push().acquire(stuck.fence_va, 9, 1))
    for _ in range(3):
        free.run(push())
    assert rig.gpu.pfifo.channels[1].stop is None


def test_an_older_sequence_does_not_pass(rig, push):
    channel = rig.channel()
    rig.memory.write(channel.fence, (0xFFFFFFFF).to_bytes(4, "little"))
    channel.submit(push().acquire(channel.fence_va, 1, 4).release(channel.fence_va + 0x10, 1))
    rig.until(lambda: rig.gpu.pfifo.channels[0].retry_at > 0, "the wait")
    assert channel.fence_value(0x10) == 0


def test_the_non_stalling_interrupt_is_read_and_cleared(rig, push):
    rig.interrupts_on()
    rig.wr(0x2140, 0xFFFFFFFF)
    channel = rig.channel()
    before = rig.line.messages
    channel.submit(push().release(channel.fence_va, 1).method(0, 0x20, 0))
    rig.until(lambda: rig.rd(0x2100) & 0x80000000, "the interrupt")
    assert rig.line.messages == before + 1
    assert rig.rd(0x25A4) == 1
    assert rig.rd(0x25A8) == 1
    rig.wr(0x25A8, 1)
    assert rig.rd(0x25A4) == 0
    assert not rig.rd(0x2100) & 0x80000000
    assert not rig.rd(0x100) & 0x100


def test_an_interrupt_is_sent_again_when_the_driver_rearms_with_something_pending(rig, push):
    rig.wr(0x2140, 0xFFFFFFFF)
    rig.interrupts_on()
    channel = rig.channel()
    before = rig.line.messages
    channel.run(push().method(0, 0x20, 0))
    rig.until(lambda: rig.line.messages == before + 1, "the first message")
    rig.wr(0x140, 0)
    rig.wr(0x140, 1)
    assert rig.line.messages == before + 2
    rig.gpu.write(0, 0x88704, 1, 0xFF)
    assert rig.line.messages == before + 3
    rig.wr(0x25A8, 1)
    rig.gpu.write(0, 0x88704, 1, 0xFF)
    assert rig.line.messages == before + 3


def test_without_msi_the_line_follows(rig, push):
    rig.gpu.config_write(0x6A, 2, 0)
    rig.wr(0x2140, 0xFFFFFFFF)
    rig.interrupts_on()
    channel = rig.channel()
    assert not rig.line.asserted
    channel.run(push().method(0, 0x20, 0))
    rig.until(lambda: rig.line.asserted, "the line")
    rig.wr(0x640, 0)
    assert not rig.line.asserted
    rig.wr(0x640, 0x100)
    assert rig.line.asserted
    rig.wr(0x25A8, 1)
    assert not rig.line.asserted


def test_the_playlist_s_commit_is_told(rig):
    rig.playlist = []
    rig.wr(0x2270, rig.list_memory >> 12)
    rig.wr(0x2274, 0x01F00000)
    assert rig.rd(0x2A00) == 0x10000000
    assert rig.rd(0x2100) & 0x40000000
    rig.wr(0x2A00, 0x10000000)
    assert not rig.rd(0x2100) & 0x40000000


def test_only_channels_on_the_playlist_run(rig, push):
    channel = rig.channel(5)
    rig.playlist.remove(5)
    rig.commit_playlist()
    channel.submit(push().release(channel.fence_va, 1))
    other = rig.channel(6)
    other.run(push())
    assert channel.fence_value() == 0
    rig.playlist.append(5)
    rig.commit_playlist()
    channel.wait_fence(1)


def test_a_channel_that_is_switched_off_does_not_run(rig, push):
    channel = rig.channel(5)
    rig.wr(0x3000 + 8 * 5 + 4, 0)
    channel.submit(push().release(channel.fence_va, 1))
    rig.channel(6).run(push())
    assert channel.fence_value() == 0
    rig.wr(0x3000 + 8 * 5 + 4, 0x001F0001)
    channel.wait_fence(1)


def test_a_kick_saves_where_the_channel_stands(rig, push):
    channel = rig.channel(5)
    channel.run(push())
    channel.run(push())
    rig.until(lambda: channel.get == 2, "GP_GET")
    rig.wr(0x2634, 5)
    rig.until(lambda: rig.rd(0x2634) == 5, "the kick")
    assert rig.peek(channel.instance + 0x14) == 2


def test_the_fifo_ring_wraps(rig, push):
    channel = rig.channel()
    for _ in range(2 * channel.ENTRIES + 3):
        channel.run(push())
    rig.until(lambda: channel.get == 3, "GP_GET")


def test_the_poll_area_says_how_far_the_pushbuffer_was_fetched(rig, push):
    """The Linux driver waits for this address before it uses its ring of commands again."""
    channel = rig.channel(5)
    channel.run(push())
    channel.run(push())
    rig.until(lambda: channel.get == 2, "GP_GET")
    low, high = (rig.gpu.read(1, rig.poll_area + 0x5000 + at, 4) for at in (0x44, 0x60))
    assert low | high << 32 == channel.push_va + channel._push_at


def test_idle_is_told_once_the_work_is_done(rig, push):
    idle = []
    told = threading.Event()
    channel = rig.channel(3)
    rig.gpu.on_idle(lambda number: (idle.append((number, channel.fence_value())), told.set()))
    channel.submit(push().release(channel.fence_va, 1))
    assert told.wait(20)
    assert idle == [(3, 1)]


def test_methods_in_all_header_formats(rig, push):
    channel = rig.channel()
    words = (
        push()
        .immediate(1, 0, 0x0)
        .method(1, 0, 0x90C0)
        .immediate(1, 0x254, 7)
        .method(1, 0x204, 0x10, 0x20)
        .once(1, 0x3AC, 0x11, 0x22, 0x33)
        .same(1, 0x2C0, 5, 6)
    )
    words.words.append(0)
    channel.submit(words)
    rig.until(lambda: rig.rd(0x400100) & 0x20, "the bind of class 0 is refused")
    rig.wr(0x400100, 0x20)
    channel.run(push())
    state = rig.gpu.pfifo.channels[0].objects[1].state
    at = [state[method >> 2] for method in (0x254, 0x204, 0x208, 0x3AC, 0x3B0, 0x3B4, 0x2C0)]
    assert at == [7, 0x10, 0x20, 0x11, 0x33, 0, 6]


def test_a_method_takes_its_data_from_the_next_segment_if_its_own_ends(rig, push):
    """Drivers let parameters come straight from a buffer that way."""
    channel = rig.channel()
    at = channel.fence_va + 0x40
    cut, rest = push(), push()
    cut.words = [1 << 29 | 4 << 16 | 0x10 >> 2, 0]
    rest.words = [at, 0x51, 2 | 1 << 24]
    channel.submit(cut)
    channel.run(rest)
    assert channel.fence_value(0x40) == 0x51


def test_the_reference_count_shows_in_the_poll_area(rig, push):
    channel = rig.channel()
    channel.run(push().method(0, 0x50, 0xCAFE))
    assert rig.gpu.read(1, rig.poll_area + 0x48, 4) == 0xCAFE


def test_queries_of_the_compute_class(rig, push):
    channel = rig.channel()
    at = channel.fence_va + 0x40
    channel.run(
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x1B00, 0, at, 0x77, 0x1000F010)
        .method(1, 0x1B00, 0, at + 0x10, 0x88, 0)
    )
    assert channel.fence_value(0x40) == 0x77
    assert channel.fence_value(0x44) == 0
    assert channel.fence_value(0x50) == 0x88
    assert channel.fence_value(0x58) | channel.fence_value(0x5C) << 32 > 0


@pytest.mark.parametrize("number", [0x90C0, 0x9097])
def test_constants_are_written_in_order(rig, push, number):
    channel = rig.channel()
    words = push().method(1, 0, number).method(1, 0x2380, 0x100, 0, channel.fence_va + 0x100, 8)
    words.same(1, 0x2390, 1, 2, 3).method(1, 0x2390, 4)
    channel.run(words)
    assert [channel.fence_value(0x100 + 4 * at) for at in range(7)] == [0, 0, 1, 2, 3, 4, 0]


@pytest.mark.parametrize("number", [0x902D, 0x9097])
def test_the_drawing_classes_keep_their_state(rig, push, number):
    channel = rig.channel()
    channel.run(push().method(3, 0, number).method(3, 0x800, 1, 2, 3))
    bound = rig.gpu.pfifo.channels[0].objects[3]
    assert bound.TABLE.number == number
    assert list(bound.state[0x800 >> 2 : 0x80C >> 2]) == [1, 2, 3]


# Hostile pushbuffers


def test_an_endless_stream_of_segments_lets_others_run(rig, push):
    greedy, modest = rig.channel(1), rig.channel(2)
    filler = push().same(1, 0x2C0, *range(4000))
    filler.words = push().method(1, 0, 0x90C0).words + filler.words
    stop = threading.Event()

    def flood():
        while not stop.is_set():
            if (greedy.put + 1) % greedy.ENTRIES != greedy.get:
                greedy.submit(filler)
            else:
                time.sleep(0.0005)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        for _ in range(3):
            modest.run(push())
    finally:
        stop.set()
        thread.join()


def test_a_put_beyond_the_ring_stops_the_channel(rig, push):
    channel = rig.channel(1)
    channel.put = 1000
    channel.doorbell()
    rig.until(lambda: rig.rd(0x40108) & 1 << 14, "IB_PUT_OVERFLOW")
    assert rig.gpu.pfifo.channels[1].stop is Stop.PUSHBUFFER
    rig.channel(2).run(push())


def test_an_illegal_header_stops_the_channel(rig, push):
    channel = rig.channel(1)
    words = push()
    words.words = [6 << 29]
    channel.submit(words)
    rig.until(lambda: rig.rd(0x40108) & 1 << 18, "ILLEGAL_CMD")
    rig.channel(2).run(push())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=4, max_size=400))
def test_random_pushbuffers_end_as_errors_of_their_channel(rig, push, data):
    number = 1 + len(rig.playlist) % 100
    channel = rig.channel(number)
    data = data[: len(data) & ~3]
    rig.memory.write(channel.push, data)
    channel.entry(channel.push_va, len(data) // 4)
    channel.doorbell()
    inside = rig.gpu.pfifo.channels[number]
    rig.until(
        lambda: inside.stop or inside.waiting or inside.retry_at or (not inside.ready and inside.get == 1),
        "an end of it",
    )
    rig.wr(0x3000 + 8 * number, 0)
    rig.wr(0x400100, 0xFFFFFFFF)
    rig.wr(0x40108, 0xFFFFFFFF)
    rig._ram = 0x10000
    if rig._vram > 40 << 20:
        rig.playlist.clear()
        rig._vram = rig.list_memory + 0x20000
    else:
        rig.playlist.remove(number)
    assert rig.gpu.runner._thread.is_alive()


def test_page_tables_of_garbage_are_harmless(rig, push):
    rng = np.random.default_rng(3)
    rig.gpu.vram.words[(8 << 20) >> 2 : (12 << 20) >> 2] = rng.integers(0, 1 << 32, 1 << 20, np.uint32)
    instance = rig.take(0x1000)
    rig.poke64(instance + 0x200, 8 << 20)
    rig.poke64(instance + 0x208, (1 << 40) - 1)
    rig.poke64(instance + 0x48, 0x1000 | 6 << 48)
    rig.poke64(instance + 8, rig.userd + 0x9000)
    rig.wr(0x3000 + 8 * 9, 0xC0000000 | instance >> 12)
    rig.wr(0x3004 + 8 * 9, 1)
    rig.playlist.append(9)
    rig.commit_playlist()
    rig.gpu.write(1, rig.poll_area + 0x908C, 4, 5)
    rig.until(lambda: rig.gpu.pfifo.channels[9].stop, "the end of it")
    rig.channel(2).run(push())


def test_a_directory_that_is_its_own_table_is_harmless(rig, push, page_tables):
    tables = page_tables(rig)
    for index in range(8192):
        rig.poke64(
            tables.directory + 8 * index, (tables.directory >> 8 | 1) << 32 | tables.directory >> 8 | 1
        )
    channel = rig.channel(1, tables)
    channel.submit(
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x238, 0x10001, 1)
        .method(1, 0x3AC, 0x10020, 1)
        .method(1, 0x2C0, 8)
        .method(1, 0x368, 0)
    )
    rig.until(lambda: rig.gpu.pfifo.channels[1].stop or rig.executor.launches, "an end of it")
    rig.channel(2).run(push())

"""What goes wrong in a channel, as the driver reads it; and that nobody else notices."""

from __future__ import annotations

import threading

import pytest

from gpuvm.gpu.channel import Stop
from gpuvm.gpu.pgraph import WARP_ERRORS
from gpuvm.jit.launch import ErrorKind, ExecutionError, Outcome

BAD = 0x12_DEAD_1000


def launch_words(push):
    return (
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x238, 0x10001, 1)
        .method(1, 0x3AC, 0x10020, 1)
        .method(1, 0x2C0, 8)
        .method(1, 0x368, 0)
    )


def copy_words(push, source, target, subchannel=2):
    return (
        push()
        .method(subchannel, 0, 0x9039)
        .method(subchannel, 0x238, target >> 32, target)
        .method(subchannel, 0x30C, source >> 32, source, 0, 0, 4, 1)
        .method(subchannel, 0x300, 0x100110)
    )


def decode(rig, unit):
    """Read a fault as nouveau does."""
    base = 0x2800 + 0x10 * unit
    kind = rig.rd(base + 0xC)
    fault = {
        "instance": rig.rd(base) << 12,
        "address": rig.rd(base + 4) | rig.rd(base + 8) << 32,
        "reason": kind & 0xF,
        "hub": bool(kind & 0x40),
        "write": bool(kind & 0x80),
        "client": kind >> 8 & 0x1F,
        "gpc": kind >> 24 & 0x1F,
    }
    rig.wr(0x259C, 1 << unit)
    return fault


def wait_fault(rig):
    rig.until(lambda: rig.rd(0x2100) & 0x10000000, "the fault")


def test_a_kernel_s_fault_names_channel_address_and_reason(rig, push):
    rig.interrupts_on()
    rig.executor.effect = lambda launch, stop: Outcome(
        ExecutionError(ErrorKind.UNMAPPED, pc=8, address=BAD, write=True)
    )
    channel, other = rig.channel(1), rig.channel(2)
    errors = []
    rig.gpu.on_error(lambda number, stop: errors.append((number, stop)))
    channel.submit(launch_words(push).release(channel.fence_va, 1))
    wait_fault(rig)
    assert rig.rd(0x100) & 0x100
    assert rig.line.messages >= 1
    assert rig.rd(0x259C) == 1
    assert decode(rig, 0) == {
        "instance": channel.instance,
        "address": BAD,
        "reason": 0,
        "hub": False,
        "write": True,
        "client": 0,
        "gpc": 0,
    }
    assert not rig.rd(0x2100) & 0x10000000
    assert errors == [(1, Stop.MMU_FAULT)]
    assert channel.fence_value() == 0
    other.run(push())


def test_a_copy_to_a_read_only_page_faults_as_such(rig, push):
    channel = rig.channel()
    page = rig.take(0x1000)
    channel.tables.map(0x3000_0000, page, flags=1 | 4)
    channel.submit(copy_words(push, channel.fence_va, 0x3000_0000))
    wait_fault(rig)
    fault = decode(rig, 0)
    assert (fault["reason"], fault["write"], fault["hub"], fault["client"]) == (6, True, True, 4)


def test_a_privileged_page_is_not_for_channels(rig, push):
    channel = rig.channel()
    channel.tables.map(0x3000_0000, rig.take(0x1000), flags=1 | 2)
    channel.submit(copy_words(push, 0x3000_0000, channel.fence_va))
    wait_fault(rig)
    assert decode(rig, 0)["reason"] == 5


def test_a_pushbuffer_that_is_not_mapped_faults_in_the_pbdma(rig, push):
    channel = rig.channel()
    channel.entry(BAD, 4)
    channel.doorbell()
    wait_fault(rig)
    fault = decode(rig, 7)
    assert (fault["address"], fault["client"], fault["hub"]) == (BAD, 6, True)


@pytest.mark.parametrize("engine", [0, 1])
def test_a_copy_engine_faults_in_its_own_unit(rig, push, engine):
    channel = rig.channel()
    words = (
        push()
        .method(4, 0, 0x90B5 | (4 + engine) << 16)
        .method(4, 0x30C, BAD >> 32, BAD, 0, channel.fence_va, 64, 64, 64, 1)
        .method(4, 0x300, 0x110)
    )
    channel.submit(words)
    wait_fault(rig)
    assert decode(rig, 0x15 + engine)["client"] == 1 + engine


def test_two_faults_of_one_unit_are_read_one_after_the_other(rig, push):
    channels = [rig.channel(1), rig.channel(2)]
    for channel in channels:
        channel.entry(BAD + 0x1000 * channel.number, 4)
        channel.doorbell()
    rig.until(lambda: all(rig.gpu.pfifo.channels[n].stop for n in (1, 2)), "both faults")
    read = {decode(rig, 7)["address"], decode(rig, 7)["address"]}
    assert read == {BAD + 0x1000, BAD + 0x2000}
    assert not rig.rd(0x2100) & 0x10000000


def test_a_channel_set_up_anew_runs_again(rig, push):
    channel = rig.channel(1)
    channel.entry(BAD, 4)
    channel.doorbell()
    wait_fault(rig)
    decode(rig, 7)
    rig.wr(0x3008, 0)
    rig.poke(channel.instance + 0x14, 1)
    rig.wr(0x3008, 0xC0000000 | channel.instance >> 12)
    channel.run(push())


WARP = {
    ErrorKind.ILLEGAL_INSTRUCTION: "ILLEGAL_INSTR_ENCODING",
    ErrorKind.MISALIGNED: "MISALIGNED_ADDR",
    ErrorKind.OUT_OF_RANGE_REGISTER: "OOR_REG",
    ErrorKind.SHARED_RANGE: "OOR_ADDR",
    ErrorKind.LOCAL_RANGE: "OOR_ADDR",
    ErrorKind.STACK: "STACK_ERROR",
}


@pytest.mark.parametrize("kind", list(WARP))
def test_a_kernel_s_error_is_a_trap_of_its_multiprocessor(rig, push, kind):
    rig.interrupts_on()
    rig.executor.effect = lambda launch, stop: Outcome(ExecutionError(kind, pc=8))
    channel, other = rig.channel(1), rig.channel(2)
    channel.submit(launch_words(push).release(channel.fence_va, 1))
    rig.until(lambda: rig.rd(0x400100) & 0x00200000, "the trap")
    assert rig.rd(0x100) & 0x1000
    assert rig.rd(0x400108) & 0x01000000
    assert rig.rd(0x400118) == 1
    assert rig.rd(0x502C90) == 0x00010000
    assert rig.rd(0x504508) == 2
    assert WARP_ERRORS[rig.rd(0x504648) & 0xFFFF] == WARP[kind]
    assert rig.rd(0x409B00) & 0x0FFFFFFF == channel.instance >> 12
    assert rig.rd(0x404200 + 4) == 0x90C0
    for offset, value in (
        (0x504648, 0),
        (0x504650, 0xFF),
        (0x502C90, 0x10000),
        (0x400118, 1),
        (0x400108, 1 << 24),
    ):
        rig.wr(offset, value)
    rig.wr(0x400100, 0x00200000)
    rig.wr(0x400500, 0x10001)
    assert not rig.rd(0x100) & 0x1000
    assert rig.rd(0x504508) == 0
    other.run(push())
    assert channel.fence_value() == 0


def test_a_kernel_that_never_ends_is_stopped_by_the_watchdog(new_rig, push):
    rig = new_rig(watchdog_s=0.05)
    stopped = threading.Event()

    def endless(launch, stop):
        rig.until(lambda: stop.requested, "the request to stop")
        stopped.set()
        return Outcome(ExecutionError(ErrorKind.STOPPED))

    rig.executor.effect = endless
    channel, other = rig.channel(1), rig.channel(2)
    channel.submit(launch_words(push).release(channel.fence_va, 1))
    rig.until(lambda: rig.rd(0x2100) & 0x100, "the scheduler's error")
    assert stopped.is_set()
    assert rig.rd(0x254C) == 0x0A
    state = rig.rd(0x2640)
    assert state & 0x80041000 == 0x80041000
    assert state & 0x7F == 1
    rig.wr(0x2100, 0x100)
    rig.wr(0x2A30, 0x100)
    assert decode(rig, 0)["instance"] == channel.instance
    assert rig.rd(0x2A30) & 0x100
    assert rig.rd(0x2640) & 0x1000007F == 0x10000001
    rig.wr(0x2A30, 0)
    rig.wr(0x200, 0xFFFFFFFF & ~0x1000)
    rig.wr(0x200, 0xFFFFFFFF)
    rig.wr(0x400100, 0xFFFFFFFF)
    rig.wr(0x40013C, 0xFFFFFFFF)
    assert rig.rd(0x2640) & 0x80000000 == 0
    assert rig.gpu.pfifo.channels[1].stop is Stop.TIMEOUT
    other.run(push())


def test_an_engine_reset_ends_a_launch(rig, push):
    begun = threading.Event()

    def endless(launch, stop):
        begun.set()
        rig.until(lambda: stop.requested, "the request to stop")
        return Outcome(ExecutionError(ErrorKind.STOPPED))

    rig.executor.effect = endless
    channel, other = rig.channel(1), rig.channel(2)
    channel.submit(launch_words(push).release(channel.fence_va, 1))
    assert begun.wait(20)
    rig.wr(0x2634, 1)
    assert rig.rd(0x2634) == 1 | 1 << 20
    rig.wr(0x200, 0xFFFFFFFF & ~0x1000)
    rig.wr(0x200, 0xFFFFFFFF)
    rig.until(lambda: rig.rd(0x2634) == 1, "the kick")
    assert rig.rd(0x254C) == 0x0A
    assert rig.rd(0x2640) & 0x7F == 1
    other.run(push())


def test_clearing_a_channel_ends_its_launch(rig, push):
    begun = threading.Event()

    def endless(launch, stop):
        begun.set()
        rig.until(lambda: stop.requested, "the request to stop")
        return Outcome(ExecutionError(ErrorKind.STOPPED))

    rig.executor.effect = endless
    channel, other = rig.channel(1), rig.channel(2)
    channel.submit(launch_words(push))
    assert begun.wait(20)
    rig.wr(0x3008, 0)
    other.run(push())


def test_an_unknown_method_waits_for_the_driver_and_is_skipped(rig, push):
    rig.interrupts_on()
    channel = rig.channel(1)
    channel.submit(
        push().method(1, 0, 0x90C0).method(1, 0x1528, 0x77).method(1, 0x2C0, 9).release(channel.fence_va, 5)
    )
    rig.until(lambda: rig.rd(0x400100) & 0x10, "ILLEGAL_MTHD")
    assert rig.rd(0x400704) == 1 << 16 | 0x1528
    assert rig.rd(0x400708) == 0x77
    assert rig.rd(0x404204) == 0x90C0
    assert channel.fence_value() == 0
    rig.wr(0x400100, 0x10)
    rig.wr(0x400500, 0x10001)
    channel.wait_fence(5)
    assert rig.gpu.pfifo.channels[1].objects[1].state[0x2C0 >> 2] == 9


def test_an_unknown_class_waits_for_the_driver(rig, push):
    channel = rig.channel(1)
    channel.submit(push().method(3, 0, 0x1234).release(channel.fence_va, 5))
    rig.until(lambda: rig.rd(0x400100) & 0x20, "ILLEGAL_CLASS")
    assert (rig.rd(0x400704), rig.rd(0x400708)) == (3 << 16, 0x1234)
    rig.wr(0x400100, 0x20)
    channel.wait_fence(5)


def test_a_refused_value_is_a_data_error(rig, push):
    channel = rig.channel(1)
    words = push().method(1, 0, 0x90C0).method(1, 0x238, 0, 1).method(1, 0x368, 0)
    channel.submit(words.release(channel.fence_va, 5))
    rig.until(lambda: rig.rd(0x400100) & 0x00100000, "DATA_ERROR")
    assert rig.rd(0x400110) == 4
    rig.wr(0x400100, 0x00100000)
    channel.wait_fence(5)


def test_exceptions_of_two_channels_are_told_one_at_a_time(rig, push):
    channels = [rig.channel(1), rig.channel(2)]
    for channel in channels:
        words = push().method(1, 0, 0x90C0).method(1, 0x1528, channel.number)
        channel.submit(words.release(channel.fence_va, 5))
    rig.until(lambda: all(rig.gpu.pfifo.channels[n].waiting for n in (1, 2)), "both")
    seen = set()
    for _ in channels:
        assert rig.rd(0x400100) & 0x10
        seen.add(rig.rd(0x400708))
        rig.wr(0x400100, 0x10)
    assert seen == {1, 2}
    for channel in channels:
        channel.wait_fence(5)


def test_software_methods_go_to_the_driver_through_the_pbdma(rig, push):
    rig.interrupts_on()
    channel = rig.channel(1)
    channel.submit(push().method(7, 0, 0x1F906E).method(7, 0x400, 0x99).release(channel.fence_va, 5))
    for method, data in ((0, 0x1F906E), (0x400, 0x99)):
        rig.until(lambda: rig.rd(0x2100) & 0x20000000, "the PBDMA")
        assert rig.rd(0x25A0) == 1
        assert rig.rd(0x40108) == 0x00800000
        address = rig.rd(0x400C0)
        assert (address & 0x3FFC, address >> 16 & 7) == (method, 7)
        assert rig.rd(0x400C4) == data
        assert rig.rd(0x40120) & 0x7F == 1
        rig.wr(0x400C0, 0x80600008)
        rig.wr(0x40108, 0x00800000)
    channel.wait_fence(5)


def test_a_copy_engine_s_refusal_reaches_its_interrupt(rig, push):
    rig.interrupts_on()
    channel = rig.channel(1)
    channel.submit(push().method(4, 0, 0x490B5).method(4, 0x208, 0xFFFFFFFF).release(channel.fence_va, 5))
    rig.until(lambda: rig.rd(0x100) & 0x20, "PCOPY0")
    assert rig.rd(0x104008) & 0x40
    status = rig.rd(0x104040)
    assert status & 0xFFFF == 3
    assert (status >> 16 & 0x7FF) << 2 == 0x208
    assert rig.rd(0x104044) == 0xFFFFFFFF
    rig.wr(0x104004, 0x40)
    channel.wait_fence(5)
    assert not rig.rd(0x100) & 0x20


def test_a_defect_of_the_executor_costs_only_its_channel(rig, push):
    def broken(launch, stop):
        raise AssertionError("the executor met code that it cannot handle")

    rig.executor.effect = broken
    channel, other = rig.channel(1), rig.channel(2)
    channel.submit(launch_words(push).release(channel.fence_va, 1))
    rig.until(lambda: rig.rd(0x2100) & 0x100, "the scheduler's error")
    assert rig.rd(0x254C) == 0x0A
    assert rig.gpu.pfifo.channels[1].stop is Stop.TIMEOUT
    assert channel.fence_value() == 0
    other.run(push())

"""Real machine code through a channel: what a kernel does to memory, and how its errors reach the driver."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvm.gpu.channel import Stop
from gpuvm.gpu.pgraph import WARP_ERRORS
from gpuvm.isa.assembler import assemble
from gpuvm.jit.executor import Executor
from gpuvm.jit.space import AddressSpace

CODE, DATA, CONSTANTS = 0x3000_0000, 0x4000_0000, 0x4100_0000

STORE = """
    S2R R0, SR_CTAID.X;
    S2R R1, SR_TID.X;
    SHL R0, R0, 0x5;
    IADD R0, R0, R1;
    SHL R2, R0, 0x2;
    IADD R2, R2, c[0x0][0x20];
    MOV R3, c[0x0][0x24];
    ST.E [R2], R0;
    EXIT;
"""
FAULT = """
    MOV32I R2, 0x1000;
    MOV32I R3, 0x55;
    LD.E R0, [R2];
    MOV R2, c[0x0][0x20];
    MOV R3, c[0x0][0x24];
    ST.E [R2], R0;
    EXIT;
"""
MISALIGNED = """
    MOV R2, c[0x0][0x20];
    MOV R3, c[0x0][0x24];
    ST.E.64 [R2+0x4], R0;
    EXIT;
"""
ENDLESS = """
loop:
    BRA loop;
"""


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    with Executor(threads=1, cache_dir=tmp_path_factory.mktemp("code")) as made:
        yield made


@pytest.fixture
def machine(new_rig, executor):
    return new_rig(executor=executor, address_space=AddressSpace)


def channel_with(rig, text, number=1):
    """A channel with code, a page of data and a constant bank whose parameter points to the data."""
    channel = rig.channel(number)
    code, channel.data = rig.take(0x1000), rig.take(0x1000)
    rig.gpu.vram.write(code, assemble(text) if isinstance(text, str) else text)
    channel.tables.map(CODE, code)
    channel.tables.map(DATA, channel.data)
    constants = rig.take(0x1000)
    channel.tables.map(CONSTANTS, constants)
    channel.tables.flush()
    rig.gpu.vram.write(constants + 0x20, DATA.to_bytes(8, "little"))
    return channel


def launch(push, blocks=2):
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


def test_every_thread_stores_its_number(machine, push):
    channel = channel_with(machine, STORE)
    channel.run(launch(push))
    stored = np.frombuffer(machine.gpu.vram.read(channel.data, 256), np.uint32)
    assert stored.tolist() == list(range(64))
    work = machine.gpu.counters.channels[1]
    assert (work.launches, work.blocks) == (1, 2)
    assert work.warp_instructions == 2 * 9
    assert work.global_stores == 2


def test_code_that_the_driver_replaces_is_what_runs(machine, push):
    channel = channel_with(machine, STORE)
    channel.run(launch(push))
    code = assemble(STORE.replace("SHL R0, R0, 0x5", "SHL R0, R0, 0x6"))
    channel.tables.map(0x5000_0000, channel.data)
    at = machine.gpu.pfifo.channels[1].space.runs(CODE, len(code), True)[0][1]
    machine.gpu.vram.write(at, code)
    channel.run(launch(push).method(1, 0x1698, 0x1111))
    stored = np.frombuffer(machine.gpu.vram.read(channel.data, 512), np.uint32)
    assert stored[64:96].tolist() == list(range(64, 96))


def test_a_load_from_nowhere_is_an_mmu_fault_with_its_address(machine, push):
    channel, other = channel_with(machine, FAULT), channel_with(machine, STORE, 2)
    channel.submit(launch(push))
    machine.until(lambda: machine.rd(0x2100) & 0x10000000, "the fault")
    assert machine.rd(0x2804) | machine.rd(0x2808) << 32 == 0x55_0000_1000
    assert machine.rd(0x280C) & 0xF in (0, 2)
    assert not machine.rd(0x280C) & 0x80
    assert machine.gpu.pfifo.channels[1].stop is Stop.MMU_FAULT
    other.run(launch(push))


@pytest.mark.parametrize(
    ("code", "error"),
    [(MISALIGNED, "MISALIGNED_ADDR"), (b"\xff" * 64, "ILLEGAL_INSTR_ENCODING")],
    ids=["misaligned", "illegal"],
)
def test_a_warp_s_error_is_a_trap(machine, push, code, error):
    channel, other = channel_with(machine, code), channel_with(machine, STORE, 2)
    channel.submit(launch(push))
    machine.until(lambda: machine.rd(0x400100) & 0x00200000, "the trap")
    assert WARP_ERRORS[machine.rd(0x504648)] == error
    other.run(launch(push))


def test_a_kernel_that_never_ends_is_stopped(new_rig, executor, push):
    rig = new_rig(executor=executor, address_space=AddressSpace, watchdog_s=0.2)
    channel, other = channel_with(rig, ENDLESS), channel_with(rig, STORE, 2)
    channel.submit(launch(push))
    rig.until(lambda: rig.rd(0x2100) & 0x100, "the scheduler's error")
    assert rig.rd(0x254C) == 0x0A
    rig.gpu.watchdog_s = None
    other.run(launch(push))


def test_unmapping_under_a_running_kernel_stops_it(new_rig, executor, push):
    """After a flush not even a launch in progress reaches what the tables no longer name."""
    rig = new_rig(executor=executor, address_space=AddressSpace)
    text = """
        MOV R2, c[0x0][0x20];
        MOV R3, c[0x0][0x24];
    loop:
        ST.E [R2], R2;
        BRA loop;
    """
    channel = channel_with(rig, text)
    channel.submit(launch(push, 1))
    rig.until(lambda: rig.gpu.vram.read(channel.data, 4) != bytes(4), "the first store")
    channel.tables.unmap(DATA)
    channel.tables.flush()
    rig.until(lambda: rig.rd(0x2100) & 0x10000000, "the fault")
    assert rig.rd(0x2804) == DATA


def test_closing_the_gpu_ends_a_kernel(new_rig, executor, push):
    rig = new_rig(executor=executor, address_space=AddressSpace)
    channel = channel_with(rig, ENDLESS)
    channel.submit(launch(push))
    rig.until(lambda: rig.gpu.pgraph._launching is not None, "the launch")
    rig.gpu.close()
    assert not rig.gpu.runner._thread.is_alive()
    assert rig.gpu.read(0, 0, 4) == 0x0C0080A1
    assert rig.gpu.read(1, rig.poll_area, 4) == 0
    rig.wr(0x700000, 1)

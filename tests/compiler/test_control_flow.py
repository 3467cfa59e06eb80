"""Reconvergence: any control flow gives every thread its own way, and threads run together where they can."""

from __future__ import annotations

import random

import numpy as np
import pytest
from device import Device, Module
from ptx_text import HEADER
from random_flow import make, meaning, ptx

from gpuvm.isa.decoder import decode


def names(module: Module, kernel: str = "k") -> list[str]:
    code = module.program.kernels[kernel].code
    found = []
    at = 0
    while at < len(code):
        ins = decode(code, at, at)
        found.append(ins.name + (".S" if ins.sync else ""))
        at += ins.size
    return found


def run(device: Device, seed: int) -> None:
    rng = random.Random(seed)
    fuel = rng.choice((5, 20, 60))
    blocks = make(rng, rng.randrange(2, 14))
    start = [[rng.getrandbits(rng.choice((2, 8, 32))) for _ in range(4)] for _ in range(32)]
    module = device.load(ptx(blocks, fuel))
    given, out = device.upload(np.array(start, "u4")), device.allocate(640)
    assert module.launch("k", 1, 32, given, out).error is None
    got = device.download(out, "u4", 160).reshape(32, 5).tolist()
    assert got == [meaning(blocks, s, fuel) for s in start]


@pytest.mark.parametrize("group", range(6))
def test_random_graphs_irreducible_ones_too(slow_device: Device, group: int) -> None:
    for seed in range(5 * group, 5 * group + 5):
        slow_device.reset()
        run(slow_device, seed)


@pytest.mark.parametrize("seed", range(100, 104))
def test_the_executor_agrees(device: Device, seed: int) -> None:
    run(device, seed)


PARAMETERS = (
    ".visible .entry k (.param .u64 p, .param .u32 n) { .reg .b32 %r<9>; .reg .b64 %x<3>; .reg .pred %p<4>;"
)
START = HEADER + PARAMETERS + "ld.param.u64 %x0, [p]; ld.param.u32 %r1, [n]; mov.u32 %r0, %tid.x;"


def test_uniform_loops_push_nothing(device: Device) -> None:
    module = device.load(
        START
        + "mov.u32 %r2, 0; L: add.u32 %r2, %r2, %r0; sub.u32 %r1, %r1, 1;"
        "setp.ne.u32 %p0, %r1, 0; @%p0 bra L;"
        "mad.wide.u32 %x0, %r0, 4, %x0; st.global.u32 [%x0], %r2; ret; }"
    )
    assert not {"SSY", "PBK", "BRK"} & set(names(module))
    out = device.allocate(128)
    assert module.launch("k", 1, 32, out, 7).error is None
    assert device.download(out, "u4", 32).tolist() == [7 * t for t in range(32)]


def test_threads_leave_a_loop_at_different_times_and_meet_behind_it(slow_device: Device) -> None:
    module = slow_device.load(
        START + "mov.u32 %r2, 0; L: add.u32 %r2, %r2, 1; setp.gt.u32 %p0, %r2, %r0; @!%p0 bra L;"
        "vote.ballot.b32 %r3, 1; mad.wide.u32 %x0, %r0, 8, %x0; st.global.v2.u32 [%x0], {%r2, %r3}; ret; }"
    )
    assert {"PBK", "BRK"} <= set(names(module))
    out = slow_device.allocate(256)
    assert module.launch("k", 1, 32, out, 0).error is None
    got = slow_device.download(out, "u4", 64).reshape(32, 2)
    assert got[:, 0].tolist() == [t + 1 for t in range(32)]
    assert set(got[:, 1].tolist()) == {0xFFFFFFFF}


def test_a_break_deep_inside_does_not_part_the_others(slow_device: Device) -> None:
    """Threads that skip the inner block and threads that run it meet again in each round."""
    module = slow_device.load(
        START
        + """
        mov.u32 %r2, 0; mov.u32 %r4, 0;
        L: and.b32 %r3, %r0, 1; setp.eq.u32 %p0, %r3, 0; @%p0 bra SKIP;
        add.u32 %r3, %r0, 3; setp.gt.u32 %p1, %r2, %r3; @%p1 bra OUT;
        mul.lo.u32 %r4, %r4, 3; add.u32 %r4, %r4, %r2; xor.b32 %r4, %r4, %r0; mul.lo.u32 %r4, %r4, 5;
        add.u32 %r4, %r4, 1; xor.b32 %r4, %r4, 99; mul.lo.u32 %r4, %r4, 7; add.u32 %r4, %r4, 2;
        SKIP: vote.ballot.b32 %r5, 1; shl.b32 %r6, %r2, 2; setp.eq.u32 %p2, %r2, 2;
        @!%p2 bra NEXT; mad.wide.u32 %x1, %r0, 4, %x0; st.global.u32 [%x1], %r5;
        NEXT: add.u32 %r2, %r2, 1; setp.lt.u32 %p3, %r2, 40; @%p3 bra L;
        OUT: ret; }"""
    )
    out = slow_device.allocate(128)
    assert module.launch("k", 1, 32, out, 0).error is None
    assert set(slow_device.download(out, "u4", 32).tolist()) == {0xFFFFFFFF}


def test_early_exit_is_a_guard(device: Device) -> None:
    module = device.load(
        START
        + "setp.ge.u32 %p0, %r0, %r1; @%p0 bra END;"
        "mad.wide.u32 %x0, %r0, 4, %x0; st.global.u32 [%x0], 7; END: ret; }"
    )
    assert not {"SSY", "BRA"} & set(names(module))
    out = device.allocate(128)
    assert module.launch("k", 1, 32, out, 5).error is None
    assert device.download(out, "u4", 32).tolist() == [7] * 5 + [0] * 27


def test_short_alternatives_become_guarded(device: Device) -> None:
    module = device.load(
        START
        + "setp.lt.s32 %p0, %r0, 9; @%p0 bra A; add.u32 %r2, %r0, 100; bra J; A: mul.lo.u32 %r2, %r0, 3; J:"
        "mad.wide.u32 %x0, %r0, 4, %x0; st.global.u32 [%x0], %r2; ret; }"
    )
    assert not {"SSY", "BRA"} & set(names(module))
    out = device.allocate(128)
    assert module.launch("k", 1, 32, out, 0).error is None
    assert device.download(out, "u4", 32).tolist() == [3 * t if t < 9 else t + 100 for t in range(32)]


def test_a_trap_stops_the_launch(device: Device) -> None:
    module = device.load(START + "setp.eq.u32 %p0, %r0, 40; @%p0 trap; ret; }")
    assert module.launch("k", 1, 32, 0, 0).error is None
    error = module.launch("k", 1, 64, 0, 0).error
    assert error is not None
    assert error.kind.name == "TRAP"

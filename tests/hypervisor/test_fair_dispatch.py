"""FAIR live: guests' real launches through their drivers and virtual GPUs, preempted on the GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gpuvm.lab.clock import PhaseClock
from gpuvm.lab.fairness import Timeline
from gpuvm.lab.system import MIB, System
from gpuvm.workloads.program import CudaError, Program, check

LONG_PTX = b"""
.version 3.2
.target sm_20
.address_size 64
.visible .entry turns(.param .u64 out, .param .u32 count)
{
    .reg .pred %p;
    .reg .u32 %r<8>;
    .reg .u64 %d<4>;
    ld.param.u64 %d0, [out];
    ld.param.u32 %r0, [count];
    mov.u32 %r1, %tid.x;
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mad.lo.u32 %r1, %r2, %r3, %r1;
    mov.u32 %r4, %r1;
LOOP:
    mul.lo.u32 %r4, %r4, 65;
    add.u32 %r4, %r4, %r0;
    sub.u32 %r0, %r0, 1;
    setp.gt.u32 %p, %r0, 0;
    @%p bra LOOP;
    mul.wide.u32 %d1, %r1, 4;
    add.u64 %d2, %d0, %d1;
    st.global.u32 [%d2], %r4;
    ret;
}
\0"""
BLOCKS, THREADS = 4, 32


@contextmanager
def program(cuda: Any, monkeypatch: pytest.MonkeyPatch | None = None) -> Iterator[tuple[Program, Any, int]]:
    with Program(cuda, PhaseClock(dict)) as made:
        made.module = check(cuda.cuModuleLoadData(LONG_PTX))
        yield made, made.function("turns"), made.allocate(4 * BLOCKS * THREADS)


def turn(made: Program, out: int, count: int) -> None:
    import ctypes

    arguments = [(ctypes.c_uint64, out), (ctypes.c_uint32, count)]
    made.launch("turns", (BLOCKS,), (THREADS,), arguments)


def result(made: Program, out: int) -> np.ndarray:
    words = np.empty(BLOCKS * THREADS, np.uint32)
    made.download(words, out)
    return words


@pytest.fixture
def fair() -> Iterator[System]:
    with System("fv-naive", 2, scheduler="fair", vram=16 * MIB, memory=32 * MIB, watchdog_s=2.0) as system:
        yield system


def test_short_launches_end_long_before_a_long_one_that_began_earlier(fair: System) -> None:
    """And both compute what they compute alone."""
    first, second = fair.guests
    with first.process() as slow, second.process() as quick, program(slow) as a, program(quick) as b:
        for made, _, out in (a, b):
            turn(made, out, 3_000_000)
            made.synchronize()
        began = time.monotonic()
        turn(a[0], a[2], 60_000_000)
        time.sleep(0.02)
        for _ in range(5):
            turn(b[0], b[2], 1000)
            b[0].synchronize()
        quick_took = time.monotonic() - began
        short = result(b[0], b[2])
        a[0].synchronize()
        slow_took = time.monotonic() - began
        got = result(a[0], a[2])
        assert quick_took < slow_took / 2
        turn(b[0], b[2], 60_000_000)
        b[0].synchronize()
        assert (result(b[0], b[2]) == got).all()
        turn(a[0], a[2], 1000)
        assert (result(a[0], a[2]) == short).all()
    assert sum(work.switches for work in fair.gpu.counters.channels) > 0


def test_a_stuck_kernel_takes_only_its_own_share_until_its_channel_dies(fair: System) -> None:
    owner = {
        channel.physical: number
        for number, virtual in enumerate(fair.aggregator.full())  # type: ignore[union-attr]
        for channel in virtual.channels
    }
    turns: list[tuple[int, int, int]] = []
    stuck, good = fair.guests
    errors: list[str] = []

    def hang() -> None:
        try:
            with stuck.process() as cuda, program(cuda) as (made, _, out):
                fair.gpu.watchdog_s = 0.6
                turn(made, out, 0xFFFFFFFF)
                made.synchronize()
        except CudaError as error:
            errors.append(error.name)

    with good.process() as cuda, program(cuda) as (made, _, out):
        turn(made, out, 3_000_000)
        made.synchronize()
        fair.gpu.on_turn(lambda channel, began, ended: turns.append((owner[channel], began, ended)))
        thread = threading.Thread(target=hang)
        thread.start()
        end = time.monotonic() + 30
        while thread.is_alive():
            assert time.monotonic() < end
            for _ in range(4):
                turn(made, out, 3_000_000)
            made.synchronize()
        thread.join()
        turn(made, out, 1000)
        made.synchronize()
    assert errors
    assert errors[0].startswith("CUDA_ERROR_LAUNCH")
    line = Timeline(turns, 2)
    own = [(began, ended) for who, began, ended in turns if who == 0]
    shares = line.shares(own[len(own) // 4][0], own[-1][1])
    assert 0.3 < shares[0] < 0.7, "the stuck one's share while it lasted"


def test_weights_count_live(fair: System) -> None:
    aggregator = fair.aggregator
    assert aggregator is not None
    first, second = aggregator.full()
    aggregator.dispatcher.change(second.id, 3, None)
    stop = threading.Event()
    ready = threading.Barrier(3)

    def work(guest: Any) -> None:
        with guest.process() as cuda, program(cuda) as (made, _, out):
            turn(made, out, 5_000_000)
            made.synchronize()
            ready.wait()
            while not stop.is_set():
                for _ in range(4):
                    turn(made, out, 5_000_000)
                made.synchronize()

    threads = [threading.Thread(target=work, args=(guest,)) for guest in fair.guests]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(0.4)
    before = [each.counters.gpu_ns for each in (first, second)]
    time.sleep(1.2)
    after = [each.counters.gpu_ns for each in (first, second)]
    stop.set()
    for thread in threads:
        thread.join()
    used = [b - a for a, b in zip(before, after, strict=True)]
    assert 0.6 < used[1] / sum(used) < 0.87

"""Launches that are switched out in the middle of their thread blocks and go on later: nothing is lost, done
twice, or seen by the others."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from rig import Rig

from gpuvm.jit.executor import Executor, StopFlag
from gpuvm.jit.launch import ErrorKind, Outcome

LOOP = """
    S2R R0, SR_TID.X;
    S2R R1, SR_CTAID.X;
    IMAD R0, R1, c[0x0][0x8], R0;
    MOV R2, c[0x0][0x20];
    MOV R3, R0;
head:
    IMUL R3, R3, 0x41;
    IADD R3, R3, R2;
    IADD R2, R2, -0x1;
    ISETP.GT.AND P0, PT, R2, RZ, PT;
    @P0 BRA head;
    ISCADD R4, R0, c[0x0][0x24], 0x2;
    ST [R4], R3;
    EXIT;
"""
"""Each thread turns its number over, many times, and stores what comes out."""

MIXED = """
    S2R R0, SR_TID.X;
    S2R R1, SR_CTAID.X;
    MOV R2, c[0x0][0x20];
    SHL R5, R0, 0x2;
    STS [R5], R0;
    STL [0x0], R1;
    BAR.SYNC 0x0, RZ;
head:
    LOP.XOR R6, R5, 0x4;
    LDS R7, [R6];
    LDL R8, [0x0];
    IADD R7, R7, R8;
    BAR.SYNC 0x0, RZ;
    STS [R5], R7;
    IADD R8, R8, 0x3;
    STL [0x0], R8;
    MOV R9, c[0x0][0x24];
    MOV R10, 0x1;
    RED.ADD [R9], R10;
    BAR.SYNC 0x0, RZ;
    IADD R2, R2, -0x1;
    ISETP.GT.AND P0, PT, R2, RZ, PT;
    @P0 BRA head;
    LDS R7, [R5];
    S2R R1, SR_CTAID.X;
    IMAD R3, R1, c[0x0][0x8], R0;
    ISCADD R4, R3, c[0x0][0x28], 0x2;
    ST [R4], R7;
    EXIT;
"""
"""Barriers, shared and local memory, and an atomic addition in each turn of a loop."""

FOREVER = """
head:
    IADD R0, R0, 0x1;
    BRA head;
"""


@pytest.fixture
def rig() -> Iterator[Rig]:
    with Executor(threads=2) as executor:
        made = Rig(executor)
        try:
            yield made
        finally:
            made.close()


def in_slices(rig: Rig, code: str, slice_ns: int, **more: Any) -> tuple[Outcome, int, int]:
    """Run a launch for a slice at a time until it ends; also returns how often it was parked, and the blocks
    that ended in all."""
    stop = StopFlag(parkable=True)
    stop.deadline = time.monotonic_ns() + slice_ns
    outcome = rig.launch(code, stop=stop, **more)
    parks = blocks = 0
    while True:
        blocks += outcome.statistics.blocks
        if outcome.error is None:
            return outcome, parks, blocks
        assert outcome.error.kind is ErrorKind.STOPPED
        stop.clear()
        stop.deadline = time.monotonic_ns() + slice_ns
        if outcome.parked is not None:
            parks += 1
            outcome = rig.executor.resume(outcome.parked)
        else:
            outcome = rig.launch(code, stop=stop, first_block=outcome.blocks_done, **more)


def park(rig: Rig, stop: StopFlag, code: str, **more: Any) -> Outcome:
    """Launch two blocks and park them once they run."""
    for wait in (0.02, 0.1, 0.5, 2.0):
        timer = threading.Timer(wait, stop.park)
        timer.start()
        outcome = rig.launch(code, grid=2, stop=stop, **more)
        timer.cancel()
        timer.join()
        if outcome.parked is not None:
            return outcome
        # It had not begun, or is not what it should be.
        assert outcome.error is not None
        stop.clear()
    raise AssertionError("a loop must be parked where its threads are")


@pytest.mark.parametrize("translator", ["structured", "general"])
def test_a_loop_that_is_parked_often_computes_the_same(rig: Rig, translator: str) -> None:
    turns = 150_000 if translator == "general" else 5_000_000
    base = rig.put(0, bytes(4 * 128))
    more = {"grid": 4, "translator": translator}
    parks = 0
    while not parks:
        # A machine may be so quick, or its timer so late, that a slice holds the whole loop.
        assert turns < 1 << 31
        parameters = struct.pack("<II", turns, base)
        assert rig.launch(LOOP, parameters=parameters, **more).error is None
        want = rig.words(0, 128)
        rig.put(0, bytes(4 * 128))
        _, parks, blocks = in_slices(rig, LOOP, 4_000_000, parameters=parameters, **more)
        assert blocks == 4
        assert (rig.words(0, 128) == want).all()
        turns *= 4


@pytest.mark.parametrize("translator", ["structured", "general"])
def test_barriers_shared_local_and_atomics_survive(rig: Rig, translator: str) -> None:
    turns, blocks, threads, parks = 3000, 6, 64, 0
    count, base = rig.put(0, bytes(4)), rig.put(4096, bytes(4 * blocks * threads))
    more = {"block": threads, "grid": blocks, "translator": translator,
            "shared_size": 4 * threads, "local_positive": 16}  # fmt: skip
    while not parks:
        # A machine may be so quick, or its timer so late, that a slice holds the whole loop.
        assert turns < 1 << 23
        parameters = struct.pack("<III", turns, count, base)
        rig.put(0, bytes(4))
        assert rig.launch(MIXED, parameters=parameters, **more).error is None
        want, total = rig.words(4096, blocks * threads), int(rig.words(0, 1)[0])
        assert total == turns * blocks * threads
        rig.put(0, bytes(4))
        rig.put(4096, bytes(4 * blocks * threads))
        _, parks, _ = in_slices(rig, MIXED, 500_000, parameters=parameters, **more)
        assert int(rig.words(0, 1)[0]) == total
        assert (rig.words(4096, blocks * threads) == want).all()
        turns *= 4


def test_others_run_while_one_is_parked_and_each_keeps_its_own(rig: Rig) -> None:
    turns = 15_000_000
    base = rig.put(0, bytes(4 * 64))
    stop = StopFlag(parkable=True)
    first = park(rig, stop, LOOP, parameters=struct.pack("<II", turns, base))
    other = rig.put(8192, bytes(4 * 64))
    for _ in range(3):
        parameters = struct.pack("<II", 7, other)
        assert rig.launch(LOOP, grid=2, parameters=parameters, stop=StopFlag(parkable=True)).error is None
    few = rig.words(8192, 64)
    stop.deadline = 0
    assert rig.executor.resume(first.parked).error is None
    many = rig.words(0, 64)
    assert rig.launch(LOOP, grid=2, parameters=struct.pack("<II", turns, other)).error is None
    assert (many == rig.words(8192, 64)).all()
    assert not (many == few).all()


def test_a_parked_launch_can_be_dropped_and_an_endless_one_killed(rig: Rig) -> None:
    for end in ("drop", "kill", "close"):
        stop = StopFlag(parkable=True)
        outcome = park(rig, stop, FOREVER)
        if end == "drop":
            rig.executor.drop(outcome.parked)
        elif end == "kill":
            stop.deadline = 0
            threading.Timer(0.02, stop.kill).start()
            ended = rig.executor.resume(outcome.parked)
            assert ended.parked is None
            assert ended.error is not None
            assert ended.error.kind is ErrorKind.STOPPED
    # The last one is still parked: closing the executor ends it.


def test_a_request_from_outside_parks_at_once(rig: Rig) -> None:
    stop = StopFlag(parkable=True)
    rig.executor.drop(park(rig, stop, FOREVER).parked)
    assert stop.killed


def test_a_fault_on_a_crew_ends_the_launch(rig: Rig) -> None:
    code = "MOV R2, 0x7000; MOV R3, 0x0; ST.E [R2], R3; EXIT;"
    outcome = rig.launch(code, grid=64, stop=StopFlag(parkable=True))
    assert outcome.parked is None
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.UNMAPPED


def test_a_launch_stopped_between_blocks_goes_on_with_the_next(rig: Rig) -> None:
    """Without a loop there is nowhere to park: threads leave at the ends of blocks."""
    code = """
        S2R R0, SR_CTAID.X;
        ISCADD R1, R0, c[0x0][0x20], 0x2;
        MOV R2, 0x1;
        RED.ADD [R1], R2;
        EXIT;
    """
    base = rig.put(0, bytes(4 * 20000))
    stop = StopFlag(parkable=True)
    stop.preempt()
    outcome = rig.launch(code, block=1, grid=20000, parameters=struct.pack("<I", base), stop=stop)
    first = outcome.blocks_done
    assert outcome.error is not None
    assert first < 20000
    stop.clear()
    assert (
        rig.launch(
            code, block=1, grid=20000, parameters=struct.pack("<I", base), stop=stop, first_block=first
        ).error
        is None
    )
    assert (rig.words(0, 20000) == np.ones(20000, np.uint32)).all()

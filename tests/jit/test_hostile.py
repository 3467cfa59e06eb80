"""Hostile code: whatever is launched ends, as a result or as an error, and the process is as it was."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from random import Random

import pytest

from gpuvm.isa.assembler import assemble
from gpuvm.jit.executor import Executor, StopFlag
from gpuvm.jit.launch import ErrorKind, Outcome
from gpuvm.jit.space import AccessError
from gpuvm.jit.translate import Plan
from support.hostile import constants, random_instructions, random_words, spoiled
from support.interpreter import Interpreter
from support.machine import CODE_SIZE, DATA_SIZE, Memory
from support.programs import LOCAL, SHARED, kernel

LIMIT = 0.3
"""Seconds until a launch is told to stop."""
BLOCKS = [(1, 1, 1), (32, 1, 1), (33, 1, 1), (5, 7, 3), (64, 1, 1)]
LAYOUT_PROLOGUE = assemble(
    "S2R R0, SR_TID.X; LDC.128 R4, c[0x0][0x40]; LDC.128 R8, c[0x0][0x50]; ISCADD R2, R0, R4, 0x2; MOV R3, RZ; R2P PR, R8, 0x7f;"
)


def random_code(chance: Random) -> tuple[bytes, tuple[int, int, int]]:
    """A kernel and the shape of its blocks."""
    block = chance.choice(BLOCKS)
    kind = chance.random()
    if kind < 0.3:
        return random_words(chance), block
    if kind < 0.65:
        return LAYOUT_PROLOGUE + random_instructions(chance), block
    return spoiled(chance, assemble(kernel(chance, block, chance.randrange(1, 3)))), block


def run(memory: Memory, executor: Executor, seed: int) -> tuple[Outcome, Outcome | None]:
    """What the executor makes of it, and the interpreter if it comes to an end."""
    chance = Random(seed)
    code, block = random_code(chance)
    memory.code(bytes(CODE_SIZE))
    memory.code(code[:CODE_SIZE])
    memory.constants([0xFE000000, 0xFF000000])
    memory.constants(constants(chance), 0, 0x20)
    launch = memory.launch(
        block, (1, 1, 1), shared_size=SHARED, local_positive=LOCAL, local_negative=16,
        registers=chance.choice([63, 63, 24]), stack_size=1024, barriers=chance.choice([16, 1]),
    )  # fmt: skip
    memory.restore(bytes(2 * DATA_SIZE))
    right = Interpreter(3000).run(launch)
    memory.restore(bytes(2 * DATA_SIZE))
    with contextlib.suppress(AccessError):
        executor.translator.get(launch)  # the limit is for running, not for compiling
    stop = StopFlag()
    timer = threading.Timer(LIMIT, stop.kill)
    timer.start()
    outcome = executor.run(launch, stop)
    timer.cancel()
    timer.join()
    ended = right.error is None or right.error.kind is not ErrorKind.STOPPED
    return outcome, right if ended else None


def judge(memory: Memory, executor: Executor, seed: int) -> None:
    outcome, right = run(memory, executor, seed)
    assert outcome.error is None or outcome.error.kind in ErrorKind
    if right is None:
        return
    ours = outcome.error and outcome.error.kind
    what = f"seed {seed}: executor {outcome.error}, interpreter {right.error}"
    if right.error is not None and right.error.kind is ErrorKind.UNMAPPED and not right.error.write:
        return  # a load whose result nobody uses may be left out, and another error come after it
    assert ours == (right.error and right.error.kind), what


@pytest.mark.parametrize("part", range(4))
def test_hostile_code(memory: Memory, single: Executor, part: int) -> None:
    single.translator.plan = Plan(general=part == 3)
    for seed in range(60 * part, 60 * part + (60 if part < 3 else 25)):
        judge(memory, single, seed)


def test_nothing_is_left_open(memory: Memory, single: Executor) -> None:
    """File descriptors, threads and mappings after many kernels are those of before."""
    judge(memory, single, 7)

    def state() -> tuple[int, int]:
        gc.collect()  # what earlier tests left to the collector is not ours
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = state()
    for seed in range(5000, 5010):
        judge(memory, single, seed)
    after = state()
    assert after[0] <= before[0], "file descriptors"
    assert after[1] <= before[1], "threads"


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", range(40))
def test_twenty_thousand_hostile_kernels(memory: Memory, single: Executor, part: int) -> None:
    single.translator.plan = Plan(general=part % 4 == 3)
    for seed in range(100_000 + 500 * part, 100_000 + 500 * part + 500):
        judge(memory, single, seed)

"""Random programs with divergence of every kind end alike on executor and interpreter."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from gpuvm.jit.executor import Executor
from gpuvm.jit.translate import Plan
from support.interpreter import Interpreter
from support.machine import CODE_SIZE, DATA_SIZE, Memory
from support.programs import LOCAL, SHARED, kernel

SHAPES = [
    (1, 1, 1),
    (32, 1, 1),
    (33, 1, 1),
    (16, 16, 1),
    (5, 7, 3),
    (64, 1, 1),
    (8, 4, 2),
    (31, 1, 1),
    (32, 2, 1),
    (100, 1, 1),
]
GRIDS = [(1, 1, 1), (2, 1, 1), (3, 1, 1), (2, 2, 1)]


def judge(memory: Memory, executor: Executor, seed: int, block: tuple[int, int, int] | None = None) -> None:
    """Run one random kernel on both and compare all of memory."""
    chance = Random(seed)
    block = block or chance.choice(SHAPES)
    grid = chance.choice(GRIDS)
    memory.code(bytes(CODE_SIZE))
    memory.code(kernel(chance, block, chance.randrange(3, 9)))
    memory.constants([0xFE000000, 0xFF000000])
    memory.constants([chance.getrandbits(32) for _ in range(80)], 0, 0x40)
    launch = memory.launch(
        block, grid, shared_size=SHARED, local_positive=LOCAL, local_negative=16, stack_size=4096
    )
    ends = []
    for machine in (executor, Interpreter(500_000)):
        memory.restore(bytes(2 * DATA_SIZE))
        outcome = machine.run(launch)
        place = outcome.error and (outcome.error.kind, outcome.error.pc)
        ends.append((place, np.frombuffer(memory.snapshot(), np.uint32)))
    (ours, got), (right, want) = ends
    what = f"seed {seed}, block {block}, grid {grid}"
    assert ours == right, what
    if right is None:
        wrong = np.flatnonzero(got != want)
        assert wrong.size == 0, f"{what}: words {wrong[:8]} of memory"


@pytest.mark.parametrize("seed", range(16))
def test_random_control_flow(memory: Memory, single: Executor, seed: int) -> None:
    judge(memory, single, seed)


@pytest.mark.parametrize("seed", range(900, 904))
def test_random_control_flow_translated_generally(memory: Memory, single: Executor, seed: int) -> None:
    single.translator.plan = Plan(general=True)
    judge(memory, single, seed)


def test_a_full_block(memory: Memory, single: Executor) -> None:
    judge(memory, single, 4, (1024, 1, 1))


@pytest.mark.long
@pytest.mark.parametrize("first", range(10_000, 10_000 + 40 * 25, 25))
@pytest.mark.parametrize("general", [False, True], ids=["fast", "general"])
def test_a_thousand_programs(memory: Memory, single: Executor, first: int, general: bool) -> None:
    single.translator.plan = Plan(general=general)
    for seed in range(first, first + 25):
        judge(memory, single, seed)

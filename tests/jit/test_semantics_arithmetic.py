"""Every operation that computes, on hard values: executor and interpreter agree in every bit of every lane.

A kernel holds dozens of random instructions with random operand forms, modifiers and guards; what one leaves,
the next ones use. Only NaNs of double-precision operations may differ (their payload is not promised).
"""

from __future__ import annotations

from random import Random

import pytest

from gpuvm.isa.rows import Row
from gpuvm.jit.executor import Executor
from gpuvm.jit.translate import Plan
from support.compare import check
from support.machine import Memory
from support.operations import ARITHMETIC

THREADS = (32, 32, 17, 33, 64)


def judge(memory: Memory, executor: Executor, rows: list[Row], seed: int) -> None:
    chance = Random(seed)
    threads = chance.choice(THREADS)
    why = check(memory, executor, rows if threads < 64 else rows[:16], seed, threads)
    assert why is None, f"seed {seed}: {why}"


def forms(chance: Random, count: int) -> list[Row]:
    """A row of each operation, and others."""
    by_name: dict[str, list[Row]] = {}
    for row in ARITHMETIC:
        by_name.setdefault(row.name, []).append(row)
    some = [chance.choice(rows) for rows in by_name.values()]
    some += [chance.choice(ARITHMETIC) for _ in range(count - len(some))]
    chance.shuffle(some)
    return some


@pytest.mark.parametrize("part", range(3))
def test_every_operation(memory: Memory, single: Executor, part: int) -> None:
    rows = forms(Random(7), 120)
    judge(memory, single, rows[40 * part : 40 * part + 40], part)


def test_every_operation_in_code_of_any_shape(memory: Memory, single: Executor) -> None:
    single.translator.plan = Plan(general=True)
    judge(memory, single, forms(Random(8), 60)[:40], 100)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("general", [False, True], ids=["fast", "general"])
def test_every_form(memory: Memory, single: Executor, seed: int, general: bool) -> None:
    """All rows of the tables, shuffled, so that every form meets every other's results."""
    single.translator.plan = Plan(general=general)
    rows = list(ARITHMETIC)
    Random(seed).shuffle(rows)
    for first in range(0, len(rows), 50):
        judge(memory, single, rows[first : first + 50], 1000 * seed + first)

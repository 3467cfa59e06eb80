"""FIFO and DIRECT: order of arrival, nothing lost, nothing invented."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.schedulers import SCHEDULERS, Command, DirectScheduler, FifoScheduler


def drain(scheduler: FifoScheduler[str], now: int = 0) -> list[tuple[int, str]]:
    picked = []
    while (command := scheduler.pick(now)) is not None:
        picked.append((command.vm, command.payload))
        scheduler.complete(now, command, 10)
    return picked


def test_commands_run_in_the_order_in_which_they_came() -> None:
    fifo: FifoScheduler[str] = FifoScheduler()
    fifo.add(1)
    fifo.add(2)
    for vm, what in [(1, "a"), (2, "b"), (1, "c"), (1, "d"), (2, "e")]:
        fifo.enqueue(0, Command(vm, what))
    assert drain(fifo) == [(1, "a"), (2, "b"), (1, "c"), (1, "d"), (2, "e")]
    assert fifo.shares[1].used == 30
    assert fifo.shares[2].used == 20


def test_removing_a_vm_drops_its_commands_and_no_others() -> None:
    fifo: FifoScheduler[str] = FifoScheduler()
    fifo.add(1)
    fifo.add(2)
    for vm, what in [(1, "a"), (2, "b"), (1, "c")]:
        fifo.enqueue(0, Command(vm, what))
    assert [command.payload for command in fifo.remove(1)] == ["a", "c"]
    assert drain(fifo) == [(2, "b")]
    with pytest.raises(KeyError):
        fifo.enqueue(0, Command(1, "late"))


def test_a_command_that_ends_after_its_vm_was_removed_is_charged_to_nobody() -> None:
    fifo: FifoScheduler[str] = FifoScheduler()
    fifo.add(1)
    fifo.enqueue(0, Command(1, "a"))
    running = fifo.pick(0)
    assert running is not None
    fifo.remove(1)
    fifo.complete(5, running, 5)
    assert fifo.shares == {}


def test_a_vm_takes_part_once_and_with_a_positive_weight() -> None:
    fifo: FifoScheduler[str] = FifoScheduler()
    fifo.add(1, weight=3)
    with pytest.raises(ValueError, match="must be added to the scheduler once"):
        fifo.add(1)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        fifo.add(2, weight=0)


def test_only_direct_lets_commands_through_side_by_side() -> None:
    assert {name: kind.concurrent for name, kind in SCHEDULERS.items() if name in ("direct", "fifo")} == {
        "direct": True,
        "fifo": False,
    }
    assert issubclass(DirectScheduler, FifoScheduler)


@given(st.lists(st.tuples(st.sampled_from(["enqueue", "pick"]), st.integers(1, 4))))
def test_nothing_is_lost_and_nothing_is_invented(steps: list[tuple[str, int]]) -> None:
    fifo: FifoScheduler[int] = FifoScheduler()
    for vm in range(1, 5):
        fifo.add(vm)
    waiting: list[tuple[int, int]] = []
    for number, (step, vm) in enumerate(steps):
        if step == "enqueue":
            fifo.enqueue(number, Command(vm, number))
            waiting.append((vm, number))
        else:
            command = fifo.pick(number)
            expected = waiting.pop(0) if waiting else None
            assert (None if command is None else (command.vm, command.payload)) == expected
            if command is not None:
                assert command.submitted <= command.started == number
        assert fifo.queued == len(waiting)

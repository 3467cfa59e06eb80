"""What holds for every policy that queues, whatever the guests do: nothing is lost, the GPU does not idle
without need, caps hold, nobody starves."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.schedulers import NAMES, SCHEDULERS, Command, Scheduler, make_scheduler
from support.virtual_gpu import MS, US, Guest, simulate

QUEUING = [name for name, kind in SCHEDULERS.items() if not kind.concurrent]

guests = st.lists(
    st.builds(
        Guest,
        length=st.integers(200 * US, 20 * MS),
        think=st.integers(0, 5 * MS),
        depth=st.integers(1, 4),
        block=st.integers(10 * US, 2 * MS),
        weight=st.integers(1, 4),
        begins=st.integers(0, 50 * MS),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("name", ["fifo", "fair"])
@given(guests)
@settings(max_examples=15, deadline=None)
def test_everyone_is_served_in_time(name: str, vms: list[Guest]) -> None:
    """A launch waits at most for what was queued before it, or for a slice of each VM. CREDIT and BAND
    promise no such thing: one in debt may wait for long."""
    trace = simulate(make_scheduler(name), vms, 600 * MS)
    assert {vm for _, _, vm in trace.runs} == set(range(len(vms)))
    if name == "fifo":
        assert trace.longest_wait <= sum(each.length * each.depth for each in vms)
    elif all(each.depth == 1 and each.weight == 1 for each in vms):
        assert trace.longest_wait <= len(vms) * 12_500 * US + max(each.block for each in vms)


@pytest.mark.parametrize("name", ["fifo", "credit", "fair"])
@given(guests, st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_gpu_idles_only_while_nothing_is_queued_or_it_waits_for_whose_turn_it_is(
    name: str, vms: list[Guest], patient: bool
) -> None:
    """FAIR without patience, FIFO and CREDIT leave no gap in front of a queued launch."""
    scheduler: Scheduler[Any] = make_scheduler(name, patience=0) if name == "fair" else make_scheduler(name)
    for each in vms:
        each.depth = 2
        each.begins = 0
        each.think = 0
    trace = simulate(scheduler, vms, 300 * MS)
    for before, after in pairwise(trace.runs):
        assert after[0] == before[1]


@pytest.mark.parametrize("name", QUEUING)
@given(cap=st.sampled_from([0.05, 0.2, 0.5]), others=st.integers(0, 3), length=st.integers(100 * US, 5 * MS))
@settings(max_examples=15, deadline=None)
def test_a_cap_holds_even_when_nobody_else_wants_the_gpu(
    name: str, cap: float, others: int, length: int
) -> None:
    vms = [Guest(length, depth=4, cap=cap)] + [Guest(3 * MS, think=20 * MS) for _ in range(others)]
    trace = simulate(make_scheduler(name), vms, 2000 * MS)
    use = trace.use(0, 2000 * MS)[0]
    assert use <= cap * 2000 * MS + 20 * MS * cap + length
    if others == 0:
        assert use >= 0.9 * cap * 2000 * MS - length


@pytest.mark.parametrize("name", QUEUING)
@given(st.lists(st.tuples(st.sampled_from("epdcrw"), st.integers(0, 3), st.integers(0, 3 * MS)), max_size=80))
@settings(max_examples=40, deadline=None)
def test_no_sequence_of_events_loses_or_invents_a_command(
    name: str, events: list[tuple[str, int, int]]
) -> None:
    """Enqueue, pick, preempt (d), complete, remove and add again, withdraw, in any order."""
    scheduler: Scheduler[int] = make_scheduler(name)
    for vm in range(4):
        scheduler.add(vm, vm + 1, 0.5 if vm == 3 else None)
    waiting: set[int] = set()
    running: Command[int] | None = None
    commands: dict[int, Command[int]] = {}
    now = number = 0
    for what, vm, wait in events:
        now += wait
        scheduler.replenish(now)
        if what == "e":
            number += 1
            commands[number] = Command(vm, number)
            scheduler.enqueue(now, commands[number])
            waiting.add(number)
        elif what == "p" and running is None:
            running = scheduler.pick(now)
            if running is not None:
                waiting.remove(running.payload)
        elif what in "dc" and running is not None:
            if what == "c":
                scheduler.complete(now, running, wait)
            else:
                scheduler.preempt(now, running, wait)
                if running.vm in scheduler.shares:
                    waiting.add(running.payload)
            running = None
        elif what == "r":
            dropped = {command.payload for command in scheduler.remove(vm)}
            assert dropped == {each for each in waiting if commands[each].vm == vm}
            waiting -= dropped
            if running is not None and running.vm == vm:
                scheduler.complete(now, running, wait)
                running = None
            scheduler.add(vm, 1)
        elif what == "w" and waiting:
            chosen = min(waiting)
            scheduler.withdraw(now, commands[chosen])
            waiting.remove(chosen)
        assert scheduler.queued == len(waiting)
        due = scheduler.deadline(now)
        assert due is None or running is not None
    if running is not None:
        scheduler.complete(now, running, 1)
    for _ in range(1000):
        if not waiting:
            break
        command = scheduler.pick(now)
        if command is None:
            due = scheduler.next_event_time(now)
            assert due is not None, "what is queued must come out at some time"
            assert due >= now
            now = max(due, now + 1)
            scheduler.replenish(now)
            continue
        waiting.remove(command.payload)
        scheduler.complete(now, command, 10 * US)
    assert not waiting


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_policy(name: str) -> None:
    scheduler = make_scheduler(name)
    scheduler.add(1, 2)
    command: Command[None] = Command(1, None)
    scheduler.enqueue(0, command)
    assert scheduler.pick(0) is command


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="must be one of direct, fifo, credit"):
        make_scheduler("lottery")
    with pytest.raises(ValueError, match="scheduler fifo must be given its own parameters only, got period"):
        make_scheduler("fifo", period=3)
    with pytest.raises(ValueError, match="period must be above 0"):
        make_scheduler("band", period=0)
    with pytest.raises(ValueError, match="cap must be a part of the GPU above 0 and up to 1, got 2"):
        make_scheduler("fair").add(1, cap=2)
    with pytest.raises(ValueError, match="must queue commands to keep caps"):
        make_scheduler("direct").add(1, cap=0.5)
    assert make_scheduler("credit-2013").period == 500 * MS
    assert make_scheduler("credit-50us").period == 50 * US

"""FAIR: shares in every window, turns, what sleeping earns (nothing), and that a round ends."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from gpuvm.schedulers import Command, FairScheduler, make_scheduler
from support.virtual_gpu import MS, US, Guest, Trace, simulate

WINDOW = 500 * MS
SWITCH = 50 * US


def short(depth: int, **more: Any) -> Guest:
    return Guest(600 * US, 250 * US if depth == 1 else 0, depth, 60 * US, **more)


def long(depth: int, **more: Any) -> Guest:
    return Guest(40 * MS, 300 * US if depth == 1 else 0, depth, 50 * US, **more)


def worst_error(trace: Trace, guests: list[Guest], end: int) -> float:
    """Largest relative error of a share over all windows after the first second."""
    weights = sum(guest.weight for guest in guests)
    worst = 0.0
    for begin in range(1000 * MS, end - WINDOW, 37 * MS):
        shares = trace.shares(begin, begin + WINDOW)
        for vm, guest in enumerate(guests):
            worst = max(worst, abs(shares[vm] * weights / guest.weight - 1))
    return worst


@pytest.mark.parametrize("depth", [1, 8])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_shares_hold_in_every_window(count: int, depth: int) -> None:
    guests = [short(depth) if number % 2 else long(depth) for number in range(count)]
    trace = simulate(make_scheduler("fair"), guests, 4000 * MS, SWITCH)
    assert worst_error(trace, guests, 4000 * MS) < 0.01


@pytest.mark.parametrize("depth", [1, 8])
def test_weights_count(depth: int) -> None:
    guests = [short(depth), long(depth, weight=2), short(depth, weight=5)]
    trace = simulate(make_scheduler("fair"), guests, 4000 * MS, SWITCH)
    assert worst_error(trace, guests, 4000 * MS) < 0.01


def test_one_that_waits_for_each_launch_gets_as_much_as_one_that_queues() -> None:
    guests = [short(1), short(8), long(1), long(8)]
    trace = simulate(make_scheduler("fair"), guests, 4000 * MS, SWITCH)
    assert worst_error(trace, guests, 4000 * MS) < 0.01


@given(
    st.lists(
        st.builds(
            Guest,
            length=st.integers(200 * US, 60 * MS),
            think=st.integers(0, 500 * US),
            depth=st.sampled_from([1, 4]),
            block=st.integers(10 * US, 300 * US),
            weight=st.integers(1, 3),
        ),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=10, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_bounded_lag_for_any_mix(guests: list[Guest]) -> None:
    """Whatever the mix of guests that come back within the patience, no window is off by more than what a
    round carries over: a few blocks and pauses. They use the GPU for at least half the time that they hold
    it."""
    for guest in guests:
        guest.think = min(guest.think, guest.length)
    trace = simulate(make_scheduler("fair"), guests, 3000 * MS, SWITCH)
    weights = sum(guest.weight for guest in guests)
    for begin in range(1000 * MS, 2500 * MS, 83 * MS):
        use = trace.use(begin, begin + WINDOW)
        total = sum(use.values())
        for vm, guest in enumerate(guests):
            entitled = total * guest.weight / weights
            assert abs(use[vm] - entitled) < 8 * MS + 2 * guest.block


@pytest.mark.parametrize("count", [2, 4, 8])
def test_no_launch_waits_longer_than_a_slice_for_each_vm_and_a_block(count: int) -> None:
    rng = random.Random(count)
    guests = [
        Guest(
            rng.choice([300 * US, 2 * MS, 40 * MS, 200 * MS]),
            rng.choice([0, 300 * US, 3 * MS]),
            block=rng.choice([20 * US, 500 * US]),
            begins=rng.randrange(100 * MS),
        )
        for _ in range(count)
    ]
    scheduler: FairScheduler[Any] = FairScheduler()
    trace = simulate(scheduler, guests, 4000 * MS, SWITCH)
    assert trace.longest_wait <= count * (scheduler.slice + SWITCH) + 500 * US


def test_alone_a_vm_is_never_switched_out() -> None:
    trace = simulate(make_scheduler("fair"), [Guest(200 * MS, 100 * US)], 2000 * MS, SWITCH)
    assert all(end - start == 200 * MS for start, end, _ in trace.runs[:-1])


def test_what_nobody_else_wanted_is_free() -> None:
    """A VM that had the GPU for itself for a second owes nothing when another one comes."""
    guests = [long(4), long(4, begins=1000 * MS)]
    trace = simulate(make_scheduler("fair"), guests, 1600 * MS, SWITCH)
    shares = trace.shares(1000 * MS, 1500 * MS)
    assert shares[0] == pytest.approx(0.5, abs=0.03)


def test_sleeping_earns_nothing() -> None:
    guests = [long(4), long(4), Guest(40 * MS, 0, 4, 50 * US, begins=0, ends=100 * MS)]
    later = [long(4), long(4), Guest(40 * MS, 0, 4, 50 * US, begins=1500 * MS)]
    for mix in (guests, later):
        trace = simulate(make_scheduler("fair"), mix, 2600 * MS, SWITCH)
        shares = trace.shares(1600 * MS, 2600 * MS)
        present = 3 if mix is later else 2
        for vm in range(present):
            assert shares[vm] == pytest.approx(1 / present, rel=0.03)


def test_one_that_thinks_for_longer_than_it_is_waited_for_gets_what_it_asks_for() -> None:
    """It asks for a tenth of the GPU: it gets it at once, and the other one all the rest."""
    guests = [Guest(600 * US, 5 * MS, 1, 60 * US), long(4)]
    trace = simulate(make_scheduler("fair"), guests, 3000 * MS, SWITCH)
    shares = trace.shares(1000 * MS, 3000 * MS)
    assert shares[0] > 0.95 * 600 / 5600 * 0.95
    assert sum(trace.use(1000 * MS, 3000 * MS).values()) > 0.96 * 2000 * MS
    late = sorted(trace.latencies[0])
    assert late[len(late) // 2] < 2500 * US


def test_one_that_holds_the_gpu_and_hardly_uses_it_does_not_hold_it_for_long() -> None:
    """Tiny launches just within the patience: the other one still gets most of the GPU."""
    guests = [Guest(10 * US, 900 * US), long(4)]
    trace = simulate(make_scheduler("fair"), guests, 3000 * MS, SWITCH)
    assert trace.use(1000 * MS, 3000 * MS)[1] > 0.42 * 2000 * MS


def test_short_commands_are_not_cut_where_a_little_grace_ends_them() -> None:
    scheduler: FairScheduler[None] = FairScheduler()
    scheduler.add(1)
    scheduler.add(2)
    for vm in (1, 2):
        for _ in range(200):
            scheduler.enqueue(0, Command(vm, None))
    now, order = 0, []
    while now < 48 * MS:
        command = scheduler.pick(now)
        assert command is not None
        due = scheduler.deadline(now)
        assert due is None or due >= now + 150 * US
        now += 150 * US
        order.append(command.vm)
        scheduler.complete(now, command, 150 * US)
    turns = 1 + sum(a != b for a, b in pairwise(order))
    assert turns <= 5, "150 us commands in turns of 10 ms"


def test_parameters_must_make_sense() -> None:
    with pytest.raises(ValueError, match="0 < quantum <= slice <= window"):
        FairScheduler(slice=10, quantum=20)
    with pytest.raises(ValueError, match="patience must be 0 ns or more"):
        FairScheduler(patience=-1)

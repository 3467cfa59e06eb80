"""The simulator's schedules by hand, its sums, and its promise: one seed, one result."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.lab.simulation import reference
from gpuvm.lab.simulation.engine import simulate_gpu
from gpuvm.lab.simulation.fleet import Settings, Task, Tenant, entitlements, make_tenants, place
from gpuvm.lab.simulation.program import Program, compile_stream
from gpuvm.lab.simulation.run import digest, simulate
from gpuvm.lab.simulation.statistics import (
    Histogram,
    Latencies,
    bucket_value,
    buckets,
    jain,
    merged,
    summarize,
)
from gpuvm.lab.traces import Entry, Stream
from gpuvm.schedulers import NAMES

MS = 1_000_000
SHORT = Program("short", [0], [1 * MS], [1 * MS])
LONG = Program("long", [0], [9 * MS], [9 * MS])


def test_under_fifo_two_machines_that_wait_take_turns_whatever_a_turn_takes() -> None:
    task = Task(0, (Tenant(0, 0), Tenant(1, 1)))
    result = simulate_gpu(task, [SHORT, LONG], Settings("fifo", 1000 * MS, window=500 * MS))
    assert result.launches.tolist() == [100, 99]  # the last one ends when time does
    assert result.used.tolist() == [100 * MS, 900 * MS]
    assert result.windows.tolist() == [[50 * MS, 450 * MS]] * 2
    assert result.longest.tolist() == [10 * MS, 10 * MS]
    assert result.busy == 1000 * MS


def test_a_machine_that_thinks_leaves_the_gpu_to_others() -> None:
    thinker = Program("thinker", [3 * MS], [1 * MS], [1 * MS])
    result = simulate_gpu(Task(0, (Tenant(0, 0),)), [thinker], Settings("fifo", 4000 * MS))
    assert result.used.tolist() == [1000 * MS]
    assert result.entitled.tolist() == [0.25]


def test_queued_commands_hide_the_machine_s_own_time() -> None:
    thinker = Program("thinker", [1 * MS], [1 * MS], [1 * MS])
    closed, queued = (
        simulate_gpu(Task(0, (Tenant(0, 0, depth=depth),)), [thinker], Settings("fifo", 1000 * MS))
        for depth in (1, 8)
    )
    assert closed.launches.tolist() == [500]
    assert abs(queued.launches[0] - 1000) <= 2


def test_time_is_cut_where_it_ends_and_windows_are_exact() -> None:
    result = simulate_gpu(Task(0, (Tenant(0, 0),)), [LONG], Settings("fifo", 100 * MS, window=7 * MS))
    assert result.busy == 100 * MS
    assert result.windows.ravel().tolist() == [7 * MS] * 14


programs = st.builds(
    lambda rows: Program("p", [r[0] for r in rows], [r[1] for r in rows], [min(r[1], r[2]) for r in rows]),
    st.lists(
        st.tuples(st.integers(0, 3 * MS), st.integers(20_000, 3 * MS), st.integers(1, MS)),
        min_size=1,
        max_size=5,
    ),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(programs, min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 5), st.integers(0, 9))
def test_the_gpus_may_be_simulated_in_any_order(made: list[Program], vms: int, gpus: int, seed: int) -> None:
    chosen = Settings("fifo", 30 * MS, seed=seed, window=10 * MS, jitter=0.3)
    tasks = place(make_tenants(vms, len(made), (1, 3), (1, 4)), gpus, made, "least-loaded")
    there, back = simulate(tasks, made, chosen), simulate(tasks[::-1], made, chosen)
    assert digest(there) == digest(back)
    assert summarize(there, chosen.until, chosen.window) == summarize(back, chosen.until, chosen.window)
    for result in there:
        assert result.busy == result.used.sum() <= chosen.until
        assert (result.windows.sum(axis=0) == result.used).all()
        assert result.counts.sum() == result.launches.sum()


def test_another_seed_is_another_schedule() -> None:
    made = [Program("p", [1 * MS, 2 * MS, 5 * MS], [2 * MS, 1 * MS, 4 * MS], [MS, MS, MS])]
    tasks = place(make_tenants(6, 1), 2, made)
    first, second = (simulate(tasks, made, Settings("fifo", 500 * MS, seed=seed)) for seed in (1, 2))
    assert digest(first) != digest(second)


def test_shares_are_by_weight_and_no_machine_is_owed_more_than_it_would_use() -> None:
    idle = Program("idle", [9 * MS], [1 * MS], [1 * MS])
    task = Task(0, (Tenant(0, 0), Tenant(1, 1, weight=2), Tenant(2, 1, weight=1)))
    assert entitlements(task, [idle, LONG]) == pytest.approx([0.1, 0.6, 0.3])


def test_least_loaded_puts_the_next_machine_where_least_is_asked_for() -> None:
    idle = Program("idle", [9 * MS], [1 * MS], [1 * MS])
    tenants = make_tenants(6, 2)  # busy, idle, busy, idle, …
    tasks = place(tenants, 2, [LONG, idle], "least-loaded")
    assert [[tenant.vm for tenant in task.tenants] for task in tasks] == [[0, 3, 4], [1, 2, 5]]


def test_a_stream_becomes_a_program_in_either_time() -> None:
    entries = [
        Entry(1, "C", 100, 10, 1000, 20, 0, 0),
        Entry(1, "L", 200, 12, 2000, 40, 1120, 8960),  # 8 warps a block: 6 blocks an SM, 84 at once
    ]
    stream = Stream("vm0", "fv", "HS", "small", entries, tail_ns=7, tail_wall_ns=9)
    assert compile_stream(stream) == Program("HS/fv", [107, 200], [10, 12], [10, 1])
    assert compile_stream(stream, "wall", resident=True) == Program("HS/fv", [0, 2000], [20, 40], [20, 1])
    assert compile_stream(Stream("vm0", "fv", "NOP", "small")) is None


values = st.lists(st.one_of(st.integers(0, 2000), st.integers(0, 1 << 60)), min_size=1, max_size=50)


@given(values)
def test_a_bucket_holds_its_value_within_the_promised_width(numbers: list[int]) -> None:
    for value, bucket in zip(numbers, buckets(np.array(numbers)).tolist(), strict=True):
        assert value <= bucket_value(bucket) <= value * (1 + 2**-8)


@given(values)
def test_percentiles_are_those_of_the_sorted_values(numbers: list[int]) -> None:
    histogram, latencies, few = Histogram(), Latencies(), Latencies()
    histogram.add(numbers)
    few.pending += numbers
    for value in numbers:
        latencies.pending.append(value)
        latencies.flush()
    both = Histogram()
    both.merge(*merged([latencies, few]))
    assert (both.counts == 2 * histogram.counts).all()
    ordered = sorted(numbers)
    for percent in (1, 50, 90, 99, 100):
        exact = ordered[max(-(-len(ordered) * percent // 100), 1) - 1]
        assert exact <= histogram.percentile(percent) <= exact * (1 + 2**-8)
        assert latencies.percentiles(percent) == few.percentiles(percent) == [histogram.percentile(percent)]


def test_jain() -> None:
    assert jain(np.array([2.0, 2.0, 2.0])) == pytest.approx(1)
    assert jain(np.array([1.0, 0.0, 0.0, 0.0])) == pytest.approx(0.25)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(programs, min_size=1, max_size=3),
    st.integers(0, 6),
    st.sampled_from([(1,), (3,), (1, 2, 8)]),
    st.sampled_from(NAMES),
    st.sampled_from([0.0, 0.5]),
    st.integers(0, 5),
)
def test_the_fast_engine_and_simpy_come_to_the_same(
    made: list[Program], vms: int, depths: tuple[int, ...], scheduler: str, jitter: float, seed: int
) -> None:
    chosen = Settings(scheduler, 40 * MS, seed=seed, window=10 * MS, jitter=jitter, switch=20_000)
    task = Task(3, tuple(make_tenants(vms, len(made), (1, 2), depths)))
    assert digest([simulate_gpu(task, made, chosen)]) == digest([reference.simulate_gpu(task, made, chosen)])


def test_fair_takes_the_gpu_from_a_long_launch_where_a_block_ends() -> None:
    long = Program("long", [0], [80 * MS], [3 * MS])
    chosen = Settings("fair", 3000 * MS, switch=20_000)
    task = Task(0, (Tenant(0, 0), Tenant(1, 1, weight=2)))
    result = simulate_gpu(task, [SHORT, long], chosen)
    assert digest([result]) == digest([reference.simulate_gpu(task, [SHORT, long], chosen)])
    assert result.switches > 50
    assert (result.used / result.used.sum()).tolist() == pytest.approx([1 / 3, 2 / 3], rel=0.02)
    assert result.longest[0] < 80 * MS  # under fifo it would wait for all of the other's launch
    blocks = Program("blocks", [0], [80 * MS], [80 * MS])
    assert simulate_gpu(task, [SHORT, blocks], chosen).switches == 0  # a copy has no block boundary


def test_direct_lets_the_channels_take_turns() -> None:
    task = Task(0, (Tenant(0, 0, depth=8), Tenant(1, 1)))
    result = simulate_gpu(task, [SHORT, LONG], Settings("direct", 1000 * MS))
    assert result.launches[0] == pytest.approx(result.launches[1], abs=2)  # fifo would run eight for each

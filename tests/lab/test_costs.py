"""The cost model: the same events always cost the same, and the figures stand where the papers' do."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gpuvm.lab.costs import COSTS, device_seconds, table

EVENTS = st.dictionaries(st.sampled_from([cost.event for cost in COSTS]), st.integers(0, 10**9))


def test_each_event_is_listed_once_and_costs_something() -> None:
    events = [cost.event for cost in COSTS]
    assert len(set(events)) == len(events)
    assert all(cost.seconds > 0 and cost.reason for cost in COSTS)


@given(EVENTS, EVENTS)
def test_more_events_never_take_less_time(some: dict[str, int], more: dict[str, int]) -> None:
    both = {name: some.get(name, 0) + more.get(name, 0) for name in some | more}
    assert device_seconds(both) >= max(device_seconds(some), device_seconds(more))
    assert device_seconds(both) <= device_seconds(some) + device_seconds(more) + 1e-9 * device_seconds(both)


def test_unlisted_events_are_free() -> None:
    assert device_seconds({"compile_ns": 5, "no such event": 3}) == 0


def test_memory_and_arithmetic_overlap_on_the_gpu() -> None:
    arithmetic, memory = {"warp_instructions": 10**9}, {"global_transactions": 10**6}
    assert device_seconds(arithmetic | memory) == max(device_seconds(arithmetic), device_seconds(memory))


def test_a_trapped_access_costs_many_direct_ones() -> None:
    assert device_seconds({"traps_bar0_write": 1}) > 10 * device_seconds({"direct_bar0_write": 1})


def test_the_pinned_copy_of_the_papers_takes_about_what_the_card_took() -> None:
    there_and_back = device_seconds(
        {"bytes_host_to_device": 256 << 20, "bytes_device_to_host": 256 << 20, "copies": 2}
    )
    assert 0.08 < there_and_back < 0.16  # 160 ms with the allocation of the pinned memory


def test_one_naive_pass_over_a_directory_takes_milliseconds() -> None:
    assert (
        5e-3
        < device_seconds({"shadow_passes": 1, "shadow_reads": 2 * 8192, "shadow_writes": 2 * 8192})
        < 50e-3
    )


def test_the_document_prints_this_table() -> None:
    document = Path(__file__).parents[2] / "docs" / "costs.md"
    assert table() in document.read_text()

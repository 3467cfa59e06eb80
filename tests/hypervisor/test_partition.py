"""Ranges are handed out without overlap, merged when they come back, and refused in one sentence when they
run out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.partition import Range, RangeAllocator


def test_a_freed_range_joins_its_neighbours() -> None:
    channels = RangeAllocator("channels", 0, 128)
    a, b, c = (channels.allocate(32) for _ in range(3))
    channels.release(a)
    channels.release(c)
    assert channels.largest == 64
    channels.release(b)
    assert (channels.free, channels.largest, channels.used) == (128, 128, 0)


def test_asking_for_too_much_says_what_is_free() -> None:
    channels = RangeAllocator("channels", 0, 128)
    channels.allocate(100)
    with pytest.raises(
        OutOfResourcesError, match=r"29 channels must be free in one piece, .* has 28 \(of 28 free\)"
    ):
        channels.allocate(29)
    assert channels.free == 28


def test_what_was_not_handed_out_cannot_come_back() -> None:
    channels = RangeAllocator("channels", 0, 128)
    taken = channels.allocate(8)
    channels.release(taken)
    for wrong in (taken, Range(64, 8)):
        with pytest.raises(ValueError, match="must have been handed out"):
            channels.release(wrong)


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from([1, 2, 4, 16]), st.booleans()), max_size=40))
def test_ranges_never_overlap_and_stay_inside(steps: list[tuple[int, int, bool]]) -> None:
    allocator = RangeAllocator("units", 3, 200)
    held: list[Range] = []
    for size, alignment, free_first in steps:
        if free_first and held:
            allocator.release(held.pop(size % len(held)))
        try:
            taken = allocator.allocate(size, alignment)
        except OutOfResourcesError:
            continue
        assert taken.base % alignment == 0
        assert taken.base >= 3
        assert taken.end <= 203
        assert all(taken.end <= other.base or other.end <= taken.base for other in held)
        held.append(taken)
        assert allocator.free == 200 - sum(r.size for r in held)
    for taken in held:
        allocator.release(taken)
    assert allocator.largest == 200

"""The range allocator never hands out a byte twice, and gets everything back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.guest.machine import RamPages
from gpuvm.guest.ranges import OutOfSpace, RangeAllocator
from gpuvm.pci.memory import PAGE, MemoryRegion

STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(1, 5000), st.sampled_from([0, 16, 256, 4096]), st.integers(0, 1000)),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_ranges_never_overlap_and_all_come_back(steps: list[tuple[bool, int, int, int]]) -> None:
    ranges = RangeAllocator(0x100, 64 << 10, 16, "test")
    held: list[tuple[int, int]] = []
    for allocate, size, align, which in steps:
        if allocate:
            if ranges.largest(align) < -(-size // 16) * 16:
                with pytest.raises(OutOfSpace):
                    ranges.allocate(size, align)
                continue
            at = ranges.allocate(size, align)
            assert at % max(align, 16) == 0
            assert all(at + size <= other or other + length <= at for other, length in held)
            held.append((at, size))
        elif held:
            ranges.free(*held.pop(which % len(held)))
    for at, size in held:
        ranges.free(at, size)
    assert ranges.free_bytes == 64 << 10 == ranges.largest()


def test_a_reserved_range_is_not_handed_out() -> None:
    ranges = RangeAllocator(0, 4096, 1, "test")
    ranges.reserve(100, 50)
    with pytest.raises(OutOfSpace, match="test must have a free range of 10 bytes"):
        ranges.reserve(149, 10)
    assert ranges.allocate(100) == 0
    assert ranges.allocate(1) == 150


def test_ram_pages_come_in_few_runs_and_read_zero_again() -> None:
    memory = MemoryRegion(64 * PAGE)
    pages = RamPages(memory, reserved=PAGE)
    first, second, third = (pages.allocate(16 * PAGE) for _ in range(3))
    memory.write(second[0][0], b"\xff" * PAGE)
    pages.free(second)
    assert memory.read(second[0][0], PAGE) == bytes(PAGE)
    scattered = pages.allocate(24 * PAGE)
    assert len(scattered) == 2
    assert sum(size for _, size in scattered) == 24 * PAGE
    with pytest.raises(OutOfSpace):
        pages.allocate(16 * PAGE, contiguous=True)
    for runs in (first, third, scattered):
        pages.free(runs)
    assert pages.used_bytes == 0
    memory.close()

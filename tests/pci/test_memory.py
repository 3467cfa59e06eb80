"""Host memory and the bus address space that devices reach it through."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.pci.memory import BusMemory, DmaError, MemoryRegion


def allocated(region: MemoryRegion) -> int:
    return os.fstat(region.fd).st_blocks * 512


def test_memory_costs_what_is_touched_and_zeroing_gives_it_back():
    region = MemoryRegion(1 << 30)
    assert allocated(region) == 0
    region.write(0x1800, b"x" * 0x4000)
    assert allocated(region) == 5 * 4096
    region.zero(0x1800, 0x4000)
    assert allocated(region) == 2 * 4096
    assert region.read(0x1800, 0x4000) == bytes(0x4000)
    region.close()


def test_closing_gives_the_memory_back_at_once_even_if_an_array_is_still_held():
    region = MemoryRegion(1 << 20)
    region.bytes[:] = 7
    held, copy = region.bytes, os.dup(region.fd)
    region.close()
    region.close()
    assert os.fstat(copy).st_blocks == 0
    assert held[5] == 0
    os.close(copy)


def test_memory_of_another_process_is_left_alone():
    first = MemoryRegion(8192)
    first.write(4096, b"abcd")
    second = MemoryRegion(4096, fd=os.dup(first.fd), offset=4096)
    assert second.read(0, 4) == b"abcd"
    second.close()
    assert first.read(4096, 4) == b"abcd"
    first.close()


@pytest.fixture
def bus():
    regions = [MemoryRegion(0x3000, "low"), MemoryRegion(0x2000, "high")]
    made = BusMemory()
    made.add(0x1000, regions[0])
    made.add(0x4000, regions[1])
    yield made
    for region in regions:
        region.close()


def test_a_range_may_cross_regions(bus):
    bus.write(0x3FFE, b"abcd")
    assert [(region.name, offset, size) for region, offset, size in bus.spans(0x3FFE, 4)] == [
        ("low", 0x2FFE, 2),
        ("high", 0, 2),
    ]
    assert bus.read(0x3FFE, 4) == b"abcd"


@pytest.mark.parametrize("address", [0, 0xFFF, 0x6000, 1 << 40])
def test_an_address_without_memory_is_named(bus, address):
    with pytest.raises(DmaError) as caught:
        bus.find(address)
    assert caught.value.address == address


def test_a_write_that_leaves_memory_writes_nothing(bus):
    with pytest.raises(DmaError):
        bus.write(0x5FFF, b"xy")
    assert bus.read(0x5FFF, 1) == b"\0"


def test_regions_may_not_overlap(bus):
    with pytest.raises(ValueError, match="must not overlap 'low' at 0x1000"):
        bus.add(0x2000, MemoryRegion(0x1000, "late"))


def test_a_region_can_be_taken_out(bus):
    assert bus.remove(0x1000).name == "low"
    with pytest.raises(DmaError):
        bus.find(0x1000)


@settings(max_examples=30)
@given(st.integers(0x1000, 0x5FFF), st.binary(max_size=0x100))
def test_what_is_written_is_read(address, data):
    region = MemoryRegion(0x5000)
    bus = BusMemory()
    bus.add(0x1000, region)
    data = data[: 0x6000 - address]
    bus.write(address, data)
    assert bus.read(address, len(data)) == data
    region.close()

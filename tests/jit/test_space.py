"""The host alias of a GPU address space: mapping, taking away, checked reads and writes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from gpuvm.jit.space import PAGE, VA_SIZE, AccessError, AddressSpace
from gpuvm.pci.memory import MemoryRegion


@pytest.fixture
def memory() -> Iterator[MemoryRegion]:
    made = MemoryRegion(64 * PAGE, "space-test")
    yield made
    made.close()


@pytest.fixture
def space() -> Iterator[AddressSpace]:
    made = AddressSpace()
    yield made
    made.close()


def test_the_same_bytes_at_two_addresses(space: AddressSpace, memory: MemoryRegion) -> None:
    space.map(0x10000, 2 * PAGE, memory.fd, 0, True)
    space.map(VA_SIZE - PAGE, PAGE, memory.fd, PAGE, True)
    space.write(0x10000 + PAGE + 4, b"fermi")
    assert space.read(VA_SIZE - PAGE + 4, 5) == b"fermi"
    assert memory.read(PAGE + 4, 5) == b"fermi"


def test_what_is_not_mapped_cannot_be_read(space: AddressSpace, memory: MemoryRegion) -> None:
    space.map(0x10000, PAGE, memory.fd, 0, True)
    with pytest.raises(AccessError) as caught:
        space.read(0x10FF0, 32)
    assert (caught.value.va, caught.value.write) == (0x11000, False)


def test_a_read_only_page_is_read_only(space: AddressSpace, memory: MemoryRegion) -> None:
    space.map(0x10000, PAGE, memory.fd, 0, False)
    assert space.read(0x10000, 4) == bytes(4)
    with pytest.raises(AccessError) as caught:
        space.write(0x10000, b"x")
    assert caught.value.write


def test_neighbours_become_one_range_and_a_hole_two(space: AddressSpace, memory: MemoryRegion) -> None:
    for n in (2, 0, 1, 3):
        space.map(0x40000 + n * PAGE, PAGE, memory.fd, n * PAGE, True)
    assert list(space.ranges()) == [(0x40000, 0x44000, True)]
    space.unmap(0x41000, PAGE)
    assert list(space.ranges()) == [(0x40000, 0x41000, True), (0x42000, 0x44000, True)]
    space.clear()
    assert space.mapped == 0


def test_many_maps_and_unmaps_keep_the_books(space: AddressSpace, memory: MemoryRegion) -> None:
    rng = random.Random(1)
    model: dict[int, int] = {}
    for _ in range(300):
        first, count = rng.randrange(40), rng.randrange(1, 6)
        if rng.random() < 0.6:
            offset = rng.randrange(50)
            space.map(first * PAGE, count * PAGE, memory.fd, offset * PAGE, True)
            model.update({first + n: offset + n for n in range(count)})
        else:
            space.unmap(first * PAGE, count * PAGE)
            for n in range(count):
                model.pop(first + n, None)
    covered = {page for start, end, _ in space.ranges() for page in range(start // PAGE, end // PAGE)}
    assert covered == set(model)
    for page, offset in model.items():
        memory.write(offset * PAGE, offset.to_bytes(4, "little"))
        assert space.read(page * PAGE, 4) == offset.to_bytes(4, "little")


@pytest.mark.parametrize(("va", "size"), [(1, PAGE), (0, 100), (VA_SIZE, PAGE), (-PAGE, PAGE)])
def test_a_mapping_must_lie_in_forty_bits_of_pages(
    space: AddressSpace, va: int, size: int, memory: MemoryRegion
) -> None:
    with pytest.raises(ValueError, match="must lie in 40 bits"):
        space.map(va, size, memory.fd, 0, True)


def test_idle_spaces_cost_nothing() -> None:
    spaces = [AddressSpace() for _ in range(1000)]
    assert all(space.mapped == 0 for space in spaces)

"""Shadow page tables against a plain walker of the guest's tables: same translation inside the guest's
memory, nothing outside."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.partition import Range, RangeAllocator
from gpuvm.hypervisor.shadow import BarTable, ShadowPool, ShadowSpace
from gpuvm.pci.memory import BusMemory, MemoryRegion

MIB = 1 << 20
BASE, SIZE = 16 * MIB, 16 * MIB
WINDOW = 3 << 33
DIRECTORY = 0x10000
TABLES = 0x40000
LIMIT = (1 << 40) - 1


class Bench:
    """A card with one guest on it, whose RAM lies at 0-4 MiB and 1 GiB-1 GiB+1 MiB of its bus."""

    def __init__(self) -> None:
        self.vram = MemoryRegion(64 * MIB)
        self.ram = [MemoryRegion(4 * MIB), MemoryRegion(MIB)]
        self.own = RangeAllocator("bytes", 48 * MIB, 16 * MIB)
        self.memory = GuestMemory(self.vram, Range(BASE, SIZE), WINDOW)
        self.memory.bus = BusMemory()
        self.memory.bus.add(0, self.ram[0])
        self.memory.bus.add(1 << 30, self.ram[1])
        self.pool = ShadowPool(self.vram, self.own, 12 * MIB, 0)
        self.counters = Counters()
        self.space = ShadowSpace(self.memory, self.pool, DIRECTORY, LIMIT)

    def directory(self, index: int, big: int = 0, small: int = 0) -> None:
        struct.pack_into("<II", self.vram.view, BASE + DIRECTORY + 8 * index, big, small)

    def entry(self, table: int, index: int, low: int, high: int) -> None:
        struct.pack_into("<II", self.vram.view, BASE + table + 8 * index, low, high)

    def rebuild(self) -> Counters:
        before = self.counters.snapshot()
        self.space.rebuild(self.counters)
        return self.counters.since(before)

    def close(self) -> None:
        self.space.close()
        self.pool.close()
        assert self.own.used == 0
        self.vram.close()
        for region in self.ram:
            region.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def vram_entry(address: int, flags: int = 1) -> tuple[int, int]:
    return address >> 8 | flags, 0


def system_entry(address: int, aperture: int = 2) -> tuple[int, int]:
    return address >> 8 & 0xFFFFFFF0 | 1, aperture << 1 | 1


def test_a_page_of_video_memory_moves_into_the_partition(bench: Bench) -> None:
    bench.directory(4, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 7, *vram_entry(0x123000))
    bench.rebuild()
    assert bench.space.resolve((4 << 27) + 0x7ABC) == (BASE + 0x123ABC, 0)
    assert bench.space.resolve((4 << 27) + 0x8ABC) is None


def test_a_large_page_moves_too_and_small_pages_come_first(bench: Bench) -> None:
    bench.directory(0, big=TABLES >> 8 | 1, small=(TABLES + 0x80000) >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(0x200000))
    bench.entry(TABLES + 0x80000, 3, *vram_entry(0x5000))
    bench.rebuild()
    assert bench.space.resolve(0x1234) == (BASE + 0x201234, 0)
    assert bench.space.resolve(0x3234) == (BASE + 0x5234, 0)


def test_a_frame_of_the_guests_ram_moves_into_its_window(bench: Bench) -> None:
    bench.directory(0, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *system_entry(0x3FF000))
    bench.entry(TABLES, 1, *system_entry((1 << 30) + 0x1000, aperture=3))
    counted = bench.rebuild()
    assert bench.space.resolve(0x10) == (WINDOW + 0x3FF010, 2)
    assert bench.space.resolve(0x1010) == (WINDOW + (1 << 30) + 0x1010, 3)
    assert counted.hypercalls == 2
    assert counted.denied_addresses == 0


@pytest.mark.parametrize(
    ("what", "entry"),
    [
        ("video memory behind the partition", vram_entry(SIZE)),
        ("the last address that an entry can hold", vram_entry((1 << 40) - 0x1000)),
        ("the hypervisor's own memory, counted from the partition", vram_entry(32 * MIB)),
        ("RAM that the VM does not have", system_entry(4 * MIB)),
        ("the hole between the two parts of RAM", system_entry(512 * MIB)),
        ("another VM's window", system_entry(1 << 33)),
        ("the reserved aperture", (0x1000 >> 8 | 1, 1 << 1)),
    ],
)
def test_what_is_not_the_guests_becomes_not_present(bench: Bench, what: str, entry: tuple[int, int]) -> None:
    bench.directory(0, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *entry)
    bench.entry(TABLES, 1, *vram_entry(0x1000))
    counted = bench.rebuild()
    assert bench.space.resolve(0) is None, what
    assert bench.space.resolve(0x1000) == (BASE + 0x1000, 0)
    assert counted.denied_addresses == 1


def test_a_large_page_that_only_begins_inside_is_refused(bench: Bench) -> None:
    odd = MemoryRegion(0x30000)
    bench.ram.append(odd)
    bench.memory.bus.add(2 << 30, odd)
    bench.directory(0, big=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *system_entry(2 << 30))
    bench.entry(TABLES, 1, *system_entry((2 << 30) + 0x20000))
    bench.rebuild()
    assert bench.space.resolve(0x1FFFF) == (WINDOW + (2 << 30) + 0x1FFFF, 2)
    assert bench.space.resolve(0x20000) is None


def test_a_large_page_begins_at_a_multiple_of_its_size_whatever_its_entry_says(bench: Bench) -> None:
    """As in the MMU, which does not look at the bits below."""
    bench.directory(0, big=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(SIZE - 0x10000))
    bench.rebuild()
    assert bench.space.resolve(0x1FFFF) == (BASE + SIZE - 1, 0)


def test_a_table_outside_the_partition_is_refused(bench: Bench) -> None:
    bench.vram.view[:] = bytes(len(bench.vram.view))
    foreign = 32 * MIB
    struct.pack_into("<II", bench.vram.view, BASE + foreign, 1, 0)
    bench.directory(0, small=foreign >> 8 | 1)
    bench.directory(1, small=(SIZE - 0x1000) >> 8 | 1)
    counted = bench.rebuild()
    assert bench.space.resolve(0) is None
    assert bench.space.resolve(1 << 27) is None
    assert counted.denied_addresses == 2


def test_two_directory_entries_that_share_a_guest_table_have_shadows_of_their_own(bench: Bench) -> None:
    """The published code could give two 128 MiB directories of a space one shadow table."""
    for index in (0, 1, 8191):
        bench.directory(index, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(0x1000))
    bench.rebuild()
    bench.directory(1, small=(TABLES + 0x80000) >> 8 | 1)
    bench.entry(TABLES + 0x80000, 0, *vram_entry(0x2000))
    bench.rebuild()
    assert bench.space.resolve(0) == (BASE + 0x1000, 0)
    assert bench.space.resolve(1 << 27) == (BASE + 0x2000, 0)
    assert bench.space.resolve(8191 << 27) == (BASE + 0x1000, 0)


def test_many_directories_grow_the_pool_without_mixing(bench: Bench) -> None:
    for index in range(20):
        table = TABLES + 0x40000 * index
        bench.directory(300 + index, small=table >> 8 | 1)
        bench.entry(table, index, *vram_entry(0x1000 * (index + 1)))
    bench.rebuild()
    for index in range(20):
        assert bench.space.resolve((300 + index << 27) + 0x1000 * index) == (BASE + 0x1000 * (index + 1), 0)


def test_beyond_its_quota_a_guest_loses_directories_and_others_keep_theirs(bench: Bench) -> None:
    for index in range(100):
        bench.directory(index, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(0x1000))
    counted = bench.rebuild()
    mapped = sum(bench.space.resolve(index << 27) is not None for index in range(100))
    assert 40 < mapped < 48, "12 MiB hold a directory and 47 tables of 256 KiB"
    assert counted.denied_addresses == 100 - mapped
    assert bench.own.largest >= 4 * MIB
    with pytest.raises(OutOfResourcesError, match="quota"):
        bench.pool.allocate(MIB)


def test_stale_entries_go_when_the_guest_takes_them_away(bench: Bench) -> None:
    bench.directory(0, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(0x1000))
    bench.rebuild()
    bench.entry(TABLES, 0, 0, 0)
    assert bench.space.resolve(0) == (BASE + 0x1000, 0), "the shadow changes at a flush, not before"
    assert bench.rebuild().entries_changed == 1
    assert bench.space.resolve(0) is None
    bench.directory(0)
    bench.rebuild()
    bench.rebuild()
    assert bench.pool.used == 0x10000


def test_ram_that_the_vm_lost_is_gone_at_the_next_pass(bench: Bench) -> None:
    bench.directory(0, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *system_entry(1 << 30))
    bench.rebuild()
    bench.memory.bus.remove(1 << 30)
    bench.rebuild()
    assert bench.space.resolve(0) is None


def test_a_pass_costs_what_the_original_paid(bench: Bench) -> None:
    bench.directory(2, big=(TABLES + 0x80000) >> 8 | 1, small=TABLES >> 8 | 1)
    for index in range(5):
        bench.entry(TABLES, index, *vram_entry(0x1000 * index))
    bench.entry(TABLES + 0x80000, 0, *vram_entry(0x20000))
    first, second = bench.rebuild(), bench.rebuild()
    assert first.shadow_passes == second.shadow_passes == 1
    assert first.entries_visited == second.entries_visited == 8192 + 32768 + 1024
    # Both words of a directory entry; word 1 of a table entry only if it is present.
    assert first.shadow_reads == second.shadow_reads == 2 * 8192 + 32768 + 5 + 1024 + 1
    assert first.shadow_writes == second.shadow_writes == first.shadow_reads
    assert first.entries_changed == 1 + 5 + 1
    assert second.entries_changed == 0


def test_entries_behind_the_limit_of_the_space_are_not_mapped() -> None:
    bench = Bench()
    bench.space.close()
    bench.space = ShadowSpace(bench.memory, bench.pool, DIRECTORY, 0x3FFF)
    bench.directory(0, small=(SIZE - 0x1000) >> 8 | 1)
    for index in range(8):
        bench.entry(SIZE - 0x1000, index, *vram_entry(0x1000 * index))
    bench.directory(1, small=TABLES >> 8 | 1)
    bench.entry(TABLES, 0, *vram_entry(0x1000))
    bench.rebuild()
    assert [bench.space.resolve(0x1000 * index) is not None for index in range(8)] == [True] * 4 + [False] * 4
    assert bench.space.resolve(1 << 27) is None
    bench.close()


WORD = st.one_of(
    st.integers(0, 0xFFFFFFFF), st.integers(0, SIZE >> 8).map(lambda a: a | 1), st.integers(0, 3)
)
TABLE_WORD = st.one_of(
    st.integers(0, 15).map(lambda n: (TABLES + 0x40000 * n) >> 8 | 1), st.integers(0, 0xFFFFFFFF), st.just(0)
)


@settings(max_examples=40, deadline=None)
@given(
    directory=st.dictionaries(st.integers(0, 8191), st.tuples(TABLE_WORD, TABLE_WORD), max_size=6),
    entries=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 1023), WORD, WORD), max_size=30),
)
def test_the_shadow_is_the_guests_table_and_never_leaves_what_is_the_guests(
    directory: dict[int, tuple[int, int]], entries: list[tuple[int, int, int, int]]
) -> None:
    bench = Bench()
    for index, (big, small) in directory.items():
        bench.directory(index, big, small)
    for table, index, low, high in entries:
        bench.entry(TABLES + 0x40000 * table, index, low, high)
    bench.rebuild()
    for index in directory:
        for page in {at for _, at, _, _ in entries} | {0}:
            for va in ((index << 27) + (page << 12), (index << 27) + (page << 17) % (1 << 27)):
                assert bench.space.resolve(va) == reference(bench, va), hex(va)
    bench.close()


def reference(bench: Bench, va: int) -> tuple[int, int] | None:
    """Walk the guest's own tables, one word at a time."""

    def vram_word(address: int) -> int:
        return int(bench.vram.words[(BASE + address) >> 2])

    def word_of(address: int, system: bool) -> int:
        return struct.unpack("<I", bench.memory.bus.read(address, 4))[0] if system else vram_word(address)

    def whole(address: int, size: int, system: bool) -> bool:
        if not system:
            return address + size <= SIZE
        return address + size <= 4 * MIB or (address >= (1 << 30) and address + size <= (1 << 30) + MIB)

    at = DIRECTORY + 8 * (va >> 27)
    rest = va & ((1 << 27) - 1)
    big, small = vram_word(at), vram_word(at + 4)
    for word, shift, count in ((small, 12, 32768), (big, 17, 1024 >> (big >> 2 & 3))):
        system = word & 3 in (2, 3)
        table = (word & 0xFFFFFFF0) << 8
        if not word & 3 or rest >> shift >= count or not whole(table, 8 * count, system):
            continue
        low, high = (word_of(table + 8 * (rest >> shift) + half, system) for half in (0, 4))
        size, aperture = 1 << shift, high >> 1 & 3
        address = (low & 0xFFFFFFF0) << 8 & -size
        if not low & 1 or aperture == 1 or not whole(address, size, aperture != 0):
            continue
        return (address + (BASE if aperture == 0 else WINDOW) + va % size, aperture)
    return None


def test_an_aperture_follows_small_and_large_pages_up_to_its_limit(bench: Bench) -> None:
    bar = BarTable(bench.memory, 64 * MIB)
    bench.directory(0, big=(TABLES + 0x80000) >> 8 | 1, small=TABLES >> 8 | 1)
    bench.entry(TABLES + 0x80000, 0, *vram_entry(0x20000))
    bench.entry(TABLES, 2, *vram_entry(0x9000))
    bench.entry(TABLES, 40, *system_entry(0x1000))
    bench.entry(TABLES, 300, *vram_entry(0xA000))
    bar.rebuild(DIRECTORY, 0xFFFFF, bench.counters)
    frames = np.asarray(bar.frames)
    assert frames[1] == BASE + 0x21000
    assert frames[2] == BASE + 0x9000
    assert frames[31] == BASE + 0x20000 + 31 * 0x1000
    assert frames[40] == -1, "a virtual GPU's aperture shows video memory only"
    assert frames[300] == -1, "behind the limit"
    assert int((frames >= 0).sum()) == 32
    bar.rebuild(SIZE, 0xFFFFF, bench.counters)
    assert int((frames >= 0).sum()) == 0

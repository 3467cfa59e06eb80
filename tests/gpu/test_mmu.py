"""The MMU through a channel that copies: what is mapped where, what the TLB keeps, what faults and how."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvm.gpu import paging
from gpuvm.gpu.paging import MmuFault, Reason, Root
from gpuvm.gpu.physical import PhysicalMemory
from gpuvm.gpu.translations import Budget, Translations
from gpuvm.pci.memory import MemoryRegion

VA = 0x3000_0000


def read(channel, push, va, rig, size=4):
    """Copy from a GPU address to the fence page and return the bytes."""
    target = channel.fence_va + 0x800
    channel.run(
        push()
        .method(2, 0, 0x9039)
        .method(2, 0x238, 0, target)
        .method(2, 0x30C, va >> 32, va, 0, 0, size, 1)
        .method(2, 0x300, 0x100110)
    )
    return rig.memory.read(channel.fence + 0x800, size)


def test_a_stale_entry_lasts_until_the_flush(rig, push):
    channel = rig.channel()
    old, new = rig.take(0x1000), rig.take(0x1000)
    rig.poke(old, 0x01010101)
    rig.poke(new, 0x02020202)
    channel.tables.map(VA, old)
    assert read(channel, push, VA, rig) == b"\1\1\1\1"
    channel.tables.map(VA, new)
    assert read(channel, push, VA, rig) == b"\1\1\1\1"
    channel.tables.flush()
    assert read(channel, push, VA, rig) == b"\2\2\2\2"


def test_a_page_that_was_missing_is_walked_without_a_flush(rig, push):
    channel = rig.channel()
    first, second = rig.take(0x1000), rig.take(0x1000)
    rig.poke(second, 0x33333333)
    channel.tables.map(VA, first)
    read(channel, push, VA, rig)
    channel.tables.map(VA + 0x5000, second)
    assert read(channel, push, VA + 0x5000, rig) == b"3333"


def test_a_flush_of_another_directory_changes_nothing(rig, push, page_tables):
    channel, other = rig.channel(), page_tables(rig)
    old, new = rig.take(0x1000), rig.take(0x1000)
    rig.poke(old, 0x01010101)
    channel.tables.map(VA, old)
    read(channel, push, VA, rig)
    channel.tables.map(VA, new)
    other.flush()
    assert read(channel, push, VA, rig) == b"\1\1\1\1"
    rig.wr(0x100CBC, 0x80000003)
    assert read(channel, push, VA, rig) == bytes(4)


def test_large_pages_and_small_ones_over_them(rig, push):
    channel = rig.channel()
    large, small = rig.take(0x20000), rig.take(0x1000)
    rig.poke(large + 0x3000, 0x44444444)
    rig.poke(large + 0x4000, 0x55555555)
    rig.poke(small, 0x66666666)
    channel.tables.map_large(VA, large)
    channel.tables.map(VA + 0x4000, small)
    assert read(channel, push, VA + 0x3000, rig) == b"DDDD"
    assert read(channel, push, VA + 0x4000, rig) == b"ffff"


def test_launches_see_the_pages_mapped_since_the_last_one(rig, push):
    channel = rig.channel()
    pages = [rig.take(0x1000) for _ in range(3)]
    launch = (
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x238, 0x10001, 1)
        .method(1, 0x3AC, 0x10020, 1)
        .method(1, 0x2C0, 8)
    )
    launch.method(1, 0x368, 0)
    channel.tables.map(VA, pages[0])
    channel.tables.map(VA + 0x1000, pages[1], flags=1 | 4)
    channel.run(launch)
    (view,) = rig.views
    fd = rig.gpu.vram.fd
    assert view.pages[VA] == (fd, pages[0], True)
    assert view.pages[VA + 0x1000] == (fd, pages[1], False)
    maps = view.maps
    channel.run(push().method(1, 0x368, 0))
    assert view.maps == maps
    channel.tables.map(VA + 0x2000, pages[2])
    channel.tables.unmap(VA)
    channel.run(push().method(1, 0x368, 0))
    assert view.maps == maps + 1
    assert VA in view.pages
    channel.tables.flush()
    channel.run(push().method(1, 0x368, 0))
    assert VA not in view.pages
    assert view.pages[VA + 0x2000] == (fd, pages[2], True)


def test_a_run_of_pages_is_one_mapping(rig, push):
    channel = rig.channel()
    at = rig.take(0x40000)
    channel.tables.map(VA, at, 0x40000)
    channel.run(
        push()
        .method(1, 0, 0x90C0)
        .method(1, 0x238, 0x10001, 1)
        .method(1, 0x3AC, 0x10020, 1)
        .method(1, 0x2C0, 8)
        .method(1, 0x368, 0)
    )
    (view,) = rig.views
    assert view.maps == 4  # GPFIFO, pushbuffers, fence page and this one


# The walker against the bulk reader


MEMORY = MemoryRegion(64 << 20, "walker")
_WORDS = MEMORY.bytes.view(np.uint64)
_DIRECTORY, _SMALL, _LARGE = 0x10000, 0x100000, 0x200000

ENTRY = st.builds(
    lambda page, present, supervisor, read_only, target: (
        page << 4 | present | supervisor << 1 | read_only << 2 | target << 33
    ),
    st.integers(0, 0x4FFF),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0, 0, 2]),
)


def space() -> Translations:
    root = Root(0, _DIRECTORY, (1 << 40) - 1)

    def nothing() -> object:
        raise AssertionError("no launch here")

    return Translations(PhysicalMemory(MEMORY), root, Budget(), nothing)  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.integers(0, 200), ENTRY, max_size=20),
    st.dictionaries(st.integers(0, 6), ENTRY, max_size=5),
    st.integers(0, 3),
    st.integers(0, 210 << 12),
    st.booleans(),
)
def test_ranges_and_single_pages_agree_on_every_table(small, large, size, address, write):
    _WORDS[_SMALL // 8 : _SMALL // 8 + 256] = 0
    _WORDS[_LARGE // 8 : _LARGE // 8 + 16] = 0
    for index, entry in small.items():
        _WORDS[_SMALL // 8 + index] = entry
    for index, entry in large.items():
        _WORDS[_LARGE // 8 + index] = entry
    _WORDS[_DIRECTORY // 8] = (_LARGE >> 8 | 1 | size << 2) | (_SMALL >> 8 | 1) << 32
    address &= ~3

    def outcome(get):
        try:
            return get()
        except MmuFault as fault:
            return fault.reason, fault.write

    def single():
        region, offset = space().place(address >> 12, write)
        return region.name, offset + (address & 0xFFF)

    def ranged():
        ((region, offset, length),) = space().runs(address, 4, write)
        assert length == 4
        return region.name, offset

    assert outcome(single) == outcome(ranged)


def test_a_short_table_ends_where_the_directory_says():
    assert paging.tables(1 << 2 | 1)[2] == 64 << 20
    _WORDS[_DIRECTORY // 8] = _LARGE >> 8 | 1 | 3 << 2
    with pytest.raises(MmuFault) as caught:
        space().page(16 << 20 >> 12, False)
    assert caught.value.reason is Reason.PT_TOO_SHORT


def test_a_range_that_crosses_the_limit_faults_there():
    limited = Translations(
        PhysicalMemory(MEMORY),
        Root(0, _DIRECTORY, 0xFFFF),
        Budget(),
        lambda: None,  # type: ignore[arg-type,return-value]
    )
    with pytest.raises(MmuFault) as caught:
        limited.runs(0xF000, 0x2000, False)
    assert (caught.value.address, caught.value.reason) == (0x10000, Reason.VSPACE_LIMIT)


@given(st.lists(st.integers(0, 40), max_size=12))
def test_runs_cover_every_entry_once(pages):
    entries = np.array([page << 4 | 1 for page in pages], np.uint64)
    found = paging.runs(entries)
    assert [first + at for first, count in found for at in range(count)] == list(range(len(pages)))
    for first, count in found:
        assert all(entries[first + at] == entries[first] + 16 * at for at in range(count))


LAUNCH = ((0x238, 0x10001, 1), (0x3AC, 0x10020, 1), (0x2C0, 8), (0x368, 0))


def launching(push):
    words = push().method(1, 0, 0x90C0)
    for method, *data in LAUNCH:
        words.method(1, method, *data)
    return words


def test_tables_written_by_the_gpu_itself_are_seen_by_the_next_launch(rig, push):
    """An entry arrives by copy, by semaphore, by pushbuffer data, by BAR1: each is walked without a flush."""
    channel = rig.channel()
    page = rig.take(0x10000)
    tables = channel.tables
    entry = tables.entry(VA)
    tables.map(0x6000_0000, entry & ~0xFFF)
    window = 0x6000_0000 + (entry & 0xFFF)
    channel.run(launching(push))
    (view,) = rig.views
    assert VA not in view.pages
    low = page >> 8 | 1

    channel.run(push().release(window, low))
    channel.run(launching(push))
    assert view.pages[VA] == (rig.gpu.vram.fd, page, True)

    rig.memory.write(channel.fence + 0x300, (low + 0x10).to_bytes(8, "little"))
    words = push().method(2, 0, 0x9039).method(2, 0x238, 0, window + 8)
    words.method(2, 0x30C, 0, channel.fence_va + 0x300, 0, 0, 8, 1).method(2, 0x300, 0x100110)
    channel.run(words)
    channel.run(launching(push))
    assert VA + 0x1000 in view.pages

    words = push().method(2, 0x238, 0, window + 16).method(2, 0x314, 0, 0, 8, 1).method(2, 0x300, 0x100111)
    channel.run(words.same(2, 0x304, low + 0x20, 0))
    channel.run(launching(push))
    assert VA + 0x2000 in view.pages

    rig.bar1.map(0x40_0000, entry & ~0xFFF)
    rig.gpu.write(1, 0x40_0000 + (entry & 0xFFF) + 24, 8, low + 0x30)
    channel.run(launching(push))
    assert VA + 0x3000 in view.pages
    rig.gpu.write_block(1, 0x40_0000 + (entry & 0xFFF) + 32, (low + 0x40).to_bytes(8, "little"))
    channel.run(launching(push))
    assert VA + 0x4000 in view.pages


def test_tables_that_a_kernel_can_write_are_looked_at_after_each_launch(rig, push):
    channel = rig.channel()
    page, entry = rig.take(0x1000), channel.tables.entry(VA)
    channel.tables.map(0x6000_0000, entry & ~0xFFF)
    channel.run(launching(push))
    usual = rig.executor.effect

    def kernel_writes_the_table(launch, stop):
        fd, offset, writable = launch.space.pages[0x6000_0000]
        assert (fd, writable) == (rig.gpu.vram.fd, True)
        rig.gpu.vram.write(offset + (entry & 0xFFF), (page >> 8 | 1).to_bytes(8, "little"))
        rig.executor.effect = usual
        return usual(launch, stop)

    rig.executor.effect = kernel_writes_the_table
    channel.run(launching(push))
    channel.run(launching(push))
    assert VA in rig.views[0].pages


def test_tables_in_system_memory_are_compared_at_each_launch(rig, push):
    channel = rig.channel()
    table, page = rig.ram(0x40000), rig.take(0x1000)
    rig.poke64(channel.tables.directory + 8 * (VA >> 27), (table >> 8 | 2) << 32)
    channel.run(launching(push))
    rig.memory.write(table + 8 * (VA >> 12 & 0x7FFF), (page >> 8 | 1).to_bytes(8, "little"))
    channel.run(launching(push))
    assert VA in rig.views[0].pages


def test_scattered_pages_are_copied_in_their_order(rig, push):
    """More pieces than are looked up one by one, and ends that are not on a page's edge."""
    channel = rig.channel()
    count = 200
    order = np.random.default_rng(2).permutation(count)
    base, target = rig.ram(count << 12), rig.take(count << 12)
    data = np.random.default_rng(3).integers(0, 256, count << 12, np.uint8)
    for at, where in enumerate(order.tolist()):
        channel.tables.map(VA + (at << 12), base + (where << 12), target=2)
        rig.memory.write(base + (where << 12), data[at << 12 : (at + 1) << 12].tobytes())
    channel.tables.map(0x5000_0000, target, count << 12)
    size = (count << 12) - 0x123 - 0x45
    words = push().method(2, 0, 0x9039).method(2, 0x238, 0, 0x5000_0000)
    words.method(2, 0x30C, 0, VA + 0x123, 0, 0, size, 1).method(2, 0x300, 0x100110)
    channel.run(words)
    assert rig.gpu.vram.read(target, size) == data.tobytes()[0x123 : 0x123 + size]

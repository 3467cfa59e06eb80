"""PRAMIN, BAR1 and BAR3 as a CPU uses them."""

from __future__ import annotations

import pytest


def test_pramin_moves_over_vram(rig):
    rig.wr(0x1700, 0x12)
    rig.wr(0x700004, 0xDEADBEEF)
    assert rig.gpu.vram.read(0x120004, 4) == bytes.fromhex("efbeadde")
    rig.wr(0x1700, 0x11)
    assert rig.rd(0x710004) == 0xDEADBEEF


def test_pramin_reaches_system_memory_where_told_to(rig):
    rig.memory.write(0x20008, b"\x01\x02\x03\x04")
    rig.wr(0x1700, 2 << 24 | 2)
    assert rig.rd(0x700008) == 0x04030201


def test_beyond_the_end_of_vram_reads_zero(rig):
    rig.wr(0x1700, rig.gpu.vram.size >> 16)
    rig.wr(0x700000, 5)
    assert rig.rd(0x700000) == 0


@pytest.fixture
def bar3(rig, page_tables):
    tables = page_tables(rig)
    rig.wr(0x1714, 0x80000000 | tables.instance >> 12)
    return tables


def test_bar3_goes_through_its_page_tables(rig, bar3):
    at = rig.take(0x2000)
    bar3.map(0x40_0000, at)
    bar3.map(0x40_1000, at + 0x1000)
    rig.gpu.write(3, 0x40_0FFC, 8, 0x1122334455667788)
    assert rig.gpu.read(3, 0x40_0FFC, 8) == 0x1122334455667788
    assert rig.gpu.vram.read(at + 0xFFC, 8) == (0x1122334455667788).to_bytes(8, "little")
    assert rig.gpu.read(3, 0x40_0FFE, 2) == 0x5566
    rig.gpu.write(3, 0x40_0FFD, 1, 0xAA)
    assert rig.gpu.read(3, 0x40_0FFC, 4) == 0x5566AA88


def test_blocks_arrive_whole_across_pages_and_count_as_their_accesses(rig, bar3):
    first, second = rig.take(0x1000), rig.take(0x1000)
    bar3.map(0, second)
    bar3.map(0x1000, first)
    data = bytes(range(256)) * 16
    before = rig.gpu.counters.writes
    rig.gpu.write_block(3, 0x800, data, 8)
    assert rig.gpu.counters.writes - before == len(data) // 8
    assert rig.gpu.read_block(3, 0x800, len(data)) == data
    assert rig.gpu.vram.read(second + 0x800, 0x800) + rig.gpu.vram.read(first, 0x800) == data


def test_a_block_of_bar0_is_its_registers(rig):
    assert rig.gpu.read_block(0, 0, 8) == (0x0C0080A1).to_bytes(4, "little") + bytes(4)
    rig.gpu.write_block(0, 0x2A04, (0x55).to_bytes(4, "little"))
    assert rig.rd(0x2A04) == 0x55


def test_an_access_without_a_page_reads_zero_and_faults(rig, bar3):
    rig.interrupts_on()
    assert rig.gpu.read(3, 0x123000, 4) == 0
    assert rig.rd(0x2100) & 0x10000000
    assert rig.rd(0x259C) == 1 << 5
    assert rig.rd(0x2850) == bar3.instance >> 12
    assert rig.rd(0x2854) == 0x123000
    assert rig.rd(0x285C) == 7 << 8 | 0x40 | 0


def test_a_disabled_bar_answers_nothing(rig, bar3):
    bar3.map(0, rig.take(0x1000))
    rig.gpu.write(3, 0, 4, 9)
    rig.wr(0x1714, 0)
    assert rig.gpu.read(3, 0, 4) == 0


@pytest.mark.parametrize("bar", [0, 1, 2, 3, 5])
@pytest.mark.parametrize("offset", [-4, 1 << 40, (128 << 20) - 1])
def test_accesses_outside_a_bar_are_harmless(rig, bar, offset):
    for size in (1, 2, 4, 8):
        rig.gpu.write(bar, offset, size, 1)
        rig.gpu.read(bar, offset, size)
    rig.gpu.write_block(bar, offset, b"1234")
    assert rig.gpu.read_block(bar, offset, 16) in (bytes(16), b"")

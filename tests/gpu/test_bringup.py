"""The order in which a driver brings the card up, and the values that it looks at on the way."""

from __future__ import annotations

import struct

import pytest

from gpuvm.gpu import QUADRO_6000
from gpuvm.gpu.profile import GTX_480, SMALL

MIB = 1 << 20


def test_the_chip_says_what_it_is(rig):
    assert rig.rd(0) == 0x0C0080A1
    assert rig.gpu.config_read(0, 4) == 0x06D810DE
    assert [bar.size for bar in rig.gpu.bars] == [16 * MIB, 128 * MIB, 64 * MIB]


def test_the_pci_mirror_shows_configuration_space(rig):
    assert rig.rd(0x88000) == 0x06D810DE
    assert rig.rd(0x88004) & 0x6 == 0x6
    rig.wr(0x88050, 1)
    assert rig.rd(0x88050) == 1


def test_the_prom_holds_an_image_that_names_this_card(rig):
    image = b"".join(rig.rd(0x300000 + at).to_bytes(4, "little") for at in range(0, 4096, 4))
    assert image[:2] == b"\x55\xaa"
    assert sum(image) & 0xFF == 0
    pcir = struct.unpack_from("<H", image, 0x18)[0]
    assert image[pcir : pcir + 4] == b"PCIR"
    assert struct.unpack_from("<HH", image, pcir + 4) == (0x10DE, 0x06D8)
    assert image[pcir + 0x15] & 0x80
    bit = image.index(b"\xff\xb8BIT")
    size, count = image[bit + 9], image[bit + 10]
    entries = {
        chr(image[at]): struct.unpack_from("<HH", image, at + 2)
        for at in range(bit + 12, bit + 12 + size * count, size)
    }
    assert {"i", "I", "D", "M", "P"} <= set(entries)


@pytest.mark.parametrize("vram", [64 * MIB, 1 << 30, 6 << 30])
def test_the_partitions_add_up_to_the_memory(new_rig, vram):
    rig = new_rig(vram=vram, profile=QUADRO_6000)
    count, disabled = rig.rd(0x22438), rig.rd(0x22554)
    assert disabled == 0
    sizes = [rig.rd(0x11020C + 0x1000 * at) for at in range(count)]
    assert len(set(sizes)) == 1
    assert sum(sizes) * MIB == vram
    assert rig.rd(0x121C74) == rig.rd(0x100800) == count
    assert rig.rd(0x17E8DC) >> 28 == 2


def test_a_quadro_6000_has_fourteen_multiprocessors_in_four_clusters(new_rig):
    rig = new_rig(profile=QUADRO_6000)
    clusters = rig.rd(0x409604) & 0x1F
    assert [rig.rd(0x502608 + 0x8000 * at) for at in range(clusters)] == [4, 4, 3, 3]
    assert (rig.rd(0x22430), rig.rd(0x22434)) == (4, 4)


def test_a_gtx_480_has_fifteen_of_sixteen_multiprocessors(new_rig):
    rig = new_rig(profile=GTX_480)
    assert rig.gpu.config_read(0, 4) == 0x06C010DE
    assert [rig.rd(0x502608 + 0x8000 * at) for at in range(rig.rd(0x409604) & 0x1F)] == [4, 4, 4, 3]


@pytest.mark.parametrize(
    ("profile", "core", "memory"), [(QUADRO_6000, 574, 1494), (GTX_480, 700, 1848), (SMALL, 405, 324)]
)
def test_the_clock_tree_reads_as_the_fastest_level(new_rig, profile, core, memory):
    """As a driver works them out: reference * N / M / P of the PLL that is selected."""
    rig = new_rig(profile=profile)

    def pll(at, reference):
        assert rig.rd(at) & 1
        setting = rig.rd(at + 4)
        return reference * (setting >> 8 & 0xFF) // (setting & 0xFF) // (setting >> 16 & 0x3F)

    assert rig.rd(0x137100) & 1
    assert abs(pll(0x137000, 27000) / 2000 - core) < 5
    assert rig.rd(0x1373F0) & 2
    assert abs(pll(0x132000, pll(0x132020, 27000)) / 1000 - memory) < 5
    common = pll(0xE800, 27000)
    setting = rig.rd(0x137250 + 4 * 8)
    assert setting >> 31
    assert 100_000 < common * 2 // ((setting & 0x3F) + 2) < 800_000


def test_the_voltage_lines_read_as_they_are_driven(new_rig):
    rig = new_rig(profile=GTX_480)
    lines = (0, 1, 2, 10)

    def nibble(line):
        return rig.rd((0xE104, 0xE108, 0xE280, 0xE284)[line >> 3]) >> 4 * (line & 7) & 0xF

    assert [nibble(line) for line in lines] == [0x7] * 4, "all four on: 1.0 V"
    rig.wr(0xE104, 0x00000032)
    assert [nibble(line) for line in (0, 1, 2)] == [0x2, 0x7, 0x0]
    rig.wr(0xE118, 0x80000010)
    assert rig.rd(0xE118) == 0x10


def test_sensors_and_fuses_say_something(rig):
    assert rig.rd(0x212A8) == 1
    assert 20 < rig.rd(0x20400) < 95
    assert rig.rd(0x212CC) > 0
    assert rig.rd(0xE728) & 0xFFFF


def test_pbdmas_are_counted_by_the_bits_that_stick(rig):
    for offset in (0x204, 0x2204):
        rig.wr(offset, 0xFFFFFFFF)
        assert rig.rd(offset) == 7


def test_the_timer_runs_and_software_can_set_it(rig):
    rig.wr(0x9410, 0x1234)
    rig.wr(0x9400, 0)
    high, low = rig.rd(0x9410), rig.rd(0x9400)
    assert high == 0x1234
    assert low % 32 == 0
    assert (rig.rd(0x9410) << 32 | rig.rd(0x9400)) >= (high << 32 | low)


def test_the_timer_s_alarm_sets_its_interrupt(rig):
    rig.wr(0x9140, 1)
    rig.wr(0x9420, rig.rd(0x9400) + 0x200000 & 0xFFFFFFE0)
    rig.until(lambda: rig.rd(0x100) & 0x00100000, "the alarm")
    assert rig.rd(0x9100) == 1
    rig.wr(0x9140, 0)
    rig.wr(0x9100, 1)
    assert not rig.rd(0x100) & 0x00100000


def test_the_power_microcontroller_starts(rig):
    assert rig.rd(0x10A04C) == 0
    assert rig.rd(0x10A10C) & 0x6 == 0
    assert rig.rd(0x10A4D0) == 0
    rig.wr(0x10A10C, 0)
    rig.wr(0x10A100, 2)
    assert rig.rd(0x10A4D0)
    assert rig.rd(0x10A4DC)


@pytest.mark.parametrize("base", [0x104000, 0x105000, 0x409000, 0x41A000, 0x10A000])
def test_falcons_tell_their_limits(rig, base):
    caps = rig.rd(base + 0x108)
    assert (caps & 0x1FF) << 8 >= 0x1000
    assert (caps & 0x3FE00) >> 1 >= 0x800
    assert rig.rd(base + 0x12C) & 0xF == 3


def test_the_write_flush_is_done_at_once(rig):
    for offset in (0x70000, 0x70004, 0x70010):
        rig.wr(offset, 1)
        assert rig.rd(offset) & 3 == 0


def test_context_control_starts_and_makes_a_golden_context(rig):
    """The internal-firmware path of nouveau: upload, start, bind, initial values, save."""
    wr, rd = rig.wr, rig.rd
    wr(0x260, 0)
    for base in (0x409000, 0x41A000):
        wr(base + 0x1C0, 0x01000000)
        for word in range(8):
            wr(base + 0x1C4, word)
        wr(base + 0x180, 0x01000000)
        wr(base + 0x188, 0)
        wr(base + 0x184, 0x12345678)
    wr(0x260, 1)
    wr(0x40910C, 0)
    wr(0x409100, 2)
    assert rd(0x409800) & 0x80000000
    size = rd(0x409804)
    assert size > 0
    wr(0x404170, 0x12)
    assert not rd(0x404170) & 0x10
    wr(0x409614, 0x70)
    wr(0x409614, rd(0x409614) | 0x700)
    wr(0x404170, 0x10)
    wr(0x409840, 0x80000000)
    assert not rd(0x409800) & 0x80000000
    wr(0x409500, 0x80000123)
    wr(0x409504, 1)
    assert rd(0x409800) & 0x80000000
    assert rd(0x409B00) == rd(0x409B04) == 0x80000123
    wr(0x400208, 0x80000000)
    for at in range(32):
        wr(0x400204, at)
        wr(0x400200, 0x1000 + at)
        assert not rd(0x400700) & 4
    wr(0x400208, 0)
    wr(0x40448C, 0x55)
    wr(0x404488, 0x80009097 | 0x200 << 14)
    assert not rd(0x40060C) & 1
    wr(0x409B04, rd(0x409B04) & 0x7FFFFFFF)
    wr(0x409000, 0x100)
    assert not rd(0x409B00) & 0x80000000


def test_external_firmware_is_answered_too(rig):
    wr, rd = rig.wr, rig.rd
    wr(0x409840, 0xFFFFFFFF)
    wr(0x409100, 2)
    assert rd(0x409800) & 1
    for command in (0x10, 0x16, 0x25):
        wr(0x409840, 0xFFFFFFFF)
        wr(0x409500, 0)
        wr(0x409504, command)
        assert rd(0x409800) > 0
    wr(0x409840, 0x30)
    wr(0x409500, 0x80000042)
    wr(0x409504, 3)
    assert rd(0x409800) & 0x30 == 0x10
    for command in (0x38, 0x39):
        wr(0x409804, 0xFFFFFFFF)
        wr(0x409504, command)
        assert rd(0x409804) == 1


def test_scratch_bits_are_set_and_cleared_by_their_own_registers(rig):
    rig.wr(0x409820 + 4 * 5, 0xF0)
    rig.wr(0x409840 + 4 * 5, 0x30)
    assert rig.rd(0x409800 + 4 * 5) == 0xC0


def test_an_engine_reset_brings_its_registers_back(rig):
    rig.wr(0x400138, 0x1234)
    rig.wr(0x405870, 7)
    rig.wr(0x200, 0xFFFFFFFF & ~0x1000)
    rig.wr(0x200, 0xFFFFFFFF)
    assert rig.rd(0x400138) == 0
    assert rig.rd(0x405870) == 0


def test_a_function_reset_forgets_registers_and_keeps_memory(rig):
    at = rig.take(0x1000)
    rig.poke(at, 0xABCD)
    rig.channel(1)
    rig.gpu.reset()
    assert rig.rd(0x3008) == 0
    assert rig.rd(0x1704) == 0
    assert rig.gpu.config_read(4, 2) == 0
    assert rig.peek(at) == 0xABCD


def test_no_register_of_bar0_can_be_read_or_written_into_an_error(rig):
    for offset in range(0, 16 << 20, 0x3FC):
        offset &= ~3
        rig.rd(offset)
        if not 0x3000 <= offset < 0x3400 and offset not in (0x200,):
            rig.wr(offset, 0xFFFFFFFF)
            rig.wr(offset, 0)
    assert rig.rd(0) == 0x0C0080A1

"""The video BIOS, read back as a driver reads it: by signatures, versions and pointers, without our encoders."""

from __future__ import annotations

import struct

import pytest

from gpuvm.gpu.profile import GTX_480, PROFILES, QUADRO_6000
from gpuvm.gpu.vbios import build
from gpuvm.gpu.vbios.layout import Image, LayoutError, Piece, Pointer
from gpuvm.gpu.vbios.records import GPIO, VOLTAGE_MAP

profiles = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())


class Rom:
    """An image and what a parser needs: numbers at offsets, the BIT's entries."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        start = data.index(b"\xff\xb8BIT")
        size, count = data[start + 9], data[start + 10]
        assert sum(data[start : start + 12]) & 0xFF == 0
        self.bit = {
            chr(data[at]): (data[at + 1], *struct.unpack_from("<HH", data, at + 2))
            for at in range(start + 12, start + 12 + size * count, size)
        }

    def u8(self, at: int) -> int:
        return self.data[at]

    def u16(self, at: int) -> int:
        return int(struct.unpack_from("<H", self.data, at)[0])

    def u32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.data, at)[0])

    def pointer(self, entry: str, offset: int, size: int = 4) -> int:
        _, length, at = self.bit[entry]
        assert offset + size <= length
        return self.u32(at + offset) if size == 4 else self.u16(at + offset)

    def rows(self, at: int, count: int, length: int) -> list[int]:
        """Offsets of a table's entries, from the bytes that hold their number and length."""
        header = self.u8(at + 1)
        return [at + header + number * self.u8(at + length) for number in range(self.u8(at + count))]


@pytest.fixture
def rom() -> Rom:
    return Rom(build(0x10DE, QUADRO_6000))


@profiles
def test_it_is_an_expansion_rom_of_this_card(profile):
    data = build(0x10DE, profile)
    assert data[:2] == b"\x55\xaa"
    assert len(data) == data[2] * 512 == 4096
    assert sum(data) & 0xFF == 0
    at = struct.unpack_from("<H", data, 0x18)[0]
    assert data[at : at + 4] == b"PCIR"
    assert struct.unpack_from("<HH", data, at + 4) == (0x10DE, profile.device)
    assert struct.unpack_from("<H", data, at + 0x10)[0] == 8
    assert data[at + 0xD : at + 0x10] == b"\0\0\3"
    assert data[at + 0x15] & 0x80, "the last image"
    # A driver looks for a second header behind this one; zeros are not its signature.
    assert data[(at + 0x18 + 15) & ~15 :][:4] != b"NPDE"


@profiles
def test_lengths_and_versions_of_the_bit_are_those_that_drivers_insist_on(profile):
    rom = Rom(build(0x10DE, profile))
    kinds = {name: (version, length) for name, (version, length, _) in rom.bit.items()}
    assert kinds["D"][1] == 4
    assert kinds["A"][1] == 3
    assert kinds["L"][1] == 2
    assert kinds["T"][1] == 2
    assert kinds["I"][1] >= 16
    assert kinds["i"][1] >= 15
    assert kinds["C"] == (1, 10)
    assert kinds["M"][0] == 2
    assert kinds["M"][1] >= 7
    assert kinds["P"][0] == 2
    assert kinds["P"][1] >= 0x5C
    at = rom.bit["i"][2]
    assert rom.u8(at + 3) == 0x70, "GF100's BIOS versions begin so"
    compare = rom.u16(at + 13)
    assert rom.u8(compare) in (0, 0x10)


def test_the_device_control_block_names_no_output(rom):
    dcb = rom.u16(0x36)
    assert (rom.u8(dcb), rom.u32(dcb + 6)) == (0x40, 0x4EDCBDCB)
    assert [rom.u32(row) & 0xF for row in rom.rows(dcb, 2, 3)] == [0xE]
    ports = rom.u16(dcb + 4)
    assert [rom.u8(row + 3) for row in rom.rows(ports, 2, 3)] == [0xFF]
    devices = rom.u16(dcb + 18)
    assert (rom.u8(devices), rom.u8(devices + 1), rom.u8(devices + 4) & 1) == (0x40, 5, 1)
    assert rom.rows(rom.u16(dcb + 0x14), 2, 3) == []


def test_every_bit_of_the_voltage_has_a_line(rom):
    gpio = rom.u16(rom.u16(0x36) + 10)
    lines = {rom.u32(row) >> 8 & 0xFF: rom.u32(row) & 0x1F for row in rom.rows(gpio, 2, 3)}
    assert lines[0x09] == 0x10, "the fan's line has a modulator"
    assert 0x3D in lines
    voltages = rom.pointer("P", 0x0C)
    mask = rom.u8(voltages + 0x0B)
    functions = (0x04, 0x05, 0x06, 0x1A, 0x73, 0x74, 0x75, 0x76)
    assert all(function in lines for bit, function in enumerate(functions) if mask >> bit & 1)
    assert len(set(lines.values())) == len(lines)


@pytest.mark.parametrize(("profile", "expected"), [
    (QUADRO_6000, [(3, 50, 135), (7, 405, 324), (15, 574, 1494)]),
    (GTX_480, [(3, 50, 135), (7, 405, 324), (15, 700, 1848)]),
])  # fmt: skip
def test_performance_levels_hold_the_products_clocks(profile, expected):
    rom = Rom(build(0x10DE, profile))
    table = rom.pointer("P", 0)
    assert rom.u8(table) == 0x40
    length, sub, subs, count = (rom.u8(table + at) for at in (2, 3, 4, 5))
    assert subs >= 12, "the highest domain that a driver of GF100 looks up is 11"
    found = []
    for number in range(count):
        row = table + rom.u8(table + 1) + number * (length + sub * subs)
        core, memory = (rom.u16(row + length + sub * domain) & 0x3FFF for domain in (3, 5))
        found.append((rom.u8(row), core // 2, memory))
    assert found == expected


@profiles
def test_each_level_has_a_voltage_that_the_regulator_reaches(profile):
    rom = Rom(build(0x10DE, profile))
    voltages, ranges = rom.pointer("P", 0x0C), rom.pointer("P", 0x20)
    assert (rom.u8(voltages), rom.u8(ranges)) == (0x40, 0x10)
    base, step, mask = rom.u32(voltages + 4), rom.u16(voltages + 8), rom.u8(voltages + 0x0B)
    reached = {base + step * vid for vid in range(mask + 1)}
    assert rom.u32(voltages + 0x0E) == max(reached)
    rows = rom.rows(ranges, 3, 2)
    assert len(rows) == len(profile.levels)
    assert {rom.u32(row) for row in rows} <= reached
    assert [rom.u32(row) for row in rows] == [level.microvolts for level in profile.levels]


def test_memory_type_and_settings_are_found_by_strap_zero(rom):
    kinds = rom.pointer("M", 3, 2)
    assert (rom.u8(kinds), rom.u8(kinds + 4)) == (0x10, 0)
    row = rom.rows(kinds, 3, 2)[0]
    assert (rom.u8(row) & 0xF, rom.u8(row) >> 4, rom.u8(row + 1)) == (3, 0, 0), "GDDR5, strap 0, group 0"
    settings, timings = rom.pointer("P", 4), rom.pointer("P", 8)
    assert rom.u8(settings) == rom.u8(timings) == 0x10
    row = settings + rom.u8(settings + 1)
    assert rom.u8(settings + 2) >= 0xE
    assert rom.u8(settings + 3) >= 0xE
    assert rom.u16(row) == 0
    assert rom.u16(row + 2) >= 1494
    assert rom.u8(row + rom.u8(settings + 2) + 1) < rom.u8(timings + 2), "the timing that it names exists"
    assert rom.u8(timings + 3) >= 0x19


def test_the_plls_that_a_memory_driver_needs_are_listed(rom):
    table = rom.pointer("C", 8, 2)
    assert rom.u8(table) == 0x40
    plls = {rom.u8(row): (rom.u32(row + 3), rom.u16(row + 1)) for row in rom.rows(table, 3, 2)}
    assert plls[0x04][0] == 0x132000
    assert plls[0x0C][0] == 0x10FE20
    for _, limits in plls.values():
        assert rom.u16(limits) < rom.u16(limits + 2), "least and most frequency"
        assert rom.u8(limits + 12) <= rom.u8(limits + 13)


def test_temperatures_rise_from_fan_boost_to_shutdown(rom):
    table = rom.pointer("P", 16)
    found = {rom.u8(row): rom.u16(row + 1) for row in rom.rows(table, 3, 2)}
    limits = [found[key] >> 4 & 0xFF for key in (0x08, 0x07, 0x04, 0x32)]
    assert limits == sorted(limits)
    assert limits[0] > 55
    assert found[0x22] >> 8 == 100
    fan = rom.pointer("P", 0x58)
    row = rom.rows(fan, 3, 2)[0]
    assert (rom.u8(fan), rom.u8(row), rom.u8(row + 2), rom.u8(row + 3)) == (0x10, 1, 30, 100)
    assert rom.u32(row + 0x0B) & 0xFFFFFF == found[0x26]
    budget = rom.pointer("P", 0x2C)
    assert rom.u8(budget) == 0x20
    assert rom.u8(budget + 9) < rom.u8(budget + 3)
    assert rom.u32(rom.rows(budget, 3, 2)[0] + 0xA) == 204_000


def test_the_scripts_end_and_leave_the_card_marked_as_initialised(rom):
    """An interpreter of the opcodes that occur, as a driver has one."""
    at = rom.pointer("I", 0, 2)
    registers = {0x2240C: 0}
    scripts = 0
    while start := rom.u16(at):
        scripts += 1
        at += 2
        while rom.u8(start) != 0x71:
            opcode = rom.u8(start)
            if opcode == 0x7A:
                registers[rom.u32(start + 1)] = rom.u32(start + 5)
                start += 9
            elif opcode == 0x6E:
                register = rom.u32(start + 1)
                registers[register] = registers.get(register, 0) & rom.u32(start + 5) | rom.u32(start + 9)
                start += 13
            else:
                assert opcode == 0x74
                start += 3
    assert scripts == 2
    assert registers[0x2240C] & 2
    assert registers[0x200] == 0xFFFFFFFF


def test_pieces_that_do_not_fit_are_refused_by_name():
    image = Image(512)
    image.put("first", Piece((bytes(16),)), at=0)
    with pytest.raises(LayoutError, match="behind 0x10"):
        image.put("second", Piece((b"x",)), at=8)
    with pytest.raises(LayoutError, match="labels must differ"):
        image.put("first", Piece((b"x",)))
    with pytest.raises(LayoutError, match="must end below"):
        image.put("third", Piece((bytes(512),)))
    image.put("lost", Piece((Pointer("nowhere"),)))
    with pytest.raises(LayoutError, match="'nowhere'"):
        image.finish()
    with pytest.raises(LayoutError, match="must fit 5 bits"):
        GPIO.encode([{"LINE": 32}])
    with pytest.raises(LayoutError, match="must name a field"):
        VOLTAGE_MAP.encode([{"COLOUR": 1}])

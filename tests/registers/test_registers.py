"""Registers: declared, placed, frozen, accessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.registers.access import RW, W1C, R, T
from gpuvm.registers.declare import Block, DeclarationError, Field, Register, Scratch, bit
from gpuvm.registers.map import RegisterFile

WORD = st.integers(0, 0xFFFFFFFF)


def file_of(*registers: Register, engine: object | None = None, **options: object) -> RegisterFile:
    file = RegisterFile(0x1000)
    file.place(Block("PX", 0x100, 0x100, registers, **options), engine)  # type: ignore[arg-type]
    file.freeze()
    return file


def test_a_register_starts_at_its_reset_value_and_keeps_what_is_written():
    file = file_of(Register(0, "A", reset=5))
    assert file.read(0x100) == 5
    file.write(0x100, 9)
    assert file.read(0x100) == 9


@given(WORD, WORD)
def test_each_field_answers_by_its_own_access_kind(before: int, written: int):
    fields = (
        Field("KEPT", 0, 7, RW),
        Field("SHOWN", 8, 15, R),
        Field("STATUS", 16, 23, W1C),
        bit("GO", 24, T),
    )
    file = file_of(Register(0, "MIXED", fields=fields, reset=before))
    file.write(0x100, written)
    expected = written & 0xFF | before & 0xFF00 | before & ~written & 0xFF0000
    assert file.read(0x100) == expected


def test_bits_without_a_field_read_zero_and_drop_writes():
    file = file_of(Register(0, "A", fields=(Field("LOW", 0, 2),)))
    file.write(0x100, 0xFFFFFFFF)
    assert file.read(0x100) == 7


def test_two_registers_at_one_offset_are_refused_with_both_names():
    with pytest.raises(DeclarationError, match=r"PX\.B must not overlap PX\.A"):
        file_of(Register(0, "A", count=4), Register(8, "B"))


def test_two_fields_on_one_bit_are_refused_with_both_names():
    with pytest.raises(DeclarationError, match=r"A\.HIGH must not overlap A\.LOW"):
        Register(0, "A", fields=(Field("LOW", 0, 4), Field("HIGH", 4, 8)))


def test_a_field_outside_the_word_is_refused():
    with pytest.raises(DeclarationError, match="bits 0 to 31"):
        Register(0, "A", fields=(Field("WIDE", 30, 32),))


def test_a_register_beyond_the_address_space_is_refused():
    with pytest.raises(DeclarationError, match="must lie below 0x1000"):
        RegisterFile(0x1000).place(Block("PX", 0xFFC, 8, (Register(4, "A"),)))


def test_what_is_not_declared_reads_zero_drops_writes_and_is_counted():
    file = file_of(Register(0, "A"))
    file.write(0x180, 1)
    assert file.read(0x180) == 0
    assert (file.unknown_reads, file.unknown_writes) == (1, 1)


def test_a_scratch_range_keeps_what_is_written_and_a_reset_clears_it():
    file = file_of(Register(0, "A", reset=3), scratch=(Scratch(0x10, 0x1C, "test"),))
    file.write(0x110, 7)
    file.write(0x100, 8)
    assert file.read(0x110) == 7
    file.reset(next(file.blocks()))
    assert (file.read(0x110), file.read(0x100)) == (0, 3)


class Engine:
    def __init__(self) -> None:
        self.log: list[tuple[object, ...]] = []

    def write_go(self, value: int) -> None:
        self.log.append(("go", value))

    def read_now(self) -> int:
        return 42

    def write_each(self, index: int, value: int) -> None:
        self.log.append((index, value))


def test_handlers_are_found_by_the_register_s_name():
    engine = Engine()
    file = file_of(
        Register(0, "GO", T), Register(4, "NOW", R), Register(8, "EACH", count=3, stride=8), engine=engine
    )
    file.write(0x100, 1)
    file.write(0x110, 2)
    assert file.read(0x100) == 0
    assert file.read(0x104) == 42
    assert engine.log == [("go", 1), (1, 2)]


def test_the_index_counts_over_the_instances_of_a_block():
    engine = Engine()
    file = file_of(Register(0, "EACH", count=2), engine=engine, count=2, stride=0x40)
    file.write(0x144, 5)
    assert engine.log == [(3, 5)]
    assert file.name(0x144) == "PX.EACH[3]"


def test_a_trace_names_what_is_accessed_and_ends_when_told():
    file = file_of(Register(0, "A"))
    heard: list[tuple[str, int, bool]] = []
    plain = file.read
    file.trace(lambda name, offset, value, write: heard.append((name, value, write)))
    file.write(0x100, 3)
    file.read(0x100)
    file.trace(None)
    file.read(0x100)
    assert heard == [("PX.A", 3, True), ("PX.A", 3, False)]
    assert file.read == plain

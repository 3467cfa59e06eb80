"""The tables themselves: every bit has one owner, no two rows claim a word, every operation has its
modifiers.
"""

from __future__ import annotations

from itertools import combinations

import pytest
from samples import title

from gpuvm.isa.fields import Bits, ImmField, RegField, at, choice
from gpuvm.isa.rows import make_row
from gpuvm.isa.tables import BY_NAME, LONG, ROWS, SHORT


def test_rows_that_can_match_one_word_are_special_and_general_case() -> None:
    clashes = []
    for bucket in [*LONG, *SHORT]:
        for (mask_a, match_a, a), (mask_b, match_b, b) in combinations(bucket, 2):
            common = mask_a & mask_b
            if (match_a ^ match_b) & common:
                continue
            if mask_a | mask_b != mask_a or mask_a == mask_b:
                clashes.append((title(a), title(b)))
    assert clashes == []


def test_every_row_of_an_operation_has_the_same_modifiers_and_default() -> None:
    for name, rows in BY_NAME.items():
        shapes = {tuple((mod.name, mod.default) for mod in row.mods) for row in rows}
        assert len(shapes) == 1, name


def test_the_long_form_of_an_operation_can_say_every_default() -> None:
    """What the encoder assumes where nothing is said must be something a row can hold."""
    without = {
        name
        for name, rows in BY_NAME.items()
        if not any(all(mod.default in mod.codes for mod in row.mods) for row in rows)
    }
    # Conversions have no default types, dual loads no default pair of sizes.
    assert without <= {"F2F", "F2I", "I2F", "I2I"}


def test_two_fields_in_one_bit_are_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        make_row("BAD", 8, 3, 0xF, [RegField(14)], [ImmField(at(19, 4))], [])


def test_a_field_in_the_opcode_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        make_row("BAD", 8, 3, 0x7F, [], [], [choice("op", at(5, 2), "A B")])


def test_bits_put_what_they_get() -> None:
    bits = Bits((26, 17), (55, 3))
    word = bits.put(0x9ABCD)
    assert word & ~bits.mask == 0
    assert bits.get(word) == 0x9ABCD
    assert bits.get_signed(word) == 0x9ABCD - (1 << 20)


def test_the_operations_of_the_instruction_set_are_there() -> None:
    wanted = [
        "FADD",
        "FFMA",
        "FMUL",
        "FMNMX",
        "FSET",
        "FSETP",
        "FCMP",
        "FSWZADD",
        "MUFU",
        "RRO",
        "DADD",
        "DFMA",
        "DMUL",
        "DMNMX",
        "DSET",
        "DSETP",
        "IADD",
        "IMUL",
        "IMAD",
        "ISCADD",
        "ISAD",
        "IMNMX",
        "ISET",
        "ISETP",
        "ICMP",
        "BFE",
        "BFI",
        "FLO",
        "POPC",
        "SHL",
        "SHR",
        "LOP",
        "PRMT",
        "SEL",
        "MOV",
        "S2R",
        "P2R",
        "R2P",
        "PSET",
        "PSETP",
        "CSET",
        "CSETP",
        "F2F",
        "F2I",
        "I2F",
        "I2I",
        "LD",
        "LDU",
        "LDL",
        "LDS",
        "LDSLK",
        "STSUL",
        "LDC",
        "ST",
        "STL",
        "STS",
        "ATOM",
        "RED",
        "CCTL",
        "CCTLL",
        "MEMBAR",
        "VOTE",
        "BAR",
        "B2R",
        "BRA",
        "BRX",
        "JMP",
        "JMX",
        "CAL",
        "JCAL",
        "RET",
        "EXIT",
        "BRK",
        "CONT",
        "SSY",
        "PBK",
        "PCNT",
        "PRET",
        "PLONGJMP",
        "LONGJMP",
        "KIL",
        "NOP",
        "BPT",
        "SULD",
        "SUST",
        "SURED",
        "SUQ",
        "SULEA",
        "TEX",
        "TLD",
        "TLD4",
        "TXQ",
        "TXD",
        "TMML",
        "VADD",
        "VADD2",
        "VADD4",
        "VMAD",
        "VSET",
        "VSETP",
        "IPA",
        "OUT",
        "ALD",
        "AST",
        "PIXLD",
        "LD_LDU",
        "LDS_LDU",
        "LDLK",
        "STUL",
        "FADD32I",
        "FMUL32I",
        "FFMA32I",
        "IADD32I",
        "IMUL32I",
        "IMAD32I",
        "ISCADD32I",
        "LOP32I",
        "MOV32I",
        "LEPC",
        "PMTRIG",
        "RTT",
        "SAM",
        "RAM",
    ]
    assert [name for name in wanted if name not in BY_NAME] == []
    assert len(ROWS) > 1000

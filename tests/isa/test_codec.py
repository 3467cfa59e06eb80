"""Decoder and encoder are inverse on every row of the tables, in both directions and through the text."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import PC, corners, decoded, filled, title

from gpuvm.isa.assembler import assemble
from gpuvm.isa.decoder import decode, decode_all, decode_word
from gpuvm.isa.disassembler import disassemble, format_instruction
from gpuvm.isa.encoder import encode, encode_word
from gpuvm.isa.errors import DecodeError, EncodeError
from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Pred, Reg, Special, Target
from gpuvm.isa.tables import ROWS

NAMES = sorted({row.name for row in ROWS})


def _check(row_index: int, bits: int) -> bool:
    row = ROWS[row_index]
    instruction = decoded(row, bits)
    if instruction is None:
        return False
    word = filled(row, bits)
    assert encode_word(instruction, PC) == word, title(row)
    again = decode_word(word, row.size, PC)
    assert again == instruction
    built = replace(instruction, word=0)
    assert encode_word(built, PC) == word
    return True


def test_every_row_decodes_and_encodes_back() -> None:
    """Random fillings of every row, and each of its fields at its ends; each row is reached."""
    chance = random.Random(20)
    for index, row in enumerate(ROWS):
        hits = sum(_check(index, chance.getrandbits(64)) for _ in range(8))
        hits += sum(_check(index, bits) for bits in corners(row, chance))
        assert hits, title(row)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(ROWS) - 1), st.integers(0, (1 << 64) - 1))
def test_any_filling_of_any_row(row: int, bits: int) -> None:
    _check(row, bits)


def test_the_text_of_every_row_assembles_to_the_same_word() -> None:
    chance = random.Random(7)
    for row in ROWS:
        for bits in (0, chance.getrandbits(64), chance.getrandbits(64)):
            instruction = decoded(row, bits)
            if instruction is None:
                continue
            text = format_instruction(instruction, PC)
            assert int.from_bytes(assemble(text, PC), "little") == filled(row, bits), text


@settings(max_examples=500, deadline=None)
@given(st.integers(0, (1 << 64) - 1))
def test_a_random_word_is_refused_or_explained_to_the_last_bit(word: int) -> None:
    size = 4 if word & 8 else 8
    word &= (1 << 8 * size) - 1
    try:
        instruction = decode_word(word, size, PC)
    except DecodeError as error:
        refused = error
        instruction = None
    if instruction is None:
        assert (refused.word, refused.pc) == (word, PC)
        return
    assert encode_word(instruction, PC) == word


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(ROWS) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, 63))
def test_flipping_one_bit_changes_the_meaning_or_is_refused(row: int, bits: int, bit: int) -> None:
    """No bit is ignored: a word and its neighbour never read the same."""
    chosen = ROWS[row]
    instruction = decoded(chosen, bits)
    if instruction is None or bit >= 8 * chosen.size or bit == 3:
        return
    try:
        other = decode_word(filled(chosen, bits) ^ 1 << bit, chosen.size, PC)
    except DecodeError:
        return
    assert replace(other, word=0) != replace(instruction, word=0)


def test_known_words() -> None:
    """Encodings that are common knowledge: the first instruction of every nvcc kernel, the last, and Mesa's
    short ones.
    """
    assert decode_word(0x2800440400005DE4, 8) == Instruction(
        "MOV", (Reg(1),), (Const(1, 0x100),), {"lanes": 15, "top": False}, word=0x2800440400005DE4
    )
    last = decode_word(0x8000000000001DE7, 8)
    assert (last.name, last.guard, last.mods["test"]) == ("EXIT", Pred(7), "T")
    short = decode_word(0x88001DFF, 4)
    assert (short.name, short.size) == ("EXIT", 4)
    assert decode_word(0x1030DC2C, 4).src == (Reg(3), Reg(4))


def test_an_instruction_is_built_from_what_differs_from_the_default() -> None:
    carry = Instruction("IADD", (Reg(3),), (Reg(3), Const(0, 0x20)), {"cc": True}, guard=Pred(0, True))
    found = decode(encode(carry, 0), 0)
    assert found.mods == {"sat": False, "x": False, "po": False, "cc": True}
    assert (found.dst, found.src, found.guard) == (carry.dst, carry.src, carry.guard)


def test_a_branch_counts_from_the_end_of_the_instruction() -> None:
    word = encode_word(Instruction("BRA", (), (Target(0x100),)), 0x80)
    assert word >> 26 & 0xFFFFFF == 0x100 - 0x88
    assert decode_word(word, 8, 0x80).src == (Target(0x100),)
    near = encode_word(Instruction("BRA", (), (Target(0x100),), size=4), 0x80)
    assert decode_word(near, 4, 0x80).src == (Target(0x100),)


def test_the_sign_of_a_product_may_stand_on_either_factor() -> None:
    on_b = Instruction("FFMA", (Reg(0),), (Reg(1), Reg(2, neg=True), Reg(3)))
    on_a = Instruction("FFMA", (Reg(0),), (Reg(1, neg=True), Reg(2), Reg(3)))
    on_both = Instruction("FFMA", (Reg(0),), (Reg(1, neg=True), Reg(2, neg=True), Reg(3)))
    assert encode_word(on_b) == encode_word(on_a)
    assert decode_word(encode_word(on_both), 8).src == (Reg(1), Reg(2), Reg(3))


@pytest.mark.parametrize(
    ("instruction", "message"),
    [
        (Instruction("FROB"), "no GF100 operation"),
        (Instruction("FADD", (Reg(0),), (Reg(1),)), "1 destination.* 2 source"),
        (Instruction("FADD", (Reg(0),), (Reg(1), Imm(1))), "multiple of 2\\*\\*12"),
        (Instruction("IADD", (Reg(0),), (Reg(1), Imm(0x80000))), "524287"),
        (Instruction("IADD", (Reg(0),), (Reg(1, neg=True), Reg(2, neg=True))), "another form"),
        (Instruction("FADD", (Reg(64),), (Reg(1), Reg(2))), "0 to 63"),
        (Instruction("MOV", (Reg(0),), (Const(0, 2),)), "multiple of 4"),
        (Instruction("LD", (Reg(0),), (Mem("generic", Reg(2), 0),), {"e": True}), "2 register"),
        (Instruction("LD", (Reg(0),), (Mem("shared", Reg(2), 0),)), "generic space"),
        (Instruction("FADD", (Reg(0),), (Reg(1), Reg(2)), {"rnd": "XX"}), "rnd must be one of"),
        (Instruction("FADD", (Reg(0),), (Reg(1), Reg(2)), {"wild": True}), "no modifier wild"),
        (Instruction("SSY", (), (Target(0x40),), guard=Pred(0)), "no guard"),
        (Instruction("EXIT", sync=True), "no .S"),
        (Instruction("DADD", (Reg(0, 2),), (Reg(2, 2), Reg(4))), "2 consecutive"),
        (Instruction("FFMA32I", (Reg(0),), (Reg(1), Imm(1), Reg(2))), "last source must be its destination"),
        (Instruction("DADD", (Reg(0, 2),), (Reg(2, 2), Reg(4, 2)), size=4), "no form of 4 bytes"),
        (Instruction("BRA", (), (Target(1 << 24),)), "distance"),
        (Instruction("S2R", (Reg(0),), (Special(256, "SR256"),)), "0 to 255"),
    ],
)
def test_what_cannot_be_encoded_says_why(instruction: Instruction, message: str) -> None:
    with pytest.raises(EncodeError, match=message):
        encode(instruction, 0)


def test_code_that_ends_early_is_refused() -> None:
    word = encode(Instruction("EXIT"))
    for cut in range(8):
        with pytest.raises(DecodeError):
            decode(word[:cut], 0)
    with pytest.raises(DecodeError):
        decode(word, 8)
    with pytest.raises(DecodeError):
        decode(word, -8)


@pytest.mark.parametrize(
    "word", [0x0, 0xFFFFFFFFFFFFFFFF, 0x17, 0x2000000000000007, 0x0180000000000003, 0x5800000000000004]
)
def test_reserved_words_and_those_of_later_chips_are_refused(word: int) -> None:
    """Kepler's scheduling word, its 3-operand video multiply and SUCLAMP among them."""
    with pytest.raises(DecodeError, match="0x"):
        decode_word(word, 8, 0)


def test_a_listing_shows_what_is_no_instruction_as_data() -> None:
    code = encode(Instruction("EXIT")) + bytes(8) + encode(Instruction("EXIT", size=4)) + b"\x00\x01"
    lines = list(disassemble(code, 0x10))
    assert [line.split("*/")[0] for line in lines] == ["/*0010", "/*0018", "/*0020", "/*0024"]
    assert lines[0].endswith("EXIT;")
    assert "no known" in lines[1]
    assert lines[2].endswith("EXIT.SHORT;")
    assert "8 bytes" in lines[3]


def test_mixed_sizes_are_walked_in_order() -> None:
    code = assemble("MOV.SHORT R1, R2; FADD R1, R2, R3; IADD.SHORT R1, R1, R2; EXIT;", 0x100)
    assert [(pc, i.name, i.size) for pc, i in decode_all(code, 0x100)] == [
        (0x100, "MOV", 4),
        (0x104, "FADD", 8),
        (0x10C, "IADD", 4),
        (0x110, "EXIT", 8),
    ]


def test_decoding_keeps_a_bounded_number_of_modifier_views() -> None:
    """Code from a guest must not grow the tables' memory without end."""
    for row in ROWS:
        if row.name == "VADD4" and row.size == 8:
            for bits in range(1 << 14):
                decoded(row, bits * 0x9E3779B97F4A7C15)
            assert len(row.cache) <= 64
            return
    raise AssertionError("VADD4 has no row")

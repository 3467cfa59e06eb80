"""The tables against envydis, which this project did not write: operation, operands, modifiers and guard must
agree.
"""

from __future__ import annotations

from collections import Counter

import pytest
from envydis_text import difference, read
from samples import fermi_data

from gpuvm.isa.decoder import decode_word
from gpuvm.isa.encoder import encode_word
from gpuvm.isa.errors import DecodeError

DATA = fermi_data()
needs_data = pytest.mark.skipif(DATA is None, reason="shared/data/fermi is not beside the repository")

REFUSED = {
    "bar arrive": "an arrival at a barrier with destinations or a predicate: envydis prints the fields"
    " that the word"
    " has, but nobody has seen a compiler fill them and what they would do is not known",
}
"""Words that envydis reads and the decoder refuses, with the reason."""


def _refusal(text: str) -> str:
    return next((reason for words, reason in REFUSED.items() if words in text), "")


@needs_data
def test_random_words() -> None:
    """words.tsv: random words that envydis explains whole."""
    assert DATA is not None
    problems: list[str] = []
    counts: Counter[str] = Counter()
    for line in (DATA / "words.tsv").read_text().splitlines():
        digits, text = line.split("\t")
        word = int(digits, 16)
        try:
            instruction = decode_word(word, 8, 0)
        except DecodeError as error:
            counts["refused"] += 1
            if not _refusal(text):
                problems.append(f"{text}: {error}")
            continue
        assert encode_word(instruction, 0) == word
        why = difference(read(text, word, 8), instruction)
        counts["same" if not why else "different"] += 1
        if why:
            problems.append(f"{digits} {text}: {why}")
    assert problems == []
    assert counts == {"same": 7374, "refused": 8}


@needs_data
def test_mesas_programs() -> None:
    """What Mesa's compiler and envyas make: short and long forms mixed, branches and calls."""
    assert DATA is not None
    problems: list[str] = []
    seen = 0
    for path in sorted(DATA.glob("mesa_program_*.txt")):
        for line in path.read_text().splitlines():
            pc = int(line[:8], 16)
            words = line[10:28].split()
            size = 4 * len(words)
            word = sum(int(part, 16) << 32 * i for i, part in enumerate(words))
            instruction = decode_word(word, size, pc)
            assert encode_word(instruction, pc) == word
            why = difference(read(line[28:].strip(), word, size), instruction)
            if why:
                problems.append(f"{path.name} {line}: {why}")
            seen += 1
    assert problems == []
    assert seen > 300


def test_the_reader_notices_a_wrong_reading() -> None:
    """The judge itself: a changed operand, modifier, guard or operation is a difference."""
    word = 0x48004000301CDC43 | 0x4000
    text = "add b32 $r3 $r1 c0[0xc] $c"
    right = decode_word(0x480040003010DC43, 8)
    assert difference(read(text, 0x480040003010DC43, 8), right) == ""
    for wrong in (
        "add b32 $r4 $r1 c0[0xc] $c",
        "add b32 $r3 $r1 c0[0x8] $c",
        "add b32 $r3 $r1 c0[0xc]",
        "sub b32 $r3 $r1 c0[0xc] $c",
        "$p1 add b32 $r3 $r1 c0[0xc] $c",
        "join add b32 $r3 $r1 c0[0xc] $c",
        "mul $r3 u32 $r1 u32 c0[0xc]",
    ):
        assert difference(read(wrong, word, 8), right) != "", wrong

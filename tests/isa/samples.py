"""Random words of a row: every field filled with random bits, every other bit as the row has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

from gpuvm.isa.decoder import decode_word
from gpuvm.isa.errors import DecodeError
from gpuvm.isa.instruction import Instruction
from gpuvm.isa.rows import Row
from gpuvm.isa.tables import ROWS, find

PC = 0x4000


def filled(row: Row, bits: int) -> int:
    """Word of `row` whose fields hold `bits`."""
    return bits & ((1 << 8 * row.size) - 1) & ~row.mask | row.match


def decoded(row: Row, bits: int, pc: int = PC) -> Instruction | None:
    """The instruction of such a word; None if the bits hit a reserved code or a more special row."""
    word = filled(row, bits)
    if find(word, row.size) is not row:
        return None
    try:
        return decode_word(word, row.size, pc)
    except DecodeError:
        return None


def corners(row: Row, chance: Random) -> Iterator[int]:
    """Bits in which one field of the row is all zeros or all ones and the others are random, or all are."""
    yield 0
    yield (1 << 64) - 1
    for field in (*row.dst, *row.src, *row.mods):
        bits = chance.getrandbits(64)
        yield bits & ~field.mask
        yield bits | field.mask


def title(row: Row) -> str:
    """Name for messages."""
    return f"{row.name}/{row.size} {row.match:#x}"


def fermi_data() -> Path | None:
    """`shared/data/fermi` beside the repository or above it, None where it is not."""
    for folder in Path(__file__).resolve().parents:
        found = folder / "shared" / "data" / "fermi"
        if found.is_dir():
            return found
    return None


__all__ = ["PC", "ROWS", "corners", "decoded", "fermi_data", "filled", "title"]

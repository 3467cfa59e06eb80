"""Machine code -> `Instruction`. Never guesses: a word with a bit that no row explains is a DecodeError."""

from __future__ import annotations

from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

from gpuvm.isa.errors import DecodeError, FieldError
from gpuvm.isa.instruction import PT, Instruction, Pred, Value
from gpuvm.isa.tables import LONG, SHORT, SHORT_MASK

if TYPE_CHECKING:
    from gpuvm.isa.rows import Row

_GUARDS = [Pred(i & 7, bool(i & 8)) for i in range(16)]
_ALWAYS = Pred(PT)
_CACHED_MODS = 64
"""Distinct modifier settings that a row remembers; code from outside must not grow memory without bound."""


def word_size(first: int) -> int:
    """Bytes of the instruction whose lowest byte is `first`."""
    return 4 if first & 8 else 8


def _mods(row: Row, word: int) -> MappingProxyType[str, Value] | None:
    """Modifier values of a word, None if one of them has a reserved code."""
    key = word & row.mod_mask
    known = row.cache.get(key)
    if known is not None:
        return cast("MappingProxyType[str, Value]", known)
    values: dict[str, Value] = {}
    for mod in row.mods:
        value = mod.read(word)
        if value is None:
            return None
        values[mod.name] = value
    view = MappingProxyType(values)
    if len(row.cache) < _CACHED_MODS:
        row.cache[key] = view
    return view


def decode_word(word: int, size: int, pc: int = 0) -> Instruction:
    """Instruction of an encoded word.

    Parameters
    ----------
    word : int
        4 or 8 bytes as a little-endian number.
    size : int
        4 or 8.
    pc : int
        Byte offset of the instruction; relative branch targets count from it.

    Raises
    ------
    DecodeError
        No row of the tables explains every bit, or a field holds a reserved code.
    """
    reserved = False
    for mask, match, row in LONG[(word & 0xF) << 6 | word >> 58] if size == 8 else SHORT[word & SHORT_MASK]:
        if word & mask == match:
            mods = _mods(row, word)
            if mods is None:
                reserved = True
                continue
            try:
                return Instruction(
                    row.name,
                    tuple([field.read(word, pc) for field in row.dst]),
                    tuple([field.read(word, pc) for field in row.src]),
                    mods,
                    _GUARDS[word >> 10 & 15] if row.guarded else _ALWAYS,
                    row.syncable and bool(word & 16),
                    size,
                    word,
                )
            except FieldError:
                reserved = True
    what = "has a field with a reserved value" if reserved else "is no known GF100 instruction"
    raise DecodeError(f"the word {word:#0{2 + 2 * size}x} at {pc:#x} {what}", pc, word)


def decode(code: bytes | bytearray | memoryview, offset: int, pc: int | None = None) -> Instruction:
    """Instruction at byte `offset` of `code`.

    Parameters
    ----------
    code : bytes-like
        Machine code in memory order.
    offset : int
        Where the instruction starts; a multiple of 4.
    pc : int, optional
        Its offset from the code segment's base if that is not `offset`.

    Raises
    ------
    DecodeError
        Nothing known stands there, or the code ends inside the instruction.
    """
    if pc is None:
        pc = offset
    low = code[offset : offset + 4]
    if offset < 0 or len(low) < 4:
        raise DecodeError(
            f"an instruction needs 4 or 8 bytes, the code ends at {len(code):#x}, before {pc:#x} is whole", pc
        )
    if low[0] & 8:
        return decode_word(int.from_bytes(low, "little"), 4, pc)
    whole = code[offset : offset + 8]
    if len(whole) < 8:
        raise DecodeError(f"the instruction at {pc:#x} needs 8 bytes, the code has {len(whole)} there", pc)
    return decode_word(int.from_bytes(whole, "little"), 8, pc)


def decode_all(code: bytes | bytearray | memoryview, base: int = 0) -> Iterator[tuple[int, Instruction]]:
    """(pc, instruction) pairs of straight code from its start to its end; `base` is the first one's pc."""
    offset = 0
    while offset < len(code):
        instruction = decode(code, offset, base + offset)
        yield base + offset, instruction
        offset += instruction.size

"""`Instruction` -> text in the style of NVIDIA's cuobjdump for sm_20; the assembler reads it back to the same
word.

Immediates are spelled in hexadecimal as the operation sees them, addresses as byte offsets, and a 4-byte form
carries the suffix `.SHORT` (NVIDIA's tools never show one).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gpuvm.isa.decoder import decode, word_size
from gpuvm.isa.errors import DecodeError
from gpuvm.isa.instruction import PT, Instruction, Pred, Value
from gpuvm.isa.spelling import spell_operand, spell_predicate
from gpuvm.isa.tables import BY_NAME, find

if TYPE_CHECKING:
    from gpuvm.isa.fields import Mod
    from gpuvm.isa.rows import Row


def _row(instruction: Instruction) -> Row:
    """The row of an instruction, also of one that was built and not encoded."""
    if instruction.word:
        row = find(instruction.word, instruction.size)
        if row is not None and row.name == instruction.name:
            return row
    rows = BY_NAME.get(instruction.name)
    if not rows:
        raise ValueError(f"{instruction.name} is no GF100 operation")
    for row in rows:
        same_shape = len(row.src) == len(instruction.src) and len(row.dst) == len(instruction.dst)
        if (
            row.size == instruction.size
            and same_shape
            and all(instruction.mods.get(mod.name, mod.default) in mod.codes for mod in row.mods)
        ):
            return row
    return rows[0]


def _suffixes(mods: tuple[Mod, ...], values: dict[str, Value]) -> list[str]:
    words: list[str] = []
    pairs = any(mod.place == "pair" and values[mod.name] != mod.default for mod in mods)
    for mod in mods:
        if mod.place == "suffix":
            words.append(mod.spelled(values[mod.name]))
        elif mod.place == "pair" and pairs:
            words.append(str(values[mod.name]))
    return [word for word in words if word]


def format_instruction(instruction: Instruction, pc: int = 0) -> str:
    """Assembly text of one instruction with its closing semicolon, such as `@!P0 FADD.FTZ R1, -R2,
    c[0x0][0x20];`.

    `pc` is not needed for the text, targets are absolute; it is accepted so that all formatters look alike.
    """
    del pc
    row = _row(instruction)
    values: dict[str, Value] = {mod.name: instruction.mods.get(mod.name, mod.default) for mod in row.mods}
    head = [instruction.name, *_suffixes(row.mods, values)]
    if instruction.sync:
        head.append("S")
    if instruction.size == 4:
        head.append("SHORT")
    on: dict[str, list[str]] = {"dst": [], "src0": [], "src1": [], "operand": []}
    for mod in row.mods:
        if mod.place in on:
            word = mod.spelled(values[mod.name])
            if word:
                on[mod.place].append(word)
    dst = [spell_operand(operand) for operand in instruction.dst]
    src = [spell_operand(operand) for operand in instruction.src]
    if dst:
        dst[0] = ".".join([dst[0], *on["dst"]])
    for index, place in enumerate(("src0", "src1")):
        if on[place]:
            src[index] = ".".join([src[index], *on[place]])
    operands = [*dst, *src]
    for position, literal in row.literals:
        operands.insert(position, literal.text)
    operands = [*on["operand"], *operands]
    guard = "" if instruction.guard == Pred(PT) else f"@{spell_predicate(instruction.guard)} "
    text = guard + ".".join(head)
    return f"{text} {', '.join(operands)};" if operands else f"{text};"


def disassemble(code: bytes | bytearray | memoryview, base: int = 0) -> Iterator[str]:
    """Lines of a listing: offset, words in memory order, text. What does not decode is shown as data.

    Parameters
    ----------
    code : bytes-like
        Machine code in memory order.
    base : int
        Byte offset of its first instruction.
    """
    offset = 0
    while offset < len(code):
        pc = base + offset
        size = min(word_size(code[offset]), len(code) - offset)
        words = " ".join(
            f"{int.from_bytes(code[i : min(i + 4, offset + size)], 'little'):08x}"
            for i in range(offset, offset + size, 4)
        )
        try:
            text = format_instruction(decode(code, offset, pc), pc)
        except DecodeError as error:
            text = f"/* {error} */"
        yield f"/*{pc:04x}*/ /*{words:<17}*/ {text}"
        offset += size

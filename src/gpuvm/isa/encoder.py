"""`Instruction` -> machine code: the decoder's inverse, from the same rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gpuvm.isa.errors import EncodeError, FieldError, KindError
from gpuvm.isa.fields import PairedField
from gpuvm.isa.instruction import PT, Const, Imm, Instruction, Operand, Reg
from gpuvm.isa.spelling import spell_operand, spell_predicate
from gpuvm.isa.tables import BY_NAME, find

if TYPE_CHECKING:
    from gpuvm.isa.rows import Row


class _Attempt(Exception):
    """A row did not fit; the one that came furthest explains best."""

    def __init__(self, error: FieldError, reached: int) -> None:
        super().__init__(str(error))
        self.reached = reached


def _mismatch(row: Row, operand: Operand, stands: Operand) -> str:
    """Why an operand that depends on other fields is not what the word says."""
    if any(isinstance(field, PairedField) for field in row.src):
        return "its last source must be its destination"
    count = stands.count if isinstance(stands, Reg) else 0
    return f"these modifiers make {spell_operand(operand)} a run of {count} registers"


def _encode_row(row: Row, instruction: Instruction, pc: int) -> int:
    """Word of the instruction as `row`; _Attempt, with how far it came, if it is not of that form."""
    if len(instruction.dst) != len(row.dst) or len(instruction.src) != len(row.src):
        error = FieldError(
            f"it takes {len(row.dst)} destination(s) and {len(row.src)} source(s),"
            f" got {len(instruction.dst)} and {len(instruction.src)}"
        )
        raise _Attempt(error, 0)
    word = row.match
    reached = 1
    try:
        mods = instruction.mods
        for mod in row.mods:
            word |= mod.write(mods.get(mod.name, mod.default))
            reached += 1
        for field, operand in zip(row.dst, instruction.dst, strict=True):
            word |= field.write(operand, pc)
            reached += 1
        for field, operand in zip(row.src, instruction.src, strict=True):
            word |= field.write(operand, pc)
            reached += 1
        if row.guarded:
            word |= instruction.guard.index << 10 | instruction.guard.inv << 13
        elif instruction.guard.index != PT or instruction.guard.inv:
            raise FieldError(
                f"it acts for the whole warp and takes no guard, got {spell_predicate(instruction.guard)}"
            )
        if instruction.sync:
            if not row.syncable:
                raise FieldError("it has no .S flag")
            word |= 1 << 4
        if row.check:
            operands = (*instruction.dst, *instruction.src)
            for field, operand in zip((*row.dst, *row.src), operands, strict=True):
                stands = field.read(word, pc)
                if stands != operand:
                    raise FieldError(_mismatch(row, operand, stands))
    except FieldError as error:
        raise _Attempt(error, 2 * reached + (not isinstance(error, KindError))) from None
    return word


PRODUCTS = frozenset(("FMUL", "FFMA", "FFMA32I", "DMUL", "DFMA", "IMAD", "IMAD32I"))
"""Operations whose one negation bit is a product's: it stands on the first factor, either may say it."""


def _product(instruction: Instruction) -> Instruction:
    """The instruction with the sign of its product on the first factor."""
    a, b, *rest = instruction.src
    if not (isinstance(a, Reg) and isinstance(b, (Reg, Const, Imm)) and b.neg):
        return instruction
    return replace(instruction, src=(replace(a, neg=not a.neg), replace(b, neg=False), *rest))


def encode_word(instruction: Instruction, pc: int = 0) -> int:
    """Word of `instruction`, of `instruction.size` bytes, at byte offset `pc`.

    Modifiers that the instruction does not name have their defaults. The short form is used only
    if `size` is 4.

    Raises
    ------
    EncodeError
        No form of the operation takes these operands, modifiers, guard and size.
    """
    rows = BY_NAME.get(instruction.name)
    if rows is None:
        raise EncodeError(f"{instruction.name} is no GF100 operation")
    if not 0 <= instruction.guard.index <= 7:
        raise EncodeError(
            f"{instruction.name}: the guard must be P0 to P6 or PT, got {instruction.guard.index}"
        )
    unknown = set(instruction.mods) - {mod.name for mod in rows[0].mods}
    if unknown:
        known = ", ".join(mod.name for mod in rows[0].mods) or "none"
        raise EncodeError(f"{instruction.name} has no modifier {', '.join(sorted(unknown))}; it has: {known}")
    if instruction.name in PRODUCTS and len(instruction.src) > 1:
        instruction = _product(instruction)
    best: _Attempt | None = None
    sized = [row for row in rows if row.size == instruction.size]
    mods = instruction.mods
    fitting = [
        row
        for row in sized
        if all(mods.get(mod.name, mod.default) in mod.codes for mod in row.mods if mod.bits is None)
    ]
    # With none the loop runs over all, to say which modifier is wrong.
    for row in fitting or sized:
        try:
            word = _encode_row(row, instruction, pc)
        except _Attempt as attempt:
            if best is None or attempt.reached > best.reached:
                best = attempt
            continue
        if find(word, row.size) is row:
            return word
        best = _Attempt(
            FieldError("these operands and modifiers mean another form of the instruction"), 1 << 10
        )
    if best is None:
        raise EncodeError(f"{instruction.name} has no form of {instruction.size} bytes")
    raise EncodeError(f"{instruction.name}: {best}")


def encode(instruction: Instruction, pc: int = 0) -> bytes:
    """Machine code of `instruction` at byte offset `pc`, in memory order; see `encode_word`."""
    return encode_word(instruction, pc).to_bytes(instruction.size, "little")

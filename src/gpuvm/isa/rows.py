"""A row of the instruction tables: one form of one operation, and the helpers that declare rows.

Bits of a long (8-byte) word, common to all rows: 0-2 class, 3 zero (set = 4-byte word), 4 ".S", 10-12 guard
predicate, 13 guard inverted, 14-19 destination, 20-25 first source, 26-31 second source, 46-47 which form the
second and third source have, 49-54 third source, 58-63 opcode. (envytools' gf100 ISA notes and Mesa's nvc0
emitter agree on these.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from gpuvm.isa.fields import (
    Bits,
    ConstField,
    CountedField,
    Field,
    FixedField,
    ImmField,
    Mod,
    PairedField,
    PredField,
    RegField,
    at,
    choice,
    flag,
)
from gpuvm.isa.instruction import PT, Pred

GUARD_MASK = 0xF << 10
SYNC_MASK = 1 << 4


class Literal:
    """A word of the text that encodes nothing, such as `CC` or `PR`."""

    def __init__(self, text: str) -> None:
        self.text = text


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One form of one operation.

    Attributes
    ----------
    name : str
        Mnemonic.
    size : int
        4 or 8 bytes.
    match, mask : int
        A word is of this row when `word & mask == match`. Bits that no field owns are in the mask, as zeros
        or as opcode.
    dst, src : tuple of Field
        Operand fields.
    mods : tuple of Mod
        Modifier fields in the order of the text.
    guarded : bool
        Bits 10 to 13 hold the guard; else the operation acts for the warp whatever stands there.
    syncable : bool
        Bit 4 is ".S".
    literals : tuple
        (position, Literal) pairs: words of the text between the operands.
    mod_mask : int
        Every bit of the modifiers.
    check : bool
        A field depends on another one, so an encoded word must be read back.
    cache : dict
        Modifier views that the decoder has already made.
    """

    name: str
    size: int
    match: int
    mask: int
    dst: tuple[Field, ...]
    src: tuple[Field, ...]
    mods: tuple[Mod, ...]
    guarded: bool
    syncable: bool
    literals: tuple[tuple[int, Literal], ...] = ()
    mod_mask: int = 0
    check: bool = False
    cache: dict[int, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Form:
    """One choice for a run of sources: the bits that select it and the fields it has then."""

    match: int
    mask: int
    fields: tuple[Field, ...]


Source = Field | Sequence[Form]


def make_row(
    name: str,
    size: int,
    match: int,
    mask: int,
    dst: Sequence[Field],
    src: Sequence[Field],
    mods: Sequence[Mod],
    *,
    guarded: bool = True,
    syncable: bool = True,
    literals: Sequence[tuple[int, Literal]] = (),
) -> Row:
    """Row from its opcode bits and fields; every bit without an owner becomes a bit that must be zero.

    Raises
    ------
    ValueError
        Two fields, or a field and the opcode, claim the same bit.
    """
    owned = 0
    if guarded:
        owned |= GUARD_MASK
    if syncable:
        owned |= SYNC_MASK
    parts: list[Field | Mod] = [*dst, *src, *mods]
    for part in parts:
        if part.mask & owned:
            raise ValueError(f"{name} ({match:#x}): fields overlap in bits {part.mask & owned:#x}")
        owned |= part.mask
    if owned & mask or match & ~mask:
        raise ValueError(
            f"{name} ({match:#x}): opcode and fields overlap in bits {owned & mask | match & ~mask:#x}"
        )
    everything = (1 << 8 * size) - 1
    mod_mask = 0
    for mod in mods:
        mod_mask |= mod.mask
    return Row(
        name,
        size,
        match,
        everything & ~owned,
        tuple(dst),
        tuple(src),
        tuple(mods),
        guarded,
        syncable,
        tuple(literals),
        mod_mask,
        any(isinstance(f, (PairedField, CountedField)) for f in (*dst, *src)),
    )


def _expand(sources: Sequence[Source]) -> Iterator[tuple[int, int, list[Field]]]:
    choices: list[Iterable[Form]] = [(Form(0, 0, (s,)),) if isinstance(s, Field) else s for s in sources]
    for combination in product(*choices):
        match = mask = 0
        fields: list[Field] = []
        for form in combination:
            match |= form.match
            mask |= form.mask
            fields.extend(form.fields)
        yield match, mask, fields


def op(
    name: str,
    match: int,
    mask: int,
    dst: Sequence[Field],
    src: Sequence[Source],
    mods: Sequence[Mod] = (),
    *,
    guarded: bool = True,
    syncable: bool = True,
    literals: Sequence[tuple[int, Literal]] = (),
) -> list[Row]:
    """Long rows of one operation, one for each combination of its sources' forms."""
    return [
        make_row(
            name,
            8,
            match | form_match,
            mask | form_mask | 0xF,
            dst,
            fields,
            mods,
            guarded=guarded,
            syncable=syncable,
            literals=literals,
        )
        for form_match, form_mask, fields in _expand(src)
    ]


def short(
    name: str,
    match: int,
    mask: int,
    dst: Sequence[Field],
    src: Sequence[Source],
    mods: Sequence[Mod] = (),
    *,
    guarded: bool = True,
    literals: Sequence[tuple[int, Literal]] = (),
) -> list[Row]:
    """Short (4-byte) rows; bit 3 set marks them and bit 4 belongs to the opcode."""
    return [
        make_row(
            name,
            4,
            match | form_match,
            mask | form_mask,
            dst,
            fields,
            mods,
            guarded=guarded,
            syncable=False,
            literals=literals,
        )
        for form_match, form_mask, fields in _expand(src)
    ]


# Common places of long words.

DST, SRC1, SRC2, SRC3 = 14, 20, 26, 49
CONST_OFFSET = at(28, 14)
CONST_BANK = Bits((42, 4), (26, 1))
FORM = 46
TRUE = Pred(PT)

COMPARISONS = "F LT EQ LE GT NE GE NUM NAN LTU EQU LEU GTU NEU GEU T"
TESTS = COMPARISONS + " OFF LO SFF LS HI SFT HS OFT"
ROUNDINGS = "RN RM RP RZ"
BOOLEANS = "AND OR XOR"


def rd(count: int = 1) -> RegField:
    """Destination register."""
    return RegField(DST, count)


def ra(neg: int = -1, abs_: int = -1, inv: int = -1, count: int = 1) -> RegField:
    """First source register."""
    return RegField(SRC1, count, neg, abs_, inv)


def pdst() -> tuple[PredField, PredField]:
    """The two predicate destinations of comparisons."""
    return PredField(17), PredField(14)


def pcombine() -> PredField:
    """The predicate that a comparison is combined with, or that selects."""
    return PredField(49, 52)


def _immediate(kind: str, neg: int, abs_: int, inv: int) -> ImmField:
    bits = at(26, 20)
    if kind == "float":
        return ImmField(bits, shift=12, neg=neg, abs_=abs_, inv=inv)
    if kind == "double":
        return ImmField(bits, shift=44, width=64, neg=neg, abs_=abs_, inv=inv)
    width = 64 if kind == "long" else 32
    return ImmField(bits, signed=True, width=width, neg=neg, abs_=abs_, inv=inv)


def form_b(kind: str, *, neg: int = -1, abs_: int = -1, inv: int = -1) -> list[Form]:
    """Second source: register, constant or 20-bit immediate ("int", "float", "double"; "long": no constant
    form).
    """
    count = 2 if kind in ("double", "long") else 1
    forms = [
        Form(0, 3 << FORM, (RegField(SRC2, count, neg, abs_, inv),)),
        Form(1 << FORM, 3 << FORM, (ConstField(CONST_OFFSET, CONST_BANK, 4, neg, abs_, inv),)),
        Form(3 << FORM, 3 << FORM, (_immediate(kind, neg, abs_, inv),)),
    ]
    return [forms[0], forms[2]] if kind == "long" else forms


def form_bc(kind: str, *, neg_c: int = -1) -> list[Form]:
    """Second and third source: one of them may be a constant, the second an immediate."""
    count = 2 if kind == "double" else 1
    third = RegField(SRC3, count, neg_c)
    return [
        Form(0, 3 << FORM, (RegField(SRC2, count), third)),
        Form(1 << FORM, 3 << FORM, (ConstField(CONST_OFFSET, CONST_BANK), third)),
        Form(2 << FORM, 3 << FORM, (RegField(SRC3, count), ConstField(CONST_OFFSET, CONST_BANK, 4, neg_c))),
        Form(3 << FORM, 3 << FORM, (_immediate(kind, -1, -1, -1), third)),
    ]


def long_immediate(neg: int = -1, inv: int = -1) -> ImmField:
    """The full 32-bit immediate of the ...32I operations."""
    return ImmField(at(26, 32), neg=neg, inv=inv)


# Modifiers that mean the same everywhere.


def cc(bit: int = 48) -> Mod:
    """Writes the condition code (carry, overflow, sign, zero)."""
    return flag("cc", bit, "CC", "dst")


def carry_in(bit: int) -> Mod:
    return flag("x", bit)


def ftz(bit: int) -> Mod:
    return flag("ftz", bit)


def sat(bit: int) -> Mod:
    return flag("sat", bit)


def rounding(bits: Bits) -> Mod:
    return choice("rnd", bits, ROUNDINGS, show=False)


def compare() -> Mod:
    return choice("cmp", at(55, 4), COMPARISONS)


def combine() -> Mod:
    return choice("bop", at(53, 2), BOOLEANS)


def signedness(bit: int, name: str = "type") -> Mod:
    return choice(name, at(bit), "U32 S32", "S32", show=False)


def condition(low: int = 5, *, show: bool = False) -> Mod:
    """Condition-code test of control operations."""
    texts: dict[str | int | bool, str] = {test: f"CC.{test}" for test in TESTS.split()}
    if not show:
        texts["T"] = ""
    return choice("test", at(low, 5), TESTS, "T", show=False, place="operand", texts=texts)


def always(index: int = PT) -> FixedField:
    """A predicate that a short form leaves out."""
    return FixedField(Pred(index))

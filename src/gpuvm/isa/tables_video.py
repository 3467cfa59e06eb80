"""Rows of the video (SIMD within a register) operations: scalar, two halves, four bytes.

Each result and source names its type and which part of the register it is. Negations work as in IADD.
"""

from __future__ import annotations

from gpuvm.isa.fields import Bits, ImmField, Mod, RegField, at, choice, fixed, flag
from gpuvm.isa.rows import (
    SRC1,
    SRC2,
    SRC3,
    Form,
    Row,
    Source,
    cc,
    combine,
    op,
    pcombine,
    pdst,
    rd,
    sat,
    short,
)

_FAST = 0xFC00000000000007
_WIDE = 0xF800000000000007
_REGISTER = 1 << 47
_COMPARE = choice("cmp", at(7, 3), "F LT EQ LE GT NE GE T")
_PLUS = (fixed("po", False, text=""), fixed("po", True, False, text="PO"))
_BOTH = 3 << 7

_SCALAR_PARTS = "B0 B1 B2 B3 H0 H1 ~"
_MERGE = choice("merge", at(55, 3), "H1 H0 B0 B2 ACC MIN MAX ~", "", show=False)
_FOLD = choice("merge", at(44, 3), "~ SIMD_MIN SIMD_MAX - ACC MIN MAX", show=False)
_BYTES_A = "B0 B1 B2 B3 ~ B1234 B2345 B3456 B1023 B2103 B3120 B0213 B0321 B0132"
_BYTES_B = "B4 B5 B6 B7 ~ B3456 B2345 B1234 B7654 B5476 B6745"
_HALVES_A = "H0 H10 H20 H30 ~ H1 H21 H31 H02 H12 H2 H32 H03 H13 H23 H3"
_HALVES_B = "H0 H10 H20 H30 H01 H1 H21 H31 H02 H12 H2 H32 H03 H13 ~ H3"


def _part(name: str, bits: Bits, values: str, place: str) -> Mod:
    return choice(name, bits, values, "", show=False, place=place)


def _lanes(names: str, bits: Bits) -> Mod:
    """Which lanes are written; the text leaves "all" out."""
    sets = ["".join(name for i, name in enumerate(names) if code >> i & 1) for code in range(1 << len(names))]
    return Mod("dmask", bits, tuple(sets), names, texts={"": "NONE", names: ""})


def _type(name: str, bit: int, width: int) -> Mod:
    return choice(name, at(bit), f"U{width} S{width}")


def _kinds(lanes: int) -> tuple[int, list[tuple[Form, list[Mod]]], list[Mod]]:
    """(element bits, second source's forms with part selectors, result modifiers) of 1, 2 or 4 lanes."""
    if lanes == 1:
        a = _part("asel", at(44, 3), _SCALAR_PARTS, "src0")
        whole = fixed("bsel", "", place="src1")
        immediate = (Form(0, _REGISTER, (ImmField(at(26, 16)),)), [a, whole])
        register = (
            Form(_REGISTER, _REGISTER, (RegField(SRC2),)),
            [a, _part("bsel", at(32, 3), _SCALAR_PARTS, "src1")],
        )
        return 32, [immediate, register], [_MERGE]
    if lanes == 2:
        immediate = (
            Form(0, _REGISTER, (ImmField(at(26, 16)),)),
            [_part("asel", at(42, 2), "H0 H10 ~ H1", "src0"), fixed("bsel", "", place="src1")],
        )
        register = (
            Form(_REGISTER, _REGISTER, (RegField(SRC2),)),
            [
                _part("asel", at(40, 4), _HALVES_A, "src0"),
                _part("bsel", at(36, 4), _HALVES_B, "src1"),
            ],
        )
        return 16, [immediate, register], [_FOLD, _lanes("XY", at(55, 2))]
    parts = [_part("asel", at(40, 4), _BYTES_A, "src0"), _part("bsel", at(36, 4), _BYTES_B, "src1")]
    immediate = (Form(0, _REGISTER, (ImmField(at(26, 8)),)), parts)
    register = (Form(_REGISTER, _REGISTER, (RegField(SRC2),)), parts)
    return 8, [immediate, register], [_FOLD, _lanes("XYZW", Bits((55, 2), (34, 2)))]


def _negated(form: Form) -> Form:
    """The form with a negation of the second source in bit 7."""
    field = form.fields[0]
    if isinstance(field, RegField):
        return Form(form.match, form.mask, (RegField(field.low, neg=7),))
    return (
        Form(form.match, form.mask, (ImmField(field.bits, neg=7),)) if isinstance(field, ImmField) else form
    )


def _operations(lanes: int) -> list[Row]:
    width, forms, result = _kinds(lanes)
    suffix = "" if lanes == 1 else str(lanes)
    mask = _WIDE if lanes == 1 else _FAST
    first = {1: 0xC0, 2: 0xA0, 4: 0x80}[lanes]
    step = 8 if lanes == 1 else 4
    dtype = _type("dtype", 57, width)
    atype, btype = _type("atype", 6, width), _type("btype", 5, width)
    if lanes == 1:
        dtype = choice("dtype", at(42), "U32 S32", "S32", show=False, texts={"U32": "UD"})
        atype = choice("atype", at(6), "U32 S32", "S32", place="pair")
        btype = choice("btype", at(5), "U32 S32", "S32", place="pair")
    a, c = RegField(SRC1), RegField(SRC3)
    saturate = sat(9)
    wrap = flag("w", 7, "W" if lanes == 1 else "WRAP")
    rows: list[Row] = []

    def opcode(index: int) -> int:
        return (first + step * index) << 56 | 4

    for form, parts in forms:
        common = [dtype, atype, btype, *result, saturate]
        both: list[Source] = [a, [form], c]
        rows += op(
            f"VADD{suffix}",
            opcode(0),
            mask,
            [rd()],
            [RegField(SRC1, neg=8), [_negated(form)], c],
            [*common, *([_PLUS[0]] if lanes == 1 else []), *parts, cc()],
        )
        plus = [_PLUS[1]] if lanes == 1 else []
        rows += op(
            f"VADD{suffix}" if lanes == 1 else f"VAVRG{suffix}",
            opcode(0) | _BOTH,
            mask | _BOTH,
            [rd()],
            both,
            [*common, *plus, *parts, cc()],
        )
        rows += op(f"VMNMX{suffix}", opcode(1), mask, [rd()], both, [flag("mx", 7), *common, *parts, cc()])
        rows += op(f"VABSDIFF{suffix}", opcode(2), mask, [rd()], both, [*common, *parts, cc()])
        rows += op(
            f"VSET{suffix}", opcode(3), mask, [rd()], both, [_COMPARE, atype, btype, *result, *parts, cc()]
        )
        shift = [dtype, atype, *([btype] if lanes == 1 else []), wrap, *result, saturate]
        rows += op(f"VSHR{suffix}", opcode(4), mask, [rd()], both, [*shift, *parts, cc()])
        rows += op(f"VSHL{suffix}", opcode(5), mask, [rd()], both, [*shift, *parts, cc()])
        if lanes > 1:
            rows += op(
                f"VSEL{suffix}", opcode(6), mask, [rd()], [a, [form], pcombine()], [*common, *parts, cc()]
            )
        else:
            scaled = choice("shift", at(55, 2), "~ SHR7 SHR15", show=False)
            multiply = [atype, btype, scaled, saturate]
            rows += op(
                "VMAD",
                opcode(6),
                mask,
                [rd()],
                [RegField(SRC1, neg=8), [form], RegField(SRC3, neg=7)],
                [*multiply, _PLUS[0], *parts, cc()],
            )
            rows += op(
                "VMAD", opcode(6) | _BOTH, mask | _BOTH, [rd()], both, [*multiply, _PLUS[1], *parts, cc()]
            )
            rows += op(
                "VSETP",
                opcode(7),
                mask,
                pdst(),
                [a, [form], pcombine()],
                [_COMPARE, atype, btype, combine(), *parts],
            )
    return rows


def _short() -> list[Row]:
    rows: list[Row] = []
    a, b = RegField(SRC1), RegField(SRC2)
    for code, width, lanes in ((0x108, 16, 2), (0x508, 8, 4)):
        result = _type("dtype", 13, width)
        rows += short(
            f"VABSDIFF{lanes}",
            code,
            0x7FF,
            [rd()],
            [a, b],
            [result, _type("atype", 12, width), _type("btype", 11, width)],
            guarded=False,
        )
        for sign, letter in enumerate("US"):
            types = [
                fixed("atype", f"{letter}{width}", f"U{width}", show=True),
                fixed("btype", f"{letter}{width}", f"U{width}", show=True),
            ]
            rows += short(
                f"VADD{lanes}",
                code + 0x200 | sign << 12,
                0x17FF,
                [rd()],
                [RegField(SRC1, neg=11), b],
                [result, *types],
                guarded=False,
            )
    bytes_, halves = ("B0", "B1", "B2", "B3"), ("H0", "H1")
    pairs = [(x, y) for x in bytes_ for y in bytes_]
    pairs += [("", y) for y in bytes_] + [(x, "") for x in bytes_]
    pairs += [(x, y) for x in halves for y in halves]
    pairs += [("", y) for y in halves] + [(x, "") for x in halves]
    for code, (asel, bsel) in enumerate(pairs):
        rows += short(
            "VMAD",
            0x58 | code << 7,
            0xFFF,
            [rd()],
            [a, b],
            [
                choice("atype", at(13), "U32 S32", "S32", place="pair"),
                choice("btype", at(12), "U32 S32", "S32", place="pair"),
                fixed("asel", asel, "", show=True, place="src0"),
                fixed("bsel", bsel, "", show=True, place="src1"),
            ],
            guarded=False,
        )
    return rows


ROWS: list[Row] = [*_operations(1), *_operations(2), *_operations(4), *_short()]

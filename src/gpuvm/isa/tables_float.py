"""Rows of single- and double-precision arithmetic, comparison and the special-function unit (long words)."""

from __future__ import annotations

from gpuvm.isa.fields import Mod, PairedField, RegField, at, choice, fixed, flag
from gpuvm.isa.rows import (
    DST,
    SRC1,
    SRC2,
    Row,
    cc,
    combine,
    compare,
    form_b,
    form_bc,
    ftz,
    long_immediate,
    op,
    pcombine,
    pdst,
    ra,
    rd,
    rounding,
    sat,
)

_OPCODE = 0xF800000000000007
_FMZ = flag("fmz", 7)


def _single() -> list[Row]:
    a = ra(neg=9, abs_=7)
    b = form_b("float", neg=8, abs_=6)
    rnd = rounding(at(55, 2))
    quad = [choice(f"op{lane}", at(38 - 2 * lane, 2), "ADD SUBR SUB MOV2") for lane in range(4)]
    return [
        *op("FADD", 0x5000000000000000, _OPCODE, [rd()], [a, b], [ftz(5), rnd, sat(49), cc()]),
        *op(
            "FMUL",
            0x5800000000000000,
            _OPCODE,
            [rd()],
            [ra(neg=57), form_b("float")],
            [ftz(6), _FMZ, choice("scale", at(49, 3), "~ D2 D4 D8 M8 M4 M2", show=False), rnd, sat(5), cc()],
        ),
        *op(
            "FFMA",
            0x3000000000000000,
            _OPCODE,
            [rd()],
            [ra(neg=9), form_bc("float", neg_c=8)],
            [ftz(6), _FMZ, rnd, sat(5), cc()],
        ),
        *op("FMNMX", 0x0800000000000000, _OPCODE, [rd()], [a, b, pcombine()], [ftz(5), cc()]),
        *op(
            "FSET",
            0x1000000000000000,
            0xF000000000000007,
            [rd()],
            [a, b, pcombine()],
            [flag("bf", 5), compare(), ftz(59), combine(), cc()],
        ),
        *op(
            "FSETP",
            0x2000000000000000,
            0xF000000000000007,
            pdst(),
            [a, b, pcombine()],
            [compare(), ftz(59), combine()],
        ),
        *op("FCMP", 0x3800000000000000, _OPCODE, [rd()], [ra(), form_bc("float")], [compare(), ftz(5)]),
        *op(
            "FSWZADD",
            0x4800000000000000,
            _OPCODE,
            [rd()],
            [ra(), RegField(SRC2)],
            [
                ftz(5),
                rnd,
                flag("ndv", 9),
                choice("lane", at(6, 3), "0000 1111 2222 3333 1032 2301"),
                *quad,
                cc(),
            ],
        ),
        *op("RRO", 0x6000000000000000, _OPCODE, [rd()], [b], [choice("op", at(5), "SINCOS EX2")]),
        *op(
            "MUFU",
            0xC800000000000000,
            _OPCODE,
            [rd()],
            [a],
            [choice("op", at(26, 3), "COS SIN EX2 LG2 RCP RSQ RCP64H RSQ64H"), sat(5)],
        ),
        *op(
            "FFMA32I",
            0x2000000000000002,
            _OPCODE,
            [rd()],
            [ra(neg=9), long_immediate(), PairedField(DST, neg=8)],
            [ftz(6), _FMZ, sat(5), cc(58)],
        ),
        *op("FADD32I", 0x2800000000000002, _OPCODE, [rd()], [a, long_immediate()], [ftz(5), cc(58)]),
        *op(
            "FMUL32I",
            0x3000000000000002,
            _OPCODE,
            [rd()],
            [ra(), long_immediate()],
            [ftz(6), _FMZ, sat(5), cc(58)],
        ),
    ]


def _double() -> list[Row]:
    a = RegField(SRC1, 2, 9, 7)
    b = form_b("double", neg=8, abs_=6)
    rnd: Mod = rounding(at(55, 2))
    return [
        *op("DADD", 0x4800000000000001, _OPCODE, [rd(2)], [a, b], [rnd, cc()]),
        *op(
            "DMUL",
            0x5000000000000001,
            _OPCODE,
            [rd(2)],
            [RegField(SRC1, 2, 9), form_b("double")],
            [rnd, cc()],
        ),
        *op(
            "DFMA",
            0x2000000000000001,
            _OPCODE,
            [rd(2)],
            [RegField(SRC1, 2, 9), form_bc("double", neg_c=8)],
            [rnd, cc()],
        ),
        *op("DMNMX", 0x0800000000000001, _OPCODE, [rd(2)], [a, b, pcombine()], [cc()]),
        *op(
            "DSET",
            0x1000000000000001,
            _OPCODE,
            [rd()],
            [a, b, pcombine()],
            [flag("bf", 5), compare(), combine(), cc()],
        ),
        *op("DSETP", 0x1800000000000001, _OPCODE, pdst(), [a, b, pcombine()], [compare(), combine()]),
    ]


def _convert() -> list[Row]:
    """F2F, F2I, I2F, I2I: type codes 0 to 3 are 8 to 64 bits; bit 7 signed result, bit 9 signed source."""
    rows: list[Row] = []
    floats = {"F16": 1, "F32": 2, "F64": 3}
    integers = {
        "U8": (0, 0),
        "S8": (0, 1),
        "U16": (1, 0),
        "S16": (1, 1),
        "U32": (2, 0),
        "S32": (2, 1),
        "U64": (3, 0),
        "S64": (3, 1),
    }
    opcode = 0xFC00000003B00007
    narrow = choice("rnd", at(49, 2), "RN RM RP RZ", show=False)
    whole = choice("rnd", at(49, 2), "ROUND FLOOR CEIL TRUNC", show=False)

    def named(key: str, value: str) -> Mod:
        return fixed(key, value, "", show=True)

    def source(code: int, is_float: bool) -> tuple[list[Mod], str]:
        """Part selector and operand kind of a source with size code `code`."""
        part = {
            0: [choice("part", at(55, 2), "B0 B1 B2 B3", show=False, place="src0")],
            1: [choice("part", at(56), "B0 B2", show=False, place="src0", texts={"B2": "H1"})],
        }.get(code, [])
        kind = {2: "float", 3: "double"} if is_float else {3: "long"}
        return part, kind.get(code, "int")

    for dtype, dcode in floats.items():
        for stype, scode in floats.items():
            if dcode == scode:
                rnd = choice("rnd", at(49, 2), "ROUND FLOOR CEIL TRUNC", "RN")
                variants: list[tuple[int, list[Mod]]] = [(0, [fixed("rnd", "RN")]), (1 << 7, [rnd])]
            elif scode == dcode + 1:
                variants = [(0, [narrow])]
            elif dcode == scode + 1:
                variants = [(0, [fixed("rnd", "RN")])]
            else:
                continue
            part, kind = source(scode, True)
            for extra, rounds in variants:
                rows += op(
                    "F2F",
                    0x1000000000000004 | dcode << 20 | scode << 23 | extra,
                    opcode | 1 << 7,
                    [rd(2 if dcode == 3 else 1)],
                    [form_b(kind, neg=8, abs_=6)],
                    [ftz(55), named("dtype", dtype), named("stype", stype), *rounds, sat(5), *part, cc()],
                )
    for dtype, (dcode, dsign) in integers.items():
        for stype, scode in floats.items():
            if dcode == 0:
                continue
            part, kind = source(scode, True)
            rows += op(
                "F2I",
                0x1400000000000004 | dcode << 20 | dsign << 7 | scode << 23,
                opcode | 1 << 7,
                [rd(2 if dcode == 3 else 1)],
                [form_b(kind, neg=8, abs_=6)],
                [ftz(55), named("dtype", dtype), named("stype", stype), whole, *part, cc()],
            )
    for stype, (scode, ssign) in integers.items():
        part, kind = source(scode, False)
        for dtype, dcode in floats.items():
            rows += op(
                "I2F",
                0x1800000000000004 | dcode << 20 | ssign << 9 | scode << 23,
                opcode | 1 << 9,
                [rd(2 if dcode == 3 else 1)],
                [form_b(kind, neg=8, abs_=6)],
                [named("dtype", dtype), named("stype", stype), narrow, *part, cc()],
            )
        for dtype, (dcode, dsign) in integers.items():
            if scode == 3:
                continue
            rows += op(
                "I2I",
                0x1C00000000000004 | dcode << 20 | dsign << 7 | ssign << 9 | scode << 23,
                opcode | 1 << 7 | 1 << 9,
                [rd(2 if dcode == 3 else 1)],
                [form_b(kind, neg=8, abs_=6)],
                [named("dtype", dtype), named("stype", stype), sat(5), *part, cc()],
            )
    return rows


ROWS: list[Row] = [*_single(), *_double(), *_convert()]

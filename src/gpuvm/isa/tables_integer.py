"""Rows of integer arithmetic, comparison, bit fields, logic, shifts, moves and predicates (long words)."""

from __future__ import annotations

from gpuvm.isa.fields import ImmField, Mod, PairedField, PredField, SpecialField, at, choice, fixed, flag
from gpuvm.isa.rows import (
    BOOLEANS,
    DST,
    TESTS,
    Literal,
    Row,
    carry_in,
    cc,
    combine,
    compare,
    form_b,
    form_bc,
    long_immediate,
    op,
    pcombine,
    pdst,
    ra,
    rd,
    sat,
    signedness,
)

_OPCODE = 0xF800000000000007
_MOVE = 0xFC00000000000007
_PLUS_ONE = fixed("po", True, False, text="PO")
_NOT_PLUS_ONE = fixed("po", False, text="")


def _arithmetic() -> list[Row]:
    types = [
        choice("atype", at(7), "U32 S32", "S32", place="pair"),
        choice("btype", at(5), "U32 S32", "S32", place="pair"),
    ]
    hi = flag("hi", 6)
    po = 3 << 8
    rows = [
        *op(
            "IADD",
            0x4800000000000003,
            _OPCODE,
            [rd()],
            [ra(neg=9), form_b("int", neg=8)],
            [sat(5), carry_in(6), _NOT_PLUS_ONE, cc()],
        ),
        *op(
            "IADD",
            0x4800000000000003 | po,
            _OPCODE | po,
            [rd()],
            [ra(), form_b("int")],
            [sat(5), carry_in(6), _PLUS_ONE, cc()],
        ),
        *op(
            "IADD32I",
            0x0800000000000002,
            _OPCODE,
            [rd()],
            [ra(neg=9), long_immediate(neg=8)],
            [sat(5), carry_in(6), _NOT_PLUS_ONE, cc(58)],
        ),
        *op(
            "IADD32I",
            0x0800000000000002 | po,
            _OPCODE | po,
            [rd()],
            [ra(), long_immediate()],
            [sat(5), carry_in(6), _PLUS_ONE, cc(58)],
        ),
        *op("IMUL", 0x5000000000000003, _OPCODE, [rd()], [ra(), form_b("int")], [*types, hi, cc()]),
        *op("IMUL32I", 0x1000000000000002, _OPCODE, [rd()], [ra(), long_immediate()], [*types, hi, cc(58)]),
        *op(
            "IMAD",
            0x2000000000000003,
            _OPCODE,
            [rd()],
            [ra(neg=9), form_bc("int", neg_c=8)],
            [*types, hi, sat(56), carry_in(55), _NOT_PLUS_ONE, cc()],
        ),
        *op(
            "IMAD",
            0x2000000000000003 | po,
            _OPCODE | po,
            [rd()],
            [ra(), form_bc("int")],
            [*types, hi, sat(56), carry_in(55), _PLUS_ONE, cc()],
        ),
        *op(
            "IMAD32I",
            0x0000000000000002,
            _OPCODE,
            [rd()],
            [ra(neg=9), long_immediate(), PairedField(DST, neg=8)],
            [*types, hi, _NOT_PLUS_ONE, cc(58)],
        ),
        *op(
            "IMAD32I",
            0x0000000000000002 | po,
            _OPCODE | po,
            [rd()],
            [ra(), long_immediate(), PairedField(DST)],
            [*types, hi, _PLUS_ONE, cc(58)],
        ),
    ]
    shift = ImmField(at(5, 5))
    both = 3 << 55
    rows += [
        *op(
            "ISCADD",
            0x4000000000000003,
            _OPCODE,
            [rd()],
            [ra(neg=56), form_b("int", neg=55), shift],
            [_NOT_PLUS_ONE, cc()],
        ),
        *op(
            "ISCADD",
            0x4000000000000003 | both,
            _OPCODE | both,
            [rd()],
            [ra(), form_b("int"), shift],
            [_PLUS_ONE, cc()],
        ),
        *op("ISCADD32I", 0x4000000000000002, _OPCODE, [rd()], [ra(), long_immediate(), shift], [cc(58)]),
        *op("ISAD", 0x3800000000000003, _OPCODE, [rd()], [ra(), form_bc("int")], [signedness(5), cc()]),
        *op(
            "IMNMX",
            0x0800000000000003,
            _OPCODE,
            [rd()],
            [ra(), form_b("int"), pcombine()],
            [signedness(5), choice("range", at(6, 2), "~ XLO XMED XHI", show=False), cc()],
        ),
        *op(
            "ISET",
            0x1000000000000003,
            _OPCODE,
            [rd()],
            [ra(), form_b("int"), pcombine()],
            [flag("bf", 7), compare(), signedness(5), carry_in(6), combine(), cc()],
        ),
        *op(
            "ISETP",
            0x1800000000000003,
            _OPCODE,
            pdst(),
            [ra(), form_b("int"), pcombine()],
            [compare(), signedness(5), carry_in(6), combine()],
        ),
        *op("ICMP", 0x3000000000000003, _OPCODE, [rd()], [ra(), form_bc("int")], [compare(), signedness(5)]),
    ]
    return rows


def _bits() -> list[Row]:
    logic = choice("op", at(6, 2), "AND OR XOR PASS_B")
    brev = flag("brev", 8)
    wrap = flag("w", 9)
    return [
        *op("BFI", 0x2800000000000003, _OPCODE, [rd()], [ra(), form_bc("int")], [cc()]),
        *op("BFE", 0x7000000000000003, _OPCODE, [rd()], [ra(), form_b("int")], [signedness(5), brev, cc()]),
        *op(
            "FLO",
            0x7800000000000003,
            _OPCODE,
            [rd()],
            [form_b("int", inv=8)],
            [signedness(5), flag("sh", 6), cc()],
        ),
        *op("POPC", 0x5400000000000004, _MOVE, [rd()], [ra(inv=9), form_b("int", inv=8)]),
        *op("SHL", 0x6000000000000003, _OPCODE, [rd()], [ra(), form_b("int")], [wrap, carry_in(6), cc()]),
        *op(
            "SHR",
            0x5800000000000003,
            _OPCODE,
            [rd()],
            [ra(), form_b("int")],
            [signedness(5), brev, wrap, carry_in(7), cc()],
        ),
        *op(
            "LOP",
            0x6800000000000003,
            _OPCODE,
            [rd()],
            [ra(inv=9), form_b("int", inv=8)],
            [logic, carry_in(5), cc()],
        ),
        *op(
            "LOP32I",
            0x3800000000000002,
            _OPCODE,
            [rd()],
            [ra(inv=9), long_immediate(inv=8)],
            [logic, carry_in(5), cc(58)],
        ),
        *op(
            "PRMT",
            0x2400000000000004,
            _MOVE,
            [rd()],
            [ra(), form_bc("int")],
            [choice("mode", at(5, 3), "~ F4E B4E RC8 ECL ECR RC16", show=False)],
        ),
    ]


def _moves() -> list[Row]:
    mask = Mod(
        "lanes", at(5, 4), tuple(range(16)), 15, texts={n: "" if n == 15 else f"L{n:X}" for n in range(16)}
    )
    high = flag("hi", 5)
    return [
        *op("SEL", 0x2000000000000004, _MOVE, [rd()], [ra(), form_b("int"), pcombine()]),
        *op("MOV", 0x2800000000000004, _MOVE, [rd()], [form_b("int")], [mask]),
        *op("MOV32I", 0x1800000000000002, _OPCODE, [rd()], [long_immediate()], [mask]),
        *op("S2R", 0x2C00000000000004, _MOVE, [rd()], [SpecialField(26)]),
        *op(
            "P2R",
            0x3000000000000004,
            _MOVE,
            [rd()],
            [ra(), form_b("int")],
            [high],
            literals=[(1, Literal("PR"))],
        ),
        *op(
            "R2P", 0x3400000000000004, _MOVE, [], [ra(), form_b("int")], [high], literals=[(0, Literal("PR"))]
        ),
    ]


def _predicates() -> list[Row]:
    test = choice("test", at(20, 5), TESTS, "F")
    first, second = PredField(20, 23), PredField(26, 29)
    bop0 = choice("bop0", at(30, 2), BOOLEANS)
    flagged = [(1, Literal("CC"))]
    return [
        *op(
            "CSET",
            0x0000000000000004,
            _MOVE,
            [rd()],
            [pcombine()],
            [flag("bf", 5), test, combine(), cc()],
            literals=flagged,
        ),
        *op(
            "CSETP",
            0x0400000000000004,
            _MOVE,
            pdst(),
            [pcombine()],
            [test, combine()],
            literals=[(2, Literal("CC"))],
        ),
        *op(
            "PSET",
            0x0800000000000004,
            _MOVE,
            [rd()],
            [first, second, pcombine()],
            [flag("bf", 5), bop0, combine(), cc()],
        ),
        *op("PSETP", 0x0C00000000000004, _MOVE, pdst(), [first, second, pcombine()], [bop0, combine()]),
    ]


ROWS: list[Row] = [*_arithmetic(), *_bits(), *_moves(), *_predicates()]

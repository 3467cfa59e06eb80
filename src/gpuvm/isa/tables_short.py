"""Rows of the 4-byte words: the same operations with fewer operands and modifiers.

Bits of a short word: 0-2 and 4 up with 3 set the opcode, 10-13 the guard (unless a third register stands at
8), 14-19 destination, 20-25 first and 26-31 second source. Constants come from banks 0, 1 and 16.
"""

from __future__ import annotations

from gpuvm.isa.fields import (
    Bits,
    ConstField,
    FixedField,
    ImmField,
    MemField,
    PredField,
    RegField,
    SpecialField,
    TargetField,
    at,
    choice,
    fixed,
    flag,
)
from gpuvm.isa.instruction import Imm
from gpuvm.isa.rows import (
    BOOLEANS,
    COMPARISONS,
    ROUNDINGS,
    SRC1,
    SRC2,
    TESTS,
    Form,
    Literal,
    Row,
    always,
    cc,
    condition,
    ra,
    rd,
    sat,
    short,
)

_BANKS = (0, 1, 16)
_SMALL = ImmField(Bits((26, 6), (8, 2)), signed=True)


_TOP = fixed("top", True, False, text="TOP")
"""The 12 bits are the immediate's highest: two forms can say 0."""


def _second(selector: int = 8, low: int = SRC2) -> list[Form]:
    """Register, or a word of bank 0, 1 or 16 (offset below 256), chosen by two bits at `selector`."""
    forms = [Form(0, 3 << selector, (RegField(low),))]
    for code, bank in enumerate(_BANKS, 1):
        forms.append(Form(code << selector, 3 << selector, (ConstField(at(low, 6), bank),)))
    return forms


def _arithmetic() -> list[Row]:
    rows: list[Row] = []
    same = ((0, "U32"), (1, "S32"))
    po = fixed("po", False, text="")
    for form, mask, second in ((0x2C, 0xBF, _second()), (0xAC, 0xBF, [Form(0, 0, (_SMALL,))])):
        rows += short("IADD", form, mask, [rd()], [ra(neg=6), second], [po])
    for code, name in same:
        types = [
            fixed("atype", name, "S32", show=True, place="pair"),
            fixed("btype", name, "S32", show=True, place="pair"),
        ]
        rows += short("IMUL", 0x2A | code << 6, 0xFF, [rd()], [ra(), _second()], types)
        rows += short("IMUL", 0xAA | code << 6, 0xFF, [rd()], [ra(), _SMALL], types)
        rows += short(
            "IMAD",
            0x0D | code << 5,
            0x3F,
            [rd()],
            [ra(), _second(6), RegField(8)],
            [*types, po],
            guarded=False,
        )
    compare = choice("cmp", at(14, 3), "F LT EQ LE GT NE GE T")
    both = [PredField(17), always()]
    rows += short("ISETP", 0x48, 0xFF, both, [ra(), _second(), always()], [compare])
    rows += short("ISETP", 0xC8, 0xFF, both, [ra(), _SMALL, always()], [compare])
    for form, name in ((0x208, "SHL"), (0x80000208, "SHR")):
        rows += short(name, form, 0x800003FF, [rd()], [ra(), ImmField(at(26, 5))])
    logic = choice("op", at(5, 2), "AND OR XOR PASS_B")
    rows += short("LOP", 0x1D, 0x9F, [rd()], [ra(), _second()], [logic])
    rows += short("LOP", 0x9D, 0x9F, [rd()], [ra(), _SMALL], [logic])
    rows += short("FADD", 0x49, 0x7F, [rd()], [ra(neg=7), _second()])
    rows += short("FMUL", 0xA8, 0xFF, [rd()], [ra(), _second()])
    rows += short("FFMA", 0x0E, 0x2F, [rd()], [ra(neg=4), _second(6), RegField(8)], guarded=False)
    third = [form for form in _second(6, 8) if form.match]
    rows += short("FFMA", 0x2E, 0x2F, [rd()], [ra(neg=4), RegField(SRC2), third], guarded=False)
    rows += short(
        "FSETP",
        0x59,
        0x7F,
        both,
        [ra(), _second(), always()],
        [choice("cmp", Bits((7, 1), (14, 3)), COMPARISONS)],
    )
    rows += short("RRO", 0x70000008, 0xF00003FF, [rd()], [ra()], [choice("op", at(26), "SINCOS EX2")])
    rows += short(
        "MUFU",
        0x80000008,
        0xA00003FF,
        [rd()],
        [ra(abs_=30)],
        [choice("op", at(26, 3), "COS SIN EX2 LG2 RCP RSQ RCP64H RSQ64H")],
    )
    return rows


def _conversions() -> list[Row]:
    rows: list[Row] = []
    b = RegField(SRC2, neg=22, abs_=25)
    f32 = fixed("stype", "F32", "", show=True)
    rnd = choice("rnd", at(20, 2), ROUNDINGS, show=False)
    whole = choice("rnd", at(20, 2), "ROUND FLOOR CEIL TRUNC", show=False)
    integer = choice("stype", at(24), "U32 S32", "")
    rows += short(
        "I2F", 0x88, 0x3FF, [rd()], [b], [fixed("dtype", "F32", "", show=True), integer, rnd, cc(23)]
    )
    rows += short(
        "F2I", 0x288, 0x3FF, [rd()], [b], [choice("dtype", at(24), "U32 S32", ""), f32, whole, cc(23)]
    )
    to_f32 = fixed("dtype", "F32", "", show=True)
    rows += short("F2F", 0x98, 0x3FF, [rd()], [b], [to_f32, f32, fixed("rnd", "RN"), sat(24), cc(23)])
    rows += short(
        "F2F",
        0x298,
        0x3FF,
        [rd()],
        [b],
        [to_f32, f32, choice("rnd", at(20, 2), "ROUND FLOOR CEIL TRUNC", "RN"), sat(24), cc(23)],
    )
    rows += short(
        "I2I",
        0x18,
        0x1FF,
        [rd()],
        [b],
        [
            choice("dtype", at(20, 2), "U16 S16 U32 S32", ""),
            choice("stype", Bits((9, 1), (24, 1)), "U16 S16 U32 S32", ""),
            cc(23),
        ],
    )
    return rows


def _moves() -> list[Row]:
    rows: list[Row] = []
    rows += short("MOV", 0x28, 0xFF, [rd()], [_second(low=SRC1)])
    rows += short("MOV", 0x118, 0x3FF, [rd()], [ImmField(at(SRC1, 12), signed=True)])
    rows += short("MOV", 0x318, 0x3FF, [rd()], [ImmField(at(SRC1, 12), shift=20)], [_TOP])
    rows += short("S2R", 0x40000008, 0xF00003FF, [rd()], [SpecialField(SRC1)])
    both = [PredField(17), always()]
    rows += short(
        "CSETP",
        0x10000008,
        0xF80003FF,
        both,
        [always()],
        [choice("test", at(SRC1, 5), TESTS, "F")],
        literals=[(2, Literal("CC"))],
    )
    rows += short(
        "PSETP",
        0x18000008,
        0xF80003FF,
        both,
        [PredField(SRC1, 23), PredField(14, 24), always()],
        [choice("bop0", at(25, 2), BOOLEANS)],
    )
    return rows


def _memory() -> list[Row]:
    rows: list[Row] = []
    spot = Bits((8, 2), (26, 6))
    sizes = ((0, fixed("size", "32"), 1), (0x80, fixed("size", "64", "32"), 2))
    for code, size, count in sizes:
        unit = 4 * count
        for form, load, store, space in ((0, "LDL", "STL", "local"), (0x40, "LDS", "STS", "shared")):
            address = MemField(space, SRC1, spot, unit=unit)
            rows += short(load, 0x0A | form | code, 0xFF, [rd(count)], [address], [size])
            rows += short(store, 0x1A | form | code, 0xFF, [], [address, rd(count)], [size])
        for form, base in ((0, 1), (0x40, 2)):
            e = fixed("e", True, False, text="E") if base == 2 else fixed("e", False)
            address = MemField("generic", SRC1, spot, unit=unit, base_count=base)
            rows += short("LD", 0x0B | form | code, 0xFF, [rd(count)], [address], [e, size])
            rows += short("ST", 0x1B | form | code, 0xFF, [], [address, rd(count)], [e, size])
    rows += short("LDC", 0x1C, 0x1F, [rd()], [MemField("const", SRC1, spot, unit=4, bank=at(5, 3))])
    return rows


def _control() -> list[Row]:
    rows: list[Row] = []
    near = TargetField(at(14, 14), relative=True, unit=4, size=4)
    test = condition()
    barrier = [Form(0, 1 << 26, (RegField(SRC1),)), Form(1 << 26, 1 << 26, (ImmField(at(SRC1, 4)),))]
    everybody = FixedField(Imm(0))
    rows += short("NOP", 0x00000008, 0xF80003FF, [], [])
    for form, mode in ((0x50000008, "SYNC"), (0x58000008, "ARV")):
        rows += short(
            "BAR", form, 0xF80003FF, [], [barrier, everybody], [fixed("mode", mode, "SYNC", show=True)]
        )
    rows += short("BRA", 0x0000001F, 0xC000001F, [], [near], [flag("u", 28), flag("lmt", 29), test])
    rows += short("SSY", 0x4000001F, 0xF000001F, [], [near], guarded=False)
    rows += short(
        "CAL",
        0x5000001F,
        0xF000001F,
        [],
        [TargetField(at(6, 22), relative=True, unit=4, size=4)],
        [flag("noinc", 5)],
        guarded=False,
    )
    rows += short(
        "BPT",
        0x8000001F,
        0xF800001F,
        [],
        [ImmField(at(7, 20))],
        [choice("mode", at(5, 2), "DRAIN CAL PAUSE TRAP")],
        guarded=False,
    )
    rows += short("EXIT", 0x8800001F, 0xF800001F, [], [], [test])
    rows += short("RET", 0x9000001F, 0xF800001F, [], [], [test])
    return rows


ROWS: list[Row] = [*_arithmetic(), *_conversions(), *_moves(), *_memory(), *_control()]

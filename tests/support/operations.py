"""Random instructions of every executable row of the ISA tables, with operand values that hurt."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from random import Random

from gpuvm.isa.decoder import decode_word
from gpuvm.isa.encoder import encode
from gpuvm.isa.errors import DecodeError, EncodeError
from gpuvm.isa.instruction import PT, Const, Imm, Instruction, Operand, Pred, Reg, Special
from gpuvm.isa.rows import Row
from gpuvm.isa.tables import ROWS, find

SIMD = ("VADD", "VSEL", "VMNMX", "VABSDIFF", "VSET", "VSHL", "VSHR")
NOT_EXECUTED = frozenset(
    [
        "B2R",
        "RTT",
        "VMAD",
        "VAVRG2",
        "VAVRG4",
        "TEX",
        "TLD",
        "TLD4",
        "TMML",
        "TXQ",
        "TXD",
        "TEXCSAA",
        "SULD",
        "SUST",
        "SURED",
        "SULEA",
        "SUQ",
        "IPA",
        "ALD",
        "AST",
        "VILD",
        "PIXLD",
        "OUT",
    ]
) | {f"{name}{width}" for name in SIMD for width in "24"}
"""Decoded, but no business of a compute kernel of this project: ILLEGAL_INSTRUCTION when reached."""
CONTROL = frozenset(
    [
        "BRA",
        "BRX",
        "JMP",
        "JMX",
        "SSY",
        "PBK",
        "PCNT",
        "PRET",
        "PLONGJMP",
        "CAL",
        "JCAL",
        "BRK",
        "CONT",
        "RET",
        "LONGJMP",
        "EXIT",
        "KIL",
        "BAR",
        "BPT",
    ]
)
MEMORY = frozenset(
    [
        "LD",
        "LDU",
        "LDL",
        "LDS",
        "LDC",
        "ST",
        "STL",
        "STS",
        "ATOM",
        "RED",
        "LDLK",
        "STUL",
        "LDSLK",
        "STSUL",
        "CCTL",
        "CCTLL",
        "MEMBAR",
        "LD_LDU",
        "LDS_LDU",
    ]
)
APPROXIMATE = frozenset({"MUFU"})
SPECIALS = [
    "SR_LANEID",
    "SR_TID",
    "SR_TID.X",
    "SR_TID.Y",
    "SR_TID.Z",
    "SR_CTAID.X",
    "SR_CTAID.Y",
    "SR_CTAID.Z",
    "SR_NTID",
    "SR_NTID.X",
    "SR_NTID.Y",
    "SR_NTID.Z",
    "SR_NCTAID.X",
    "SR_NCTAID.Y",
    "SR_NCTAID.Z",
    "SR_EQMASK",
    "SR_LTMASK",
    "SR_LEMASK",
    "SR_GTMASK",
    "SR_GEMASK",
    "SR_SWINLO",
    "SR_LWINLO",
    "SR_SMEMSZ",
    "SR_LMEMLOSZ",
    "SR_LMEMHIOFF",
]
"""Special registers whose value a program can foretell."""

ARITHMETIC: tuple[Row, ...] = tuple(
    row for row in ROWS if row.name not in NOT_EXECUTED | CONTROL | MEMORY | APPROXIMATE
)
"""Rows that only compute."""

INTEGERS = (
    0, 1, 2, 3, 7, 8, 15, 16, 30, 31, 32, 33, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF,
    0x10000, 0x1F00, 0x2000, 0x0820, 0x1F1F, 0xFF00, 0x12345678, 0x7FFFFFFE, 0x7FFFFFFF, 0x80000000,
    0x80000001, 0xFFFF0000, 0xFFFF8000, 0xFFFFFF80, 0xFFFFFFFE, 0xFFFFFFFF, 0xAAAAAAAA, 0x3210, 0x7654,
    0xFEDC, 0xBA98,
)  # fmt: skip
FLOATS = (
    0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00800000, 0x80800000,
    0x00800001, 0x33800000, 0x34000000, 0x3EFFFFFF, 0x3F000000, 0x3F000001, 0x3F7FFFFF, 0x3F800000,
    0xBF800000, 0x3F800001, 0x3FC00000, 0x40200000, 0x40600000, 0xC0200000, 0x40490FDB, 0x4B000000,
    0x4B000001, 0x4B7FFFFF, 0x4B800000, 0x4EFFFFFF, 0x4F000000, 0xCF000000, 0xCF000001, 0x4F7FFFFF,
    0x4F800000, 0x5EFFFFFF, 0x5F000000, 0xDF000000, 0x5F800000, 0x7F000000, 0x7F7FFFFF, 0xFF7FFFFF,
    0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFC00001, 0x7FFFFFFF, 0xFFFFFFFF, 0x477FE000,
    0x477FEFFF, 0x477FF000, 0x33000000, 0x33000001, 0x38800000, 0x387FFFFF, 0x7E800000, 0x00400000,
    0x20000000, 0x1FFFFFFF,
)  # fmt: skip
HALVES = (
    0, 0x8000, 1, 0x03FF, 0x0400, 0x3C00, 0x3BFF, 0xBC00, 0x7BFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0x7FFF,
    0x3800, 0x4100,
)  # fmt: skip
DOUBLES = (
    0x0000000000000000, 0x8000000000000000, 0x0000000000000001,
    0x800FFFFFFFFFFFFF, 0x0010000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x3FF0000000000001,
    0x3FEFFFFFFFFFFFFF, 0x3FE0000000000000, 0x4004000000000000, 0x4330000000000001, 0x41DFFFFFFFC00000,
    0x41E0000000000000, 0xC1E0000000000000, 0xC1E0000000200000, 0x41EFFFFFFFE00000, 0x41F0000000000000,
    0x43DFFFFFFFFFFFFF, 0x43E0000000000000, 0xC3E0000000000000, 0x43F0000000000000, 0x47EFFFFFE0000000,
    0x47EFFFFFF0000000, 0x47F0000000000000, 0x36A0000000000000, 0x3690000000000000, 0x3690000000000001,
    0x380FFFFFC0000000, 0x3810000000000000, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF, 0x7FF0000000000000,
    0xFFF0000000000000, 0x7FF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x3CA0000000000000,
    0x3CB0000000000000, 0x3FF0000010000000, 0x3FF0000010000001, 0x3FF0000030000000,
)  # fmt: skip


def hard_word(chance: Random) -> int:
    """32 bits that are likely to matter."""
    kind = chance.random()
    if kind < 0.35:
        return chance.choice(INTEGERS)
    if kind < 0.75:
        return chance.choice(FLOATS)
    if kind < 0.82:
        return chance.choice(HALVES) | chance.choice(HALVES) << 16
    if kind < 0.9:
        # Floats of like size, so that sums and products round in interesting places.
        return chance.getrandbits(1) << 31 | chance.randrange(100, 160) << 23 | chance.getrandbits(23)
    return chance.getrandbits(32)


def hard_double(chance: Random) -> int:
    """64 bits that are likely to matter."""
    if chance.random() < 0.7:
        return chance.choice(DOUBLES)
    if chance.random() < 0.5:
        return struct.unpack("<Q", struct.pack("<d", chance.uniform(-4, 4)))[0]
    return (
        chance.getrandbits(1) << 63 | chance.randrange(1023 - 160, 1023 + 160) << 52 | chance.getrandbits(52)
    )


@dataclass(frozen=True)
class Registers:
    """Which registers random instructions use: `doubles` only as doubles (their NaNs may differ)."""

    plain: tuple[int, ...]
    doubles: tuple[int, ...]

    def pick(self, chance: Random, count: int, double: bool = False, target: bool = False) -> int:
        if chance.random() < 0.06:
            return 63
        if double and (target or chance.random() < 0.4):
            return chance.choice([r for r in self.doubles if r % 2 == 0])
        fitting = [r for r in self.plain if r % count == 0 and all(r + n in self.plain for n in range(count))]
        return chance.choice(fitting)


def doubles_of(ins: Instruction) -> tuple[bool, bool]:
    """Whether (the result, the sources) are double-precision numbers."""
    if ins.name in ("DADD", "DMUL", "DFMA", "DMNMX"):
        return True, True
    if ins.name in ("DSET", "DSETP"):
        return False, True
    if ins.name in ("F2F", "I2F", "F2I"):
        return ins.mods.get("dtype") == "F64", ins.mods.get("stype") == "F64"
    return False, False


def operand(chance: Random, op: Operand, regs: Registers, double: bool, target: bool) -> Operand:
    """The same kind of operand with a register, constant or value of this test."""
    if isinstance(op, Reg):
        return replace(op, index=regs.pick(chance, op.count, double and op.count == 2, target))
    if isinstance(op, Const):
        # Banks 0 to 2 hold hard values, 3 is unbound; past 4 KiB everything is zero.
        offset = chance.randrange(0, 0x400, 8 if double else 4) + 0x40
        if chance.random() < 0.05:
            offset = 0x1000
        return replace(op, bank=chance.choice([0, 1, 2, 3]), offset=offset)
    if isinstance(op, Special):
        name = chance.choice(SPECIALS)
        from gpuvm.isa.special import special_number

        return Special(special_number(name) or 0, name)
    return op


def instruction(row: Row, chance: Random, regs: Registers) -> Instruction | None:
    """A random instruction of a row; None if this throw of the dice gives none."""
    bits = chance.getrandbits(64)
    word = bits & ((1 << 8 * row.size) - 1) & ~row.mask | row.match
    if find(word, row.size) is not row:
        return None
    try:
        ins = decode_word(word, row.size)
    except DecodeError:
        return None
    result, sources = doubles_of(ins)
    dst = tuple(operand(chance, op, regs, result, True) for op in ins.dst)
    src = [operand(chance, op, regs, sources, False) for op in ins.src]
    if row.name.endswith("32I") and row.name in ("FFMA32I", "IMAD32I"):
        last = src[-1]
        assert isinstance(last, Reg)
        assert isinstance(dst[0], Reg)
        src[-1] = replace(last, index=dst[0].index)
    for n, op in enumerate(src):
        if isinstance(op, Imm) and chance.random() < 0.5:
            src[n] = replace(op, value=chance.choice(INTEGERS if ins.name[0] != "F" else FLOATS))
        if isinstance(op, Const) and row.size == 4:
            src[n] = replace(op, bank=chance.choice([0, 1]))
    guard = (
        Pred(PT)
        if not row.guarded or chance.random() < 0.6
        else Pred(chance.randrange(8), chance.random() < 0.5)
    )
    for attempt in (
        tuple(src),
        tuple(o if not isinstance(o, (Imm, Const)) else i for o, i in zip(src, ins.src, strict=True)),
    ):
        made = replace(ins, dst=dst, src=attempt, guard=guard, sync=False, word=0)
        if any(isinstance(o, Const) and (o.bank > 3 or (sources and o.offset % 8)) for o in attempt):
            continue
        try:
            raw = encode(made)
        except EncodeError:
            continue
        return decode_word(int.from_bytes(raw, "little"), row.size)
    return None

"""Video operations on one part of each register: VADD, VMNMX, VABSDIFF, VSET, VSETP, VSHL, VSHR.

Each source is a byte, a half or a whole register of its own signedness; the result is exact in 64 bits, saturated if
asked for, and then combined with the third source: added, the lesser or greater of both, or inserted into it (the
scalar video instructions of PTX).
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuvm.isa.instruction import Instruction, Operand
from gpuvm.jit.emit import PVal, Val
from gpuvm.jit.machine import Machine, mod_bool, mod_text
from gpuvm.jit.ops_integer import finish, negated, operation, set_pred, shift

PLACES = {"B0": (0, 8), "B1": (8, 8), "B2": (16, 8), "B3": (24, 8), "H0": (0, 16), "H1": (16, 16)}
"""Part of a register: lowest bit, bits."""
TESTS = {"LT": "slt", "EQ": "eq", "LE": "sle", "GT": "sgt", "NE": "ne", "GE": "sge"}


@dataclass
class Long:
    """i64 in every lane: one scalar if uniform, else units."""

    lanes: list[str]
    uniform: bool


def part(m: Machine, op: Operand, select: str, sign: bool) -> Val:
    """A source's part, extended to 32 bits."""
    em = m.em
    value = m.word(op)
    if not select:
        return value
    low, bits = PLACES[select]
    if sign:
        return em.ibin("ashr", em.ibin("shl", value, em.const(32 - bits - low)), em.const(32 - bits))
    return em.ibin("and", em.ibin("lshr", value, em.const(low)), em.const((1 << bits) - 1))


def lengthen(m: Machine, value: Val, sign: bool, uniform: bool) -> Long:
    em = m.em
    ext = "sext" if sign else "zext"
    if uniform:
        return Long([em.op(f"{ext} i32 {em.s32(em.scalar(value))} to i64")], True)
    return Long([em.op(f"{ext} {em.vi} {x} to {em.vl}") for x in em.units(value)], False)


def both(m: Machine, text: str, a: Long, b: Long) -> Long:
    """`text` is an operation with {t}, {a} and {b}."""
    kind = "i64" if a.uniform else m.em.vl
    rows = zip(a.lanes, b.lanes, strict=True)
    return Long([m.em.op(text.format(t=kind, a=x, b=y)) for x, y in rows], a.uniform)


def fixed(m: Machine, like: Long, x: int) -> Long:
    return Long([str(x) if like.uniform else f"splat (i64 {x})"] * len(like.lanes), like.uniform)


def call(m: Machine, name: str, a: Long, b: Long) -> Long:
    em = m.em
    kind, suffix = ("i64", "i64") if a.uniform else (em.vl, f"v{em.U}i64")
    rows = zip(a.lanes, b.lanes, strict=True)
    return Long([em.call(kind, f"llvm.{name}.{suffix}", [(kind, x), (kind, y)]) for x, y in rows], a.uniform)


def shorten(m: Machine, a: Long) -> Val:
    em = m.em
    if a.uniform:
        return em.uniform(em.op(f"trunc i64 {a.lanes[0]} to i32"))
    return em.vector([em.op(f"trunc {em.vl} {x} to {em.vi}") for x in a.lanes])


def sources(m: Machine, ins: Instruction) -> tuple[Val, bool, Val, bool]:
    """Both parts with their signedness."""
    asign, bsign = mod_text(ins, "atype", "S32")[0] == "S", mod_text(ins, "btype", "S32")[0] == "S"
    a = part(m, ins.src[0], mod_text(ins, "asel"), asign)
    b = part(m, ins.src[1], mod_text(ins, "bsel"), bsign)
    return a, asign, b, bsign


def longs(m: Machine, ins: Instruction) -> tuple[Long, Long]:
    a, asign, b, bsign = sources(m, ins)
    uniform = a.k == "u" and b.k == "u"
    return lengthen(m, a, asign, uniform), lengthen(m, b, bsign, uniform)


def complete(m: Machine, ins: Instruction, value: Val) -> None:
    """Combine with the third source and write."""
    em = m.em
    merge = mod_text(ins, "merge")
    c = m.word(ins.src[2])
    sign = mod_text(ins, "dtype", "U32")[0] == "S"
    if merge == "ACC":
        value = em.ibin("add", value, c)
    elif merge in ("MIN", "MAX"):
        value = em.iminmax(("s" if sign else "u") + merge.lower(), value, c)
    elif merge:
        low, bits = PLACES[merge]
        ones = (1 << bits) - 1
        inserted = em.ibin("shl", em.ibin("and", value, em.const(ones)), em.const(low))
        value = em.ibin("or", em.ibin("and", c, em.const(~(ones << low))), inserted)
    finish(m, ins, value)


def saturated(m: Machine, ins: Instruction, value: Long, sign: bool = True) -> Val:
    """The 32-bit result, limited to the type (of the part that it goes to) with `sat`. `sign`: `value` is signed."""
    if mod_bool(ins, "sat"):
        bits = PLACES.get(mod_text(ins, "merge"), (0, 32))[1]
        signed = mod_text(ins, "dtype", "S32")[0] == "S"
        top = (1 << (bits - signed)) - 1
        bottom = -(1 << (bits - 1)) if signed else 0
        if sign:
            value = call(m, "smax", value, fixed(m, value, bottom))
        value = call(m, "smin" if sign else "umin", value, fixed(m, value, top))
    return shorten(m, value)


@operation("VADD")
def vadd(m: Machine, ins: Instruction) -> None:
    em = m.em
    aneg, bneg, po = negated(ins.src[0]), negated(ins.src[1]), mod_bool(ins, "po")
    if not mod_bool(ins, "sat"):
        p, _, q, _ = sources(m, ins)
        total = em.ibin("add", em.neg(p) if aneg else p, em.neg(q) if bneg else q)
        complete(m, ins, em.ibin("add", total, em.const(int(po))))
        return
    a, b = longs(m, ins)
    a = both(m, "sub {t} {a}, {b}", fixed(m, a, 0), a) if aneg else a
    b = both(m, "sub {t} {a}, {b}", fixed(m, b, 0), b) if bneg else b
    whole = both(m, "add {t} {a}, {b}", both(m, "add {t} {a}, {b}", a, b), fixed(m, a, int(po)))
    complete(m, ins, saturated(m, ins, whole))


@operation("VMNMX")
def vmnmx(m: Machine, ins: Instruction) -> None:
    a, b = longs(m, ins)
    complete(m, ins, saturated(m, ins, call(m, "smax" if mod_bool(ins, "mx") else "smin", a, b)))


@operation("VABSDIFF")
def vabsdiff(m: Machine, ins: Instruction) -> None:
    a, b = longs(m, ins)
    complete(
        m, ins, saturated(m, ins, both(m, "sub {t} {a}, {b}", call(m, "smax", a, b), call(m, "smin", a, b)))
    )


def compared(m: Machine, ins: Instruction) -> PVal:
    cmp = mod_text(ins, "cmp", "F")
    if cmp in ("F", "T"):
        return PVal("u", x=cmp == "T")
    a, b = longs(m, ins)
    got = both(m, f"icmp {TESTS[cmp]} {{t}} {{a}}, {{b}}", a, b)
    return PVal("u", x=got.lanes[0]) if got.uniform else PVal("v", u=got.lanes)


@operation("VSET")
def vset(m: Machine, ins: Instruction) -> None:
    complete(m, ins, m.em.from_pred(compared(m, ins), 1, 0))


@operation("VSETP")
def vsetp(m: Machine, ins: Instruction) -> None:
    set_pred(m, ins, compared(m, ins), 2)


@operation("VSHL", "VSHR")
def vshift(m: Machine, ins: Instruction) -> None:
    """Counts above 31 act as 32, or count modulo 32 with `w`."""
    em = m.em
    a, asign, count, _ = sources(m, ins)
    if mod_bool(ins, "w"):
        count = em.ibin("and", count, em.const(31))
    left = ins.name == "VSHL"
    if left and mod_bool(ins, "sat"):
        count = em.iminmax("umin", count, em.const(32))
        uniform = a.k == "u" and count.k == "u"
        whole = both(
            m, "shl {t} {a}, {b}", lengthen(m, a, asign, uniform), lengthen(m, count, False, uniform)
        )
        complete(m, ins, saturated(m, ins, whole, asign))
        return
    value = shift(m, "shl" if left else "ashr" if asign else "lshr", a, count)
    if mod_bool(ins, "sat"):
        value = saturated(m, ins, lengthen(m, value, asign, value.k == "u"))
    complete(m, ins, value)

"""Single and double precision: arithmetic, division, roots and the approximate functions."""

from __future__ import annotations

from gpuvm.compiler.build import Builder, Pair
from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.lower.compare import compare32, flushes
from gpuvm.compiler.lower.core import Lowering, handles
from gpuvm.compiler.lower.wide import constant64
from gpuvm.compiler.mir import ABS, NEG, TRUE, ZERO, Imm, Mod, PredConst, Src
from gpuvm.compiler.ptx import ast

ROUNDING = {"rn": "RN", "rz": "RZ", "rm": "RM", "rp": "RP"}
ONE = Imm(0x3F800000)
HALF_D = constant64(0x3FE0000000000000)
TINY = Imm(0x00800000)
"""The smallest normal float."""


def rounding(i: ast.Instr) -> str:
    for m in i.mods:
        if m in ROUNDING:
            return ROUNDING[m]
    return "RN"


def _flags(low: Lowering, i: ast.Instr) -> dict[str, Mod]:
    mods: dict[str, Mod] = {}
    r = rounding(i)
    if r != "RN":
        mods["rnd"] = r
    if "ftz" in i.mods or flushes(low):
        mods["ftz"] = True
    if "sat" in i.mods:
        mods["sat"] = True
    return mods


def _f32(low: Lowering, o: ast.Operand) -> tuple[Src, int]:
    return low.builder.float_operand(low.word(o, "f32"))


def _f64(low: Lowering, o: ast.Operand) -> tuple[Pair, int]:
    group, mods = low.builder.double_operand(low.double(o, "f64"))
    assert isinstance(group, tuple)
    return (group[0], group[1]), mods


def _register_first(b: Builder, x: Src, mx: int, y: Src, my: int) -> tuple[Src, int, Src, int]:
    if isinstance(x, Imm):
        x, mx, y, my = y, my, x, mx
    return x, mx, y, my


@handles("testp")
def testp(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    test = i.mods[0]
    words = low.value(x, t)
    top = b.lop("AND", words[-1], Imm(0x7FFFFFFF))
    limit = Imm(0x7F800000 if t == "f32" else 0x7FF00000)
    tiny = Imm(0x00800000 if t == "f32" else 0x00100000)
    if test in ("number", "notanumber"):
        if t == "f32":
            p: Src = compare32(b, "NUM", words[0], words[0])
        else:
            p = b.pred("DSETP", [words, words, TRUE], {"cmp": "NUM"})
        low.set_predicate(low.destination(d), p if test == "number" else b.plogic("XOR", p, TRUE))
        return
    if test == "finite":
        p = b.compare("LT", top, limit, False)
    elif test == "infinite":
        p = b.compare("EQ", top, limit, False)
        if t == "f64":
            p = b.plogic("AND", p, b.compare("EQ", words[0], ZERO, False))
    elif test == "normal":
        p = b.compare("LT", top, limit, False, "AND", b.compare("GE", top, tiny, False))
    elif test == "subnormal":
        some = b.compare("NE", top, ZERO, False)
        if t == "f64":
            some = b.plogic("OR", some, b.compare("NE", words[0], ZERO, False))
        p = b.compare("LT", top, tiny, False, "AND", some)
    else:
        raise CompileError(f"{i.text}: {test} is no test", i.line)
    low.set_predicate(low.destination(d), p)


@handles("copysign")
def copysign(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "f32 f64")
    d, x, y = low.need(i, 3)
    b = low.builder
    u, v = low.value(x, t), low.value(y, t)
    top = b.lop("OR", b.lop("AND", u[-1], Imm(0x80000000)), b.lop("AND", v[-1], Imm(0x7FFFFFFF)))
    low.set_value(d, (*v[:-1], top))


def sign_bit(low: Lowering, i: ast.Instr, t: str) -> None:
    """neg and abs of a float: its sign bit (with .ftz, denormals vanish as well)."""
    d, x = low.need(i, 2)
    b = low.builder
    words = low.value(x, t)
    if t == "f32" and ("ftz" in i.mods or flushes(low)):
        s, m = b.float_operand(words[0])
        if isinstance(s, Imm):
            s = b.mov(s)
        m = (m | ABS) & ~NEG if i.op == "abs" else m ^ NEG
        low.set_word(d, b.one("FADD", [s, Imm(0x80000000)], {"ftz": True}, [m, 0]))
        return
    f = b.fneg if i.op == "neg" else b.fabs
    low.set_value(d, (*words[:-1], f(words[-1])))


def fadd(b: Builder, x: Src, y: Src, mods: dict[str, Mod] | None = None, mx: int = 0, my: int = 0) -> Src:
    x, mx, y, my = _register_first(b, x, mx, y, my)
    return b.one("FADD", [x, y], mods, [mx, my])


def fmul(b: Builder, x: Src, y: Src, mods: dict[str, Mod] | None = None, neg: int = 0) -> Src:
    if isinstance(x, Imm):
        x, y = y, x
    return b.one("FMUL", [x, y], mods, [neg, 0])


def ffma(
    b: Builder, x: Src, y: Src, z: Src, mods: dict[str, Mod] | None = None, neg: int = 0, nz: int = 0
) -> Src:
    if isinstance(x, Imm):
        x, y = y, x
    return b.one("FFMA", [x, y, z], mods, [neg, 0, nz])


def arithmetic(low: Lowering, i: ast.Instr) -> None:
    """add, sub and mul of f32 and f64."""
    t = low.kind(i, "f32 f64")
    d, x, y = low.need(i, 3)
    b = low.builder
    mods = _flags(low, i)
    if t == "f32":
        u, mu = _f32(low, x)
        v, mv = _f32(low, y)
        if i.op == "mul":
            low.set_word(d, _product(b, u, mu, v, mv, mods))
        else:
            low.set_word(d, fadd(b, u, v, mods, mu, mv ^ NEG if i.op == "sub" else mv))
        return
    p, mp = _f64(low, x)
    q, mq = _f64(low, y)
    if i.op == "mul":
        p, q = _plain_double(b, p, mp), _plain_double(b, q, mq)
        low.set_double(d, b.pair("DMUL", [p, q], mods, [(mp ^ mq) & NEG, 0]))
    else:
        low.set_double(d, b.pair("DADD", [p, q], mods, [mp, mq ^ NEG if i.op == "sub" else mq]))


def _plain(b: Builder, s: Src, mods: int) -> Src:
    """The chip's multiplications take no absolute values."""
    return b.fabs(s) if mods & ABS else s


def _plain_double(b: Builder, p: Pair, mods: int) -> Pair:
    return (p[0], b.fabs(p[1])) if mods & ABS else p


def _product(b: Builder, u: Src, mu: int, v: Src, mv: int, mods: dict[str, Mod]) -> Src:
    u, v = _plain(b, u, mu), _plain(b, v, mv)
    neg = (mu ^ mv) & NEG
    if isinstance(v, Imm) and neg:
        v, neg = Imm(v.value ^ 0x80000000), 0
    return fmul(b, u, v, mods, neg)


def fused(low: Lowering, i: ast.Instr) -> None:
    """fma and floating mad."""
    t = low.kind(i, "f32 f64")
    d, x, y, z = low.need(i, 4)
    b = low.builder
    mods = _flags(low, i)
    if t == "f32":
        u, mu = _f32(low, x)
        v, mv = _f32(low, y)
        w, mw = _f32(low, z)
        if i.op == "mad" and flushes(low) and not set(i.mods) & set(ROUNDING):
            # sm_1x: the product is truncated to 24 bits, then added
            product = _product(b, u, mu, v, mv, {"ftz": True, "rnd": "RZ"})
            low.set_word(d, fadd(b, product, w, mods, 0, mw))
            return
        u, v, w = _plain(b, u, mu), _plain(b, v, mv), _plain(b, w, mw)
        low.set_word(d, ffma(b, u, v, w, mods, (mu ^ mv) & NEG, mw & NEG))
        return
    p, mp = _f64(low, x)
    q, mq = _f64(low, y)
    r, mr = _f64(low, z)
    p, q, r = _plain_double(b, p, mp), _plain_double(b, q, mq), _plain_double(b, r, mr)
    low.set_double(d, b.pair("DFMA", [p, q, r], mods, [(mp ^ mq) & NEG, 0, mr & NEG]))


handles("fma")(fused)


def min_max(low: Lowering, i: ast.Instr, t: str) -> None:
    if {"NaN", "xorsign", "abs"} & set(i.mods) or len(i.args) != 3:
        raise unsupported(i.text, i.line, "only the plain two-operand form exists on the chip")
    d, x, y = low.need(i, 3)
    b = low.builder
    order = PredConst(i.op == "min")
    if t == "f32":
        mods: dict[str, Mod] = {"ftz": True} if "ftz" in i.mods or flushes(low) else {}
        u, mu = _f32(low, x)
        v, mv = _f32(low, y)
        u, mu, v, mv = _register_first(b, u, mu, v, mv)
        low.set_word(d, b.one("FMNMX", [u, v, order], mods, [mu, mv, 0]))
        return
    p, mp = _f64(low, x)
    q, mq = _f64(low, y)
    low.set_double(d, b.pair("DMNMX", [p, q, order], None, [mp, mq, 0]))


# ---- building blocks


def mufu(b: Builder, op: str, s: Src, mods: int = 0) -> Src:
    return b.one("MUFU", [b.mov(s)], {"op": op}, [mods])


def to_double(b: Builder, s: Src, ftz: bool = False) -> Pair:
    s, m = b.float_operand(s)
    mods: dict[str, Mod] = {"dtype": "F64", "stype": "F32"}
    if ftz:
        mods["ftz"] = True
    return b.pair("F2F", [b.mov(s) if isinstance(s, Imm) else s], mods, [m])


def to_single(b: Builder, p: Pair, rnd: str = "RN", ftz: bool = False) -> Src:
    mods: dict[str, Mod] = {"dtype": "F32", "stype": "F64", "rnd": rnd}
    if ftz:
        mods["ftz"] = True
    return b.one("F2F", [p], mods)


def dfma(b: Builder, x: Pair, y: Pair, z: Pair, neg: int = 0, nz: int = 0, rnd: str = "RN") -> Pair:
    return b.pair("DFMA", [x, y, z], {"rnd": rnd} if rnd != "RN" else None, [neg, 0, nz])


def dmul(b: Builder, x: Pair, y: Pair) -> Pair:
    return b.pair("DMUL", [x, y])


def reciprocal_seed(b: Builder, p: Pair) -> Pair:
    """About 20 good bits of 1/p, a double whose low word is 0."""
    return ZERO, mufu(b, "RCP64H", p[1])


def divide32(low: Lowering, x: Src, y: Src, rnd: str, ftz: bool) -> Src:
    """Correctly rounded x / y of floats.

    In double precision neither overflow nor underflow can happen, and a quotient of 24-bit numbers that is
    good to 2**-52 lies on the right side of every float and every midpoint: one final conversion rounds for
    all modes. Zeros, infinities and NaNs come from x times the reciprocal's estimate, which is exact for
    them: they are where the corrections give NaN, and where x is 0 (the corrections lose the sign).
    """
    b = low.builder
    p, q = to_double(b, x, ftz), to_double(b, y, ftz)
    r = reciprocal_seed(b, q)
    rough = quotient = dmul(b, p, r)
    for _ in range(2):
        quotient = dfma(b, dfma(b, q, quotient, p, NEG), r, quotient)
    d = to_single(b, quotient, rnd, ftz)
    special = compare32(b, "NAN", d, d)
    special = compare32(b, "EQ", x, ZERO, ftz, "OR", special)
    return b.select(special, to_single(b, rough, rnd, ftz), d)


def scaled_mufu(b: Builder, op: str, s: Src, ftz: bool, up: int, down: int) -> Src:
    """A reciprocal (root) of any float, denormals included: scaled by 2**up before and 2**down after, where
    needed.
    """
    if ftz:
        return mufu(b, op, s)
    small = compare32(b, "LT", b.fabs(s), TINY)
    scaled = b.select(small, fmul(b, s, Imm(up + 127 << 23)), s)
    r = mufu(b, op, scaled)
    return b.select(small, fmul(b, r, Imm(down + 127 << 23)), r)


def reciprocal32(b: Builder, s: Src, ftz: bool) -> Src:
    """Approximate 1 / s; without ftz also where s or the result is denormal."""
    if ftz:
        return mufu(b, "RCP", s)
    magnitude = b.fabs(s)
    small = compare32(b, "LT", magnitude, TINY)
    large = compare32(b, "GT", magnitude, Imm(0x7E800000))
    finite = b.plogic("AND", large, compare32(b, "LT", magnitude, Imm(0x7F800000)))
    factor = b.select(small, Imm(0x4B800000), b.select(finite, Imm(0x33800000), ONE))
    return fmul(b, mufu(b, "RCP", fmul(b, s, factor)), factor)


def divide(low: Lowering, i: ast.Instr) -> None:
    """div of f32 (all kinds); f64 was expanded into a library call."""
    t = low.kind(i, "f32 f64")
    d, x, y = low.need(i, 3)
    if t == "f64":
        raise CompileError(f"{i.text} was not expanded before lowering", i.line)
    b = low.builder
    u, v = low.word(x, t), low.word(y, t)
    ftz = "ftz" in i.mods or flushes(low)
    if set(i.mods) & set(ROUNDING):
        low.set_word(d, divide32(low, u, v, rounding(i), ftz))
    elif "approx" in i.mods:
        low.set_word(d, fmul(b, u, reciprocal32(b, v, ftz)))
    else:
        # full range: bring the divisor of large magnitude down, so that its reciprocal stays normal
        large = compare32(b, "GT", b.fabs(v), Imm(0x7E800000))
        factor = b.select(large, Imm(0x3E800000), ONE)
        r = scaled_mufu(b, "RCP", fmul(b, v, factor), ftz, 24, 24)
        low.set_word(d, fmul(b, fmul(b, u, factor), r, {"ftz": True} if ftz else None))


handles("_div")(divide)


@handles("rcp", "_rcp")
def rcp(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    ftz = "ftz" in i.mods or flushes(low)
    if t == "f64":
        if "approx" not in i.mods:
            raise CompileError(f"{i.text} was not expanded before lowering", i.line)
        low.set_double(d, reciprocal_seed(b, low.double(x, t)))
    elif set(i.mods) & set(ROUNDING):
        low.set_word(d, divide32(low, ONE, low.word(x, t), rounding(i), ftz))
    else:
        low.set_word(d, reciprocal32(b, low.word(x, t), ftz))


def square_root32(low: Lowering, s: Src, rnd: str, ftz: bool) -> Src:
    """Correctly rounded root of a float, in double precision (see `divide32` for why one conversion rounds
    right).
    """
    b = low.builder
    p = to_double(b, s, ftz)
    y: Pair = (ZERO, mufu(b, "RSQ64H", p[1]))
    g = dmul(b, p, y)
    h = dmul(b, y, HALF_D)
    for _ in range(2):
        g = dfma(b, dfma(b, g, g, p, NEG), h, g)
    d = to_single(b, g, rnd, ftz)
    # zeros and +infinity are their own roots
    special = compare32(b, "EQ", s, Imm(0x7F800000))
    special = compare32(b, "EQ", s, ZERO, ftz, "OR", special)
    itself = fadd(b, s, Imm(0x80000000), {"ftz": True}) if ftz else s
    return b.select(special, itself, d)


@handles("sqrt", "_sqrt")
def sqrt(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    if t == "f64":
        raise CompileError(f"{i.text} was not expanded before lowering", i.line)
    s = low.word(x, t)
    ftz = "ftz" in i.mods or flushes(low)
    if set(i.mods) & set(ROUNDING):
        low.set_word(d, square_root32(low, s, rounding(i), ftz))
        return
    if ftz:
        low.set_word(d, mufu(b, "RCP", mufu(b, "RSQ", s)))
        return
    small = compare32(b, "LT", b.fabs(s), TINY)
    scaled = b.select(small, fmul(b, s, Imm(24 + 127 << 23)), s)
    root = mufu(b, "RCP", mufu(b, "RSQ", scaled))
    low.set_word(d, b.select(small, fmul(b, root, Imm(127 - 12 << 23)), root))


@handles("rsqrt")
def rsqrt(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    if t == "f32":
        low.set_word(d, scaled_mufu(b, "RSQ", low.word(x, t), "ftz" in i.mods or flushes(low), 24, 12))
        return
    p = low.double(x, t)
    if "ftz" in i.mods:
        low.set_double(d, (ZERO, mufu(b, "RSQ64H", p[1])))
        return
    raise CompileError(f"{i.text} was not expanded before lowering", i.line)


@handles("sin", "cos")
def sine(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "f32")
    d, x = low.need(i, 2)
    b = low.builder
    s, m = _f32(low, x)
    reduced = b.one("RRO", [b.mov(s) if isinstance(s, Imm) else s], {"op": "SINCOS"}, [m])
    low.set_word(d, mufu(b, i.op.upper(), reduced))


@handles("ex2")
def ex2(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "f32")
    d, x = low.need(i, 2)
    b = low.builder
    s = low.word(x, "f32")
    small: Src | None = None
    if not ("ftz" in i.mods or flushes(low)):
        # results below the smallest normal: the square of the root
        small = compare32(b, "LT", s, Imm(0xC2FC0000))
        s = b.select(small, fmul(b, s, Imm(0x3F000000)), s)
    s, m = b.float_operand(s)
    r = mufu(b, "EX2", b.one("RRO", [b.mov(s) if isinstance(s, Imm) else s], {"op": "EX2"}, [m]))
    if small is not None:
        r = b.select(small, fmul(b, r, r), r)
    low.set_word(d, r)


@handles("lg2")
def lg2(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "f32")
    d, x = low.need(i, 2)
    b = low.builder
    s = low.word(x, "f32")
    if "ftz" in i.mods or flushes(low):
        low.set_word(d, mufu(b, "LG2", s))
        return
    small = compare32(b, "LT", b.fabs(s), TINY)
    r = mufu(b, "LG2", b.select(small, fmul(b, s, Imm(24 + 127 << 23)), s))
    low.set_word(d, b.select(small, fadd(b, r, Imm(0xC1C00000)), r))

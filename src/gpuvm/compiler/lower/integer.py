"""Integer arithmetic, logic, shifts, bit fields: everything that stays in integer registers."""

from __future__ import annotations

from gpuvm.compiler.build import MASK, Pair
from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.lower.core import CARRY, Lowering, handles, width
from gpuvm.compiler.lower.wide import (
    compare64,
    extended_from,
    logic64,
    mul64,
    mulhi64,
    neg64,
    select64,
    shl64,
    shr64,
)
from gpuvm.compiler.mir import TRUE, ZERO, Imm, PredConst, Src, invert
from gpuvm.compiler.ptx import ast

INTEGERS = "u16 u32 u64 s16 s32 s64"


def add_carry(low: Lowering, a: Src, b: Src, carry: Src) -> tuple[Src, Src]:
    """Sum and carry out (0 or 1) of a + b + carry."""
    inst = low.builder.emit("ADDC", "rr", [a, b, carry])
    return inst.dsts[0], inst.dsts[1]


def _chain(
    low: Lowering, a: tuple[Src, ...], b: tuple[Src, ...], carry: Src, sub: bool
) -> tuple[tuple[Src, ...], Src]:
    """Multi-word a + b + carry, or a - b - borrow; the flag is 0 or 1."""
    builder = low.builder
    if sub:
        b = tuple(builder.inv(x) for x in b)
        carry = builder.lop("XOR", carry, Imm(1))
    out = []
    for x, y in zip(a, b, strict=True):
        s, carry = add_carry(low, x, y, carry)
        out.append(s)
    if sub:
        carry = builder.lop("XOR", carry, Imm(1))
    return tuple(out), carry


def _add_sub(low: Lowering, i: ast.Instr, sub: bool) -> None:
    b = low.builder
    t = low.kind(i, INTEGERS + " b32 b64")
    d, x, y = low.need(i, 3)
    with_carry = i.op.endswith("c")
    if with_carry or "cc" in i.mods:
        carry = low.read(CARRY) if with_carry else ZERO
        out, flag = _chain(low, low.value(x, t), low.value(y, t), carry, sub)
        low.set_value(d, out)
        if "cc" in i.mods:
            low.write(CARRY, flag)
        return
    if width(t) == 64:
        low.set_double(d, b.add64(low.double(x, t), low.double(y, t), sub))
        return
    u, v = low.word(x, t), low.word(y, t)
    if "sat" in i.mods:
        if isinstance(u, Imm):
            u = b.mov(u)
        low.set_word(d, b.one("IADD", [u, v], {"sat": True}, [0, 1 if sub else 0]))
        return
    low.set_word(d, b.iadd(u, v, nb=sub))


@handles("add", "addc")
def add(low: Lowering, i: ast.Instr) -> None:
    if i.mods and i.mods[-1][0] in "fbe" and i.mods[-1] not in ("b32", "b64"):
        from gpuvm.compiler.lower import floating

        floating.arithmetic(low, i)
        return
    _add_sub(low, i, False)


@handles("sub", "subc")
def sub(low: Lowering, i: ast.Instr) -> None:
    if i.mods and i.mods[-1][0] in "fbe" and i.mods[-1] not in ("b32", "b64"):
        from gpuvm.compiler.lower import floating

        floating.arithmetic(low, i)
        return
    _add_sub(low, i, True)


def product(low: Lowering, i: ast.Instr, x: ast.Operand, y: ast.Operand, t: str) -> tuple[Src, ...]:
    """mul by mode: words of the result (two for 64-bit and .wide of 32-bit types)."""
    b = low.builder
    sign = t[0] == "s"
    if width(t) == 64:
        u, v = low.double(x, t), low.double(y, t)
        if "hi" in i.mods:
            return mulhi64(b, u, v, sign)
        return mul64(b, u, v)
    p, q = low.extend(low.word(x, t), t), low.extend(low.word(y, t), t)
    if width(t) == 16:
        r = b.imul(p, q)
        return (b.shr(r, Imm(16), sign),) if "hi" in i.mods else (r,)
    if "wide" in i.mods:
        return b.mad64(p, q, (ZERO, ZERO), sign)
    if "hi" in i.mods:
        return (b.imul(p, q, True, sign, sign),)
    return (b.imul(p, q),)


def _mode(i: ast.Instr) -> None:
    if not {"lo", "hi", "wide"} & set(i.mods):
        raise CompileError(f"{i.text} needs .lo, .hi or .wide", i.line)


@handles("mul")
def mul(low: Lowering, i: ast.Instr) -> None:
    if i.mods and i.mods[-1][0] in "fb":
        from gpuvm.compiler.lower import floating

        floating.arithmetic(low, i)
        return
    t = low.kind(i, INTEGERS)
    _mode(i)
    d, x, y = low.need(i, 3)
    low.set_value(d, product(low, i, x, y, t))


@handles("mad", "madc")
def mad(low: Lowering, i: ast.Instr) -> None:
    if i.mods and i.mods[-1][0] in "fb":
        from gpuvm.compiler.lower import floating

        floating.fused(low, i)
        return
    b = low.builder
    t = low.kind(i, INTEGERS)
    _mode(i)
    d, x, y, z = low.need(i, 4)
    sign = t[0] == "s"
    if i.op == "madc" or "cc" in i.mods:
        p = product(low, i, x, y, t)
        c = low.value(z, t)
        out, flag = _chain(low, p, c, low.read(CARRY) if i.op == "madc" else ZERO, False)
        low.set_value(d, out)
        if "cc" in i.mods:
            low.write(CARRY, flag)
        return
    if width(t) == 64:
        p = product(low, i, x, y, t)
        low.set_double(d, b.add64((p[0], p[1]), low.double(z, t)))
    elif width(t) == 32 and "wide" in i.mods:
        low.set_double(d, b.mad64(low.word(x, t), low.word(y, t), low.double(z, "u64"), sign))
    elif width(t) == 32 and "sat" not in i.mods:
        low.set_word(d, b.imad(low.word(x, t), low.word(y, t), low.word(z, t), "hi" in i.mods, sign, sign))
    else:
        p = product(low, i, x, y, t)
        addend = low.word(z, t)
        if "sat" in i.mods:
            low.set_word(d, b.one("IADD", [b.mov(p[0]), addend], {"sat": True}))
        else:
            low.set_word(d, b.iadd(p[0], addend))


def _twenty_four(low: Lowering, i: ast.Instr, x: ast.Operand, y: ast.Operand, t: str) -> Src:
    b = low.builder
    sign = t == "s32"
    p, q = (b.bfe(low.word(o, t), 0, 24, sign) for o in (x, y))
    lo = b.imul(p, q)
    if "lo" in i.mods:
        return lo
    hi = b.imul(p, q, True, sign, sign)
    return b.lop("OR", b.shr(lo, Imm(16)), b.shl(hi, Imm(16)))


@handles("mul24")
def mul24(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "u32 s32")
    d, x, y = low.need(i, 3)
    low.set_word(d, _twenty_four(low, i, x, y, t))


@handles("mad24")
def mad24(low: Lowering, i: ast.Instr) -> None:
    b = low.builder
    t = low.kind(i, "u32 s32")
    d, x, y, z = low.need(i, 4)
    p = _twenty_four(low, i, x, y, t)
    c = low.word(z, t)
    if "sat" in i.mods:
        low.set_word(d, b.one("IADD", [b.mov(p), c], {"sat": True}))
    else:
        low.set_word(d, b.iadd(p, c))


@handles("sad")
def sad(low: Lowering, i: ast.Instr) -> None:
    b = low.builder
    t = low.kind(i, INTEGERS)
    d, x, y, z = low.need(i, 4)
    if width(t) == 64:
        u, v = low.double(x, t), low.double(y, t)
        less = compare64(b, "LT", u, v, t[0] == "s")
        difference = select64(b, less, b.add64(v, u, True), b.add64(u, v, True))
        low.set_double(d, b.add64(low.double(z, t), difference))
        return
    p, q = low.extend(low.word(x, t), t), low.extend(low.word(y, t), t)
    low.set_word(d, b.one("ISAD", [b.mov(p), q, low.word(z, t)], {"type": "S32" if t[0] == "s" else "U32"}))


@handles("neg")
def neg(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "s16 s32 s64 f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    if t[0] == "f":
        from gpuvm.compiler.lower import floating

        floating.sign_bit(low, i, t)
    elif t == "s64":
        low.set_double(d, neg64(b, low.double(x, t)))
    else:
        low.set_word(d, b.ineg(low.word(x, t)))


@handles("abs")
def absolute(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "s16 s32 s64 f32 f64")
    d, x = low.need(i, 2)
    b = low.builder
    if t[0] == "f":
        from gpuvm.compiler.lower import floating

        floating.sign_bit(low, i, t)
    elif t == "s64":
        p = low.double(x, t)
        low.set_double(d, select64(b, b.compare("LT", p[1], ZERO, True), neg64(b, p), p))
    else:
        s = low.extend(low.word(x, t), t)
        low.set_word(d, abs32(low, s))


def abs32(low: Lowering, s: Src) -> Src:
    if isinstance(s, Imm):
        return Imm(-s.value & MASK) if s.value >> 31 else s
    return low.builder.one("I2I", [s], {"dtype": "S32", "stype": "S32"}, [2])


@handles("min", "max")
def min_max(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, INTEGERS + " f32 f64")
    b = low.builder
    if t[0] == "f":
        from gpuvm.compiler.lower import floating

        floating.min_max(low, i, t)
        return
    if len(i.args) != 3 or "relu" in i.mods:
        raise unsupported(i.text, i.line, "only the two-operand form without .relu exists on the chip")
    d, x, y = low.need(i, 3)
    sign = t[0] == "s"
    if width(t) == 64:
        u, v = low.double(x, t), low.double(y, t)
        less = compare64(b, "LT", u, v, sign)
        low.set_double(d, select64(b, less if i.op == "min" else invert(less), u, v))
        return
    p, q = low.extend(low.word(x, t), t), low.extend(low.word(y, t), t)
    if isinstance(p, Imm):
        p, q = q, p
    low.set_word(
        d, b.one("IMNMX", [b.mov(p), q, PredConst(i.op == "min")], {"type": "S32" if sign else "U32"})
    )


# ---- division


def udivmod32(low: Lowering, x: Src, y: Src) -> tuple[Src, Src]:
    """Quotient and remainder of unsigned words: a reciprocal estimate from below, one integer Newton step,
    two fix-ups.
    """
    b = low.builder
    x, y = b.mov(x), b.mov(y)
    f = b.one("I2F", [y], {"dtype": "F32", "stype": "U32", "rnd": "RP"})
    r = b.one("MUFU", [f], {"op": "RCP"})
    m: Src = b.one("F2I", [b.iadd(r, Imm(0x0FFFFFFE))], {"dtype": "U32", "stype": "F32", "rnd": "TRUNC"})
    e = b.ineg(b.imul(m, y))
    m = b.imad(m, e, m, True)
    q = b.imul(x, m, True)
    rem = b.isub(x, b.imul(q, y))
    for _ in range(2):
        over = b.compare("GE", rem, y, False)
        q = b.select(over, b.iadd(q, Imm(1)), q)
        rem = b.select(over, b.isub(rem, y), rem)
    return q, rem


def divmod32(low: Lowering, x: Src, y: Src, sign: bool) -> tuple[Src, Src]:
    b = low.builder
    if isinstance(y, Imm) and not sign and y.value and y.value & (y.value - 1) == 0:
        return b.shr(x, Imm(y.value.bit_length() - 1)), b.lop("AND", x, Imm(y.value - 1))
    if not sign:
        return udivmod32(low, x, y)
    q, r = udivmod32(low, abs32(low, x), abs32(low, y))
    differ = b.compare("LT", b.lop("XOR", x, y), ZERO, True)
    negative = b.compare("LT", x, ZERO, True)
    return b.select(differ, b.ineg(q), q), b.select(negative, b.ineg(r), r)


@handles("div", "rem")
def divide(low: Lowering, i: ast.Instr) -> None:
    if i.mods and i.mods[-1][0] == "f":
        from gpuvm.compiler.lower import floating

        floating.divide(low, i)
        return
    t = low.kind(i, INTEGERS)
    d, x, y = low.need(i, 3)
    if width(t) == 64:
        raise CompileError(f"{i.text} was not expanded before lowering", i.line)
    p, q = low.extend(low.word(x, t), t), low.extend(low.word(y, t), t)
    low.set_word(d, divmod32(low, p, q, t[0] == "s")[i.op == "rem"])


# ---- logic and shifts


@handles("and", "or", "xor")
def logic(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "pred b16 b32 b64 u16 u32 u64 s16 s32 s64")
    d, x, y = low.need(i, 3)
    b = low.builder
    op = i.op.upper()
    if t == "pred":
        low.set_predicate(low.destination(d), b.plogic(op, low.predicate(x), low.predicate(y)))
    elif width(t) == 64:
        low.set_double(d, logic64(b, op, low.double(x, t), low.double(y, t)))
    else:
        low.set_word(d, b.lop(op, low.word(x, t), low.word(y, t)))


@handles("not", "cnot")
def invert_bits(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "pred b16 b32 b64 u16 u32 u64 s16 s32 s64")
    d, x = low.need(i, 2)
    b = low.builder
    if i.op == "cnot":
        words = low.value(x, t)
        zero = b.compare("EQ", low.extend(b.lop("OR", words[0], words[-1]), "u" + t[1:]), ZERO, False)
        one = b.from_pred(zero)
        low.set_value(d, (one, ZERO)[: len(words)])
    elif t == "pred":
        low.set_predicate(low.destination(d), invert(low.predicate(x)))
    else:
        low.set_value(d, tuple(b.inv(w) for w in low.value(x, t)))


@handles("lop3")
def lop3(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "b32")
    if len(i.args) == 6 or not {"and", "or"}.isdisjoint(i.mods):
        raise unsupported(
            i.text, i.line, "lop3 with a predicate result is not implemented; use lop3.b32 and setp"
        )
    d, x, y, z, lut = low.need(i, 5)
    if not isinstance(lut, ast.Number) or not isinstance(lut.value, int):
        raise CompileError("lop3 needs a constant table", i.line)
    b = low.builder
    a, c, e = (low.word(o, "b32") for o in (x, y, z))
    # bit index of the table = a << 2 | c << 1 | e; split on e: f = f0 ^ (e & (f0 ^ f1))
    f0 = sum((lut.value >> 2 * k & 1) << k for k in range(4))
    f1 = sum((lut.value >> 2 * k + 1 & 1) << k for k in range(4))
    low.set_word(d, b.lop("XOR", _two_input(low, f0, a, c), b.lop("AND", e, _two_input(low, f0 ^ f1, a, c))))


def _two_input(low: Lowering, table: int, a: Src, c: Src) -> Src:
    """Any function of two bits; bit index of the table = a << 1 | c."""
    b = low.builder
    if table & 8 and table != 15:
        inner = {
            0b1000: ("AND", 0, 0),
            0b1100: ("a", 0, 0),
            0b1010: ("c", 0, 0),
            0b1110: ("OR", 0, 0),
            0b1001: ("XOR", 1, 0),
            0b1101: ("OR", 0, 1),
            0b1011: ("OR", 1, 0),
        }[table]
    else:
        inner = {
            0: ("0", 0, 0),
            15: ("1", 0, 0),
            0b0001: ("AND", 1, 1),
            0b0010: ("AND", 1, 0),
            0b0011: ("a", 1, 0),
            0b0100: ("AND", 0, 1),
            0b0101: ("c", 1, 0),
            0b0110: ("XOR", 0, 0),
            0b0111: ("OR", 1, 1),
        }[table]
    op, ia, ic = inner
    if op in "01":
        return Imm(MASK if op == "1" else 0)
    if op in "ac":
        s = a if op == "a" else c
        return b.inv(s) if ia else s
    return b.lop(op, a, c, bool(ia), bool(ic))


@handles("shl", "shr")
def shift(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "b16 b32 b64 u16 u32 u64 s16 s32 s64")
    d, x, n = low.need(i, 3)
    b = low.builder
    amount = low.word(n, "u32")
    sign = t[0] == "s"
    if width(t) == 64:
        p = low.double(x, t)
        low.set_double(d, shl64(b, p, amount) if i.op == "shl" else shr64(b, p, amount, sign))
    elif i.op == "shl":
        low.set_word(d, b.shl(low.word(x, t), amount))
    else:
        low.set_word(d, b.shr(low.extend(low.word(x, t), t if sign else "u" + t[1:]), amount, sign))


@handles("shf")
def funnel(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "b32")
    d, x, y, n = low.need(i, 4)
    b = low.builder
    lo, hi, amount = low.word(x, "b32"), low.word(y, "b32"), low.word(n, "u32")
    if "wrap" in i.mods:
        amount = b.lop("AND", amount, Imm(31))
    elif isinstance(amount, Imm):
        amount = Imm(min(amount.value, 32))
    else:
        amount = b.one("IMNMX", [amount, Imm(32), TRUE], {"type": "U32"})
    rest = b.isub(Imm(32), amount)
    if "l" in i.mods:
        low.set_word(d, b.lop("OR", b.shl(hi, amount), b.shr(lo, rest)))
    else:
        low.set_word(d, b.lop("OR", b.shl(hi, rest), b.shr(lo, amount)))


@handles("prmt")
def permute(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "b32 f4e b4e rc8 ecl ecr rc16")
    d, x, y, s = low.need(i, 4)
    b = low.builder
    mode = i.mods[-1].upper() if i.mods[-1] != "b32" else ""
    selector = low.word(s, "b32")
    a, c = low.word(x, "b32"), low.word(y, "b32")
    if not mode and isinstance(selector, Imm) and isinstance(a, Imm) and isinstance(c, Imm):
        source = a.value | c.value << 32
        out = 0
        for k in range(4):
            nibble = selector.value >> 4 * k & 0xF
            byte = source >> 8 * (nibble & 7) & 0xFF
            if nibble & 8:
                byte = 0xFF if byte & 0x80 else 0
            out |= byte << 8 * k
        low.set_word(d, Imm(out))
        return
    low.set_word(d, b.one("PRMT", [b.mov(a), selector, c], {"mode": mode} if mode else None))


# ---- bits


@handles("popc")
def popc(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "b32 b64")
    d, x = low.need(i, 2)
    b = low.builder
    counts: list[Src] = []
    for w in low.value(x, t):
        counts.append(Imm(w.value.bit_count()) if isinstance(w, Imm) else b.one("POPC", [w, w]))
    low.set_word(d, counts[0] if len(counts) == 1 else b.iadd(counts[0], counts[1]))


def _leading(low: Lowering, w: Src) -> Src:
    """Position of the highest set bit, all ones if there is none."""
    if isinstance(w, Imm):
        return Imm(w.value.bit_length() - 1 & MASK)
    return low.builder.one("FLO", [w], {"type": "U32"})


@handles("clz")
def clz(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "b32 b64")
    d, x = low.need(i, 2)
    b = low.builder
    words = low.value(x, t)
    top = b.isub(Imm(31), _leading(low, words[-1]))
    if len(words) == 2:
        rest = b.isub(Imm(63), _leading(low, words[0]))
        top = b.select(b.compare("EQ", words[1], ZERO, False), rest, top)
    low.set_word(d, top)


@handles("bfind")
def bfind(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "u32 u64 s32 s64")
    d, x = low.need(i, 2)
    b = low.builder
    words = low.value(x, t)
    if t[0] == "s":
        sign = b.shr(words[-1], Imm(31), True)
        words = tuple(b.lop("XOR", w, sign) for w in words)
    at = _leading(low, words[-1])
    last = 31
    if len(words) == 2:
        last = 63
        at = b.select(b.compare("EQ", words[1], ZERO, False), _leading(low, words[0]), b.iadd(at, Imm(32)))
    if "shiftamt" in i.mods:
        missing = b.compare("EQ", at, Imm(MASK), False)
        at = b.select(missing, at, b.isub(Imm(last), at))
    low.set_word(d, at)


@handles("brev")
def brev(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "b32 b64")
    d, x = low.need(i, 2)
    words = [
        low.builder.one("BFE", [low.builder.mov(w), Imm(32 << 8)], {"type": "U32", "brev": True})
        for w in low.value(x, t)
    ]
    low.set_value(d, tuple(reversed(words)))


def _field(low: Lowering, position: ast.Operand, length: ast.Operand) -> tuple[Src, Src, Src]:
    """Position, length (both & 255) and the two packed as the chip wants them."""
    b = low.builder
    p = b.lop("AND", low.word(position, "u32"), Imm(0xFF))
    n = b.lop("AND", low.word(length, "u32"), Imm(0xFF))
    return p, n, b.lop("OR", p, b.shl(n, Imm(8)))


@handles("bfe")
def bfe(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "u32 u64 s32 s64")
    d, x, position, length = low.need(i, 4)
    b = low.builder
    sign = t[0] == "s"
    p, n, packed = _field(low, position, length)
    if width(t) == 32:
        s = low.word(x, t)
        if isinstance(p, Imm) and isinstance(n, Imm) and p.value + n.value <= 32 and n.value:
            low.set_word(d, b.bfe(s, p.value, n.value, sign))
        else:
            low.set_word(d, b.one("BFE", [b.mov(s), packed], {"type": "S32" if sign else "U32"}))
        return
    value = shr64(b, low.double(x, t), p, sign)
    n = (
        b.one("IMNMX", [b.mov(n), Imm(64), TRUE], {"type": "U32"})
        if not isinstance(n, Imm)
        else Imm(min(n.value, 64))
    )
    rest = b.isub(Imm(64), n)
    low.set_double(
        d, shr64(b, shl64(b, value, rest), rest, sign) if not isinstance(n, Imm) or n.value else (ZERO, ZERO)
    )
    if not isinstance(n, Imm):
        empty = b.compare("EQ", n, ZERO, False)
        got = low.double(d, t)
        low.set_double(d, select64(b, empty, (ZERO, ZERO), got))


@handles("bfi")
def bfi(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "b32 b64")
    d, x, y, position, length = low.need(i, 5)
    b = low.builder
    p, n, packed = _field(low, position, length)
    if width(t) == 32:
        low.set_word(d, b.one("BFI", [b.mov(low.word(x, t)), packed, low.word(y, t)]))
        return
    value, base = low.double(x, t), low.double(y, t)
    if isinstance(p, Imm) and isinstance(n, Imm) and n.value == 32 and p.value in (0, 32):
        low.set_double(d, (base[0], value[0]) if p.value else (value[0], base[1]))
        return
    ones: Pair = (Imm(MASK), Imm(MASK))
    n = b.one("IMNMX", [b.mov(n), Imm(64), TRUE], {"type": "U32"}) if not isinstance(n, Imm) else Imm(min(n.value, 64))
    mask = shl64(b, shr64(b, ones, b.isub(Imm(64), n), False), p)
    kept = logic64(b, "AND", base, (b.inv(mask[0]), b.inv(mask[1])))
    low.set_double(d, logic64(b, "OR", kept, logic64(b, "AND", shl64(b, value, p), mask)))


@handles("szext")
def szext(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "u32 s32")
    d, x, n = low.need(i, 3)
    b = low.builder
    amount = low.word(n, "u32")
    if "wrap" in i.mods:
        amount = b.lop("AND", amount, Imm(31))
    rest = b.isub(Imm(32), amount)
    sign = t == "s32"
    out = b.shr(b.shl(low.word(x, t), rest), rest, sign)
    out = b.select(b.compare("EQ", amount, ZERO, False), ZERO, out)
    low.set_word(d, b.select(b.compare("GT", amount, Imm(31), False), low.word(x, t), out))


@handles("bmsk")
def bmsk(low: Lowering, i: ast.Instr) -> None:
    low.kind(i, "b32")
    d, p, n = low.need(i, 3)
    b = low.builder
    position, length = low.word(p, "u32"), low.word(n, "u32")
    if "wrap" in i.mods:
        position = b.lop("AND", position, Imm(31))
        length = b.lop("AND", length, Imm(31))
    low.set_word(d, b.shl(b.inv(b.shl(Imm(MASK), length)), position))


@handles("dp4a", "dp2a")
def dot(low: Lowering, i: ast.Instr) -> None:
    d, x, y, z = low.need(i, 4)
    if len(i.mods) < 2:
        raise CompileError(f"{i.op} needs two types", i.line)
    b = low.builder
    sa, sb = i.mods[-2][0] == "s", i.mods[-1][0] == "s"
    a, c = low.word(x, "u32"), low.word(y, "u32")
    total = low.word(z, "u32")
    for k in range(4 if i.op == "dp4a" else 2):
        if i.op == "dp4a":
            p = b.bfe(a, 8 * k, 8, sa)
            at = 8 * k
        else:
            p = b.bfe(a, 16 * k, 16, sa)
            at = 8 * k + (16 if "hi" in i.mods else 0)
        total = b.imad(p, b.bfe(c, at, 8, sb), total)
    low.set_word(d, total)


__all__ = ["extended_from"]

"""64-bit integers out of 32-bit instructions. A value is a pair (low word, high word)."""

from __future__ import annotations

from gpuvm.compiler.build import Builder, Pair, signed
from gpuvm.compiler.mir import TRUE, ZERO, Imm, PredConst, Src


def number64(p: Pair) -> int | None:
    """The value of a constant pair, unsigned."""
    if isinstance(p[0], Imm) and isinstance(p[1], Imm):
        return p[0].value | p[1].value << 32
    return None


def constant64(value: int) -> Pair:
    return Imm(value & 0xFFFFFFFF), Imm(value >> 32 & 0xFFFFFFFF)


def extended_from(b: Builder, p: Pair) -> tuple[Src, bool] | None:
    """If a pair is the extension of one word: the word, and whether it was sign-extended."""
    if p[1] == ZERO:
        return p[0], False
    inst = b.maker(p[1], "SHR")
    if inst and inst.srcs[0] == p[0] and inst.srcs[1] == Imm(31) and inst.mods.get("type") == "S32":
        return p[0], True
    return None


def sign_extend(b: Builder, s: Src) -> Pair:
    return s, b.shr(s, Imm(31), True)


def neg64(b: Builder, p: Pair) -> Pair:
    return b.add64((ZERO, ZERO), p, True)


def logic64(b: Builder, op: str, x: Pair, y: Pair) -> Pair:
    return b.lop(op, x[0], y[0]), b.lop(op, x[1], y[1])


def select64(b: Builder, p: Src, x: Pair, y: Pair) -> Pair:
    return b.select(p, x[0], y[0]), b.select(p, x[1], y[1])


def mul64(b: Builder, x: Pair, y: Pair) -> Pair:
    """Low 64 bits of a product."""
    if number64(x) is not None:
        x, y = y, x
    v = number64(y)
    if v is not None and v & (v - 1) == 0:
        return shl64(b, x, Imm(v.bit_length() - 1)) if v else (ZERO, ZERO)
    ex, ey = extended_from(b, x), extended_from(b, y)
    if ex and v is not None:
        # a constant fits the other operand's signedness?
        if ex[1] and -(1 << 31) <= _signed64(v) < 1 << 31:
            return b.mad64(ex[0], Imm(v & 0xFFFFFFFF), (ZERO, ZERO), True)
        if not ex[1] and v < 1 << 32:
            return b.mad64(ex[0], Imm(v), (ZERO, ZERO), False)
    elif ex and ey and ex[1] == ey[1]:
        return b.mad64(ex[0], ey[0], (ZERO, ZERO), ex[1])
    lo, hi = b.mad64(x[0], y[0], (ZERO, ZERO), False)
    hi = b.imad(x[1], y[0], hi)
    return lo, b.imad(x[0], y[1], hi)


def _signed64(v: int) -> int:
    return v - (1 << 64) if v >> 63 else v


def mulhi64(b: Builder, x: Pair, y: Pair, sign: bool) -> Pair:
    """High 64 bits of a product."""
    p0 = b.mad64(x[0], y[0], (ZERO, ZERO), False)
    p1 = b.mad64(x[0], y[1], (p0[1], ZERO), False)
    p2 = b.mad64(x[1], y[0], (p1[0], ZERO), False)
    top = b.mad64(x[1], y[1], (p1[1], ZERO), False)
    top = b.add64(top, (p2[1], ZERO))
    if sign:
        for u, v in ((x, y), (y, x)):
            mask = b.shr(u[1], Imm(31), True)
            top = b.add64(top, logic64(b, "AND", v, (mask, mask)), True)
    return top


def _sum_with_word(b: Builder, x: Pair) -> tuple[Pair, Src, bool] | None:
    """A sum of an extended word and something from outside the loop: (the latter, the word, its sign)."""
    inst = b.maker(x[0], "ADD64")
    if inst is None or inst.dsts[0] is not x[0] or inst.dsts[1] is not x[1] or inst.mods:
        return None
    u, v = (inst.srcs[0], inst.srcs[1]), (inst.srcs[2], inst.srcs[3])
    for rest, word in ((u, v), (v, u)):
        found = extended_from(b, word)
        if found and number64(word) is None and number64(rest) is None and b.outside(rest):
            return rest, found[0], found[1]
    return None


def shl64(b: Builder, x: Pair, n: Src) -> Pair:
    """x << n; 0 for n > 63. The chip's shifts clamp, so out-of-range parts vanish by themselves."""
    if isinstance(n, Imm):
        k = n.value
        if k > 63:
            return ZERO, ZERO
        if k >= 32:
            return ZERO, b.shl(x[0], Imm(k - 32))
        if k == 0:
            return x
        word = extended_from(b, x)
        if word and number64(x) is None and (k < 31 or not word[1]):
            return b.mad64(word[0], Imm(1 << k), (ZERO, ZERO), word[1])
        split = _sum_with_word(b, x)
        if split and k < 31:
            rest, part, sign = split
            return b.mad64(part, Imm(1 << k), shl64(b, rest, n), sign)
        return b.shl(x[0], n), b.lop("OR", b.shl(x[1], n), b.shr(x[0], Imm(32 - k)))
    over = b.shl(x[0], b.iadd(n, Imm(-32 & 0xFFFFFFFF)))
    carry = b.shr(x[0], b.isub(Imm(32), n))
    return b.shl(x[0], n), b.lop("OR", b.lop("OR", b.shl(x[1], n), carry), over)


def shr64(b: Builder, x: Pair, n: Src, sign: bool) -> Pair:
    """x >> n; 0 or copies of the sign for n > 63."""
    if isinstance(n, Imm):
        k = n.value
        if k == 0:
            return x
        if k >= 32:
            fill = b.shr(x[1], Imm(31), True) if sign else ZERO
            return b.shr(x[1], Imm(min(k - 32, 31)) if sign else Imm(min(k - 32, 32)), sign), fill
        return b.lop("OR", b.shr(x[0], n), b.shl(x[1], Imm(32 - k))), b.shr(x[1], n, sign)
    low = b.lop("OR", b.shr(x[0], n), b.shl(x[1], b.isub(Imm(32), n)))
    over = b.shr(x[1], b.iadd(n, Imm(-32 & 0xFFFFFFFF)), sign)
    if sign:
        return b.select(b.compare("LT", n, Imm(32), False), low, over), b.shr(x[1], n, True)
    return b.lop("OR", low, over), b.shr(x[1], n)


def compare64(b: Builder, cmp: str, x: Pair, y: Pair, sign: bool) -> Src:
    """Comparison of two-word integers."""
    u, v = number64(x), number64(y)
    if u is not None and v is not None and cmp in ("EQ", "NE"):
        return PredConst((u == v) == (cmp == "EQ"))
    if cmp == "EQ":
        return b.compare("EQ", x[1], y[1], False, "AND", b.compare("EQ", x[0], y[0], False))
    if cmp == "NE":
        return b.compare("NE", x[1], y[1], False, "OR", b.compare("NE", x[0], y[0], False))
    if v == 0 and sign and cmp in ("LT", "GE"):
        return b.compare(cmp, x[1], ZERO, True)
    below = b.compare(cmp, x[0], y[0], False)
    equal = b.compare("EQ", x[1], y[1], False, "AND", below)
    return b.compare(cmp.replace("LE", "LT").replace("GE", "GT"), x[1], y[1], sign, "OR", equal)


__all__ = ["TRUE", "signed"]

"""Integer, logic, shift, bit-field, move and predicate operations."""

from __future__ import annotations

from collections.abc import Callable

from gpuvm.isa.instruction import Const, Imm, Instruction, Pred, Reg
from gpuvm.jit.emit import FALSE, TRUE, C, Flags, O, PVal, S, Val, Wide, Z, signed
from gpuvm.jit.machine import Machine, Untranslatable, mod_bool, mod_text

Operation = Callable[[Machine, Instruction], None]
OPERATIONS: dict[str, Operation] = {}


def operation(*names: str) -> Callable[[Operation], Operation]:
    def add(function: Operation) -> Operation:
        for name in names:
            OPERATIONS[name] = function
        return function

    return add


def dst(ins: Instruction, n: int = 0) -> int:
    target = ins.dst[n]
    assert isinstance(target, Reg)
    return target.index


def dst_pred(ins: Instruction, n: int) -> int:
    if n >= len(ins.dst):
        return 7
    target = ins.dst[n]
    return target.index if isinstance(target, Pred) else 7


def negated(op: object) -> bool:
    return isinstance(op, Reg | Const | Imm) and op.neg


def result_flags(m: Machine, value: Val, carry: Callable[[], PVal] | None = None,
                 overflow: Callable[[], PVal] | None = None) -> Flags:  # fmt: skip
    """Condition code of an integer result; carry and overflow are clear unless given."""
    em = m.em
    zero = em.const(0)
    return Flags(
        [
            lambda: em.icmp("eq", value, zero),
            lambda: em.icmp("slt", value, zero),
            carry or (lambda: FALSE),
            overflow or (lambda: FALSE),
        ]
    )


def finish(m: Machine, ins: Instruction, value: Val) -> None:
    """Write the destination, and the condition code if the instruction says so."""
    if mod_bool(ins, "cc"):
        m.put_flags(result_flags(m, value))
    m.put(dst(ins), value)


def bit(m: Machine, p: PVal) -> Val:
    return m.em.from_pred(p, 1, 0)


def add_like(
    m: Machine, ins: Instruction, a: Val, aneg: bool, b: Val, bneg: bool, high: tuple[Val, Val] | None = None
) -> None:
    """d = ±a ± b (+ carry, + 1): IADD and the sum in IMAD, ISCADD. `high` names what a 64-bit recogniser may
    use."""
    em = m.em
    x, po, cc, sat = (mod_bool(ins, name) for name in ("x", "po", "cc", "sat"))
    carry_in = m.get_flags().get(C) if x else None
    before = m.flags
    if not x and not po and not cc and not sat:
        m.put(dst(ins), em.neg(em.ibin("add", a, b)) if aneg and bneg else
              em.ibin("sub", a, b) if bneg else em.ibin("sub", b, a) if aneg else em.ibin("add", a, b))  # fmt: skip
        return
    p, q = (em.inv(a) if aneg else a), (em.inv(b) if bneg else b)
    one = bit(m, carry_in) if carry_in is not None else em.const(int(aneg) + int(bneg) + int(po))
    if carry_in is None and not po and aneg != bneg:
        # Keep shapes: a subtraction of uniform or affine values stays one.
        total = em.ibin("sub", a, b) if bneg else em.ibin("sub", b, a)
        part = total
    else:
        part = em.ibin("add", p, q)
        total = em.ibin("add", part, one)

    def carry() -> PVal:
        if carry_in is None and not po and aneg != bneg:
            return em.icmp("uge", a, b) if bneg else em.icmp("uge", b, a)
        first = em.icmp("ult", part, p)
        if one.k == "u" and one.x == 0:
            return first
        return em.pbin("or", first, em.icmp("ult", total, part))

    def overflow() -> PVal:
        left, right = em.ibin("xor", p, total), em.ibin("xor", q, total)
        return em.icmp("slt", em.ibin("and", left, right), em.const(0))

    value = total
    if sat:
        over = overflow()
        limit = em.select(em.icmp("slt", p, em.const(0)), em.const(0x80000000), em.const(0x7FFFFFFF))
        value = em.select(over, limit, total)
    if x and not sat and before is not None and before.pair is not None and not po:
        value = recognise(m, before.pair, (p if aneg else a, aneg, b, bneg), total)
    if cc:
        m.put_flags(
            Flags(
                result_flags(m, value, carry, overflow)._make,
                pair=(a, aneg, b, bneg, total) if not x else None,
            )
        )
    m.put(dst(ins), value)


def recognise(m: Machine, low: tuple[object, ...], high: tuple[Val, bool, Val, bool], total: Val) -> Val:
    """The high half of a 64-bit sum whose low half set the carry, as half of a `Wide` if that can be kept
    whole."""
    a, aneg, b, bneg, low_total = low
    ha, haneg, hb, hbneg = high
    assert isinstance(a, Val)
    assert isinstance(b, Val)
    assert isinstance(low_total, Val)
    if aneg != haneg or bneg != hbneg or aneg:
        return total
    em = m.em
    left, right = m.join(a, ha), m.join(b, hb)
    if bneg:
        if right.terms or right.pair:
            return total
        right = Wide(base=em.sop("sub", 0, right.base, 64))
    whole = em.wide_add(left, right)
    if whole is None:
        if left.pair is None and left.lanes is None and right.pair is None:
            return total
        return total
    whole.lo = low_total
    if not whole.terms:
        top = em.sop("lshr", whole.base, 32, 64)
        whole.hi = em.const(top) if isinstance(top, int) else em.uniform(em.op(f"trunc i64 {top} to i32"))
    else:
        exact = total
        whole.hi = exact
    whole.lo.wide, whole.hi.wide = (whole, 0), (whole, 1)
    return whole.hi


@operation("IADD", "IADD32I")
def iadd(m: Machine, ins: Instruction) -> None:
    a, b = ins.src[0], ins.src[1]
    add_like(m, ins, m.word(a), negated(a), m.word(b), negated(b))


def product(m: Machine, ins: Instruction, a: Val, b: Val) -> Val:
    """Low or high word of a * b by the instruction's types."""
    em = m.em
    asign, bsign = mod_text(ins, "atype", "S32") == "S32", mod_text(ins, "btype", "S32") == "S32"
    if not mod_bool(ins, "hi"):
        got = em.ibin("mul", a, b)
        if got.k != "u" or not isinstance(got.x, int):
            got = _tagged(got, ("mul", a, b))
        return got
    if a.k == "u" and b.k == "u":
        x, y = em.scalar(a), em.scalar(b)
        if isinstance(x, int) and isinstance(y, int):
            return em.const((signed(x) if asign else x) * (signed(y) if bsign else y) >> 32)
        wide = [
            em.op(f"{'sext' if sign else 'zext'} i32 {em.s32(v)} to i64")
            for v, sign in ((x, asign), (y, bsign))
        ]
        top = em.op(f"lshr i64 {em.op(f'mul i64 {wide[0]}, {wide[1]}')}, 32")
        return _tagged(em.uniform(em.op(f"trunc i64 {top} to i32")), ("mulhi", a, b, asign, bsign))

    def make() -> list[str]:
        got: list[str] = []
        for p, q in zip(em.units(a), em.units(b), strict=True):
            left = em.op(f"{'sext' if asign else 'zext'} {em.vi} {p} to {em.vl}")
            right = em.op(f"{'sext' if bsign else 'zext'} {em.vi} {q} to {em.vl}")
            whole = em.op(f"mul {em.vl} {left}, {right}")
            whole = em.op(f"lshr {em.vl} {whole}, splat (i64 32)")
            got.append(em.op(f"trunc {em.vl} {whole} to {em.vi}"))
        return got

    return Val("v", thunk=make, tag=("mulhi", a, b, asign, bsign))


def _tagged(value: Val, tag: tuple[object, ...]) -> Val:
    """A copy of a value that remembers how it was made."""
    got = Val(
        value.k,
        x=value.x,
        fx=value.fx,
        u=value.u,
        f=value.f,
        raw=value.raw,
        base=value.base,
        co=value.co,
        tag=tag,
    )
    got.thunk = value.thunk
    return got


@operation("IMUL", "IMUL32I")
def imul(m: Machine, ins: Instruction) -> None:
    finish(m, ins, product(m, ins, m.word(ins.src[0]), m.word(ins.src[1])))


@operation("IMAD", "IMAD32I")
def imad(m: Machine, ins: Instruction) -> None:
    a, b, c = ins.src[:3]
    whole = product(m, ins, m.word(a), m.word(b))
    add_like(m, ins, whole, negated(a), m.word(c), negated(c))


@operation("ISCADD", "ISCADD32I")
def iscadd(m: Machine, ins: Instruction) -> None:
    a, b, count = ins.src[:3]
    assert isinstance(count, Imm)
    by = count.value & 31
    value = m.word(a)
    if by:
        value = _tagged(m.em.ibin("shl", value, m.em.const(by)), ("shl", value, by))
    add_like(m, ins, value, negated(a), m.word(b), negated(b))


@operation("ISAD")
def isad(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, b, c = (m.word(op) for op in ins.src[:3])
    kind = "s" if mod_text(ins, "type", "S32") == "S32" else "u"
    low, high = em.iminmax(kind + "min", a, b), em.iminmax(kind + "max", a, b)
    add_like(m, ins, em.ibin("sub", high, low), False, c, False)


@operation("IMNMX")
def imnmx(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, b = m.word(ins.src[0]), m.word(ins.src[1])
    which = ins.src[2]
    assert isinstance(which, Pred)
    least = m.get_pred(which)
    kind = "s" if mod_text(ins, "type", "S32") == "S32" else "u"
    part = mod_text(ins, "range")
    if part:
        # Pieces of a wider minimum or maximum, most significant word first: the condition code carries
        # "still equal" (zero) and "a is less" (carry) from one word to the next.
        wide_minmax(m, ins, a, b, least, kind, part)
        return
    if least is TRUE:
        value = em.iminmax(kind + "min", a, b)
    elif least is FALSE:
        value = em.iminmax(kind + "max", a, b)
    else:
        value = em.select(least, em.iminmax(kind + "min", a, b), em.iminmax(kind + "max", a, b))
    finish(m, ins, value)


def wide_minmax(m: Machine, ins: Instruction, a: Val, b: Val, least: PVal, kind: str, part: str) -> None:
    em = m.em
    less, same = em.icmp(kind + "lt", a, b), em.icmp("eq", a, b)
    if part != "XHI":
        before = m.get_flags()
        decided = em.pnot(before.get(Z))
        less = em.pselect(decided, before.get(C), em.icmp("ult", a, b))
        same = em.pbin("and", before.get(Z), same)
    first = em.pbin("xor", less, em.pnot(least))
    value = em.select(first, a, b)
    m.put_flags(
        Flags([lambda: same, lambda: em.icmp("slt", value, em.const(0)), lambda: less, lambda: FALSE])
    )
    m.put(dst(ins), value)


INTEGER_TESTS = {"F": "", "LT": "lt", "EQ": "eq", "LE": "le", "GT": "gt", "NE": "ne", "GE": "ge", "T": ""}


def compare(m: Machine, cmp: str, sign: bool, a: Val, b: Val) -> PVal:
    """An integer comparison; the unordered forms never hold, so they act as their ordered parts."""
    if cmp in ("NUM", "T"):
        return TRUE
    if cmp in ("NAN", "F"):
        return FALSE
    test = INTEGER_TESTS[cmp.removesuffix("U")]
    if test not in ("eq", "ne"):
        test = ("s" if sign else "u") + test
    return m.em.icmp(test, a, b)


def compare_wide(m: Machine, cmp: str, sign: bool, a: Val, b: Val) -> PVal:
    """The same with the borrow and zero of the lower words: a 64-bit comparison's high half."""
    em = m.em
    if cmp in ("NUM", "T", "NAN", "F"):
        return compare(m, cmp, sign, a, b)
    before = m.get_flags()
    same = em.icmp("eq", a, b)
    low_less, low_same = em.pnot(before.get(C)), before.get(Z)
    less = em.pbin("or", em.icmp("slt" if sign else "ult", a, b), em.pbin("and", same, low_less))
    equal = em.pbin("and", same, low_same)
    name = cmp.removesuffix("U")
    if name == "LT":
        return less
    if name == "EQ":
        return equal
    if name == "NE":
        return em.pnot(equal)
    if name == "GE":
        return em.pnot(less)
    if name == "LE":
        return em.pbin("or", less, equal)
    return em.pnot(em.pbin("or", less, equal))


def integer_test(m: Machine, ins: Instruction) -> PVal:
    a, b = m.iword(ins.src[0]), m.iword(ins.src[1])
    sign = mod_text(ins, "type", "S32") == "S32"
    cmp = mod_text(ins, "cmp", "F")
    return (compare_wide if mod_bool(ins, "x") else compare)(m, cmp, sign, a, b)


def join_pred(m: Machine, bop: str, p: PVal, q: PVal) -> PVal:
    return m.em.pbin({"AND": "and", "OR": "or", "XOR": "xor"}[bop], p, q)


def set_pred(m: Machine, ins: Instruction, test: PVal, last: int) -> None:
    """Write the two predicates of a comparison joined with source predicate `last`."""
    bop = mod_text(ins, "bop", "AND")
    source = ins.src[last] if last < len(ins.src) else Pred(7)
    assert isinstance(source, Pred)
    other = m.get_pred(source)
    first = join_pred(m, bop, test, other)
    second = None
    if dst_pred(ins, 1) != 7:
        second = join_pred(m, bop, m.em.pnot(test), other)
    m.put_pred(dst_pred(ins, 0), first)
    if second is not None:
        m.put_pred(dst_pred(ins, 1), second)


def set_reg(m: Machine, ins: Instruction, test: PVal, last: int) -> None:
    """Write the mask (or 1.0) of a comparison joined with source predicate `last`."""
    source = ins.src[last] if last < len(ins.src) else Pred(7)
    assert isinstance(source, Pred)
    whole = join_pred(m, mod_text(ins, "bop", "AND"), test, m.get_pred(source))
    finish(m, ins, m.em.from_pred(whole, 0x3F800000 if mod_bool(ins, "bf") else 0xFFFFFFFF, 0))


@operation("ISETP")
def isetp(m: Machine, ins: Instruction) -> None:
    set_pred(m, ins, integer_test(m, ins), 2)


@operation("ISET")
def iset(m: Machine, ins: Instruction) -> None:
    set_reg(m, ins, integer_test(m, ins), 2)


@operation("ICMP")
def icmp(m: Machine, ins: Instruction) -> None:
    a, b, c = (m.word(op) for op in ins.src[:3])
    sign = mod_text(ins, "type", "S32") == "S32"
    test = compare(m, mod_text(ins, "cmp", "F"), sign, c, m.em.const(0))
    finish(m, ins, m.em.select(test, a, b))


def shift(m: Machine, name: str, a: Val, count: Val) -> Val:
    """A shift with Fermi's clamping: 32 and more give 0 (or the sign)."""
    em = m.em
    if count.k == "u" and isinstance(count.x, int):
        by = count.x
        if by < 32:
            return em.ibin(name, a, count) if by else a
        return em.ibin("ashr", a, em.const(31)) if name == "ashr" else em.const(0)
    if name == "ashr":
        return em.ibin("ashr", a, em.iminmax("umin", count, em.const(31)))
    inside = em.icmp("ult", count, em.const(32))
    return em.select(inside, em.ibin(name, a, em.ibin("and", count, em.const(31))), em.const(0))


@operation("SHL", "SHR")
def shl_shr(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, count = m.word(ins.src[0]), m.word(ins.src[1])
    if mod_bool(ins, "w"):
        count = em.ibin("and", count, em.const(31))
    if ins.name == "SHL":
        name, tag = "shl", "shl"
    else:
        sign = mod_text(ins, "type", "S32") == "S32"
        name, tag = ("ashr", "sar") if sign else ("lshr", "shr")
        if mod_bool(ins, "brev"):
            a = em.icall("llvm.bitreverse", [a])
    value = shift(m, name, a, count)
    if (
        count.k == "u"
        and isinstance(count.x, int)
        and 0 < count.x < 32
        and not (value.k == "u" and isinstance(value.x, int))
    ):
        value = _tagged(value, (tag, a, count.x))
    if mod_bool(ins, "cc"):

        def overflow() -> PVal:
            moved = em.icmp("slt", em.ibin("xor", a, value), em.const(0))
            return em.pbin("and", em.icmp("eq", count, em.const(1)), moved)

        m.put_flags(result_flags(m, value, lambda: shifted_out(m, name, a, count), overflow))
    m.put(dst(ins), value)


def shifted_out(m: Machine, name: str, a: Val, count: Val) -> PVal:
    """The last bit that a shift moved out; clear for a count of 0 or above 31 (envytools, measured on
    Tesla)."""
    em = m.em
    less = em.ibin("sub", count, em.const(1))
    back = "lshr" if name == "shl" else name
    if name == "shl":
        moved = em.ibin(
            "and",
            em.ibin("lshr", a, em.ibin("and", em.ibin("sub", em.const(32), count), em.const(31))),
            em.const(1),
        )
    else:
        moved = em.ibin("and", shift(m, back, a, less), em.const(1))
    some = em.pbin("and", em.icmp("ne", count, em.const(0)), em.icmp("ult", count, em.const(32)))
    return em.pbin("and", some, em.icmp("ne", moved, em.const(0)))


@operation("LOP", "LOP32I")
def lop(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, b = m.iword(ins.src[0]), m.iword(ins.src[1])
    kind = mod_text(ins, "op", "AND")
    value = b if kind == "PASS_B" else em.ibin(kind.lower(), a, b)
    if mod_bool(ins, "x") and mod_bool(ins, "cc"):
        # A chained logic operation keeps "all words so far are zero".
        before = m.get_flags().get(Z)
        zero = em.pbin("and", before, em.icmp("eq", value, em.const(0)))
        m.put_flags(
            Flags([lambda: zero, lambda: em.icmp("slt", value, em.const(0)), lambda: FALSE, lambda: FALSE])
        )
        m.put(dst(ins), value)
        return
    finish(m, ins, value)


@operation("BFE")
def bfe(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, control = m.word(ins.src[0]), m.word(ins.src[1])
    sign = mod_text(ins, "type", "S32") == "S32"
    if mod_bool(ins, "brev"):
        a = em.icall("llvm.bitreverse", [a])
    byte = em.const(255)
    at = em.ibin("and", control, byte)
    size = em.ibin("and", em.ibin("lshr", control, em.const(8)), byte)
    # With the field moved to the top, one shift down cuts and extends it. Past bit 31 the sign (or 0)
    # repeats.
    size = em.iminmax("umin", size, em.const(32))
    moved = shift(m, "ashr" if sign else "lshr", a, at)
    room = em.ibin("sub", em.const(32), size)
    # Bits beyond 31 are the sign's copies (S32) or zeros (U32), so cutting after the move down is exact.
    value = shift(m, "ashr" if sign else "lshr", shift(m, "shl", moved, room), room)
    value = em.select(em.icmp("eq", size, em.const(0)), em.const(0), value)
    finish(m, ins, value)


@operation("BFI")
def bfi(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, control, c = (m.word(op) for op in ins.src[:3])
    byte = em.const(255)
    at = em.ibin("and", control, byte)
    size = em.ibin("and", em.ibin("lshr", control, em.const(8)), byte)
    ones = em.ibin("sub", shift(m, "shl", em.const(1), size), em.const(1))
    mask = shift(m, "shl", ones, at)
    value = em.ibin("or", em.ibin("and", shift(m, "shl", a, at), mask), em.ibin("and", c, em.inv(mask)))
    finish(m, ins, value)


@operation("FLO")
def flo(m: Machine, ins: Instruction) -> None:
    em = m.em
    a = m.iword(ins.src[0])
    if mod_text(ins, "type", "S32") == "S32":
        a = em.ibin("xor", a, em.ibin("ashr", a, em.const(31)))
    zeros = em.icall("llvm.ctlz", [a], "false")
    value = zeros if mod_bool(ins, "sh") else em.ibin("sub", em.const(31), zeros)
    if mod_bool(ins, "sh"):
        value = em.select(em.icmp("eq", a, em.const(0)), em.const(0xFFFFFFFF), value)
    finish(m, ins, value)


@operation("POPC")
def popc(m: Machine, ins: Instruction) -> None:
    em = m.em
    m.put(dst(ins), em.icall("llvm.ctpop", [em.ibin("and", m.iword(ins.src[0]), m.iword(ins.src[1]))]))


# For each mode and low two bits of the selector: which of the eight source bytes (a: 0-3, c: 4-7) make the
# result.
PRMT_MODES: dict[str, tuple[tuple[int, int, int, int], ...]] = {
    "F4E": ((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (3, 4, 5, 6)),
    "B4E": ((0, 7, 6, 5), (1, 0, 7, 6), (2, 1, 0, 7), (3, 2, 1, 0)),
    "RC8": ((0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2), (3, 3, 3, 3)),
    "ECL": ((0, 1, 2, 3), (1, 1, 2, 3), (2, 2, 2, 3), (3, 3, 3, 3)),
    "ECR": ((0, 0, 0, 0), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 2, 3)),
    "RC16": ((0, 1, 0, 1), (2, 3, 2, 3), (0, 1, 0, 1), (2, 3, 2, 3)),
}


@operation("PRMT")
def prmt(m: Machine, ins: Instruction) -> None:
    em = m.em
    a, selector, c = (m.word(op) for op in ins.src[:3])
    mode = mod_text(ins, "mode")
    if selector.k == "u" and isinstance(selector.x, int):
        if mode:
            picks = [(n, False) for n in PRMT_MODES[mode][selector.x & 3]]
        else:
            picks = [(selector.x >> 4 * n & 7, bool(selector.x >> 4 * n & 8)) for n in range(4)]
        m.put(dst(ins), permute(m, a, c, picks))
        return
    if mode:
        low = em.ibin("and", selector, em.const(3))
        value = permute(m, a, c, [(n, False) for n in PRMT_MODES[mode][0]])
        for which in (1, 2, 3):
            other = permute(m, a, c, [(n, False) for n in PRMT_MODES[mode][which]])
            value = em.select(em.icmp("eq", low, em.const(which)), other, value)
        m.put(dst(ins), value)
        return
    value = em.const(0)
    for n in range(4):
        nibble = em.ibin("and", em.ibin("lshr", selector, em.const(4 * n)), em.const(15))
        source = em.select(em.icmp("eq", em.ibin("and", nibble, em.const(4)), em.const(0)), a, c)
        count = em.ibin("shl", em.ibin("and", nibble, em.const(3)), em.const(3))
        byte = em.ibin("and", em.ibin("lshr", source, count), em.const(255))
        sign = em.ibin("sub", em.const(0), em.ibin("lshr", byte, em.const(7)))
        whole = em.select(em.icmp("uge", nibble, em.const(8)), em.ibin("and", sign, em.const(255)), byte)
        value = em.ibin("or", value, em.ibin("shl", whole, em.const(8 * n)))
    m.put(dst(ins), value)


def permute(m: Machine, a: Val, c: Val, picks: list[tuple[int, bool]]) -> Val:
    """Four bytes of (a, c), each plain or its sign repeated."""
    em = m.em
    value = em.const(0)
    for n, (pick, sign) in enumerate(picks):
        source = a if pick < 4 else c
        at = 8 * (pick & 3)
        if sign:
            part = em.ibin("ashr", em.ibin("shl", source, em.const(24 - at)), em.const(31))
            part = em.ibin("and", part, em.const(255 << 8 * n))
        else:
            move = 8 * n - at
            part = em.ibin("shl", source, em.const(move)) if move > 0 else source
            if move < 0:
                part = em.ibin("lshr", source, em.const(-move))
            part = em.ibin("and", part, em.const(255 << 8 * n))
        value = em.ibin("or", value, part)
    return value


def quad_lanes(m: Machine, ins: Instruction) -> None:
    """A MOV that writes only some lanes of each quad narrows the guard."""
    lanes = int(ins.mods.get("lanes", 15))
    if lanes != 15:
        every = [bool(lanes >> (n & 3) & 1) for n in range(m.shape.unit)]
        unit = "<" + ", ".join(f"i1 {'true' if on else 'false'}" for on in every) + ">"
        m.guard = m.em.pbin("and", m.guard, PVal("v", u=[unit] * m.shape.units))


@operation("MOV", "MOV32I")
def mov(m: Machine, ins: Instruction) -> None:
    quad_lanes(m, ins)
    m.put(dst(ins), m.word(ins.src[0]))


@operation("SEL")
def sel(m: Machine, ins: Instruction) -> None:
    which = ins.src[2]
    assert isinstance(which, Pred)
    m.put(dst(ins), m.em.select(m.get_pred(which), m.word(ins.src[0]), m.word(ins.src[1])))


@operation("PSETP", "PSET")
def psetp(m: Machine, ins: Instruction) -> None:
    p, q = ins.src[0], ins.src[1]
    assert isinstance(p, Pred)
    assert isinstance(q, Pred)
    test = join_pred(m, mod_text(ins, "bop0", "AND"), m.get_pred(p), m.get_pred(q))
    (set_pred if ins.name == "PSETP" else set_reg)(m, ins, test, 2)


def condition(m: Machine, test: str) -> PVal:
    """What a condition-code test says. Zero and sign both set mean unordered, as floats leave them."""
    em = m.em
    if test in ("T", "F"):
        return TRUE if test == "T" else FALSE
    flags = m.get_flags()
    z, s, c, o = (flags.get(n) for n in (Z, S, C, O))
    if test in ("OFF", "OFT"):
        return em.pnot(o) if test == "OFF" else o
    if test in ("SFF", "SFT"):
        return em.pnot(s) if test == "SFF" else s
    if test in ("LO", "HS"):
        return em.pnot(c) if test == "LO" else c
    if test in ("LS", "HI"):
        low = em.pbin("or", em.pnot(c), z)
        return low if test == "LS" else em.pnot(low)
    nan = em.pbin("and", z, s)
    less = em.pbin("and", em.pbin("xor", s, o), em.pnot(z))
    equal = em.pbin("and", z, em.pnot(s))
    greater = em.pnot(em.pbin("or", z, em.pbin("xor", s, o)))
    parts = {
        "LT": (less,), "EQ": (equal,), "LE": (less, equal), "GT": (greater,), "NE": (less, greater),
        "GE": (greater, equal), "NUM": (less, equal, greater), "NAN": (nan,), "LTU": (less, nan), "EQU": (equal, nan),
        "LEU": (less, equal, nan), "GTU": (greater, nan), "NEU": (less, greater, nan), "GEU": (greater, equal, nan),
    }.get(test)  # fmt: skip
    if parts is None:
        raise Untranslatable(f"condition {test}")
    got = parts[0]
    for part in parts[1:]:
        got = em.pbin("or", got, part)
    return got


@operation("CSETP", "CSET")
def csetp(m: Machine, ins: Instruction) -> None:
    test = condition(m, mod_text(ins, "test", "F"))
    (set_pred if ins.name == "CSETP" else set_reg)(m, ins, test, 0)


@operation("P2R")
def p2r(m: Machine, ins: Instruction) -> None:
    em = m.em
    # The mask has 16 bits; `hi` moves it and the state to the upper half.
    keep, mask = m.word(ins.src[0]), em.ibin("and", m.word(ins.src[1]), em.const(0xFFFF))
    high = 16 if mod_bool(ins, "hi") else 0
    if high:
        mask = em.ibin("shl", mask, em.const(high))
    flags = m.get_flags()
    sources = [(n, m.get_pred(Pred(n))) for n in range(7)] + [(12 + n, flags.get(n)) for n in range(4)]
    value = em.const(0)
    for at, p in sources:
        value = em.ibin("or", value, em.from_pred(p, 1 << at + high, 0))
    m.put(dst(ins), em.ibin("or", em.ibin("and", value, mask), em.ibin("and", keep, em.inv(mask))))


@operation("R2P")
def r2p(m: Machine, ins: Instruction) -> None:
    em = m.em
    value, mask = m.word(ins.src[0]), m.word(ins.src[1])
    if mod_bool(ins, "hi"):
        value = em.ibin("lshr", value, em.const(16))
    if mask.k != "u" or not isinstance(mask.x, int):
        takes = {
            n: em.icmp("ne", em.ibin("and", mask, em.const(1 << n)), em.const(0))
            for n in (*range(7), 12, 13, 14, 15)
        }
    else:
        takes = {n: TRUE if mask.x >> n & 1 else FALSE for n in (*range(7), 12, 13, 14, 15)}

    def has(n: int) -> PVal:
        return em.icmp("ne", em.ibin("and", value, em.const(1 << n)), em.const(0))

    for n in range(7):
        if takes[n] is not FALSE:
            m.put_pred(n, em.pselect(takes[n], has(n), m.get_pred(Pred(n))))
    if any(takes[12 + n] is not FALSE for n in range(4)):
        before = m.get_flags()
        new = [em.pselect(takes[12 + n], has(12 + n), before.get(n)) for n in range(4)]
        m.put_flags(Flags([lambda n=n: new[n] for n in range(4)]))  # type: ignore[misc]


@operation("LEPC")
def lepc(m: Machine, ins: Instruction) -> None:
    m.put(dst(ins), m.em.const(m.pc))


@operation("NOP", "CCTL", "CCTLL", "PMTRIG", "SAM", "RAM")
def nop(m: Machine, ins: Instruction) -> None:
    """Nothing: caches and performance monitors are not modelled."""

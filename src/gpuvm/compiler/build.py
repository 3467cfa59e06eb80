"""Building the machine form: emits instructions into the current block, folds constants and finds common
subexpressions as it goes. Works on words; two-word integers are pairs `(lo, hi)` of operands.
"""

from __future__ import annotations

from collections.abc import Callable

from gpuvm.compiler.graph import DominatorTree
from gpuvm.compiler.mir import (
    ABS,
    CB,
    FALSE,
    INV,
    NEG,
    TRUE,
    ZERO,
    Block,
    Dst,
    Fn,
    Group,
    Imm,
    Inst,
    Mod,
    NotP,
    PredConst,
    Src,
    Value,
    invert,
    operands,
    resolve,
)
from gpuvm.compiler.ops import OPS

MASK = 0xFFFFFFFF
Pair = tuple[Src, Src]

_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
    "T": lambda a, b: True,
    "F": lambda a, b: False,
}
SWAPPED = {
    "LT": "GT",
    "GT": "LT",
    "LE": "GE",
    "GE": "LE",
    "LTU": "GTU",
    "GTU": "LTU",
    "LEU": "GEU",
    "GEU": "LEU",
}


def signed(value: int) -> int:
    """32 raw bits as a signed number."""
    return value - (1 << 32) if value >> 31 else value


class Builder:
    """Emits into `block`. `tree` is the dominator tree over block numbers, for reusing earlier results."""

    def __init__(self, fn: Fn, tree: DominatorTree) -> None:
        self.fn = fn
        self.tree = tree
        self.block: Block = fn.blocks[0]
        self.line = 0
        self.known: dict[object, list[Inst]] = {}

    # ---- emission

    def emit(
        self,
        op: str,
        dsts: str | list[Dst],
        srcs: list[Src],
        mods: dict[str, Mod] | None = None,
        smods: list[int] | None = None,
    ) -> Inst:
        """Append an instruction. `dsts` may be given as kinds: "r", "p", "rr" (two words), "2" (one aligned
        pair), "4".
        """
        mods = mods or {}
        smods = smods or [0] * len(srcs)
        key: object = None
        if isinstance(dsts, str) and OPS[op].pure:
            key = (op, dsts, tuple(map(_key, srcs)), tuple(sorted(mods.items())), tuple(smods))
            for old in self.known.get(key, ()):
                assert old.block is not None
                if self.tree.dominates(old.block.id, self.block.id):
                    return old
        real = self._new(dsts) if isinstance(dsts, str) else dsts
        inst = Inst(op, real, srcs, mods, smods, self.line)
        inst.block = self.block
        for d in real:
            for v in d if isinstance(d, tuple) else (d,):
                v.inst = inst
                v.home = self.block
        self.block.insts.append(inst)
        if key is not None:
            self.known.setdefault(key, []).append(inst)
        return inst

    def _new(self, kinds: str) -> list[Dst]:
        out: list[Dst] = []
        for k in kinds:
            if k in "rp":
                out.append(self.fn.value(k))
            else:
                out.append(tuple(self.fn.value() for _ in range(int(k))))
        return out

    def one(
        self, op: str, srcs: list[Src], mods: dict[str, Mod] | None = None, smods: list[int] | None = None
    ) -> Value:
        """A one-word result."""
        dst = self.emit(op, "r", srcs, mods, smods).dsts[0]
        assert isinstance(dst, Value)
        return dst

    def pred(
        self, op: str, srcs: list[Src], mods: dict[str, Mod] | None = None, smods: list[int] | None = None
    ) -> Value:
        """A predicate result."""
        dst = self.emit(op, "p", srcs, mods, smods).dsts[0]
        assert isinstance(dst, Value)
        return dst

    def pair(
        self, op: str, srcs: list[Src], mods: dict[str, Mod] | None = None, smods: list[int] | None = None
    ) -> Pair:
        """A result in an aligned register pair."""
        dst = self.emit(op, "2", srcs, mods, smods).dsts[0]
        assert isinstance(dst, tuple)
        return dst[0], dst[1]

    @staticmethod
    def maker(s: Src, *ops: str) -> Inst | None:
        """The instruction that makes the word `s`, if it is one of `ops` and not guarded."""
        if isinstance(s, Value) and s.inst is not None and s.inst.op in ops and s.inst.guard is None:
            return s.inst
        return None

    # ---- words

    def mov(self, s: Src) -> Value:
        """`s` in a register."""
        if isinstance(s, Value):
            return s
        return self.one("MOV", [s])

    def peel(self, s: Src) -> tuple[Src, int]:
        """An integer operand without the negation in front of it."""
        inst = self.maker(s, "IADD")
        if inst and inst.srcs[0] == ZERO and inst.smods == [0, NEG] and not inst.mods:
            return inst.srcs[1], NEG
        return s, 0

    def iadd(self, a: Src, b: Src, na: bool = False, nb: bool = False) -> Src:
        """a + b, each possibly negated."""
        if isinstance(a, Imm) and na:
            a, na = Imm(-a.value & MASK), False
        if isinstance(b, Imm) and nb:
            b, nb = Imm(-b.value & MASK), False
        if isinstance(a, Imm) and isinstance(b, Imm):
            return Imm((a.value + b.value) & MASK)
        if isinstance(a, Imm):
            a, b, na, nb = b, a, nb, na
        if b == ZERO and not na:
            return a
        if a == b and na != nb:
            return ZERO
        for _ in range(2):
            inner, flip = self.peel(b)
            if flip and not (na and not nb):
                b, nb = inner, not nb
            a, b, na, nb = b, a, nb, na
        if isinstance(a, Imm):
            a, b, na, nb = b, a, nb, na
        if isinstance(b, Imm):
            inst = self.maker(a, "IADD")
            if inst and isinstance(inst.srcs[1], Imm) and not na and not inst.mods and inst.smods[0] == 0:
                return self.iadd(inst.srcs[0], Imm((inst.srcs[1].value + b.value) & MASK))
        if na and nb:
            return self.iadd(ZERO, self.iadd(a, b), nb=True)
        for x, y, nx, ny in ((a, b, na, nb), (b, a, nb, na)):
            inst = self.maker(x, "SHL")
            if (
                inst
                and isinstance(inst.srcs[1], Imm)
                and 0 < inst.srcs[1].value < 32
                and not isinstance(y, PredConst)
            ):
                return self.one(
                    "ISCADD", [inst.srcs[0], y, inst.srcs[1]], None, [NEG if nx else 0, NEG if ny else 0, 0]
                )
            inst = self.maker(x, "IMUL")
            plain = inst is not None and not inst.mods.get("hi") and not ny and not nx
            if inst and plain and not isinstance(inst.srcs[1], Imm) and not self.outside((x, x)):
                return self.imad(inst.srcs[0], inst.srcs[1], y)
        if isinstance(a, Imm):
            a, b, na, nb = b, a, nb, na
        if na and b == ZERO:
            a, b, na, nb = b, a, nb, na
        return self.one("IADD", [a, b], None, [NEG if na else 0, NEG if nb else 0])

    def isub(self, a: Src, b: Src) -> Src:
        return self.iadd(a, b, nb=True)

    def ineg(self, a: Src) -> Src:
        return self.iadd(ZERO, a, nb=True)

    def imul(self, a: Src, b: Src, hi: bool = False, sa: bool = False, sb: bool = False) -> Src:
        """Low or high word of a product; `sa`, `sb` say which operands are signed (matters for the high
        word).
        """
        if isinstance(a, Imm):
            a, b, sa, sb = b, a, sb, sa
        if isinstance(a, Imm) and isinstance(b, Imm):
            x = signed(a.value) if sa else a.value
            y = signed(b.value) if sb else b.value
            return Imm((x * y >> (32 if hi else 0)) & MASK)
        if isinstance(b, Imm):
            v = b.value
            if v == 0:
                return ZERO
            if not hi:
                if v == 1:
                    return a
                if v & (v - 1) == 0:
                    return self.shl(a, Imm(v.bit_length() - 1))
                if v == MASK:
                    return self.ineg(a)
            elif not sa and not sb and v & (v - 1) == 0:
                return ZERO if v == 1 else self.shr(a, Imm(33 - v.bit_length()))
        if not hi:
            # the low word does not depend on signedness
            return self.one("IMUL", [a, b])
        return self.one("IMUL", [a, b], {"hi": True, "atype": _sign(sa), "btype": _sign(sb)})

    def imad(
        self, a: Src, b: Src, c: Src, hi: bool = False, sa: bool = False, sb: bool = False, nc: bool = False
    ) -> Src:
        """a * b + c (low word), or high word of the product + c."""
        if isinstance(a, Imm):
            a, b, sa, sb = b, a, sb, sa
        if c == ZERO:
            return self.imul(a, b, hi, sa, sb)
        if isinstance(b, Imm) and not hi:
            v = b.value
            if isinstance(a, Imm) or v == 0 or v & (v - 1) == 0:
                return self.iadd(self.imul(a, b), c, nb=nc)
        if isinstance(a, Imm):
            return self.iadd(self.imul(a, b, hi, sa, sb), c, nb=nc)
        mods: dict[str, Mod] = {}
        if hi:
            mods = {"hi": True, "atype": _sign(sa), "btype": _sign(sb)}
        return self.one("IMAD", [a, b, c], mods, [0, 0, NEG if nc else 0])

    def shl(self, a: Src, n: Src) -> Src:
        """a << n, 0 for n > 31."""
        if isinstance(n, Imm):
            if n.value == 0:
                return a
            if n.value > 31:
                return ZERO
            if isinstance(a, Imm):
                return Imm(a.value << n.value & MASK)
            inst = self.maker(a, "SHL")
            if inst and isinstance(inst.srcs[1], Imm):
                return self.shl(inst.srcs[0], Imm(inst.srcs[1].value + n.value))
        if a == ZERO:
            return ZERO
        return self.one("SHL", [a, n])

    def shr(self, a: Src, n: Src, arithmetic: bool = False) -> Src:
        """a >> n; for n > 31 all bits are 0 or, arithmetic, copies of the sign."""
        if isinstance(n, Imm):
            if n.value == 0:
                return a
            if n.value > 31:
                if not arithmetic:
                    return ZERO
                n = Imm(31)
            if isinstance(a, Imm):
                return Imm((signed(a.value) if arithmetic else a.value) >> n.value & MASK)
        if a == ZERO:
            return ZERO
        return self.one("SHR", [a, n], {"type": "S32" if arithmetic else "U32"})

    def lop(self, op: str, a: Src, b: Src, ia: bool = False, ib: bool = False) -> Src:
        """AND, OR or XOR, operands possibly inverted."""
        for _ in range(2):
            if isinstance(a, Imm) and ia:
                a, ia = Imm(~a.value & MASK), False
            inst = self.maker(a, "LOP")
            if inst and inst.mods["op"] == "PASS_B":
                a, ia = inst.srcs[1], not ia
            a, b, ia, ib = b, a, ib, ia
        if isinstance(a, Imm):
            a, b, ia, ib = b, a, ib, ia
        if isinstance(b, Imm) and ib:
            b, ib = Imm(~b.value & MASK), False
        if isinstance(a, Imm) and isinstance(b, Imm):
            x = ~a.value & MASK if ia else a.value
            y = b.value
            return Imm({"AND": x & y, "OR": x | y, "XOR": x ^ y}[op])
        if isinstance(b, Imm):
            v = b.value
            if v == 0:
                return ZERO if op == "AND" else self.inv(a) if ia else a
            if v == MASK:
                if op == "OR":
                    return Imm(MASK)
                return (self.inv(a) if ia else a) if op == "AND" else (a if ia else self.inv(a))
            inst = self.maker(a, "LOP")
            if inst and not ia and inst.mods["op"] == op and isinstance(inst.srcs[1], Imm):
                w = inst.srcs[1].value
                v = {"AND": v & w, "OR": v | w, "XOR": v ^ w}[op]
                return self.lop(op, inst.srcs[0], Imm(v), bool(inst.smods[0] & INV))
        if a == b and ia == ib:
            return ZERO if op == "XOR" else (self.inv(a) if ia else a)
        return self.one("LOP", [a, b], {"op": op}, [INV if ia else 0, INV if ib else 0])

    def inv(self, a: Src) -> Src:
        if isinstance(a, Imm):
            return Imm(~a.value & MASK)
        inst = self.maker(a, "LOP")
        if inst and inst.mods["op"] == "PASS_B":
            return inst.srcs[1]
        return self.one("LOP", [ZERO, a], {"op": "PASS_B"}, [0, INV])

    def bfe(self, a: Src, position: int, length: int, sign: bool = False) -> Src:
        """Bits position .. position + length - 1, extended."""
        if length >= 32 and position == 0:
            return a
        if isinstance(a, Imm):
            v = a.value >> position & (1 << length) - 1
            if sign and v >> (length - 1):
                v |= MASK << length & MASK
            return Imm(v)
        if not sign and position == 0:
            return self.lop("AND", a, Imm((1 << length) - 1))
        if position + length >= 32:
            return self.shr(a, Imm(position), sign)
        return self.one("BFE", [a, Imm(position | length << 8)], {"type": "S32" if sign else "U32"})

    def select(self, p: Src, a: Src, b: Src) -> Src:
        """p ? a : b"""
        if isinstance(p, PredConst):
            return a if p.value else b
        if a == b:
            return a
        return self.one("SEL", [a, b, p])

    # ---- predicates

    def compare(self, cmp: str, a: Src, b: Src, sign: bool, bop: str = "AND", with_: Src = TRUE) -> Src:
        """Integer comparison combined with a predicate."""
        if isinstance(a, Imm) and isinstance(b, Imm):
            x, y = (signed(a.value), signed(b.value)) if sign else (a.value, b.value)
            return self.plogic(bop, PredConst(_COMPARE[cmp](x, y)), with_)
        if not sign and b == ZERO and cmp in ("GT", "LE"):
            cmp = {"GT": "NE", "LE": "EQ"}[cmp]
        if not sign and b == ZERO and cmp in ("LT", "GE"):
            return self.plogic(bop, PredConst(cmp == "GE"), with_)
        if cmp in ("NE", "EQ") and b == ZERO and bop == "AND" and with_ == TRUE:
            inst = self.maker(a, "SEL")
            if inst and isinstance(inst.srcs[0], Imm) and isinstance(inst.srcs[1], Imm):
                yes, no = inst.srcs[0].value != 0, inst.srcs[1].value != 0
                if yes != no:
                    p = inst.srcs[2]
                    return p if yes == (cmp == "NE") else invert(p)
        mods: dict[str, Mod] = {"cmp": cmp, "type": "S32" if sign else "U32", "bop": bop}
        return self.pred("ISETP", [a, b, with_], mods)

    def plogic(self, op: str, a: Src, b: Src) -> Src:
        """Predicate logic."""
        if isinstance(b, PredConst):
            a, b = b, a
        if isinstance(a, PredConst):
            if op == "AND":
                return b if a.value else FALSE
            if op == "OR":
                return TRUE if a.value else b
            return invert(b) if a.value else b
        if a == b:
            return FALSE if op == "XOR" else a
        if a == invert(b):
            return {"AND": FALSE, "OR": TRUE, "XOR": TRUE}[op]
        return self.pred("PSETP", [a, b, TRUE], {"bop0": op})

    def from_pred(self, p: Src, yes: int = 1) -> Src:
        """A word: `yes` where p, else 0."""
        return self.select(p, Imm(yes), ZERO)

    # ---- two words

    def add64(self, a: Pair, b: Pair, nb: bool = False) -> Pair:
        """a + b or a - b on 64 bits; finds mad.wide."""
        if isinstance(b[0], Imm) and isinstance(b[1], Imm):
            v = b[0].value | b[1].value << 32
            if nb:
                v = -v & (1 << 64) - 1
                nb = False
                b = (Imm(v & MASK), Imm(v >> 32))
            if v == 0:
                return a
            if isinstance(a[0], Imm) and isinstance(a[1], Imm):
                v = v + (a[0].value | a[1].value << 32) & (1 << 64) - 1
                return Imm(v & MASK), Imm(v >> 32)
            base, offset = self.split_address(a)
            if offset:
                v = v + offset & (1 << 64) - 1
                return self.add64(base, (Imm(v & MASK), Imm(v >> 32)))
        elif isinstance(a[0], Imm) and isinstance(a[1], Imm) and not nb:
            return self.add64(b, a)
        if b[0] == ZERO:
            return a[0], self.iadd(a[1], b[1], nb=nb)
        if a[0] == ZERO and not nb:
            return b[0], self.iadd(a[1], b[1])
        if not nb:
            for x, y in ((a, b), (b, a)):
                inst = self.maker(x[0], "MAD64")
                if inst and inst.dsts[0] is x[0] and inst.dsts[1] is x[1] and inst.srcs[2:] != [ZERO, ZERO]:
                    # i * s + c + y: what does not change in the loop is added up in front of it
                    addend = (inst.srcs[2], inst.srcs[3])
                    if self.outside(addend) and self.outside(y):
                        together = self.add64(addend, y)
                        sign = inst.mods.get("atype") == "S32"
                        return self.mad64(inst.srcs[0], inst.srcs[1], together, sign)
                inst = self.wide(x)
                # a product from outside the loop is there already: adding it is all that is left to do
                if inst is not None and not (self.outside(x) and not self.outside(y)):
                    return self.mad64(inst.srcs[0], inst.srcs[1], y, inst.mods.get("atype") == "S32")
        inst = self.emit("ADD64", "rr", [a[0], a[1], b[0], b[1]], {"sub": True} if nb else None)
        return _two(inst)

    def outside(self, p: Pair) -> bool:
        """Whether a pair does not change in the innermost loop around here."""
        return self.block.depth > 0 and all(self._fixed(s, 4) for s in p)

    def _fixed(self, s: Src, depth: int) -> bool:
        if not isinstance(s, Value):
            return True
        if s.home is None:
            return False
        if s.home.depth < self.block.depth:
            return True
        inst = s.inst
        return (
            depth > 0
            and inst is not None
            and OPS[inst.op].pure
            and all(self._fixed(v, depth - 1) for v in operands(inst))
        )

    def wide(self, p: Pair) -> Inst | None:
        """The instruction that makes both words of `p` as one 32 x 32 -> 64 bit product."""
        inst = self.maker(p[0], "MAD64")
        if (
            inst
            and inst.dsts[0] is p[0]
            and inst.dsts[1] is p[1]
            and inst.srcs[2] == ZERO
            and inst.srcs[3] == ZERO
        ):
            return inst
        return None

    def split_address(self, a: Pair) -> tuple[Pair, int]:
        """A 64-bit sum as base and constant (signed)."""
        inst = self.maker(a[0], "ADD64")
        if inst and inst.dsts[0] is a[0] and inst.dsts[1] is a[1] and not inst.mods:
            lo, hi = inst.srcs[2], inst.srcs[3]
            if isinstance(lo, Imm) and isinstance(hi, Imm):
                v = lo.value | hi.value << 32
                return (inst.srcs[0], inst.srcs[1]), v - (1 << 64) if v >> 63 else v
        return a, 0

    def mad64(self, a: Src, b: Src, c: Pair, sign: bool) -> Pair:
        """a * b + c with a 64-bit product."""
        if isinstance(a, Imm):
            a, b = b, a
        if isinstance(a, Imm) and isinstance(b, Imm):
            v = (signed(a.value) * signed(b.value) if sign else a.value * b.value) & (1 << 64) - 1
            return self.add64((Imm(v & MASK), Imm(v >> 32)), c)
        t = _sign(sign)
        return _two(self.emit("MAD64", "rr", [a, b, c[0], c[1]], {"atype": t, "btype": t}))

    def low(self, s: Src) -> Src:
        """The low word of a 64-bit result, computed without its high word where that is possible."""
        inst = self.maker(s, "ADD64", "MAD64")
        if inst is None or inst.dsts[0] is not s:
            return s
        if inst.op == "ADD64":
            return self.iadd(self.low(inst.srcs[0]), self.low(inst.srcs[2]), nb=bool(inst.mods.get("sub")))
        return self.imad(inst.srcs[0], inst.srcs[1], self.low(inst.srcs[2]))

    # ---- floats

    def float_operand(self, s: Src) -> tuple[Src, int]:
        """A float word without FNEG and FABS in front of it, and the modifiers they stand for."""
        neg = 0
        absolute = 0
        while True:
            inst = self.maker(s, "LOP")
            if inst is None or not inst.mods.get("float") or not isinstance(inst.srcs[1], Imm):
                break
            if inst.mods["op"] == "XOR":
                if not absolute:
                    neg ^= NEG
            else:
                absolute = ABS
            s = inst.srcs[0]
        if isinstance(s, Imm) and (neg or absolute):
            v = s.value
            if absolute:
                v &= 0x7FFFFFFF
            return Imm(v ^ (0x80000000 if neg else 0)), 0
        return s, neg | absolute

    def double_operand(self, p: Pair) -> tuple[Src, int]:
        """A double as a group, without negation and absolute value in front of it."""
        hi, mods = self.float_operand(p[1])
        if isinstance(p[0], Imm) and isinstance(hi, Imm):
            return (p[0], hi), mods
        return (p[0], hi), mods

    def fneg(self, s: Src) -> Src:
        if isinstance(s, Imm):
            return Imm(s.value ^ 0x80000000)
        return self.one("LOP", [s, Imm(0x80000000)], {"op": "XOR", "float": True})

    def fabs(self, s: Src) -> Src:
        if isinstance(s, Imm):
            return Imm(s.value & 0x7FFFFFFF)
        return self.one("LOP", [s, Imm(0x7FFFFFFF)], {"op": "AND", "float": True})


def _key(s: Src) -> object:
    if isinstance(s, Value):
        return s.id
    if isinstance(s, NotP):
        return ("!", s.value.id)
    if isinstance(s, tuple):
        return tuple(_key(x) for x in s)
    return s


def _sign(is_signed: bool) -> str:
    return "S32" if is_signed else "U32"


def _two(inst: Inst) -> Pair:
    lo, hi = inst.dsts
    assert isinstance(lo, Value)
    assert isinstance(hi, Value)
    return lo, hi


__all__ = ["CB", "MASK", "SWAPPED", "Builder", "Group", "Pair", "resolve", "signed"]

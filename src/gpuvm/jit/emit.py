"""LLVM IR text for one warp group: values by shape (uniform, affine, vector) and the operations that keep the
shape.

A register's value is a `Val`: the same in all lanes (one scalar), affine in the lane (a scalar base plus
scalar
coefficients of fixed lane patterns) or a vector (one native vector per unit). `Wide` is a 64-bit pair that
was
recognised as one number. Shapes are what makes an address a scalar and a row of lanes one vector load.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Scalar = int | str
"""A 32- or 64-bit scalar: a constant (unsigned) or the name of an SSA value."""
M32 = 0xFFFFFFFF
FIRST_LOCATION = 1000
"""Metadata number of the location of code offset 0."""
M64 = (1 << 64) - 1


def signed(value: int, bits: int = 32) -> int:
    """The two's complement reading of `bits` bits."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class Val:
    """A 32-bit value in every lane.

    `k` is "u" (uniform: `x`, or float `fx`), "a" (affine: `base` + sum of `co` coefficient * pattern) or "v"
    (units
    `u` as integers, or `f` as floats). `raw` says that a float result may hold a NaN that is not canonical
    yet.
    `tag` names how it was made, for recognising 64-bit pairs; `wide` is the pair it is half of.
    """

    __slots__ = ("align", "base", "co", "f", "fx", "k", "raw", "tag", "thunk", "u", "wide", "x")

    def __init__(
        self,
        k: str,
        *,
        x: Scalar | None = None,
        fx: str | None = None,
        u: list[str] | None = None,
        f: list[str] | None = None,
        raw: bool = False,
        base: Scalar = 0,
        co: tuple[tuple[int, Scalar], ...] = (),
        tag: tuple[object, ...] | None = None,
        thunk: Callable[[], list[str]] | None = None,
    ) -> None:
        self.k = k
        self.x = x
        self.fx = fx
        self.u = u
        self.f = f
        self.raw = raw
        self.base = base
        self.co = co
        self.tag = tag
        self.thunk = thunk
        self.wide: tuple[Wide, int] | None = None
        self.align = 0
        """Of a thread index: its base is a multiple of this, its lane part below it, and both are small."""


@dataclass(eq=False)
class Wide:
    """A 64-bit value: uniform `base` plus terms (32-bit index, signed?, constant factor), or, with `pair`,
    two words."""

    base: Scalar = 0
    terms: tuple[tuple[Val, bool, int], ...] = ()
    pair: tuple[Val, Val] | None = None
    lanes: list[str] | None = None
    lo: Val | None = None
    hi: Val | None = None


class PVal:
    """A predicate: uniform (`k` "u", `x` an i1) or per lane (`k` "v": units of i1 in `u`, the whole as
    `bits`).

    `regular` says that it comes from thread indices and uniform values alone, as bounds checks do.
    """

    __slots__ = ("bits", "k", "regular", "u", "x")

    def __init__(
        self, k: str, *, x: bool | str | None = None, u: list[str] | None = None, bits: str | None = None,
        regular: bool = False,
    ) -> None:  # fmt: skip
        self.k = k
        self.regular = regular or k == "u"
        self.x = x
        self.u = u
        self.bits = bits


TRUE = PVal("u", x=True)
FALSE = PVal("u", x=False)


class Flags:
    """The condition code: zero, sign, carry, overflow, each a predicate made when asked for."""

    __slots__ = ("_got", "_make", "pair")

    def __init__(self, make: Sequence[Callable[[], PVal]], pair: tuple[object, ...] | None = None) -> None:
        self._make = list(make)
        self._got: list[PVal | None] = [None, None, None, None]
        self.pair = pair
        """What the carry belongs to, e.g. ("add", a, b): for recognising 64-bit pairs."""

    def get(self, index: int, cache: bool = True) -> PVal:
        got = self._got[index]
        if got is None:
            got = self._make[index]()
            if cache:
                self._got[index] = got
        return got


Z, S, C, O = 0, 1, 2, 3  # noqa: E741


class Shape:
    """Lanes of a warp group: how many, in units of which width, and the lane patterns of the thread axes."""

    def __init__(self, lanes: int, unit: int, block: tuple[int, int, int]) -> None:
        self.lanes = lanes
        self.unit = unit
        self.units = lanes // unit
        bx, by, bz = block
        self.block = block
        self.threads = bx * by * bz
        self.groups = -(-self.threads // lanes)
        self.full = self.threads % lanes == 0
        every = range(lanes)
        x_fits = bx % lanes == 0 or lanes % bx == 0
        rows = max(lanes // bx, 1)
        y_fits = x_fits and (by % rows == 0 or rows % by == 0)
        planes = max(rows // by, 1)
        z_fits = y_fits and (bz % planes == 0 or planes % bz == 0)
        self.regular = x_fits and y_fits and z_fits
        # Axis 0, 1, 2: tid.x, tid.y, tid.z inside the group, where they are static patterns.
        self.patterns: list[list[int]] = [
            [lane % bx for lane in every],
            [lane // bx % by for lane in every],
            [lane // (bx * by) % bz for lane in every],
        ]

    def slice(self, values: Sequence[int], unit: int) -> Sequence[int]:
        return values[unit * self.unit : (unit + 1) * self.unit]


class Emitter:
    """Appends IR text and builds values. Knows shapes and arithmetic, not machine code."""

    def __init__(self, shape: Shape, avx512: bool) -> None:
        self.shape = shape
        self.avx512 = avx512
        self.n = 0
        self.out: list[str] = []
        self.label = "entry"
        self.cold = 0
        self.declared: set[str] = set()
        self.locations: dict[int, int] = {}
        """Code offset -> number of its metadata."""
        self.dbg = ""
        unit = shape.unit
        self.U = unit
        self.vi, self.vf, self.vb = f"<{unit} x i32>", f"<{unit} x float>", f"<{unit} x i1>"
        self.vl, self.vd = f"<{unit} x i64>", f"<{unit} x double>"
        self.vh, self.vc = f"<{unit} x i16>", f"<{unit} x i8>"
        self.mi = f"i{shape.lanes}"
        """Integer type of a lane mask."""

    # Text

    def op(self, text: str) -> str:
        self.n += 1
        name = f"%v{self.n}"
        self.out.append(f"  {name} = {text}{self.dbg}")
        return name

    def do(self, text: str) -> None:
        self.out.append(f"  {text}{self.dbg}")

    def new_label(self, stem: str) -> str:
        self.n += 1
        return f"{stem}{self.n}"

    def place(self, label: str) -> None:
        self.out.append(f"{label}:")
        self.label = label

    def locate(self, pc: int | None) -> None:
        """Note a code offset in the line table for all that follows (every LLVM instruction: loads get
        folded)."""
        if pc is None:
            self.dbg = ""
        else:
            number = self.locations.setdefault(pc, FIRST_LOCATION + len(self.locations))
            self.dbg = f", !dbg !{number}"

    def declare(self, text: str) -> None:
        self.declared.add(text)

    def call(self, ret: str, name: str, args: Sequence[tuple[str, str]]) -> str:
        """Call intrinsic or helper `name`; declares it."""
        types = ", ".join(t for t, _ in args)
        self.declare(f"declare {ret} @{name}({types})")
        text = f"call {ret} @{name}({', '.join(f'{t} {v}' for t, v in args)})"
        if ret == "void":
            self.do(text)
            return ""
        return self.op(text)

    @staticmethod
    def s32(x: Scalar) -> str:
        return x if isinstance(x, str) else str(signed(x))

    @staticmethod
    def s64(x: Scalar) -> str:
        return x if isinstance(x, str) else str(signed(x, 64))

    def literal(self, values: Sequence[int], kind: str = "i32") -> str:
        return "<" + ", ".join(f"{kind} {v}" for v in values) + ">"

    def splat(self, x: Scalar, kind: str = "i32") -> str:
        """A unit with `x` in every lane."""
        if isinstance(x, int):
            return f"splat (i32 {signed(x)})" if kind == "i32" else f"splat (i64 {signed(x, 64)})"
        vec = f"<{self.U} x {kind}>"
        one = self.op(f"insertelement {vec} poison, {kind} {x}, i64 0")
        return self.op(f"shufflevector {vec} {one}, {vec} poison, <{self.U} x i32> zeroinitializer")

    # Values

    def const(self, x: int) -> Val:
        return Val("u", x=x & M32)

    def uniform(self, x: Scalar) -> Val:
        return Val("u", x=x)

    def vector(self, u: list[str], tag: tuple[object, ...] | None = None) -> Val:
        return Val("v", u=u, tag=tag)

    def floats(self, f: list[str], raw: bool = True) -> Val:
        return Val("v", f=f, raw=raw)

    def funiform(self, fx: str, raw: bool = True) -> Val:
        return Val("u", fx=fx, raw=raw)

    def scalar(self, v: Val) -> Scalar:
        """The i32 of a uniform value."""
        if v.x is None:
            assert v.fx is not None
            x = v.fx
            if v.raw:
                nan = self.op(f"fcmp uno float {x}, {x}")
                bits = self.op(f"bitcast float {x} to i32")
                got: str = self.op(f"select i1 {nan}, i32 2147483647, i32 {bits}")
            else:
                got = self.op(f"bitcast float {x} to i32")
            if self.cold:
                return got
            v.x = got
        return v.x

    def fscalar(self, v: Val) -> str:
        """The float of a uniform value."""
        if v.fx is None:
            assert v.x is not None
            if isinstance(v.x, int):
                return f"bitcast (i32 {signed(v.x)} to float)"
            got = self.op(f"bitcast i32 {v.x} to float")
            if self.cold:
                return got
            v.fx = got
        return v.fx

    def units(self, v: Val) -> list[str]:
        """The integer units of any value."""
        if v.u is not None:
            return v.u
        if v.k == "u":
            one = self.splat(self.scalar(v))
            got = [one] * self.shape.units
        elif v.k == "a":
            got = self.affine_units(v)
        elif v.thunk is not None:
            got = v.thunk()
        else:
            assert v.f is not None
            got = []
            for x in v.f:
                bits = self.op(f"bitcast {self.vf} {x} to {self.vi}")
                if v.raw:
                    nan = self.op(f"fcmp uno {self.vf} {x}, {x}")
                    bits = self.op(
                        f"select {self.vb} {nan}, {self.vi} splat (i32 2147483647), {self.vi} {bits}"
                    )
                got.append(bits)
        if not self.cold:
            v.u = got
        return got

    def funits(self, v: Val) -> list[str]:
        """The float units of any value."""
        if v.f is not None:
            return v.f
        if v.k == "u":
            if isinstance(v.x, int):
                word = f"bitcast ({self.vi} splat (i32 {signed(v.x)}) to {self.vf})"
                got = [word] * self.shape.units
            else:
                x = self.fscalar(v)
                one = self.op(f"insertelement {self.vf} poison, float {x}, i64 0")
                whole = self.op(
                    f"shufflevector {self.vf} {one}, {self.vf} poison, <{self.U} x i32> zeroinitializer"
                )
                got = [whole] * self.shape.units
        else:
            got = [self.op(f"bitcast {self.vi} {x} to {self.vf}") for x in self.units(v)]
        if not self.cold:
            v.f = got
        return got

    def affine_units(self, v: Val) -> list[str]:
        """Units of an affine value: splat(base) + coefficient * pattern."""
        got: list[str] = []
        base = self.splat(v.base)
        scaled = {axis: co if isinstance(co, int) else self.splat(co) for axis, co in v.co}
        for unit in range(self.shape.units):
            fixed = [0] * self.U
            moving: list[str] = []
            for axis, co in scaled.items():
                pattern = self.shape.slice(self.shape.patterns[axis], unit)
                if isinstance(co, int):
                    fixed = [a + co * p for a, p in zip(fixed, pattern, strict=True)]
                elif any(pattern):
                    if all(p == 1 for p in pattern):
                        moving.append(co)
                    else:
                        moving.append(self.op(f"mul {self.vi} {co}, {self.literal(pattern)}"))
            whole = base
            if any(value & M32 for value in fixed):
                literal = self.literal([signed(value) for value in fixed])
                whole = literal if v.base == 0 else self.op(f"add {self.vi} {whole}, {literal}")
            for part in moving:
                whole = self.op(f"add {self.vi} {whole}, {part}")
            got.append(whole)
        return got

    # 32-bit integer arithmetic that keeps shapes

    def sop(self, name: str, a: Scalar, b: Scalar, bits: int = 32) -> Scalar:
        """A scalar operation with constant folding for add, sub, mul, and, or, xor, shl."""
        mask = (1 << bits) - 1
        if isinstance(a, int) and isinstance(b, int):
            folded = {
                "add": a + b, "sub": a - b, "mul": a * b, "and": a & b, "or": a | b, "xor": a ^ b,
            }.get(name)  # fmt: skip
            if folded is not None:
                return folded & mask
            if name == "shl" and b < bits:
                return (a << b) & mask
            if name == "lshr" and b < bits:
                return (a & mask) >> b
            if name == "ashr" and b < bits:
                return (signed(a, bits) >> b) & mask
        if b == 0 and name in ("add", "sub", "or", "xor", "shl", "lshr", "ashr"):
            return a
        if a == 0 and name in ("add", "or", "xor"):
            return b
        if name == "mul" and (a == 1 or b == 1):
            return b if a == 1 else a
        if name in ("mul", "and") and (a == 0 or b == 0):
            return 0
        text = self.s32 if bits == 32 else self.s64
        return self.op(f"{name} i{bits} {text(a)}, {text(b)}")

    def ibin(self, name: str, a: Val, b: Val) -> Val:
        """A 32-bit operation without side conditions (shift counts must already be below 32)."""
        if a.k == "u" and b.k == "u":
            return Val("u", x=self.sop(name, self.scalar(a), self.scalar(b)))
        if a.k != "v" and b.k != "v":
            got = self._affine(name, a, b)
            if got is not None:
                return got
        if name in ("add", "or", "xor", "shl", "lshr", "ashr", "sub") and b.k == "u" and b.x == 0:
            return a
        return self.vector(
            [self.op(f"{name} {self.vi} {p}, {q}") for p, q in zip(self.units(a), self.units(b), strict=True)]
        )

    def _parts(self, v: Val) -> tuple[Scalar, dict[int, Scalar]]:
        return (self.scalar(v), {}) if v.k == "u" else (v.base, dict(v.co))

    def affine(self, base: Scalar, co: dict[int, Scalar]) -> Val:
        kept = tuple(sorted((axis, c) for axis, c in co.items() if c != 0))
        return Val("a", base=base, co=kept) if kept else Val("u", x=base)

    def _affine(self, name: str, a: Val, b: Val) -> Val | None:
        if name in ("add", "sub"):
            (p, pc), (q, qc) = self._parts(a), self._parts(b)
            co = {axis: self.sop(name, pc.get(axis, 0), qc.get(axis, 0)) for axis in {*pc, *qc}}
            return self.affine(self.sop(name, p, q), co)
        if name == "mul" and (a.k == "u" or b.k == "u"):
            if a.k == "u":
                a, b = b, a
            by = self.scalar(b)
            base, co = self._parts(a)
            return self.affine(self.sop("mul", base, by), {x: self.sop("mul", c, by) for x, c in co.items()})
        if name in ("and", "lshr", "ashr") and a.k == "a" and b.k == "u" and isinstance(b.x, int):
            return self._cut(name, a, b.x)
        if name == "shl" and b.k == "u":
            by = self.scalar(b)
            base, co = self._parts(a)
            return self.affine(self.sop("shl", base, by), {x: self.sop("shl", c, by) for x, c in co.items()})
        return None

    def static(self, base: Scalar, values: list[int]) -> Val:
        """A base plus lane values that are known now: a lane pattern of their own."""
        values = [signed(value) for value in values]
        if not any(values):
            return Val("u", x=base)
        patterns = self.shape.patterns
        if values not in patterns:
            patterns.append(values)
        return Val("a", base=base, co=((patterns.index(values), 1),))

    def _cut(self, name: str, v: Val, by: int) -> Val | None:
        """and, lshr, ashr of an affine value by a constant, where the lanes' part can be worked out now."""
        if len(self.shape.patterns) > 40 or any(not isinstance(c, int) for _, c in v.co):
            return None
        lanes = [0] * self.shape.lanes
        for axis, c in v.co:
            assert isinstance(c, int)
            lanes = [x + signed(c) * p for x, p in zip(lanes, self.shape.patterns[axis], strict=True)]
        if isinstance(v.base, int):
            whole = [(v.base + x) & M32 for x in lanes]
            if name == "and":
                return self.static(0, [x & by for x in whole])
            return self.static(0, [(signed(x) if name == "ashr" else x) >> by for x in whole])
        if not v.align or min(lanes) < 0 or max(lanes) >= v.align:
            return None
        if name == "and":
            return self.static(0, [x & by for x in lanes]) if by < v.align else None
        if by >= 16:
            return Val("u", x=0)
        if 1 << by > v.align:
            return None
        return self.static(self.sop("lshr", v.base, by), [x >> by for x in lanes])

    def neg(self, v: Val) -> Val:
        return self.ibin("sub", self.const(0), v)

    def inv(self, v: Val) -> Val:
        return self.ibin("xor", v, self.const(M32))

    def iminmax(self, name: str, a: Val, b: Val) -> Val:
        """llvm.smin, smax, umin or umax."""
        return self.icall(f"llvm.{name}", [a, b])

    def icall(self, name: str, args: Sequence[Val], extra: str = "") -> Val:
        """An intrinsic that is the same for i32 and vectors of it."""
        if all(v.k == "u" for v in args):
            pairs = [("i32", self.s32(self.scalar(v))) for v in args]
            return Val("u", x=self._intrinsic("i32", f"{name}.i32", pairs, extra))
        columns = zip(*(self.units(v) for v in args), strict=True)
        suffix = f"v{self.U}i32"
        return self.vector(
            [
                self._intrinsic(self.vi, f"{name}.{suffix}", [(self.vi, c) for c in column], extra)
                for column in columns
            ]
        )

    def _intrinsic(self, ret: str, name: str, args: list[tuple[str, str]], extra: str) -> str:
        if extra:
            args = [*args, ("i1", extra)]
        return self.call(ret, name, args)

    def map2(self, a: Val, b: Val, scalar: str, vector: str | None = None) -> Val:
        """`scalar`/`vector` are templates with {t} (type), {a}, {b}."""
        if a.k == "u" and b.k == "u":
            text = scalar.format(t="i32", a=self.s32(self.scalar(a)), b=self.s32(self.scalar(b)))
            return Val("u", x=self.op(text))
        text = vector or scalar
        return self.vector(
            [
                self.op(text.format(t=self.vi, a=p, b=q))
                for p, q in zip(self.units(a), self.units(b), strict=True)
            ]
        )

    def icmp(self, test: str, a: Val, b: Val) -> PVal:
        """A comparison; uniform operands give a uniform predicate."""
        if a.k == "u" and b.k == "u":
            return PVal(
                "u", x=self.op(f"icmp {test} i32 {self.s32(self.scalar(a))}, {self.s32(self.scalar(b))}")
            )
        return PVal(
            "v",
            u=[
                self.op(f"icmp {test} {self.vi} {p}, {q}")
                for p, q in zip(self.units(a), self.units(b), strict=True)
            ],
            regular=a.k != "v" and b.k != "v",
        )

    def select(self, p: PVal, a: Val, b: Val) -> Val:
        """`a` where `p`, else `b`."""
        if a is b:
            return a
        if p.k == "u":
            if p.x is True:
                return a
            if p.x is False:
                return b
            if a.k == "u" and b.k == "u":
                if a.fx is not None and b.fx is not None and a.x is None and b.x is None:
                    return Val(
                        "u", fx=self.op(f"select i1 {p.x}, float {a.fx}, float {b.fx}"), raw=a.raw or b.raw
                    )
                x, y = self.s32(self.scalar(a)), self.s32(self.scalar(b))
                return Val("u", x=self.op(f"select i1 {p.x}, i32 {x}, i32 {y}"))
            if a.k != "v" and b.k != "v":
                (ab, ac), (bb, bc) = self._parts(a), self._parts(b)
                return self.affine(
                    self._sselect(p.x, ab, bb),
                    {axis: self._sselect(p.x, ac.get(axis, 0), bc.get(axis, 0)) for axis in {*ac, *bc}},
                )
        conditions = self.punits(p)
        floating = [
            v.u is None and v.thunk is None and (v.f is not None or (v.k == "u" and v.fx is not None))
            for v in (a, b)
        ]
        if all(floating) or (floating[0] and b.x == 0) or (floating[1] and a.x == 0):
            rows = zip(conditions, self.funits(a), self.funits(b), strict=True)
            f = [self.op(f"select {self.vb} {c}, {self.vf} {x}, {self.vf} {y}") for c, x, y in rows]
            return Val("v", f=f, raw=a.raw or b.raw)
        rows = zip(conditions, self.units(a), self.units(b), strict=True)
        return self.vector(
            [self.op(f"select {self.vb} {c}, {self.vi} {x}, {self.vi} {y}") for c, x, y in rows]
        )

    def _sselect(self, p: bool | str | None, a: Scalar, b: Scalar) -> Scalar:
        return a if a == b else self.op(f"select i1 {p}, i32 {self.s32(a)}, i32 {self.s32(b)}")

    def splat_unit(self, v: Val, unit: int) -> str:
        return self.units(v)[unit]

    # Predicates

    @staticmethod
    def i1(x: bool | str | None) -> str:
        return x if isinstance(x, str) else ("true" if x else "false")

    def punits(self, p: PVal) -> list[str]:
        """The units of i1 of a predicate."""
        if p.u is not None:
            return p.u
        if p.k == "u":
            if isinstance(p.x, bool):
                got = [f"splat (i1 {self.i1(p.x)})"] * self.shape.units
            else:
                wide = self.op(f"sext i1 {p.x} to i32")
                row = self.splat(wide)
                got = [self.op(f"icmp ne {self.vi} {row}, zeroinitializer")] * self.shape.units
        else:
            assert p.bits is not None
            got = self.expand(p.bits)
        if not self.cold:
            p.u = got
        return got

    def expand(self, bits: str) -> list[str]:
        """Units of i1 from a lane mask."""
        got: list[str] = []
        lanes, unit = self.shape.lanes, self.U
        if self.avx512:
            for n in range(self.shape.units):
                part = bits if n == 0 else self.op(f"lshr {self.mi} {bits}, {n * unit}")
                small = part if unit == lanes else self.op(f"trunc {self.mi} {part} to i{unit}")
                got.append(self.op(f"bitcast i{unit} {small} to {self.vb}"))
            return got
        row = ""
        for n in range(self.shape.units):
            start = n * unit
            if start % 32 == 0:
                word = bits
                if lanes > 32:
                    word = bits if start == 0 else self.op(f"lshr {self.mi} {bits}, {start}")
                    word = self.op(f"trunc {self.mi} {word} to i32")
                elif lanes < 32:
                    word = self.op(f"zext {self.mi} {bits} to i32")
                row = self.splat(word)
            weights = self.literal([signed(1 << (start % 32 + lane)) for lane in range(unit)])
            some = self.op(f"and {self.vi} {row}, {weights}")
            got.append(self.op(f"icmp eq {self.vi} {some}, {weights}"))
        return got

    def bits(self, p: PVal) -> str:
        """The predicate as a lane mask."""
        if p.bits is not None:
            return p.bits
        if p.k == "u":
            if isinstance(p.x, bool):
                return "-1" if p.x else "0"
            got = self.op(f"sext i1 {p.x} to {self.mi}") if self.mi != "i1" else str(p.x)
        else:
            assert p.u is not None
            got = self.gather_bits(p.u)
        if not self.cold:
            p.bits = got
        return got

    def gather_bits(self, units: Sequence[str]) -> str:
        unit, lanes = self.U, self.shape.lanes
        whole = ""
        for n, u in enumerate(units):
            part = self.op(f"bitcast {self.vb} {u} to i{unit}")
            if unit != lanes:
                part = self.op(f"zext i{unit} {part} to {self.mi}")
            if n:
                part = self.op(f"shl {self.mi} {part}, {n * unit}")
                whole = self.op(f"or disjoint {self.mi} {whole}, {part}")
            else:
                whole = part
        return whole

    def pnot(self, p: PVal) -> PVal:
        if p.k == "u":
            return PVal("u", x=(not p.x) if isinstance(p.x, bool) else self.op(f"xor i1 {p.x}, true"))
        if p.u is not None:
            flipped = [self.op(f"xor {self.vb} {x}, splat (i1 true)") for x in p.u]
            return PVal("v", u=flipped, regular=p.regular)
        return PVal("v", bits=self.op(f"xor {self.mi} {p.bits}, -1"), regular=p.regular)

    def pbin(self, name: str, a: PVal, b: PVal) -> PVal:
        """and, or, xor of predicates."""
        for p, q in ((a, b), (b, a)):
            if isinstance(p.x, bool):
                if name == "and":
                    return q if p.x else FALSE
                if name == "or":
                    return TRUE if p.x else q
                return self.pnot(q) if p.x else q
        if a.k == "u" and b.k == "u":
            return PVal("u", x=self.op(f"{name} i1 {a.x}, {b.x}"))
        if a.u is None and b.u is None and a.k == "v" and b.k == "v":
            return PVal(
                "v", bits=self.op(f"{name} {self.mi} {a.bits}, {b.bits}"), regular=a.regular and b.regular
            )
        rows = zip(self.punits(a), self.punits(b), strict=True)
        joined = [self.op(f"{name} {self.vb} {x}, {y}") for x, y in rows]
        return PVal("v", u=joined, regular=a.regular and b.regular)

    def pselect(self, p: PVal, a: PVal, b: PVal) -> PVal:
        """`a` where `p`, else `b`."""
        if a is b:
            return a
        if isinstance(p.x, bool):
            return a if p.x else b
        if p.k == "u" and a.k == "u" and b.k == "u":
            return PVal("u", x=self.op(f"select i1 {p.x}, i1 {self.i1(a.x)}, i1 {self.i1(b.x)}"))
        return self.pbin("or", self.pbin("and", p, a), self.pbin("and", self.pnot(p), b))

    def from_pred(self, p: PVal, true: int, false: int) -> Val:
        """A value from a predicate."""
        return self.select(p, self.const(true), self.const(false))

    # 64-bit values

    def wide_uniform(self, lo: Val, hi: Val) -> Scalar:
        a, b = self.scalar(lo), self.scalar(hi)
        if isinstance(a, int) and isinstance(b, int):
            return a | b << 32
        low = a if isinstance(a, int) else self.op(f"zext i32 {a} to i64")
        high = self.sop("shl", b if isinstance(b, int) else self.op(f"zext i32 {b} to i64"), 32, 64)
        return self.sop("or", low, high, 64)

    def wide(self, lo: Val, hi: Val) -> Wide:
        """The 64-bit number of two words, recognised where it can be."""
        if lo.wide and hi.wide and lo.wide[0] is hi.wide[0] and lo.wide[1] == 0 and hi.wide[1] == 1:
            return lo.wide[0]
        got: Wide | None = None
        if lo.k == "u" and hi.k == "u":
            got = Wide(base=self.wide_uniform(lo, hi))
        elif hi.k == "u" and hi.x == 0:
            got = Wide(terms=((lo, False, 1),))
            if lo.tag and lo.tag[0] == "and":
                pass
        elif hi.tag and lo.tag:
            got = self._wide_tagged(lo, hi)
        if got is None and hi.tag and hi.tag[0] == "sar" and hi.tag[1] is lo and hi.tag[2] == 31:
            got = Wide(terms=((lo, True, 1),))
        if got is None:
            return Wide(pair=(lo, hi), lo=lo, hi=hi)
        got.lo, got.hi = lo, hi
        return got

    def _wide_tagged(self, lo: Val, hi: Val) -> Wide | None:
        assert lo.tag
        assert hi.tag
        kind, kind_hi = lo.tag[0], hi.tag[0]
        if kind == "mul" and kind_hi == "mulhi" and _same(lo.tag[1:3], hi.tag[1:3]):
            a, b = lo.tag[1], lo.tag[2]
            assert isinstance(a, Val)
            assert isinstance(b, Val)
            asign, bsign = bool(hi.tag[3]), bool(hi.tag[4])
            for index, factor, isign, fsign in ((a, b, asign, bsign), (b, a, bsign, asign)):
                if factor.k == "u" and isinstance(factor.x, int):
                    by = signed(factor.x) if fsign else factor.x
                    return Wide(terms=((index, isign, by),))
        if kind == "shl" and kind_hi in ("sar", "shr") and lo.tag[1] is hi.tag[1]:
            left, right = lo.tag[2], hi.tag[2]
            moved = lo.tag[1]
            if (
                isinstance(left, int)
                and isinstance(right, int)
                and left + right == 32
                and isinstance(moved, Val)
            ):
                return Wide(terms=((moved, kind_hi == "sar", 1 << left),))
        return None

    def wide_add(self, a: Wide, b: Wide) -> Wide | None:
        """The sum, if it can be kept as base and terms."""
        if a.pair or b.pair:
            return None
        terms = a.terms + b.terms
        if len(terms) > 2:
            return None
        return Wide(base=self.sop("add", a.base, b.base, 64), terms=terms)

    def wide_halves(self, w: Wide) -> tuple[Val, Val]:
        """Two values that are exactly the halves of `w`, made when used."""
        if w.lo is None or w.hi is None:
            if not w.terms and w.pair is None:
                if isinstance(w.base, int):
                    lo, hi = self.const(w.base), self.const(w.base >> 32)
                else:
                    lo = self.uniform(self.op(f"trunc i64 {w.base} to i32"))
                    hi = self.uniform(self.op(f"trunc i64 {self.sop('lshr', w.base, 32, 64)} to i32"))
            else:
                lo = Val("v", thunk=lambda: self._half(w, 0))
                hi = Val("v", thunk=lambda: self._half(w, 1))
            w.lo = w.lo or lo
            w.hi = w.hi or hi
        lo, hi = w.lo, w.hi
        lo.wide, hi.wide = (w, 0), (w, 1)
        return lo, hi

    def _half(self, w: Wide, half: int) -> list[str]:
        got = []
        for x in self.wide_lanes(w):
            part = x if half == 0 else self.op(f"lshr {self.vl} {x}, splat (i64 32)")
            got.append(self.op(f"trunc {self.vl} {part} to {self.vi}"))
        return got

    def wide_lanes(self, w: Wide) -> list[str]:
        """Units of i64, exact in every lane."""
        if w.lanes is not None:
            return w.lanes
        got: list[str] = []
        if w.pair is not None:
            for lo, hi in zip(self.units(w.pair[0]), self.units(w.pair[1]), strict=True):
                low = self.op(f"zext {self.vi} {lo} to {self.vl}")
                high = self.op(f"zext {self.vi} {hi} to {self.vl}")
                high = self.op(f"shl {self.vl} {high}, splat (i64 32)")
                got.append(self.op(f"or disjoint {self.vl} {low}, {high}"))
        else:
            row = self.splat(w.base, "i64")
            got = [row] * self.shape.units
            for index, sign, factor in w.terms:
                part: list[str] = []
                for whole, x in zip(got, self.units(index), strict=True):
                    ext = self.op(f"{'sext' if sign else 'zext'} {self.vi} {x} to {self.vl}")
                    if factor != 1:
                        if factor > 0 and factor & (factor - 1) == 0:
                            ext = self.op(f"shl {self.vl} {ext}, splat (i64 {factor.bit_length() - 1})")
                        else:
                            ext = self.op(f"mul {self.vl} {ext}, splat (i64 {factor})")
                    part.append(
                        ext if w.base == 0 and whole is row else self.op(f"add {self.vl} {whole}, {ext}")
                    )
                got = part
        if not self.cold:
            w.lanes = got
        return got


def _same(a: Sequence[object], b: Sequence[object]) -> bool:
    """Whether two operand lists hold the same values."""
    return all(
        p is q
        or (
            isinstance(p, Val) and isinstance(q, Val) and p.k == q.k == "u" and p.x is not None and p.x == q.x
        )
        for p, q in zip(a, b, strict=True)
    )

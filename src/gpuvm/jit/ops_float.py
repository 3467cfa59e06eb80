"""Single- and double-precision arithmetic, comparisons and transcendental functions."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence

from gpuvm.isa.instruction import Const, Imm, Instruction, Operand, Pred, Reg
from gpuvm.jit.emit import FALSE, TRUE, Flags, PVal, Val, Wide
from gpuvm.jit.machine import Machine, Untranslatable, mod_bool, mod_text
from gpuvm.jit.ops_integer import dst, operation, set_pred, set_reg

# MXCSR with all exceptions masked, by rounding direction.
MXCSR = {"RN": 0x1F80, "RM": 0x3F80, "RP": 0x5F80, "RZ": 0x7F80}


class FVal:
    """Float or double lanes: one scalar (`u`) or units (`v`)."""

    __slots__ = ("u", "v")

    def __init__(self, u: str | None = None, v: list[str] | None = None) -> None:
        self.u = u
        self.v = v


class Floats:
    """Arithmetic on one float type, scalar where all operands are."""

    def __init__(self, m: Machine, double: bool = False) -> None:
        self.m = m
        self.em = m.em
        self.double = double
        self.t = "double" if double else "float"
        self.i = "i64" if double else "i32"
        self.vt = m.em.vd if double else m.em.vf
        self.vit = m.em.vl if double else m.em.vi
        self.suffix = "f64" if double else "f32"

    def const(self, value: float) -> FVal:
        """A constant; hexadecimal as LLVM writes floats (the bits of the double)."""
        if not self.double:
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        bits = struct.unpack("<Q", struct.pack("<d", value))[0]
        return FVal(u=f"0x{bits:016X}")

    def units(self, x: FVal) -> list[str]:
        if x.v is None:
            assert x.u is not None
            if x.u.startswith("0x"):
                row = f"splat ({self.t} {x.u})"
            elif x.u.startswith("bitcast ("):
                row = self.em.op(f"insertelement {self.vt} poison, {self.t} {x.u}, i64 0")
                row = self.em.op(
                    f"shufflevector {self.vt} {row}, {self.vt} poison, <{self.em.U} x i32> zeroinitializer"
                )
            else:
                row = self.em.op(f"insertelement {self.vt} poison, {self.t} {x.u}, i64 0")
                row = self.em.op(
                    f"shufflevector {self.vt} {row}, {self.vt} poison, <{self.em.U} x i32> zeroinitializer"
                )
            rows = [row] * self.em.shape.units
            if self.em.cold:
                return rows
            x.v = rows
        return x.v

    def map(self, text: str, *args: FVal) -> FVal:
        """`text` is an instruction with {t} and {0}, {1}, ..."""
        if all(x.u is not None for x in args):
            return FVal(u=self.em.op(text.format(*(x.u for x in args), t=self.t)))
        rows = zip(*(self.units(x) for x in args), strict=True)
        return FVal(v=[self.em.op(text.format(*row, t=self.vt)) for row in rows])

    def call(self, name: str, *args: FVal, extra: Sequence[tuple[str, str]] = ()) -> FVal:
        if all(x.u is not None for x in args):
            pairs = [(self.t, str(x.u)) for x in args]
            return FVal(u=self.em.call(self.t, f"{name}.{self.suffix}", [*pairs, *extra]))
        rows = zip(*(self.units(x) for x in args), strict=True)
        full = f"{name}.v{self.em.U}{self.suffix}"
        return FVal(v=[self.em.call(self.vt, full, [*((self.vt, c) for c in row), *extra]) for row in rows])

    def add(self, a: FVal, b: FVal) -> FVal:
        return self.map("fadd {t} {0}, {1}", a, b)

    def sub(self, a: FVal, b: FVal) -> FVal:
        return self.map("fsub {t} {0}, {1}", a, b)

    def mul(self, a: FVal, b: FVal) -> FVal:
        return self.map("fmul {t} {0}, {1}", a, b)

    def div(self, a: FVal, b: FVal) -> FVal:
        return self.map("fdiv {t} {0}, {1}", a, b)

    def neg(self, a: FVal) -> FVal:
        return self.map("fneg {t} {0}", a)

    def abs(self, a: FVal) -> FVal:
        return self.call("llvm.fabs", a)

    def fma(self, a: FVal, b: FVal, c: FVal) -> FVal:
        return self.call("llvm.fma", a, b, c)

    def cmp(self, test: str, a: FVal, b: FVal) -> PVal:
        if a.u is not None and b.u is not None:
            return PVal("u", x=self.em.op(f"fcmp {test} {self.t} {a.u}, {b.u}"))
        rows = zip(self.units(a), self.units(b), strict=True)
        return PVal("v", u=[self.em.op(f"fcmp {test} {self.vt} {x}, {y}") for x, y in rows])

    def select(self, p: PVal, a: FVal, b: FVal) -> FVal:
        if isinstance(p.x, bool):
            return a if p.x else b
        if p.k == "u" and a.u is not None and b.u is not None:
            return FVal(u=self.em.op(f"select i1 {p.x}, {self.t} {a.u}, {self.t} {b.u}"))
        rows = zip(self.em.punits(p), self.units(a), self.units(b), strict=True)
        return FVal(
            v=[self.em.op(f"select {self.em.vb} {c}, {self.vt} {x}, {self.vt} {y}") for c, x, y in rows]
        )

    def strict(self, name: str, rnd: str, *args: FVal) -> FVal:
        """An operation (fadd, fmul, fma, fdiv, sqrt) rounded in direction `rnd`."""
        if rnd == "RN":
            if name == "fma":
                return self.fma(*args)
            if name == "sqrt":
                return self.call("llvm.sqrt", *args)
            return self.map(f"{name} {{t}} {{0}}, {{1}}", *args)
        scalar = all(x.u is not None for x in args)
        kind, suffix = (self.t, self.suffix) if scalar else (self.vt, f"v{self.em.U}{self.suffix}")
        helper = directed(self.em.declared, f"{name}.{suffix}", kind, [kind] * len(args), rnd)
        if scalar:
            return FVal(u=self.em.op(f"call {kind} @{helper}({', '.join(f'{kind} {x.u}' for x in args)})"))
        rows = zip(*(self.units(x) for x in args), strict=True)
        return FVal(
            v=[self.em.op(f"call {kind} @{helper}({', '.join(f'{kind} {x}' for x in row)})") for row in rows]
        )

    def bits(self, a: FVal) -> Val:
        """The raw bits of single-precision lanes."""
        if a.u is not None:
            return Val("u", x=self.em.op(f"bitcast float {a.u} to i32"))
        return Val("v", u=[self.em.op(f"bitcast {self.vt} {x} to {self.vit}") for x in self.units(a)])

    def from_bits(self, v: Val) -> FVal:
        if v.k == "u":
            return FVal(u=self.em.fscalar(v))
        return FVal(v=self.em.funits(v))

    def flush(self, a: FVal) -> FVal:
        """Denormals become zero of the same sign."""
        tiny = self.cmp("olt", self.abs(a), self.const(2.0**-1022 if self.double else 2.0**-126))
        zero = self.call("llvm.copysign", self.const(0.0), a)
        return self.select(tiny, zero, a)

    def saturate(self, a: FVal) -> FVal:
        """Clamp to [0, 1]; NaN gives 0."""
        low = self.select(self.cmp("ogt", a, self.const(0.0)), a, self.const(0.0))
        return self.select(self.cmp("olt", low, self.const(1.0)), low, self.const(1.0))


def directed(declared: set[str], name: str, ret: str, args: Sequence[str], rnd: str) -> str:
    """Define (once a module) a function that does one operation in another rounding direction; return its
    name."""
    function = f"gpuvm.{name}.{rnd}"
    params = ", ".join(f"{kind} %a{n}" for n, kind in enumerate(args))
    used = ", ".join(f"{kind} %a{n}" for n, kind in enumerate(args))
    # Overloaded intrinsics: conversions carry both types in their name.
    declared.add(
        f"declare {ret} @llvm.experimental.constrained.{name}({', '.join(args)}, metadata, metadata)"
    )
    declared.add(
        f"define internal {ret} @{function}({params}) noinline strictfp KERNEL {{\n"
        f"  %m = alloca i32\n  store i32 {MXCSR[rnd]}, ptr %m\n"
        f'  call void asm sideeffect "ldmxcsr $0", "*m,~{{memory}}"(ptr elementtype(i32) %m) strictfp\n'
        f"  %r = call {ret} @llvm.experimental.constrained.{name}({used}, "
        f'metadata !"round.dynamic", metadata !"fpexcept.strict") strictfp\n'
        f"  store i32 {MXCSR['RN']}, ptr %m\n"
        f'  call void asm sideeffect "ldmxcsr $0", "*m,~{{memory}}"(ptr elementtype(i32) %m) strictfp\n'
        f"  ret {ret} %r\n}}"
    )
    return function


# Operands and results


def fsource(m: Machine, op: Operand, fl: Floats, sign: bool = True) -> FVal:
    """A single-precision source with abs and (if `sign`) neg applied."""
    value = m.word(op)
    if isinstance(op, Imm) or (value.k == "u" and isinstance(value.x, int)):
        bits = value.x if isinstance(value.x, int) else 0
        if isinstance(op, Reg | Const | Imm):
            bits = bits & 0x7FFFFFFF if op.abs else bits
            bits = bits ^ 0x80000000 if op.neg and sign else bits
        number = struct.unpack("<f", struct.pack("<I", bits))[0]
        if not math.isnan(number):
            return fl.const(number)
    got = fl.from_bits(value)
    if isinstance(op, Reg | Const | Imm):
        if op.abs:
            got = fl.abs(got)
        if op.neg and sign:
            got = fl.neg(got)
    return got


def dsource(m: Machine, op: Operand, fl: Floats, sign: bool = True) -> FVal:
    """A double-precision source with abs and neg applied."""
    w = m.wide(op)
    if not w.terms and w.pair is None and w.lanes is None:
        if isinstance(w.base, int):
            number = struct.unpack("<d", struct.pack("<Q", w.base & (1 << 64) - 1))[0]
            got = fl.const(number) if not math.isnan(number) else FVal(u=f"0x{w.base:016X}")
        else:
            got = FVal(u=m.em.op(f"bitcast i64 {w.base} to double"))
    else:
        got = FVal(v=[m.em.op(f"bitcast {m.em.vl} {x} to {m.em.vd}") for x in m.em.wide_lanes(w)])
    if isinstance(op, Reg | Const | Imm):
        if op.abs:
            got = fl.abs(got)
        if op.neg and sign:
            got = fl.neg(got)
    return got


def fvalue(fl: Floats, x: FVal) -> Val:
    """A register value from single-precision lanes (its NaN made canonical when bits are looked at)."""
    return fl.em.funiform(x.u) if x.u is not None and not x.u.startswith("0x") else fl.em.floats(fl.units(x))


def dvalue(fl: Floats, x: FVal) -> Wide:
    """A register pair from double-precision lanes."""
    em = fl.em
    if x.u is not None:
        return Wide(base=em.op(f"bitcast double {x.u} to i64"))
    lanes = [em.op(f"bitcast {em.vd} {y} to {em.vl}") for y in fl.units(x)]
    return lanes_wide(fl.m, lanes)


def lanes_wide(m: Machine, lanes: list[str]) -> Wide:
    """A 64-bit value that exists as lanes of i64."""
    whole = Wide(lanes=lanes)
    em = m.em
    lo, hi = Val("v", thunk=lambda: em._half(whole, 0)), Val("v", thunk=lambda: em._half(whole, 1))
    whole.pair = (lo, hi)
    whole.lo, whole.hi = lo, hi
    return whole


def float_flags(fl: Floats, x: FVal) -> Flags:
    """Zero: 0 or NaN. Sign: negative or NaN."""
    zero = fl.const(0.0)
    return Flags(
        [lambda: fl.cmp("ueq", x, zero), lambda: fl.cmp("ult", x, zero), lambda: FALSE, lambda: FALSE]
    )


def fput(m: Machine, ins: Instruction, fl: Floats, x: FVal) -> None:
    if mod_bool(ins, "cc"):
        m.put_flags(float_flags(fl, x))
    if fl.double:
        m.put_wide(dst(ins), dvalue(fl, x))
    else:
        m.put(dst(ins), fvalue(fl, x))


def sources(m: Machine, ins: Instruction, fl: Floats, product: bool) -> list[FVal]:
    """All sources; in a product the first one's sign is applied to it (the same as to the product)."""
    read = dsource if fl.double else fsource
    got = [read(m, op, fl) for op in ins.src if not isinstance(op, Pred)]
    if mod_bool(ins, "ftz") or mod_bool(ins, "fmz"):
        got = [fl.flush(x) for x in got]
    return got


def arithmetic(m: Machine, ins: Instruction, name: str, double: bool) -> None:
    fl = Floats(m, double)
    args = sources(m, ins, fl, name != "fadd")
    rnd = mod_text(ins, "rnd", "RN")
    scale = mod_text(ins, "scale")
    value = scaled_product(m, args[0], args[1], scale, rnd) if scale else fl.strict(name, rnd, *args)
    if mod_bool(ins, "fmz"):
        zero = fl.const(0.0)
        none = m.em.pbin("or", fl.cmp("oeq", args[0], zero), fl.cmp("oeq", args[1], zero))
        value = fl.select(none, fl.strict("fadd", rnd, args[2], zero) if name == "fma" else zero, value)
    if mod_bool(ins, "ftz") or mod_bool(ins, "fmz"):
        value = fl.flush(value)
    if mod_bool(ins, "sat"):
        value = fl.saturate(value)
    fput(m, ins, fl, value)


def scaled_product(m: Machine, a: FVal, b: FVal, scale: str, rnd: str) -> FVal:
    """a * b * 2**n rounded once: the product of two floats is exact in double."""
    fl, dl = Floats(m), Floats(m, True)
    factor = 2.0 ** ({"2": 1, "4": 2, "8": 3}[scale[1]] * (1 if scale[0] == "M" else -1))
    whole = dl.mul(dl.mul(widen(m, a), widen(m, b)), dl.const(factor))
    del fl
    return narrow(m, whole, rnd)


def widen(m: Machine, x: FVal) -> FVal:
    """Single to double precision, exact."""
    fl = Floats(m)
    if x.u is not None:
        return FVal(u=m.em.op(f"fpext float {x.u} to double"))
    return FVal(v=[m.em.op(f"fpext {m.em.vf} {y} to {m.em.vd}") for y in fl.units(x)])


def narrow(m: Machine, x: FVal, rnd: str) -> FVal:
    """Double to single precision."""
    em = m.em
    dl = Floats(m, True)
    if rnd == "RN":
        if x.u is not None:
            return FVal(u=em.op(f"fptrunc double {x.u} to float"))
        return FVal(v=[em.op(f"fptrunc {em.vd} {y} to {em.vf}") for y in dl.units(x)])
    if x.u is not None:
        helper = directed(em.declared, "fptrunc.f32.f64", "float", ["double"], rnd)
        return FVal(u=em.op(f"call float @{helper}(double {x.u})"))
    helper = directed(em.declared, f"fptrunc.v{em.U}f32.v{em.U}f64", em.vf, [em.vd], rnd)
    return FVal(v=[em.op(f"call {em.vf} @{helper}({em.vd} {y})") for y in dl.units(x)])


@operation("FADD", "FADD32I")
def fadd(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fadd", False)


@operation("FMUL", "FMUL32I")
def fmul(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fmul", False)


@operation("FFMA", "FFMA32I")
def ffma(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fma", False)


@operation("DADD")
def dadd(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fadd", True)


@operation("DMUL")
def dmul(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fmul", True)


@operation("DFMA")
def dfma(m: Machine, ins: Instruction) -> None:
    arithmetic(m, ins, "fma", True)


@operation("FMNMX", "DMNMX")
def fmnmx(m: Machine, ins: Instruction) -> None:
    """The number wins over a NaN; -0 is below +0."""
    fl = Floats(m, ins.name == "DMNMX")
    a, b = sources(m, ins, fl, False)[:2]
    which = ins.src[2]
    assert isinstance(which, Pred)
    least = m.get_pred(which)
    if least is TRUE:
        value = fl.call("llvm.minimumnum", a, b)
    elif least is FALSE:
        value = fl.call("llvm.maximumnum", a, b)
    else:
        value = fl.select(least, fl.call("llvm.minimumnum", a, b), fl.call("llvm.maximumnum", a, b))
    fput(m, ins, fl, value)


FLOAT_TESTS = {
    "LT": "olt", "EQ": "oeq", "LE": "ole", "GT": "ogt", "NE": "one", "GE": "oge", "NUM": "ord", "NAN": "uno",
    "LTU": "ult", "EQU": "ueq", "LEU": "ule", "GTU": "ugt", "NEU": "une", "GEU": "uge",
}  # fmt: skip


def float_test(m: Machine, fl: Floats, cmp: str, a: FVal, b: FVal) -> PVal:
    if cmp in ("F", "T"):
        return TRUE if cmp == "T" else FALSE
    return fl.cmp(FLOAT_TESTS[cmp], a, b)


@operation("FSETP", "FSET", "DSETP", "DSET")
def fset(m: Machine, ins: Instruction) -> None:
    fl = Floats(m, ins.name[0] == "D")
    a, b = sources(m, ins, fl, False)[:2]
    test = float_test(m, fl, mod_text(ins, "cmp", "F"), a, b)
    (set_pred if ins.name.endswith("P") else set_reg)(m, ins, test, 2)


@operation("FCMP")
def fcmp(m: Machine, ins: Instruction) -> None:
    fl = Floats(m)
    c = fsource(m, ins.src[2], fl)
    if mod_bool(ins, "ftz"):
        c = fl.flush(c)
    test = float_test(m, fl, mod_text(ins, "cmp", "F"), c, fl.const(0.0))
    m.put(dst(ins), m.em.select(test, m.word(ins.src[0]), m.word(ins.src[1])))


@operation("RRO")
def rro(m: Machine, ins: Instruction) -> None:
    """The argument unchanged: MUFU here reduces the range itself."""
    fl = Floats(m)
    m.put(dst(ins), fvalue(fl, fsource(m, ins.src[0], fl)))


def poly(fl: Floats, x: FVal, coefficients: Sequence[float]) -> FVal:
    """Horner, highest power first."""
    value = fl.const(coefficients[0])
    for c in coefficients[1:]:
        value = fl.fma(value, x, fl.const(c))
    return value


def exp2(m: Machine, fl: Floats, x: FVal) -> FVal:
    """2**x to about 2**-23, denormal results included."""
    em = m.em
    low = fl.select(fl.cmp("olt", x, fl.const(-160.0)), fl.const(-160.0), x)
    inside = fl.select(fl.cmp("ogt", low, fl.const(129.0)), fl.const(129.0), low)
    whole = fl.call("llvm.rint", inside)
    part = fl.sub(inside, whole)
    taylor = [math.log(2.0) ** n / math.factorial(n) for n in range(7, -1, -1)]
    value = poly(fl, part, taylor)
    # NaN goes to 0 here and comes back in the last step.
    power = to_int(m, fl, whole)
    half = em.ibin("ashr", power, em.const(1))
    rest = em.ibin("sub", power, half)
    for count in (half, rest):
        biased = em.ibin("shl", em.ibin("add", count, em.const(127)), em.const(23))
        value = fl.mul(value, fl.from_bits(biased))
    return fl.select(fl.cmp("uno", x, x), x, value)


def to_int(m: Machine, fl: Floats, x: FVal) -> Val:
    """A float known to fit an i32 (NaN gives 0)."""
    em = m.em
    if x.u is not None:
        return Val("u", x=em.call("i32", "llvm.fptosi.sat.i32.f32", [("float", x.u)]))
    name = f"llvm.fptosi.sat.v{em.U}i32.v{em.U}f32"
    return Val("v", u=[em.call(em.vi, name, [(em.vf, y)]) for y in fl.units(x)])


def log2(m: Machine, fl: Floats, x: FVal) -> FVal:
    """log2(x) to about 2**-23."""
    em = m.em
    tiny = fl.cmp("olt", fl.abs(x), fl.const(2.0**-126))
    y = fl.select(tiny, fl.mul(x, fl.const(2.0**24)), x)
    bits = fl.bits(y)
    # Mantissa in [sqrt(1/2), sqrt(2)): subtracting sqrt(1/2)'s bits makes the exponent come out right.
    moved = em.ibin("sub", bits, em.const(0x3F3504F3))
    power = em.ibin("ashr", moved, em.const(23))
    mantissa = fl.from_bits(em.ibin("sub", bits, em.ibin("shl", power, em.const(23))))
    power = em.ibin("sub", power, em.select(tiny, em.const(24), em.const(0)))
    one = fl.const(1.0)
    t = fl.div(fl.sub(mantissa, one), fl.add(mantissa, one))
    square = fl.mul(t, t)
    series = poly(fl, square, [2 / math.log(2.0) / n for n in (9, 7, 5, 3, 1)])
    if power.k == "u":
        exponent = FVal(u=em.op(f"sitofp i32 {em.s32(em.scalar(power))} to float"))
    else:
        exponent = FVal(v=[em.op(f"sitofp {em.vi} {p} to {em.vf}") for p in em.units(power)])
    value = fl.fma(series, t, exponent)
    infinity = fl.const(math.inf)
    value = fl.select(fl.cmp("oeq", x, infinity), infinity, value)
    value = fl.select(fl.cmp("oeq", x, fl.const(0.0)), fl.const(-math.inf), value)
    nan = fl.sub(fl.mul(x, fl.const(0.0)), infinity)
    nan = fl.add(nan, infinity)
    return fl.select(fl.cmp("ult", x, fl.const(0.0)), nan, value)


def sincos(m: Machine, fl: Floats, x: FVal, cosine: bool) -> FVal:
    """sin(x) or cos(x), x in radians, to about 2**-22 absolute; reduced in double precision."""
    em = m.em
    dl = Floats(m, True)
    turns = dl.mul(widen(m, x), dl.const(2 / math.pi))
    whole = dl.call("llvm.rint", turns)
    # Quarter turns modulo 4, small enough for an integer whatever x was.
    quarter = dl.sub(whole, dl.mul(dl.call("llvm.floor", dl.mul(whole, dl.const(0.25))), dl.const(4.0)))
    rest = narrow(m, dl.mul(dl.sub(turns, whole), dl.const(math.pi / 2)), "RN")
    if quarter.u is not None:
        q = Val("u", x=em.call("i32", "llvm.fptosi.sat.i32.f64", [("double", quarter.u)]))
    else:
        name = f"llvm.fptosi.sat.v{em.U}i32.v{em.U}f64"
        q = Val("v", u=[em.call(em.vi, name, [(em.vd, y)]) for y in dl.units(quarter)])
    if cosine:
        q = em.ibin("add", q, em.const(1))
    square = fl.mul(rest, rest)
    sine = fl.fma(
        fl.mul(rest, square),
        poly(fl, square, [2.755731922e-6, -1.984126984e-4, 8.333333333e-3, -1 / 6]),
        rest,
    )
    cos = poly(fl, square, [2.480158730e-5, -1.388888889e-3, 4.166666667e-2, -0.5, 1.0])
    odd = em.icmp("ne", em.ibin("and", q, em.const(1)), em.const(0))
    value = fl.select(odd, cos, sine)
    minus = em.icmp("ne", em.ibin("and", q, em.const(2)), em.const(0))
    value = fl.select(minus, fl.neg(value), value)
    if not cosine:
        # The sine of a zero keeps its sign.
        value = fl.select(fl.cmp("oeq", x, fl.const(0.0)), x, value)
    # Infinity and NaN give NaN.
    nothing = fl.sub(x, x)
    return fl.select(fl.cmp("uno", nothing, nothing), nothing, value)


@operation("MUFU")
def mufu(m: Machine, ins: Instruction) -> None:
    fl = Floats(m)
    kind = mod_text(ins, "op")
    if kind in ("RCP64H", "RSQ64H"):
        mufu_double(m, ins, kind)
        return
    x = fsource(m, ins.src[0], fl)
    one = fl.const(1.0)
    # The chip knows no denormals here: they count as zero, and results that would be one are zero (where it matters).
    if kind in ("RCP", "RSQ", "LG2"):
        x = fl.flush(x)
    if kind == "RCP":
        value = fl.div(one, x)
    elif kind == "RSQ":
        value = fl.div(one, fl.call("llvm.sqrt", x))
    elif kind == "EX2":
        value = exp2(m, fl, x)
    elif kind == "LG2":
        value = log2(m, fl, x)
    elif kind in ("SIN", "COS"):
        value = sincos(m, fl, x, kind == "COS")
    else:
        raise Untranslatable(f"MUFU.{kind}")
    if kind in ("RCP", "EX2", "SIN"):
        value = fl.flush(value)
    if mod_bool(ins, "sat"):
        value = fl.saturate(value)
    m.put(dst(ins), fvalue(fl, value))


def mufu_double(m: Machine, ins: Instruction, kind: str) -> None:
    """High word of 1/x or 1/sqrt(x), x a double whose high word is the source; denormals are zero."""
    em = m.em
    dl = Floats(m, True)
    op = ins.src[0]
    high = m.word(op)
    whole = Wide(pair=(em.const(0), high))
    if high.k == "u":
        number = FVal(u=em.op(f"bitcast i64 {em.s64(em.wide_uniform(em.const(0), high))} to double"))
    else:
        number = FVal(v=[em.op(f"bitcast {em.vl} {y} to {em.vd}") for y in em.wide_lanes(whole)])
    if isinstance(op, Reg | Const | Imm):
        if op.abs:
            number = dl.abs(number)
        if op.neg:
            number = dl.neg(number)
    number = dl.flush(number)
    if kind == "RSQ64H":
        number = dl.call("llvm.sqrt", number)
    value = dl.flush(dl.div(dl.const(1.0), number))
    lo, hi = em.wide_halves(dvalue(dl, value))
    del lo
    m.put(dst(ins), hi)


SWIZZLE: dict[str, tuple[int, int, int, int]] = {
    "0000": (0, 0, 0, 0), "1111": (1, 1, 1, 1), "2222": (2, 2, 2, 2), "3333": (3, 3, 3, 3),
    "1032": (1, 0, 3, 2), "2301": (2, 3, 0, 1),
}  # fmt: skip


@operation("FSWZADD")
def fswzadd(m: Machine, ins: Instruction) -> None:
    em = m.em
    fl = Floats(m)
    order = SWIZZLE[mod_text(ins, "lane", "0000")]
    index = [lane // 4 * 4 + order[lane & 3] for lane in range(em.U)]
    pick = em.literal(index)
    a = fl.units(fl.from_bits(m.word(ins.src[0])))
    moved = FVal(
        v=[em.op(f"shufflevector {em.vf} {x}, {em.vf} poison, {f'<{em.U} x i32>'} {pick}") for x in a]
    )
    b = FVal(v=fl.units(fl.from_bits(m.word(ins.src[1]))))
    ops = [mod_text(ins, f"op{n}", "ADD") for n in range(4)]
    if mod_bool(ins, "ftz"):
        moved, b = fl.flush(moved), fl.flush(b)
    rnd = mod_text(ins, "rnd", "RN")

    def signed_lanes(x: FVal, on: Callable[[str], bool]) -> FVal:
        flips = em.literal([-(1 << 31) if on(ops[lane & 3]) else 0 for lane in range(em.U)])
        bits = [
            em.op(f"xor {em.vi} {em.op(f'bitcast {em.vf} {y} to {em.vi}')}, {flips}") for y in fl.units(x)
        ]
        return FVal(v=[em.op(f"bitcast {em.vi} {y} to {em.vf}") for y in bits])

    value = fl.strict(
        "fadd", rnd, signed_lanes(moved, lambda op: op == "SUBR"), signed_lanes(b, lambda op: op == "SUB")
    )
    take = (
        "<" + ", ".join(f"i1 {'true' if ops[lane & 3] == 'MOV2' else 'false'}" for lane in range(em.U)) + ">"
    )
    value = fl.select(PVal("v", u=[take] * m.shape.units), b, value)
    if mod_bool(ins, "ftz"):
        value = fl.flush(value)
    m.put(dst(ins), fvalue(fl, value))

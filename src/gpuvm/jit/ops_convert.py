"""Conversions: F2F, F2I, I2F, I2I."""

from __future__ import annotations

from gpuvm.isa.instruction import Const, Imm, Instruction, Reg
from gpuvm.jit.emit import FALSE, Flags, PVal, Val, Wide
from gpuvm.jit.machine import Machine, Untranslatable, mod_bool, mod_text
from gpuvm.jit.ops_float import (
    Floats,
    FVal,
    directed,
    dsource,
    fput,
    fsource,
    lanes_wide,
    narrow,
    widen,
)
from gpuvm.jit.ops_integer import dst, operation, result_flags

INTEGRAL = {"ROUND": "llvm.roundeven", "FLOOR": "llvm.floor", "CEIL": "llvm.ceil", "TRUNC": "llvm.trunc"}
PART_BITS = {"B0": 0, "B1": 8, "B2": 16, "B3": 24, "H0": 0, "H1": 16}


def modifiers(ins: Instruction) -> tuple[bool, bool]:
    op = ins.src[0]
    return (op.neg, op.abs) if isinstance(op, Reg | Const | Imm) else (False, False)


def half_source(m: Machine, ins: Instruction) -> FVal:
    """A 16-bit float source as single precision (exact), modifiers applied."""
    em = m.em
    fl = Floats(m)
    word = em.ibin("lshr", m.word(ins.src[0]), em.const(PART_BITS[mod_text(ins, "part", "B0")]))
    neg, absolute = modifiers(ins)
    if word.k == "u":
        small = em.op(f"trunc i32 {em.s32(em.scalar(word))} to i16")
        got = FVal(u=em.op(f"fpext half {em.op(f'bitcast i16 {small} to half')} to float"))
    else:
        vec = f"<{em.U} x half>"
        rows = [em.op(f"trunc {em.vi} {x} to {em.vh}") for x in em.units(word)]
        got = FVal(
            v=[em.op(f"fpext {vec} {em.op(f'bitcast {em.vh} {x} to {vec}')} to {em.vf}") for x in rows]
        )
    if absolute:
        got = fl.abs(got)
    return fl.neg(got) if neg else got


def to_half(m: Machine, x: FVal, rnd: str) -> Val:
    """Single precision to the low 16 bits of a register; a NaN is 0x7fff."""
    em = m.em
    fl = Floats(m)
    if x.u is not None:
        if rnd == "RN":
            small = em.op(f"fptrunc float {x.u} to half")
        else:
            helper = directed(em.declared, "fptrunc.f16.f32", "half", ["float"], rnd)
            small = em.op(f"call half @{helper}(float {x.u})")
        value = em.uniform(em.op(f"zext i16 {em.op(f'bitcast half {small} to i16')} to i32"))
    else:
        vec = f"<{em.U} x half>"
        if rnd == "RN":
            rows = [em.op(f"fptrunc {em.vf} {y} to {vec}") for y in fl.units(x)]
        else:
            helper = directed(em.declared, f"fptrunc.v{em.U}f16.v{em.U}f32", vec, [em.vf], rnd)
            rows = [em.op(f"call {vec} @{helper}({em.vf} {y})") for y in fl.units(x)]
        value = em.vector(
            [em.op(f"zext {em.vh} {em.op(f'bitcast {vec} {y} to {em.vh}')} to {em.vi}") for y in rows]
        )
    return em.select(fl.cmp("uno", x, x), em.const(0x7FFF), value)


def half_flags(m: Machine, value: Val) -> Flags:
    """Condition code of a half-precision result, as of any float: a NaN counts as zero and negative."""
    em = m.em
    nan = em.icmp("eq", value, em.const(0x7FFF))
    zero = em.icmp("eq", em.ibin("and", value, em.const(0x7FFF)), em.const(0))
    minus = em.icmp("ne", em.ibin("and", value, em.const(0x8000)), em.const(0))
    less = em.pbin("and", minus, em.pnot(zero))
    return Flags(
        [lambda: em.pbin("or", zero, nan), lambda: em.pbin("or", less, nan), lambda: FALSE, lambda: FALSE]
    )


def put_half(m: Machine, ins: Instruction, x: FVal, rnd: str) -> None:
    value = to_half(m, x, rnd)
    if mod_bool(ins, "cc"):
        m.put_flags(half_flags(m, value))
    m.put(dst(ins), value)


def put_long(m: Machine, ins: Instruction, w: Wide) -> None:
    """A 64-bit integer result; its condition code looks at all 64 bits."""
    em = m.em
    if mod_bool(ins, "cc"):
        lo, hi = em.wide_halves(w)
        zero = em.icmp("eq", em.ibin("or", lo, hi), em.const(0))
        m.put_flags(
            Flags([lambda: zero, lambda: em.icmp("slt", hi, em.const(0)), lambda: FALSE, lambda: FALSE])
        )
    m.put_wide(dst(ins), w)


@operation("F2F")
def f2f(m: Machine, ins: Instruction) -> None:
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    rnd = mod_text(ins, "rnd", "RN")
    ftz, sat = mod_bool(ins, "ftz"), mod_bool(ins, "sat")
    fl, dl = Floats(m), Floats(m, True)
    direct = rnd if rnd in ("RN", "RM", "RP", "RZ") else "RN"
    if stype == "F64":
        x = dsource(m, ins.src[0], dl)
        if dtype == "F64":
            if rnd in INTEGRAL:
                x = dl.call(INTEGRAL[rnd], x)
            if sat:
                x = dl.saturate(x)
            fput(m, ins, dl, x)
            return
        y = narrow(m, x, direct)
    else:
        y = half_source(m, ins) if stype == "F16" else fsource(m, ins.src[0], fl)
        if ftz:
            y = fl.flush(y)
        if rnd in INTEGRAL:
            y = fl.call(INTEGRAL[rnd], y)
    if ftz and dtype != "F64":
        y = fl.flush(y)
    if sat:
        y = fl.saturate(y)
    if dtype == "F64":
        fput(m, ins, dl, widen(m, y))
    elif dtype == "F16":
        put_half(m, ins, y, direct)
    else:
        fput(m, ins, fl, y)


@operation("F2I")
def f2i(m: Machine, ins: Instruction) -> None:
    """Saturating. NaN gives 0, but 1 << (bits - 1) if the source is a double or the result has 64 bits (PTX,
    cvt)."""
    em = m.em
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    double = stype == "F64"
    fl = Floats(m, double)
    x = half_source(m, ins) if stype == "F16" else (dsource if double else fsource)(m, ins.src[0], fl)
    if mod_bool(ins, "ftz") and not double:
        x = fl.flush(x)
    x = fl.call(INTEGRAL[mod_text(ins, "rnd", "ROUND")], x)
    sign, bits = dtype[0] == "S", int(dtype[1:])
    name = "llvm.fptosi.sat" if sign else "llvm.fptoui.sat"
    kind = f"i{bits}"
    odd = fl.cmp("uno", x, x) if double or bits == 64 else None
    least = -(1 << (bits - 1))
    if x.u is not None:
        one = em.call(kind, f"{name}.{kind}.{fl.suffix}", [(fl.t, x.u)])
        if odd is not None:
            one = em.op(f"select i1 {em.i1(odd.x)}, {kind} {least}, {kind} {one}")
        if bits == 64:
            put_long(m, ins, Wide(base=one))
            return
        if bits == 16:
            one = em.op(f"{'sext' if sign else 'zext'} i16 {one} to i32")
        finish_int(m, ins, em.uniform(one))
        return
    vec = f"<{em.U} x {kind}>"
    full = f"{name}.v{em.U}{kind}.v{em.U}{fl.suffix}"
    rows = [em.call(vec, full, [(fl.vt, y)]) for y in fl.units(x)]
    if odd is not None:
        tests = zip(em.punits(odd), rows, strict=True)
        rows = [em.op(f"select {em.vb} {p}, {vec} splat ({kind} {least}), {vec} {y}") for p, y in tests]
    if bits == 64:
        put_long(m, ins, lanes_wide(m, rows))
        return
    if bits == 16:
        rows = [em.op(f"{'sext' if sign else 'zext'} {vec} {y} to {em.vi}") for y in rows]
    finish_int(m, ins, em.vector(rows))


def finish_int(m: Machine, ins: Instruction, value: Val) -> None:
    if mod_bool(ins, "cc"):
        m.put_flags(result_flags(m, value))
    m.put(dst(ins), value)


def integer_source(m: Machine, ins: Instruction) -> tuple[Val, bool]:
    """The 8, 16 or 32-bit source extended to 32 bits, before neg and abs; and whether it is signed."""
    em = m.em
    stype = mod_text(ins, "stype")
    sign, bits = stype[0] == "S", int(stype[1:])
    value = m.word(ins.src[0])
    if bits < 32:
        at = PART_BITS[mod_text(ins, "part", "B0")]
        if sign:
            value = em.ibin("ashr", em.ibin("shl", value, em.const(32 - bits - at)), em.const(32 - bits))
        else:
            value = em.ibin("and", em.ibin("lshr", value, em.const(at)), em.const((1 << bits) - 1))
    return value, sign


def long_source(m: Machine, ins: Instruction) -> tuple[list[str], bool, bool]:
    """The source as i64 (one if uniform, else units), abs and neg not applied; whether uniform; whether
    signed."""
    em = m.em
    stype = mod_text(ins, "stype")
    if stype in ("U64", "S64"):
        w = m.wide(ins.src[0])
        uniform = not w.terms and w.pair is None and w.lanes is None
        return [em.s64(w.base)] if uniform else em.wide_lanes(w), uniform, stype == "S64"
    value, sign = integer_source(m, ins)
    ext = "sext" if sign else "zext"
    if value.k == "u":
        return [em.op(f"{ext} i32 {em.s32(em.scalar(value))} to i64")], True, sign
    return [em.op(f"{ext} {em.vi} {x} to {em.vl}") for x in em.units(value)], False, sign


@operation("I2F")
def i2f(m: Machine, ins: Instruction) -> None:
    """abs and neg act on the number, not on its 32 or 64 bits: minus the least number is positive."""
    em = m.em
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    rnd = mod_text(ins, "rnd", "RN")
    double = dtype == "F64"
    fl = Floats(m, double)
    neg, absolute = modifiers(ins)
    if neg or absolute or stype in ("U64", "S64"):
        lanes, uniform, sign = long_source(m, ins)
        source, source_suffix = ("i64", "i64") if uniform else (em.vl, f"v{em.U}i64")
        if absolute and sign:
            lanes = [
                em.call(source, f"llvm.abs.{source_suffix}", [(source, x), ("i1", "false")]) for x in lanes
            ]
            sign = False
    else:
        value, sign = integer_source(m, ins)
        uniform = value.k == "u"
        lanes = [em.s32(em.scalar(value))] if uniform else em.units(value)
        source, source_suffix = ("i32", "i32") if uniform else (em.vi, f"v{em.U}i32")
    op = "sitofp" if sign else "uitofp"
    target, target_suffix = (fl.t, fl.suffix) if uniform else (fl.vt, f"v{em.U}{fl.suffix}")
    exact = double and stype not in ("U64", "S64")
    # The negated number is converted in the mirrored direction.
    direct = {"RM": "RP", "RP": "RM"}.get(rnd, rnd) if neg else rnd
    if direct == "RN" or exact:
        rows = [em.op(f"{op} {source} {x} to {target}") for x in lanes]
    else:
        helper = directed(em.declared, f"{op}.{target_suffix}.{source_suffix}", target, [source], direct)
        rows = [em.op(f"call {target} @{helper}({source} {x})") for x in lanes]
    got = FVal(u=rows[0]) if uniform else FVal(v=rows)
    if neg:
        got = fl.neg(got)
    if neg or direct == "RM":
        # Adding 0 makes a zero positive; x86's way to convert unsigned numbers gives -0 when it rounds down.
        got = fl.add(got, fl.const(0.0))
    if dtype == "F16":
        put_half(m, ins, got, rnd)
        return
    fput(m, ins, fl, got)


@operation("I2I")
def i2i(m: Machine, ins: Instruction) -> None:
    em = m.em
    dtype = mod_text(ins, "dtype")
    sign, bits = dtype[0] == "S", int(dtype[1:])
    neg, absolute = modifiers(ins)
    saturate = mod_bool(ins, "sat")
    if neg or absolute or bits == 64:
        long_to_integer(m, ins, sign, bits, saturate)
        return
    value, source_sign = integer_source(m, ins)
    if saturate:
        value = clamp(m, value, source_sign, sign, bits)
    elif bits < 32:
        if sign:
            room = em.const(32 - bits)
            value = em.ibin("ashr", em.ibin("shl", value, room), room)
        else:
            value = em.ibin("and", value, em.const((1 << bits) - 1))
    finish_int(m, ins, value)


def long_to_integer(m: Machine, ins: Instruction, sign: bool, bits: int, saturate: bool) -> None:
    """I2I in 64 bits, where no abs and no neg overflows."""
    em = m.em
    neg, absolute = modifiers(ins)
    lanes, uniform, source_sign = long_source(m, ins)
    kind, suffix, count = ("i64", "i64", 1) if uniform else (em.vl, f"v{em.U}i64", em.U)

    def fixed(x: int) -> str:
        return str(x) if uniform else f"splat (i64 {x})"

    if absolute and source_sign:
        lanes = [em.call(kind, f"llvm.abs.{suffix}", [(kind, x), ("i1", "false")]) for x in lanes]
    if neg:
        lanes = [em.op(f"sub {kind} {fixed(0)}, {x}") for x in lanes]
    if saturate:
        limits = [("smax", -(1 << (bits - 1)) if sign else 0), ("smin", (1 << (bits - sign)) - 1)]
        for name, limit in limits:
            if -(1 << 62) < limit < 1 << 62:
                lanes = [
                    em.call(kind, f"llvm.{name}.{suffix}", [(kind, x), (kind, fixed(limit))]) for x in lanes
                ]
    if bits == 64:
        put_long(m, ins, Wide(base=lanes[0]) if uniform else lanes_wide(m, lanes))
        return
    word = "i32" if uniform else em.vi
    rows = [em.op(f"trunc {kind} {x} to {word}") for x in lanes]
    if bits < 32:
        small = f"i{bits}" if uniform else f"<{count} x i{bits}>"
        rows = [
            em.op(f"{'sext' if sign else 'zext'} {small} {em.op(f'trunc {word} {x} to {small}')} to {word}")
            for x in rows
        ]
    finish_int(m, ins, em.uniform(rows[0]) if uniform else em.vector(rows))


def clamp(m: Machine, value: Val, source_sign: bool, sign: bool, bits: int) -> Val:
    """A 32-bit number of its own signedness limited to another type."""
    em = m.em
    top = (1 << (bits - 1)) - 1 if sign else (1 << bits) - 1
    bottom = -(1 << (bits - 1)) if sign else 0
    if not source_sign:
        return em.iminmax("umin", value, em.const(top)) if top < 0xFFFFFFFF else value
    if bottom > -(1 << 31):
        value = em.iminmax("smax", value, em.const(bottom))
    if top < (1 << 31) - 1:
        value = em.iminmax("smin", value, em.const(top))
    return value


__all__ = ["PVal", "Untranslatable"]

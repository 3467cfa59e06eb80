"""Conversions: F2F, F2I, I2F, I2I."""

from __future__ import annotations

from gpuvm.isa.instruction import Const, Imm, Instruction, Reg
from gpuvm.jit.emit import PVal, Val, Wide
from gpuvm.jit.machine import Machine, Untranslatable, mod_bool, mod_text
from gpuvm.jit.ops_float import (
    FVal,
    Floats,
    directed,
    dsource,
    dvalue,
    float_flags,
    fput,
    fsource,
    fvalue,
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
        got = FVal(v=[em.op(f"fpext {vec} {em.op(f'bitcast {em.vh} {x} to {vec}')} to {em.vf}") for x in rows])
    if absolute:
        got = fl.abs(got)
    return fl.neg(got) if neg else got


def to_half(m: Machine, x: FVal, rnd: str) -> Val:
    """Single precision to the low 16 bits of a register."""
    em = m.em
    fl = Floats(m)
    if rnd != "RN":
        if x.u is not None:
            helper = directed(em.declared, "fptrunc.f16.f32", "half", ["float"], rnd)
            got = em.op(f"call half @{helper}(float {x.u})")
            return em.uniform(em.op(f"zext i16 {em.op(f'bitcast half {got} to i16')} to i32"))
        vec = f"<{em.U} x half>"
        helper = directed(em.declared, f"fptrunc.v{em.U}f16.v{em.U}f32", vec, [em.vf], rnd)
        rows = [em.op(f"call {vec} @{helper}({em.vf} {y})") for y in fl.units(x)]
        return em.vector([em.op(f"zext {em.vh} {em.op(f'bitcast {vec} {y} to {em.vh}')} to {em.vi}") for y in rows])
    if x.u is not None:
        got = em.op(f"bitcast half {em.op(f'fptrunc float {x.u} to half')} to i16")
        return em.uniform(em.op(f"zext i16 {got} to i32"))
    vec = f"<{em.U} x half>"
    rows = [em.op(f"bitcast {vec} {em.op(f'fptrunc {em.vf} {y} to {vec}')} to {em.vh}") for y in fl.units(x)]
    return em.vector([em.op(f"zext {em.vh} {y} to {em.vi}") for y in rows])


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
        value = to_half(m, y, direct)
        if mod_bool(ins, "cc"):
            m.put_flags(float_flags(fl, y))
        m.put(dst(ins), value)
    else:
        fput(m, ins, fl, y)


@operation("F2I")
def f2i(m: Machine, ins: Instruction) -> None:
    """Saturating; NaN gives 0."""
    em = m.em
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    double = stype == "F64"
    fl = Floats(m, double)
    if stype == "F16":
        x = half_source(m, ins)
    else:
        x = (dsource if double else fsource)(m, ins.src[0], fl)
    if mod_bool(ins, "ftz") and not double:
        x = fl.flush(x)
    x = fl.call(INTEGRAL[mod_text(ins, "rnd", "ROUND")], x)
    sign, bits = dtype[0] == "S", int(dtype[1:])
    name = "llvm.fptosi.sat" if sign else "llvm.fptoui.sat"
    kind = f"i{bits}"
    if x.u is not None:
        one = em.call(kind, f"{name}.{kind}.{fl.suffix}", [(fl.t, x.u)])
        if bits == 64:
            m.put_wide(dst(ins), Wide(base=one))
            return
        if bits == 16:
            one = em.op(f"{'sext' if sign else 'zext'} i16 {one} to i32")
        finish_int(m, ins, em.uniform(one))
        return
    vec = f"<{em.U} x {kind}>"
    full = f"{name}.v{em.U}{kind}.v{em.U}{fl.suffix}"
    rows = [em.call(vec, full, [(fl.vt, y)]) for y in fl.units(x)]
    if bits == 64:
        m.put_wide(dst(ins), lanes_wide(m, rows))
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


def signed_source(m: Machine, ins: Instruction) -> tuple[Val, bool]:
    """The same with abs and neg applied in 32 bits."""
    em = m.em
    value, sign = integer_source(m, ins)
    neg, absolute = modifiers(ins)
    if absolute and sign:
        value = em.select(em.icmp("slt", value, em.const(0)), em.neg(value), value)
    if neg:
        value = em.neg(value)
    return value, sign


@operation("I2F")
def i2f(m: Machine, ins: Instruction) -> None:
    em = m.em
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    rnd = mod_text(ins, "rnd", "RN")
    double = dtype == "F64"
    fl = Floats(m, double)
    if stype in ("U64", "S64"):
        sign = stype == "S64"
        w = m.wide(ins.src[0])
        neg, absolute = modifiers(ins)
        uniform = not w.terms and w.pair is None and w.lanes is None
        lanes = [em.s64(w.base)] if uniform else em.wide_lanes(w)
        kind = "i64" if uniform else em.vl
        if absolute and sign:
            suffix = "i64" if uniform else f"v{em.U}i64"
            lanes = [em.call(kind, f"llvm.abs.{suffix}", [(kind, x), ("i1", "false")]) for x in lanes]
        if neg:
            lanes = [em.op(f"sub {kind} {'0' if uniform else 'zeroinitializer'}, {x}") for x in lanes]
        source, source_suffix = kind, "i64" if uniform else f"v{em.U}i64"
    else:
        value, sign = signed_source(m, ins)
        neg, absolute = modifiers(ins)
        # A negated or absolute small or unsigned source can leave its own range, not the extended one's.
        if neg:
            sign = True
        uniform = value.k == "u"
        lanes = [em.s32(em.scalar(value))] if uniform else em.units(value)
        source, source_suffix = ("i32", "i32") if uniform else (em.vi, f"v{em.U}i32")
    op = "sitofp" if sign else "uitofp"
    target, target_suffix = (fl.t, fl.suffix) if uniform else (fl.vt, f"v{em.U}{fl.suffix}")
    exact = source_suffix.endswith("i32") and double
    if rnd == "RN" or exact:
        rows = [em.op(f"{op} {source} {x} to {target}") for x in lanes]
    else:
        helper = directed(em.declared, f"{op}.{target_suffix}.{source_suffix}", target, [source], rnd)
        rows = [em.op(f"call {target} @{helper}({source} {x})") for x in lanes]
    got = FVal(u=rows[0]) if uniform else FVal(v=rows)
    if dtype == "F16":
        m.put(dst(ins), to_half(m, got, rnd))
        return
    if double:
        m.put_wide(dst(ins), dvalue(fl, got))
    else:
        m.put(dst(ins), fvalue(fl, got))
    if mod_bool(ins, "cc"):
        m.put_flags(float_flags(fl, got))


@operation("I2I")
def i2i(m: Machine, ins: Instruction) -> None:
    em = m.em
    dtype, stype = mod_text(ins, "dtype"), mod_text(ins, "stype")
    sign, bits = dtype[0] == "S", int(dtype[1:])
    neg, absolute = modifiers(ins)
    raw, source_sign = integer_source(m, ins)
    value = raw
    saturate = mod_bool(ins, "sat")
    if bits == 64:
        value, source_sign = signed_source(m, ins)
        high = em.ibin("ashr", value, em.const(31)) if source_sign else em.const(0)
        m.put(dst(ins), value)
        m.put(dst(ins) + 1, high)
        return
    if absolute and source_sign:
        low = em.icmp("slt", value, em.const(0))
        value = em.select(low, em.neg(value), value)
        if saturate and stype == "S32":
            # |-2**31| is 2**31: an unsigned number from here on.
            source_sign = False
    if neg:
        negative = em.neg(value)
        if saturate and not source_sign and stype in ("U32", "S32"):
            # Minus an unsigned number: below -2**31 it saturates.
            big = em.icmp("ugt", value, em.const(0x80000000))
            negative = em.select(big, em.const(0x80000000), negative)
            source_sign = True
        elif saturate and stype == "S32":
            least = em.icmp("eq", value, em.const(0x80000000))
            if sign:
                negative = em.select(least, em.const(0x7FFFFFFF), negative)
            elif bits == 32:
                value = em.select(em.icmp("sgt", value, em.const(0)), em.const(0), negative)
                m.put(dst(ins), value)
                return
            else:
                negative = em.select(least, em.const(0x7FFFFFFF), negative)
        else:
            source_sign = True
        value = negative
    if saturate:
        value = clamp(m, value, source_sign, sign, bits)
    elif bits < 32:
        if sign:
            room = em.const(32 - bits)
            value = em.ibin("ashr", em.ibin("shl", value, room), room)
        else:
            value = em.ibin("and", value, em.const((1 << bits) - 1))
    finish_int(m, ins, value)


def clamp(m: Machine, value: Val, source_sign: bool, sign: bool, bits: int) -> Val:
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

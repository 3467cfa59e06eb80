"""cvt between all types, and cvta / isspacep (conversions of addresses)."""

from __future__ import annotations

from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.lower.compare import flushes
from gpuvm.compiler.lower.core import Lowering, handles, refuse, width
from gpuvm.compiler.lower.wide import compare64, select64, sign_extend
from gpuvm.compiler.mir import CB, TRUE, ZERO, Imm, Mod, Src
from gpuvm.compiler.ptx import ast

INTEGER = frozenset(["u8", "u16", "u32", "u64", "s8", "s16", "s32", "s64", "b8", "b16", "b32", "b64"])
FLOAT = frozenset(["f16", "f32", "f64"])
TO_INTEGER = {"rni": "ROUND", "rmi": "FLOOR", "rpi": "CEIL", "rzi": "TRUNC"}
ROUND = {"rn": "RN", "rz": "RZ", "rm": "RM", "rp": "RP"}
SHARED_WINDOW, LOCAL_WINDOW = CB(0, 0), CB(0, 4)
WINDOW_BITS = 24


@handles("cvt")
def cvt(low: Lowering, i: ast.Instr) -> None:
    if len(i.mods) < 2 or len(i.args) != 2:
        raise unsupported(i.text, i.line, "only conversions of one value to one value exist on the chip")
    to, frm = i.mods[-2:]
    for t in (to, frm):
        if t not in INTEGER | FLOAT:
            raise unsupported(i.text, i.line, f"the chip has no {t}")
    d, x = i.args
    if to in INTEGER and frm in INTEGER:
        low.set_value(d, _integers(low, i, x, to, frm))
    elif to in INTEGER:
        low.set_value(d, _float_to_integer(low, i, x, to, frm))
    elif frm in INTEGER:
        low.set_value(d, _integer_to_float(low, i, x, to, frm))
    else:
        low.set_value(d, _floats(low, i, x, to, frm))
    name = low.destination(d)
    if name != "_" and width(to) < 64:
        # a wider register than the type: extend by the type's sign
        register = low.register(name) or to
        if width(register) > width(to) and to in INTEGER:
            s = low.extend(low.read(name), to if to[0] == "s" else "u" + to[1:])
            low.write(name, s)
            if width(register) == 64:
                low.set_double(d, sign_extend(low.builder, s) if to[0] == "s" else (s, ZERO))


def _integers(low: Lowering, i: ast.Instr, x: ast.Operand, to: str, frm: str) -> tuple[Src, ...]:
    b = low.builder
    sign = frm[0] == "s"
    if width(frm) == 64:
        p = low.double(x, frm)
        if "sat" in i.mods:
            return _saturate64(low, p, to, frm)
        if width(to) == 64:
            return p
        return (_narrow(low, b.low(p[0]), to),)
    s = low.extend(low.word(x, frm), frm if sign else "u" + frm[1:])
    if "sat" in i.mods:
        s = _saturate(low, s, to, frm)
    if width(to) == 64:
        return sign_extend(b, s) if sign else (s, ZERO)
    return (_narrow(low, s, to),)


def _narrow(low: Lowering, s: Src, to: str) -> Src:
    """8-bit results live in 16-bit or wider registers, so their high bits count; 16-bit ones need no care."""
    return low.extend(s, to if to[0] == "s" else "u" + to[1:]) if width(to) == 8 else s


def _range(t: str) -> tuple[int, int]:
    bits = width(t)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if t[0] == "s" else (0, (1 << bits) - 1)


def _saturate(low: Lowering, s: Src, to: str, frm: str) -> Src:
    b = low.builder
    low_to, high_to = _range(to)
    low_from, high_from = _range(frm)
    kind: dict[str, Mod] = {"type": "S32" if frm[0] == "s" else "U32"}
    if low_from < low_to:
        s = b.one("IMNMX", [b.mov(s), Imm(low_to & 0xFFFFFFFF), _not_true()], kind)
    if high_from > high_to:
        s = b.one("IMNMX", [b.mov(s), Imm(high_to & 0xFFFFFFFF), TRUE], kind)
    return s


def _not_true() -> Src:
    from gpuvm.compiler.mir import FALSE

    return FALSE


def _saturate64(low: Lowering, p: tuple[Src, Src], to: str, frm: str) -> tuple[Src, ...]:
    b = low.builder
    sign = frm[0] == "s"
    low_to, high_to = _range(to)
    low_from, high_from = _range(frm)
    for limit, cmp, needed in ((low_to, "LT", low_from < low_to), (high_to, "GT", high_from > high_to)):
        if needed:
            bound = (Imm(limit & 0xFFFFFFFF), Imm(limit >> 32 & 0xFFFFFFFF))
            p = select64(b, compare64(b, cmp, p, bound, sign), bound, p)
    return p if width(to) == 64 else (p[0],)


def _upper(t: str) -> str:
    return ("U" if t[0] == "b" else t[0].upper()) + t[1:]


def _source(low: Lowering, x: ast.Operand, t: str) -> tuple[Src, int]:
    """A float source and its modifiers."""
    b = low.builder
    if t == "f64":
        return b.double_operand(low.double(x, t))
    s = low.word(x, t)
    if t == "f16":
        return b.mov(s), 0
    s, m = b.float_operand(s)
    return (b.mov(s) if isinstance(s, Imm) else s), m


def _float_to_integer(low: Lowering, i: ast.Instr, x: ast.Operand, to: str, frm: str) -> tuple[Src, ...]:
    b = low.builder
    mode = next((TO_INTEGER[m] for m in i.mods if m in TO_INTEGER), None)
    if mode is None:
        raise CompileError(f"{i.text} needs a rounding .rni, .rzi, .rmi or .rpi", i.line)
    mods: dict[str, Mod] = {"stype": _upper(frm), "rnd": mode}
    if "ftz" in i.mods or (frm == "f32" and flushes(low)):
        mods["ftz"] = True
    s, m = _source(low, x, frm)
    if width(to) == 64:
        return b.pair("F2I", [s], {**mods, "dtype": _upper(to)}, [m])
    wide = to[0].replace("b", "u") + "32"
    r: Src = b.one("F2I", [s], {**mods, "dtype": _upper(wide)}, [m])
    if width(to) < 32:
        r = _saturate(low, r, to, wide)
    return (r,)


def _integer_to_float(low: Lowering, i: ast.Instr, x: ast.Operand, to: str, frm: str) -> tuple[Src, ...]:
    b = low.builder
    rnd = next((ROUND[m] for m in i.mods if m in ROUND), "RN")
    source: Src
    if width(frm) == 64:
        source = low.double(x, frm)
        kind = frm
    else:
        source = b.mov(low.extend(low.word(x, frm), frm))
        kind = frm[0] + "32"
    mods: dict[str, Mod] = {"dtype": _upper(to), "stype": _upper(kind), "rnd": rnd}
    if to == "f64":
        return b.pair("I2F", [source], mods)
    if to == "f16":
        mods["dtype"] = "F32"
        raise_to = b.one("I2F", [source], mods)
        return (b.one("F2F", [raise_to], {"dtype": "F16", "stype": "F32", "rnd": rnd}),)
    r = b.one("I2F", [source], mods)
    if "sat" in i.mods:
        r = b.one("F2F", [r], {"dtype": "F32", "stype": "F32", "sat": True})
    return (r,)


def _floats(low: Lowering, i: ast.Instr, x: ast.Operand, to: str, frm: str) -> tuple[Src, ...]:
    b = low.builder
    s, m = _source(low, x, frm)
    mods: dict[str, Mod] = {"dtype": _upper(to), "stype": _upper(frm)}
    to_integral = next((TO_INTEGER[r] for r in i.mods if r in TO_INTEGER), None)
    if to_integral is not None:
        mods["rnd"] = to_integral
    elif to != frm:
        mods["rnd"] = next((ROUND[r] for r in i.mods if r in ROUND), "RN")
    if "ftz" in i.mods or ("f32" in (to, frm) and flushes(low)):
        mods["ftz"] = True
    if "sat" in i.mods:
        mods["sat"] = True
    if "relu" in i.mods or "satfinite" in i.mods:
        raise unsupported(i.text, i.line, "the chip's conversions have no .relu and no .satfinite")
    if to == frm and len(mods) == 2:
        return low.value(x, frm)
    if to == "f64":
        return b.pair("F2F", [s], mods, [m])
    return (b.one("F2F", [s], mods, [m]),)


# ---- addresses


@handles("cvta")
def cvta(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, "u32 u64 b64 s64")
    d, x = low.need(i, 2)
    b = low.builder
    space = next(
        (m for m in i.mods if m.partition("::")[0] in ("global", "local", "shared", "const", "param")), ""
    )
    space = space.partition("::")[0]
    to = "to" in i.mods
    p = low.double(x, t) if width(t) == 64 else (low.word(x, t), ZERO)
    if space in ("shared", "local"):
        window = SHARED_WINDOW if space == "shared" else LOCAL_WINDOW
        p = (b.iadd(b.low(p[0]), b.mov(window), nb=to), ZERO)
    elif space in ("const", "param"):
        p = _constant_address(low, i, x, p, space, to)
    elif space != "global":
        raise CompileError(f"{i.text}: no such state space", i.line)
    low.set_value(d, p if width(t) == 64 else (p[0],))


def _constant_address(
    low: Lowering, i: ast.Instr, x: ast.Operand, p: tuple[Src, Src], space: str, to: bool
) -> tuple[Src, Src]:
    """Constant banks have no generic window: the address is the one in GPU memory, which the loader writes to
    c[0xe].
    """
    if space == "param":
        raise unsupported(
            i.text, i.line, "parameters have no generic address; copy the parameter to a local variable"
        )
    anchor = low.layout.address("$constant2")
    base: tuple[Src, Src] = (CB(0xE, anchor), CB(0xE, anchor + 4) if low.wide_address else ZERO)
    b = low.builder
    if low.wide_address:
        return b.add64(p, base, to)
    return b.iadd(p[0], base[0], nb=to), ZERO


@handles("isspacep")
def isspacep(low: Lowering, i: ast.Instr) -> None:
    space = i.mods[0].partition("::")[0] if i.mods else ""
    d, x = low.need(i, 2)
    b = low.builder
    p = low.double(x, "u64") if low.wide_address else (low.word(x, "u32"), ZERO)
    inside: list[Src] = []
    for window in (SHARED_WINDOW, LOCAL_WINDOW):
        high = b.lop("XOR", b.mov(window), p[0])
        inside.append(
            b.compare("EQ", p[1], ZERO, False, "AND", b.compare("LT", high, Imm(1 << WINDOW_BITS), False))
        )
    if space in ("shared", "local"):
        low.set_predicate(low.destination(d), inside[space == "local"])
    elif space == "global":
        low.set_predicate(low.destination(d), b.plogic("XOR", b.plogic("OR", inside[0], inside[1]), TRUE))
    else:
        raise unsupported(i.text, i.line, f"the chip has no generic window for .{space}")


refused = {
    "wmma": "the chip has no matrix instructions",
    "mma": "the chip has no matrix instructions",
    "wgmma": "the chip has no matrix instructions",
    "ldmatrix": "the chip has no matrix instructions",
    "stmatrix": "the chip has no matrix instructions",
    "movmatrix": "the chip has no matrix instructions",
    "shfl": "the chip cannot exchange registers between threads (sm_30 can); go through shared memory",
    "match": "the chip cannot match values across a warp (that came with sm_70)",
    "redux": "the chip cannot reduce across a warp (that came with sm_80); go through shared memory",
    "cp": "the chip has no asynchronous copies (they came with sm_80); use ld and st",
    "mbarrier": "the chip has no memory barrier objects (they came with sm_80); use bar.sync",
    "elect": "the chip has no warp election (that came with sm_90)",
    "tex": "textures are not implemented; read the memory with ld.global",
    "tld4": "textures are not implemented; read the memory with ld.global",
    "txq": "textures are not implemented",
    "suld": "surfaces are not implemented; read the memory with ld.global",
    "sust": "surfaces are not implemented; write the memory with st.global",
    "sured": "surfaces are not implemented; use red.global",
    "suq": "surfaces are not implemented",
    "istypep": "textures and surfaces are not implemented",
    "tanh": "the chip has no tanh (that came with sm_75); compute it from ex2",
    "fns": "the chip has no fns",
    "nanosleep": "the chip cannot sleep (that came with sm_70)",
    "griddepcontrol": "grid dependencies came with sm_90",
    "setmaxnreg": "the register count of a warp is fixed on this chip",
    "mapa": "clusters came with sm_90",
    "getctarank": "clusters came with sm_90",
    "multimem": "multicast memory came with sm_90",
    "tensormap": "tensor maps came with sm_90",
    "createpolicy": "cache policies came with sm_80",
    "alloca": "dynamic stack allocation is not implemented; declare a .local array",
    "stacksave": "dynamic stack allocation is not implemented",
    "stackrestore": "dynamic stack allocation is not implemented",
}
for _name, _reason in refused.items():
    handles(_name)(refuse(_reason))
for _name in (
    "vadd",
    "vsub",
    "vabsdiff",
    "vmin",
    "vmax",
    "vshl",
    "vshr",
    "vmad",
    "vset",
    "vadd2",
    "vsub2",
    "vavrg2",
    "vabsdiff2",
    "vmin2",
    "vmax2",
    "vset2",
    "vadd4",
    "vsub4",
    "vavrg4",
    "vabsdiff4",
    "vmin4",
    "vmax4",
    "vset4",
):
    handles(_name)(refuse("video instructions are not implemented; use ordinary integer instructions"))

"""Comparison and selection: setp, set, selp, slct, and mov."""

from __future__ import annotations

from gpuvm.compiler.build import SWAPPED, Builder
from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.lower.core import Lowering, handles, width
from gpuvm.compiler.lower.wide import compare64, select64
from gpuvm.compiler.mir import TRUE, ZERO, Imm, PredConst, Src, Value, invert
from gpuvm.compiler.ptx import ast

TYPES = "b16 b32 b64 u16 u32 u64 s16 s32 s64 f32 f64"
_CMP = {
    "eq": "EQ",
    "ne": "NE",
    "lt": "LT",
    "le": "LE",
    "gt": "GT",
    "ge": "GE",
    "lo": "LT",
    "ls": "LE",
    "hi": "GT",
    "hs": "GE",
    "equ": "EQU",
    "neu": "NEU",
    "ltu": "LTU",
    "leu": "LEU",
    "gtu": "GTU",
    "geu": "GEU",
    "num": "NUM",
    "nan": "NAN",
}


def float_compare(
    low: Lowering,
    cmp: str,
    x: ast.Operand,
    y: ast.Operand,
    t: str,
    ftz: bool,
    bop: str = "AND",
    with_: Src = TRUE,
) -> Src:
    """A floating comparison of two operands, combined with a predicate."""
    if t == "f32":
        return compare32(low.builder, cmp, low.word(x, t), low.word(y, t), ftz, bop, with_)
    b = low.builder
    u, mu = b.double_operand(low.double(x, t))
    v, mv = b.double_operand(low.double(y, t))
    return b.pred("DSETP", [u, v, with_], {"cmp": cmp, "bop": bop}, [mu, mv, 0])


def compare32(
    b: Builder, cmp: str, x: Src, y: Src, ftz: bool = False, bop: str = "AND", with_: Src = TRUE
) -> Value:
    """A comparison of two floats, combined with a predicate."""
    x, mx = b.float_operand(x)
    y, my = b.float_operand(y)
    if isinstance(x, Imm) and not isinstance(y, Imm):
        x, y, mx, my, cmp = y, x, my, mx, SWAPPED.get(cmp, cmp)
    return b.pred(
        "FSETP", [x, y, with_], {"cmp": cmp, "bop": bop, **({"ftz": True} if ftz else {})}, [mx, my, 0]
    )


def _compare(
    low: Lowering, i: ast.Instr, t: str, x: ast.Operand, y: ast.Operand, bop: str = "AND", with_: Src = TRUE
) -> Src:
    word = i.mods[0]
    if word not in _CMP:
        raise CompileError(f"{i.text}: {word} is no comparison", i.line)
    cmp = _CMP[word]
    if t[0] == "f":
        return float_compare(low, cmp, x, y, t, "ftz" in i.mods or (t == "f32" and flushes(low)), bop, with_)
    if cmp not in ("EQ", "NE", "LT", "LE", "GT", "GE"):
        raise CompileError(f"{i.text}: {word} compares floating-point numbers only", i.line)
    sign = t[0] == "s" and word not in ("lo", "ls", "hi", "hs")
    if width(t) == 64:
        wide = compare64(low.builder, cmp, low.double(x, t), low.double(y, t), sign)
        return low.builder.plogic(bop, wide, with_)
    u, v = low.word(x, t), low.word(y, t)
    if width(t) == 16:
        t = t if sign else "u16"
        u, v = low.extend(u, t), low.extend(v, t)
    if isinstance(u, Imm):
        u, v, cmp = v, u, SWAPPED.get(cmp, cmp)
    return low.builder.compare(cmp, u, v, sign, bop, with_)


def flushes(low: Lowering) -> bool:
    """Code for sm_1x flushes single-precision denormals everywhere."""
    return low.layout.module.target.startswith("sm_1") and len(low.layout.module.target) == 5


@handles("setp")
def setp(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, TYPES)
    if len(i.args) not in (3, 4):
        raise CompileError(f"{i.text} takes 3 or 4 operands, not {len(i.args)}", i.line)
    d, x, y = i.args[:3]
    b = low.builder
    c: Src = TRUE
    op = "AND"
    if len(i.args) == 4:
        c = low.predicate(i.args[3])
        op = i.mods[1].upper() if len(i.mods) > 1 else ""
        if op not in ("AND", "OR", "XOR"):
            raise CompileError(f"{i.text}: with a predicate source setp needs .and, .or or .xor", i.line)
        if not isinstance(d, ast.Pair) and not isinstance(c, PredConst):
            low.set_predicate(low.destination(d), _compare(low, i, t, x, y, op, c))
            return
    p = _compare(low, i, t, x, y)
    q = invert(p)
    if len(i.args) == 4:
        p, q = b.plogic(op, p, c), b.plogic(op, q, c)
    if isinstance(d, ast.Pair):
        low.set_predicate(d.first, p)
        low.set_predicate(d.second, q)
    else:
        low.set_predicate(low.destination(d), p)


@handles("set")
def set_(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, TYPES)
    if len(i.mods) < 3 or i.mods[-2] not in ("u32", "s32", "f32"):
        raise CompileError(f"{i.text}: the result type must be u32, s32 or f32", i.line)
    b = low.builder
    p = _compare(low, i, t, i.args[1], i.args[2])
    if len(i.args) == 4:
        op = i.mods[1].upper()
        if op not in ("AND", "OR", "XOR"):
            raise CompileError(f"{i.text}: with a predicate source set needs .and, .or or .xor", i.line)
        p = b.plogic(op, p, low.predicate(i.args[3]))
    low.set_word(i.args[0], b.from_pred(p, 0x3F800000 if i.mods[-2] == "f32" else 0xFFFFFFFF))


@handles("selp")
def selp(low: Lowering, i: ast.Instr) -> None:
    t = low.kind(i, TYPES)
    d, x, y, c = low.need(i, 4)
    p = low.predicate(c)
    if width(t) == 64:
        low.set_double(d, select64(low.builder, p, low.double(x, t), low.double(y, t)))
    else:
        low.set_word(d, low.builder.select(p, low.word(x, t), low.word(y, t)))


@handles("slct")
def slct(low: Lowering, i: ast.Instr) -> None:
    c_type = low.kind(i, "s32 f32")
    t = i.mods[-2]
    d, x, y, c = low.need(i, 4)
    b = low.builder
    if c_type == "s32":
        p = b.compare("GE", low.word(c, "s32"), ZERO, True)
    else:
        p = compare32(b, "GE", low.word(c, "f32"), ZERO, "ftz" in i.mods)
    if width(t) == 64:
        low.set_double(d, select64(b, p, low.double(x, t), low.double(y, t)))
    else:
        low.set_word(d, b.select(p, low.word(x, t), low.word(y, t)))


@handles("mov")
def mov(low: Lowering, i: ast.Instr) -> None:
    t = i.mods[-1] if i.mods else ""
    d, x = low.need(i, 2)
    b = low.builder
    if t == "pred":
        low.set_predicate(low.destination(d), low.predicate(x))
    elif isinstance(x, ast.Vector):
        # pack: low parts first
        count = len(x.items)
        part = width(t) // count
        if part * count != width(t) or part not in (8, 16, 32):
            raise CompileError(f"{i.text} cannot pack {count} parts", i.line)
        words: list[Src] = []
        for k in range(0, count, max(1, 32 // part)):
            word: Src = ZERO
            for j, item in enumerate(x.items[k : k + 32 // part]):
                piece = low.extend(low.word(item, f"b{part}"), f"u{part}")
                word = b.lop("OR", word, b.shl(piece, Imm(part * j)))
            words.append(word)
        low.set_value(d, tuple(words))
    elif isinstance(d, ast.Vector):
        count = len(d.items)
        part = width(t) // count
        if part * count != width(t) or part not in (8, 16, 32):
            raise CompileError(f"{i.text} cannot unpack {count} parts", i.line)
        sources = low.value(x, t)
        for k, item in enumerate(d.items):
            bit = part * k
            low.set_word(item, b.bfe(sources[bit // 32], bit % 32, part))
    elif width(t) == 64:
        low.set_double(d, low.double(x, t))
    elif t in ("b16", "u16", "s16", "b32", "u32", "s32", "f32", "f16", "b8", "u8", "s8", "f16x2"):
        low.set_word(d, low.word(x, t))
    else:
        raise CompileError(f"{i.text}: a move needs a type of 16 to 64 bits", i.line)

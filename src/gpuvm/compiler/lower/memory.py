"""Loads, stores, prefetches, fences and native atomics."""

from __future__ import annotations

from gpuvm.compiler.build import Pair
from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.layout import CONSTANT_BANK, PARAMETER_BASE
from gpuvm.compiler.library import native_global
from gpuvm.compiler.lower.core import Lowering, handles, width
from gpuvm.compiler.lower.wide import sign_extend
from gpuvm.compiler.mir import CB, ZERO, Imm, Inst, Mod, Src, SymbolWord, Value
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import type_size

SPACES = ("global", "local", "shared", "const", "param")
TYPES = frozenset((*(f"{k}{n}" for k in "bus" for n in (8, 16, 32, 64)), "f16", "f32", "f64"))
_LOAD_CACHE = {"ca": "CA", "cg": "CG", "cs": "CS", "lu": "CS", "cv": "CV"}
_STORE_CACHE = {"wb": "WB", "cg": "CG", "cs": "CS", "wt": "WT"}
STRONG = frozenset(("volatile", "relaxed", "acquire", "mmio"))


class Access:
    """What the dotted parts of a load, store or atomic say."""

    def __init__(self, low: Lowering, i: ast.Instr) -> None:
        self.space = ""
        self.vector = 1
        self.type = i.mods[-1] if i.mods else ""
        for m in i.mods:
            head = m.partition("::")[0]
            if head in SPACES:
                self.space = head
                if m == "shared::cluster":
                    raise unsupported(i.text, i.line, "clusters came with sm_90")
            elif m in ("v2", "v4", "v8"):
                self.vector = int(m[1:])
        self.strong = bool(STRONG & set(i.mods))
        if self.type not in TYPES:
            raise CompileError(f"{i.text}: {self.type} is no type of memory", i.line)
        self.size = type_size(self.type)
        if self.size * self.vector > 16:
            raise unsupported(i.text, i.line, "one access moves at most 16 bytes")


class Location:
    """An address ready for a memory operand: base words and offset in bytes."""

    def __init__(self, low: Lowering, space: str, a: ast.Operand) -> None:
        if not isinstance(a, ast.Address):
            raise low.wrong("a memory instruction needs an address in brackets")
        b = low.builder
        self.symbol = ""
        self.frame = False
        base: Pair = (ZERO, ZERO)
        offset = a.offset
        if a.base is not None:
            t = low.register(a.base)
            if t is not None:
                base = (
                    low.double(ast.Name(a.base), "u64")
                    if width(t) == 64
                    else (low.word(ast.Name(a.base), "u32"), ZERO)
                )
            else:
                lo, hi, more = low.symbol(a.base)
                base = (lo, hi)
                offset += more
                self.symbol = a.base
        wide = space in ("", "global") and low.wide_address
        if wide:
            base, more = b.split_address(base)
            offset += more
            if isinstance(base[0], Imm) and isinstance(base[1], Imm):
                value = base[0].value + (base[1].value << 32) + offset & (1 << 64) - 1
                base, offset = (Imm(value & 0xFFFFFFFF), Imm(value >> 32)), 0
            if not -(1 << 31) <= offset < 1 << 31:
                base, offset = b.add64(base, (Imm(offset & 0xFFFFFFFF), Imm(offset >> 32 & 0xFFFFFFFF))), 0
            self.base: Src | None = (base[0], base[1])
            self.offset = offset
            return
        word = b.low(base[0])
        inst = b.maker(word, "IADD")
        while inst and isinstance(inst.srcs[1], Imm) and not inst.mods and inst.smods[0] == 0:
            c = inst.srcs[1].value
            offset += c - (1 << 32) if c >> 31 else c
            word = inst.srcs[0]
            inst = b.maker(word, "IADD")
        if isinstance(word, SymbolWord):
            self.frame = True
            offset += word.addend
            word = ZERO
        limit = 1 << (31 if space in ("", "global") else 23)
        if isinstance(word, Imm):
            offset = offset + word.value & 0xFFFFFFFF
            self.base = None
            self.offset = offset
            if offset >= limit:
                self.base, self.offset = b.mov(Imm(offset)), 0
            return
        if not -limit <= offset < limit or (space in ("const", "param") and not 0 <= offset < 1 << 15):
            word, offset = b.iadd(word, Imm(offset & 0xFFFFFFFF)), 0
        self.base = word
        self.offset = offset


def _emit_load(
    low: Lowering, i: ast.Instr, space: str, size: str, count: int, at: Location, extra: int = 0
) -> list[Value]:
    op = {"": "LD", "global": "LD", "local": "LDL", "shared": "LDS", "const": "LDC", "param": "LDC"}[space]
    mods: dict[str, Mod] = {"size": size, "off": at.offset + extra}
    if op == "LD":
        mods["e"] = low.wide_address
    if op == "LDC":
        mods["bank"] = CONSTANT_BANK if space == "const" else 0
    elif op != "LDS":
        cache = next((_LOAD_CACHE[m] for m in i.mods if m in _LOAD_CACHE), "")
        if STRONG & set(i.mods):
            cache = "CV"
        if cache and cache != "CA":
            mods["cache"] = cache
    if at.frame:
        mods["frame"] = True
    kinds = "r" if count == 1 else str(count)
    inst = low.builder.emit(op, kinds, [at.base if at.base is not None else ZERO], mods)
    d = inst.dsts[0]
    return list(d) if isinstance(d, tuple) else [d]


def _widen(low: Lowering, o: ast.Operand, words: tuple[Src, ...], t: str) -> None:
    """Write a loaded element; a wider register gets it extended by the type's sign."""
    name = low.destination(o)
    if name == "_":
        return
    register = low.register(name)
    if register is not None and width(register) == 64 and len(words) == 1:
        low.set_double(o, sign_extend(low.builder, words[0]) if t[0] == "s" else (words[0], ZERO))
    else:
        low.set_value(o, words)


def _elements(o: ast.Operand, count: int, low: Lowering) -> list[ast.Operand]:
    if count == 1:
        if isinstance(o, ast.Vector):
            if len(o.items) != 1:
                raise low.wrong("a vector operand needs .v2 or .v4")
            return [o.items[0]]
        return [o]
    if (
        isinstance(o, ast.Name)
        and o.name in low.body.registers
        and low.body.registers[o.name].vector == count
    ):
        return [ast.Name(f"{o.name}.{c}") for c in "xyzw"[:count]]
    if not isinstance(o, ast.Vector) or len(o.items) != count:
        raise low.wrong(f"a vector of {count} registers is needed")
    return list(o.items)


_NARROW = {"b8": "U8", "u8": "U8", "s8": "S8", "b16": "U16", "u16": "U16", "s16": "S16", "f16": "U16"}


@handles("ld", "ldu")
def ld(low: Lowering, i: ast.Instr) -> None:
    a = Access(low, i)
    if len(i.args) != 2:
        raise CompileError(f"{i.text} takes 2 operands", i.line)
    targets = _elements(i.args[0], a.vector, low)
    if a.space == "param":
        from gpuvm.compiler.lower import calls

        if calls.load_parameter(low, i, a, targets):
            return
    at = Location(low, a.space, i.args[1])
    if a.space == "const" and at.base is None and a.size >= 4 and (at.offset + a.size * a.vector) <= 1 << 16:
        for k, o in enumerate(targets):
            first = at.offset + k * a.size
            low.set_value(o, tuple(CB(CONSTANT_BANK, first + 4 * w) for w in range(a.size // 4)))
        return
    total = a.size * a.vector
    if a.vector == 1 and a.size < 4:
        _widen(low, targets[0], tuple(_emit_load(low, i, a.space, _NARROW[a.type], 1, at)), a.type)
    elif a.size < 4:
        size = {2: "U16", 4: "32", 8: "64"}[total]
        got = _emit_load(low, i, a.space, size, max(1, total // 4), at)
        for k, o in enumerate(targets):
            bit = 8 * a.size * k
            s = low.builder.bfe(got[bit // 32], bit % 32, 8 * a.size, a.type[0] == "s")
            _widen(low, o, (s,), a.type)
    else:
        count = total // 4
        got = _emit_load(low, i, a.space, {1: "32", 2: "64", 4: "128"}[count], count, at)
        per = a.size // 4
        for k, o in enumerate(targets):
            _widen(low, o, tuple(got[k * per : k * per + per]), a.type)
    if "acquire" in i.mods:
        _membar(low, i)


@handles("st")
def st(low: Lowering, i: ast.Instr) -> None:
    a = Access(low, i)
    if len(i.args) != 2:
        raise CompileError(f"{i.text} takes 2 operands", i.line)
    sources = _elements(i.args[1], a.vector, low)
    if a.space == "param":
        from gpuvm.compiler.lower import calls

        calls.store_parameter(low, i, a, sources)
        return
    if a.space == "const":
        raise CompileError(f"{i.text}: constant memory cannot be written by a kernel", i.line)
    b = low.builder
    if "release" in i.mods:
        _membar(low, i)
    at = Location(low, a.space, i.args[0])
    words: list[Src] = []
    for o in sources:
        if a.size == 8:
            words.extend(low.double(o, a.type))
        else:
            words.append(low.word(o, a.type if a.size == 4 or not isinstance(o, ast.Number) else "b32"))
    total = a.size * a.vector
    if a.vector > 1 and a.size < 4:
        packed: list[Src] = []
        per = 4 // a.size
        for k in range(0, a.vector, per):
            word: Src = ZERO
            for j, s in enumerate(words[k : k + per]):
                piece = b.lop("AND", s, Imm((1 << 8 * a.size) - 1))
                word = b.lop("OR", word, b.shl(piece, Imm(8 * a.size * j)))
            packed.append(word)
        words = packed
    size = {1: "U8", 2: "U16", 4: "32", 8: "64", 16: "128"}[total]
    op = {"": "ST", "global": "ST", "local": "STL", "shared": "STS"}[a.space]
    mods: dict[str, Mod] = {"size": size, "off": at.offset}
    if op == "ST":
        mods["e"] = low.wide_address
    if op != "STS":
        cache = next((_STORE_CACHE[m] for m in i.mods if m in _STORE_CACHE), "")
        if cache and cache != "WB":
            mods["cache"] = cache
    if at.frame:
        mods["frame"] = True
    data: Src = tuple(words) if len(words) > 1 else words[0]
    inst = b.emit(op, [], [at.base if at.base is not None else ZERO, data], mods)
    _guard(low, i, inst)


def _guard(low: Lowering, i: ast.Instr, inst: Inst) -> None:
    """Attach the PTX guard of an instruction without result."""
    if i.guard is None:
        return
    p = low.read(i.guard, "p")
    from gpuvm.compiler.mir import NotP, PredConst

    flip = i.guard_not
    if isinstance(p, NotP):
        p, flip = p.value, not flip
    if isinstance(p, PredConst):
        if p.value == flip:
            assert inst.block is not None
            inst.block.insts.remove(inst)
        return
    assert isinstance(p, Value)
    inst.guard, inst.guard_not = p, flip


@handles("prefetch", "prefetchu", "discard", "applypriority")
def prefetch(low: Lowering, i: ast.Instr) -> None:
    """Hints about caches: the address is read and nothing else happens."""


@handles("membar", "fence")
def membar(low: Lowering, i: ast.Instr) -> None:
    if "proxy" in i.mods or any(m.startswith("mbarrier") for m in i.mods):
        raise unsupported(i.text, i.line, "proxies and asynchronous barriers came with sm_80")
    _membar(low, i)


def _membar(low: Lowering, i: ast.Instr) -> None:
    level = "CTA" if "cta" in i.mods else "SYS" if "sys" in i.mods else "GL"
    _guard(low, i, low.builder.emit("MEMBAR", [], [], {"level": level}))


# ---- atomics the chip has


ATOMICS = frozenset(["add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas"])


def operation(i: ast.Instr) -> str:
    return next((m for m in i.mods if m in ATOMICS), "")


@handles("atom", "red")
def atom(low: Lowering, i: ast.Instr) -> None:
    a = Access(low, i)
    op = operation(i)
    if not op or not native_global(op, a.type) or a.space not in ("", "global") or a.vector > 1:
        raise unsupported(i.text, i.line, "the chip has no such atomic operation and none can be made of it")
    b = low.builder
    result = i.op == "atom"
    address = i.args[1] if result else i.args[0]
    values = [low.value(o, a.type) for o in i.args[2 if result else 1 :]]
    if len(values) != (2 if op == "cas" else 1):
        raise CompileError(f"{i.text} has {len(i.args)} operands", i.line)
    at = Location(low, a.space, address)
    if {"acq_rel", "release"} & set(i.mods):
        _membar(low, i)
    base, offset = at.base, at.offset
    if base is None:
        base, offset = (b.mov(Imm(offset)), ZERO) if low.wide_address else b.mov(Imm(offset)), 0
    name = op.upper()
    # without a result RED is enough; exchange and compare need ATOM
    reduce = (not result or (isinstance(i.args[0], ast.Name) and i.args[0].name == "_")) and op not in (
        "exch",
        "cas",
    )
    limit = 31 if reduce else 19
    if not -(1 << limit) <= offset < 1 << limit:
        if isinstance(base, tuple):
            base = b.add64((base[0], base[1]), (Imm(offset & 0xFFFFFFFF), Imm(offset >> 32 & 0xFFFFFFFF)))
        else:
            base = b.iadd(base, Imm(offset & 0xFFFFFFFF))
        offset = 0
    kind = {"s64": "U64", "b64": "U64", "b32": "U32", "u64": "U64", "f32": "F32", "u32": "U32", "s32": "S32"}[
        a.type
    ]
    mods: dict[str, Mod] = {"op": name, "type": kind, "e": low.wide_address, "off": offset}
    data: list[Src] = [v if len(v) > 1 else v[0] for v in values]
    if op == "cas":
        # the chip takes both from consecutive registers
        data = [(*values[0], *values[1])]
    if reduce:
        _guard(low, i, b.emit("RED", [], [base, *data], mods))
    else:
        inst = b.emit("ATOM", "2" if a.size == 8 else "r", [base, *data], mods)
        if result:
            d = inst.dsts[0]
            low.set_value(i.args[0], d if isinstance(d, tuple) else (d,))
    if {"acq_rel", "acquire"} & set(i.mods):
        _membar(low, i)


@handles("_ldslk", "_stsul")
def locked(low: Lowering, i: ast.Instr) -> None:
    """Library-only: load and lock a word of shared memory (predicate: got it); store and unlock."""
    b = low.builder
    t = i.mods[-1]
    size = "64" if width(t) == 64 else "32"
    if i.op == "_ldslk":
        assert isinstance(i.args[0], ast.Name)
        at = Location(low, "shared", i.args[2])
        inst = b.emit(
            "LDSLK",
            "p2" if size == "64" else "pr",
            [at.base if at.base is not None else ZERO],
            {"size": size, "off": at.offset},
        )
        p, d = inst.dsts
        assert isinstance(p, Value)
        low.set_predicate(i.args[0].name, p)
        low.set_value(i.args[1], d if isinstance(d, tuple) else (d,))
        return
    at = Location(low, "shared", i.args[0])
    value = low.value(i.args[1], t)
    inst = b.emit(
        "STSUL",
        [],
        [at.base if at.base is not None else ZERO, value if len(value) > 1 else value[0]],
        {"size": size, "off": at.offset},
    )
    _guard(low, i, inst)


__all__ = ["PARAMETER_BASE"]

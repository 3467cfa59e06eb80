"""Loads and stores: generic (global with shared and local windows), shared, local, constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gpuvm.isa.instruction import Instruction, Mem, Pred, Reg
from gpuvm.jit import layout as at
from gpuvm.jit.address import Plan, any_active, extend, plan
from gpuvm.jit.emit import TRUE, PVal, Scalar, Val, Wide, signed
from gpuvm.jit.helpers import (
    ATOM_OPS,
    ATOM_TYPES,
    RARE,
    SIGNATURES,
    SPACE_GENERIC,
    SPACE_LOCAL,
    SPACE_SHARED,
)
from gpuvm.jit.launch import ErrorKind
from gpuvm.jit.machine import LOCAL, SHARED, Machine, Untranslatable, mod_text
from gpuvm.jit.ops_float import lanes_wide
from gpuvm.jit.ops_integer import dst, dst_pred, operation

SIZES = {
    "U8": (1, False),
    "S8": (1, True),
    "U16": (2, False),
    "S16": (2, True),
    "32": (4, False),
    "64": (8, False),
    "128": (16, False),
}
# Alias scopes by memory: accesses to one never touch another (see `codegen` for the nodes).
META = {"global": "!alias.scope !10, !noalias !11", "shared": "!alias.scope !12, !noalias !13",
        "local": "!alias.scope !14, !noalias !15"}  # fmt: skip


@dataclass
class Access:
    """One load or store in words of the result."""

    size: int
    sign: bool
    space: int
    base: str
    """Pointer that addresses are relative to."""
    meta: str
    faults: bool
    """Whether touching an inactive lane's address could fault or race (global memory)."""


def mem_address(m: Machine, mem: Mem) -> Wide:
    """The address as 64 bits; 32-bit forms wrap at 32 bits."""
    em = m.em
    if mem.base.count == 2:
        lo, hi = m.double_words(mem.base)
        w = m.join(lo, hi)
        if mem.offset:
            moved = em.wide_add(w, Wide(base=mem.offset & (1 << 64) - 1))
            if moved is None:
                step = signed(mem.offset & (1 << 64) - 1, 64)
                lanes = [em.op(f"add {em.vl} {x}, splat (i64 {step})") for x in em.wide_lanes(w)]
                moved = lanes_wide(m, lanes)
            w = moved
        return w
    return narrow_address(m, mem)


def narrow_address(m: Machine, mem: Mem) -> Wide:
    em = m.em
    low = em.ibin("add", m.get(mem.base.index), em.const(mem.offset))
    if low.k == "u":
        return Wide(base=extend(m, em.scalar(low), False))
    return Wide(terms=((low, False, 1),))


def or_all(m: Machine, conditions: list[str]) -> str | None:
    kept = [c for c in conditions if c != "true"]
    if len(kept) < len(conditions):
        return "true"
    if not kept:
        return None
    whole = kept[0]
    for c in kept[1:]:
        whole = m.em.op(f"or i1 {whole}, {c}")
    return whole


def mask64(m: Machine, mask: PVal) -> str:
    em = m.em
    bits = em.bits(mask)
    if m.shape.lanes == 64:
        return bits
    if bits == "-1":
        return str((1 << m.shape.lanes) - 1)
    return em.op(f"zext {em.mi} {bits} to i64")


def store_rows(m: Machine, offset: int, rows: list[str], kind: str, bytes_each: int) -> None:
    """Put units into the scratch area."""
    em = m.em
    for n, x in enumerate(rows):
        p = em.op(f"getelementptr i8, ptr %scratch, i64 {offset + n * em.U * bytes_each}")
        em.do(f"store {kind} {x}, ptr {p}, align 4")


def helper_args(m: Machine, code: int, space: int, bits: str) -> str:
    """Arguments of gpuvm_load and gpuvm_store."""
    return f"ptr %ctx, ptr {LOCAL}, i32 {m.pc}, i32 {code}, i32 {space}, i64 {bits}, i32 {m.shape.lanes}"


def helper(m: Machine, name: str, args: str, ret: str = "void") -> str:
    em = m.em
    em.declare(SIGNATURES[name])
    convention = "preserve_allcc " if name in RARE else ""
    text = f"call {convention}{ret} @{name}({args})"
    if ret == "void":
        em.do(text)
        return ""
    return em.op(text)


def diamond(m: Machine, bad: str | None, fast: Callable[[], list[tuple[str, str]]],
            slow: Callable[[], list[tuple[str, str]]]) -> list[str]:  # fmt: skip
    """Run `fast`, or `slow` where `bad` holds; both give the same list of (type, value)."""
    em = m.em
    if bad is None:
        return [x for _, x in fast()]
    if bad == "true":
        em.cold += 1
        got = [x for _, x in slow()]
        em.cold -= 1
        return got
    slow_label, fast_label, join = em.new_label("slow"), em.new_label("fast"), em.new_label("join")
    em.do(f"br i1 {bad}, label %{slow_label}, label %{fast_label}, !prof !1")
    em.place(slow_label)
    em.cold += 1
    slow_values = slow()
    slow_end = em.label
    em.do(f"br label %{join}")
    em.place(fast_label)
    fast_values = fast()
    em.cold -= 1
    fast_end = em.label
    em.do(f"br label %{join}")
    em.place(join)
    got = []
    for (kind, x), (_, y) in zip(fast_values, slow_values, strict=True):
        got.append(em.op(f"phi {kind} [ {x}, %{fast_end} ], [ {y}, %{slow_end} ]"))
    return got


# Loads


def load_access(m: Machine, ins: Instruction, w: Wide, acc: Access, uniform_ok: bool) -> None:
    em = m.em
    words = max(acc.size // 4, 1)
    mask = m.mask()
    p = plan(m, w, acc.size, acc.space == SPACE_GENERIC, acc.space == SPACE_SHARED)
    bad = list(p.bad)
    if acc.space == SPACE_SHARED:
        bad += shared_bounds(m, p, acc.size, mask)
    uniform = p.kind == "one" and uniform_ok
    whole64 = acc.size == 8 and (p.kind == "one" or (p.kind == "rows" and contiguous_units(m, p, 8)))
    if uniform:
        types = ["i64"] if whole64 else ["i32"] * words
    elif whole64:
        types = [em.vl] * m.shape.units
    else:
        types = [em.vi] * (m.shape.units * words)
    args = (w, acc, mask, p)

    def fast() -> list[tuple[str, str]]:
        got = fast_load(m, *args, words, whole64, uniform)
        return list(zip(types, got, strict=True))

    def slow() -> list[tuple[str, str]]:
        return list(zip(types, slow_load(m, w, acc, mask, words, whole64, uniform), strict=True))

    got = diamond(m, or_all(m, bad), fast, slow)
    m.count_access(acc.space, False, p.segments, mask)
    index = dst(ins, len(ins.dst) - 1)
    if uniform:
        if whole64:
            m.put_wide(index, Wide(base=got[0]))
        else:
            for n in range(words):
                m.put(index + n if index < 63 else 63, em.uniform(got[n]))
    elif whole64:
        m.put_wide(index, lanes_wide(m, got))
    else:
        for n in range(words):
            units = got[n * m.shape.units : (n + 1) * m.shape.units]
            m.put(index + n if index < 63 else 63, em.vector(units))


def slow_load(
    m: Machine, w: Wide, acc: Access, mask: PVal, words: int, whole64: bool, uniform: bool
) -> list[str]:
    em = m.em
    store_rows(m, at.SCRATCH_ADDRESS, em.wide_lanes(w), em.vl, 8)
    bits = mask64(m, mask)
    code = acc.size | (256 if acc.sign else 0)
    helper(
        m,
        "gpuvm_load",
        f"ptr %ctx, ptr {LOCAL}, i32 {m.pc}, i32 {code}, i32 {acc.space}, i64 {bits}, i32 {m.shape.lanes}",
    )
    if uniform:
        lane = em.call("i64", "llvm.cttz.i64", [("i64", bits), ("i1", "false")])
        lane = em.op(f"and i64 {lane}, 63")
        got = []
        for n in range(words):
            row = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT + 256 * n}")
            got.append(em.op(f"load i32, ptr {em.op(f'getelementptr i32, ptr {row}, i64 {lane}')}, align 4"))
        if whole64:
            low, high = em.op(f"zext i32 {got[0]} to i64"), em.op(f"zext i32 {got[1]} to i64")
            return [em.op(f"or i64 {low}, {em.op(f'shl i64 {high}, 32')}")]
        return got
    got = []
    for n in range(words):
        for unit in range(m.shape.units):
            row = em.op(
                f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT + 256 * n + 4 * em.U * unit}"
            )
            got.append(em.op(f"load {em.vi}, ptr {row}, align 4"))
    if whole64:
        half = m.shape.units
        out = []
        for lo, hi in zip(got[:half], got[half:], strict=True):
            low, high = em.op(f"zext {em.vi} {lo} to {em.vl}"), em.op(f"zext {em.vi} {hi} to {em.vl}")
            out.append(em.op(f"or {em.vl} {low}, {em.op(f'shl {em.vl} {high}, splat (i64 32)')}"))
        return out
    return got


def pointer(m: Machine, base: str, offset: Scalar) -> str:
    return m.em.op(f"getelementptr i8, ptr {base}, i64 {m.em.s64(offset)}")


def load_text(acc: Access, kind: str, p: str, align: int) -> str:
    return f"load {kind}, ptr {p}, align {align}, {acc.meta}"


def widen_small(m: Machine, kind: str, target: str, x: str, sign: bool) -> str:
    return m.em.op(f"{'sext' if sign else 'zext'} {kind} {x} to {target}")


def fast_load(
    m: Machine, w: Wide, acc: Access, mask: PVal, p: Plan, words: int, whole64: bool, uniform: bool
) -> list[str]:
    em = m.em
    if p.kind == "one":
        where = pointer(m, acc.base, p.address)
        if acc.faults and m.guard is not TRUE:
            some = m.any_lane(mask)
            where = em.op(f"select i1 {em.i1(some)}, ptr {where}, ptr %dummy")
        got: list[str] = []
        if acc.size < 4:
            small = em.op(load_text(acc, f"i{acc.size * 8}", where, acc.size))
            got = [widen_small(m, f"i{acc.size * 8}", "i32", small, acc.sign)]
        elif whole64:
            got = [em.op(load_text(acc, "i64", where, 8))]
        else:
            for n in range(words):
                got.append(em.op(load_text(acc, "i32", pointer(m, where, 4 * n), 4)))
        if uniform:
            return got
        kind = "i64" if whole64 else "i32"
        return [row for x in got for row in [em.splat(x, kind)] * m.shape.units]
    if p.kind == "rows":
        return rows_load(m, acc, mask, p, words, whole64)
    return lanes_load(m, acc, mask, p, words)


def unit_layout(m: Machine, p: Plan) -> list[list[tuple[int, int]]]:
    """For each unit, its lanes as (row, offset)."""
    where: dict[int, tuple[int, int]] = {}
    for r, row in enumerate(p.rows):
        for lane, offset in row.lanes:
            where[lane] = (r, offset)
    unit = m.shape.unit
    return [[where[n * unit + i] for i in range(unit)] for n in range(m.shape.units)]


def pieces(lanes: list[tuple[int, int]], size: int) -> list[tuple[int, int, int, int]] | None:
    """Split a unit into equal runs: (first lane, row, offset, stride 0 or size), or None if it has no such
    shape."""
    count = len(lanes)
    length = count
    while length >= 1:
        got: list[tuple[int, int, int, int]] = []
        for first in range(0, count, length):
            run = lanes[first : first + length]
            row, offset = run[0]
            if all(r == row and o == offset + size * n for n, (r, o) in enumerate(run)):
                got.append((first, row, offset, size))
            elif all(r == row and o == offset for r, o in run):
                got.append((first, row, offset, 0))
            else:
                break
        else:
            return got
        length //= 2
    return None


def contiguous_units(m: Machine, p: Plan, size: int) -> bool:
    for lanes in unit_layout(m, p):
        got = pieces(lanes, size)
        if got is None or len(got) != 1:
            return False
    return True


def sub_mask(m: Machine, mask_unit: str, first: int, length: int) -> str:
    em = m.em
    if length == em.U:
        return mask_unit
    pick = "<" + ", ".join(f"i32 {first + n}" for n in range(length)) + ">"
    return em.op(f"shufflevector {em.vb} {mask_unit}, {em.vb} poison, <{length} x i32> {pick}")


def rows_load(m: Machine, acc: Access, mask: PVal, p: Plan, words: int, whole64: bool) -> list[str]:
    em = m.em
    full = mask is TRUE or not acc.faults
    bases = [pointer(m, acc.base, row.address) for row in p.rows]
    layout = unit_layout(m, p)
    out: list[list[str]] = [[] for _ in range(words)]
    wide: list[str] = []
    seen: dict[object, str] = {}
    mask_units = None if full else em.punits(mask)
    for n, lanes in enumerate(layout):
        key = (tuple(lanes), None if full else n)
        got = pieces(lanes, acc.size)
        assert got is not None
        length = em.U // len(got)
        if whole64:
            first, row, offset, stride = got[0]
            where = pointer(m, bases[row], offset)
            if stride == 0:
                wide.append(
                    em.splat(
                        scalar_or_safe(m, acc, where, "i64", None if mask_units is None else mask_units[n]),
                        "i64",
                    )
                )
            else:
                wide.append(
                    vector_load(m, acc, where, "i64", em.U, None if mask_units is None else mask_units[n])
                )
            continue
        if key in seen and acc.size <= 4:
            out[0].append(seen[key])
            continue
        for word in range(words):
            step = acc.size if acc.size < 4 else 4
            kind = f"i{8 * step}"
            parts: list[str] = []
            for first, row, offset, stride in got:
                where = pointer(m, bases[row], offset + 4 * word)
                part_mask = None if mask_units is None else sub_mask(m, mask_units[n], first, length)
                if stride == 0 or length == 1:
                    parts.append(
                        splat_part(m, scalar_or_safe(m, acc, where, kind, part_mask, length), kind, length)
                    )
                elif stride == step:
                    parts.append(vector_load(m, acc, where, kind, length, part_mask))
                else:
                    # 64- and 128-bit elements: every second or fourth word of a longer load.
                    parts.append(strided_load(m, acc, where, length, stride // 4, part_mask))
            whole = concat(m, parts, kind, length)
            if acc.size < 4:
                whole = widen_small(m, f"<{em.U} x {kind}>", em.vi, whole, acc.sign)
            seen[key] = whole
            out[word].append(whole)
    if whole64:
        return wide
    return [x for row in out for x in row]


def scalar_or_safe(
    m: Machine, acc: Access, where: str, kind: str, part_mask: str | None, length: int = 0
) -> str:
    """A scalar load for some lanes; from a harmless address if none of them is active."""
    em = m.em
    length = length or em.U
    if part_mask is not None:
        bits = em.op(f"bitcast <{length} x i1> {part_mask} to i{length}")
        some = em.op(f"icmp ne i{length} {bits}, 0")
        where = em.op(f"select i1 {some}, ptr {where}, ptr %dummy")
    size = int(kind[1:]) // 8
    return em.op(load_text(acc, kind, where, size))


def splat_part(m: Machine, x: str, kind: str, length: int) -> str:
    em = m.em
    one = em.op(f"insertelement <{length} x {kind}> poison, {kind} {x}, i64 0")
    if length == 1:
        return one
    return em.op(
        f"shufflevector <{length} x {kind}> {one}, <{length} x {kind}> poison, <{length} x i32> zeroinitializer"
    )


def concat(m: Machine, parts: list[str], kind: str, length: int) -> str:
    em = m.em
    while len(parts) > 1:
        pick = "<" + ", ".join(f"i32 {n}" for n in range(2 * length)) + ">"
        vec = f"<{length} x {kind}>"
        parts = [
            em.op(f"shufflevector {vec} {a}, {vec} {b}, <{2 * length} x i32> {pick}")
            for a, b in zip(parts[::2], parts[1::2], strict=True)
        ]
        length *= 2
    return parts[0]


def vector_load(m: Machine, acc: Access, where: str, kind: str, length: int, part_mask: str | None) -> str:
    em = m.em
    size = int(kind[1:]) // 8
    vec = f"<{length} x {kind}>"
    if part_mask is None:
        return em.op(load_text(acc, vec, where, size))
    if size < 4:
        # No masked load of bytes: lane by lane, inactive lanes read a harmless address.
        got = "poison"
        for lane in range(length):
            on = em.op(f"extractelement <{length} x i1> {part_mask}, i64 {lane}")
            p = em.op(f"select i1 {on}, ptr {pointer(m, where, lane * size)}, ptr %dummy")
            x = em.op(load_text(acc, kind, p, size))
            got = em.op(f"insertelement {vec} {got}, {kind} {x}, i64 {lane}")
        return got
    name = f"llvm.masked.load.v{length}{kind}.p0"
    em.declare(f"declare {vec} @{name}(ptr, <{length} x i1>, {vec})")
    return em.op(
        f"call {vec} @{name}(ptr align {size} {where}, <{length} x i1> {part_mask}, {vec} zeroinitializer), {acc.meta}"
    )


def strided_load(m: Machine, acc: Access, where: str, length: int, stride: int, part_mask: str | None) -> str:
    """Words at a constant stride of 2 or 4 words: separate scalar loads (LLVM joins what it can)."""
    em = m.em
    vec = f"<{length} x i32>"
    got = "poison"
    for lane in range(length):
        p = pointer(m, where, 4 * stride * lane)
        if part_mask is not None:
            on = em.op(f"extractelement <{length} x i1> {part_mask}, i64 {lane}")
            p = em.op(f"select i1 {on}, ptr {p}, ptr %dummy")
        got = em.op(f"insertelement {vec} {got}, i32 {em.op(load_text(acc, 'i32', p, 4))}, i64 {lane}")
    return got


def plan_offsets(m: Machine, p: Plan) -> list[str]:
    """Units of i64: byte offsets from the access's base."""
    em = m.em
    if p.kind == "lanes":
        return p.lanes
    assert p.index is not None
    row = em.splat(p.address, "i64")
    got = []
    for x in em.units(p.index):
        wide = em.op(f"sext {em.vi} {x} to {em.vl}")
        if p.factor > 1:
            wide = em.op(f"shl {em.vl} {wide}, splat (i64 {p.factor.bit_length() - 1})")
        got.append(em.op(f"add {em.vl} {row}, {wide}"))
    return got


def lanes_load(m: Machine, acc: Access, mask: PVal, p: Plan, words: int) -> list[str]:
    """Gathers."""
    em = m.em
    units = em.punits(mask)
    out: list[str] = []
    if acc.size < 4:
        # The aligned word holds the byte or half; a word never crosses a page.
        for off, active in zip(plan_offsets(m, p), units, strict=True):
            aligned = em.op(f"and {em.vl} {off}, splat (i64 -4)")
            whole = gather_lanes(m, acc, aligned, active)
            low = em.op(f"and {em.vi} {em.op(f'trunc {em.vl} {off} to {em.vi}')}, splat (i32 3)")
            count = em.op(f"shl {em.vi} {low}, splat (i32 3)")
            moved = em.op(f"lshr {em.vi} {whole}, {count}")
            kind = f"<{em.U} x i{8 * acc.size}>"
            out.append(widen_small(m, kind, em.vi, em.op(f"trunc {em.vi} {moved} to {kind}"), acc.sign))
        return out
    for word in range(words):
        if p.kind == "index" and m.gather_index:
            assert p.index is not None
            base = pointer(m, acc.base, em.sop("add", p.address, 4 * word, 64))
            for x, active in zip(em.units(p.index), units, strict=True):
                out.append(gather_index(m, base, x, p.factor, active, acc.meta))
        else:
            for off, active in zip(plan_offsets(m, p), units, strict=True):
                if word:
                    off = em.op(f"add {em.vl} {off}, splat (i64 {4 * word})")
                out.append(gather_lanes(m, acc, off, active))
    return out


def gather_index(m: Machine, base: str, index: str, factor: int, active: str, meta: str) -> str:
    em = m.em
    name = "llvm.x86.avx2.gather.d.d.256"
    em.declare(f"declare <8 x i32> @{name}(<8 x i32>, ptr, <8 x i32>, <8 x i32>, i8)")
    on = em.op(f"sext <8 x i1> {active} to <8 x i32>")
    return em.op(
        f"call <8 x i32> @{name}(<8 x i32> zeroinitializer, ptr {base}, <8 x i32> {index}, "
        f"<8 x i32> {on}, i8 {factor}), {meta}"
    )


def gather_lanes(m: Machine, acc: Access, offsets: str, active: str) -> str:
    em = m.em
    pointers = em.op(f"getelementptr i8, ptr {acc.base}, {em.vl} {offsets}")
    vec = f"<{em.U} x ptr>"
    if m.gather_index:
        # AVX2: the generic gather would test every mask bit; a harmless address for inactive lanes does not.
        if not active.startswith("splat (i1 true)"):
            row = em.op(f"insertelement {vec} poison, ptr %dummy, i64 0")
            row = em.op(f"shufflevector {vec} {row}, {vec} poison, <{em.U} x i32> zeroinitializer")
            pointers = em.op(f"select {em.vb} {active}, {vec} {pointers}, {vec} {row}")
        got = "poison"
        for lane in range(em.U):
            p = em.op(f"extractelement {vec} {pointers}, i64 {lane}")
            got = em.op(f"insertelement {em.vi} {got}, i32 {em.op(load_text(acc, 'i32', p, 4))}, i64 {lane}")
        return got
    name = f"llvm.masked.gather.v{em.U}i32.v{em.U}p0"
    em.declare(f"declare {em.vi} @{name}({vec}, {em.vb}, {em.vi})")
    return em.op(
        f"call {em.vi} @{name}({vec} align 4 {pointers}, {em.vb} {active}, {em.vi} zeroinitializer), {acc.meta}"
    )


def shared_bounds(m: Machine, p: Plan, size: int, mask: PVal) -> list[str]:
    """i1s that hold if an access may leave the block's shared memory."""
    em = m.em
    limit = em.op(f"sub i64 %shared.size, {size}")
    if p.kind == "one":
        return [em.op(f"icmp sgt i64 {em.s64(p.address)}, {limit}")]
    if p.kind == "rows":
        got = []
        for row in p.rows:
            span = max(offset for _, offset in row.lanes)
            got.append(em.op(f"icmp sgt i64 {em.s64(em.sop('add', row.address, span, 64))}, {limit}"))
        return got
    if p.kind == "index":
        assert p.index is not None
        # Shared addresses are 32-bit numbers with no base: compare the index itself.
        top = em.op(f"trunc i64 {em.call('i64', 'llvm.smax.i64', [('i64', limit), ('i64', '-1')])} to i32")
        most = em.splat(top)
        hits = [em.op(f"icmp sgt {em.vi} {x}, {most}") for x in em.units(p.index)]
        return [any_active(m, hits, mask)]
    most = em.splat(limit, "i64")
    return [any_active(m, [em.op(f"icmp sgt {em.vl} {x}, {most}") for x in p.lanes], mask)]


def space_of(ins: Instruction) -> str:
    return {"LDS": "shared", "STS": "shared", "LDL": "local", "STL": "local"}.get(ins.name, "generic")


def access_of(m: Machine, ins: Instruction) -> Access:
    size, sign = SIZES[mod_text(ins, "size", "32")]
    if space_of(ins) == "shared":
        return Access(size, sign, SPACE_SHARED, SHARED, META["shared"], False)
    return Access(size, sign, SPACE_GENERIC, "%alias", META["global"], True)


def memory_operand(ins: Instruction) -> Mem:
    for op in ins.src:
        if isinstance(op, Mem):
            return op
    raise Untranslatable("no memory operand")


@operation("LD", "LDU", "LDS")
def load(m: Machine, ins: Instruction) -> None:
    acc = access_of(m, ins)
    mem = memory_operand(ins)
    w = mem_address(m, mem)
    load_access(m, ins, w, acc, acc.space == SPACE_SHARED or m.limits.uniform_loads)


@operation("LD_LDU", "LDS_LDU")
def load_two(m: Machine, ins: Instruction) -> None:
    """Two loads in one word: both addresses are read before either result is written."""
    mods = {**ins.mods, "size": mod_text(ins, "ldu_size", "32")}
    first = replace(ins, name=ins.name.split("_")[0], dst=ins.dst[:1], src=ins.src[:1])
    second = replace(ins, name="LDU", dst=ins.dst[1:], src=ins.src[1:], mods=mods)
    address = mem_address(m, memory_operand(second))
    load(m, first)
    load_access(m, second, address, access_of(m, second), m.limits.uniform_loads)


# Stores


@operation("ST", "STS")
def store(m: Machine, ins: Instruction) -> None:
    acc = access_of(m, ins)
    w = mem_address(m, memory_operand(ins))
    data = ins.src[-1]
    assert isinstance(data, Reg)
    store_access(m, w, acc, store_words(m, data, acc.size))


def store_words(m: Machine, data: Reg, size: int) -> list[Val]:
    words = max(size // 4, 1)
    return [m.get(data.index + n) if data.index < 63 else m.em.const(0) for n in range(words)]


def store_access(m: Machine, w: Wide, acc: Access, words: list[Val]) -> None:
    em = m.em
    mask = m.mask()
    p = plan(m, w, acc.size, acc.space == SPACE_GENERIC, acc.space == SPACE_SHARED)
    bad = list(p.bad)
    if acc.space == SPACE_SHARED:
        bad += shared_bounds(m, p, acc.size, mask)
    if p.kind == "one" and any(v.k != "u" for v in words):
        bad = ["true"]
    if p.kind == "rows" and overlapping(p, acc.size):
        bad = ["true"]

    def fast() -> list[tuple[str, str]]:
        fast_store(m, acc, mask, p, words)
        return []

    def slow() -> list[tuple[str, str]]:
        store_rows(m, at.SCRATCH_ADDRESS, em.wide_lanes(w), em.vl, 8)
        for n, v in enumerate(words):
            store_rows(m, at.SCRATCH_DATA + 256 * n, em.units(v), em.vi, 4)
        code = acc.size
        helper(
            m, "gpuvm_store",
            helper_args(m, code, acc.space, mask64(m, mask)),
        )  # fmt: skip
        return []

    # Units and their bits are needed in both arms: make them where both can see them.
    whole64 = acc.size == 8 and p.kind == "rows" and contiguous_units(m, p, 8) and all(
        stride for lanes in unit_layout(m, p) for _, _, _, stride in pieces(lanes, 8) or []
    )  # fmt: skip
    if p.kind != "one":
        for v in words:
            if not whole64:
                em.units(v)
        if whole64:
            em.wide_lanes(m.join(words[0], words[1]))
    if mask is not TRUE:
        em.bits(mask)
    diamond(m, or_all(m, bad), fast, slow)
    m.count_access(acc.space, True, p.segments, mask)


def overlapping(p: Plan, size: int) -> bool:
    """Whether two lanes of one row write the same bytes (then order matters: highest lane last)."""
    for row in p.rows:
        offsets = [offset for _, offset in row.lanes]
        if len(set(offsets)) != len(offsets):
            return True
        if any(b - a < size for a, b in zip(sorted(offsets), sorted(offsets)[1:], strict=False)):
            return True
    return False


def narrow_unit(m: Machine, x: str, size: int) -> tuple[str, str]:
    em = m.em
    kind = f"i{8 * min(size, 4)}"
    if size >= 4:
        return em.vi, x
    return f"<{em.U} x {kind}>", em.op(f"trunc {em.vi} {x} to <{em.U} x {kind}>")


def fast_store(m: Machine, acc: Access, mask: PVal, p: Plan, words: list[Val]) -> None:
    em = m.em
    if p.kind == "one":
        where = pointer(m, acc.base, p.address)
        if m.guard is not TRUE:
            where = em.op(f"select i1 {em.i1(m.any_lane(mask))}, ptr {where}, ptr %dummy")
        for n, v in enumerate(words):
            x = em.s32(em.scalar(v))
            kind = "i32"
            if acc.size < 4:
                kind = f"i{8 * acc.size}"
                x = em.op(f"trunc i32 {x} to {kind}")
            em.do(f"store {kind} {x}, ptr {pointer(m, where, 4 * n)}, align {min(acc.size, 4)}, {acc.meta}")
        return
    if p.kind != "rows" or any(pieces(lanes, acc.size) is None or 2 * len(pieces(lanes, acc.size) or []) > em.U or any(
        stride == 0 for _, _, _, stride in pieces(lanes, acc.size) or []) for lanes in unit_layout(m, p)):  # fmt: skip
        scatter(m, acc, mask, store_offsets(m, p), words)
        return
    if mask is TRUE:
        rows_store(m, acc, None, p, words)
        return
    if not acc.faults:
        rows_store(m, acc, mask, p, words)
        return
    # Masked stores are slow on some CPUs: test for the common full mask first.
    full = em.op(f"icmp eq {em.mi} {em.bits(mask)}, -1")
    all_label, some_label, join = em.new_label("all"), em.new_label("some"), em.new_label("stored")
    em.do(f"br i1 {full}, label %{all_label}, label %{some_label}")
    em.place(all_label)
    em.cold += 1
    rows_store(m, acc, None, p, words)
    em.do(f"br label %{join}")
    em.place(some_label)
    rows_store(m, acc, mask, p, words)
    em.do(f"br label %{join}")
    em.cold -= 1
    em.place(join)


def rows_store(m: Machine, acc: Access, mask: PVal | None, p: Plan, words: list[Val]) -> None:
    em = m.em
    bases = [pointer(m, acc.base, row.address) for row in p.rows]
    mask_units = None if mask is None else em.punits(mask)
    wide = None
    if acc.size == 8 and contiguous_units(m, p, 8):
        wide = em.wide_lanes(m.join(words[0], words[1]))
    for n, lanes in enumerate(unit_layout(m, p)):
        got = pieces(lanes, acc.size)
        assert got is not None
        length = em.U // len(got)
        if wide is not None:
            _, row, offset, _ = got[0]
            part = None if mask_units is None else mask_units[n]
            vector_store(m, acc, pointer(m, bases[row], offset), "i64", em.U, wide[n], part)
            continue
        for word, v in enumerate(words):
            vec, x = narrow_unit(m, em.units(v)[n], acc.size)
            step = min(acc.size, 4)
            kind = f"i{8 * step}"
            for first, row, offset, stride in got:
                where = pointer(m, bases[row], offset + 4 * word)
                part = x
                if length != em.U:
                    pick = "<" + ", ".join(f"i32 {first + i}" for i in range(length)) + ">"
                    part = em.op(f"shufflevector {vec} {x}, {vec} poison, <{length} x i32> {pick}")
                part_mask = None if mask_units is None else sub_mask(m, mask_units[n], first, length)
                if stride == step:
                    vector_store(m, acc, where, kind, length, part, part_mask)
                else:
                    for lane in range(length):
                        one = em.op(f"extractelement <{length} x {kind}> {part}, i64 {lane}")
                        q = pointer(m, where, stride * lane)
                        if part_mask is not None:
                            on = em.op(f"extractelement <{length} x i1> {part_mask}, i64 {lane}")
                            q = em.op(f"select i1 {on}, ptr {q}, ptr %dummy")
                        em.do(f"store {kind} {one}, ptr {q}, align {step}, {acc.meta}")


def vector_store(
    m: Machine, acc: Access, where: str, kind: str, length: int, x: str, part_mask: str | None
) -> None:
    em = m.em
    vec, size = f"<{length} x {kind}>", int(kind[1:]) // 8
    if part_mask is None:
        em.do(f"store {vec} {x}, ptr {where}, align {size}, {acc.meta}")
        return
    if not acc.faults:
        # Shared and local memory belong to this thread alone: read, blend, write.
        old = em.op(f"load {vec}, ptr {where}, align {size}, {acc.meta}")
        new = em.op(f"select <{length} x i1> {part_mask}, {vec} {x}, {vec} {old}")
        em.do(f"store {vec} {new}, ptr {where}, align {size}, {acc.meta}")
        return
    if size < 4:
        for lane in range(length):
            on = em.op(f"extractelement <{length} x i1> {part_mask}, i64 {lane}")
            q = em.op(f"select i1 {on}, ptr {pointer(m, where, lane * size)}, ptr %dummy")
            one = em.op(f"extractelement {vec} {x}, i64 {lane}")
            em.do(f"store {kind} {one}, ptr {q}, align {size}, {acc.meta}")
        return
    name = f"llvm.masked.store.v{length}{kind}.p0"
    em.declare(f"declare void @{name}({vec}, ptr, <{length} x i1>)")
    em.do(f"call void @{name}({vec} {x}, ptr align {size} {where}, <{length} x i1> {part_mask}), {acc.meta}")


def store_offsets(m: Machine, p: Plan) -> list[str]:
    em = m.em
    if p.kind != "rows":
        return plan_offsets(m, p)
    got = []
    for lanes in unit_layout(m, p):
        whole = "poison"
        for i, (row, offset) in enumerate(lanes):
            x = em.s64(em.sop("add", p.rows[row].address, offset, 64))
            whole = em.op(f"insertelement {em.vl} {whole}, i64 {x}, i64 {i}")
        got.append(whole)
    return got


def scatter(m: Machine, acc: Access, mask: PVal, offsets: list[str], words: list[Val]) -> None:
    """Lane by lane, lowest first; inactive lanes write a place that nobody reads."""
    em = m.em
    vec = f"<{em.U} x ptr>"
    units = em.punits(mask)
    for n, off in enumerate(offsets):
        pointers = em.op(f"getelementptr i8, ptr {acc.base}, {em.vl} {off}")
        if mask is not TRUE:
            row = em.op(f"insertelement {vec} poison, ptr %dummy, i64 0")
            row = em.op(f"shufflevector {vec} {row}, {vec} poison, <{em.U} x i32> zeroinitializer")
            pointers = em.op(f"select {em.vb} {units[n]}, {vec} {pointers}, {vec} {row}")
        rows = [narrow_unit(m, em.units(v)[n], acc.size) for v in words]
        kind = f"i{8 * min(acc.size, 4)}"
        for lane in range(em.U):
            q = em.op(f"extractelement {vec} {pointers}, i64 {lane}")
            for word, (data_vec, x) in enumerate(rows):
                one = em.op(f"extractelement {data_vec} {x}, i64 {lane}")
                em.do(
                    f"store {kind} {one}, ptr {pointer(m, q, 4 * word)}, align {min(acc.size, 4)}, {acc.meta}"
                )


# Local memory


def local_place(m: Machine, address: Val, size: int) -> tuple[str, str | None]:
    """(word row as i64, i1 that holds if out of range or misaligned) of a uniform local address."""
    em = m.em
    wide = em.s64(extend(m, em.scalar(address), False))
    end = em.op(f"add i64 {wide}, {size}")
    low = em.op(f"icmp ule i64 {end}, %local.positive")
    start = em.op("sub i64 16777216, %local.negative")
    high1, high2 = em.op(f"icmp uge i64 {wide}, {start}"), em.op(f"icmp ule i64 {end}, 16777216")
    high = em.op(f"and i1 {high1}, {high2}")
    moved = em.op(f"add i64 {em.op(f'sub i64 {wide}, {start}')}, %local.positive")
    place = em.op(f"select i1 {low}, i64 {wide}, i64 {moved}")
    bad = em.op(f"xor i1 {em.op(f'or i1 {low}, {high}')}, true")
    odd = em.op(f"icmp ne i64 {em.op(f'and i64 {wide}, {size - 1}')}, 0")
    return place, em.op(f"or i1 {bad}, {odd}")


@operation("LDL")
def load_local(m: Machine, ins: Instruction) -> None:
    em = m.em
    mem = memory_operand(ins)
    size, sign = SIZES[mod_text(ins, "size", "32")]
    address = em.ibin("add", m.get(mem.base.index), em.const(mem.offset))
    words = max(size // 4, 1)
    w = (
        Wide(base=extend(m, em.scalar(address), False))
        if address.k == "u"
        else Wide(terms=((address, False, 1),))
    )
    acc = Access(size, sign, SPACE_LOCAL, LOCAL, META["local"], False)
    mask = m.mask()
    types = [em.vi] * (words * m.shape.units)

    def slow() -> list[tuple[str, str]]:
        return list(zip(types, slow_load(m, w, acc, mask, words, False, False), strict=True))

    def fast() -> list[tuple[str, str]]:
        row = em.op(f"mul i64 {em.op(f'lshr i64 {place}, 2')}, {4 * m.shape.lanes}")
        got = []
        for word in range(words):
            for unit in range(m.shape.units):
                q = pointer(m, LOCAL, row)
                q = pointer(m, q, 4 * m.shape.lanes * word + 4 * em.U * unit)
                got.append(em.op(load_text(acc, em.vi, q, 4)))
        return list(zip(types, got, strict=True))

    if address.k == "u" and size >= 4:
        place, bad = local_place(m, address, size)
        got = diamond(m, bad, fast, slow)
    else:
        got = [x for _, x in slow()]
    m.count_access(SPACE_LOCAL, False, words, mask)
    index = dst(ins)
    for n in range(words):
        units = got[n * m.shape.units : (n + 1) * m.shape.units]
        m.put(index + n if index < 63 else 63, lanes_value(m, units))


@operation("STL")
def store_local(m: Machine, ins: Instruction) -> None:
    em = m.em
    mem = memory_operand(ins)
    size, _ = SIZES[mod_text(ins, "size", "32")]
    address = em.ibin("add", m.get(mem.base.index), em.const(mem.offset))
    data = ins.src[-1]
    assert isinstance(data, Reg)
    values = store_words(m, data, size)
    w = (
        Wide(base=extend(m, em.scalar(address), False))
        if address.k == "u"
        else Wide(terms=((address, False, 1),))
    )
    mask = m.mask()
    acc = Access(size, False, SPACE_LOCAL, LOCAL, META["local"], False)
    for v in values:
        em.units(v)
    if mask is not TRUE:
        em.bits(mask)
        em.punits(mask)

    def slow() -> list[tuple[str, str]]:
        store_rows(m, at.SCRATCH_ADDRESS, em.wide_lanes(w), em.vl, 8)
        for n, v in enumerate(values):
            store_rows(m, at.SCRATCH_DATA + 256 * n, em.units(v), em.vi, 4)
        helper(
            m, "gpuvm_store",
            helper_args(m, size, SPACE_LOCAL, mask64(m, mask)),
        )  # fmt: skip
        return []

    def fast() -> list[tuple[str, str]]:
        row = em.op(f"mul i64 {em.op(f'lshr i64 {place}, 2')}, {4 * m.shape.lanes}")
        for word, v in enumerate(values):
            for unit, x in enumerate(em.units(v)):
                q = pointer(m, pointer(m, LOCAL, row), 4 * m.shape.lanes * word + 4 * em.U * unit)
                part = None if mask is TRUE else em.punits(mask)[unit]
                vector_store(m, acc, q, "i32", em.U, x, part)
        return []

    if address.k == "u" and size >= 4:
        place, bad = local_place(m, address, size)
        diamond(m, bad, fast, slow)
    else:
        slow()
    m.count_access(SPACE_LOCAL, True, len(values), mask)


# Constants


@operation("LDC")
def load_constant(m: Machine, ins: Instruction) -> None:
    """Past the end of a bank everything reads 0: its copy is padded with zeros to 64 KiB and a word more."""
    em = m.em
    mem = memory_operand(ins)
    size, sign = SIZES[mod_text(ins, "size", "32")]
    words = max(size // 4, 1)
    index = dst(ins)
    m.use_bank(mem.bank)
    address = em.ibin("add", m.get(mem.base.index), em.const(mem.offset))
    if size > 1:
        low = em.ibin("and", address, em.const(size - 1))
        if low.k == "u":
            if low.x != 0:
                odd = em.icmp("ne", low, em.const(0))
                m.fail_if(
                    em.op(f"and i1 {em.i1(odd.x)}, {em.i1(m.any_lane(m.mask()))}"), ErrorKind.MISALIGNED
                )
        else:
            units = em.punits(em.icmp("ne", low, em.const(0)))
            m.fail_if(any_active(m, units, m.mask()), ErrorKind.MISALIGNED)
    bank = f"%bank{mem.bank}"
    address = em.iminmax("umin", address, em.const(0x10000))
    if address.k == "u":
        base = pointer(m, bank, extend(m, em.scalar(address), False))
        for n in range(words):
            q = pointer(m, base, 4 * n)
            if size < 4:
                small = em.op(f"load i{8 * size}, ptr {q}, align {size}, !invariant.load !0, !noalias !9")
                value = em.uniform(widen_small(m, f"i{8 * size}", "i32", small, sign))
            else:
                value = em.uniform(em.op(f"load i32, ptr {q}, align 4, !invariant.load !0, !noalias !9"))
            m.put(index + n if index < 63 else 63, value)
        return
    acc = Access(size, sign, SPACE_SHARED, bank, "!noalias !9", False)
    p = Plan("index", [], address=0, index=address, factor=1)
    got = lanes_load(m, acc, TRUE, p, words)
    for n in range(words):
        m.put(index + n if index < 63 else 63, em.vector(got[n * m.shape.units : (n + 1) * m.shape.units]))


# Atomics, locks, fences


@operation("ATOM", "RED")
def atomic(m: Machine, ins: Instruction) -> None:
    em = m.em
    mask = m.mask()
    mem = memory_operand(ins)
    w = mem_address(m, mem)
    kind, op = mod_text(ins, "type", "U32"), mod_text(ins, "op", "ADD")
    code = ATOM_OPS.index(op) + 16 * ATOM_TYPES.index(kind)
    wide = kind == "U64"
    store_rows(m, at.SCRATCH_ADDRESS, em.wide_lanes(w), em.vl, 8)
    data = [x for x in ins.src if isinstance(x, Reg)]
    for n, source in enumerate(data):
        for half in range(2 if wide else 1):
            value = m.get(source.index + half) if source.index < 63 else em.const(0)
            store_rows(m, at.SCRATCH_DATA + 256 * (2 * n + half), em.units(value), em.vi, 4)
    helper(
        m,
        "gpuvm_atom",
        f"ptr %ctx, ptr {LOCAL}, i32 {m.pc}, i32 {code}, i64 {mask64(m, mask)}, i32 {m.shape.lanes}",
    )
    m.count_atomic(mask)
    if ins.name == "ATOM" and ins.dst:
        result(m, dst(ins), 2 if wide else 1)


def result(m: Machine, index: int, words: int) -> None:
    """Words that a helper left in the scratch area."""
    em = m.em
    for n in range(words):
        rows = []
        for unit in range(m.shape.units):
            q = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT + 256 * n + 4 * em.U * unit}")
            rows.append(em.op(f"load {em.vi}, ptr {q}, align 4"))
        m.put(index + n if index < 63 else 63, lanes_value(m, rows))


def lanes_value(m: Machine, rows: list[str]) -> Val:
    """A value from units; the only lane of a group of one is a scalar."""
    if m.shape.lanes == 1:
        return m.em.uniform(m.em.op(f"extractelement <1 x i32> {rows[0]}, i64 0"))
    return m.em.vector(rows)


@operation("LDSLK", "LDLK")
def load_lock(m: Machine, ins: Instruction) -> None:
    """A lane that gets the lock loads; the others see the predicate false and load nothing."""
    em = m.em
    shared = ins.name == "LDSLK"
    w = narrow_address(m, memory_operand(ins)) if shared else mem_address(m, memory_operand(ins))
    size, sign = SIZES[mod_text(ins, "size", "32")]
    mask = m.mask()
    lanes = em.wide_lanes(w)
    store_rows(m, at.SCRATCH_ADDRESS, lanes, em.vl, 8)
    bits = mask64(m, mask)
    got = helper(
        m, "gpuvm_lock", f"ptr %ctx, i32 {m.pc}, i32 {int(shared)}, i64 {bits}, i32 {m.shape.lanes}", "i64"
    )
    won = got if m.shape.lanes == 64 else em.op(f"trunc i64 {got} to {em.mi}")
    code = size | (256 if sign else 0)
    space = SPACE_SHARED if shared else SPACE_GENERIC
    # Every lane's address is checked, as the hardware does; only winners write their register.
    helper(
        m,
        "gpuvm_load",
        f"ptr %ctx, ptr {LOCAL}, i32 {m.pc}, i32 {code}, i32 {space}, i64 {bits}, i32 {m.shape.lanes}",
    )
    p = PVal("v", bits=won)
    guard = m.guard
    m.guard = em.pbin("and", guard, p)
    result(m, dst(ins, 1), max(size // 4, 1))
    m.guard = guard
    m.put_pred(dst_pred(ins, 0), p)
    m.count_access(space, False, 0, mask)


@operation("STSUL", "STUL")
def store_unlock(m: Machine, ins: Instruction) -> None:
    em = m.em
    shared = ins.name == "STSUL"
    w = narrow_address(m, memory_operand(ins)) if shared else mem_address(m, memory_operand(ins))
    size, _ = SIZES[mod_text(ins, "size", "32")]
    data = ins.src[-1]
    assert isinstance(data, Reg)
    mask = m.mask()
    store_rows(m, at.SCRATCH_ADDRESS, em.wide_lanes(w), em.vl, 8)
    for n, v in enumerate(store_words(m, data, size)):
        store_rows(m, at.SCRATCH_DATA + 256 * n, em.units(v), em.vi, 4)
    space = SPACE_SHARED if shared else SPACE_GENERIC
    bits = mask64(m, mask)
    helper(
        m,
        "gpuvm_store",
        f"ptr %ctx, ptr {LOCAL}, i32 {m.pc}, i32 {size}, i32 {space}, i64 {bits}, i32 {m.shape.lanes}",
    )
    helper(m, "gpuvm_unlock", f"ptr %ctx, i32 {int(shared)}, i64 {bits}, i32 {m.shape.lanes}")
    m.count_access(space, True, 0, mask)


@operation("MEMBAR")
def membar(m: Machine, ins: Instruction) -> None:
    m.em.do("fence seq_cst")


__all__ = ["Pred"]

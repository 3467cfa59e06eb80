"""Special registers and votes: what a lane knows of its place, and what a warp knows of its lanes."""

from __future__ import annotations

from gpuvm.isa.instruction import Instruction, Pred, Special
from gpuvm.jit import layout as at
from gpuvm.jit.emit import PVal, Val
from gpuvm.jit.machine import Machine, mod_text
from gpuvm.jit.ops_integer import dst, dst_pred, operation


def context_word(m: Machine, offset: int) -> Val:
    """A word of the context that does not change while a block runs."""
    em = m.em
    p = em.op(f"getelementptr i8, ptr %ctx, i64 {offset}")
    return em.uniform(em.op(f"load i32, ptr {p}, align 4, !noalias !9"))


def job_word(m: Machine, offset: int) -> Val:
    em = m.em
    p = em.op(f"getelementptr i8, ptr %job, i64 {offset}")
    return em.uniform(em.op(f"load i32, ptr {p}, align 4, !invariant.load !0, !noalias !9"))


def thread_axis(m: Machine, axis: int) -> Val:
    """tid.x, tid.y or tid.z: affine where the group's lanes follow a fixed pattern, else computed."""
    em, shape = m.em, m.shape
    bx, by, bz = shape.block
    if (bx, by, bz)[axis] == 1:
        return em.const(0)
    first = em.uniform("%first")  # linear index of the group's first thread
    if not shape.regular:
        linear = em.ibin("add", first, lane_index(m))
        if axis == 0:
            return divide(m, linear, bx)[1]
        rest = divide(m, linear, bx)[0]
        return divide(m, rest, by)[1 if axis == 1 else 0]
    stride = (1, bx, bx * by)[axis]
    size = (bx, by, bz)[axis]
    start: Val = first
    if shape.groups == 1 or (axis == 0 and shape.lanes % bx == 0):
        # The group begins at the axis's start.
        return em.affine(0, {axis: 1}) if any(shape.patterns[axis]) else em.const(0)
    if stride > 1:
        start = em.uniform(em.op(f"udiv i32 %first, {stride}"))
    if axis < 2:
        start = em.uniform(em.op(f"urem i32 {em.s32(em.scalar(start))}, {size}"))
    pattern = shape.patterns[axis]
    if not any(pattern):
        return start
    whole = em.ibin("add", start, Val("a", base=0, co=((axis, 1),)))
    if axis == 0:
        whole.align = shape.lanes
    return whole


def divide(m: Machine, v: Val, by: int) -> tuple[Val, Val]:
    """Quotient and remainder of thread numbers by a constant."""
    em = m.em
    if by == 1:
        return v, em.const(0)
    # q = v * ceil(2**22 / by) >> 22 is exact, and fits 32 bits, for v and by up to 1536.
    quotient = em.ibin("lshr", em.ibin("mul", v, em.const(-(-(1 << 22) // by))), em.const(22))
    return quotient, em.ibin("sub", v, em.ibin("mul", quotient, em.const(by)))


def lane_index(m: Machine) -> Val:
    """Index in the group, as a vector."""
    em = m.em
    rows = [list(range(n * em.U, (n + 1) * em.U)) for n in range(m.shape.units)]
    return em.vector([em.literal(row) for row in rows])


def lane_id(m: Machine) -> Val:
    """Lane in the warp of 32."""
    em, shape = m.em, m.shape
    bx, by, _ = shape.block
    if shape.lanes == 1:
        return em.ibin("and", em.uniform("%first"), em.const(31))
    if shape.regular and shape.lanes == 32:
        if bx >= 32:
            return Val("a", base=0, co=((0, 1),))
        if bx * by >= 32:
            return em.affine(0, {0: 1, 1: bx})
        return em.affine(0, {0: 1, 1: bx, 2: bx * by})
    linear = em.ibin("add", em.uniform("%first"), lane_index(m))
    return em.ibin("and", linear, em.const(31))


def warp_id(m: Machine) -> Val:
    em = m.em
    if m.shape.lanes <= 32:
        return em.uniform(em.op("lshr i32 %first, 5"))
    return em.ibin("lshr", em.ibin("add", em.uniform("%first"), lane_index(m)), em.const(5))


@operation("S2R")
def s2r(m: Machine, ins: Instruction) -> None:
    source = ins.src[0]
    assert isinstance(source, Special)
    m.put(dst(ins), special(m, source.name))


def special(m: Machine, name: str) -> Val:
    """A special register; one without a known meaning reads 0."""
    em, shape = m.em, m.shape
    bx, by, bz = shape.block
    fixed = {
        "SR_NTID.X": bx, "SR_NTID.Y": by, "SR_NTID.Z": bz, "SR_NTID": bx | by << 16 | bz << 26,
        "SR_SWINLO": m.limits.shared_window & 0xFFFFFFFF, "SR_LWINLO": m.limits.local_window & 0xFFFFFFFF,
        "SR_SWINSZ": 1 << 24, "SR_LWINSZ": 1 << 24, "SR_SMEMBANKS": 32,
        "SR_VIRTCFG": 0x0E2030,
    }  # fmt: skip
    if name in fixed:
        return em.const(fixed[name])
    if name.startswith("SR_TID."):
        return thread_axis(m, "XYZ".index(name[-1]))
    if name == "SR_TID":
        x, y, z = (thread_axis(m, axis) for axis in range(3))
        whole = em.ibin("add", x, em.ibin("shl", y, em.const(16)))
        return em.ibin("add", whole, em.ibin("shl", z, em.const(26)))
    if name.startswith("SR_CTAID."):
        return em.uniform(f"%block.{name[-1].lower()}")
    if name.startswith("SR_NCTAID."):
        return job_word(m, {"X": at.JOB_GRID_X, "Y": at.JOB_GRID_Y, "Z": at.JOB_GRID_Z}[name[-1]])
    if name == "SR_GRID_PARAM":
        return job_word(m, at.JOB_ID)
    if name == "SR_SMEMSZ":
        return context_word(m, at.SHARED_SIZE)
    if name == "SR_LMEMLOSZ":
        return context_word(m, at.LOCAL_POSITIVE)
    if name == "SR_LMEMHIOFF":
        return em.ibin("sub", em.const(1 << 24), context_word(m, at.LOCAL_NEGATIVE))
    if name == "SR_LANEID":
        return lane_id(m)
    if name == "SR_VIRTID":
        # Lane-independent: warp in bits 8-13, multiprocessor in bits 20-28.
        worker = em.ibin("shl", context_word(m, at.WORKER), em.const(20))
        return em.ibin("or", worker, em.ibin("shl", warp_id(m), em.const(8)))
    if name in ("SR_CLOCKLO", "SR_CLOCKHI"):
        now = em.call("i64", "llvm.readcyclecounter", [])
        if name == "SR_CLOCKHI":
            now = em.op(f"lshr i64 {now}, 32")
        return em.uniform(em.op(f"trunc i64 {now} to i32"))
    if name in ("SR_EQMASK", "SR_LTMASK", "SR_LEMASK", "SR_GTMASK", "SR_GEMASK"):
        one = em.ibin("shl", em.const(1), lane_id(m))
        below = em.ibin("sub", one, em.const(1))
        if name == "SR_EQMASK":
            return one
        if name == "SR_LTMASK":
            return below
        if name == "SR_LEMASK":
            return em.ibin("or", below, one)
        if name == "SR_GTMASK":
            return em.inv(em.ibin("or", below, one))
        return em.inv(below)
    return em.const(0)


@operation("VOTE")
def vote(m: Machine, ins: Instruction) -> None:
    """Over the lanes in which the instruction acts; a group of several warps votes warp by warp."""
    em, shape = m.em, m.shape
    source = ins.src[0]
    assert isinstance(source, Pred)
    voters = em.bits(m.mask())
    ballot = em.op(f"and {em.mi} {em.bits(m.get_pred(source))}, {voters}")
    parts: list[tuple[str, str]] = []
    for warp in range(-(-shape.lanes // 32)):
        pair = []
        for mask in (ballot, voters):
            if shape.lanes > 32:
                mask = em.op(f"lshr {em.mi} {mask}, {32 * warp}") if warp else mask
                mask = em.op(f"trunc {em.mi} {mask} to i32")
            elif shape.lanes < 32:
                raise AssertionError("a vote needs whole warps")
            pair.append(mask)
        parts.append((pair[0], pair[1]))
    kind = mod_text(ins, "op", "ALL")
    results: list[str] = []
    for yes, who in parts:
        every = em.op(f"icmp eq i32 {yes}, {who}")
        none = em.op(f"icmp eq i32 {yes}, 0")
        if kind == "ALL":
            results.append(every)
        elif kind == "ANY":
            results.append(em.op(f"xor i1 {none}, true"))
        else:
            results.append(em.op(f"or i1 {every}, {none}"))
    if len(parts) == 1:
        value, p = em.uniform(parts[0][0]), PVal("u", x=results[0])
    else:
        per = 32 // em.U
        value = em.vector([x for yes, _ in parts for x in [em.splat(yes)] * per])
        rows = []
        for got in results:
            row = em.splat(em.op(f"sext i1 {got} to i32"))
            rows.extend([em.op(f"icmp ne {em.vi} {row}, zeroinitializer")] * per)
        p = PVal("v", u=rows)
    if dst(ins) != 63:
        m.put(dst(ins), value)
    m.put_pred(dst_pred(ins, 1), p)

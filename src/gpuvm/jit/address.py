"""What the lanes of one memory access touch: one address, rows of neighbouring addresses, or any.

`plan` looks at an address value and says how to reach it fast, and under which run-time condition the fast
way is
not exact (an address wrapped, is misaligned, or lies in the shared or local window): then a helper does the
access.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.jit.emit import PVal, Scalar, Val, Wide, signed
from gpuvm.jit.machine import Machine

M64 = (1 << 64) - 1


@dataclass
class Row:
    """Lanes that share one scalar address: (lane, constant byte offset from it)."""

    address: Scalar
    lanes: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Plan:
    """How to reach an access.

    `kind` is "one" (a single address), "rows" (scalar addresses with constant lane offsets), "index" (base
    plus a
    32-bit index per lane times `factor`) or "lanes" (64-bit addresses per lane). `bad`: i1s, any of which
    calls for
    the helper. Addresses are clamped where they could leave the reservation.
    """

    kind: str
    bad: list[str]
    address: Scalar = 0
    rows: list[Row] = field(default_factory=list)
    index: Val | None = None
    factor: int = 1
    lanes: list[str] = field(default_factory=list)
    segments: int = 1
    """128-byte segments of the full warp group, assuming an aligned start; 0 = one for each active lane."""


def window_ranges(m: Machine) -> list[tuple[int, int]]:
    """The shared and local windows as merged (start, length)."""
    size = 1 << 24
    a, b = sorted((m.limits.shared_window, m.limits.local_window))
    if b <= a + size:
        return [(a, b + size - a)]
    return [(a, size), (b, size)]


def in_windows(m: Machine, address: Scalar, span: int) -> list[str]:
    """Whether [address, address + span] may touch a window (scalar addresses, conservative)."""
    em = m.em
    got: list[str] = []
    for start, length in window_ranges(m):
        shifted = em.sop("sub", address, start - span, 64)
        if isinstance(shifted, int):
            if shifted < length + span:
                got.append("true")
        else:
            got.append(em.op(f"icmp ult i64 {shifted}, {length + span}"))
    return got


def clamp(m: Machine, address: Scalar) -> Scalar:
    """Beyond 40 bits becomes exactly 2**40, which is never mapped."""
    if isinstance(address, int):
        return min(address & M64, 1 << 40)
    return m.em.call("i64", "llvm.umin.i64", [("i64", address), ("i64", str(1 << 40))])


def beyond(m: Machine, address: Scalar) -> list[str]:
    """Whether an address has more than 40 bits."""
    if isinstance(address, int):
        return ["true"] if address >> 40 else []
    return [m.em.op(f"icmp ugt i64 {address}, {(1 << 40) - 1}")]


def misaligned(m: Machine, address: Scalar, size: int) -> list[str]:
    if size == 1:
        return []
    em = m.em
    if isinstance(address, int):
        return ["true"] if address & (size - 1) else []
    return [em.op(f"icmp ne i64 {em.op(f'and i64 {address}, {size - 1}')}, 0")]


def extend(m: Machine, x: Scalar, sign: bool) -> Scalar:
    """A 32-bit scalar as 64 bits."""
    if isinstance(x, int):
        return signed(x) & M64 if sign else x
    return m.em.op(f"{'sext' if sign else 'zext'} i32 {x} to i64")


def plan(m: Machine, w: Wide, size: int, windows: bool = True, bounded: bool = False) -> Plan:
    """Plan an access of `size` bytes a lane at address `w`.

    Parameters
    ----------
    windows : bool
        The shared and local windows are at some of the addresses.
    bounded : bool
        Addresses are 32-bit numbers and will be compared with a limit far below 2**32, without wrapping.
    """
    if w.pair is None and w.lanes is None:
        if not w.terms:
            bad = misaligned(m, w.base, size)
            if windows:
                bad += in_windows(m, w.base, size - 1) + beyond(m, w.base)
            return Plan("one", bad, address=w.base)
        if all(index.k != "v" for index, _, _ in w.terms):
            got = plan_rows(m, w, size, windows, bounded)
            if got is not None:
                return got
        if len(w.terms) == 1 and w.terms[0][0].k == "v":
            got = plan_index(m, w, size, windows)
            if got is not None:
                return got
    return plan_lanes(m, w, size, windows)


def plan_rows(m: Machine, w: Wide, size: int, windows: bool, bounded: bool = False) -> Plan | None:
    """Affine lanes. Exact only if no 32-bit index wraps between lanes: that is one of the conditions."""
    em = m.em
    bad: list[str] = []
    address: Scalar = w.base
    fixed: dict[int, int] = {}
    moving: dict[int, Scalar] = {}
    for index, sign, factor in w.terms:
        base, co = em._parts(index)
        low_const = high_const = 0
        lows: list[Scalar] = []
        for axis, c in co.items():
            top = max(m.shape.patterns[axis])
            if isinstance(c, int):
                step = signed(c)
                fixed[axis] = fixed.get(axis, 0) + step * factor
                low_const += min(0, step * top)
                high_const += max(0, step * top)
            else:
                wide = extend(m, c, True)
                moving[axis] = em.sop("add", moving.get(axis, 0), em.sop("mul", wide, factor & M64, 64), 64)
                lows.append(em.sop("mul", wide, top, 64))
        start = extend(m, base, sign)
        address = em.sop("add", address, em.sop("mul", start, factor & M64, 64), 64)
        # An index that wraps upwards is beyond the limit too.
        if not bounded or sign or low_const or lows:
            bad += wraps(m, start, sign, low_const, high_const, lows)
    for axis in list(fixed):
        if axis in moving:
            moving[axis] = em.sop("add", moving[axis], fixed.pop(axis) & M64, 64)
    bad += misaligned(m, address, size)
    for axis, step in fixed.items():
        if step % size and any(m.shape.patterns[axis]):
            return None
    for axis, c in moving.items():
        if max(m.shape.patterns[axis]) and any(factor % size for _, _, factor in w.terms):
            bad += misaligned(m, c, size)
    rows: dict[tuple[int, ...], Row] = {}
    axes = sorted(moving)
    for lane in range(m.shape.lanes):
        key = tuple(m.shape.patterns[axis][lane] for axis in axes)
        if key not in rows:
            if len(rows) >= 8:
                return None
            at = address
            for axis, step in zip(axes, key, strict=True):
                at = em.sop("add", at, em.sop("mul", moving[axis], step, 64), 64)
            rows[key] = Row(at)
        offset = sum(step * m.shape.patterns[axis][lane] for axis, step in fixed.items())
        rows[key].lanes.append((lane, offset))
    for row in rows.values():
        low = min(offset for _, offset in row.lanes)
        if low:
            row.address = em.sop("add", row.address, low & M64, 64)
            row.lanes = [(lane, offset - low) for lane, offset in row.lanes]
        span = max(offset for _, offset in row.lanes)
        if span > 1 << 20:
            return None
        if windows:
            bad += in_windows(m, row.address, span + size - 1) + beyond(m, row.address)
    segments = sum(len({offset // 128 for _, offset in row.lanes}) for row in rows.values())
    return Plan("rows", bad, rows=list(rows.values()), segments=segments)


def wraps(m: Machine, start: Scalar, sign: bool, low: int, high: int, moving: list[Scalar]) -> list[str]:
    """i1s that hold if start + lane part leaves the 32-bit range for some lane (conservative)."""
    em = m.em
    bottom, top = (-(1 << 31), (1 << 31) - 1) if sign else (0, (1 << 32) - 1)
    if not moving:
        # bottom - low <= start <= top - high, as one unsigned comparison.
        first, last = bottom - low, top - high
        if isinstance(start, int):
            return [] if first <= signed(start, 64) <= last else ["true"]
        if first > last:
            return ["true"]
        shifted = em.sop("sub", start, first & M64, 64)
        return [em.op(f"icmp ugt i64 {em.s64(shifted)}, {last - first}")]
    got: list[str] = []
    low_sum: Scalar = em.sop("add", start, low & M64, 64)
    high_sum: Scalar = em.sop("add", start, high & M64, 64)
    for part in moving:
        text = em.s64(part)
        least = em.call("i64", "llvm.smin.i64", [("i64", text), ("i64", "0")])
        most = em.call("i64", "llvm.smax.i64", [("i64", text), ("i64", "0")])
        low_sum, high_sum = em.sop("add", low_sum, least, 64), em.sop("add", high_sum, most, 64)
    got.append(em.op(f"icmp slt i64 {em.s64(low_sum)}, {bottom}"))
    got.append(em.op(f"icmp sgt i64 {em.s64(high_sum)}, {top}"))
    return got


def any_active(m: Machine, units: list[str], mask: PVal) -> str:
    """Whether any of some lane conditions holds in an active lane."""
    em = m.em
    if mask.k != "u" or mask.x is not True:
        units = [em.op(f"and {em.vb} {u}, {a}") for u, a in zip(units, em.punits(mask), strict=True)]
    whole = units[0]
    for u in units[1:]:
        whole = em.op(f"or {em.vb} {whole}, {u}")
    return em.op(f"icmp ne i{em.U} {em.op(f'bitcast {em.vb} {whole} to i{em.U}')}, 0")


def plan_index(m: Machine, w: Wide, size: int, windows: bool) -> Plan | None:
    """base + index * factor with a vector index: one gather's own addressing."""
    em = m.em
    index, sign, factor = w.terms[0]
    if factor not in (1, 2, 4, 8) or (factor % size and factor != 1):
        return None
    bad = misaligned(m, w.base, size)
    mask = m.mask()
    units = em.units(index)
    if factor % size:
        whole = units[0]
        if mask.k != "u" or mask.x is not True:
            zero = "zeroinitializer"
            some = [
                em.op(f"select {em.vb} {on}, {em.vi} {x}, {em.vi} {zero}")
                for on, x in zip(em.punits(mask), units, strict=True)
            ]
        else:
            some = units
        whole = some[0]
        for x in some[1:]:
            whole = em.op(f"or {em.vi} {whole}, {x}")
        low = em.op(f"and {em.vi} {whole}, splat (i32 {size - 1})")
        odd = em.op(f"icmp ne {em.vi} {low}, zeroinitializer")
        bad.append(em.op(f"icmp ne i{em.U} {em.op(f'bitcast {em.vb} {odd} to i{em.U}')}, 0"))
    if not sign:
        bad.append(any_active(m, [em.op(f"icmp slt {em.vi} {x}, zeroinitializer") for x in units], mask))
    shift = factor.bit_length() - 1
    if windows:
        reach = (1 << 31) * factor
        for start, length in window_ranges(m):
            # Far from the window whatever the index is?
            near = em.sop("sub", w.base, (start - reach) & M64, 64)
            if isinstance(near, int):
                if near >= length + 2 * reach:
                    continue
                maybe = "true"
            else:
                maybe = em.op(f"icmp ult i64 {near}, {length + 2 * reach}")
            distance = em.sop("sub", start - size, w.base, 64)
            least = em.op(f"trunc i64 {em.s64(em.sop('ashr', distance, shift, 64))} to i32")
            span = em.op(f"select i1 {maybe}, i32 {(length + size >> shift) + 2}, i32 0")
            row, width = em.splat(least), em.splat(span)
            hits = []
            for x in units:
                moved = em.op(f"sub {em.vi} {x}, {row}")
                hits.append(em.op(f"icmp ult {em.vi} {moved}, {width}"))
            bad.append(any_active(m, hits, mask))
    return Plan("index", bad, address=clamp(m, w.base), index=index, factor=factor, segments=0)


def plan_lanes(m: Machine, w: Wide, size: int, windows: bool) -> Plan:
    """Any addresses: 64 bits a lane."""
    em = m.em
    mask = m.mask()
    lanes = em.wide_lanes(w)
    hits: list[str] = []
    clamped: list[str] = []
    for x in lanes:
        hit = ""
        if size > 1:
            low = em.op(f"and {em.vl} {x}, splat (i64 {size - 1})")
            hit = em.op(f"icmp ne {em.vl} {low}, zeroinitializer")
        if windows:
            for start, length in window_ranges(m):
                moved = em.op(f"sub {em.vl} {x}, splat (i64 {start})")
                inside = em.op(f"icmp ult {em.vl} {moved}, splat (i64 {length})")
                hit = em.op(f"or {em.vb} {hit}, {inside}") if hit else inside
        if hit:
            hits.append(hit)
        name = f"llvm.umin.v{em.U}i64"
        clamped.append(em.call(em.vl, name, [(em.vl, x), (em.vl, f"splat (i64 {1 << 40})")]))
    bad = [any_active(m, hits, mask)] if hits else []
    return Plan("lanes", bad, lanes=clamped, segments=0)

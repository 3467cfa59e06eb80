"""What PTX says of integer instructions, in Python's own integers: (text, result type, operand types,
function).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """`body` uses %a0.. and sets %d; `want` gets the operands by type and may return None where PTX says
    nothing.
    """

    name: str
    body: str
    result: str
    operands: tuple[str, ...]
    want: Callable[..., int | None]


def by_type(value: int, kind: str) -> int:
    """Raw bits as a number of a type."""
    bits = int(kind[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> (bits - 1) else value


def divide(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


def remainder(a: int, b: int) -> int:
    return abs(a) % abs(b) * (-1 if a < 0 else 1)


def permute(a: int, b: int, selector: int) -> int:
    source = a | b << 32
    out = 0
    for k in range(4):
        nibble = selector >> 4 * k & 15
        byte = source >> 8 * (nibble & 7) & 255
        if nibble & 8:
            byte = 255 if byte & 128 else 0
        out |= byte << 8 * k
    return out


def extract(a: int, position: int, length: int, kind: str) -> int:
    bits = int(kind[1:])
    position, length, a = position & 255, length & 255, a & (1 << bits) - 1
    fill = a >> min(position + length - 1, bits - 1) & 1 if kind[0] == "s" and length else 0
    out = 0
    for k in range(bits):
        out |= (a >> position + k & 1 if k < length and position + k < bits else fill) << k
    return out


def insert(a: int, base: int, position: int, length: int, bits: int) -> int:
    position, length = position & 255, length & 255
    for k in range(min(length, max(0, bits - position))):
        base = base & ~(1 << position + k) | (a >> k & 1) << position + k
    return base


def highest(a: int) -> int:
    return (a if a >= 0 else ~a).bit_length() - 1


def saturate(value: int, kind: str) -> int:
    bits = int(kind[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    return max(low, min(high, value))


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}
UNSIGNED_NAMES = {"lo": "lt", "ls": "le", "hi": "gt", "hs": "ge"}
SPLIT = ".reg .b32 %l<6>; mov.b64 {%l0,%l1}, %a0; mov.b64 {%l2,%l3}, %a1; "


def cases() -> list[Case]:
    out: list[Case] = []

    def case(name: str, result: str, operands: str, want: Callable[..., int | None], body: str = "") -> None:
        kinds = tuple(operands.split())
        text = body or f"{name} %d, {', '.join(f'%a{k}' for k in range(len(kinds)))};"
        out.append(Case(name, text, result, kinds, want))

    for t in ("u16", "s16", "u32", "s32", "u64", "s64"):
        n = int(t[1:])
        case(f"add.{t}", t, f"{t} {t}", lambda a, b: a + b)
        case(f"sub.{t}", t, f"{t} {t}", lambda a, b: a - b)
        case(f"mul.lo.{t}", t, f"{t} {t}", lambda a, b: a * b)
        case(f"mul.hi.{t}", t, f"{t} {t}", lambda a, b, n=n: a * b >> n)
        case(f"mad.lo.{t}", t, f"{t} {t} {t}", lambda a, b, c: a * b + c)
        case(f"mad.hi.{t}", t, f"{t} {t} {t}", lambda a, b, c, n=n: (a * b >> n) + c)
        if n < 64:
            w = f"{t[0]}{2 * n}"
            case(f"mul.wide.{t}", w, f"{t} {t}", lambda a, b: a * b)
            case(f"mad.wide.{t}", w, f"{t} {t} {w}", lambda a, b, c: a * b + c)
        case(f"div.{t}", t, f"{t} {t}", lambda a, b: divide(a, b) if b else None)
        case(f"rem.{t}", t, f"{t} {t}", lambda a, b: remainder(a, b) if b else None)
        case(f"min.{t}", t, f"{t} {t}", min)
        case(f"max.{t}", t, f"{t} {t}", max)
        case(f"sad.{t}", t, f"{t} {t} {t}", lambda a, b, c: abs(a - b) + c)
        for c, f in COMPARISONS.items():
            body = f"setp.{c}.{t} %p0, %a0, %a1; selp.u32 %d, 1, 0, %p0;"
            case(f"setp.{c}.{t}", "u32", f"{t} {t}", lambda a, b, f=f: int(f(a, b)), body)
            case(f"set.{c}.s32.{t}", "u32", f"{t} {t}", lambda a, b, f=f: -int(f(a, b)))
        if t[0] == "u":
            for c, plain in UNSIGNED_NAMES.items():
                body = f"setp.{c}.{t} %p0, %a0, %a1; selp.u32 %d, 1, 0, %p0;"
                f = COMPARISONS[plain]
                case(f"setp.{c}.{t}", "u32", f"{t} {t}", lambda a, b, f=f: int(f(a, b)), body)
        else:
            case(f"neg.{t}", t, t, lambda a: -a)
            case(f"abs.{t}", t, t, abs)
        case(f"shr.{t}", t, f"{t} u32", lambda a, k: a >> min(k, 64))
        case(f"slct.{t}.s32", t, f"{t} {t} s32", lambda a, b, c: a if c >= 0 else b)
        if n > 16:
            case(f"bfe.{t}", t, f"{t} u32 u32", lambda a, p, k, t=t: extract(a, p, k, t))
            case(f"bfind.{t}", "u32", t, highest)
            shift = lambda a, n=n: n - 1 - highest(a) if highest(a) >= 0 else -1  # noqa: E731
            case(f"bfind.shiftamt.{t}", "u32", t, shift)
    for t in ("b16", "b32", "b64"):
        n = int(t[1:])
        case(f"and.{t}", t, f"{t} {t}", lambda a, b: a & b)
        case(f"or.{t}", t, f"{t} {t}", lambda a, b: a | b)
        case(f"xor.{t}", t, f"{t} {t}", lambda a, b: a ^ b)
        case(f"not.{t}", t, t, lambda a: ~a)
        case(f"cnot.{t}", t, t, lambda a: int(a == 0))
        case(f"shl.{t}", t, f"{t} u32", lambda a, k, n=n: a << k if k < n else 0)
        if n > 16:
            case(f"popc.{t}", "u32", t, lambda a: a.bit_count())
            case(f"clz.{t}", "u32", t, lambda a, n=n: n - a.bit_length())
            case(f"brev.{t}", t, t, lambda a, n=n: int(format(a, f"0{n}b")[::-1], 2))
            case(f"bfi.{t}", t, f"{t} {t} u32 u32", lambda a, b, p, k, n=n: insert(a, b, p, k, n))
    case("prmt.b32", "b32", "b32 b32 b32", permute)
    for table in (0x96, 0xE8, 0x1B, 0xCA, 0x3F, 0x80, 0xFE, 0x55, 0x00, 0xFF):

        def lop3(a: int, b: int, c: int, table: int = table) -> int:
            index = lambda k: (a >> k & 1) << 2 | (b >> k & 1) << 1 | c >> k & 1  # noqa: E731
            return sum((table >> index(k) & 1) << k for k in range(32))

        case(f"lop3 {table:#x}", "b32", "b32 b32 b32", lop3, f"lop3.b32 %d, %a0, %a1, %a2, {table};")
    case("shf.l.wrap.b32", "b32", "b32 b32 u32", lambda a, b, n: (b << 32 | a) << (n & 31) >> 32)
    case("shf.r.wrap.b32", "b32", "b32 b32 u32", lambda a, b, n: (b << 32 | a) >> (n & 31))
    case("shf.l.clamp.b32", "b32", "b32 b32 u32", lambda a, b, n: (b << 32 | a) << min(n, 32) >> 32)
    case("shf.r.clamp.b32", "b32", "b32 b32 u32", lambda a, b, n: (b << 32 | a) >> min(n, 32))
    for t in ("u32", "s32"):
        low = t[0] + "24"
        f24 = lambda a, b, low=low: by_type(a, low) * by_type(b, low)  # noqa: E731
        case(f"mul24.lo.{t}", t, f"{t} {t}", f24)
        case(f"mul24.hi.{t}", t, f"{t} {t}", lambda a, b, f=f24: f(a, b) >> 16)
        case(f"mad24.lo.{t}", t, f"{t} {t} {t}", lambda a, b, c, f=f24: f(a, b) + c)
    case("add.sat.s32", "s32", "s32 s32", lambda a, b: saturate(a + b, "s32"))
    case("sub.sat.s32", "s32", "s32 s32", lambda a, b: saturate(a - b, "s32"))
    case("mad.hi.sat.s32", "s32", "s32 s32 s32", lambda a, b, c: saturate((a * b >> 32) + c, "s32"))
    for x in "us":
        for y in "us":

            def dot(a: int, b: int, c: int, half: int, step: int, count: int, x: str = x, y: str = y) -> int:
                part = lambda k: by_type(a >> step * k, f"{x}{step}") * by_type(b >> half + 8 * k, f"{y}8")  # noqa: E731
                return c + sum(part(k) for k in range(count))

            types = f"{x}32.{y}32"
            case(f"dp4a.{types}", "s32", "b32 b32 s32", lambda a, b, c, f=dot: f(a, b, c, 0, 8, 4))
            case(f"dp2a.lo.{types}", "s32", "b32 b32 s32", lambda a, b, c, f=dot: f(a, b, c, 0, 16, 2))
            case(f"dp2a.hi.{types}", "s32", "b32 b32 s32", lambda a, b, c, f=dot: f(a, b, c, 16, 16, 2))
    add = SPLIT + "add.cc.u32 %l0,%l0,%l2; addc.u32 %l1,%l1,%l3; mov.b64 %d, {%l0,%l1};"
    sub = SPLIT + "sub.cc.u32 %l0,%l0,%l2; subc.u32 %l1,%l1,%l3; mov.b64 %d, {%l0,%l1};"
    mad = SPLIT + "mad.lo.cc.u32 %l4,%l0,%l2,%l0; madc.hi.u32 %l5,%l0,%l2,%l1; mov.b64 %d, {%l4,%l5};"
    case("add.cc addc", "u64", "u64 u64", lambda a, b: a + b, add)
    case("sub.cc subc", "u64", "u64 u64", lambda a, b: a - b, sub)
    case("mad.cc madc", "u64", "u64 u64", lambda a, b: (a & 0xFFFFFFFF) * (b & 0xFFFFFFFF) + a, mad)
    wide = ".reg .b64 %l<2>; add.cc.u64 %l0,%a0,%a2; addc.u64 %d,%a1,%a3;"
    case("add.cc.u64", "u64", "u64 u64 u64 u64", lambda a, b, c, d: (a + c >> 64) + b + d, wide)
    kinds = ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64")
    for source in kinds:
        for target in kinds:
            case(f"cvt.{target}.{source}", target, source, lambda v: v)
            case(f"cvt.sat.{target}.{source}", target, source, lambda v, t=target: saturate(v, t))
    return out

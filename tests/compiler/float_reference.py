"""What IEEE 754 and PTX say of floating-point instructions, in exact fractions. Numbers are raw bits; NAN is
any NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

NAN = -1
FORMATS = {"f16": (11, -14, 15, 5), "f32": (24, -126, 127, 8), "f64": (53, -1022, 1023, 11)}
"""Precision, smallest and largest exponent, exponent bits."""
MODES = ("rn", "rz", "rm", "rp")


@dataclass(frozen=True)
class Real:
    """A decoded number: `kind` "num", "inf" or "nan"."""

    kind: str
    sign: int
    value: Fraction


def decode(bits: int, t: str) -> Real:
    p, emin, emax, width = FORMATS[t]
    m, e = bits & (1 << p - 1) - 1, bits >> p - 1 & (1 << width) - 1
    sign = bits >> p - 1 + width & 1
    if e == (1 << width) - 1:
        return Real("nan" if m else "inf", sign, Fraction(0))
    scaled = Fraction(m) * Fraction(2) ** (emin - p + 1)
    if e:
        scaled = Fraction(m | 1 << p - 1) * Fraction(2) ** (e - emax - p + 1)
    return Real("num", sign, -scaled if sign else scaled)


def infinity(t: str, sign: int) -> int:
    p, _, _, width = FORMATS[t]
    return (1 << width) - 1 << p - 1 | sign << p - 1 + width


def zero(t: str, sign: int) -> int:
    p, _, _, width = FORMATS[t]
    return sign << p - 1 + width


def exponent(x: Fraction) -> int:
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e - 1 if Fraction(2) ** e > x else e


def encode(x: Fraction, t: str, mode: str = "rn", sign: int = 0) -> int:
    """Round a fraction; `sign` is that of a zero."""
    p, emin, _, width = FORMATS[t]
    if x == 0:
        return zero(t, sign)
    negative = int(x < 0)
    e = max(exponent(abs(x)), emin)
    scaled = abs(x) / Fraction(2) ** (e - p + 1)
    n = scaled.numerator // scaled.denominator
    rest = scaled - n
    away = mode == ("rm" if negative else "rp")
    if mode == "rn":
        n += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and n & 1)
    else:
        n += away and rest > 0
    bits = n + (e - emin << p - 1)
    top = (1 << width) - 1 << p - 1
    if bits >= top:
        bits = top if mode == "rn" or away else top - 1
    return bits | negative << p - 1 + width


def flush(bits: int, t: str) -> int:
    if bits == NAN:
        return NAN
    x = decode(bits, t)
    small = x.kind == "num" and 0 < abs(x.value) < Fraction(2) ** FORMATS[t][1]
    return zero(t, x.sign) if small else bits


def add(a: int, b: int, t: str, mode: str) -> int:
    x, y = decode(a, t), decode(b, t)
    if "nan" in (x.kind, y.kind):
        return NAN
    if "inf" in (x.kind, y.kind):
        if x.kind == y.kind:
            return infinity(t, x.sign) if x.sign == y.sign else NAN
        return infinity(t, x.sign if x.kind == "inf" else y.sign)
    total = x.value + y.value
    if total == 0:
        both = x.value == 0 and y.value == 0 and x.sign == y.sign
        return zero(t, x.sign if both else int(mode == "rm"))
    return encode(total, t, mode)


def subtract(a: int, b: int, t: str, mode: str) -> int:
    return add(a, b ^ zero(t, 1), t, mode)


def multiply(a: int, b: int, t: str, mode: str) -> int:
    return fma(a, b, zero(t, decode(a, t).sign ^ decode(b, t).sign), t, mode)


def fma(a: int, b: int, c: int, t: str, mode: str) -> int:
    x, y, z = decode(a, t), decode(b, t), decode(c, t)
    if "nan" in (x.kind, y.kind, z.kind):
        return NAN
    sign = x.sign ^ y.sign
    if "inf" in (x.kind, y.kind):
        nothing = any(v.kind == "num" and v.value == 0 for v in (x, y))
        return NAN if nothing or (z.kind == "inf" and z.sign != sign) else infinity(t, sign)
    if z.kind == "inf":
        return infinity(t, z.sign)
    product = x.value * y.value
    total = product + z.value
    if total == 0:
        both = product == 0 and z.value == 0 and sign == z.sign
        return zero(t, sign if both else int(mode == "rm"))
    return encode(total, t, mode)


def divide(a: int, b: int, t: str, mode: str) -> int:
    x, y = decode(a, t), decode(b, t)
    if "nan" in (x.kind, y.kind):
        return NAN
    sign = x.sign ^ y.sign
    if x.kind == "inf":
        return NAN if y.kind == "inf" else infinity(t, sign)
    if y.kind == "inf":
        return zero(t, sign)
    if y.value == 0:
        return NAN if x.value == 0 else infinity(t, sign)
    return encode(x.value / y.value, t, mode, sign)


def reciprocal(b: int, t: str, mode: str) -> int:
    return divide(encode(Fraction(1), t), b, t, mode)


def root(a: int, t: str, mode: str) -> int:
    x = decode(a, t)
    if x.kind == "nan" or (x.sign and not (x.kind == "num" and x.value == 0)):
        return NAN
    if x.kind == "inf" or x.value == 0:
        return a
    shift = 2 * (FORMATS[t][0] + 6 - exponent(x.value) // 2)
    scaled = x.value * Fraction(2) ** shift
    n = scaled.numerator // scaled.denominator
    r = math.isqrt(n)
    exact = r * r == scaled
    return encode((Fraction(r) if exact else r + Fraction(1, 3)) / Fraction(2) ** (shift // 2), t, mode)


def order(x: Real) -> Fraction:
    return x.value if x.kind == "num" else Fraction(2) ** 5000 * (-1 if x.sign else 1)


def pick(a: int, b: int, t: str, smaller: bool) -> int:
    x, y = decode(a, t), decode(b, t)
    if x.kind == "nan":
        return NAN if y.kind == "nan" else b
    if y.kind == "nan":
        return a
    first = (order(x), -x.sign) <= (order(y), -y.sign)
    return a if first == smaller else b


def compare(name: str, a: int, b: int, t: str) -> bool:
    x, y = decode(a, t), decode(b, t)
    unordered = "nan" in (x.kind, y.kind)
    if name in ("num", "nan"):
        return unordered == (name == "nan")
    if unordered:
        return name.endswith("u")
    u, v = order(x), order(y)
    return {"eq": u == v, "ne": u != v, "lt": u < v, "le": u <= v, "gt": u > v, "ge": u >= v}[name[:2]]


INTEGRAL: dict[str, Callable[[Fraction], int]] = {
    "rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil,
}  # fmt: skip


def to_integer(a: int, t: str, kind: str, mode: str) -> int | None:
    """None for a NaN, for which PTX says nothing."""
    bits = int(kind[1:])
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "s" else (0, (1 << bits) - 1)
    x = decode(a, t)
    if x.kind == "nan":
        return None
    if x.kind == "inf":
        return low if x.sign else high
    return max(low, min(high, INTEGRAL[mode](x.value)))


def to_integral(a: int, t: str, mode: str) -> int:
    x = decode(a, t)
    if x.kind != "num":
        return NAN if x.kind == "nan" else a
    return encode(Fraction(INTEGRAL[mode](x.value)), t, "rn", x.sign)


def convert(a: int, source: str, target: str, mode: str) -> int:
    x = decode(a, source)
    if x.kind != "num":
        return NAN if x.kind == "nan" else infinity(target, x.sign)
    return encode(x.value, target, mode, x.sign)


def saturate(a: int, t: str) -> int:
    if a == NAN:
        return 0
    x = decode(a, t)
    if x.sign or (x.kind == "num" and x.value == 0):
        return 0
    one = encode(Fraction(1), t)
    return one if x.kind == "inf" or x.value > 1 else a


def classify(name: str, a: int, t: str) -> bool:
    x = decode(a, t)
    finite = x.kind == "num"
    normal = finite and abs(x.value) >= Fraction(2) ** FORMATS[t][1]
    return {
        "finite": finite, "infinite": x.kind == "inf", "number": x.kind != "nan",
        "notanumber": x.kind == "nan",
        "normal": normal, "subnormal": finite and x.value != 0 and not normal,
    }[name]  # fmt: skip

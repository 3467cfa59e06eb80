"""IEEE arithmetic by exact fractions, for judging the executor: slow, and plainly right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Format:
    """A binary floating-point format by its field widths."""

    exponent: int
    mantissa: int
    nan: int

    @property
    def bits(self) -> int:
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        return (1 << (self.exponent - 1)) - 1

    @property
    def top(self) -> int:
        return (1 << self.exponent) - 1

    @property
    def infinity(self) -> int:
        return self.top << self.mantissa

    @property
    def sign(self) -> int:
        return 1 << (self.bits - 1)


F16 = Format(5, 10, 0x7FFF)
F32 = Format(8, 23, 0x7FFFFFFF)
F64 = Format(11, 52, 0xFFF8000000000000)


def is_nan(bits: int, f: Format) -> bool:
    return bits & (f.sign - 1) > f.infinity


def is_inf(bits: int, f: Format) -> bool:
    return bits & (f.sign - 1) == f.infinity


def negative(bits: int, f: Format) -> bool:
    return bool(bits & f.sign)


def canonical(bits: int, f: Format) -> int:
    """The one NaN that arithmetic of this format gives; every other value as it is."""
    return f.nan if is_nan(bits, f) else bits


def flush(bits: int, f: Format) -> int:
    """A denormal becomes zero of its sign."""
    return bits & f.sign if bits >> f.mantissa & f.top == 0 else bits


def exact(bits: int, f: Format) -> Fraction:
    """The value of a finite number."""
    exponent = bits >> f.mantissa & f.top
    mantissa = bits & ((1 << f.mantissa) - 1)
    if exponent:
        mantissa |= 1 << f.mantissa
    value = Fraction(mantissa) * Fraction(2) ** (max(exponent, 1) - f.bias - f.mantissa)
    return -value if bits & f.sign else value


def integral(value: Fraction, rnd: str) -> int:
    """Round to an integer: RN (ties to even), RM (down), RP (up), RZ (to zero)."""
    if rnd == "RM":
        return math.floor(value)
    if rnd == "RP":
        return math.ceil(value)
    if rnd == "RZ":
        return math.trunc(value)
    return round(value)


def rounded(value: Fraction, f: Format, rnd: str, zero_sign: bool = False) -> int:
    """Bits of `value` rounded to the format. An exact zero takes `zero_sign`."""
    if value == 0:
        return f.sign if zero_sign else 0
    sign = value < 0
    size = abs(value)
    # floor(log2(size))
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    exponent = max(exponent, 1 - f.bias)
    scale = Fraction(2) ** (exponent - f.mantissa)
    mantissa = abs(integral(value / scale, rnd))
    if mantissa == 0:
        return f.sign if sign else 0
    if mantissa >> (f.mantissa + 1):
        mantissa >>= 1
        exponent += 1
    if exponent > f.bias:
        away = rnd == "RN" or (rnd == "RP" and not sign) or (rnd == "RM" and sign)
        bits = f.infinity if away else f.infinity - 1
    elif mantissa >> f.mantissa:
        bits = (exponent + f.bias) << f.mantissa | (mantissa & ((1 << f.mantissa) - 1))
    else:
        bits = mantissa
    return bits | (f.sign if sign else 0)


def add(a: int, b: int, f: Format, rnd: str) -> int:
    if is_nan(a, f) or is_nan(b, f):
        return f.nan
    if is_inf(a, f) or is_inf(b, f):
        if is_inf(a, f) and is_inf(b, f) and a != b:
            return f.nan
        return a if is_inf(a, f) else b
    both_negative = negative(a, f) and negative(b, f)
    same = negative(a, f) == negative(b, f)
    zero = both_negative if same else rnd == "RM"
    return rounded(exact(a, f) + exact(b, f), f, rnd, zero)


def mul(a: int, b: int, f: Format, rnd: str, scale: Fraction = Fraction(1)) -> int:
    if is_nan(a, f) or is_nan(b, f):
        return f.nan
    sign = negative(a, f) != negative(b, f)
    if is_inf(a, f) or is_inf(b, f):
        other = b if is_inf(a, f) else a
        if other & (f.sign - 1) == 0:
            return f.nan
        return f.infinity | (f.sign if sign else 0)
    return rounded(exact(a, f) * exact(b, f) * scale, f, rnd, sign)


def fma(a: int, b: int, c: int, f: Format, rnd: str) -> int:
    if is_nan(a, f) or is_nan(b, f) or is_nan(c, f):
        return f.nan
    sign = negative(a, f) != negative(b, f)
    if is_inf(a, f) or is_inf(b, f):
        other = b if is_inf(a, f) else a
        if other & (f.sign - 1) == 0:
            return f.nan
        if is_inf(c, f) and negative(c, f) != sign:
            return f.nan
        return f.infinity | (f.sign if sign else 0)
    if is_inf(c, f):
        return c
    zero = sign if sign == negative(c, f) else rnd == "RM"
    return rounded(exact(a, f) * exact(b, f) + exact(c, f), f, rnd, zero)


def compare(a: int, b: int, f: Format) -> int:
    """1 less, 2 equal, 4 greater, 8 unordered."""
    if is_nan(a, f) or is_nan(b, f):
        return 8

    def key(x: int) -> Fraction:
        if is_inf(x, f):
            return Fraction(-(2**2000)) if negative(x, f) else Fraction(2**2000)
        return exact(x, f)

    return 1 if key(a) < key(b) else 2 if key(a) == key(b) else 4


def to_float(bits: int, f: Format) -> float:
    if is_nan(bits, f):
        return math.nan
    if is_inf(bits, f):
        return -math.inf if negative(bits, f) else math.inf
    value = float(exact(bits, f))
    return -0.0 if value == 0 and negative(bits, f) else value


def from_float(value: float, f: Format, rnd: str = "RN") -> int:
    if math.isnan(value):
        return f.nan
    if math.isinf(value):
        return f.infinity | (f.sign if value < 0 else 0)
    return rounded(Fraction(value), f, rnd, math.copysign(1, value) < 0)

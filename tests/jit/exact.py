"""Exact floats for the interpreter: bits to Fraction and back, rounded in any direction. Slow and obviously
right."""

from __future__ import annotations

import struct
from fractions import Fraction

FORMATS = {16: (11, -14, 15), 32: (24, -126, 127), 64: (53, -1022, 1023)}
"""Bits -> (precision, least exponent, greatest exponent)."""


def parts(bits: int, size: int) -> tuple[str, int, Fraction]:
    """(class, sign, magnitude): class is "nan", "inf" or "number"."""
    precision, low, _ = FORMATS[size]
    sign = bits >> (size - 1)
    field = bits >> (precision - 1) & (1 << (size - precision)) - 1
    mantissa = bits & (1 << (precision - 1)) - 1
    if field == (1 << (size - precision)) - 1:
        return ("nan" if mantissa else "inf"), sign, Fraction(0)
    if field == 0:
        return "number", sign, Fraction(mantissa) * Fraction(2) ** (low - precision + 1)
    return (
        "number",
        sign,
        Fraction(mantissa | 1 << (precision - 1)) * Fraction(2) ** (field - 1 + low - precision + 1),
    )


def value(bits: int, size: int) -> Fraction:
    kind, sign, magnitude = parts(bits, size)
    assert kind == "number"
    return -magnitude if sign else magnitude


def infinity(sign: int, size: int) -> int:
    precision = FORMATS[size][0]
    return sign << (size - 1) | ((1 << (size - precision)) - 1) << (precision - 1)


def is_nan(bits: int, size: int) -> bool:
    return parts(bits, size)[0] == "nan"


def round_integer(x: Fraction, mode: str) -> int:
    """To a whole number: RN (half to even), RM, RP, RZ."""
    floor = x.numerator // x.denominator
    rest = x - floor
    if mode == "RM" or rest == 0:
        return floor
    if mode == "RP":
        return floor + 1
    if mode == "RZ":
        return floor + (1 if x < 0 else 0)
    if rest == Fraction(1, 2):
        return floor + (floor & 1)
    return floor + (1 if rest > Fraction(1, 2) else 0)


def encode(x: Fraction, size: int, mode: str, zero_sign: int = 0) -> int:
    """The nearest float in a direction; `zero_sign` is the sign of an exact zero."""
    precision, low, high = FORMATS[size]
    if x == 0:
        return zero_sign << (size - 1)
    sign = 1 if x < 0 else 0
    magnitude = abs(x)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if Fraction(2) ** exponent > magnitude:
        exponent -= 1
    exponent = max(exponent, low)
    unit = Fraction(2) ** (exponent - precision + 1)
    direction = {"RM": "RP", "RP": "RM"}.get(mode, mode) if sign else mode
    steps = round_integer(magnitude / unit, direction)
    if steps >= 1 << precision:
        steps >>= 1
        exponent += 1
    if exponent > high:
        up = mode == "RN" or (mode == "RP" and not sign) or (mode == "RM" and sign)
        return infinity(sign, size) if up else infinity(sign, size) - 1
    if steps < 1 << (precision - 1):
        return sign << (size - 1) | steps
    field = exponent - low + 1
    return sign << (size - 1) | field << (precision - 1) | steps & (1 << (precision - 1)) - 1


def default_nan(size: int) -> int:
    return 0x7FFFFFFF if size == 32 else 0xFFF8 << 48 if size == 64 else 0x7FFF


def add(a: int, b: int, size: int, mode: str) -> int:
    (ka, sa, xa), (kb, sb, _xb) = parts(a, size), parts(b, size)
    if "nan" in (ka, kb) or (ka == kb == "inf" and sa != sb):
        return default_nan(size)
    if ka == "inf":
        return a
    if kb == "inf":
        return b
    total = value(a, size) + value(b, size)
    zero = sa if sa == sb else (1 if mode == "RM" else 0)
    if total == 0 and xa != 0:
        zero = 1 if mode == "RM" else 0
    return encode(total, size, mode, zero)


def multiply(a: int, b: int, size: int, mode: str) -> int:
    return fma(a, b, None, size, mode)


def fma(a: int, b: int, c: int | None, size: int, mode: str) -> int:
    (ka, sa, xa), (kb, sb, xb) = parts(a, size), parts(b, size)
    sign = sa ^ sb
    if "nan" in (ka, kb) or (c is not None and is_nan(c, size)):
        return default_nan(size)
    if "inf" in (ka, kb):
        if (ka == "number" and xa == 0) or (kb == "number" and xb == 0):
            return default_nan(size)
        product = infinity(sign, size)
        if c is not None and parts(c, size)[0] == "inf" and c != product:
            return default_nan(size)
        return product
    exact = value(a, size) * value(b, size)
    if c is None:
        return encode(exact, size, mode, sign)
    kc, sc, xc = parts(c, size)
    if kc == "inf":
        return c
    total = exact + value(c, size)
    zero = sign if sign == sc and exact == 0 and xc == 0 else (1 if mode == "RM" else 0)
    return encode(total, size, mode, zero)


def flush(bits: int) -> int:
    """Single-precision denormals become zero of their sign."""
    return bits & 0x80000000 if bits & 0x7F800000 == 0 else bits


def compare(a: int, b: int, size: int) -> str:
    """ "less", "equal", "greater" or "unordered"."""
    (ka, sa, _), (kb, sb, _) = parts(a, size), parts(b, size)
    if "nan" in (ka, kb):
        return "unordered"
    big = Fraction(2) ** 5000
    x = (-big if sa else big) if ka == "inf" else value(a, size)
    y = (-big if sb else big) if kb == "inf" else value(b, size)
    return "less" if x < y else "greater" if x > y else "equal"


def f32(x: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", x))[0])


def to_float(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])

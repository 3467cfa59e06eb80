"""Floating-point instructions in every rounding mode, with denormals, infinities and NaNs, against exact
fractions.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction

import float_reference as ref
import numpy as np
import pytest
from device import Device
from float_reference import FORMATS, MODES, NAN
from ptx_text import HEADER, elementwise

THREADS = 32
Want = Callable[..., int | None]
Row = tuple[str, str, tuple[str, ...], Want, str]


def flushed(f: Want) -> Want:
    def g(*values: int) -> int | None:
        out = f(*(ref.flush(v, "f32") for v in values))
        return None if out is None else ref.flush(out, "f32")

    return g


def table() -> list[Row]:
    rows: list[Row] = []

    def row(name: str, result: str, operands: str, want: Want, body: str = "") -> None:
        rows.append((name, result, tuple(operands.split()), want, body))

    def predicate(name: str, operands: str, want: Want) -> None:
        inputs = ", ".join(f"%a{k}" for k in range(len(operands.split())))
        row(name, "u32", operands, want, f"{name} %p0, {inputs}; selp.u32 %d, 1, 0, %p0;")

    for t in ("f32", "f64"):
        for m in MODES:
            for ftz in ("", ".ftz") if t == "f32" else ("",):
                wrap = flushed if ftz else lambda f: f
                row(f"add.{m}{ftz}.{t}", t, f"{t} {t}", wrap(lambda a, b, t=t, m=m: ref.add(a, b, t, m)))
                row(f"sub.{m}{ftz}.{t}", t, f"{t} {t}", wrap(lambda a, b, t=t, m=m: ref.subtract(a, b, t, m)))
                row(f"mul.{m}{ftz}.{t}", t, f"{t} {t}", wrap(lambda a, b, t=t, m=m: ref.multiply(a, b, t, m)))
                row(
                    f"fma.{m}{ftz}.{t}",
                    t,
                    f"{t} {t} {t}",
                    wrap(lambda a, b, c, t=t, m=m: ref.fma(a, b, c, t, m)),
                )
                row(f"div.{m}{ftz}.{t}", t, f"{t} {t}", wrap(lambda a, b, t=t, m=m: ref.divide(a, b, t, m)))
                row(f"rcp.{m}{ftz}.{t}", t, t, wrap(lambda a, t=t, m=m: ref.reciprocal(a, t, m)))
                row(f"sqrt.{m}{ftz}.{t}", t, t, wrap(lambda a, t=t, m=m: ref.root(a, t, m)))
            for kind in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
                row(f"cvt.{m}.{t}.{kind}", t, kind, lambda v, t=t, m=m: ref.encode(Fraction(v), t, m))
        row(f"min.{t}", t, f"{t} {t}", lambda a, b, t=t: ref.pick(a, b, t, True))
        row(f"max.{t}", t, f"{t} {t}", lambda a, b, t=t: ref.pick(a, b, t, False))
        sign = 1 << int(t[1:]) - 1
        row(f"neg.{t}", t, t, lambda a, s=sign: a ^ s)
        row(f"abs.{t}", t, t, lambda a, s=sign: a & ~s)
        row(f"copysign.{t}", t, f"{t} {t}", lambda a, b, s=sign: b & ~s | a & s)
        for c in ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"]:
            predicate(f"setp.{c}.{t}", f"{t} {t}", lambda a, b, c=c, t=t: int(ref.compare(c, a, b, t)))
        for c in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"]:
            predicate(f"testp.{c}.{t}", t, lambda a, c=c, t=t: int(ref.classify(c, a, t)))
        for m in ref.INTEGRAL:
            row(f"cvt.{m}.{t}.{t}", t, t, lambda a, t=t, m=m: ref.to_integral(a, t, m))
            for kind in ("u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"):
                row(f"cvt.{m}.{kind}.{t}", kind, t, lambda a, t=t, m=m, k=kind: ref.to_integer(a, t, k, m))
    for m in MODES:
        row(f"cvt.{m}.f32.f64", "f32", "f64", lambda a, m=m: ref.convert(a, "f64", "f32", m))
        row(f"cvt.{m}.f16.f32", "b16", "f32", lambda a, m=m: ref.convert(a, "f32", "f16", m))
    row("cvt.f64.f32", "f64", "f32", lambda a: ref.convert(a, "f32", "f64", "rn"))
    row("cvt.f32.f16", "f32", "b16", lambda a: ref.convert(a, "f16", "f32", "rn"))
    row("add.sat.f32", "f32", "f32 f32", lambda a, b: ref.saturate(ref.add(a, b, "f32", "rn"), "f32"))
    row(
        "fma.rn.sat.f32",
        "f32",
        "f32 f32 f32",
        lambda a, b, c: ref.saturate(ref.fma(a, b, c, "f32", "rn"), "f32"),
    )
    row("cvt.sat.f32.f32", "f32", "f32", lambda a: ref.saturate(a, "f32"))
    return rows


ROWS = table()
GROUPS = 8


def interesting(rng: random.Random, kind: str, before: list[int]) -> int:
    bits = int(kind[1:])
    if kind not in ("f32", "f64"):
        return rng.choice(
            (rng.getrandbits(bits), rng.getrandbits(rng.randrange(1, bits + 1)), (1 << bits) - 1, 0)
        )
    p, _, bias, width = FORMATS[kind]
    fraction, top = p - 1, (1 << width) - 1
    sign = rng.getrandbits(1) << bits - 1
    choice = rng.randrange(8)
    if choice == 0:
        return sign | rng.choice((0, 1, top << fraction, top << fraction | 1 << fraction - 1, 1 << fraction,
                                  (1 << fraction) - 1, (top << fraction) - 1))  # fmt: skip
    if choice == 1:
        return rng.getrandbits(bits)
    if choice == 2:
        return sign | rng.getrandbits(fraction)
    if choice == 3:
        return sign | bias + rng.randrange(8) << fraction | rng.getrandbits(4) << fraction - 4
    if choice == 4:
        return sign | rng.choice((1, 2, 3, top - 1, top - 2, 60, 110)) << fraction | rng.getrandbits(fraction)
    if choice == 5 and before and before[-1] >> bits == 0:
        return before[-1] ^ rng.getrandbits(3) ^ sign
    return sign | bias + rng.randrange(-30, 31) << fraction | rng.getrandbits(fraction)


def same(got: int, want: int, kind: str) -> bool:
    if got == want:
        return True
    if kind not in ("b16", "f32", "f64"):
        return got == want & (1 << int(kind[1:])) - 1
    t = "f16" if kind == "b16" else kind
    nan = ref.decode(got, t).kind == "nan"
    return nan and (want == NAN or ref.decode(want, t).kind == "nan")


def check(device: Device, rows: list[Row], seed: int) -> None:
    rng = random.Random(seed)
    text = HEADER
    for n, (name, result, operands, _, body) in enumerate(rows):
        inputs = ", ".join(f"%a{k}" for k in range(len(operands)))
        text += elementwise(f"k{n}", body or f"{name} %d, {inputs};", result, operands) + "\n"
    module = device.load(text)
    mark = device.next
    for n, (name, result, operands, want, _) in enumerate(rows):
        device.next = mark
        values: list[list[int]] = []
        for _ in range(THREADS):
            v: list[int] = []
            for t in operands:
                v.append(interesting(rng, t, v))
            values.append(v)
        out = device.allocate(8 * THREADS)
        columns = [
            device.upload(np.array(c, f"u{int(t[1:]) // 8}"))
            for c, t in zip(zip(*values, strict=True), operands, strict=True)
        ]
        assert module.launch(f"k{n}", 1, THREADS, out, *columns).error is None, name
        for got, v in zip(device.download(out, f"u{int(result[1:]) // 8}", THREADS), values, strict=True):
            given = [x - (1 << int(t[1:])) if t[0] == "s" and x >> int(t[1:]) - 1 else x
                     for x, t in zip(v, operands, strict=True)]  # fmt: skip
            expected = want(*given)
            zeros = (
                name.startswith(("min", "max"))
                and (int(got) | (expected or 0)) & (1 << int(result[1:]) - 1) - 1 == 0
            )
            if expected is not None and not zeros:
                assert same(int(got), expected, result), (name, [hex(x) for x in v], hex(got), hex(expected))


@pytest.mark.parametrize("group", range(GROUPS))
def test_results_are_correctly_rounded(slow_device: Device, group: int) -> None:
    check(slow_device, ROWS[group::GROUPS], group)


def test_the_executor_agrees_on_divisions_and_roots(device: Device) -> None:
    names = ("div.rn.f32", "div.rp.f32", "sqrt.rn.f32", "rcp.rn.ftz.f32", "div.rn.f64", "sqrt.rz.f64")
    rows = [r for r in ROWS if r[0] in names]
    assert len(rows) == len(names)
    check(device, rows, 5)


def test_quotients_next_to_a_tie_round_the_right_way(device: Device) -> None:
    """x * 2**24 = m * y + r with small r: the quotients of floats that lie closest to the middle of two
    floats.
    """
    rng = random.Random(3)
    pairs = []
    while len(pairs) < 2048:
        y = rng.randrange(1 << 23, 1 << 24) | 1
        for power in (24, 25):
            x = rng.choice((-3, -1, 1, 3)) * pow(pow(2, power, y), -1, y) % y
            while x and x < 1 << 23:
                x *= 2
            if 1 << 23 <= x < 1 << 24:
                pairs.append((x, y))
    x, y = (np.array(v, "f4") for v in zip(*pairs, strict=True))
    n = len(pairs)
    body = "div.rn.f32 %d, %a0, %a1;"
    module = device.load(HEADER + elementwise("k", body, "f32", ("f32", "f32")))
    out, given = device.allocate(4 * n), [device.upload(v) for v in (x, y)]
    assert module.launch("k", n // 64, 64, out, *given).error is None
    count = n // 64 * 64
    assert np.array_equal(device.download(out, "f4", count), (x / y)[:count])


@pytest.mark.parametrize(
    ("name", "f", "low", "high", "error"),
    [
        ("sin.approx.f32", np.sin, -3.1, 3.1, ("abs", 2e-6)),
        ("cos.approx.f32", np.cos, -3.1, 3.1, ("abs", 2e-6)),
        ("ex2.approx.f32", np.exp2, -140, 127, ("rel", 4e-7)),
        ("ex2.approx.ftz.f32", np.exp2, -120, 127, ("rel", 4e-7)),
        ("lg2.approx.f32", np.log2, 1.5, 1e30, ("rel", 2e-6)),
        ("rsqrt.approx.f32", lambda v: 1 / np.sqrt(v), 1e-44, 1e38, ("rel", 4e-7)),
        ("sqrt.approx.f32", np.sqrt, 1e-44, 1e38, ("rel", 6e-7)),
        ("rcp.approx.f32", lambda v: 1 / v, 1e-38, 3e38, ("rel", 3e-7)),
        ("rcp.approx.ftz.f32", lambda v: 1 / v, 1e-30, 1e30, ("rel", 3e-7)),
        ("rsqrt.approx.f64", lambda v: 1 / np.sqrt(v), 1e-300, 1e300, ("rel", 1e-15)),
    ],
)
def test_approximations_keep_their_error(
    device: Device, name: str, f: Callable[..., object], low: float, high: float, error: tuple[str, float]
) -> None:
    t = name[-3:]
    rng = np.random.default_rng(1)
    if low > 0:
        x = np.exp2(rng.uniform(np.log2(low), np.log2(high), 512)).astype(
            t.replace("f32", "f4").replace("f64", "f8")
        )
    else:
        x = rng.uniform(low, high, 512).astype("f4")
    module = device.load(HEADER + elementwise("k", f"{name} %d, %a0;", t, (t,)))
    out = device.allocate(x.nbytes)
    assert module.launch("k", 4, 128, out, device.upload(x)).error is None
    got = device.download(out, x.dtype, 512).astype("f8")
    want = np.asarray(f(x.astype("f8")), "f8")
    tiny = 1e-44 if t == "f32" else 0.0
    if error[0] == "abs":
        assert np.all(np.abs(got - want) <= error[1])
    else:
        assert np.all(np.abs(got - want) <= error[1] * np.abs(want) + tiny)

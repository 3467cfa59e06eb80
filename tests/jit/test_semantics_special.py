"""MUFU against Python's mathematics, within what PTX promises of the approximations made from it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from random import Random

import pytest

from gpuvm.jit.executor import Executor
from support import floats as fl
from support.machine import NEAR, Memory
from support.operations import FLOATS

COUNT = 2048
KERNEL = f"""
    S2R R0, SR_TID.X; S2R R1, SR_CTAID.X; ISCADD R0, R1, R0, 0x8; SHL R0, R0, 0x2; IADD32I R0, R0, {hex(NEAR)};
    LD R2, [R0]; %s ST [R0], R2; EXIT;
"""


def evaluate(memory: Memory, executor: Executor, operation: str, values: list[int]) -> list[int]:
    """The operation on each of COUNT words."""
    memory.put(NEAR, struct.pack(f"<{COUNT}I", *values))
    memory.code(KERNEL % operation)
    outcome = executor.run(memory.launch((256, 1, 1), (COUNT // 256, 1, 1)))
    assert outcome.error is None
    return [int(x) for x in memory.words(NEAR, COUNT)]


def single(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def some(chance: Random, low: float, high: float) -> int:
    return fl.from_float(math.copysign(2 ** chance.uniform(low, high), chance.random() - 0.3), fl.F32)


EXACT: dict[str, dict[int, int]] = {
    "RCP": {0: 0x7F800000, 1 << 31: 0xFF800000, 0x7F800000: 0, 0xFF800000: 1 << 31, 1: 0x7F800000, 0x3F800000: 0x3F800000},
    "RSQ": {0: 0x7F800000, 0x7F800000: 0, 0xBF800000: 0x7FFFFFFF, 1: 0x7F800000, 0x40800000: 0x3F000000},
    "EX2": {0: 0x3F800000, 0x7F800000: 0x7F800000, 0xFF800000: 0, 0x43000000: 0x7F800000, 0xC3000000: 0, 0x3F800000: 0x40000000},
    "LG2": {0: 0xFF800000, 1: 0xFF800000, 0x7F800000: 0x7F800000, 0x3F800000: 0, 0x40800000: 0x40000000, 0xBF800000: 0x7FFFFFFF},
    "SIN": {0: 0, 1 << 31: 1 << 31, 0x7F800000: 0x7FFFFFFF, 0xFF800000: 0x7FFFFFFF},
    "COS": {0: 0x3F800000, 1 << 31: 0x3F800000, 0x7F800000: 0x7FFFFFFF},
}  # fmt: skip
"""Arguments of which the result is known to the bit: zeros, infinities, powers of two; denormals count as zero."""

BOUND: dict[str, Callable[[float], tuple[float, float]]] = {
    "RCP": lambda x: (1 / x, abs(1 / x) * 2**-23),
    "RSQ": lambda x: (1 / math.sqrt(x), 2**-22.9 / math.sqrt(x)),
    "EX2": lambda x: (2**x, 2**x * 2**-22),
    "LG2": lambda x: (math.log2(x), max(abs(math.log2(x)), 1) * 2**-22.6),
    "SIN": lambda x: (math.sin(x), 2**-20.9),
    "COS": lambda x: (math.cos(x), 2**-20.9),
}
"""The true value and how far MUFU may be from it."""


@pytest.mark.parametrize("name", list(EXACT))
def test_mufu(memory: Memory, each: Executor, name: str) -> None:
    chance = Random(name)
    ranges = {"EX2": (-8, 6.9), "SIN": (-20, 6), "COS": (-20, 6)}.get(name, (-120, 120))
    values = [*EXACT[name], *FLOATS, 0x7FC00000, 0xFF800001]
    values += [some(chance, *ranges) for _ in range(COUNT - len(values))]
    operation = "RRO.SINCOS R2, R2;" if name in ("SIN", "COS") else "RRO.EX2 R2, R2;" if name == "EX2" else ""
    got = dict(zip(values, evaluate(memory, each, f"{operation} MUFU.{name} R2, R2;", values), strict=True))
    for bits, result in got.items():
        x, y = single(bits), single(result)
        what = f"{name}({x!r}) = {y!r}"
        if bits in EXACT[name]:
            assert result == EXACT[name][bits], what
        elif math.isnan(x):
            assert result == 0x7FFFFFFF, what
        elif bits & 0x7F800000 == 0 and name in ("RCP", "RSQ", "LG2"):
            assert math.isinf(y), what
        elif x < 0 and name in ("RSQ", "LG2"):
            assert result == 0x7FFFFFFF, what
        elif name == "EX2" and (x >= 128 or x < -126):
            assert y == (math.inf if x > 0 else 0), what
        elif abs(x) < 1e5 or name in ("RCP", "RSQ", "LG2"):
            true, bound = BOUND[name](x)
            assert abs(y - true) <= bound + 2**-126, what


@pytest.mark.parametrize("name", ["RCP64H", "RSQ64H"])
def test_the_high_word_of_a_double(memory: Memory, each: Executor, name: str) -> None:
    chance = Random(name)
    special = [0, 1 << 31, 0x7FF00000, 0xFFF00000, 0x00000001, 0x000FFFFF, 0x7FF80000, 0x3FF00000, 0x7FEFFFFF]
    values = special + [chance.randrange(0x00100000, 0x7FD00000) for _ in range(COUNT - len(special))]
    got = evaluate(memory, each, f"MUFU.{name} R2, R2;", values)
    for high, result in zip(values, got, strict=True):
        x, y = (struct.unpack("<d", struct.pack("<Q", w << 32))[0] for w in (high, result))
        if math.isnan(x):
            assert math.isnan(y)
        elif high & 0x7FF00000 == 0:
            assert y == math.copysign(math.inf, x) or (name == "RSQ64H" and math.isinf(y))
        elif x > 0 and not math.isinf(x):
            true = 1 / x if name == "RCP64H" else 1 / math.sqrt(x)
            # 20 bits of the result are all that there is.
            assert abs(y - true) <= true * 2**-19 or true < 2**-1022
    assert got[2] == 0


def test_saturation_and_signs(memory: Memory, each: Executor) -> None:
    values = [0x40000000, 0xC0000000, 0x3F000000, 0x7FC00000] * (COUNT // 4)
    got = evaluate(memory, each, "MUFU.RCP.SAT R2, -|R2|;", values)
    assert got[:4] == [0, 0, 0, 0]
    got = evaluate(memory, each, "MUFU.RCP.SAT R2, |R2|;", values)
    assert got[:4] == [0x3F000000, 0x3F000000, 0x3F800000, 0]

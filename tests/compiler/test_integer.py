"""Every integer instruction on values at and around the edges, against Python's integers."""

from __future__ import annotations

import random

import numpy as np
import pytest
from device import Device
from integer_reference import Case, by_type, cases
from ptx_text import HEADER, elementwise

THREADS = 32
GROUPS = 8
CASES = cases()


def edge(rng: random.Random, kind: str) -> int:
    bits = int(kind[1:])
    value = rng.choice((
        rng.choice((0, 1, 2, 31, 32, 33, 63, 64, -1, 1 << bits - 1,
                    (1 << bits - 1) - 1, (1 << bits - 1) + 1)),
        rng.getrandbits(rng.randrange(1, bits + 1)),
        -rng.getrandbits(rng.randrange(1, bits + 1)),
        rng.randrange(70),
        rng.getrandbits(bits),
    ))  # fmt: skip
    return value & (1 << bits) - 1


def check(device: Device, chosen: list[Case], seed: int) -> None:
    rng = random.Random(seed)
    text = [elementwise(f"k{n}", c.body, c.result, c.operands) for n, c in enumerate(chosen)]
    module = device.load(HEADER + "\n".join(text))
    mark = device.next
    for n, c in enumerate(chosen):
        device.next = mark
        rows = [[edge(rng, t) for t in c.operands] for _ in range(THREADS)]
        out = device.allocate(8 * THREADS)
        columns = [
            device.upload(np.array(v, f"u{int(t[1:]) // 8}"))
            for v, t in zip(zip(*rows, strict=True), c.operands, strict=True)
        ]
        assert module.launch(f"k{n}", 1, THREADS, out, *columns).error is None, c.name
        bits = int(c.result[1:])
        for got, row in zip(device.download(out, f"u{bits // 8}", THREADS), rows, strict=True):
            want = c.want(*(by_type(v, t) for v, t in zip(row, c.operands, strict=True)))
            if want is not None:
                assert int(got) == want & (1 << bits) - 1, (c.name, [hex(v) for v in row])


@pytest.mark.parametrize("group", range(GROUPS))
def test_instructions_give_what_ptx_says(slow_device: Device, group: int) -> None:
    check(slow_device, CASES[group::GROUPS], group)


def test_a_wrong_expectation_would_be_noticed(slow_device: Device) -> None:
    wrong = Case("add", "add.u32 %d, %a0, %a1;", "u32", ("u32", "u32"), lambda a, b: a + b + 1)
    with pytest.raises(AssertionError):
        check(slow_device, [wrong], 0)


def test_the_executor_agrees(device: Device) -> None:
    chosen = [
        c for c in CASES if c.name in ("div.s64", "mul.hi.s64", "bfi.b64", "shr.s64", "prmt.b32", "rem.u32")
    ]
    assert len(chosen) == 6
    check(device, chosen, 99)

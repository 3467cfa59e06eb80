"""Loads, stores and atomic operations of every size in every space, at addresses of every shape."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from gpuvm.jit.executor import Executor
from gpuvm.jit.translate import Plan
from support.interpreter import Interpreter
from support.machine import DATA_SIZE, FAR, NEAR, Memory

SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "32": 4, "64": 8, "128": 16}
AREA = 0x4000
SHARED, LOCAL, STACK = 0x2000, 0x100, 0x40
ATOMS = ["ADD", "MIN", "MAX", "INC", "DEC", "AND", "OR", "XOR", "MIN.S32", "MAX.S32", "ADD.U64"]


def offset(chance: Random, size: int, limit: int) -> list[str]:
    """Put an aligned byte offset below `limit` (a power of two) into R8: one for all lanes, a row, a tile, or
    each lane's own.
    """
    step = chance.choice(
        [s for s in (size, size, 2 * size, 16, 32) if 64 * s <= limit and s % size == 0] or [0]
    )
    mask = f"LOP32I.AND R8, R8, {hex((limit - 1) & -size)};"
    kind = chance.randrange(7)
    if kind == 0:
        return [f"MOV32I R8, {hex(chance.randrange(limit // size) * size)};"]
    if kind == 1:
        return [f"IMUL R8, R0, {hex(step)};"]
    if kind == 2 and step:  # backwards
        return [f"IMUL R8, R0, {hex(-step)};", f"IADD R8, R8, {hex(63 * step)};"]
    if kind == 3:  # several lanes at one address
        return [f"SHR.U32 R8, R0, {hex(chance.randrange(1, 5))};", f"IMUL R8, R8, {hex(size)};", mask]
    if kind == 4:  # rows of a tile
        rows = ["LOP.AND R8, R0, 0x7;", "SHR.U32 R9, R0, 0x3;", "ISCADD R8, R9, R8, 0x4;"]
        return [*rows, f"IMUL R8, R8, {hex(size)};", *([] if 256 * size <= limit else [mask])]
    if kind == 5:  # from a constant
        return [f"MOV R8, c[0x0][{hex(0x40 + 4 * chance.randrange(32))}];", mask]
    return [f"SHR.U32 R8, R1, {hex(chance.randrange(20))};", mask]


def kernel(chance: Random, threads: int, accesses: int) -> str:
    """Random accesses; what is loaded is mixed into R1. Neighbouring stores may meet: the highest lane wins."""
    lines = ["S2R R0, SR_TID.X;", "MOV32I R2, 0x9e3779b9;", "IMUL R1, R0, R2;", "LOP.AND R4, R0, 0x5;"]
    lines += ["ISETP.NE.AND P0, PT, R4, RZ, PT;", "ISETP.LT.AND P1, PT, R0, 0xb, PT;"]
    lines += [f"STL.128 [{hex(n)}], RZ;" for n in range(0, LOCAL, 16)]
    lines += ["MOV32I R30, 0x1000000;", *(f"STL.128 [R30-{hex(n)}], RZ;" for n in range(16, STACK + 1, 16))]
    lines += [
        "SHL R8, R0, 0x4;",
        *(f"STS.128 [R8+{hex(n)}], RZ;" for n in range(0, SHARED, 16 * threads)),
        "BAR.SYNC 0x0, RZ;",
    ]
    for _ in range(accesses):
        name = chance.choice(list(SIZES))
        size = SIZES[name]
        dot = "" if name == "32" else f".{name}"
        guard = chance.choice(["", "", "", "@P0 ", "@!P1 ", "@P1 "])
        space = chance.choice(
            [
                "far",
                "far",
                "near",
                "shared",
                "local",
                "stack",
                "window",
                "localwindow",
                "constant",
                "atom",
                "atom",
            ]
        )
        limit = {
            "shared": SHARED,
            "window": SHARED,
            "local": LOCAL,
            "localwindow": LOCAL,
            "stack": STACK,
            "constant": 0x200,
        }.get(space, AREA)
        size = 8 if space == "atom" else size
        displacement = chance.choice([0, 0, size, 4 * size]) if limit > 0x400 else 0
        lines += offset(chance, size, limit // 2 if displacement else limit)
        base = {
            "near": NEAR,
            "window": 0xFE000000,
            "localwindow": 0xFF000000,
            "stack": 0x1000000 - STACK,
        }.get(space, 0)
        if base:
            lines.append(f"IADD32I R8, R8, {hex(base)};")
        if space in ("far", "atom"):
            lines += ["IADD R8.CC, R8, c[0x0][0x20];", "IADD.X R9, RZ, c[0x0][0x24];"]
        at = f"[R8+{hex(displacement)}]" if displacement else "[R8]"
        letter = {"shared": "S", "local": "L", "stack": "L"}.get(space, "")
        wide = ".E" if space in ("far", "atom") else ""
        if space == "atom":
            op = chance.choice([*ATOMS, "CAS", "EXCH", "RED"])
            lines += [
                "MOV R20, R1;",
                f"MOV32I R21, {hex(chance.getrandbits(32))};",
                "MOV R22, RZ;",
                "MOV R23, R0;",
            ]
            if op == "RED":
                lines.append(f"{guard}RED.E.{chance.choice(ATOMS)} {at}, R20;")
            elif op == "CAS":
                lines += [
                    "LOP.AND R20, R20, 0x1;",
                    f"{guard}ATOM.E.CAS R16, {at}, R20, R22;",
                    "IADD R1, R1, R16;",
                ]
            else:
                lines += [f"{guard}ATOM.E.{op} R16, {at}, R20;", "IADD R1, R1, R16;"]
        elif space == "constant":
            lines += [f"{guard}LDC{dot} R12, c[0x0][R8+0x40];", "LOP.XOR R1, R1, R12;"]
        elif chance.random() < 0.5:
            lines.append(f"{guard}LD{letter}{wide}{dot} R12, {at};")
            lines += [f"LOP.XOR R1, R1, R{12 + n};" for n in range(max(size // 4, 1))]
        else:
            lines += [f"IADD R{12 + n}, R1, {hex(n)};" for n in range(max(size // 4, 1))]
            lines.append(f"{guard}ST{letter}{wide}{dot} {at}, R12;")
        if chance.random() < 0.2:
            lines.append("BAR.SYNC 0x0, RZ;")
    lines += ["SHL R8, R0, 0x2;", f"IADD32I R8, R8, {hex(NEAR + 0x80000)};", "ST [R8], R1;", "EXIT;"]
    return "\n".join(lines)


def judge(memory: Memory, executor: Executor, seed: int) -> None:
    chance = Random(seed)
    threads = chance.choice([32, 32, 64])
    memory.code(kernel(chance, threads, 14))
    memory.constants([FAR & 0xFFFFFFFF, FAR >> 32], 0, 0x20)
    memory.constants([chance.getrandbits(32) for _ in range(160)], 0, 0x40)
    launch = memory.launch((threads, 1, 1), shared_size=SHARED, local_positive=LOCAL, local_negative=STACK)
    start = np.random.default_rng(seed).integers(0, 256, 2 * DATA_SIZE, np.uint8).tobytes()
    ends = []
    for machine in (executor, Interpreter()):
        memory.restore(start)
        outcome = machine.run(launch)
        assert outcome.error is None, (seed, outcome.error)
        ends.append(np.frombuffer(memory.snapshot(), np.uint32))
    wrong = np.flatnonzero(ends[0] != ends[1])
    assert wrong.size == 0, f"seed {seed}: words {wrong[:8]}"


@pytest.mark.parametrize("seed", range(10))
def test_random_accesses(memory: Memory, single: Executor, seed: int) -> None:
    single.translator.plan = Plan(general=seed % 5 == 4)
    judge(memory, single, seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1000, 2000, 25))
@pytest.mark.parametrize("general", [False, True], ids=["fast", "general"])
def test_many_random_accesses(memory: Memory, single: Executor, first: int, general: bool) -> None:
    single.translator.plan = Plan(general=general)
    for seed in range(first, first + 25):
        judge(memory, single, seed)

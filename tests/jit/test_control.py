"""Divergent control flow: random programs, structured and wild, against the interpreter; and the classic
shapes."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from rig import Rig

from gpuvm.jit.launch import ErrorKind

THREADS = 64
PROLOGUE = """
    S2R R0, SR_TID.X;
    ISCADD R20, R0, c[0x0][0x20], 0x4;
    LD R1, [R20];
    LD R2, [R20+0x4];
    LOP.XOR R3, R1, R2;
    MOV R4, RZ;
    MOV R5, 0x7;
"""
EPILOGUE = """
    ST [R20+0x8], R4;
    ST [R20+0xc], R5;
    EXIT;
"""


class Writer:
    """Writes random structured code: nested branches, loops, breaks, continues, calls, early exits."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.lines: list[str] = []
        self.functions: list[str] = []
        self.labels = 0
        self.loops = 0

    def label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    def add(self, *lines: str) -> None:
        self.lines.extend(lines)

    def work(self) -> None:
        self.add(
            self.rng.choice(
                [
                    "IADD R4, R4, R1;", "IMAD R4, R4, 0x5, R5;", "LOP.XOR R5, R5, R2;", "IADD R3, R3, 0x9e3;",
                    "SHL R5, R5, 0x1;", "IADD R5, R5, R0;", "@P1 IADD R4, R4, 0x11;", "ISCADD R4, R5, R4, 0x2;",
                    "SHR.U32 R2, R2, 0x1;", "@!P1 MOV R5, R4;", "I2F.F32.S32 R6, R4;", "FADD R7, R6, R6;",
                    "MOV R8, c[0x0][0x24];", "IADD R9, R8, R0;", "IADD R4, R4, R9;", "VOTE.ANY R10, PT, P1;",
                ]
            )
        )  # fmt: skip

    def test(self, p: int) -> None:
        bit = self.rng.randrange(8)
        uniform = self.rng.random() < 0.2
        source = "c[0x0][0x24]" if uniform else self.rng.choice(["R1", "R2", "R3", "R0", "R4"])
        self.add(f"MOV R11, {source};", f"LOP.AND R11, R11, {hex(1 << bit)};")
        self.add(f"ISETP.NE.AND P{p}, PT, R11, RZ, PT;")

    def block(self, depth: int, loop: int | None) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            kind = self.rng.random()
            if depth <= 0 or kind < 0.35:
                self.work()
            elif kind < 0.6:
                self.branch(depth, loop)
            elif kind < 0.75 and self.loops < 3:
                self.loop(depth)
            elif kind < 0.83 and loop is not None:
                self.test(2)
                self.add("@P2 BRK;" if self.rng.random() < 0.6 else "@P2 CONT;")
            elif kind < 0.88:
                self.test(2)
                self.test(3)
                self.add("PSETP.AND.AND P2, PT, P2, P3, PT;", "@P2 EXIT;")
            elif kind < 0.93 and len(self.functions) < 3:
                self.call(depth)
            else:
                self.test(1)

    def branch(self, depth: int, loop: int | None) -> None:
        other, join = self.label(), self.label()
        self.test(0)
        if loop is not None and self.rng.random() < 0.3:
            self.add(f"SSY {join};", "@P0 NOP.S;")
            self.block(depth - 1, loop)
            self.add("NOP.S;", f"{join}:")
            return
        self.add(f"SSY {join};", f"@{self.rng.choice(['', '!'])}P0 BRA {other};")
        self.block(depth - 1, loop)
        self.add("NOP.S;", f"{other}:")
        if self.rng.random() < 0.6:
            self.block(depth - 1, loop)
        self.add("NOP.S;", f"{join}:")

    def loop(self, depth: int) -> None:
        self.loops += 1
        head, out, again = self.label(), self.label(), self.label()
        counter = 30 + self.loops
        bound = self.rng.choice(["0x3", "R12"])
        self.add(f"MOV R{counter}, RZ;", "LOP.AND R12, R1, 0x7;", f"PBK {out};", f"{head}:")
        self.add(f"PCNT {again};")
        self.block(depth - 1, 1)
        self.add("CONT;", f"{again}:", f"IADD R{counter}, R{counter}, 0x1;")
        self.add(f"ISETP.GE.AND P0, PT, R{counter}, {bound}, PT;", "@P0 BRK;", f"BRA {head};", f"{out}:")
        self.loops -= 1

    def call(self, depth: int) -> None:
        name = self.label()
        self.add(f"CAL {name};")
        outer, self.lines = self.lines, []
        loops, self.loops = self.loops, 3
        self.functions.append("")
        where = len(self.functions) - 1
        self.add(f"{name}:")
        self.block(min(depth - 1, 1), None)
        self.test(2)
        self.add("@P2 RET;")
        self.work()
        self.add("RET;")
        self.functions[where] = "\n".join(self.lines)
        self.lines, self.loops = outer, loops

    def program(self) -> str:
        self.block(4, None)
        return PROLOGUE + "\n".join(self.lines) + EPILOGUE + "\n".join(self.functions)


def inputs(seed: int, threads: int = THREADS) -> np.ndarray[tuple[int, ...], np.dtype[np.uint32]]:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << 32, (threads, 4), dtype=np.uint32)
    words[:, 2:] = 0
    return words


@pytest.mark.parametrize("seed", range(14))
def test_random_structured_programs(rig: Rig, seed: int) -> None:
    code = Writer(seed).program()
    threads = [64, 40, 33][seed % 3]
    data = inputs(seed, threads)
    base = rig.put(0, data)
    rig.agree(
        code, data.nbytes, block=threads, parameters=struct.pack("<II", base, seed * 0x9E3779B9 & 0xFFFFFFFF)
    )


def wild_program(seed: int) -> str:
    """Basic blocks with branches to anywhere, a step budget that ends every thread, pushes and pops that
    match."""
    rng = random.Random(seed)
    count = 8
    lines = [PROLOGUE, "MOV R13, RZ;"]
    for n in range(count):
        lines.append(f"B{n}: IADD R13, R13, 0x1;")
        lines.append("ISETP.GT.AND P3, PT, R13, 0x18, PT;")
        lines.append("@P3 BRA END;")
        lines.append(
            rng.choice(
                ["IADD R4, R4, R1;", "IMAD R4, R4, 0x3, R5;", "LOP.XOR R5, R5, R3;", "SHR.U32 R3, R3, 0x1;"]
            )
        )
        lines.append("IADD R3, R3, R13;")
        lines.append(f"LOP.AND R11, R3, {hex(1 << rng.randrange(6))};")
        lines.append("ISETP.NE.AND P0, PT, R11, RZ, PT;")
        lines.append(f"@{rng.choice(['', '!'])}P0 BRA B{rng.randrange(count)};")
        if rng.random() < 0.4:
            lines.append(f"BRA B{rng.randrange(count)};")
    lines.append("END:")
    return "\n".join(lines) + EPILOGUE


@pytest.mark.parametrize("seed", range(8))
def test_random_branches_to_anywhere(rig: Rig, seed: int) -> None:
    code = wild_program(seed)
    data = inputs(seed)
    base = rig.put(0, data)
    rig.agree(code, data.nbytes, block=THREADS, parameters=struct.pack("<II", base, 0))


def test_loop_with_a_trip_count_of_its_own_in_every_lane(rig: Rig) -> None:
    code = (
        PROLOGUE
        + """
        LOP.AND R6, R1, 0x1f;
        SSY out;
    head:
        IADD R4, R4, R5;
        IADD R6, R6, -0x1;
        ISETP.GT.AND P0, PT, R6, RZ, PT;
        @P0 BRA head;
        NOP.S;
    out:
    """
        + EPILOGUE
    )
    data = inputs(5)
    base = rig.put(0, data)
    rig.agree(code, data.nbytes, block=THREADS, parameters=struct.pack("<II", base, 0))


def test_indirect_branch_takes_each_lane_where_it_wants(rig: Rig) -> None:
    # Each case is 16 bytes: two instructions of 8.
    code = (
        PROLOGUE
        + """
        LOP.AND R6, R1, 0x3;
        SHL R6, R6, 0x4;
        SSY out;
        BRX R6, cases;
    cases:
        MOV R4, 0x10;
        NOP.S;
        MOV R4, 0x20;
        NOP.S;
        MOV R4, R2;
        NOP.S;
        IADD R4, R2, 0x1;
        NOP.S;
    out:
    """
        + EPILOGUE
    )
    data = inputs(6)
    base = rig.put(0, data)
    rig.agree(code, data.nbytes, block=THREADS, parameters=struct.pack("<II", base, 0))


@pytest.mark.parametrize("translator", ["structured", "general"])
def test_recursion_without_end_overflows_the_stack(rig: Rig, translator: str) -> None:
    outcome = rig.launch("again: CAL again; EXIT;", translator=translator, stack_size=1024)
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.STACK


@pytest.mark.parametrize("translator", ["structured", "general"])
@pytest.mark.parametrize("code", ["NOP.S; EXIT;", "BRK; EXIT;", "CONT; EXIT;", "PBK a; NOP.S; a: EXIT;"])
def test_pops_without_a_push_are_stack_errors(rig: Rig, code: str, translator: str) -> None:
    outcome = rig.launch(code, translator=translator)
    assert outcome.error is not None
    assert outcome.error.kind is ErrorKind.STACK

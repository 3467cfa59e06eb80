"""Runs a program of random instructions on the executor and on the interpreter and says where they differ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from gpuvm.isa.assembler import assemble
from gpuvm.isa.disassembler import format_instruction
from gpuvm.isa.encoder import encode
from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Pred, Reg, Special, Target
from gpuvm.isa.rows import Row
from gpuvm.isa.special import special_number
from gpuvm.jit.executor import Executor
from support import floats as fl
from support.interpreter import Interpreter
from support.machine import NEAR, Memory
from support.operations import Registers, doubles_of, hard_double, hard_word, instruction

POOL = tuple(range(8, 40))
DOUBLES = tuple(range(40, 48))
REGISTERS = Registers(POOL, DOUBLES)
INPUTS = 64
"""Words of input of a thread. They and the results lie in shared memory, word by word: [word][thread]."""
ROW = 0
"""Register with the thread's offset in a row."""
FLAGS, SUM = 60, 61


ALWAYS = Pred(7)


def ins(
    name: str,
    dst: tuple[object, ...] = (),
    src: tuple[object, ...] = (),
    guard: Pred = ALWAYS,
    size: int = 8,
    **mods: object,
) -> Instruction:
    return Instruction(name, dst, src, mods, guard, size=size)  # type: ignore[arg-type]


def load(dst: int, word: int, threads: int) -> Instruction:
    return ins("LDS", (Reg(dst),), (Mem("shared", Reg(ROW), 4 * threads * word),))


def store(data: int, word: int, threads: int) -> Instruction:
    return ins("STS", (), (Mem("shared", Reg(ROW), 4 * threads * word), Reg(data)))


def special(name: str) -> Special:
    return Special(special_number(name) or 0, name)


@dataclass
class Program:
    """Instructions under test between loads of hard values and stores of the results.

    Attributes
    ----------
    results : list of (int, str)
        For each word of output: index in `tested` (-1: a register at the end), and which word it is.
    """

    code: list[Instruction]
    tested: list[Instruction]
    results: list[tuple[int, str]]
    threads: int


COPY = """
    S2R R0, SR_TID.X;
    SHL R0, R0, 0x2;
    MOV R2, c[0x0][{pointer:#x}];
    IADD R2, R2, R0;
    MOV32I R4, {start:#x};
    IADD R4, R4, R0;
    MOV32I R3, {words:#x};
  again:
    {first}
    {second}
    IADD R2, R2, {row:#x};
    IADD R4, R4, {row:#x};
    IADD R3, R3, -0x1;
    ISETP.NE.AND P0, PT, R3, RZ, PT;
    @P0 BRA again;
"""


def program(rows: list[Row], seed: int, threads: int = 32, detail: bool = False) -> Program:
    """One instruction of each row, in order; operands are what is in the registers by then.

    Results go into a checksum, which compiles quickly; with `detail` each is stored, which says where a
    difference began. Double-precision results are always stored: their NaNs may differ.
    """
    chance = Random(seed)
    tested: list[Instruction] = []
    body: list[Instruction] = []
    results: list[tuple[int, str]] = []

    def fresh(register: int) -> None:
        """Give a pool register a new value: from memory, a constant, an immediate or affine in the lane."""
        kind = chance.random()
        if kind < 0.35:
            body.append(load(register, chance.randrange(INPUTS), threads))
        elif kind < 0.7:
            body.append(ins("MOV32I", (Reg(register),), (Imm(hard_word(chance)),)))
        elif kind < 0.8:
            body.append(ins("MOV", (Reg(register),), (Const(0, 0x40 + 4 * chance.randrange(128)),)))
        else:
            body.append(ins("S2R", (Reg(register),), (special(chance.choice(["SR_TID.X", "SR_LANEID"])),)))
            shift = Imm(chance.randrange(6))
            other = (
                Imm(chance.choice([0, 1, 0x7FFF, -1]))
                if chance.random() < 0.5
                else Const(0, 0x40 + 4 * chance.randrange(128))
            )
            body.append(ins("ISCADD", (Reg(register),), (Reg(register), other, shift)))

    def keep(register: int, where: int, what: str) -> None:
        double = doubles_of(tested[where])[0] and what != "flags" if where >= 0 else register in DOUBLES
        if detail or double or what == "sum":
            body.append(store(register, INPUTS + len(results), threads))
            results.append((where, what))
        else:
            body.append(ins("IMAD", (Reg(SUM),), (Reg(SUM), Imm(0x1F35B), Reg(register))))

    for row in rows:
        made = None
        for _ in range(200):
            made = instruction(row, chance, REGISTERS)
            if made is not None:
                break
        assert made is not None, f"no instruction could be made of {row.name} {row.match:#x}"
        for register in {op.index for op in made.src if isinstance(op, Reg) and op.index in POOL}:
            if chance.random() < 0.35:
                fresh(register)
                if chance.random() < 0.5 and register + 1 in POOL:
                    fresh(register + 1)
        if chance.random() < 0.3:
            body.append(load(FLAGS, chance.randrange(INPUTS), threads))
            body.append(ins("R2P", (), (Reg(FLAGS), Imm(0xFFFF))))
        body.append(made)
        where = len(tested)
        tested.append(made)
        if made.dst and isinstance(made.dst[0], Reg) and made.dst[0].index != 63:
            for n in range(made.dst[0].count):
                keep(made.dst[0].index + n, where, f"word {n}")
        if (
            made.mods.get("cc")
            or made.mods.get("range")
            or any(isinstance(op, Pred) for op in made.dst)
            or made.name == "R2P"
        ):
            body.append(ins("P2R", (Reg(FLAGS),), (Reg(63), Imm(0xFFFF))))
            keep(FLAGS, where, "flags")
    for n in (*POOL, *DOUBLES):
        keep(n, -1, f"R{n}")
    keep(SUM, -1, "sum")
    code: list[Instruction] = []
    for n, register in enumerate((*POOL, *DOUBLES)):
        code.append(load(register, n, threads))
    code.append(load(FLAGS, chance.randrange(INPUTS), threads))
    code.append(ins("R2P", (), (Reg(FLAGS), Imm(0xFFFF))))
    if chance.random() < 0.5:
        # Some lanes wait at the end: what follows runs in the others only.
        body.insert(0, ins("BRA", src=(Target(0),), guard=Pred(chance.randrange(7), True)))
    return Program([*code, *body], tested, results, threads)


def machine_code(whole: Program) -> bytes:
    """The program between two loops that copy its input to shared memory and its output back."""
    row = 4 * whole.threads
    first = COPY.format(
        pointer=0x20, start=0, words=INPUTS, row=row, first="LD R5, [R2];", second="STS [R4], R5;"
    )
    raw = assemble(first, 0)
    body = whole.code
    size = sum(i.size for i in body)
    pad = -(len(raw) + size) % 8
    end = len(raw) + 8 + size + pad
    # SSY end; the program; NOP.S; end: copy.
    code = [
        ins("SSY", src=(Target(end + 8),)),
        *body,
        *([ins("NOP", size=4)] if pad else []),
        Instruction("NOP", sync=True),
    ]
    at = len(raw)
    for made in code:
        if made.name == "BRA":
            made = replace(made, src=(Target(end),))
        raw += encode(made, at)
        at += made.size
    last = COPY.format(
        pointer=0x24,
        start=row * INPUTS,
        words=len(whole.results),
        row=row,
        first="LDS R5, [R4];",
        second="ST [R2], R5;",
    )
    return raw + assemble(last + "EXIT;", at)


def is_double_nan(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    whole = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    return (whole & np.uint64(fl.F64.sign - 1)) > np.uint64(fl.F64.infinity)


def check(memory: Memory, executor: Executor, rows: list[Row], seed: int, threads: int = 32) -> str | None:
    """Run a program of these rows on both; None, or the first difference in words."""
    if (why := differ(memory, executor, program(rows, seed, threads), seed)) is None:
        return None
    return (
        differ(memory, executor, program(rows, seed, threads, detail=True), seed)
        or f"{why} (not with every result stored)"
    )


def differ(memory: Memory, executor: Executor, whole: Program, seed: int) -> str | None:
    threads, chance = whole.threads, Random(seed)
    data = np.array([hard_word(chance) for _ in range(threads * INPUTS)], np.uint32).reshape(INPUTS, threads)
    for n in range(0, INPUTS, 2):
        for thread in range(threads):
            if chance.random() < 0.4:
                x = hard_double(chance)
                data[n : n + 2, thread] = [x & 0xFFFFFFFF, x >> 32]
    out = NEAR + 0x80000
    memory.put(NEAR, data.tobytes())
    for bank in range(3):
        values: list[int] = []
        while len(values) < 272:
            x = hard_double(chance)
            values += (
                [x & 0xFFFFFFFF, x >> 32] if chance.random() < 0.3 else [hard_word(chance), hard_word(chance)]
            )
        memory.constants(values, bank, 0x40)
    memory.constants([NEAR, out], 0, 0x20)
    memory.code(machine_code(whole))
    launch = memory.launch((threads, 1, 1), shared_size=48 << 10, local_positive=64, local_negative=32)
    launch = replace(launch, constants=(*launch.constants[:3], None))
    count = len(whole.results)
    assert 4 * threads * (INPUTS + count) <= 48 << 10
    answers = []
    for machine in (executor, Interpreter()):
        memory.put(out, bytes(4 * threads * count))
        outcome = machine.run(launch)
        answers.append((outcome, memory.words(out, threads * count).reshape(count, threads)))
    (got, ours), (want, right) = answers
    if (got.error and (got.error.kind, got.error.pc)) != (want.error and (want.error.kind, want.error.pc)):
        return f"executor: {got.error}, interpreter: {want.error}"
    different = ours != right
    for n, (where, what) in enumerate(whole.results):
        double = where < 0 or doubles_of(whole.tested[where])[0]
        if double and what in ("word 0", *(f"R{r}" for r in DOUBLES if r % 2 == 0)):
            # A double's NaN carries a payload; which operand's is not promised.
            alike = is_double_nan(ours[n], ours[n + 1]) & is_double_nan(right[n], right[n + 1])
            different[n : n + 2] &= ~alike
    if not different.any():
        return None
    row = int(np.argmax(different.any(axis=1)))
    thread = int(np.argmax(different[row]))
    where, what = whole.results[row]
    text = f"`{format_instruction(whole.tested[where], 0)}` ({where}) " if where >= 0 else ""
    mods = {k: v for k, v in whole.tested[where].mods.items() if v} if where >= 0 else ""
    mine, other = ours[row, thread], right[row, thread]
    return f"{text}{what}, lane {thread}: executor {mine:#x}, interpreter {other:#x} {mods}"

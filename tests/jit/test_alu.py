"""Every arithmetic operation with random operands and modifiers: executor against the exact interpreter."""

from __future__ import annotations

import random
import struct
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from rig import BASE, DATA, Rig

from gpuvm.isa.assembler import assemble
from gpuvm.isa.encoder import encode
from gpuvm.isa.errors import EncodeError
from gpuvm.isa.instruction import Const, Imm, Instruction, Pred, Reg

INTERESTING = [
    0, 1, 2, 31, 32, 33, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0x80000001,
    0xFFFFFFFF, 0xFFFFFFFE, 0x00800000, 0x007FFFFF, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00001,
    0x7F800001, 0x4F000000, 0xCF000000, 0x4F800000, 0x3F000000, 0x40200000, 0x34000000, 0x7F7FFFFF, 0x00000001,
    0x3C00, 0x7C00, 0xFC01, 0x0001, 0x40080000, 0x7FF00000, 0xFFF80000, 0x3FE00000, 0x41DFFFFF, 0x0020, 0x0810,
]  # fmt: skip
THREADS = 64
RECORD = 64  # bytes a thread and tested instruction: inputs are 12 words, results 4

BOOL = [False, True]
ROUND = ["RN", "RM", "RP", "RZ"]
CMP = ["LT", "EQ", "LE", "GT", "NE", "GE", "NUM", "NAN", "LTU", "EQU", "LEU", "GTU", "NEU", "GEU", "F", "T"]
ICMP = ["LT", "EQ", "LE", "GT", "NE", "GE", "F", "T"]
BOP = ["AND", "OR", "XOR"]
SIGN = ["S32", "U32"]
# name: (destinations, sources, modifiers). Sources: i integer b-operand, I with negation, ~ with inversion, r
# register,
# f float register, F float b-operand, d, D the same in double, p predicate, s shift immediate.
OPERATIONS: dict[str, tuple[str, str, dict[str, list[Any]]]] = {
    "IADD": ("r", "RI", {"cc": BOOL, "x": BOOL, "sat": BOOL, "po": BOOL}),
    "IMUL": ("r", "ri", {"atype": SIGN, "btype": SIGN, "hi": BOOL, "cc": BOOL}),
    "IMAD": ("r", "RiR", {"atype": SIGN, "btype": SIGN, "hi": BOOL, "cc": BOOL, "x": BOOL}),
    "ISCADD": ("r", "RIs", {"cc": BOOL}),
    "ISAD": ("r", "rir", {"type": SIGN, "cc": BOOL}),
    "IMNMX": ("r", "rip", {"type": SIGN, "cc": BOOL}),
    "ISETP": ("pq", "rip", {"cmp": ICMP, "type": SIGN, "bop": BOP}),
    "ISET": ("r", "rip", {"cmp": ICMP, "type": SIGN, "bop": BOP, "bf": BOOL, "cc": BOOL}),
    "ICMP": ("r", "rir", {"cmp": ICMP, "type": SIGN}),
    "BFE": ("r", "ri", {"type": SIGN, "brev": BOOL, "cc": BOOL}),
    "BFI": ("r", "rir", {"cc": BOOL}),
    "FLO": ("r", "~", {"type": SIGN, "sh": BOOL, "cc": BOOL}),
    "POPC": ("r", "=~", {}),
    "SHL": ("r", "ri", {"w": BOOL, "cc": BOOL}),
    "SHR": ("r", "ri", {"w": BOOL, "type": SIGN, "brev": BOOL, "cc": BOOL}),
    "LOP": ("r", "=~", {"op": ["AND", "OR", "XOR", "PASS_B"], "cc": BOOL}),
    "PRMT": ("r", "rir", {"mode": ["", "F4E", "B4E", "RC8", "ECL", "ECR", "RC16"]}),
    "SEL": ("r", "rip", {}),
    "MOV": ("r", "i", {"lanes": [15, 5, 2]}),
    "PSETP": ("pq", "ppp", {"bop0": BOP, "bop": BOP}),
    "PSET": ("r", "ppp", {"bop0": BOP, "bop": BOP, "bf": BOOL}),
    "CSETP": ("pq", "p", {"test": [*CMP, "LO", "HS", "LS", "HI", "SFT", "SFF", "OFT", "OFF"], "bop": BOP}),
    "P2R": ("r", "ri", {"hi": BOOL}),
    "R2P": ("", "ri", {"hi": BOOL}),
    "FADD": ("r", "fF", {"rnd": ROUND, "ftz": BOOL, "sat": BOOL, "cc": BOOL}),
    "FMUL": ("r", "gG", {"rnd": ROUND, "ftz": BOOL, "fmz": BOOL, "sat": BOOL}),
    "FFMA": ("r", "gGg", {"rnd": ROUND, "ftz": BOOL, "sat": BOOL, "cc": BOOL}),
    "FMNMX": ("r", "fFp", {"ftz": BOOL}),
    "FSETP": ("pq", "fFp", {"cmp": CMP, "bop": BOP, "ftz": BOOL}),
    "FSET": ("r", "fFp", {"cmp": CMP, "bop": BOP, "ftz": BOOL, "bf": BOOL}),
    "FCMP": ("r", "rir", {"cmp": CMP, "ftz": BOOL}),
    "DADD": ("d", "dD", {"rnd": ROUND}),
    "DMUL": ("d", "eE", {"rnd": ROUND}),
    "DFMA": ("d", "eEe", {"rnd": ROUND}),
    "DMNMX": ("d", "dDp", {}),
    "DSETP": ("pq", "dDp", {"cmp": CMP, "bop": BOP}),
}
CONVERSIONS: list[tuple[str, str, str, list[str]]] = [
    *[("F2I", d, s, ["ROUND", "FLOOR", "CEIL", "TRUNC"]) for d in ("U16", "S16", "U32", "S32", "U64", "S64")
      for s in ("F16", "F32", "F64")],
    *[("I2F", d, s, ROUND) for d in ("F32", "F64") for s in ("U8", "S8", "U16", "S16", "U32", "S32", "U64", "S64")],
    *[("F2F", d, s, ROUND) for d, s in (("F32", "F64"), ("F16", "F32"))],
    *[("F2F", d, s, ["RN"]) for d, s in (("F64", "F32"), ("F32", "F16"))],
    *[("F2F", t, t, ["RN", "ROUND", "FLOOR", "CEIL", "TRUNC"]) for t in ("F32", "F64")],
    *[("I2I", d, s, [""]) for d in ("U8", "S8", "U16", "S16", "U32", "S32") for s in ("U8", "S8", "U16", "S16", "U32", "S32")],
]  # fmt: skip


def source(kind: str, rng: random.Random, position: int) -> Any:
    """A random operand. Registers R0-R7 vary by lane, R8-R9 are uniform, R10-R11 affine."""
    flip = rng.random() < 0.4
    other = rng.random() < 0.3
    if kind == "p":
        return Pred(rng.choice([0, 1, 2, 7]), flip)
    if kind == "s":
        return Imm(rng.randrange(32))
    if kind in "dDeE":
        index = rng.choice([0, 2, 4, 6, 8])
        pick = rng.random()
        neg, absolute = flip, other and kind in "dD"
        if kind in "DE" and pick < 0.2:
            return Const(0, 0x40, neg=neg and kind == "D", abs=absolute)
        if kind in "DE":
            neg = neg and kind == "D"
        return Reg(index, 2, neg=neg, abs=absolute)
    register = rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 63])
    second = kind in "iI~FG"
    pick = rng.random()
    neg = flip and kind in "RIfFg"
    inv = flip and kind in "=~"
    absolute = other and kind in "fF"
    if second and pick < 0.2:
        return Const(0, rng.choice([0x40, 0x44]), neg=neg, abs=absolute, inv=inv)
    if second and pick < 0.4:
        if kind in "FG":
            return Imm(rng.choice([0x3F800000, 0xC0200000, 0x7F800000, 0, 0x00800000]))
        return Imm(rng.choice([0, 1, 5, 31, 0x810, 0x7FFFF, 0xFFFFFFFF, 0xFFF80000, 0x4321]))
    return Reg(register, neg=neg, abs=absolute, inv=inv)


def build(name: str, rng: random.Random) -> Instruction | None:
    destinations, sources, choices = OPERATIONS[name]
    dst: list[Any] = []
    for kind in destinations:
        dst.append({"r": Reg(12), "d": Reg(12, 2), "p": Pred(0), "q": Pred(3)}[kind])
    src = [source(kind, rng, n) for n, kind in enumerate(sources)]
    if name in ("IADD", "IMAD", "ISCADD") and sum(getattr(op, "neg", False) for op in src) > 1:
        return None
    mods = {key: rng.choice(values) for key, values in choices.items()}
    if mods.get("po") and any(getattr(op, "neg", False) for op in src):
        mods["po"] = False
    guard = rng.choice([Pred(7), Pred(7), Pred(1), Pred(2, True)])
    return Instruction(name, tuple(dst), tuple(src), mods, guard)


def build_conversion(which: int, rng: random.Random) -> Instruction:
    name, dtype, stype, roundings = CONVERSIONS[which]
    mods: dict[str, Any] = {"dtype": dtype, "stype": stype}
    if name != "I2I":
        mods["rnd"] = rng.choice(roundings)
    else:
        mods["sat"] = rng.choice(BOOL)
    if stype[1:] in ("8", "16"):
        mods["part"] = rng.choice(["B0", "B1", "B2", "B3"] if stype[1:] == "8" else ["B0", "B2"])
    if name == "F2F" and dtype == stype == "F32":
        mods["sat"], mods["ftz"] = rng.choice(BOOL), rng.choice(BOOL)
    flip = rng.random() < 0.3
    wide = stype[1:] == "64"
    op = Reg(rng.choice([0, 2, 4, 8]), 2, neg=flip) if wide else Reg(rng.choice([0, 1, 4, 8, 10]), neg=flip)
    return Instruction(name, (Reg(12, 2) if dtype[1:] == "64" else Reg(12),), (op,), mods)


def program(instructions: list[Instruction]) -> bytes:
    """Each instruction between loads of fresh inputs and stores of what it may have changed."""
    code = assemble("S2R R20, SR_TID.X;\nMOV R8, c[0x0][0x40];\nMOV R9, c[0x0][0x44];")
    for n, ins in enumerate(instructions):
        text = f"""
            IMUL R21, R20, {RECORD * len(instructions)};
            IADD R22.CC, R21, c[0x0][0x20];
            IADD.X R23, RZ, c[0x0][0x24];
            LD.E.128 R0, [R22+{RECORD * n}];
            LD.E.128 R4, [R22+{RECORD * n + 16}];
            LD.E.64 R12, [R22+{RECORD * n + 32}];
            LD.E R16, [R22+{RECORD * n + 40}];
            ISCADD R10, R20, c[0x0][0x40], 0x2;
            IADD R11, R20, 0x7fff0;
            R2P PR, R16, 0xf07f;
        """
        code += assemble(text, len(code))
        code += encode(ins, len(code))
        code += assemble(
            f"P2R R14, PR, RZ, 0xf07f;\nST.E.64 [R22+{RECORD * n + 48}], R12;\nST.E [R22+{RECORD * n + 56}], R14;",
            len(code),
        )
    return code + assemble("EXIT;", len(code))


def run(rig: Rig, instructions: list[Instruction], seed: int) -> None:
    rng = random.Random(seed)
    count = THREADS * len(instructions)
    words = np.zeros((THREADS, len(instructions), RECORD // 4), np.uint32)
    for row in words.reshape(count, -1):
        for n in range(11):
            row[n] = rng.choice(INTERESTING) if rng.random() < 0.6 else rng.getrandbits(32)
    base = rig.put(0, words)
    assert base == BASE + DATA
    parameters = struct.pack("<Q", base).ljust(32, b"\0") + struct.pack("<II", 0x40490FDB, 0xC0000001)
    doubles = [ins.name[0] == "D" or ins.mods.get("dtype") == "F64" for ins in instructions]

    def same(raw: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
        """A double's NaN may have any payload."""
        records = raw.reshape(THREADS, len(instructions), RECORD // 4).copy()
        high, low = records[:, doubles, 13], records[:, doubles, 12]
        nan = (high & 0x7FF00000 == 0x7FF00000) & ((high & 0xFFFFF != 0) | (low != 0))
        records[:, doubles, 13], records[:, doubles, 12] = (
            np.where(nan, 0x7FFFFFFF, high),
            np.where(nan, 0, low),
        )
        return records.reshape(-1)

    def explain(word: int) -> str:
        thread, rest = divmod(word, len(instructions) * RECORD // 4)
        which, place = divmod(rest, RECORD // 4)
        ins = instructions[which]
        inputs = [hex(x) for x in words[thread, which, :11]]
        return f"{ins.name} {dict(ins.mods)} {ins.src} guard {ins.guard} thread {thread} word {place} inputs {inputs}"

    rig.agree(
        program(instructions), words.nbytes, block=THREADS, parameters=parameters, same=same, explain=explain
    )


@pytest.mark.long
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_operation(rig: Rig, name: str) -> None:
    rng = random.Random(name)
    instructions: list[Instruction] = []
    while len(instructions) < 5:
        ins = build(name, rng)
        if ins is None:
            continue
        try:
            encode(ins, 0)
        except EncodeError:
            continue
        instructions.append(ins)
    run(rig, instructions, len(name))


@pytest.mark.long
@pytest.mark.parametrize("part", range(12))
def test_conversions(rig: Rig, part: int) -> None:
    rng = random.Random(part)
    instructions = []
    for which in range(part, len(CONVERSIONS), 12):
        ins = build_conversion(which, rng)
        try:
            encode(ins, 0)
        except EncodeError:
            continue
        instructions.append(ins)
    assert instructions
    run(rig, instructions, part)

"""Code that no compiler made: random words, random instructions in random order, and good programs spoiled."""

from __future__ import annotations

import struct
from dataclasses import replace
from random import Random

from gpuvm.isa.decoder import decode_word
from gpuvm.isa.encoder import encode
from gpuvm.isa.errors import DecodeError, EncodeError
from gpuvm.isa.instruction import Const, Instruction, Mem, Operand, Reg, Target
from gpuvm.isa.tables import ROWS, find
from support.machine import FAR, NEAR, ROM
from support.operations import NOT_EXECUTED, hard_word

POINTERS = (NEAR, NEAR + 0x1000, FAR & 0xFFFFFFFF, ROM & 0xFFFFFFFF, 0xFE000000, 0xFF000000, 0)
EXECUTED = tuple(row for row in ROWS if row.name not in NOT_EXECUTED)
JUMPS = tuple(row for row in EXECUTED if any(f.kind == "target" for f in row.src))


def random_words(chance: Random) -> bytes:
    """Bits, nothing but bits; half of them with the guard "always", so that some get far."""
    words = [chance.getrandbits(64) for _ in range(chance.randrange(1, 24))]
    return b"".join(
        struct.pack("<Q", w & ~(0xF << 10) | 7 << 10 if chance.random() < 0.5 else w) for w in words
    )


def tame(chance: Random, op: Operand, size: int) -> Operand:
    """An operand that is more likely to be harmless than a random one."""
    if isinstance(op, Reg) and op.index != 63:
        return replace(op, index=chance.randrange(0, 24) // op.count * op.count)
    if isinstance(op, Mem):
        base = (
            op.base
            if op.base.index == 63
            else replace(op.base, index=chance.randrange(0, 24) // op.base.count * op.base.count)
        )
        return replace(
            op,
            base=base,
            offset=chance.choice([0, 0, 4, 8, 16, 64, op.offset]),
            bank=chance.choice([0, 0, op.bank]),
        )
    if isinstance(op, Const):
        return replace(
            op, bank=chance.choice([0, 0, 0, op.bank]), offset=chance.choice([0x20, 0x40, op.offset])
        )
    if isinstance(op, Target):
        return Target(8 * chance.randrange(-1, size + 2) if chance.random() < 0.9 else op.offset)
    return op


def random_instructions(chance: Random) -> bytes:
    """Instructions of every executed row, a third of them jumps, pushes and calls."""
    count = chance.randrange(3, 24)
    code = b""
    while len(code) < 8 * count:
        row = chance.choice(JUMPS if chance.random() < 0.3 else EXECUTED)
        word = chance.getrandbits(64) & ((1 << 8 * row.size) - 1) & ~row.mask | row.match
        if find(word, row.size) is not row:
            continue
        try:
            ins = decode_word(word, row.size, len(code))
            good = replace(
                ins,
                dst=tuple(tame(chance, o, count) for o in ins.dst),
                src=tuple(tame(chance, o, count) for o in ins.src),
            )
            code += encode(good if chance.random() < 0.9 else ins, len(code))
        except (DecodeError, EncodeError):
            continue
    return code if chance.random() < 0.5 else code + encode(Instruction("EXIT"))


def spoiled(chance: Random, code: bytes) -> bytes:
    """A good program with bits flipped, words swapped, repeated or cut out."""
    words = [code[n : n + 8] for n in range(0, len(code), 8)]
    for _ in range(chance.randrange(1, 5)):
        kind, at = chance.randrange(4), chance.randrange(len(words))
        if kind == 0:
            flipped = int.from_bytes(words[at], "little") ^ 1 << chance.randrange(8 * len(words[at]))
            words[at] = flipped.to_bytes(len(words[at]), "little")
        elif kind == 1:
            other = chance.randrange(len(words))
            words[at], words[other] = words[other], words[at]
        elif kind == 2:
            words.insert(at, chance.choice(words))
        elif len(words) > 2:
            del words[at]
    return b"".join(words)


def constants(chance: Random) -> list[int]:
    """c[0] from 0x20: pointers and hard values, so that loaded registers lead somewhere."""
    return [chance.choice(POINTERS) if chance.random() < 0.5 else hard_word(chance) for _ in range(64)]

"""What one Fermi instruction means once decoded: operation, operands, modifiers, guard. The common currency
of decoder, encoder, assembler, disassembler, compiler and executor. Knows no device and no bit positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

RZ = 63
"""Register that reads 0 and drops writes."""
PT = 7
"""Predicate that is always true and drops writes."""


@dataclass(frozen=True, slots=True)
class Reg:
    """General register R0 to R62, or RZ (63). `count` is how many consecutive registers the operand covers.

    `neg`, `abs` (arithmetic) and `inv` (bitwise not) apply to the value read, abs before neg.
    """

    index: int
    count: int = 1
    neg: bool = False
    abs: bool = False
    inv: bool = False


@dataclass(frozen=True, slots=True)
class Pred:
    """Predicate register P0 to P6, or PT (7), possibly inverted."""

    index: int
    inv: bool = False


@dataclass(frozen=True, slots=True)
class Const:
    """A word (or double word) of constant bank `bank` at byte `offset`."""

    bank: int
    offset: int
    neg: bool = False
    abs: bool = False
    inv: bool = False


@dataclass(frozen=True, slots=True)
class Imm:
    """An immediate as the operation sees it: 32 raw bits (for double-precision operations: the 64 raw bits).

    20-bit forms are already expanded: integers sign-extended, float immediates shifted into the high bits.
    """

    value: int
    neg: bool = False
    abs: bool = False
    inv: bool = False


@dataclass(frozen=True, slots=True)
class Mem:
    """An address: base register (`RZ` for none; `count` 2 = 64-bit pair) plus signed byte offset.

    `space` is "generic" (LD, ST, ATOM, RED: the windows decide), "local", "shared", "const" (then `bank`
    counts), or, of operations that are decoded only, "attribute", "patch", "pixel" or "image".
    """

    space: str
    base: Reg
    offset: int
    bank: int = 0


@dataclass(frozen=True, slots=True)
class Special:
    """A special register by number and name, e.g. (33, "SR_TID.X")."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """A branch target: byte offset from the code segment's base (relative forms: already added to the pc)."""

    offset: int


Operand = Reg | Pred | Const | Imm | Mem | Special | Target
Value = int | bool | str


@dataclass(frozen=True, slots=True)
class Instruction:
    """One decoded instruction.

    Attributes
    ----------
    name : str
        The mnemonic as NVIDIA's disassembler for sm_20 spells it ("FADD", "ISETP", "LD", ...).
    dst, src : tuple of Operand
        Destinations and sources in assembler order. A store's data is the last source.
    mods : mapping
        Every modifier of the operation, once decoded also at its default: {"rnd": "RN", "ftz": False, ...}.
    guard : Pred
        The instruction acts in a thread only where this holds.
    sync : bool
        The ".S" flag: after it, the warp pops the reconvergence stack.
    size : int
        4 or 8 bytes.
    word : int
        The encoded word (32 or 64 bits), 0 if the instruction was built and not yet encoded.
    """

    name: str
    dst: tuple[Operand, ...] = ()
    src: tuple[Operand, ...] = ()
    mods: Mapping[str, Value] = field(default_factory=lambda: MappingProxyType({}))
    guard: Pred = Pred(PT)
    sync: bool = False
    size: int = 8
    word: int = 0

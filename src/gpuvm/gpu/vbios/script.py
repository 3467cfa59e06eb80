"""Initialisation scripts of a VBIOS: the opcodes that this card's scripts use, and their encoding. Sources:
envytools' nvbios, and what a driver's interpreter accepts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gpuvm.gpu.vbios.layout import Piece

MASK_REGISTER, DONE, TIME, WRITE_REGISTER = 0x6E, 0x71, 0x74, 0x7A
"""INIT_NV_REG, INIT_DONE, INIT_TIME, INIT_ZM_REG."""


@dataclass(frozen=True, slots=True)
class Write:
    """Set a register (byte offset in BAR0)."""

    register: int
    value: int

    def encode(self) -> bytes:
        return (
            bytes((WRITE_REGISTER,)) + self.register.to_bytes(4, "little") + self.value.to_bytes(4, "little")
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """Keep the bits of a register that are in `keep` and set those in `value`."""

    register: int
    keep: int
    value: int

    def encode(self) -> bytes:
        words = (self.register, self.keep, self.value)
        return bytes((MASK_REGISTER,)) + b"".join(word.to_bytes(4, "little") for word in words)


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for some microseconds."""

    microseconds: int

    def encode(self) -> bytes:
        return bytes((TIME,)) + self.microseconds.to_bytes(2, "little")


Step = Write | Mask | Wait


def encode(steps: Iterable[Step]) -> Piece:
    """Return a script: its steps, then INIT_DONE."""
    return Piece((b"".join(step.encode() for step in steps) + bytes((DONE,)),))

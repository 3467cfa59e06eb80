"""Declarations of registers: fields, registers, arrays of them and the blocks in which a chip places them.
Data only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from gpuvm.registers.access import RW, Access


class DeclarationError(Exception):
    """Two declarations contradict each other, or one does not fit where it is put."""


@dataclass(frozen=True, slots=True)
class Field:
    """Bits `low` to `high` of a register.

    Attributes
    ----------
    values : mapping of int to str
        Names of the values that mean something.
    """

    name: str
    low: int
    high: int
    access: Access = RW
    values: Mapping[int, str] = field(default_factory=dict)

    @property
    def mask(self) -> int:
        return ((1 << (self.high - self.low + 1)) - 1) << self.low

    def get(self, word: int) -> int:
        return (word & self.mask) >> self.low

    def put(self, value: int) -> int:
        return (value << self.low) & self.mask


def bit(name: str, position: int, access: Access = RW) -> Field:
    """One-bit field."""
    return Field(name, position, position, access)


@dataclass(frozen=True, slots=True)
class Register:
    """A 32-bit register, or `count` of them `stride` bytes apart, at byte `offset` of its block.

    Attributes
    ----------
    access : Access
        Of the whole word; only where `fields` is empty.
    fields : tuple of Field
        If given, bits that no field covers read 0 and drop writes.
    reset : int
        Value after power-on and after a reset of the engine.
    """

    offset: int
    name: str
    access: Access = RW
    fields: tuple[Field, ...] = ()
    reset: int = 0
    count: int = 1
    stride: int = 4
    doc: str = ""

    def __post_init__(self) -> None:
        if self.offset % 4 or self.stride % 4:
            raise DeclarationError(
                f"register {self.name} must lie on a multiple of 4, got offset {self.offset:#x}"
            )
        seen = 0
        for each in self.fields:
            if not 0 <= each.low <= each.high <= 31:
                raise DeclarationError(
                    f"field {self.name}.{each.name} must lie in bits 0 to 31, got {each.low}-{each.high}"
                )
            if seen & each.mask:
                other = next(f for f in self.fields if f.mask & each.mask and f is not each)
                raise DeclarationError(
                    f"field {self.name}.{each.name} must not overlap {self.name}.{other.name}"
                )
            seen |= each.mask

    def masks(self) -> tuple[int, int, int]:
        """Return the bits that a read shows, that a write replaces and that a written one clears."""
        parts = [(f.mask, f.access) for f in self.fields] or [(0xFFFFFFFF, self.access)]
        read = write = clear = 0
        for mask, access in parts:
            read |= mask if access.readable else 0
            write |= mask if access.writable else 0
            clear |= mask if access.clears else 0
        return read, write, clear

    def field(self, name: str) -> Field:
        """Return the field called `name` (KeyError if there is none)."""
        for each in self.fields:
            if each.name == name:
                return each
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Bytes `first` to `last` of a block hold what was written last and do nothing else; `why` says what
    lives there.
    """

    first: int
    last: int
    why: str


@dataclass(frozen=True, slots=True)
class Block:
    """Registers of one engine, `count` times from `base` on, `stride` bytes apart.

    Attributes
    ----------
    size : int
        Bytes that one instance spans.
    """

    name: str
    base: int
    size: int
    registers: tuple[Register, ...] = ()
    scratch: tuple[Scratch, ...] = ()
    count: int = 1
    stride: int = 0
    doc: str = ""

    def places(self) -> Iterator[tuple[int, Register, int]]:
        """Yield (offset, register, index) of every word; the index counts over block instances and array
        elements.
        """
        for instance in range(self.count):
            start = self.base + instance * self.stride
            for register in self.registers:
                for element in range(register.count):
                    yield (
                        start + register.offset + element * register.stride,
                        register,
                        instance * register.count + element,
                    )

    def find(self, name: str) -> Register:
        """Return the register called `name` (KeyError if there is none)."""
        for register in self.registers:
            if register.name == name:
                return register
        raise KeyError(f"{self.name} must declare a register {name}; it has none of that name")

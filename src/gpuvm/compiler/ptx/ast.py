"""The syntax tree of a PTX module."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Name:
    """A register, special register, label, symbol or parameter, possibly with a byte offset (`symbol+8`).

    `component` is the letter of a vector register's part (`%v.x` has "x").
    """

    name: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Number:
    """An integer constant (`bits` None) or a floating constant given by value or by its 32/64 raw bits."""

    value: int | float
    bits: int | None = None
    width: int = 0


@dataclass(frozen=True, slots=True)
class Address:
    """`[base + offset]`; base is None for an absolute address."""

    base: str | None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Vector:
    """`{a, b, c, d}`; elements are names or numbers (`_` drops one)."""

    items: tuple[Name | Number, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """`!p` as a source."""

    name: str


@dataclass(frozen=True, slots=True)
class Pair:
    """`p|q` as destinations; "_" drops one."""

    first: str
    second: str


Operand = Name | Number | Address | Vector | Not | Pair


@dataclass(frozen=True, slots=True)
class Instr:
    """One instruction. `mods` are the dotted parts after the base name, in order."""

    op: str
    mods: tuple[str, ...]
    args: tuple[Operand, ...]
    line: int
    guard: str | None = None
    guard_not: bool = False

    @property
    def text(self) -> str:
        """The instruction's name as written, for messages."""
        return ".".join((self.op, *self.mods))


@dataclass(frozen=True, slots=True)
class Call:
    """A call: `target` is a function or, for an indirect call, a register; `prototype` names the prototype or
    table.
    """

    target: str
    returns: tuple[str, ...]
    arguments: tuple[Name | Number, ...]
    prototype: str | None
    line: int
    guard: str | None = None
    guard_not: bool = False


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Targets:
    """`label: .branchtargets a, b, c;`"""

    name: str
    labels: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Prototype:
    """`label: .callprototype (returns) _ (parameters);` or `.calltargets` (then `targets` is given)."""

    name: str
    returns: tuple[Variable, ...]
    params: tuple[Variable, ...]
    targets: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class SymbolRef:
    """An address in an initialiser. `generic` asks for the generic address, `mask` for one byte of it (0xff
    << shift).
    """

    name: str
    offset: int = 0
    generic: bool = False
    shift: int | None = None


@dataclass(slots=True)
class Variable:
    """A declared variable or parameter. `count` is the number of elements over all dimensions, 0 for an
    unsized array.
    """

    name: str
    space: str
    type: str
    align: int
    vector: int = 1
    count: int = 1
    array: bool = False
    init: list[Number | SymbolRef] | None = None
    linkage: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class RegisterDecl:
    """`.reg .b32 %r<10>` : `count` None means the one register `name`."""

    name: str
    type: str
    vector: int
    count: int | None


@dataclass(frozen=True, slots=True)
class Scope:
    """`{ ... }` inside a body."""

    body: tuple[Statement, ...]


Statement = Instr | Call | Label | Targets | Prototype | Variable | RegisterDecl | Scope


@dataclass(slots=True)
class Function:
    """A kernel (`entry`) or device function; `body` is None for a declaration."""

    name: str
    entry: bool
    params: list[Variable]
    returns: list[Variable]
    body: tuple[Statement, ...] | None
    linkage: str
    line: int
    directives: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(slots=True)
class Module:
    version: tuple[int, int] = (0, 0)
    target: str = ""
    address_size: int = 32
    variables: list[Variable] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)

"""The compiler's one intermediate form: Fermi instructions over virtual registers in SSA, in basic blocks.

Every value is one 32-bit word or one predicate. An operand that the chip wants in an aligned pair or quad is
a tuple of values (a group). Operands that are constants stay constants (`Imm`, `CB`) until `legalize` finds
that a slot cannot hold them. Operations are the chip's own names plus the pseudo operations listed in
`ops.py`, which expand at emission.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

NEG, ABS, INV = 1, 2, 4


class Value:
    """A virtual register. `kind` is "r" (32-bit general) or "p" (predicate). `fixed` is a forced physical
    register.
    """

    __slots__ = ("fixed", "forward", "home", "id", "inst", "kind")

    def __init__(self, ident: int, kind: str) -> None:
        self.id = ident
        self.kind = kind
        self.inst: Inst | None = None
        self.home: Block | None = None
        """Where the builder made it."""
        self.forward: Src | None = None
        self.fixed: int | None = None

    def __repr__(self) -> str:
        return f"{'%' if self.kind == 'r' else '%p'}{self.id}"


@dataclass(frozen=True, slots=True)
class Imm:
    """32 raw bits; as a group operand of a double-precision operation: 64 raw bits."""

    value: int

    def __repr__(self) -> str:
        return hex(self.value)


@dataclass(frozen=True, slots=True)
class CB:
    """A word (or a double) of constant bank `bank` at byte `offset`."""

    bank: int
    offset: int

    def __repr__(self) -> str:
        return f"c[{self.bank:#x}][{self.offset:#x}]"


@dataclass(frozen=True, slots=True)
class PredConst:
    """A predicate known at compile time."""

    value: bool


@dataclass(frozen=True, slots=True)
class NotP:
    """The inverse of a predicate value, as a source."""

    value: Value


@dataclass(frozen=True, slots=True)
class SymbolWord:
    """A word of a symbol's address, known at link time. `part` is "lo" or "hi".

    Shared, local and constant-bank symbols have constant addresses once the module is laid out.
    """

    symbol: str
    part: str
    addend: int = 0
    generic: bool = False

    def __repr__(self) -> str:
        return f"{self.symbol}.{self.part}+{self.addend}"


TRUE, FALSE = PredConst(True), PredConst(False)
ZERO = Imm(0)

Group: TypeAlias = tuple["Src", ...]
Src: TypeAlias = "Value | Imm | CB | PredConst | NotP | SymbolWord | Group"
Dst: TypeAlias = "Value | tuple[Value, ...]"
Mod: TypeAlias = int | bool | str


class Inst:
    """One instruction. `smods` has NEG|ABS|INV bits for each source; `guard` None means always."""

    __slots__ = ("block", "dsts", "guard", "guard_not", "line", "mods", "op", "smods", "srcs", "target")

    def __init__(
        self,
        op: str,
        dsts: list[Dst],
        srcs: list[Src],
        mods: dict[str, Mod] | None = None,
        smods: list[int] | None = None,
        line: int = 0,
    ) -> None:
        self.op = op
        self.dsts = dsts
        self.srcs = srcs
        self.mods: dict[str, Mod] = mods if mods is not None else {}
        self.smods = smods if smods is not None else [0] * len(srcs)
        self.guard: Value | None = None
        self.guard_not = False
        self.block: Block | None = None
        self.line = line
        self.target: object = None

    def __repr__(self) -> str:
        guard = f"@{'!' if self.guard_not else ''}{self.guard} " if self.guard else ""
        mods = "".join(f" .{k}={v}" for k, v in self.mods.items())
        srcs = ", ".join(
            f"{'~' if m & INV else ''}{'-' if m & NEG else ''}{'|' if m & ABS else ''}{s}"
            for s, m in zip(self.srcs, self.smods, strict=True)
        )
        return f"{guard}{self.op} {self.dsts} <- {srcs}{mods}"


class Phi:
    """A phi: `args[k]` comes from `block.preds[k]`."""

    __slots__ = ("args", "block", "dst", "users", "var")

    def __init__(self, block: Block, dst: Value, var: str) -> None:
        self.block = block
        self.dst = dst
        dst.home = block
        self.args: list[Src] = []
        self.var = var
        self.users: list[Phi] = []


@dataclass(slots=True)
class Term:
    """How a block ends.

    `kind`: "jump" (one target), "branch" (targets[0] if `pred` else targets[1]), "exit", "ret", "trap".
    `uniform`: all threads of a warp that reach it go the same way.
    """

    kind: str
    targets: list[int] = field(default_factory=list)
    pred: Src | None = None
    uniform: bool = False
    line: int = 0


class Block:
    """A basic block. `preds` and `term.targets` are block numbers; an edge occurs once a target entry."""

    __slots__ = ("depth", "id", "insts", "phis", "preds", "term")

    def __init__(self, ident: int) -> None:
        self.id = ident
        self.phis: list[Phi] = []
        self.insts: list[Inst] = []
        self.preds: list[int] = []
        self.term = Term("exit")
        self.depth = 0


@dataclass(slots=True)
class Fn:
    """A kernel or device function in machine form."""

    name: str
    entry: bool
    blocks: list[Block] = field(default_factory=list)
    values: int = 0
    local_size: int = 0
    """Bytes of the function's own local frame: variables first, then spills."""
    max_registers: int = 63
    uses_stack: bool = False
    """Its frame is relative to R1 (recursive or called indirectly), else at a fixed local address."""
    reserve_stack_pointer: bool = False
    """R1 is the stack pointer in this module."""
    barriers: int = 0
    calls: list[str] = field(default_factory=list)
    indirect: bool = False
    constants: bytearray = field(default_factory=bytearray)
    """c[0x10]: constants of this function that no instruction can hold."""
    return_values: list[Src] = field(default_factory=list)

    def value(self, kind: str = "r") -> Value:
        self.values += 1
        return Value(self.values, kind)

    def successors(self) -> list[list[int]]:
        return [b.term.targets for b in self.blocks]

    def link_predecessors(self) -> None:
        """Recompute `preds` in block order (only before phis exist)."""
        for b in self.blocks:
            b.preds = []
        for b in self.blocks:
            for t in b.term.targets:
                self.blocks[t].preds.append(b.id)


def resolve(s: Src) -> Src:
    """The operand that stands for `s` now, after replaced values are followed."""
    if isinstance(s, Value):
        if s.forward is None:
            return s
        last: Src = s
        trail: list[Value] = []
        while isinstance(last, Value) and last.forward is not None:
            trail.append(last)
            last = last.forward
        if isinstance(last, NotP):
            last = resolve(last)
        for v in trail:
            v.forward = last
        return last
    if isinstance(s, NotP):
        inner = resolve(s.value)
        if inner is s.value:
            return s
        return invert(inner)
    if isinstance(s, tuple):
        return tuple(resolve(x) for x in s)
    return s


def invert(p: Src) -> Src:
    """The inverse of a predicate operand."""
    if isinstance(p, PredConst):
        return FALSE if p.value else TRUE
    if isinstance(p, NotP):
        return p.value
    assert isinstance(p, Value)
    return NotP(p)


def words(s: Src) -> list[Value]:
    """The values that an operand reads."""
    if isinstance(s, Value):
        return [s]
    if isinstance(s, NotP):
        return [s.value]
    if isinstance(s, tuple):
        return [x for x in s if isinstance(x, Value)]
    return []


def results(inst: Inst) -> list[Value]:
    """The values that an instruction defines."""
    out: list[Value] = []
    for d in inst.dsts:
        if isinstance(d, tuple):
            out.extend(d)
        else:
            out.append(d)
    return out


def operands(inst: Inst) -> list[Value]:
    """The values that an instruction reads, its guard included."""
    out: list[Value] = []
    for s in inst.srcs:
        if isinstance(s, Value):
            out.append(s)
        elif isinstance(s, tuple | NotP):
            out.extend(words(s))
    if inst.guard is not None:
        out.append(inst.guard)
    return out

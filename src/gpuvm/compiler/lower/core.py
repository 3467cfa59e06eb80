"""What every lowering needs: SSA variables, operands by PTX type, symbols; and the walk over a function's
blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from gpuvm.compiler.build import MASK, Builder, Pair
from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.flow import Body, Copy, End, Item, Select
from gpuvm.compiler.graph import DominatorTree, natural_loops
from gpuvm.compiler.layout import ADDRESS_BANK, PARAMETER_BASE, Layout
from gpuvm.compiler.mir import (
    CB,
    FALSE,
    TRUE,
    ZERO,
    Block,
    Fn,
    Imm,
    Inst,
    NotP,
    Phi,
    PredConst,
    Src,
    SymbolWord,
    Term,
    Value,
    invert,
    resolve,
)
from gpuvm.compiler.ptx import ast
from gpuvm.compiler.ptx.parser import float_bits, type_size

CARRY = "$cc"
"""The variable that holds the carry flag of add.cc and its kind, as 0 or 1."""
HIGH = "\x01"
"""Suffix of the variable that holds a 64-bit register's high word."""

Handler = Callable[["Lowering", ast.Instr], None]
HANDLERS: dict[str, Handler] = {}


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a function as the lowering of PTX instructions."""

    def register(f: Handler) -> Handler:
        for n in names:
            HANDLERS[n] = f
        return f

    return register


def width(kind: str) -> int:
    """Bits of a PTX type; 1 for a predicate."""
    return 1 if kind == "pred" else 8 * type_size(kind)


class Lowering:
    """One function on its way from blocks of PTX to blocks of machine instructions.

    Attributes
    ----------
    local : dict
        Frame offset of each .local variable.
    shared : dict
        Shared address of each .shared variable declared in the function.
    parameters : dict
        Kernel: byte offset in the parameter area. Function: unused (parameters are words `name#k`).
    """

    def __init__(
        self, body: Body, layout: Layout, shared: dict[str, int], dynamic_shared: int, uses_stack: bool
    ) -> None:
        self.body = body
        self.layout = layout
        self.shared = shared
        self.dynamic_shared = dynamic_shared
        self.function = body.function
        self.wide_address = layout.module.address_size == 64
        self.fn = Fn(body.function.name, body.function.entry, uses_stack=uses_stack)
        self.local: dict[str, int] = {}
        self.parameters: dict[str, int] = {}
        self.param_size = 0
        self.param_list: list[tuple[int, int]] = []
        self.used_dynamic = False
        self.used_shared: set[str] = set()
        self.line = 0
        self.places: dict[str, int] = {}
        self._frame()
        self._blocks()

    # ---- frame and parameters

    def _frame(self) -> None:
        at = 0
        for name, v in self.body.variables.items():
            if v.space == "local":
                size = type_size(v.type) * v.vector * v.count
                at = at + v.align - 1 & -v.align
                self.local[name] = at
                at += size
                if at > 512 << 10:
                    raise CompileError(
                        f"{self.function.name} needs more than 512 KiB of local variables", v.line
                    )
        self.fn.local_size = at
        if self.function.entry:
            at = 0
            for p in self.function.params:
                size = type_size(p.type) * p.vector * p.count
                at = at + p.align - 1 & -p.align
                self.parameters[p.name] = at
                self.param_list.append((at, size))
                at += size
            self.param_size = at
            if at > 4096:
                raise CompileError(
                    f"{self.function.name} has {at} bytes of parameters; at most 4096", self.function.line
                )

    # ---- blocks and SSA

    def _blocks(self) -> None:
        fn = self.fn
        for k, b in enumerate(self.body.blocks):
            block = Block(k)
            block.term = Term(b.end.kind, list(b.end.targets), uniform=b.end.uniform, line=b.end.line)
            fn.blocks.append(block)
        fn.link_predecessors()
        succs = fn.successors()
        self.tree = DominatorTree(succs, 0)
        self.entrance: dict[int, int] = {}
        self.written: dict[int, set[str]] = {}
        for loop in natural_loops(succs, self.tree):
            for n in loop.blocks:
                fn.blocks[n].depth = max(fn.blocks[n].depth, loop.depth)
            outside = [p for p in fn.blocks[loop.header].preds if p not in loop.blocks]
            if len(outside) == 1:
                self.entrance[loop.header] = outside[0]
                self.written[loop.header] = {
                    name for n in loop.blocks for item in self.body.blocks[n].items for name in _targets(item)
                }
        self.defs: list[dict[str, Src]] = [{} for _ in fn.blocks]
        self.sealed = [False] * len(fn.blocks)
        self.filled = [False] * len(fn.blocks)
        self.incomplete: list[dict[str, Phi]] = [{} for _ in fn.blocks]
        self.builder = Builder(fn, self.tree)

    def run(self) -> Fn:
        """Lower every block."""
        from gpuvm.compiler.lower import calls

        b = self.builder
        for n in self.tree.order:
            block = self.fn.blocks[n]
            b.block = block
            if all(self.filled[p] for p in block.preds):
                self._seal(n)
            if n == 0:
                calls.enter(self)
            for item in self.body.blocks[n].items:
                self.line = b.line = item.line
                if isinstance(item, ast.Instr):
                    handler = HANDLERS.get(item.op)
                    if handler is None:
                        raise CompileError(
                            f"{item.text} is no PTX instruction that this compiler knows",
                            item.line,
                            "unsupported",
                        )
                    handler(self, item)
                elif isinstance(item, Select):
                    self.write(item.var, Imm(item.value))
                elif isinstance(item, Copy):
                    self.write(item.target, self.read(item.source))
                else:
                    calls.call(self, item)
            self._end(block, self.body.blocks[n].end)
            self.filled[n] = True
            for s in set(block.term.targets):
                if not self.sealed[s] and all(self.filled[p] for p in self.fn.blocks[s].preds):
                    self._seal(s)
        self._simplify_phis()
        return self.fn

    def _end(self, block: Block, end: End) -> None:
        term = block.term
        self.line = self.builder.line = end.line
        if end.kind == "branch":
            p = self.read(end.name, "p")
            term.pred = invert(p) if end.inverted else p
        elif end.kind == "select":
            term.kind = "branch"
            term.pred = self.builder.compare(end.cmp, self.read(end.name), Imm(end.value), False)
        elif end.kind == "ret":
            from gpuvm.compiler.lower import calls

            calls.leave(self)

    def _seal(self, n: int) -> None:
        self.sealed[n] = True
        for var, phi in self.incomplete[n].items():
            self._fill(phi, var)
        self.incomplete[n] = {}

    def write(self, var: str, s: Src) -> None:
        """Set a one-word variable or predicate in the current block."""
        self.defs[self.builder.block.id][var] = s

    def read(self, var: str, kind: str = "r") -> Src:
        """The current value of a one-word variable or predicate."""
        return resolve(self._read(var, self.builder.block.id, kind))

    def _read(self, var: str, n: int, kind: str) -> Src:
        """Value of a variable at the end of block n; phis are made where several values meet."""
        made: list[Phi] = []
        found = self._look_up(var, n, kind, made)
        for phi in made:
            phi.args = [self._look_up(var, p, kind, made) for p in phi.block.preds]
        self._forward(made)
        return found

    def _look_up(self, var: str, n: int, kind: str, made: list[Phi]) -> Src:
        """One step of `_read`: walks up to a definition or to a new phi, which goes to `made` without arguments."""
        trail: list[int] = []
        while True:
            found = self.defs[n].get(var)
            if found is not None:
                break
            block = self.fn.blocks[n]
            trail.append(n)
            if not self.sealed[n]:
                if n in self.entrance and _stem(var) not in self.written[n]:
                    # the loop does not write it: no phi, so that what is known of the value stays known
                    n = self.entrance[n]
                    continue
                phi = Phi(block, self.fn.value(kind), var)
                block.phis.append(phi)
                self.incomplete[n][var] = phi
                found = phi.dst
                break
            if not block.preds:
                found = ZERO if kind == "r" else FALSE
                break
            if len(block.preds) == 1:
                n = block.preds[0]
                continue
            phi = Phi(block, self.fn.value(kind), var)
            block.phis.append(phi)
            made.append(phi)
            found = phi.dst
            break
        for t in trail:
            self.defs[t][var] = found
        return found

    def _fill(self, phi: Phi, var: str) -> None:
        """Arguments of a phi whose block has all its predecessors now."""
        made: list[Phi] = []
        phi.args = [self._look_up(var, p, phi.dst.kind, made) for p in phi.block.preds]
        for other in made:
            other.args = [self._look_up(var, p, phi.dst.kind, made) for p in other.block.preds]
        self._forward([phi, *made])

    def _forward(self, phis: list[Phi]) -> None:
        """Do away with phis that only repeat one value; one gone may make another so."""
        left = [p for p in phis if p.dst.forward is None]
        while True:
            kept = [p for p in reversed(left) if self._trivial(p) is p.dst]
            kept.reverse()
            if len(kept) == len(left):
                return
            left = kept

    @staticmethod
    def _trivial(phi: Phi) -> Src:
        """Forward a phi whose arguments are all the same."""
        same: Src | None = None
        for a in phi.args:
            a = resolve(a)
            if a is phi.dst or a == same:
                continue
            if same is not None:
                return phi.dst
            same = a
        if same is None:
            same = ZERO if phi.dst.kind == "r" else FALSE
        phi.dst.forward = same
        return same

    def _simplify_phis(self) -> None:
        changed = True
        while changed:
            changed = False
            for block in self.fn.blocks:
                keep: list[Phi] = []
                for phi in block.phis:
                    if phi.dst.forward is None and self._trivial(phi) is phi.dst:
                        keep.append(phi)
                    else:
                        changed = True
                block.phis = keep

    # ---- operands by type

    def wrong(self, what: str) -> CompileError:
        return CompileError(what, self.line)

    def immediate(self, n: ast.Number, kind: str) -> int:
        """Raw bits of a constant as a value of a PTX type."""
        bits = width(kind)
        if kind in ("f32", "f64") or (n.bits is None and isinstance(n.value, float)):
            if n.bits is not None:
                if n.width == bits:
                    return n.bits
                return float_bits(float(n.value), bits)
            if isinstance(n.value, int) and kind[0] != "f":
                return n.value & (1 << bits) - 1
            return float_bits(float(n.value), max(bits, 32))
        value = n.bits if n.bits is not None else int(n.value)
        return value & (1 << bits) - 1

    def register(self, name: str) -> str | None:
        """Type of a register, None if the name is no register."""
        r = self.body.registers.get(name)
        if r is None and "." in name:
            base = name.rpartition(".")[0]
            r = self.body.registers.get(base)
            if r is not None and r.vector == 1:
                return None
        return None if r is None else r.type

    def word(self, o: ast.Operand, kind: str) -> Src:
        """A source of up to 32 bits. Bits above a narrower type are not defined."""
        if isinstance(o, ast.Name):
            t = self.register(o.name)
            if t is not None:
                if t == "pred":
                    raise self.wrong(f"{o.name} is a predicate where a value is needed")
                return self.read(o.name)
            return self.special_or_symbol(o, kind)[0]
        if isinstance(o, ast.Number):
            return Imm(self.immediate(o, kind) & MASK)
        raise self.wrong("an operand has the wrong form")

    def double(self, o: ast.Operand, kind: str) -> Pair:
        """A source of 64 bits; a narrower register is zero-extended."""
        if isinstance(o, ast.Name):
            t = self.register(o.name)
            if t is not None:
                if t == "pred":
                    raise self.wrong(f"{o.name} is a predicate where a value is needed")
                if type_size(t) == 8:
                    return self.read(o.name), self.read(o.name + HIGH)
                return self.read(o.name), ZERO
            return self.special_or_symbol(o, kind)
        if isinstance(o, ast.Number):
            v = self.immediate(o, kind)
            return Imm(v & MASK), Imm(v >> 32)
        raise self.wrong("an operand has the wrong form")

    def predicate(self, o: ast.Operand) -> Src:
        if isinstance(o, ast.Not):
            return invert(self.read(o.name, "p"))
        if isinstance(o, ast.Name):
            if self.register(o.name) != "pred":
                raise self.wrong(f"{o.name} is no predicate")
            return self.read(o.name, "p")
        if isinstance(o, ast.Number) and isinstance(o.value, int):
            return TRUE if o.value else FALSE
        raise self.wrong("a predicate is needed")

    def set_word(self, o: ast.Operand, s: Src) -> None:
        """Write a destination of up to 32 bits (the high word of a 64-bit register becomes 0)."""
        name = self.value_destination(o)
        if name == "_":
            return
        self.write(name, s)
        if self.body.registers[name.rpartition(".")[0] if name not in self.body.registers else name].type in (
            "b64",
            "u64",
            "s64",
            "f64",
        ):
            self.write(name + HIGH, ZERO)

    def set_double(self, o: ast.Operand, p: Pair) -> None:
        name = self.value_destination(o)
        if name == "_":
            return
        self.write(name, p[0])
        self.write(name + HIGH, p[1])

    def set_predicate(self, name: str, s: Src) -> None:
        if name == "_":
            return
        if self.register(name) != "pred":
            raise self.wrong(f"{name} is no predicate")
        self.write(name, s)

    def destination(self, o: ast.Operand) -> str:
        if not isinstance(o, ast.Name) or (o.name != "_" and self.register(o.name) is None):
            what = o.name if isinstance(o, ast.Name) else "this operand"
            raise self.wrong(f"{what} is no register that can be written")
        return o.name

    def value_destination(self, o: ast.Operand) -> str:
        name = self.destination(o)
        if name != "_" and self.register(name) == "pred":
            raise self.wrong(f"{name} is a predicate and cannot hold a value")
        return name

    def value(self, o: ast.Operand, kind: str) -> tuple[Src, ...]:
        """A source of any type, as its words."""
        if width(kind) == 64:
            return self.double(o, kind)
        return (self.word(o, kind),)

    def set_value(self, o: ast.Operand, words: tuple[Src, ...]) -> None:
        if len(words) == 2:
            self.set_double(o, (words[0], words[1]))
        else:
            self.set_word(o, words[0])

    # ---- narrow integers

    def extend(self, s: Src, kind: str) -> Src:
        """A narrow integer with defined high bits, by its type's sign."""
        bits = width(kind)
        if bits >= 32:
            return s
        if kind[0] == "s":
            if isinstance(s, Imm):
                return self.builder.bfe(s, 0, bits, True)
            inst = self.builder.maker(s, "LD", "LDS", "LDL", "LDC", "BFE")
            if inst and (
                inst.mods.get("size") == f"S{bits}" or (inst.op != "BFE" and inst.mods.get("size") == "S8")
            ):
                return s
            if self.zero_above(s) < bits:
                return s
            return self.builder.bfe(s, 0, bits, True)
        if self.zero_above(s) <= bits:
            return s
        return self.builder.lop("AND", s, Imm((1 << bits) - 1))

    def zero_above(self, s: Src, depth: int = 4) -> int:
        """A bit position from which on all bits of a word are known to be 0 (32 if nothing is known)."""
        if isinstance(s, Imm):
            return s.value.bit_length()
        inst = self.builder.maker(s, "LD", "LDS", "LDL", "LDC", "BFE", "LOP", "SEL", "SHR", "I2I")
        if inst is None or depth == 0:
            return 32
        if inst.op.startswith("LD"):
            return {"U8": 8, "U16": 16}.get(str(inst.mods.get("size")), 32)
        if inst.op == "BFE" and isinstance(inst.srcs[1], Imm) and inst.mods.get("type") == "U32":
            return min(32, inst.srcs[1].value >> 8 & 0xFF)
        if inst.op == "LOP" and not any(inst.smods):
            a, b = (self.zero_above(x, depth - 1) for x in inst.srcs)
            return min(a, b) if inst.mods["op"] == "AND" else max(a, b) if inst.mods["op"] != "PASS_B" else 32
        if inst.op == "SEL":
            return max(self.zero_above(x, depth - 1) for x in inst.srcs[:2])
        if inst.op == "SHR" and isinstance(inst.srcs[1], Imm) and inst.mods.get("type") == "U32":
            return max(0, self.zero_above(inst.srcs[0], depth - 1) - inst.srcs[1].value)
        return 32

    # ---- symbols and special registers

    def special_or_symbol(self, o: ast.Name, kind: str) -> Pair:
        from gpuvm.compiler.lower import special

        found = special.read(self, o.name, kind)
        if found is not None:
            return found
        lo, hi, offset = self.symbol(o.name)
        offset += o.offset
        if offset:
            return self.builder.add64((lo, hi), (Imm(offset & MASK), Imm(offset >> 32 & MASK)))
        return lo, hi

    def symbol(self, name: str) -> tuple[Src, Src, int]:
        """Address of a variable in its own space: words of the base and a constant offset."""
        if name in self.local:
            return self.frame_address(self.local[name])
        if name in self.shared:
            return Imm(self.shared[name]), ZERO, 0
        if name in self.parameters:
            return Imm(PARAMETER_BASE + self.parameters[name]), ZERO, 0
        if name in self.body.variables:
            return self.parameter_address(name)
        s = self.layout.symbols.get(name)
        if s is not None:
            if s.space == "dynamic":
                self.used_dynamic = True
                return Imm(self.dynamic_shared), ZERO, 0
            if s.space == "shared":
                self.used_shared.add(name)
                return Imm(s.offset), ZERO, 0
            if not s.defined:
                raise CompileError(f"{name} is declared and not defined in this module", self.line, "link")
            if s.space == "const":
                return Imm(s.offset), ZERO, 0
            at = self.layout.address(name)
            return CB(ADDRESS_BANK, at), CB(ADDRESS_BANK, at + 4) if self.wide_address else ZERO, 0
        f = self.layout.functions.get(name)
        if f is not None:
            at = self.layout.address(name)
            self.fn.indirect = True
            return CB(ADDRESS_BANK, at), CB(ADDRESS_BANK, at + 4) if self.wide_address else ZERO, 0
        raise self.wrong(f"{name} is not declared")

    def frame_address(self, offset: int) -> tuple[Src, Src, int]:
        """Local address of a byte of this function's frame."""
        if self.function.entry and not self.fn.uses_stack:
            return Imm(offset), ZERO, 0
        if self.fn.uses_stack:
            base = self.builder.one("LOCALBASE", [])
            return base, ZERO, offset
        return SymbolWord("$frame", "lo", offset), ZERO, 0

    def parameter_address(self, name: str) -> tuple[Src, Src, int]:
        from gpuvm.compiler.lower import calls

        return calls.parameter_address(self, name)

    # ---- helpers for handlers

    def need(self, i: ast.Instr, count: int) -> tuple[ast.Operand, ...]:
        if len(i.args) != count:
            raise CompileError(f"{i.text} takes {count} operands, not {len(i.args)}", i.line)
        return i.args

    def kind(self, i: ast.Instr, allowed: str) -> str:
        """The instruction's type: its last dotted part, which must be one of `allowed`."""
        t = i.mods[-1] if i.mods else ""
        if t not in allowed.split():
            if t in ("f16", "f16x2", "bf16", "bf16x2", "u16x2", "s16x2", "e4m3x2", "e5m2x2", "tf32"):
                raise unsupported(
                    i.text, i.line, f"the chip has no {t} arithmetic; compute in f32 or 32-bit integers"
                )
            raise CompileError(f"{i.text}: the type must be one of {allowed}", i.line)
        return t


def _stem(var: str) -> str:
    """The register or parameter that a one-word variable is part of."""
    return var.partition(HIGH)[0].partition("#")[0].partition(".")[0]


def _targets(item: Item) -> Iterator[str]:
    """Stems of what an instruction may write; more than that does no harm."""
    if isinstance(item, Select):
        yield _stem(item.var)
    elif isinstance(item, Copy):
        yield _stem(item.target)
    elif isinstance(item, ast.Call):
        yield from map(_stem, item.returns)
    else:
        yield _stem(CARRY)
        for o in item.args[: 2 if item.op == "_ldslk" else 1]:
            if isinstance(o, ast.Name):
                yield _stem(o.name)
            elif isinstance(o, ast.Pair):
                yield from (_stem(o.first), _stem(o.second))
            elif isinstance(o, ast.Vector):
                yield from (_stem(x.name) for x in o.items if isinstance(x, ast.Name))
            elif isinstance(o, ast.Address) and o.base is not None and "param" in item.mods:
                yield _stem(o.base)


def refuse(reason: str) -> Handler:
    """A handler that names what the chip cannot do."""

    def handler(low: Lowering, i: ast.Instr) -> None:
        raise unsupported(i.text, i.line, reason)

    return handler


__all__ = [
    "FALSE",
    "HANDLERS",
    "HIGH",
    "Any",
    "Inst",
    "Lowering",
    "NotP",
    "PredConst",
    "Value",
    "handles",
    "refuse",
    "width",
]

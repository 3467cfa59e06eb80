"""Allocated blocks to lines of machine code: pseudo operations expand, branches and the reconvergence stack
are laid out.

A line is an instruction whose target is still a label and whose local addresses are still relative to the
function's frame; `link` makes words of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.compiler.finish import guardable
from gpuvm.compiler.graph import DominatorTree, natural_loops, predecessors, reverse_postorder
from gpuvm.compiler.mir import (
    ABS,
    CB,
    INV,
    NEG,
    ZERO,
    Fn,
    Inst,
    Mod,
    NotP,
    PredConst,
    Src,
    SymbolWord,
    Value,
)
from gpuvm.compiler.mir import Imm as RawImm
from gpuvm.compiler.ops import OPS, fits_immediate
from gpuvm.compiler.reconverge import Plan, plan
from gpuvm.isa.instruction import PT, RZ, Const, Imm, Mem, Operand, Pred, Reg, Special
from gpuvm.isa.special import SPECIAL_NUMBERS

STACK_POINTER = 1
TAIL = 5
"""Most instructions of a loop's way out that are guarded instead of branched to."""
TRUE_PRED = Pred(PT)


@dataclass(slots=True)
class Line:
    """One instruction to be.

    Attributes
    ----------
    label : int or str or None
        Branch target: a label of the function, or the name of a called function.
    frame : str
        "" or the function whose frame the local address (or immediate) is relative to.
    """

    name: str
    dst: tuple[Operand, ...] = ()
    src: tuple[Operand, ...] = ()
    mods: dict[str, Mod] = field(default_factory=dict)
    guard: Pred = TRUE_PRED
    sync: bool = False
    label: int | str | None = None
    frame: str = ""
    line: int = 0


@dataclass(slots=True)
class Code:
    """A function's lines and where its labels are (line numbers)."""

    name: str
    lines: list[Line]
    labels: dict[int, int]
    registers: int
    general_mask: int
    predicate_mask: int
    local_size: int
    barriers: int
    calls: list[str]
    uses_stack: bool
    pushes: int = 0
    """SSY and PBK in the code: no more of its entries are on the reconvergence stack at once."""
    spill_stores: int = 0
    spill_loads: int = 0
    constants: bytes = b""


class Emitter:
    def __init__(self, fn: Fn, assignment: dict[Value, int], stack: bool) -> None:
        self.fn = fn
        self.assignment = assignment
        self.stack = stack
        self.lines: list[Line] = []
        self.labels: dict[int, int] = {}
        self.general = 0
        self.spills = [0, 0]
        self.predicates = 0
        self.frame_size = fn.local_size + 15 & ~15
        self.plan: Plan = plan(fn)

    # ---- operands

    def register(self, s: Src, count: int = 1, mods: int = 0) -> Reg:
        if s == ZERO:
            return Reg(RZ, count, bool(mods & NEG), bool(mods & ABS), bool(mods & INV))
        if isinstance(s, tuple):
            s = s[0]
        assert isinstance(s, Value), s
        n = self.assignment.get(s, RZ)
        if n != RZ:
            self.general |= (1 << count) - 1 << n
        return Reg(n, count, bool(mods & NEG), bool(mods & ABS), bool(mods & INV))

    def predicate(self, s: Src) -> Pred:
        if isinstance(s, PredConst):
            return Pred(PT, not s.value)
        if isinstance(s, NotP):
            return Pred(self.predicate(s.value).index, True)
        assert isinstance(s, Value)
        n = self.assignment.get(s, PT)
        if n != PT:
            self.predicates |= 1 << n
        return Pred(n)

    def operand(self, s: Src, mods: int = 0, count: int = 1) -> Operand:
        if isinstance(s, PredConst | NotP) or (isinstance(s, Value) and s.kind == "p"):
            return self.predicate(s)
        neg, absolute, inv = bool(mods & NEG), bool(mods & ABS), bool(mods & INV)
        if isinstance(s, CB):
            return Const(s.bank, s.offset, neg, absolute, inv)
        if isinstance(s, RawImm) and s.value != 0:
            return Imm(s.value, neg, absolute, inv)
        if isinstance(s, tuple):
            return self.register(s, len(s), mods)
        return self.register(s, count, mods)

    def guard(self, inst: Inst) -> Pred:
        if inst.guard is None:
            return TRUE_PRED
        p = self.predicate(inst.guard)
        return Pred(p.index, inst.guard_not)

    def put(self, line: Line) -> Line:
        self.lines.append(line)
        return line

    # ---- instructions

    def instruction(self, inst: Inst) -> None:
        start = len(self.lines)
        handler = _SPECIAL.get(inst.op)
        if handler is not None:
            handler(self, inst)
        else:
            self.plain(inst)
        guard = self.guard(inst)
        for line in self.lines[start:]:
            line.guard = guard
            line.line = inst.line

    def destination(self, inst: Inst) -> tuple[Operand, ...]:
        out: list[Operand] = []
        for d in inst.dsts:
            if isinstance(d, tuple):
                out.append(self.register(d, len(d)))
            elif d.kind == "p":
                out.append(self.predicate(d))
            else:
                out.append(self.register(d))
        return tuple(out)

    def plain(self, inst: Inst) -> None:
        op = OPS[inst.op]
        name = inst.op
        mods = dict(inst.mods)
        mods.pop("float", None)
        double = op.imm_kind == "d"
        srcs: list[Operand] = []
        for k, (s, m) in enumerate(zip(inst.srcs, inst.smods, strict=True)):
            if isinstance(s, RawImm) and s.value == 0 and double:
                srcs.append(Reg(RZ, 2, bool(m & NEG), bool(m & ABS)))
                continue
            srcs.append(self.operand(s, m))
            if isinstance(s, RawImm) and s.value and k in op.imm and not fits_immediate(op.imm_kind, s.value):
                name = op.long
                if name in ("FADD32I", "FMUL32I"):
                    mods.pop("rnd", None)
        if name == "ISCADD":
            shift = inst.srcs[2]
            assert isinstance(shift, RawImm)
            srcs[2] = Imm(shift.value)
        dst = self.destination(inst)
        if name in ("ISETP", "FSETP", "DSETP", "PSETP"):
            dst = (*dst, Pred(PT))
        self.put(Line(name, dst, tuple(srcs), mods))

    def move(self, inst: Inst) -> None:
        d = inst.dsts[0]
        assert isinstance(d, Value)
        s = inst.srcs[0]
        dst = (self.register(d),)
        if isinstance(s, SymbolWord):
            self.put(Line("MOV32I", dst, (Imm(s.addend),), {}, frame=self.fn.name))
        elif isinstance(s, RawImm) and not fits_immediate("i", s.value):
            self.put(Line("MOV32I", dst, (Imm(s.value),)))
        else:
            self.put(Line("MOV", dst, (self.operand(s),)))

    def move_predicate(self, inst: Inst) -> None:
        d = inst.dsts[0]
        assert isinstance(d, Value)
        self.put(
            Line(
                "PSETP", (self.predicate(d), TRUE_PRED), (self.predicate(inst.srcs[0]), TRUE_PRED, TRUE_PRED)
            )
        )

    def special_register(self, inst: Inst) -> None:
        name = str(inst.mods["special"])
        self.put(Line("S2R", self.destination(inst), (Special(SPECIAL_NUMBERS[name], name),)))

    def local_base(self, inst: Inst) -> None:
        self.put(Line("MOV", self.destination(inst), (Reg(STACK_POINTER),)))

    def memory(self, inst: Inst) -> None:
        mods = dict(inst.mods)
        offset = int(mods.pop("off"))
        bank = int(mods.pop("bank", 0))
        spill = mods.pop("spill", False)
        framed = mods.pop("frame", False)
        callee = str(mods.pop("callee", ""))
        space = {
            "LDL": "local",
            "STL": "local",
            "LDS": "shared",
            "STS": "shared",
            "LDSLK": "shared",
            "STSUL": "shared",
            "LDC": "const",
        }.get(inst.op, "generic")
        base = inst.srcs[0]
        wide = bool(mods.get("e"))
        register = self.register(base, 2 if wide else 1)
        frame = ""
        if spill:
            self.spills[inst.op == "LDL"] += 1
        if spill or framed:
            if self.fn.uses_stack:
                register = Reg(STACK_POINTER)
            else:
                frame = self.fn.name
        elif callee:
            frame = "argument of " + callee
        mem = Mem(space, register, offset, bank)
        data = []
        for s in inst.srcs[1:]:
            data.append(self.operand(s))
        if inst.op == "ATOM" and mods.get("op") == "CAS":
            pair = inst.srcs[1]
            assert isinstance(pair, tuple)
            half = len(pair) // 2
            data = [self.register(pair[:half], half), self.register(pair[half:], half)]
        dst = self.destination(inst)
        if inst.op == "LDSLK":
            dst = (dst[0], dst[1])
        self.put(Line(inst.op, dst, (mem, *data), mods, frame=frame))

    def add64(self, inst: Inst) -> None:
        alo, ahi, blo, bhi = inst.srcs
        lo, hi = inst.dsts
        sub = NEG if inst.mods.get("sub") else 0
        self.word_add(lo, alo, blo, sub, {"cc": True})
        self.word_add(hi, ahi, bhi, sub, {"x": True})

    def word_add(self, d: object, a: Src, b: Src, neg: int, mods: dict[str, Mod]) -> None:
        if not neg and isinstance(a, RawImm | CB) and a != ZERO:
            a, b = b, a
        name = "IADD32I" if isinstance(b, RawImm) and not fits_immediate("i", b.value) else "IADD"
        if isinstance(b, RawImm) and neg and b.value:
            # a - constant with carry: the constant's complement would need the carry too; keep the chip's own
            # negation
            assert fits_immediate("i", b.value)
        dst = self.register(d) if isinstance(d, Value) else Reg(RZ)
        self.put(Line(name, (dst,), (self.operand(a), self.operand(b, neg)), dict(mods)))

    def mad64(self, inst: Inst) -> None:
        a, b, clo, chi = inst.srcs
        lo, hi = inst.dsts
        kind = inst.mods["atype"]
        types: dict[str, Mod] = {"atype": kind, "btype": kind}
        ra, rb = self.operand(a), self.operand(b)
        assert isinstance(lo, Value)
        assert isinstance(hi, Value)
        if clo == ZERO and chi == ZERO:
            self.put(Line("IMUL", (self.register(lo),), (ra, rb), dict(types)))
            self.put(Line("IMUL", (self.register(hi),), (ra, rb), {**types, "hi": True}))
            return
        self.put(Line("IMAD", (self.register(lo),), (ra, rb, self.operand(clo)), {**types, "cc": True}))
        self.put(
            Line("IMAD", (self.register(hi),), (ra, rb, self.operand(chi)), {**types, "hi": True, "x": True})
        )

    def addc(self, inst: Inst) -> None:
        a, b, carry = inst.srcs
        d, out = inst.dsts
        mods: dict[str, Mod] = {"cc": True}
        if carry != ZERO:
            # carry + 0xffffffff carries out exactly if carry is 1
            self.word_add(None, carry, RawImm(0xFFFFFFFF), 0, {"cc": True})
            mods["x"] = True
        self.word_add(d, a, b, 0, mods)
        assert isinstance(out, Value)
        if out in self.assignment:
            self.word_add(out, ZERO, ZERO, 0, {"x": True})

    def barrier(self, inst: Inst) -> None:
        which, count, *rest = inst.srcs
        src: list[Operand] = [
            Imm(s.value) if isinstance(s, RawImm) else self.register(s) for s in (which, count)
        ]
        if inst.op == "BARRED":
            self.put(
                Line(
                    "BAR",
                    self.destination(inst),
                    (*src, self.predicate(rest[0])),
                    {"mode": "RED", **inst.mods},
                )
            )
        else:
            self.put(Line("BAR", (), tuple(src), dict(inst.mods)))

    def call(self, inst: Inst) -> None:
        self.put(Line("CAL", label=str(inst.target)))

    def breakpoint(self, inst: Inst) -> None:
        self.put(Line("BPT", (), (Imm(0),), dict(inst.mods)))

    def nothing(self, inst: Inst) -> None:
        """ENTER and LEAVE only tell the allocator where fixed registers begin and end."""

    # ---- control flow

    def run(self) -> Code:
        fn = self.fn
        order = self.layout()
        self.find_tails(order)
        order = [n for n in order if n not in self.inlined]
        following = {n: order[k + 1] if k + 1 < len(order) else -1 for k, n in enumerate(order)}
        joins = {t for _, t in self.plan.pops}
        joins |= {t for pushes in self.plan.pushes.values() for _, t, through in pushes if through}
        if self.stack and fn.entry:
            self.put(Line("MOV", (Reg(STACK_POINTER),), (Const(1, 0x100),)))
        if fn.uses_stack and self.frame_size:
            self.adjust_stack(-self.frame_size)
        for n in order:
            if n in joins:
                self.labels[trampoline(n)] = len(self.lines)
                previous = self.lines[-1] if self.lines else None
                self.put(Line("NOP", sync=True))
                if (
                    previous is not None
                    and previous.name == "NOP"
                    and previous.sync
                    and previous.label is None
                ):
                    pass
            self.labels[n] = len(self.lines)
            b = fn.blocks[n]
            for inst in b.insts:
                self.instruction(inst)
            for kind, target, through in self.plan.pushes.get(n, ()):
                self.put(Line(kind, label=trampoline(target) if through else target))
            self.end(n, following[n], joins)
        return Code(
            fn.name,
            self.lines,
            self.labels,
            max(self.general.bit_length(), 2 if self.stack else 1),
            self.general,
            self.predicates,
            self.frame_size,
            fn.barriers,
            list(dict.fromkeys(fn.calls)),
            fn.uses_stack,
            pushes=sum(map(len, self.plan.pushes.values())),
            spill_stores=self.spills[0],
            spill_loads=self.spills[1],
            constants=bytes(fn.constants),
        )

    def adjust_stack(self, by: int) -> None:
        name = "IADD" if fits_immediate("i", by & 0xFFFFFFFF) else "IADD32I"
        self.put(Line(name, (Reg(STACK_POINTER),), (Reg(STACK_POINTER), Imm(by & 0xFFFFFFFF))))

    def layout(self) -> list[int]:
        """Reverse postorder that keeps loops together: ways out of a loop come after its body."""
        fn = self.fn
        succs = fn.successors()
        depth = [0] * len(succs)
        for loop in natural_loops(succs, DominatorTree(succs, 0)):
            for n in loop.blocks:
                depth[n] = max(depth[n], loop.depth)
        ordered = [sorted(range(len(s)), key=lambda k, s=s: (depth[s[k]], k)) for s in succs]  # type: ignore[misc]
        follow = [[succs[n][k] for k in ordered[n]] for n in range(len(succs))]
        return reverse_postorder(follow, 0)

    def end(self, n: int, following: int, joins: set[int]) -> None:
        t = self.fn.blocks[n].term
        if t.kind == "exit":
            self.put(Line("EXIT"))
        elif t.kind == "trap":
            self.put(Line("BPT", (), (Imm(0),), {"mode": "TRAP"}))
            self.put(Line("EXIT"))
        elif t.kind == "ret":
            if self.fn.uses_stack and self.frame_size:
                self.adjust_stack(self.frame_size)
            self.put(Line("RET"))
        elif t.kind == "jump":
            self.jump(n, t.targets[0], following, joins)
        else:
            self.branch(n, following, joins)

    def fall(self, n: int, to: int, following: int, joins: set[int]) -> bool:
        """Whether the way from block n to block `to` needs no branch because it is next."""
        if to != following or (n, to) in self.plan.breaks:
            return False
        return ((n, to) in self.plan.pops) == (to in joins)

    def jump(self, n: int, to: int, following: int, joins: set[int]) -> None:
        if (n, to) in self.plan.breaks:
            self.put(Line("BRK"))
        elif self.fall(n, to, following, joins):
            return
        elif (n, to) in self.plan.pops:
            self.put(Line("NOP", sync=True))
        else:
            self.put(Line("BRA", label=to))

    def find_tails(self, order: list[int]) -> None:
        """Short blocks on the way out of a loop, which become guarded instructions and a guarded BRK."""
        fn = self.fn
        self.inlined: set[int] = set()
        preds = predecessors(fn.successors(), order)
        for n in order:
            t = fn.blocks[n].term
            if t.kind != "branch" or t.pred is None or isinstance(t.pred, PredConst):
                continue
            register = self.predicate(t.pred).index
            for side in t.targets:
                s = fn.blocks[side]
                if (
                    (n, side) not in self.plan.breaks
                    and len(preds[side]) == 1
                    and side not in self.plan.pushes
                    and s.term.kind == "jump"
                    and (side, s.term.targets[0]) in self.plan.breaks
                    and t.targets[0] != t.targets[1]
                    and guardable(s, self.assignment, register, TAIL)
                    and not self.inlined & set(t.targets)
                ):
                    self.inlined.add(side)

    def branch(self, n: int, following: int, joins: set[int]) -> None:
        t = self.fn.blocks[n].term
        assert t.pred is not None
        p = self.predicate(t.pred)
        yes, no = t.targets
        if no in self.inlined:
            yes, no, p = no, yes, Pred(p.index, not p.inv)
        if yes in self.inlined:
            start = len(self.lines)
            for inst in self.fn.blocks[yes].insts:
                self.instruction(inst)
            self.put(Line("BRK", line=t.line))
            for line in self.lines[start:]:
                line.guard = p
            self.jump(n, no, following, joins)
            return
        breaks = [(n, x) in self.plan.breaks for x in (yes, no)]
        if (breaks[1] and not breaks[0]) or (not breaks[0] and self.fall(n, yes, following, joins)):
            yes, no, p = no, yes, Pred(p.index, not p.inv)
        if (n, yes) in self.plan.breaks:
            self.put(Line("BRK", guard=p, line=t.line))
        else:
            label = trampoline(yes) if (n, yes) in self.plan.pops else yes
            self.put(Line("BRA", guard=p, label=label, line=t.line))
        self.jump(n, no, following, joins)


def trampoline(n: int) -> int:
    """Label of the `NOP.S` in front of a block."""
    return -n - 1


_SPECIAL = {
    "MOV": Emitter.move,
    "COPY": Emitter.move,
    "PMOV": Emitter.move_predicate,
    "S2R": Emitter.special_register,
    "CLOCK": Emitter.special_register,
    "LOCALBASE": Emitter.local_base,
    **dict.fromkeys(
        ("LD", "ST", "LDL", "STL", "LDS", "STS", "LDC", "LDSLK", "STSUL", "ATOM", "RED"), Emitter.memory
    ),
    "ADD64": Emitter.add64,
    "MAD64": Emitter.mad64,
    "ADDC": Emitter.addc,
    "BAR": Emitter.barrier,
    "BARRED": Emitter.barrier,
    "CAL": Emitter.call,
    "BPT": Emitter.breakpoint,
    "ENTER": Emitter.nothing,
    "LEAVE": Emitter.nothing,
}


def emit(fn: Fn, assignment: dict[Value, int], stack: bool) -> Code:
    """Lines of one function.

    Parameters
    ----------
    stack : bool
        Whether R1 is the stack pointer in this module.
    """
    return Emitter(fn, assignment, stack).run()

"""The fast translator: structured code becomes real control flow with lane masks, registers become SSA
values.

Facts about every node (which registers are uniform, affine or vectors; whether all lanes are active; which
lanes may
wait where) are found by translating nodes until nothing changes; the last translation of each is the code. A
write
keeps the old value of inactive lanes only where lanes that wait still need it.

Divergence: at a branch on which lanes disagree, those that fall through wait (in a mask of their own) and the
others
go on; the waiting ones run when those reach the reconvergence point, or meet them there first (loop exits).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from gpuvm.isa.instruction import Instruction, Mem, Pred, Reg
from gpuvm.jit import layout as at
from gpuvm.jit.classes import Class, PClass, Variables, classify, meet, pair_shape, pclassify, plain, pmeet
from gpuvm.jit.discover import BRANCHES, CALLS, LEAVES, PUSHES, Program, target_of
from gpuvm.jit.emit import FALSE, TRUE, Emitter, Flags, PVal, Shape, Val, Wide
from gpuvm.jit.flow import (
    ALL,
    FLAGS_BIT,
    LEAVE_KIND,
    PRED_BIT,
    PUSH_KIND,
    Block,
    Flow,
    Node,
    Stack,
    build,
    find_kind,
    loop_nodes,
)
from gpuvm.jit.general import Counting, barrier_operand, check_registers, highest_register, reduced
from gpuvm.jit.helpers import SIGNATURES
from gpuvm.jit.kernel import Frame, Mix, Shapes, counter, initial_mask, poll, prologue
from gpuvm.jit.launch import ErrorKind
from gpuvm.jit.machine import Limits, Untranslatable, mod_text
from gpuvm.jit.ops import OPERATIONS
from gpuvm.jit.ops_integer import condition

ACTIVE_SHARE = 0.35
"""Of a divergent warp's lanes, how many are taken to be active."""
LANE_BOUND = frozenset(
    {"VOTE", "BAR", "FSWZADD", "LDS", "STS", "LDSLK", "STSUL", "LDL", "STL", "ATOM", "RED", "LDLK", "STUL"}
)
"""Operations by which the lanes of a warp may see each other; a kernel without them may run thread by
thread."""

STORES = frozenset({"ST", "STS", "STL", "RED"})

Key = tuple[int, Stack, bool]
"""A node's version: pc, stack, all lanes known to be active."""
Pending = tuple[int, Stack]
"""Lanes that wait to run from a pc since they diverged under a stack."""


@dataclass(frozen=True)
class Facts:
    """What is known at the start of a node, the registers' classes aside."""

    full: bool
    waiting: tuple[bool, ...] = ()
    """For each stack entry: lanes may wait at its target."""
    entry_full: tuple[bool, ...] = ()
    """For each stack entry: its mask is known to be all lanes."""
    pending: frozenset[Pending] = frozenset()


def merge_facts(a: Facts | None, b: Facts) -> Facts:
    if a is None:
        return b
    return Facts(
        a.full and b.full,
        tuple(p or q for p, q in zip(a.waiting, b.waiting, strict=True)),
        tuple(p and q for p, q in zip(a.entry_full, b.entry_full, strict=True)),
        a.pending | b.pending,
    )


Classes = tuple[tuple[Class | None, ...], tuple[PClass | None, ...], bool]
"""Registers, predicates, and whether the condition code holds something."""


@dataclass
class Edge:
    label: str
    target: Key
    facts: Facts
    source: StructuredMachine
    classes: Classes
    resume: bool = False


@dataclass
class Translated:
    """One translation of a node: its text and where it leads."""

    text: list[str]
    edges: list[Edge]
    mix: Mix
    shapes: Shapes


@dataclass
class State:
    facts: Facts
    regs: list[Class | None] = field(default_factory=lambda: [None] * 63)
    preds: list[PClass | None] = field(default_factory=lambda: [None] * 7)
    flags: bool = False
    done: Translated | None = None


class StructuredMachine(Counting):
    """Registers in slots between nodes, in Python names inside."""

    def __init__(self, owner: Structured, state: State, blended: int) -> None:
        super().__init__(owner.em, owner.shape, owner.limits, owner.frame)
        self.owner = owner
        self.entry = state
        self.entry_regs = list(state.regs)
        self.entry_preds = list(state.preds)
        self.blended = blended
        self.pairs: dict[int, tuple[Val, Val]] = {}
        self.kept = ALL

    def load_reg(self, index: int) -> Val:
        return self.owner.load_reg(self.entry_regs, index, self.pairs)

    def load_pred(self, index: int) -> PVal:
        c = self.entry_preds[index]
        return FALSE if c is None else self.owner.variables.pload(f"p{index}", c)

    def load_flags(self) -> Flags:
        if not self.entry.flags:
            return Flags([lambda: FALSE] * 4)
        got = [PVal("v", bits=self.owner.read_mask(f"c{n}")) for n in range(4)]
        return Flags([lambda n=n: got[n] for n in range(4)])  # type: ignore[misc]

    def blend_reg(self, index: int) -> bool:
        return self.active is not TRUE and bool(self.blended >> index & 1)

    def blend_pred(self, index: int) -> bool:
        return self.active is not TRUE and bool(self.blended >> PRED_BIT + index & 1)

    def blend_flags(self) -> bool:
        return self.active is not TRUE and bool(self.blended >> FLAGS_BIT & 1)

    def mask_for(self, blend: bool, kept: bool) -> PVal:
        """Lanes that a write must be confined to: the guard's only if others look at the old value."""
        if not blend:
            return self.guard if kept else TRUE
        return self.em.pbin("and", self.guard, self.active)

    def reg_mask(self, index: int) -> PVal:
        return self.mask_for(self.blend_reg(index), bool(self.kept >> index & 1))

    def pred_mask(self, index: int) -> PVal:
        return self.mask_for(self.blend_pred(index), bool(self.kept >> PRED_BIT + index & 1))

    def flags_mask(self) -> PVal:
        return self.mask_for(self.blend_flags(), bool(self.kept >> FLAGS_BIT & 1))

    def put_wide(self, index: int, value: Wide) -> None:
        """A masked write of a pair selects 64-bit lanes, so that the pair stays one."""
        if index >= 63:
            return
        blend = self.blend_reg(index) or self.blend_reg(index + 1)
        when = self.mask_for(blend, bool(self.kept >> index & 3))
        if when is TRUE or when.k == "u":
            super().put_wide(index, value)
            return
        em = self.em
        old = self.join(self.get(index), self.get(index + 1))
        rows = zip(em.punits(when), em.wide_lanes(value), em.wide_lanes(old), strict=True)
        lanes = [em.op(f"select {em.vb} {c}, {em.vl} {x}, {em.vl} {y}") for c, x, y in rows]
        from gpuvm.jit.ops_float import lanes_wide

        lo, hi = em.wide_halves(lanes_wide(self, lanes))
        self.regs[index], self.regs[index + 1] = lo, hi
        self.dirty.update((index, index + 1))


class Structured:
    """Translates a program into `@warp`, if its control flow allows."""

    def __init__(
        self, program: Program, shape: Shape, limits: Limits, avx512: bool, max_nodes: int = 3000
    ) -> None:
        self.program = program
        self.shape = shape
        self.limits = limits
        self.em = Emitter(shape, avx512)
        self.frame = Frame(shape)
        self.frame.mixes.append(Mix(-1))
        self.variables = Variables(self.em)
        self.flow: Flow = build(program, max_nodes, min(limits.stack_entries, 24))
        self.states: dict[Key, State] = {}
        self.labels: dict[Key, str] = {}
        self.numbers: dict[object, int] = {}
        self.resumes: dict[Key, int] = {}
        self.frame.barriers = any(
            ins is not None and ins.name == "BAR"
            for block in self.flow.blocks.values()
            for _, ins in block.instructions
        )
        self.order = {node: n for n, node in enumerate(self.flow.blocks)}
        self.m: StructuredMachine
        self.facts: Facts
        self.edges: list[Edge] = []

    # Names

    def number(self, thing: object) -> int:
        return self.numbers.setdefault(thing, len(self.numbers))

    def label(self, key: Key) -> str:
        if key not in self.labels:
            self.labels[key] = f"n{len(self.labels)}"
        return self.labels[key]

    def entry_slot(self, stack: Stack) -> str:
        """Slot of the mask of a stack's last entry."""
        return f"s{self.number(stack)}"

    def pending_slot(self, p: Pending) -> str:
        return f"d{self.number(p)}"

    def load_reg(self, regs: list[Class | None], index: int, pairs: dict[int, tuple[Val, Val]]) -> Val:
        c = regs[index]
        if c is None:
            return self.em.const(0)
        if c[0] != "w":
            return self.variables.load(f"r{index}", c)
        low = index - int(c[1] == 1)
        if low not in pairs:
            shape = c[2]
            assert isinstance(shape, tuple)
            pairs[low] = self.em.wide_halves(self.variables.load_pair(f"r{low}", shape))
        return pairs[low][index - low]

    # Facts

    def live_at(self, node: Node) -> int:
        return self.flow.live.get(node, ALL)

    def waiting_needs(self, facts: Facts, stack: Stack) -> int:
        """Registers that lanes which wait still need: inactive lanes' values of these must be kept."""
        needs = 0
        for pc, below in facts.pending:
            needs |= self.live_at((pc, below))
        for index, waits in enumerate(facts.waiting):
            if waits:
                needs |= self.live_at((stack[index][1], stack[:index]))
        return needs

    # The fixpoint

    def translate(self) -> tuple[Emitter, Frame]:
        em = self.em
        prologue(em, self.frame)
        head = em.out
        start: Key = (self.program.entry, (), self.shape.full)
        first = State(Facts(self.shape.full), [("k", 0)] * 63, ["f"] * 7)
        self.states[start] = first
        pending: set[Key] = {start}
        rounds = 0
        while pending:
            key = min(pending, key=lambda k: (self.order[k[:2]], not k[2]))
            pending.discard(key)
            rounds += 1
            if rounds > 40 * len(self.flow.blocks) + 400:
                raise RuntimeError("the analysis of a kernel must come to an end")
            state = self.states[key]
            state.done = self._node(key, state)
            for edge in state.done.edges:
                if self._reach(edge):
                    pending.add(edge.target)
        return self._assemble(head, start)

    def prefers_threads(self) -> bool:
        """Whether one thread at a time is likely faster: divergent code that mostly gathers and scatters.

        Counts for one warp, in vector operations: gathers cost by lane, lanes that left cost nothing one by
        one.
        """
        names = {
            ins.name
            for block in self.flow.blocks.values()
            for _, ins in block.instructions
            if ins is not None
        }
        if names & LANE_BOUND:
            return False
        gather, scatter = (24, 32) if self.em.avx512 else (48, 64)
        together = alone = 0.0
        depth: dict[Node, int] = {}
        for header in self.flow.headers:
            for node in loop_nodes(self.flow.blocks, header):
                depth[node] = depth.get(node, 0) + 1
        for key, state in self.states.items():
            if state.done is None or (not key[2] and (key[0], key[1], True) in self.states):
                continue
            weight = 8 ** min(depth.get(key[:2], 0), 3)
            shapes, count = state.done.shapes, state.done.mix.instructions
            plain = count - shapes.gathers - shapes.scatters
            together += weight * (
                plain * self.shape.units + shapes.gathers * gather + shapes.scatters * scatter
            )
            alone += weight * count * 32 * (1.0 if key[2] else ACTIVE_SHARE)
        return alone < together

    def _reach(self, edge: Edge) -> bool:
        """Merge an edge into its target; True if the target must be translated again."""
        state = self.states.get(edge.target)
        regs, preds, flags = edge.classes
        if state is None:
            self.states[edge.target] = State(edge.facts, list(regs), list(preds), flags)
            return True
        changed = False
        facts = merge_facts(state.facts, edge.facts)
        if facts != state.facts:
            state.facts = facts
            changed = True
        for n, c in enumerate(regs):
            new = meet(state.regs[n], c)
            if new != state.regs[n]:
                state.regs[n] = new
                changed = True
        # A pair of which one half fell apart is two words.
        for n in range(63):
            mine = state.regs[n]
            if mine is not None and mine[0] == "w":
                other = n + 1 if mine[1] == 0 else n - 1
                theirs = state.regs[other] if 0 <= other < 63 else None
                if theirs is None or theirs[0] != "w" or theirs[2] != mine[2] or theirs[1] == mine[1]:
                    state.regs[n] = plain(mine)
                    changed = True
        for n, p in enumerate(preds):
            q = pmeet(state.preds[n], p)
            if q != state.preds[n]:
                state.preds[n] = q
                changed = True
        if flags and not state.flags:
            state.flags = True
            changed = True
        return changed

    # One node

    def _node(self, key: Key, state: State) -> Translated:
        em = self.em
        pc, stack, full = key
        block = self.flow.blocks[(pc, stack)]
        em.out = []
        em.label = self.label(key)
        self.edges = []
        self.facts = replace(state.facts, full=full)
        self.stack = stack
        m = self.m = StructuredMachine(self, state, self.waiting_needs(self.facts, stack))
        m.mix = Mix(pc)
        m.active = TRUE if full else PVal("v", bits=self.variables.read("act", em.mi))
        self._run(block)
        em.locate(None)
        return Translated(em.out, self.edges, m.mix, m.shapes)

    def _run(self, block: Block) -> None:
        m, em = self.m, self.em
        for (pc, ins), kept in zip(block.instructions, block.kept, strict=True):
            m.pc = pc
            m.guard = TRUE
            m.kept = kept
            em.locate(pc)
            if ins is None:
                unreadable = pc in self.program.unreadable
                m.fail(ErrorKind.UNMAPPED if unreadable else ErrorKind.ILLEGAL_INSTRUCTION)
                return
            m.count_instruction(ins)
            if highest_register(ins) >= self.limits.registers:
                m.fail(ErrorKind.OUT_OF_RANGE_REGISTER)
                return
            try:
                if not check_registers(ins):
                    raise Untranslatable("register group")
                m.guard = m.get_pred(ins.guard)
                test = mod_text(ins, "test", "T")
                if test != "T" and ins.name not in ("CSET", "CSETP"):
                    m.guard = em.pbin("and", m.guard, condition(m, test))
                if self._instruction(ins):
                    return
            except Untranslatable:
                if m.guard is not TRUE:
                    # Only an error where a lane acts.
                    some = m.any_lane(m.mask())
                    m.guard = TRUE
                    if some is not False:
                        m.fail_if(em.i1(some), ErrorKind.ILLEGAL_INSTRUCTION)
                    continue
                m.fail(ErrorKind.ILLEGAL_INSTRUCTION)
                return
        last_pc, last = block.instructions[-1]
        assert last is not None
        self._jump(last_pc + last.size)

    def _instruction(self, ins: Instruction) -> bool:
        """Translate one instruction; True if it ended the node."""
        m, _em = self.m, self.em
        name = ins.name
        after = m.pc + ins.size
        if name in PUSHES:
            target = target_of(ins)
            assert target is not None
            self._push(PUSH_KIND[name], target)
            return False
        if name in CALLS:
            target = target_of(ins)
            assert target is not None
            if not ins.mods.get("noinc"):
                self._push("RET", after)
            self._jump(target)
            return True
        if name in BRANCHES:
            target = target_of(ins)
            assert target is not None
            self._branch(target, after, bool(ins.mods.get("u")))
            return True
        if name in LEAVES:
            self._leave(LEAVE_KIND.get(name), after)
            return True
        if name == "BAR":
            self._barrier(ins, after)
            return True
        if name == "BPT":
            if ins.mods.get("mode") == "TRAP":
                m.fail(ErrorKind.TRAP)
                return True
        elif name in STORES and m.guard.k == "u" and not isinstance(m.guard.x, bool):
            self._around(ins)
        elif name in OPERATIONS:
            OPERATIONS[name](m, ins)
        else:
            raise Untranslatable(name)
        if ins.sync:
            m.guard = m.get_pred(ins.guard) if ins.guard.index < 7 else (FALSE if ins.guard.inv else TRUE)
            self._join(after)
            return True
        return False

    def _around(self, ins: Instruction) -> None:
        """A store under a uniform guard: jump over it where the guard does not hold."""
        m, em = self.m, self.em
        guard = m.guard
        # Registers are read where everything after can see them.
        for op in ins.src:
            reg = op.base if isinstance(op, Mem) else op
            if isinstance(reg, Reg) and reg.index < 63:
                for n in range(reg.count):
                    m.get(reg.index + n)
        act, skip = em.new_label("act"), em.new_label("skip")
        em.do(f"br i1 {guard.x}, label %{act}, label %{skip}")
        em.place(act)
        em.cold += 1
        m.guard = TRUE
        OPERATIONS[ins.name](m, ins)
        m.guard = guard
        em.cold -= 1
        em.do(f"br label %{skip}")
        em.place(skip)

    # Masks

    def read_mask(self, slot: str) -> str:
        return self.variables.read(slot, self.em.mi)

    def write_mask(self, slot: str, value: str) -> None:
        self.variables.write(slot, self.em.mi, value)

    def active_bits(self) -> str:
        return self.em.bits(self.m.active)

    def _push(self, kind: str, target: int) -> None:
        self.stack = (*self.stack, (kind, target))
        self.write_mask(self.entry_slot(self.stack), self.active_bits())
        f = self.facts
        self.facts = replace(f, waiting=(*f.waiting, False), entry_full=(*f.entry_full, f.full))

    # Edges

    def edge(self, pc: int, stack: Stack, facts: Facts, resume: bool = False) -> str:
        """A label that leads to a node with these facts."""
        depth = len(stack)
        facts = replace(facts, waiting=facts.waiting[:depth], entry_full=facts.entry_full[:depth])
        key: Key = (pc, stack, facts.full)
        label = self.em.new_label("e")
        self.edges.append(Edge(label, key, facts, self.m, self._classes(), resume))
        self.label(key)
        return label

    def _classes(self) -> Classes:
        """Classes of everything as it is now."""
        m = self.m
        regs: list[Class | None] = list(m.entry_regs)
        for n in range(63):
            if n not in m.dirty:
                continue
            value = m.regs[n]
            assert value is not None
            regs[n] = classify(value)
        for n in range(0, 62, 2):
            if n not in m.dirty and n + 1 not in m.dirty:
                continue
            lo, hi = m.regs[n], m.regs[n + 1]
            shape = pair_shape(lo, hi) if lo is not None and hi is not None else None
            if shape is not None:
                regs[n], regs[n + 1] = ("w", 0, shape), ("w", 1, shape)
                m.dirty.update((n, n + 1))
            else:
                for k in (n, n + 1):
                    c = regs[k]
                    if c is not None and c[0] == "w":
                        regs[k] = plain(c)
        preds: list[PClass | None] = list(m.entry_preds)
        for n in range(7):
            if ("p", n) in m.dirty:
                p = m.preds[n]
                assert p is not None
                preds[n] = pclassify(p)
        return tuple(regs), tuple(preds), m.entry.flags or "cc" in m.dirty

    def _jump(self, pc: int) -> None:
        self.em.do(f"br label %{self.edge(pc, self.stack, self._absorbed(pc))}")

    def _absorbed(self, pc: int) -> Facts:
        """Go on at `pc`: lanes that wait for it join (one static place, whatever diverged there)."""
        p: Pending = (pc, self.stack)
        if p not in self.facts.pending:
            return self.facts
        em = self.em
        slot = self.pending_slot(p)
        self.write_mask("act", em.op(f"or {em.mi} {self.active_bits()}, {self.read_mask(slot)}"))
        self.write_mask(slot, "0")
        return replace(self.facts, full=False, pending=self.facts.pending - {p})

    def _test(self, p: bool | str | None, yes: Callable[[], None], no: Callable[[], None]) -> None:
        """Two ways on, each built under its own copy of the facts."""
        em = self.em
        if isinstance(p, bool) or p is None:
            (yes if p else no)()
            return
        a, b = em.new_label("y"), em.new_label("x")
        em.do(f"br i1 {p}, label %{a}, label %{b}")
        facts, stack, cold = self.facts, self.stack, em.cold
        em.cold += 1
        em.place(a)
        yes()
        self.facts, self.stack = facts, stack
        em.place(b)
        no()
        em.cold = cold

    def _branch(self, target: int, after: int, whole: bool) -> None:
        m, em = self.m, self.em
        p = m.guard
        if p.k == "u":
            self._test(p.x, lambda: self._jump(target), lambda: self._jump(after))
            return
        taken = em.bits(em.pbin("and", p, m.active))
        if whole:
            every = em.op(f"icmp eq {em.mi} {taken}, {self.active_bits()}")
            self._test(every, lambda: self._jump(target), lambda: self._jump(after))
            return
        here = self.active_bits()
        rest = em.op(f"xor {em.mi} {here}, {taken}")
        wait: Pending = (after, self.stack)
        slot = self.pending_slot(wait)
        some = em.op(f"icmp ne {em.mi} {taken}, 0")

        def split() -> None:
            old = self.read_mask(slot) if wait in self.facts.pending else "0"
            self.write_mask(slot, em.op(f"or {em.mi} {old}, {rest}"))
            self.write_mask("act", taken)
            self.facts = replace(self.facts, full=False, pending=self.facts.pending | {wait})
            self._go_on(target, taken)

        self._test(some, split, lambda: self._jump(after))

    def _go_on(self, pc: int, active: str) -> None:
        """Jump to `pc` when `act` holds `active`, absorbing lanes that wait there."""
        em = self.em
        p: Pending = (pc, self.stack)
        facts = self.facts
        if p in facts.pending:
            slot = self.pending_slot(p)
            self.write_mask("act", em.op(f"or {em.mi} {active}, {self.read_mask(slot)}"))
            self.write_mask(slot, "0")
            facts = replace(facts, pending=facts.pending - {p})
        em.do(f"br label %{self.edge(pc, self.stack, facts)}")

    def _leavers(self, lanes: str, then: Callable[[bool], None], after: int) -> None:
        """Lanes (a mask, subset of the active ones) leave the straight path: `then(all)` runs where none is
        left;
        the rest go on at `after`."""
        m, em = self.m, self.em
        p = m.guard
        if p is TRUE:
            then(True)
            return
        if p.k == "u":
            self._test(p.x, lambda: then(True), lambda: self._jump(after))
            return
        left = em.op(f"and {em.mi} {self.active_bits()}, {em.op(f'xor {em.mi} {lanes}, -1')}")
        some = em.op(f"icmp ne {em.mi} {left}, 0")

        def stay() -> None:
            self.write_mask("act", left)
            self.facts = replace(self.facts, full=False)
            self._go_on(after, left)

        self._test(some, stay, lambda: then(False))

    def _join(self, after: int) -> None:
        """.S: lanes wait at the innermost SSY's target."""
        m, em = self.m, self.em
        if m.guard is FALSE:
            self._jump(after)
            return
        if not self.stack or self.stack[-1][0] != "SSY":
            some = m.any_lane(m.mask())
            if some is True or m.guard is TRUE:
                m.fail(ErrorKind.STACK)
                return
            m.fail_if(em.i1(some), ErrorKind.STACK)
            self._jump(after)
            return
        lanes = em.bits(m.mask())
        if m.guard.k != "u":
            self._mark_waiting(len(self.stack) - 1)
        self._leavers(lanes, lambda _: self._resume_next(len(self.stack) - 1), after)

    def _mark_waiting(self, index: int) -> None:
        waiting = list(self.facts.waiting)
        waiting[index] = True
        self.facts = replace(self.facts, waiting=tuple(waiting))

    def _resume_next(self, certain: int) -> None:
        """No lane is active: run those that wait, innermost first. Stack entry `certain` is known to have
        some
        (-1: none is known to, and with none anywhere the group has ended)."""
        em = self.em
        stack, facts = self.stack, self.facts
        depth = len(stack)
        while True:
            here = sorted(p for p in facts.pending if p[1] == stack[:depth])
            for p in here:
                slot = self.pending_slot(p)
                mask = self.read_mask(slot)
                some = em.op(f"icmp ne {em.mi} {mask}, 0")
                go, on = em.new_label("g"), em.new_label("o")
                em.do(f"br i1 {some}, label %{go}, label %{on}")
                em.place(go)
                self.write_mask("act", mask)
                self.write_mask(slot, "0")
                waiting = list(facts.waiting[:depth])
                for index in range(depth):
                    # Whoever left to wait further down waits there now.
                    waiting[index] = waiting[index] or index == certain
                new = replace(facts, full=False, waiting=tuple(waiting), pending=facts.pending - {p})
                em.do(f"br label %{self.edge(p[0], stack[:depth], new)}")
                em.place(on)
                facts = replace(facts, pending=facts.pending - {p})
            if depth == 0:
                break
            depth -= 1
            slot = self.entry_slot(stack[: depth + 1])
            below = replace(facts, full=facts.entry_full[depth])
            if depth == certain:
                self.write_mask("act", "-1" if below.full else self.read_mask(slot))
                em.do(f"br label %{self._entry_edge(stack, depth, below)}")
                return
            if depth > certain and not facts.waiting[depth]:
                continue
            mask = self.read_mask(slot)
            some = em.op(f"icmp ne {em.mi} {mask}, 0")
            go, on = em.new_label("g"), em.new_label("o")
            em.do(f"br i1 {some}, label %{go}, label %{on}")
            em.place(go)
            self.write_mask("act", mask)
            em.do(f"br label %{self._entry_edge(stack, depth, replace(facts, full=False))}")
            em.place(on)
        self._ended()

    def _entry_edge(self, stack: Stack, depth: int, facts: Facts) -> str:
        return self.edge(stack[depth][1], stack[:depth], facts)

    def _ended(self) -> None:
        em = self.em
        if self.frame.barriers:
            em.do(
                f"store i32 2, ptr {em.op(f'getelementptr i8, ptr %state, i64 {at.STATE_STATUS}')}, align 4"
            )
        em.do("ret void")

    def _remove(self, lanes: str, first: int) -> None:
        """Take lanes out of the masks of stack entries `first` and above."""
        em = self.em
        if first >= len(self.stack):
            return
        keep = em.op(f"xor {em.mi} {lanes}, -1")
        entry_full = list(self.facts.entry_full)
        for index in range(first, len(self.stack)):
            slot = self.entry_slot(self.stack[: index + 1])
            self.write_mask(slot, em.op(f"and {em.mi} {self.read_mask(slot)}, {keep}"))
            entry_full[index] = False
        self.facts = replace(self.facts, entry_full=tuple(entry_full))

    def _leave(self, kind: str | None, after: int) -> None:
        """EXIT, or BRK, CONT, RET, LONGJMP to the innermost entry of `kind`."""
        m, em = self.m, self.em
        if m.guard is FALSE:
            self._jump(after)
            return
        where = find_kind(self.stack, kind) if kind else -1
        if kind is not None and where < 0:
            some = m.any_lane(m.mask())
            if m.guard is TRUE or some is True:
                m.fail(ErrorKind.STACK)
                return
            m.fail_if(em.i1(some), ErrorKind.STACK)
            self._jump(after)
            return
        lanes = em.bits(m.mask())
        uniform = m.guard.k == "u"
        if uniform and m.guard is not TRUE:
            # All or none: the masks change on one side only.
            self._test(m.guard.x, lambda: self._all_leave(lanes, where), lambda: self._jump(after))
            return
        if m.guard is TRUE:
            self._all_leave(lanes, where)
            return
        before = self.facts
        if not self.stack and before.full and not before.pending and m.guard.regular:
            # After a bounds check nearly always all lanes go on: it pays to know.
            nobody = em.op(f"icmp eq {em.mi} {lanes}, 0")
            self._test(nobody, lambda: self._jump(after), lambda: self._some_leave(lanes, where, after))
            return
        self._some_leave(lanes, where, after)

    def _some_leave(self, lanes: str, where: int, after: int) -> None:
        self._remove(lanes, where + 1)
        if where >= 0:
            self._mark_waiting(where)
        self._leavers(lanes, lambda _: self._resume_next(where), after)

    def _all_leave(self, lanes: str, where: int) -> None:
        """Every active lane leaves. Entries above the target hold others only if lanes wait or diverged below
        them."""
        _stack, facts = self.stack, self.facts
        first = where + 1
        if any(facts.waiting[first:]) or any(len(p[1]) >= first for p in facts.pending):
            self._remove(lanes, first)
        self._resume_next(where)

    # Barriers

    def _barrier(self, ins: Instruction, after: int) -> None:
        m, em = self.m, self.em
        number, count = barrier_operand(m, ins.src[0]), barrier_operand(m, ins.src[1])
        mode = mod_text(ins, "mode", "SYNC")
        mask = m.mask()
        source = ins.src[2] if len(ins.src) > 2 else Pred(7)
        assert isinstance(source, Pred)
        limit = max(self.limits.barriers, 1)

        def state(offset: int) -> str:
            return em.op(f"getelementptr i8, ptr %state, i64 {offset}")

        def act() -> None:
            if not number.lstrip("-").isdigit() or int(number) >= limit or int(number) < 0:
                m.fail_if(em.op(f"icmp uge i32 {number}, {limit}"), ErrorKind.BAD_LAUNCH)
            if mode == "ARV":
                em.declare(SIGNATURES["gpuvm_arrive"])
                em.do(f"call void @gpuvm_arrive(ptr %ctx, i32 {number}, i32 {count}, i32 0)")
                self._jump(after)
                return
            em.do(f"store i32 {number}, ptr {state(at.STATE_BARRIER)}, align 4")
            em.do(f"store i32 {count}, ptr {state(at.STATE_COUNT)}, align 4")
            if mode == "RED":
                votes = em.bits(em.pbin("and", m.get_pred(source), mask))
                every = em.bits(mask)
                ones = em.call(em.mi, f"llvm.ctpop.{em.mi}", [(em.mi, votes)])
                if em.mi != "i32":
                    ones = em.op(f"{'trunc' if self.shape.lanes > 32 else 'zext'} {em.mi} {ones} to i32")
                em.do(f"store i32 {ones}, ptr {state(at.STATE_POPC)}, align 4")
                all_true = em.op(f"sext i1 {em.op(f'icmp eq {em.mi} {votes}, {every}')} to i32")
                any_true = em.op(f"sext i1 {em.op(f'icmp ne {em.mi} {votes}, 0')} to i32")
                em.do(f"store i32 {all_true}, ptr {state(at.STATE_AND)}, align 4")
                em.do(f"store i32 {any_true}, ptr {state(at.STATE_OR)}, align 4")
            em.do(f"store i32 1, ptr {state(at.STATE_STATUS)}, align 4")
            em.do(f"br label %{self.edge(after, self.stack, self._absorbed(after), resume=True)}")

        if mode == "RED":
            raise BarrierReduction
        some = m.any_lane(mask)
        if m.guard is TRUE:
            some = True
        self._test(some, act, lambda: self._jump(after))

    # Text

    def _assemble(self, head: list[str], start: Key) -> tuple[Emitter, Frame]:
        em = self.em
        body: list[str] = []
        reached = {start}
        walk = [start]
        while walk:
            done = self.states[walk.pop()].done
            assert done is not None
            for edge in done.edges:
                if edge.target not in reached:
                    reached.add(edge.target)
                    walk.append(edge.target)
        saves: dict[str, int] = {}
        resumed: dict[Key, Edge] = {}
        for key in sorted(reached, key=lambda k: (self.order[k[:2]], not k[2])):
            state = self.states[key]
            done = state.done
            assert done is not None
            self.frame.mixes.append(done.mix)
            em.out = body
            em.place(self.label(key))
            counter(em, len(self.frame.mixes) - 1)
            node = key[:2]
            if node in self.flow.headers:
                poll(em)
            if node in self.flow.spins:
                em.do('call void asm sideeffect "", "~{memory}"()')
            go = em.new_label("b")
            em.do(f"br label %{go}")
            em.place(go)
            body.extend(done.text)
            for edge in done.edges:
                em.place(edge.label)
                em.cold += 1
                self._convert(edge)
                em.cold -= 1
                if edge.resume:
                    resumed[edge.target] = edge
                    self._save(edge, saves)
                    em.do("ret void")
                else:
                    em.do(f"br label %{self.label(edge.target)}")
        em.out = []
        cases = ""
        for key in resumed:
            index = self.resumes[key]
            cases += f" i32 {index}, label %resume{index}"
        tail: list[str] = []
        for key, edge in resumed.items():
            em.out = tail
            em.place(f"resume{self.resumes[key]}")
            for name, kind in self._kept(key, edge.facts):
                p = em.op(f"getelementptr i8, ptr %state, i64 {saves[name]}")
                self.variables.write(name, kind, em.op(f"load {kind}, ptr {p}, align 4, !noalias !9"))
            em.do(f"br label %{self.label(key)}")
        begin: list[str] = []
        em.out = begin
        mask = initial_mask(em, self.shape)
        self.write_mask("act", mask)
        em.do(f"br label %{self.label(start)}")
        allocas = [f"  %{name} = alloca {kind}" for name, kind in self.variables.slots.items()]
        switch: list[str] = []
        em.out = switch
        if resumed:
            p = em.op(f"getelementptr i8, ptr %state, i64 {at.STATE_RESUME}")
            which = em.op(f"load i32, ptr {p}, align 4")
            em.do(f"switch i32 {which}, label %begin [{cases} ]")
        else:
            em.do("br label %begin")
        em.out = [*allocas, *head, *switch, "begin:", *begin, *tail, *body]
        top = max((offset for offset in saves.values()), default=at.STATE_PREDS)
        self.frame.state_bytes = -(-(top + 8 * self.shape.unit + 64) // 64) * 64
        return em, self.frame

    def needs(self, key: Key, facts: Facts) -> int:
        """Registers that must survive into a node."""
        pc, stack, _ = key
        return self.live_at((pc, stack)) | self.waiting_needs(facts, stack)

    def _convert(self, edge: Edge) -> None:
        """Bring every register that is needed into the target's class. All reads come before all writes."""
        m, target = edge.source, self.states[edge.target]
        needs = self.needs(edge.target, target.facts)
        writes: list[tuple[str, str, str]] = []
        pairs: dict[int, tuple[Val, Val]] = {}
        for n in range(63):
            if not needs >> n & 1:
                c = target.regs[n]
                if not (c is not None and c[0] == "w" and c[1] == 0 and needs >> (n + 1) & 1):
                    continue
            c = target.regs[n]
            if c is None or (n not in m.dirty and m.entry_regs[n] == c):
                continue
            value = m.regs[n] if n in m.dirty else self.load_reg(m.entry_regs, n, pairs)
            assert value is not None
            names = self.variables.parts(f"r{n}", c)
            values = self.variables.values(value, c)
            writes += [(name, kind, x) for (name, kind), x in zip(names, values, strict=True)]
        for n in range(7):
            pc = target.preds[n]
            if not needs >> PRED_BIT + n & 1 or pc is None:
                continue
            if ("p", n) not in m.dirty and m.entry_preds[n] == pc:
                continue
            p = m.preds[n] if ("p", n) in m.dirty else m.load_pred(n)
            assert p is not None
            names = self.variables.pparts(f"p{n}", pc)
            writes += [
                (name, kind, x) for (name, kind), x in zip(names, self.variables.pvalues(p, pc), strict=True)
            ]
        if needs >> FLAGS_BIT & 1 and target.flags and ("cc" in m.dirty or not m.entry.flags):
            flags = m.flags if "cc" in m.dirty and m.flags is not None else m.load_flags()
            for n in range(4):
                writes.append((f"c{n}", self.em.mi, self.em.bits(flags.get(n, cache=False))))
        for wait in sorted(target.facts.pending - edge.facts.pending):
            writes.append((self.pending_slot(wait), self.em.mi, "0"))
        for name, kind, x in writes:
            self.variables.write(name, kind, x)

    def _kept(self, key: Key, facts: Facts) -> list[tuple[str, str]]:
        """Slots that a barrier must keep."""
        state = self.states[key]
        needs = self.needs(key, state.facts)
        got: list[tuple[str, str]] = []
        for n in range(63):
            c = state.regs[n]
            if c is None:
                continue
            second = c[0] == "w" and c[1] == 0 and needs >> (n + 1) & 1
            if needs >> n & 1 or second:
                got += self.variables.parts(f"r{n}", c)
        for n in range(7):
            pc = state.preds[n]
            if pc is not None and needs >> PRED_BIT + n & 1:
                got += self.variables.pparts(f"p{n}", pc)
        if needs >> FLAGS_BIT & 1 and state.flags:
            got += [(f"c{n}", self.em.mi) for n in range(4)]
        got.append(("act", self.em.mi))
        stack = key[1]
        got += [(self.entry_slot(stack[: n + 1]), self.em.mi) for n in range(len(stack))]
        got += [(self.pending_slot(p), self.em.mi) for p in sorted(state.facts.pending)]
        return got

    def _save(self, edge: Edge, saves: dict[str, int]) -> None:
        em = self.em
        index = self.resumes.setdefault(edge.target, len(self.resumes) + 1)
        for name, kind in self._kept(edge.target, edge.facts):
            if name not in saves:
                # Room for a unit of i64 each.
                saves[name] = at.STATE_PREDS + 8 * self.shape.unit * len(saves)
            p = em.op(f"getelementptr i8, ptr %state, i64 {saves[name]}")
            em.do(f"store {kind} {self.variables.read(name, kind)}, ptr {p}, align 4, !noalias !9")
        p = em.op(f"getelementptr i8, ptr %state, i64 {at.STATE_RESUME}")
        em.do(f"store i32 {index}, ptr {p}, align 4")


class BarrierReduction(Exception):
    """BAR.RED is left to the general translator."""


__all__ = ["Structured", "reduced"]

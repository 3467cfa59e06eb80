"""Passes over the SSA machine form: dead code, constants into operand slots, loop-invariant code, uniform
branches.
"""

from __future__ import annotations

from gpuvm.compiler.graph import DominatorTree, Loop, natural_loops
from gpuvm.compiler.mir import (
    ABS,
    CB,
    NEG,
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
    operands,
    resolve,
    results,
    words,
)
from gpuvm.compiler.ops import OPS, fits_immediate
from gpuvm.compiler.uniform import mark_uniform

DOUBLE = frozenset(("DADD", "DMUL", "DFMA", "DMNMX", "DSETP"))
SWAPPED = {
    "LT": "GT",
    "GT": "LT",
    "LE": "GE",
    "GE": "LE",
    "LTU": "GTU",
    "GTU": "LTU",
    "LEU": "GEU",
    "GEU": "LEU",
}


def optimize(fn: Fn, level: int = 2) -> None:
    """All passes in order; afterwards every operand is one the chip has."""
    settle(fn)
    eliminate_dead(fn)
    mark_uniform(fn)
    legalize(fn)
    if level > 0:
        hoist(fn)
    share(fn)
    eliminate_dead(fn)
    sink_steps(fn)


def settle(fn: Fn) -> None:
    """Follow replaced values everywhere; branches on known predicates become jumps."""
    for b in fn.blocks:
        for phi in b.phis:
            phi.args = [resolve(a) for a in phi.args]
        for inst in b.insts:
            inst.srcs = [resolve(s) for s in inst.srcs]
            if inst.guard is not None:
                g = resolve(inst.guard)
                if isinstance(g, NotP):
                    g, inst.guard_not = g.value, not inst.guard_not
                if isinstance(g, Value):
                    inst.guard = g
                elif isinstance(g, PredConst):
                    inst.guard = None
                    if g.value == inst.guard_not:
                        inst.op, inst.dsts, inst.srcs, inst.smods, inst.mods = "DELETED", [], [], [], {}
        b.insts = [x for x in b.insts if x.op != "DELETED"]
        t = b.term
        if t.pred is not None:
            t.pred = resolve(t.pred)
            if isinstance(t.pred, PredConst):
                keep = t.targets[0 if t.pred.value else 1]
                drop = t.targets[1 if t.pred.value else 0]
                if drop != keep:
                    remove_edge(fn, b.id, drop)
                else:
                    _drop_one_edge(fn, b.id, drop)
                b.term = Term("jump", [keep], line=t.line)
    drop_unreachable(fn)


def _drop_one_edge(fn: Fn, source: int, target: int) -> None:
    block = fn.blocks[target]
    k = block.preds.index(source)
    del block.preds[k]
    for phi in block.phis:
        del phi.args[k]


def remove_edge(fn: Fn, source: int, target: int) -> None:
    """Take away one edge and the phi arguments that came over it."""
    _drop_one_edge(fn, source, target)


def drop_unreachable(fn: Fn) -> None:
    """Empty blocks that no path reaches; single-argument phis vanish."""
    seen = {0}
    work = [0]
    while work:
        for t in fn.blocks[work.pop()].term.targets:
            if t not in seen:
                seen.add(t)
                work.append(t)
    changed = len(seen) < len(fn.blocks)
    if changed:
        for b in fn.blocks:
            if b.id not in seen:
                for t in b.term.targets:
                    if t in seen:
                        _drop_one_edge(fn, b.id, t)
                b.insts, b.phis, b.preds = [], [], []
                b.term = Term("exit")
    again = False
    for b in fn.blocks:
        for phi in b.phis:
            if (
                phi.args
                and all(a is phi.dst or a == phi.args[0] for a in phi.args)
                and phi.args[0] is not phi.dst
            ):
                phi.dst.forward = phi.args[0]
                again = True
        b.phis = [p for p in b.phis if p.dst.forward is None]
    if again:
        settle(fn)


def eliminate_dead(fn: Fn) -> None:
    """Remove what nothing reads; two-word sums that only need the low word become one-word sums."""
    live: set[Value] = set()
    work: list[Value] = []

    def need(v: Value) -> None:
        if v not in live:
            live.add(v)
            work.append(v)

    phi_of: dict[Value, Phi] = {}
    for b in fn.blocks:
        for phi in b.phis:
            phi_of[phi.dst] = phi
        for inst in b.insts:
            if not OPS[inst.op].pure:
                for v in operands(inst):
                    need(v)
        if b.term.pred is not None:
            for v in words(b.term.pred):
                need(v)
    while work:
        v = work.pop()
        phi_made = phi_of.get(v)
        if phi_made is not None:
            for a in phi_made.args:
                for w in words(a):
                    need(w)
            continue
        inst = v.inst  # type: ignore[assignment]
        if inst is None:
            continue
        if inst.op in ("ADD64", "MAD64") and inst.dsts[0] is v:
            # the low word needs only low words
            for k in (0, 2) if inst.op == "ADD64" else (0, 1, 2):
                for w in words(inst.srcs[k]):
                    need(w)
            continue
        if inst.op == "ADDC" and inst.dsts[1] is not v:
            pass
        for w in operands(inst):
            need(w)
    for b in fn.blocks:
        b.phis = [p for p in b.phis if p.dst in live]
        kept: list[Inst] = []
        for inst in b.insts:
            if OPS[inst.op].pure and not any(v in live for v in results(inst)):
                continue
            if inst.op in ("ADD64", "MAD64") and inst.dsts[1] not in live:
                _low_only(inst)
            elif inst.op == "MAD64" and inst.dsts[0] not in live and inst.srcs[2:] == [ZERO, ZERO]:
                inst.op, inst.dsts, inst.srcs, inst.smods = "IMUL", inst.dsts[1:], inst.srcs[:2], [0, 0]
                inst.mods["hi"] = True
            kept.append(inst)
        b.insts = kept


def _low_only(inst: Inst) -> None:
    """Turn a two-word instruction whose high word is dead into its one-word form."""
    inst.dsts = inst.dsts[:1]
    if inst.op == "ADD64":
        sub = bool(inst.mods.get("sub"))
        inst.op, inst.srcs, inst.smods = "IADD", [inst.srcs[0], inst.srcs[2]], [0, NEG if sub else 0]
    else:
        a, b, c = inst.srcs[:3]
        if isinstance(a, Imm):
            a, b = b, a
        shift = (
            b.value.bit_length() - 1
            if isinstance(b, Imm) and b.value and b.value & (b.value - 1) == 0
            else -1
        )
        if c == ZERO:
            inst.op, inst.srcs, inst.smods = "IMUL", [a, b], [0, 0]
            if shift >= 0:
                inst.op, inst.srcs = "SHL", [a, Imm(shift)]
        elif shift >= 0:
            inst.op, inst.srcs, inst.smods = "ISCADD", [a, c, Imm(shift)], [0, 0, 0]
        else:
            inst.op, inst.srcs, inst.smods = "IMAD", [a, b, c], [0, 0, 0]
    inst.mods = {}


# ---- constants


class _Legalizer:
    """Makes operands fit: swaps sources, picks long-immediate forms, puts what is left into registers."""

    def __init__(self, fn: Fn) -> None:
        self.fn = fn
        self.out: list[Inst] = []
        self.made: dict[object, Value] = {}

    def run(self) -> None:
        for b in self.fn.blocks:
            self.out = []
            self.made = {}
            for inst in b.insts:
                self.instruction(inst)
                inst.block = b
                self.out.append(inst)
            b.insts = self.out
            for made in b.insts:
                made.block = b

    def register(self, s: Src, group: tuple[Src, ...] = ()) -> Value:
        """`s` in a register; a constant of a group gets one of its own, since it must stand beside the
        others.
        """
        if isinstance(s, Value):
            return s
        key = (s, group)
        found = self.made.get(key)
        if found is None:
            found = self.fn.value()
            inst = Inst("MOV", [found], [s], {"group": repr(group)} if group else {}, [0])
            found.inst = inst
            self.out.append(inst)
            self.made[key] = found
        return found

    def group(self, s: tuple[Src, ...]) -> tuple[Src, ...]:
        out: list[Src] = []
        for k, x in enumerate(s):
            out.append(self.register(x, (Imm(k), *s)))
        return tuple(out)

    def instruction(self, inst: Inst) -> None:
        op = OPS[inst.op]
        srcs, smods = inst.srcs, inst.smods
        if inst.op in ("ADD64", "ADDC"):
            self.pairwise(inst)
            return
        ordered = inst.mods.get("op") == "PASS_B"
        if op.swap and not ordered and len(srcs) > 1 and _constant(srcs[0]) and not _constant(srcs[1]):
            _swap(inst, op.swap)
        if inst.op == "MAD64" and _constant(srcs[0]) and not _constant(srcs[1]):
            srcs[0], srcs[1] = srcs[1], srcs[0]
        used = False
        if inst.op == "MAD64":
            self.product64(inst)
            return
        for k in range(len(srcs) - 1, -1, -1) if inst.op in ("FFMA", "IMAD", "DFMA") else range(len(srcs)):
            s = srcs[k]
            if isinstance(s, Value | PredConst | NotP):
                continue
            if isinstance(s, tuple):
                folded = None if used or k not in op.const else self.fold_group(inst, op.imm_kind, k, s)
                if folded is not None:
                    srcs[k] = folded
                    used = True
                elif any(not isinstance(x, Value) for x in s):
                    srcs[k] = self.group(s)
                continue
            if s == ZERO and self.zero_register(inst, k):
                continue
            if inst.op == "ISCADD" and k == 2:
                continue
            if isinstance(s, Imm):
                if smods[k] and not used:
                    s = _apply(inst.op, s, smods, k)
                    srcs[k] = s
                if (
                    not used
                    and k in op.imm
                    and (fits_immediate(op.imm_kind, s.value) or self.long_form(inst, op.long, k))
                ):
                    used = True
                    continue
                if inst.op in ("BAR", "BARRED", "SHL32"):
                    continue
            elif isinstance(s, CB) and not used and k in op.const and s.offset < 1 << 16:
                used = True
                continue
            elif isinstance(s, SymbolWord) and inst.op in ("MOV", "COPY"):
                continue
            srcs[k] = self.register(s)

    def zero_register(self, inst: Inst, k: int) -> bool:
        """Whether slot k may be RZ as it stands."""
        return inst.op not in ("BAR", "BARRED")

    def fold_group(self, inst: Inst, kind: str, k: int, s: tuple[Src, ...]) -> Src | None:
        if len(s) != 2:
            return None
        lo, hi = s
        if isinstance(lo, Imm) and isinstance(hi, Imm) and k == 1 and kind == "d":
            value = lo.value | hi.value << 32
            if inst.smods[k]:
                if inst.smods[k] & ABS:
                    value &= (1 << 63) - 1
                if inst.smods[k] & NEG:
                    value ^= 1 << 63
            if fits_immediate("d", value):
                inst.smods[k] = 0
                return Imm(value)
            return None
        if inst.op == "I2F":
            # The chip converts 64-bit integers from registers only.
            return None
        if isinstance(lo, CB) and isinstance(hi, CB) and lo.bank == hi.bank and hi.offset == lo.offset + 4:
            return lo if lo.offset % 8 == 0 else None
        return None

    def long_form(self, inst: Inst, long: str, k: int) -> bool:
        """Whether the 32-bit-immediate form can stand for the instruction (emission picks it)."""
        if not long:
            return False
        mods = inst.mods
        if inst.op in ("MOV", "COPY"):
            return True
        if inst.op == "IADD":
            return not mods.get("x")
        if inst.op == "FADD":
            return not mods.get("sat") and mods.get("rnd", "RN") == "RN"
        if inst.op == "FMUL":
            return mods.get("rnd", "RN") == "RN"
        return inst.op in ("LOP", "IMUL")

    def pairwise(self, inst: Inst) -> None:
        """ADD64 and ADDC: words are added in pairs, each IADD with one constant in its second slot."""
        step = [(0, 2), (1, 3)] if inst.op == "ADD64" else [(0, 1)]
        srcs = inst.srcs
        sub = bool(inst.mods.get("sub"))
        if inst.op == "ADD64" and not sub and _constant(srcs[0]) and _constant(srcs[1]):
            srcs[0], srcs[1], srcs[2], srcs[3] = srcs[2], srcs[3], srcs[0], srcs[1]
        for a, b in step:
            both = not isinstance(srcs[b], Value) and srcs[b] != ZERO
            if not isinstance(srcs[a], Value) and srcs[a] != ZERO and (sub or both or inst.op == "ADDC"):
                srcs[a] = self.register(srcs[a])
            s = srcs[b]
            if isinstance(s, Value):
                continue
            if isinstance(s, CB) or s == ZERO:
                continue
            if isinstance(s, Imm) and (not sub or fits_immediate("i", s.value)):
                continue
            srcs[b] = self.register(s)
        if inst.op == "ADDC" and not isinstance(srcs[2], Value) and srcs[2] != ZERO:
            srcs[2] = self.register(srcs[2])

    def product64(self, inst: Inst) -> None:
        a, b, lo, hi = inst.srcs
        a = self.register(a) if a != ZERO else a
        addend = lo != ZERO or hi != ZERO
        constant_addend = isinstance(lo, CB) or isinstance(hi, CB)
        if isinstance(b, Imm) and not fits_immediate("i", b.value):
            b = self.register(b)
        if not isinstance(b, Value) and constant_addend:
            # one constant each; the factor's register serves all arrays of that element size
            b = self.register(b)
        lo, hi = (self.register(x) if not isinstance(x, Value | CB) and x != ZERO else x for x in (lo, hi))
        inst.srcs = [a, b, lo, hi] if addend else [a, b, ZERO, ZERO]


def _constant(s: Src) -> bool:
    if isinstance(s, tuple):
        return all(not isinstance(x, Value) for x in s)
    return not isinstance(s, Value | PredConst | NotP)


def _apply(op: str, s: Imm, smods: list[int], k: int) -> Imm:
    """An immediate with its modifiers folded in."""
    v, m = s.value, smods[k]
    if op.startswith("F") or op in ("MUFU", "RRO"):
        if m & ABS:
            v &= 0x7FFFFFFF
        if m & NEG:
            v ^= 0x80000000
    elif m & NEG:
        v = -v & 0xFFFFFFFF
    else:
        v = ~v & 0xFFFFFFFF
    smods[k] = 0
    return Imm(v)


def _swap(inst: Inst, how: str) -> None:
    """Exchange sources 0 and 1."""
    s, m, mods = inst.srcs, inst.smods, inst.mods
    if how == "select":
        p = s[2]
        if isinstance(p, NotP):
            s[2] = p.value
        elif isinstance(p, Value):
            s[2] = NotP(p)
        else:
            return
    elif how == "compare":
        mods["cmp"] = SWAPPED.get(str(mods["cmp"]), mods["cmp"])
    elif how == "types" and mods.get("hi"):
        mods["atype"], mods["btype"] = mods["btype"], mods["atype"]
    s[0], s[1] = s[1], s[0]
    if inst.op in ("FMUL", "DMUL", "FFMA", "DFMA", "IMAD"):
        return  # the product's sign stays on source 0
    m[0], m[1] = m[1], m[0]


def legalize(fn: Fn) -> None:
    """Make every operand one that its slot can hold."""
    _Legalizer(fn).run()


# ---- loops


def preheader(fn: Fn, loop: Loop) -> Block:
    """The block that every entry into a loop passes last; made if there is none."""
    header = fn.blocks[loop.header]
    outside = [p for p in header.preds if p not in loop.blocks]
    if len(outside) == 1 and len(fn.blocks[outside[0]].term.targets) == 1:
        return fn.blocks[outside[0]]
    new = Block(len(fn.blocks))
    fn.blocks.append(new)
    new.term = Term("jump", [loop.header])
    new.depth = loop.depth - 1
    new.preds = list(outside)
    for phi in header.phis:
        args = [a for a, p in zip(phi.args, header.preds, strict=True) if p not in loop.blocks]
        rest = [a for a, p in zip(phi.args, header.preds, strict=True) if p in loop.blocks]
        if len(args) == 1 or all(a == args[0] for a in args):
            merged: Src = args[0]
        else:
            made = Phi(new, fn.value(phi.dst.kind), phi.var)
            made.args = args
            new.phis.append(made)
            merged = made.dst
        phi.args = [merged, *rest]
    header.preds = [new.id, *(p for p in header.preds if p in loop.blocks)]
    for p in set(outside):
        t = fn.blocks[p].term
        t.targets = [new.id if x == loop.header else x for x in t.targets]
    outer = loop.parent
    while outer is not None:
        outer.blocks.add(new.id)
        outer = outer.parent
    return new


def hoist(fn: Fn, limit: int = 20) -> None:
    """Move pure instructions whose operands do not change in a loop in front of it, innermost loops first.

    At most `limit` values per loop, so that registers do not run out; constants count too.
    """
    succs = fn.successors()
    tree = DominatorTree(succs, 0)
    loops = natural_loops(succs, tree)
    for loop in reversed(loops):
        inside = loop.blocks
        defined: set[Value] = set()
        for n in inside:
            b = fn.blocks[n]
            defined.update(p.dst for p in b.phis)
            for inst in b.insts:
                defined.update(results(inst))
        moved: list[Inst] = []
        for n in tree.order:
            if n not in inside:
                continue
            b = fn.blocks[n]
            keep: list[Inst] = []
            for inst in b.insts:
                ok = (
                    len(moved) < limit
                    and OPS[inst.op].pure
                    and inst.guard is None
                    and all(isinstance(d, tuple) or d.fixed is None for d in inst.dsts)
                    and not any(v in defined or v.fixed is not None for v in operands(inst))
                    and not any(v.kind == "p" for v in results(inst))
                )
                if ok:
                    moved.append(inst)
                    defined.difference_update(results(inst))
                else:
                    keep.append(inst)
            b.insts = keep
        if moved:
            front = preheader(fn, loop)
            for inst in moved:
                inst.block = front
            front.insts.extend(moved)


def sink_steps(fn: Fn) -> None:
    """Move the step of a loop variable behind the last use of its old value, so that they can share a register."""
    for header in fn.blocks:
        for phi in header.phis:
            for p, arg in zip(header.preds, phi.args, strict=True):
                b = fn.blocks[p]
                if not isinstance(arg, Value) or arg.inst is None or arg.inst.block is not b:
                    continue
                step = arg.inst
                if phi.dst not in operands(step) or step not in b.insts:
                    continue
                at = b.insts.index(step)
                made = set(results(step))
                later = b.insts[at + 1 :]
                if any(made.intersection(operands(i)) for i in later):
                    continue
                if any(phi.dst in operands(i) for i in later) and not (
                    b.term.pred is not None and made.intersection(words(b.term.pred))
                ):
                    del b.insts[at]
                    b.insts.append(step)


def share(fn: Fn) -> None:
    """One instruction for the same pure computation along a dominator path.

    The builder shares what it sees; this catches what hoisting brought together. Constants are shared only
    nearby: they are cheaper to make again than to keep.
    """
    succs = fn.successors()
    tree = DominatorTree(succs, 0)
    known: dict[object, list[tuple[int, Inst]]] = {}
    for n in tree.order:
        b = fn.blocks[n]
        kept: list[Inst] = []
        for inst in b.insts:
            inst.srcs = [resolve(s) for s in inst.srcs]
            made = results(inst)
            if not OPS[inst.op].pure or inst.guard is not None or any(v.fixed is not None for v in made):
                kept.append(inst)
                continue
            constant = inst.op == "MOV" and not isinstance(inst.srcs[0], Value)
            key = (
                inst.op,
                tuple(map(_key, inst.srcs)),
                tuple(sorted(inst.mods.items())),
                tuple(inst.smods),
                tuple(len(d) if isinstance(d, tuple) else d.kind for d in inst.dsts),
            )
            for block, old in known.get(key, ()):
                if tree.dominates(block, n) and (not constant or fn.blocks[block].depth == b.depth):
                    for v, w in zip(made, results(old), strict=True):
                        v.forward = w
                    break
            else:
                known.setdefault(key, []).append((n, inst))
                kept.append(inst)
        b.insts = kept
    for b in fn.blocks:
        for phi in b.phis:
            phi.args = [resolve(a) for a in phi.args]
        for inst in b.insts:
            inst.srcs = [resolve(s) for s in inst.srcs]
            if inst.guard is not None:
                g = resolve(inst.guard)
                assert isinstance(g, Value)
                inst.guard = g
        if b.term.pred is not None:
            b.term.pred = resolve(b.term.pred)


def _key(s: Src) -> object:
    if isinstance(s, Value):
        return s.id
    if isinstance(s, NotP):
        return ("!", s.value.id)
    if isinstance(s, tuple):
        return tuple(_key(x) for x in s)
    return s

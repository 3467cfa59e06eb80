"""After register allocation: trivial copies go, short blocks become guarded instructions, empty blocks
vanish.
"""

from __future__ import annotations

from gpuvm.compiler.graph import predecessors
from gpuvm.compiler.mir import Block, Fn, Imm, Inst, NotP, PredConst, Term, Value, operands, results
from gpuvm.compiler.ops import OPS

LIMIT = 7
"""Most instructions of a block that become guarded ones."""
LIMIT_UNIFORM = 3
_NEVER = frozenset(("BAR", "BARRED", "CAL", "VOTE", "ENTER", "LEAVE", "BPT", "LDSLK", "ADDC", "CLOCK"))


def finish(fn: Fn, assignment: dict[Value, int], level: int = 2) -> None:
    """Clean up `fn` in place."""
    _drop_copies(fn, assignment)
    _thread(fn)
    if level > 0:
        while _convert(fn, assignment):
            _thread(fn)


def _drop_copies(fn: Fn, assignment: dict[Value, int]) -> None:
    for b in fn.blocks:
        kept: list[Inst] = []
        for inst in b.insts:
            made = results(inst)
            if OPS[inst.op].pure and made and not any(v in assignment for v in made):
                continue
            if inst.op in ("COPY", "PMOV", "MOV"):
                s = inst.srcs[0]
                if isinstance(s, Value) and assignment.get(s) == assignment.get(made[0]):
                    continue
            kept.append(inst)
        b.insts = kept


def _thread(fn: Fn) -> None:
    """Jumps over empty blocks; straight-line neighbours merge; unreachable blocks end up empty."""
    blocks = fn.blocks

    def final(n: int) -> int:
        seen = {n}
        while not blocks[n].insts and blocks[n].term.kind == "jump":
            t = blocks[n].term.targets[0]
            if t in seen:
                break
            seen.add(t)
            n = t
        return n

    for b in blocks:
        t = b.term
        t.targets = [final(x) for x in t.targets]
        if t.kind == "branch" and t.targets[0] == t.targets[1]:
            b.term = Term("jump", [t.targets[0]], line=t.line)
    reached = {0}
    work = [0]
    while work:
        for x in blocks[work.pop()].term.targets:
            if x not in reached:
                reached.add(x)
                work.append(x)
    preds = predecessors(fn.successors(), reached)
    gone: set[int] = set()
    for n in sorted(reached):
        if n in gone:
            continue
        b = blocks[n]
        while b.term.kind == "jump":
            x = b.term.targets[0]
            if x in (0, n) or len(preds[x]) != 1:
                break
            b.insts.extend(blocks[x].insts)
            b.term = blocks[x].term
            gone.add(x)
    for b in blocks:
        if b.id not in reached or b.id in gone:
            b.insts, b.term = [], Term("exit")


def _convert(fn: Fn, assignment: dict[Value, int]) -> bool:
    """One round of branches into guards; True if anything changed."""
    preds = predecessors(fn.successors())
    changed = False
    for b in fn.blocks:
        t = b.term
        if t.kind != "branch" or t.pred is None or isinstance(t.pred, PredConst):
            continue
        p = t.pred.value if isinstance(t.pred, NotP) else t.pred
        assert isinstance(p, Value)
        flipped = isinstance(t.pred, NotP)
        register = assignment[p]
        yes, no = t.targets
        limit = LIMIT_UNIFORM if t.uniform else LIMIT
        for side, other, inverted in ((yes, no, flipped), (no, yes, not flipped)):
            s = fn.blocks[side]
            if len(preds[side]) != 1 or side == b.id or not guardable(s, assignment, register, limit):
                continue
            if s.term.kind == "jump" and s.term.targets[0] == other:
                _guard_all(b, s, p, inverted)
                b.term = Term("jump", [other], line=t.line)
                changed = True
                break
            if s.term.kind == "exit" and other != side:
                _guard_all(b, s, p, inverted)
                leave = Inst("EXIT", [], [])
                leave.guard, leave.guard_not = p, inverted
                b.insts.append(leave)
                s.term = Term("exit")
                b.term = Term("jump", [other], line=t.line)
                changed = True
                break
        else:
            y, n = fn.blocks[yes], fn.blocks[no]
            if (
                yes != no
                and yes != b.id
                and no != b.id
                and len(preds[yes]) == 1
                and len(preds[no]) == 1
                and y.term.kind == "jump"
                and n.term.kind == "jump"
                and y.term.targets == n.term.targets
                and len(y.insts) + len(n.insts) <= limit
                and guardable(y, assignment, register, limit)
                and guardable(n, assignment, register, limit)
            ):
                join = y.term.targets[0]
                _guard_all(b, y, p, flipped)
                _guard_all(b, n, p, not flipped)
                b.term = Term("jump", [join], line=t.line)
                changed = True
        if changed:
            preds = predecessors(fn.successors())
    return changed


def guardable(s: Block, assignment: dict[Value, int], register: int, limit: int) -> bool:
    """Whether a block's instructions may be guarded by a predicate register, and are few enough."""
    count = 0
    for inst in s.insts:
        if inst.guard is not None or inst.op in _NEVER:
            return False
        count += 2 if inst.op in ("ADD64", "MAD64") else 1
        for v in results(inst):
            if v.kind == "p" and assignment.get(v) == register:
                return False
    return count <= limit


def _guard_all(b: Block, s: Block, p: Value, inverted: bool) -> None:
    for inst in s.insts:
        inst.guard, inst.guard_not = p, inverted
        b.insts.append(inst)
    s.insts = []


__all__ = ["Imm", "finish", "operands"]

"""Which branches all threads of a warp take together.

A value is divergent if it comes from a divergent source or operand; if it is a phi where paths that part at a
divergent branch meet again; or if it leaves a loop that threads of a warp leave at different times.
"""

from __future__ import annotations

import heapq

from gpuvm.compiler.graph import DominatorTree, Loop, natural_loops
from gpuvm.compiler.mir import Fn, Inst, Phi, Value, operands, results, words

_DIVERGENT = frozenset(("S2R", "LD", "LDL", "LDS", "LDSLK", "ATOM", "ENTER", "CAL", "CLOCK", "BARRED"))
_UNIFORM_SPECIAL = frozenset(("SR_CTAID.X", "SR_CTAID.Y", "SR_CTAID.Z", "SR_SMEMSZ", "SR_VIRTID"))


class _Divergence:
    def __init__(self, fn: Fn) -> None:
        self.fn = fn
        self.succs = fn.successors()
        self.tree = DominatorTree(self.succs, 0)
        self.rank = {n: k for k, n in enumerate(self.tree.order)}
        self.loops = natural_loops(self.succs, self.tree)
        self.divergent: set[Value] = set()
        self.work: list[Value] = []
        self.marked: set[int] = set()
        self.temporal: set[int] = set()
        self.users: dict[Value, list[Inst | Phi]] = {}
        self.conditions: dict[Value, list[int]] = {}
        self.home: dict[Value, int] = {}

    def taint(self, v: Value) -> None:
        if v not in self.divergent:
            self.divergent.add(v)
            self.work.append(v)

    def run(self) -> None:
        for b in self.fn.blocks:
            for phi in b.phis:
                self.home[phi.dst] = b.id
                for a in phi.args:
                    for v in words(a):
                        self.users.setdefault(v, []).append(phi)
            for inst in b.insts:
                for v in operands(inst):
                    self.users.setdefault(v, []).append(inst)
                source = inst.op in _DIVERGENT and inst.mods.get("special") not in _UNIFORM_SPECIAL
                for v in results(inst):
                    self.home[v] = b.id
                    if source:
                        self.taint(v)
            if b.term.pred is not None:
                for v in words(b.term.pred):
                    self.conditions.setdefault(v, []).append(b.id)
        while self.work:
            v = self.work.pop()
            for user in self.users.get(v, ()):
                if isinstance(user, Phi):
                    self.taint(user.dst)
                elif user.op != "VOTE":
                    for r in results(user):
                        self.taint(r)
            for n in self.conditions.get(v, ()):
                self.branch(n)
        for b in self.fn.blocks:
            if len(b.term.targets) > 1 and b.id not in self.marked:
                b.term.uniform = True

    def branch(self, n: int) -> None:
        """A branch turned out divergent: find where its paths meet and which loops it lets threads leave."""
        if n in self.marked:
            return
        self.marked.add(n)
        if self.fn.blocks[n].term.uniform:
            return
        parted, joins = self.paths(n)
        for j in joins:
            for phi in self.fn.blocks[j].phis:
                self.taint(phi.dst)
        for loop in self.loops:
            if n in loop.blocks and loop.header not in self.temporal:
                exits = {b for b in loop.blocks if any(t not in loop.blocks for t in self.succs[b])}
                if n in exits or exits & parted:
                    self.temporal.add(loop.header)
                    self.leave(loop)

    def paths(self, n: int) -> tuple[set[int], set[int]]:
        """Blocks on the ways from a branch before all of them have met, and the blocks where some meet.

        Back edges are not followed: threads that go round the loop meet the others at its exit.
        """
        label: dict[int, int] = {}
        heap: list[tuple[int, int]] = []
        joins: set[int] = set()
        for s in dict.fromkeys(self.succs[n]):
            if self.rank[s] > self.rank[n]:
                label[s] = s
                heapq.heappush(heap, (self.rank[s], s))
        parted: set[int] = set()
        queued = set(label)
        while heap:
            _, at = heapq.heappop(heap)
            if not heap:
                break
            parted.add(at)
            for t in self.succs[at]:
                if self.rank[t] <= self.rank[at]:
                    continue
                if t not in queued:
                    queued.add(t)
                    label[t] = label[at]
                    heapq.heappush(heap, (self.rank[t], t))
                elif label[t] != label[at]:
                    joins.add(t)
                    label[t] = t
        return parted, joins

    def leave(self, loop: Loop) -> None:
        """Values made in a loop that threads leave at different times differ outside it."""
        for n in loop.blocks:
            block = self.fn.blocks[n]
            made = [p.dst for p in block.phis]
            for inst in block.insts:
                made.extend(results(inst))
            for v in made:
                for user in self.users.get(v, ()):
                    if isinstance(user, Phi):
                        if user.block.id not in loop.blocks:
                            self.taint(user.dst)
                    elif user.block is not None and user.block.id not in loop.blocks:
                        for r in results(user):
                            self.taint(r)
                for c in self.conditions.get(v, ()):
                    if c not in loop.blocks:
                        self.branch(c)
        targets = {t for n in loop.blocks for t in self.succs[n] if t not in loop.blocks}
        for t in targets:
            for phi in self.fn.blocks[t].phis:
                self.taint(phi.dst)


def mark_uniform(fn: Fn) -> None:
    """Set `uniform` on branches whose condition is the same in all threads that get there together."""
    _Divergence(fn).run()

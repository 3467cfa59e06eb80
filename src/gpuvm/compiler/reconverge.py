"""Where a warp's threads part and meet: SSY, PBK, `.S` and BRK for any reducible control flow.

Every loop level is looked at as an acyclic graph: its own blocks, inner loops as single nodes, back edges and
exits left out. A divergent branch gets an SSY for its immediate post-dominator in that graph, if all paths in
between start at the branch (or at a dominator of it, where the SSY then goes); every edge of the region into
the meeting point pops one entry. A branch for which no such region exists pushes nothing: its paths meet at
the next point outside, which is slower and still correct, since each path pops exactly the entry that its
branch pushed. A loop that threads leave at different times is entered under PBK and left by BRK.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuvm.compiler import graph
from gpuvm.compiler.mir import Fn
from gpuvm.compiler.structure import absorb_tails, exit_edges


@dataclass(slots=True)
class Plan:
    """What emission adds to the blocks.

    Attributes ---------- pushes : block -> [(kind, target block, through)], outermost first; `through`: the
    entry's target is the target's sync
        trampoline instead of the block itself. Placed before the block's branch.
    pops : edges (from, to) whose way ends with `.S`.
    breaks : edges that are BRK.
    """

    pushes: dict[int, list[tuple[str, int, bool]]] = field(default_factory=dict)
    pops: set[tuple[int, int]] = field(default_factory=set)
    breaks: set[tuple[int, int]] = field(default_factory=set)


class _Region:
    """An SSY at the end of `at` for `join`; `inside` are the nodes between."""

    __slots__ = ("at", "inside", "join")

    def __init__(self, at: int, join: int, inside: set[int]) -> None:
        self.at = at
        self.join = join
        self.inside = inside

    def nests(self, other: _Region) -> bool:
        """Whether `other` lies properly inside this region (or the reverse, or both are apart)."""
        return _inside(other, self) or _inside(self, other) or _apart(self, other)


def _inside(inner: _Region, outer: _Region) -> bool:
    starts = inner.at in outer.inside or inner.at == outer.at
    return (
        starts and inner.inside <= outer.inside and (inner.join in outer.inside or inner.join == outer.join)
    )


def _apart(a: _Region, b: _Region) -> bool:
    return a.at not in b.inside and b.at not in a.inside and not (a.inside & b.inside) and a.at != b.at


class _Level:
    """The acyclic graph of one loop level. Nodes are blocks, and headers' negatives - 1 for inner loops."""

    def __init__(self, planner: Planner, loop: graph.Loop | None) -> None:
        self.planner = planner
        self.loop = loop
        self.nodes: list[int] = []
        self.succs: dict[int, list[int]] = {}
        self.preds: dict[int, list[int]] = {}
        self._build()
        self._groups()

    def _build(self) -> None:
        p = self.planner
        members = [b for b in p.order if p.level_of.get(b) is self.loop]
        inner = [x for x in p.loops if x.parent is self.loop]
        self.inner = {loop_node(x.header): x for x in inner}
        entry = self.loop.header if self.loop else 0
        home: dict[int, int] = {b: b for b in members}
        for node, x in self.inner.items():
            for b in p.body[x.header]:
                home[b] = node
        self.home = home
        for node in (*members, *self.inner):
            self.succs[node] = []
            self.preds[node] = []
        for b, node in home.items():
            for t in p.succs[b]:
                to = home.get(t)
                if to is None or to == node or t == entry:
                    continue
                if to not in self.succs[node]:
                    self.succs[node].append(to)
                    self.preds[to].append(node)
        # topological order, from the entry
        root = home[entry]
        number = {n: k for k, n in enumerate(self.succs)}
        names = list(self.succs)
        compact = [[number[t] for t in self.succs[n]] for n in names]
        self.order = [names[k] for k in graph.reverse_postorder(compact, number[root])]
        self.rank = {n: k for k, n in enumerate(self.order)}
        tree = graph.DominatorTree(compact, number[root])
        self.idom = {names[k]: (names[d] if d >= 0 else None) for k, d in enumerate(tree.idom)}

    def _groups(self) -> None:
        """Assign each node the first sink that it reaches; find post-dominators among nodes of one sink."""
        p = self.planner
        sinks: list[int] = []
        if self.loop is not None:
            header = self.loop.header
            sinks = [n for n in self.order if n >= 0 and header in p.succs[n]]
            sinks += [
                n
                for n in self.inner
                if n in self.rank and any(header in p.succs[b] for b in p.body[self.inner[n].header])
            ]
        else:
            # also a loop that threads leave by a guarded EXIT only
            ends = [n for n in self.order if not self.succs[n]]
            sinks = sorted(ends, key=lambda n: -self.rank[n])
        self.sinks = set(sinks)
        self.group: dict[int, int] = {}
        for s in sinks:
            if s in self.group:
                continue
            work = [s]
            while work:
                n = work.pop()
                if n in self.group:
                    continue
                self.group[n] = s
                work.extend(q for q in self.preds[n] if q in self.rank)
        self.ipdom: dict[int, int | None] = {}
        depth: dict[int, int] = {}
        for n in reversed(self.order):
            g = self.group.get(n)
            if g is None or n == g:
                self.ipdom[n] = None
                depth[n] = 0
                continue
            meet: int | None = -1_000_000_000
            for t in self.live(n):
                if meet == -1_000_000_000:
                    meet = t
                    continue
                a: int | None = meet
                c: int | None = t
                while a != c:
                    if a is None or c is None:
                        a = None
                        break
                    if depth[a] >= depth[c]:
                        a = self.ipdom[a]
                    else:
                        c = self.ipdom[c]
                meet = a
            if meet == -1_000_000_000:
                meet = None
            self.ipdom[n] = meet
            depth[n] = depth[meet] + 1 if meet is not None else 0

    def live(self, n: int) -> list[int]:
        """Successors that lead to the node's sink."""
        g = self.group.get(n)
        return [t for t in self.succs[n] if self.group.get(t) == g]

    def between(self, start: int, stop: int) -> set[int]:
        """Nodes after `start` on the ways to `stop`, without both; ways that never get there do not count."""
        seen: set[int] = set()
        work = [t for t in self.succs[start] if t != stop]
        while work:
            n = work.pop()
            if n in seen:
                continue
            seen.add(n)
            work.extend(t for t in self.succs[n] if t != stop)
        good: set[int] = set()
        work = [q for q in self.preds[stop] if q in seen]
        while work:
            n = work.pop()
            if n in good:
                continue
            good.add(n)
            work.extend(q for q in self.preds[n] if q in seen)
        return good

    def reach(self, start: int, stop: int | None) -> set[int]:
        """Everything that can run between a branch and its meeting point, dead ends included."""
        seen: set[int] = set()
        work = [t for t in self.succs[start] if t != stop]
        while work:
            n = work.pop()
            if n not in seen:
                seen.add(n)
                work.extend(t for t in self.succs[n] if t != stop)
        return seen

    def forks(self) -> list[int]:
        """Blocks whose threads may part here and of which several ways lead to the sink, in order."""
        fn = self.planner.fn
        return [
            n
            for n in self.order
            if n >= 0
            and len(set(fn.blocks[n].term.targets)) > 1
            and not fn.blocks[n].term.uniform
            and len(self.live(n)) > 1
        ]

    def regions(self) -> list[_Region]:
        """Accepted regions, outermost first where they nest."""
        accepted: list[_Region] = []
        for f in self.forks():
            join = self.ipdom[f]
            if join is None or join < 0 or self.planner.pointless(join):
                continue
            if any(r.join == join and (f in r.inside or f == r.at) for r in accepted):
                continue
            d: int | None = f
            for _ in range(8):
                if d is None:
                    break
                if d >= 0 and self._post_dominates(join, d):
                    inside = self.between(d, join)
                    allowed = inside | {d}
                    if all(q in allowed for n in inside for q in self.preds[n] if q in self.rank):
                        region = _Region(d, join, inside)
                        if all(region.nests(r) for r in accepted):
                            accepted.append(region)
                            break
                d = self.idom[d]
        accepted.sort(key=lambda r: (self.rank[r.at], -len(r.inside)))
        return accepted

    def _post_dominates(self, join: int, n: int) -> bool:
        at: int | None = n
        while at is not None:
            if at == join:
                return True
            at = self.ipdom[at]
        return False


def loop_node(header: int) -> int:
    """The node number that stands for a whole loop."""
    return -header - 1


class Planner:
    """Makes the plan of one function, after registers are allocated."""

    def __init__(self, fn: Fn) -> None:
        self.fn = fn
        self.succs = fn.successors()
        tree = graph.DominatorTree(self.succs, 0)
        self.order = tree.order
        self.preds = graph.predecessors(self.succs, self.order)
        self.loops = graph.natural_loops(self.succs, tree)
        self.body: dict[int, set[int]] = {}
        self.exit: dict[int, int | None] = {}
        self.level_of: dict[int, graph.Loop | None] = dict.fromkeys(self.order)
        self.plan = Plan()
        self.breaking: dict[int, int] = {}
        # inner loops first: tails that an inner loop takes belong to the outer ones as well
        taken: dict[int, set[int]] = {loop.header: set(loop.blocks) for loop in self.loops}
        for loop in reversed(self.loops):
            body = taken[loop.header]
            tails, targets = absorb_tails(self.succs, self.preds, body)
            self.exit[loop.header] = next(iter(targets)) if len(targets) == 1 else None
            if len(targets) > 1:
                tails = set()
            outer = loop.parent
            if outer is not None and tails - taken[outer.header]:
                # leave tails that lie outside the loop around where they are
                tails = set()
                left = {t for _, t in exit_edges(self.succs, body)}
                self.exit[loop.header] = next(iter(left)) if len(left) == 1 else None
            body |= tails
            self.body[loop.header] = body
        for loop in self.loops:
            for b in self.body[loop.header]:
                self.level_of[b] = loop

    def pointless(self, join: int) -> bool:
        """Whether nothing is gained by meeting there: the block only ends the kernel."""
        b = self.fn.blocks[join]
        return not b.insts and b.term.kind == "exit"

    def run(self) -> Plan:
        for loop in (*self.loops, None):
            self._level(loop)
        return self.plan

    def _level(self, loop: graph.Loop | None) -> None:
        level = _Level(self, loop)
        apart = loop is not None and self._leaves_apart(level, loop)
        target = self.exit[loop.header] if loop is not None else None
        # threads that leave for several places cannot be collected by PBK: then nothing may be pushed inside
        regions = [] if apart and target is None else level.regions()
        for k, r in enumerate(regions):
            same = [o for o in regions[:k] if o.join == r.join and _inside(r, o)]
            self.plan.pushes.setdefault(r.at, []).append(("SSY", r.join, bool(same)))
            for n in (*r.inside, r.at):
                for b in self._blocks(level, n):
                    if r.join in self.succs[b]:
                        self.plan.pops.add((b, r.join))
        if loop is not None and apart and target is not None:
            self.breaking[loop.header] = target

    @staticmethod
    def _blocks(level: _Level, node: int) -> Iterable[int]:
        if node >= 0:
            return (node,)
        return level.planner.body[level.inner[node].header]

    def _leaves_apart(self, level: _Level, loop: graph.Loop) -> bool:
        """Whether threads of a warp may leave the loop at different times."""
        edges = exit_edges(self.succs, self.body[loop.header])
        if not edges:
            return False
        fn = self.fn
        parted: set[int] = set()
        for n in level.order:
            if n >= 0:
                t = fn.blocks[n].term
                if len(set(t.targets)) > 1 and not t.uniform:
                    parted |= level.reach(n, level.ipdom[n])
                    if any((n, x) in edges for x in t.targets):
                        return True
        return any(level.home[b] in parted for b, _ in edges)


def plan(fn: Fn) -> Plan:
    """Where to push, pop and break. May add preheader blocks to `fn`."""
    from gpuvm.compiler.optimize import preheader

    succs = fn.successors()
    for loop in graph.natural_loops(succs, graph.DominatorTree(succs, 0)):
        fn.link_predecessors()
        preheader(fn, loop)
    fn.link_predecessors()
    p = Planner(fn)
    out = p.run()
    for loop in p.loops:
        target = p.breaking.get(loop.header)
        if target is None:
            continue
        body = p.body[loop.header]
        front = [b for b in p.preds[loop.header] if b not in body]
        edges = exit_edges(p.succs, body)
        through = any(e in out.pops for e in edges)
        for e in edges:
            out.pops.discard(e)
            out.breaks.add(e)
        for b in front:
            out.pushes.setdefault(b, []).append(("PBK", target, through))
    return out

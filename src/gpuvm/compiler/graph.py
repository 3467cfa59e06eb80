"""Graph facts that several passes need: orders, dominators, loops, strong components. Nodes are 0..n-1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Adjacency = Sequence[Sequence[int]]


def reverse_postorder(succs: Adjacency, root: int) -> list[int]:
    """Nodes reachable from `root`, each before its successors except along back edges."""
    seen = {root}
    out: list[int] = []
    stack = [(root, 0)]
    while stack:
        node, at = stack[-1]
        follow = succs[node]
        if at < len(follow):
            stack[-1] = (node, at + 1)
            nxt = follow[at]
            if nxt not in seen:
                seen.add(nxt)
                stack.append((nxt, 0))
        else:
            stack.pop()
            out.append(node)
    out.reverse()
    return out


def predecessors(succs: Adjacency, nodes: Iterable[int] | None = None) -> list[list[int]]:
    """Predecessor lists (an edge that occurs twice is listed twice)."""
    preds: list[list[int]] = [[] for _ in succs]
    for node in range(len(succs)) if nodes is None else nodes:
        for s in succs[node]:
            preds[s].append(node)
    return preds


def dominators(succs: Adjacency, root: int) -> tuple[list[int], list[int]]:
    """Immediate dominators (-1 for the root and unreachable nodes) and the reverse postorder they were found
    in.
    """
    order = reverse_postorder(succs, root)
    number = {node: k for k, node in enumerate(order)}
    preds = predecessors(succs, order)
    idom = [-1] * len(succs)
    idom[root] = root
    changed = True
    while changed:
        changed = False
        for node in order[1:]:
            new = -1
            for p in preds[node]:
                if idom[p] == -1:
                    continue
                if new == -1:
                    new = p
                    continue
                a, b = p, new
                while a != b:
                    while number[a] > number[b]:
                        a = idom[a]
                    while number[b] > number[a]:
                        b = idom[b]
                new = a
            if new != idom[node]:
                idom[node] = new
                changed = True
    idom[root] = -1
    return idom, order


class DominatorTree:
    """Constant-time `dominates` by numbering the tree."""

    def __init__(self, succs: Adjacency, root: int) -> None:
        self.idom, self.order = dominators(succs, root)
        children: list[list[int]] = [[] for _ in succs]
        for node in self.order[1:]:
            children[self.idom[node]].append(node)
        self.children = children
        self.enter = [-1] * len(succs)
        self.leave = [-1] * len(succs)
        clock = 0
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                self.leave[node] = clock
                continue
            self.enter[node] = clock
            clock += 1
            stack.append((node, True))
            stack.extend((c, False) for c in reversed(children[node]))

    def dominates(self, a: int, b: int) -> bool:
        """Whether every path to `b` passes `a` (a node dominates itself)."""
        return self.enter[a] <= self.enter[b] < self.leave[a]


def components(succs: Adjacency, nodes: Sequence[int]) -> list[list[int]]:
    """Strongly connected components of the subgraph over `nodes` (Tarjan), successors' components first."""
    inside = set(nodes)
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    on: set[int] = set()
    stack: list[int] = []
    out: list[list[int]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, 0)]
        while work:
            node, at = work.pop()
            if at == 0:
                index[node] = low[node] = len(index)
                stack.append(node)
                on.add(node)
            again = False
            follow = succs[node]
            for k in range(at, len(follow)):
                s = follow[k]
                if s not in inside:
                    continue
                if s not in index:
                    work.append((node, k + 1))
                    work.append((s, 0))
                    again = True
                    break
                if s in on:
                    low[node] = min(low[node], index[s])
            if again:
                continue
            if low[node] == index[node]:
                comp: list[int] = []
                while True:
                    w = stack.pop()
                    on.discard(w)
                    comp.append(w)
                    if w == node:
                        break
                out.append(comp)
            if work:
                parent = work[-1][0]
                low[parent] = min(low[parent], low[node])
    return out


class Loop:
    """A natural loop: header, all its blocks (inner loops' too), the loop around it."""

    __slots__ = ("blocks", "depth", "header", "parent")

    def __init__(self, header: int, blocks: set[int]) -> None:
        self.header = header
        self.blocks = blocks
        self.parent: Loop | None = None
        self.depth = 1


def natural_loops(succs: Adjacency, tree: DominatorTree) -> list[Loop]:
    """The loops of a reducible graph, outer before inner."""
    preds = predecessors(succs, tree.order)
    by_header: dict[int, set[int]] = {}
    for node in tree.order:
        for s in succs[node]:
            if tree.dominates(s, node):
                body = by_header.setdefault(s, {s})
                work = [node]
                while work:
                    n = work.pop()
                    if n not in body:
                        body.add(n)
                        work.extend(preds[n])
    loops = [Loop(h, b) for h, b in by_header.items()]
    loops.sort(key=lambda loop: -len(loop.blocks))
    for k, inner in enumerate(loops):
        for outer in reversed(loops[:k]):
            if inner.header in outer.blocks:
                inner.parent = outer
                inner.depth = outer.depth + 1
                break
    return loops

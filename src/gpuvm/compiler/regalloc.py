"""Register allocation: out of SSA by isolating copies, aggressive coalescing, graph colouring with aligned
bundles, spills.

Values that an instruction wants in an aligned pair or quad form a bundle, which is one node of the graph and
gets consecutive registers. Interference is kept word by word as bit masks.
"""

from __future__ import annotations

from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.graph import predecessors
from gpuvm.compiler.mir import (
    CB,
    ZERO,
    Block,
    Dst,
    Fn,
    Imm,
    Inst,
    NotP,
    Src,
    SymbolWord,
    Term,
    Value,
    operands,
    results,
)
from gpuvm.compiler.ops import OPS

# pseudo instructions whose first result is written while these sources are still needed
EARLY = {"ADD64": (1, 3), "MAD64": (0, 1, 3)}
REMAKE = frozenset(("MOV", "S2R"))
PREDICATES = 7
_TOO_FEW = "{}: {} registers are too few for one instruction's operands; allow more"


def allocate(fn: Fn, clobbers: dict[str, tuple[int, int]]) -> dict[Value, int]:
    """Give every value a register.

    Parameters
    ----------
    clobbers : name -> (general, predicate)
        Masks of the registers that each callee may change.

    Returns
    -------
    dict
        Register number of each value; values that nothing reads are not in it.
    """
    leave_ssa(fn)
    separate_groups(fn)
    temporary: set[Value] = set()
    for _ in range(40):
        a = _Allocator(fn, clobbers, temporary)
        if a.run():
            return a.assignment
        temporary |= spill(fn, a.spilled)
    raise CompileError(_TOO_FEW.format(fn.name, fn.max_registers))


# ---- out of SSA


def leave_ssa(fn: Fn) -> None:
    """Replace phis by copies: into a fresh value at the end of each predecessor, out of it at the start of
    the block.
    """
    split_edges(fn)
    for b in fn.blocks:
        head: list[Inst] = []
        for phi in b.phis:
            fresh = fn.value(phi.dst.kind)
            op = "COPY" if phi.dst.kind == "r" else "PMOV"
            for p, arg in zip(b.preds, phi.args, strict=True):
                c = Inst(op, [fresh], [arg])
                c.block = fn.blocks[p]
                fn.blocks[p].insts.append(c)
            c = Inst(op, [phi.dst], [fresh])
            c.block = b
            head.append(c)
        b.insts = head + b.insts
        b.phis = []


def split_edges(fn: Fn) -> None:
    """A block of its own for each edge from a branch to a block with phis that others reach too."""
    for b in list(fn.blocks):
        if not b.phis or len(b.preds) < 2:
            continue
        for k, p in enumerate(list(b.preds)):
            t = fn.blocks[p].term
            if len(t.targets) < 2:
                continue
            new = Block(len(fn.blocks))
            new.term = Term("jump", [b.id])
            new.depth = min(b.depth, fn.blocks[p].depth)
            new.preds = [p]
            fn.blocks.append(new)
            t.targets[t.targets.index(b.id)] = new.id
            b.preds[k] = new.id


def separate_groups(fn: Fn) -> None:
    """Copies where a value would have to stand at two places of two groups."""
    place: dict[Value, tuple[int, int, int]] = {}
    groups = 0
    for b in fn.blocks:
        out: list[Inst] = []
        for inst in b.insts:
            after: list[Inst] = []
            for items, is_dst in ((inst.srcs, False), (inst.dsts, True)):
                for k, g in enumerate(items):
                    if not isinstance(g, tuple):
                        continue
                    members = [v for v in g if isinstance(v, Value)]
                    size = 4 if len(members) > 2 else 2
                    known = [place.get(v) for v in members]
                    fresh_group = all(x is None for x in known) and len(set(members)) == len(members)
                    if fresh_group and all(v.fixed is None for v in members):
                        groups += 1
                        for at, v in enumerate(members):
                            place[v] = (groups, at, size)
                        continue
                    first = known[0]
                    if (
                        first is not None
                        and first[1] == 0
                        and first[2] == size
                        and all(x == (first[0], at, size) for at, x in enumerate(known))
                    ):
                        continue
                    groups += 1
                    copies = []
                    for at, v in enumerate(members):
                        c = fn.value()
                        place[c] = (groups, at, size)
                        copies.append(c)
                        move = Inst("COPY", [v], [c]) if is_dst else Inst("COPY", [c], [v])
                        move.block = b
                        (after if is_dst else out).append(move)
                    items[k] = tuple(copies)
            out.append(inst)
            out.extend(after)
        b.insts = out


# ---- colouring


class _Node:
    """Classes of coalesced values that stand in consecutive registers."""

    __slots__ = ("base", "classes", "fixed", "size")

    def __init__(self, classes: list[int], size: int) -> None:
        self.classes = classes
        self.size = size
        self.fixed: int | None = None
        self.base = -1


class _Allocator:
    def __init__(self, fn: Fn, clobbers: dict[str, tuple[int, int]], temporary: set[Value]) -> None:
        self.fn = fn
        self.clobbers = clobbers
        self.temporary = temporary
        self.assignment: dict[Value, int] = {}
        self.spilled: set[Value] = set()
        self.limit = fn.max_registers
        self.reserved = 0
        if fn.reserve_stack_pointer:
            self.reserved = 1 << 1

    def run(self) -> bool:
        self._number()
        self._liveness()
        self._interference()
        self._bundles()
        self._coalesce()
        ok = self._colour("p", PREDICATES)
        return self._colour("r", self.limit) and ok

    def _number(self) -> None:
        self.values: list[Value] = []
        self.index: dict[Value, int] = {}
        self.cost: list[float] = []

        def see(v: Value, weight: float) -> None:
            k = self.index.get(v)
            if k is None:
                self.index[v] = len(self.values)
                self.values.append(v)
                self.cost.append(weight)
            else:
                self.cost[k] += weight

        for b in self.fn.blocks:
            weight = float(8 ** min(b.depth, 6))
            for inst in b.insts:
                for v in results(inst):
                    see(v, weight)
                for v in operands(inst):
                    see(v, weight)
            if b.term.pred is not None:
                for v in _of(b.term.pred):
                    see(v, weight)
        for v in self.temporary:
            k = self.index.get(v)
            if k is not None:
                self.cost[k] = 1e30

    def _liveness(self) -> None:
        fn, index = self.fn, self.index
        n = len(fn.blocks)
        use, define = [0] * n, [0] * n
        for b in fn.blocks:
            u = d = 0
            if b.term.pred is not None:
                for v in _of(b.term.pred):
                    u |= 1 << index[v]
            for inst in reversed(b.insts):
                made = 0
                for v in results(inst):
                    made |= 1 << index[v]
                if inst.guard is None:
                    d |= made
                    u &= ~made
                for v in operands(inst):
                    u |= 1 << index[v]
            use[b.id], define[b.id] = u, d
        self.live_out = [0] * n
        live_in = list(use)
        succs = fn.successors()
        preds = predecessors(succs)
        work = list(range(n))
        queued = [True] * n
        while work:
            k = work.pop()
            queued[k] = False
            out = 0
            for t in succs[k]:
                out |= live_in[t]
            self.live_out[k] = out
            new = use[k] | (out & ~define[k])
            if new != live_in[k]:
                live_in[k] = new
                for p in preds[k]:
                    if not queued[p]:
                        queued[p] = True
                        work.append(p)

    def _interference(self) -> None:
        fn, index = self.fn, self.index
        count = len(self.values)
        self.kind_mask = {"r": 0, "p": 0}
        for k, v in enumerate(self.values):
            self.kind_mask[v.kind] |= 1 << k
        adjacent = [0] * count
        self.read = 0
        self.forbidden = [0] * count
        self.copies: list[tuple[float, int, int]] = []
        for b in fn.blocks:
            live = self.live_out[b.id]
            if b.term.pred is not None:
                for v in _of(b.term.pred):
                    live |= 1 << index[v]
            weight = float(8 ** min(b.depth, 6))
            for inst in reversed(b.insts):
                made = [index[v] for v in results(inst)]
                made_mask = 0
                for k in made:
                    made_mask |= 1 << k
                if inst.op in ("COPY", "PMOV") and isinstance(inst.srcs[0], Value):
                    s = index[inst.srcs[0]]
                    adjacent[made[0]] |= live & ~(1 << s)
                    self.copies.append((weight, made[0], s))
                else:
                    for k in made:
                        adjacent[k] |= live | made_mask
                    if inst.op in EARLY:
                        for at in EARLY[inst.op]:
                            s_early = inst.srcs[at]
                            if isinstance(s_early, Value):
                                adjacent[made[0]] |= 1 << index[s_early]
                if inst.op == "CAL":
                    general, predicates = self.clobbers[str(inst.target)]
                    crossing = live & ~made_mask
                    for k in _bits(crossing):
                        self.forbidden[k] |= general if self.values[k].kind == "r" else predicates
                live &= ~made_mask
                for v in operands(inst):
                    live |= 1 << index[v]
                    self.read |= 1 << index[v]
            if b.term.pred is not None:
                for v in _of(b.term.pred):
                    self.read |= 1 << index[v]
        for k in range(count):
            mask = adjacent[k] & self.kind_mask[self.values[k].kind] & ~(1 << k)
            adjacent[k] = mask
        for k in range(count):
            bit = 1 << k
            for j in _bits(adjacent[k]):
                adjacent[j] |= bit
        self.adjacent = adjacent
        self.parent = list(range(count))

    def find(self, k: int) -> int:
        parent = self.parent
        while parent[k] != k:
            parent[k] = parent[parent[k]]
            k = parent[k]
        return k

    def _bundles(self) -> None:
        """Nodes from groups; everything else is a node of its own."""
        self.node_of: list[tuple[_Node, int] | None] = [None] * len(self.values)
        self.nodes: list[_Node] = []
        for b in self.fn.blocks:
            for inst in b.insts:
                for g in (*inst.srcs, *inst.dsts):
                    if isinstance(g, tuple):
                        members = [self.index[v] for v in g if isinstance(v, Value)]
                        if members and self.node_of[members[0]] is None:
                            node = _Node(members, 4 if len(members) > 2 else 2)
                            self.nodes.append(node)
                            for at, k in enumerate(members):
                                self.node_of[k] = (node, at)
        for k, v in enumerate(self.values):
            if self.node_of[k] is None:
                node = _Node([k], 1)
                node.fixed = v.fixed
                self.nodes.append(node)
                self.node_of[k] = (node, 0)

    def _place(self, k: int) -> tuple[_Node, int]:
        found = self.node_of[self.find(k)]
        assert found is not None
        return found

    def _coalesce(self) -> None:
        """Merge the two sides of copies where they never disagree, most frequent first."""
        self.copies.sort(key=lambda c: -c[0])
        members: list[int] = [1 << k for k in range(len(self.values))]
        adjacent = self.adjacent
        for _, x, y in self.copies:
            a, b = self.find(x), self.find(y)
            if a == b or adjacent[a] & members[b]:
                continue
            na, at = self._place(a)
            nb, bt = self._place(b)
            if na is nb:
                continue
            if len(na.classes) > 1 and len(nb.classes) > 1:
                if len(na.classes) != len(nb.classes) or at != bt or na.size != nb.size:
                    continue
                pairs = list(zip(na.classes, nb.classes, strict=True))
                if any(adjacent[self.find(p)] & members[self.find(q)] for p, q in pairs):
                    continue
            else:
                if len(nb.classes) > 1:
                    na, nb, a, b, at, bt = nb, na, b, a, bt, at
                if nb.fixed is not None and (na.fixed is not None or len(na.classes) > 1):
                    continue
                fixed = nb.fixed if nb.fixed is not None else na.fixed
                if fixed is not None and (self.forbidden[a] | self.forbidden[b]) >> fixed & 1:
                    continue
                if fixed is not None and self._meets_fixed(adjacent[a] | adjacent[b], fixed):
                    continue
                pairs = [(na.classes[at], nb.classes[0])]
                if nb.fixed is not None:
                    na.fixed = nb.fixed
            for p, q in pairs:
                p, q = self.find(p), self.find(q)
                self.parent[q] = p
                members[p] |= members[q]
                adjacent[p] |= adjacent[q]
                bit_p = 1 << p
                for j in _bits(adjacent[q]):
                    adjacent[self.find(j)] |= bit_p
                self.forbidden[p] |= self.forbidden[q]
                self.cost[p] += self.cost[q]
                if self.read >> q & 1:
                    self.read |= 1 << p
            nb.classes = []
        self.members = members

    def _meets_fixed(self, mask: int, register: int) -> bool:
        """Whether a value in `mask` is bound to `register` already."""
        for j in _bits(mask):
            node, at = self._place(j)
            if node.fixed is not None and node.fixed + at == register:
                return True
        return False

    def _colour(self, kind: str, limit: int) -> bool:
        nodes = [n for n in self.nodes if n.classes and self.values[n.classes[0]].kind == kind]
        number: dict[int, int] = {}
        for k, n in enumerate(nodes):
            for c in n.classes:
                number[self.find(c)] = k
        neighbours: list[set[int]] = []
        find = self.find
        kind_mask = self.kind_mask[kind]
        for k, n in enumerate(nodes):
            near: set[int] = set()
            for c in n.classes:
                for j in _bits(self.adjacent[find(c)] & kind_mask):
                    m = number.get(find(j))
                    if m is not None:
                        near.add(m)
            near.discard(k)
            neighbours.append(near)
        degree = [sum(nodes[m].size for m in near) for near in neighbours]
        order = self._simplify(nodes, neighbours, degree, limit)
        used_mask = self.reserved if kind == "r" else 0
        register: dict[int, int] = {}
        for n in nodes:
            if n.fixed is not None:
                n.base = n.fixed
                register[find(n.classes[0])] = n.fixed
        failed: list[_Node] = []
        for k in reversed(order):
            n = nodes[k]
            if n.fixed is not None:
                continue
            masks = []
            for c in n.classes:
                r = find(c)
                mask = used_mask | self.forbidden[r]
                for j in _bits(self.adjacent[r] & kind_mask):
                    got = register.get(find(j))
                    if got is not None:
                        mask |= 1 << got
                masks.append(mask)
            base = self._free(masks, n.size, limit)
            if base < 0:
                failed.append(n)
                continue
            n.base = base
            for at, c in enumerate(n.classes):
                register[find(c)] = base + at
        if failed:
            for n in failed:
                self._give_up(n, kind_mask)
            return False
        for k, v in enumerate(self.values):
            if v.kind == kind:
                node, at = self._place(k)
                if self._is_read(node):
                    self.assignment[v] = node.base + at
        return True

    def _is_read(self, node: _Node) -> bool:
        return any(self.read >> self.find(c) & 1 for c in node.classes)

    @staticmethod
    def _free(masks: list[int], size: int, limit: int) -> int:
        """The lowest aligned base at which no word collides."""
        for base in range(0, limit - len(masks) + 1, size):
            if all(not mask >> (base + at) & 1 for at, mask in enumerate(masks)):
                return base
        return -1

    def _simplify(self, nodes: list[_Node], near: list[set[int]], degree: list[int], limit: int) -> list[int]:
        """Order of removal: anything that surely gets a register first, else the cheapest to spill."""
        left = set(range(len(nodes)))
        degree = list(degree)
        order: list[int] = []
        ready = [k for k in left if degree[k] + nodes[k].size <= limit]
        while left:
            while ready:
                k = ready.pop()
                if k not in left:
                    continue
                left.discard(k)
                order.append(k)
                for m in near[k]:
                    if m in left:
                        before = degree[m] + nodes[m].size <= limit
                        degree[m] -= nodes[k].size
                        if not before and degree[m] + nodes[m].size <= limit:
                            ready.append(m)
            if not left:
                break
            k = min(left, key=lambda m: self._cost(nodes[m]) / (degree[m] + 1))
            ready.append(k)
        return order

    def _cost(self, n: _Node) -> float:
        if n.fixed is not None:
            return 1e30
        return sum(self.cost[self.find(c)] for c in n.classes)

    def _give_up(self, n: _Node, kind_mask: int) -> None:
        """Choose what to spill for a node that found no register: itself, or a cheaper neighbour."""
        best = n
        if self._cost(n) >= 1e29:
            seen: set[int] = set()
            for c in n.classes:
                for j in _bits(self.adjacent[self.find(c)] & kind_mask):
                    seen.add(self.find(j))
            candidates = {id(self._place(j)[0]): self._place(j)[0] for j in seen}
            options = [x for x in candidates.values() if x.fixed is None and self._cost(x) < 1e29]
            if not options:
                raise CompileError(_TOO_FEW.format(self.fn.name, self.limit))
            best = min(options, key=self._cost)
        classes = {self.find(c) for c in best.classes}
        for k, v in enumerate(self.values):
            if self.find(k) in classes:
                self.spilled.add(v)


def _of(s: Src) -> list[Value]:
    if isinstance(s, Value):
        return [s]
    if isinstance(s, NotP):
        return [s.value]
    return []


def _bits(mask: int) -> list[int]:
    """Positions of the set bits."""
    out = []
    while mask:
        low = mask & -mask
        out.append(low.bit_length() - 1)
        mask ^= low
    return out


# ---- spilling


def spill(fn: Fn, values: set[Value]) -> set[Value]:
    """Keep values in local memory between their uses; constants and special registers are made again instead.

    Returns the short-lived values that were added, which must not be spilled again.
    """
    definitions: dict[Value, list[Inst]] = {v: [] for v in values}
    for b in fn.blocks:
        for inst in b.insts:
            for v in results(inst):
                if v in values:
                    definitions[v].append(inst)
    remade = {
        v: d[0]
        for v, d in definitions.items()
        if len(d) == 1
        and d[0].op in REMAKE
        and not any(isinstance(s, Value) for s in d[0].srcs)
        and d[0].guard is None
    }
    slots: dict[Value, int] = {}
    words: dict[Value, Value] = {}
    for v in values:
        if v in remade:
            continue
        if v.kind == "p":
            words[v] = fn.value()
        else:
            fn.local_size = fn.local_size + 3 & ~3
            slots[v] = fn.local_size
            fn.local_size += 4
    fresh: set[Value] = set()

    def load(v: Value, into: Value, b: Block, out: list[Inst]) -> None:
        if v in remade:
            d = remade[v]
            c = Inst(d.op, [into], list(d.srcs), dict(d.mods), list(d.smods))
        elif v.kind == "p":
            c = Inst("ISETP", [into], [words[v], ZERO, _true()], {"cmp": "NE", "type": "U32"})
        else:
            c = Inst("LDL", [into], [ZERO], {"size": "32", "off": slots[v], "spill": True})
        c.block = b
        fresh.add(into)
        out.append(c)

    for b in fn.blocks:
        out: list[Inst] = []
        for inst in b.insts:
            if inst in remade.values():
                continue
            renamed: dict[Value, Value] = {}
            for v in operands(inst):
                if v in values and v not in renamed:
                    renamed[v] = fn.value(v.kind)
                    load(v, renamed[v], b, out)
            if renamed:
                inst.srcs = [_rename(s, renamed) for s in inst.srcs]
                if inst.guard in renamed:
                    inst.guard = renamed[inst.guard]
            stores: list[Inst] = []
            changed: dict[Value, Value] = {}
            for v in results(inst):
                if v in values:
                    t = changed[v] = fn.value(v.kind)
                    fresh.add(t)
                    if v.kind == "p":
                        c = Inst("SEL", [words[v]], [ZERO, Imm(1), NotP(t)])
                    else:
                        c = Inst("STL", [], [ZERO, t], {"size": "32", "off": slots[v], "spill": True})
                    c.block = b
                    stores.append(c)
            if changed:
                inst.dsts = [_rename_dst(d, changed) for d in inst.dsts]
            out.append(inst)
            out.extend(stores)
        if b.term.pred is not None:
            for v in _of(b.term.pred):
                if v in values:
                    t = fn.value("p")
                    load(v, t, b, out)
                    b.term.pred = _rename(b.term.pred, {v: t})
        b.insts = out
    return fresh


def _true() -> Src:
    from gpuvm.compiler.mir import TRUE

    return TRUE


def _rename(s: Src, names: dict[Value, Value]) -> Src:
    if isinstance(s, Value):
        return names.get(s, s)
    if isinstance(s, NotP):
        return NotP(names.get(s.value, s.value))
    if isinstance(s, tuple):
        return tuple(_rename(x, names) for x in s)
    return s


def _rename_dst(d: Dst, names: dict[Value, Value]) -> Dst:
    if isinstance(d, tuple):
        return tuple(names.get(v, v) for v in d)
    return names.get(d, d)


__all__ = ["CB", "OPS", "SymbolWord", "allocate"]

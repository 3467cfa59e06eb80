"""Control flow made structured enough for the reconvergence stack, before SSA: loops get one header, one back
edge and one exit. Several entries or exits are told apart by a selector variable that a dispatch block tests.
"""

from __future__ import annotations

from gpuvm.compiler import graph
from gpuvm.compiler.flow import Body, End, Select


def structure(body: Body) -> None:
    """Rewrite `body` in place."""
    _share_single_return(body)
    _split_kernel_exits(body)
    succs = body.successors()
    _shape(body, graph.reverse_postorder(succs, 0), 0)
    prune(body)


def prune(body: Body) -> None:
    """Drop unreachable blocks, skip empty ones, renumber in reverse postorder."""
    blocks = body.blocks

    def final(n: int) -> int:
        seen = {n}
        while not blocks[n].items and blocks[n].end.kind == "jump":
            nxt = blocks[n].end.targets[0]
            if nxt in seen:
                break
            seen.add(nxt)
            n = nxt
        return n

    for b in blocks:
        b.end.targets = [final(t) for t in b.end.targets]
        if b.end.kind in ("branch", "select") and b.end.targets[0] == b.end.targets[1]:
            b.end = End("jump", [b.end.targets[0]], line=b.end.line)
    order = graph.reverse_postorder(body.successors(), 0)
    preds = graph.predecessors(body.successors(), order)
    gone: set[int] = set()
    for n in order:
        if n in gone:
            continue
        b = blocks[n]
        while b.end.kind == "jump":
            t = b.end.targets[0]
            if t in (0, n) or len(preds[t]) != 1:
                break
            b.items = [*b.items, *blocks[t].items]
            b.end = blocks[t].end
            gone.add(t)
    order = [n for n in order if n not in gone]
    number = {n: k for k, n in enumerate(order)}
    body.blocks = [blocks[n] for n in order]
    for b in body.blocks:
        b.end.targets = [number[t] for t in b.end.targets]


def _share_single_return(body: Body) -> None:
    """A device function returns from one block, so that RET finds the stack as CAL left it."""
    returns = [b for b in body.blocks if b.end.kind == "ret"]
    if len(returns) > 1:
        one = body.add(End("ret", line=returns[0].end.line))
        for b in returns:
            b.end = End("jump", [one], line=b.end.line)


def _split_kernel_exits(body: Body) -> None:
    """Every way into an empty exit block gets its own, which later becomes a guarded EXIT."""
    blocks = body.blocks
    for b in list(blocks):
        if b.end.kind == "jump" or len(b.end.targets) > 4:
            continue
        for k, t in enumerate(b.end.targets):
            if not blocks[t].items and blocks[t].end.kind == "exit":
                b.end.targets[k] = body.add(End("exit", line=blocks[t].end.line))
    for b in list(blocks):
        if b.end.kind == "jump":
            last = blocks[b.end.targets[0]]
            if not last.items and last.end.kind == "exit":
                b.end = End("exit", line=last.end.line)


def _redirect(body: Body, source: int, old: int, new: int) -> None:
    end = body.blocks[source].end
    end.targets = [new if t == old else t for t in end.targets]


def _dispatch(body: Body, var: str, targets: list[int]) -> int:
    """A chain of blocks that jumps to targets[k] where var == k; returns its first block."""
    nxt = targets[-1]
    for k in range(len(targets) - 2, -1, -1):
        nxt = body.add(End("select", [targets[k], nxt], var, value=k))
    if len(targets) == 1:
        return targets[0]
    return nxt


def _selector(body: Body) -> str:
    body.selectors += 1
    return f"$select{body.selectors}"


def _shape(body: Body, nodes: list[int], entry: int, is_loop: bool = False) -> None:
    """Shape the loops among `nodes`; with `is_loop`, edges back to `entry` do not count."""
    work = [(nodes, entry, is_loop)]
    while work:
        nodes, entry, is_loop = work.pop()
        inside = set(nodes)
        succs = [[t for t in b.end.targets if not (is_loop and t == entry)] for b in body.blocks]
        for comp in graph.components(succs, nodes):
            members = set(comp)
            if len(comp) == 1 and comp[0] not in succs[comp[0]]:
                continue
            header = _one_header(body, members, inside)
            _one_latch(body, members, header)
            _one_exit(body, members)
            work.append((sorted(members), header, True))


def _one_header(body: Body, members: set[int], inside: set[int]) -> int:
    heads: set[int] = set()
    for n, b in enumerate(body.blocks):
        if n not in members:
            heads.update(t for t in b.end.targets if t in members)
    ordered = sorted(heads)
    if len(ordered) == 1:
        return ordered[0]
    var = _selector(body)
    first = len(body.blocks)
    head = _dispatch(body, var, ordered)
    chain = range(first, len(body.blocks))
    for n in range(first):
        for h in ordered:
            if h in body.blocks[n].end.targets:
                setter = body.add(End("jump", [head]))
                body.blocks[setter].items.append(Select(var, ordered.index(h)))
                _redirect(body, n, h, setter)
                if n in members:
                    members.add(setter)
                    inside.add(setter)
    members.update(chain)
    inside.update(chain)
    return head


def _one_latch(body: Body, members: set[int], header: int) -> None:
    sources = [n for n in members if header in body.blocks[n].end.targets]
    if len(sources) == 1 and body.blocks[sources[0]].end.targets.count(header) == 1:
        return
    latch = body.add(End("jump", [header]))
    members.add(latch)
    for n in sources:
        _redirect(body, n, header, latch)
    body.blocks[latch].end.targets = [header]


def exit_edges(succs: graph.Adjacency, members: set[int]) -> list[tuple[int, int]]:
    """Edges that leave `members`."""
    return [(n, t) for n in sorted(members) for t in succs[n] if t not in members]


def absorb_tails(
    succs: graph.Adjacency, preds: graph.Adjacency, members: set[int]
) -> tuple[set[int], set[int]]:
    """Blocks behind a loop's exits that only its own threads reach and that lead to one place.

    Returns
    -------
    (tails, targets)
        The blocks that may count as part of the loop, and where the loop leads with them counted so.
    """
    tails: set[int] = set()
    while True:
        around = members | tails
        targets = {t for _, t in exit_edges(succs, around)}
        if len(targets) <= 1:
            return tails, targets
        more = {
            t
            for t in targets
            if len(succs[t]) == 1 and all(p in around for p in preds[t]) and succs[t][0] not in around
        }
        # swallow only while something is gained: a tail whose way on is another target, or shared by two
        # tails
        follow = [succs[t][0] for t in more]
        useful = {t for t in more if succs[t][0] in targets or follow.count(succs[t][0]) > 1}
        # ends of the kernel that only this loop reaches; one way on must stay
        if not useful:
            dead = {t for t in targets if not succs[t] and all(p in around for p in preds[t])}
            if dead == targets:
                dead.discard(max(dead))
            useful = dead
        if not useful:
            return tails, targets
        tails |= useful


def _one_exit(body: Body, members: set[int]) -> None:
    succs = body.successors()
    preds = graph.predecessors(succs)
    tails, targets = absorb_tails(succs, preds, members)
    if len(targets) <= 1:
        return
    around = members | tails
    ordered = sorted(targets)
    var = _selector(body)
    exit_block = _dispatch(body, var, ordered)
    for n, t in exit_edges(succs, around):
        if t not in body.blocks[n].end.targets:
            continue
        setter = body.add(End("jump", [exit_block]))
        body.blocks[setter].items.append(Select(var, ordered.index(t)))
        _redirect(body, n, t, setter)

"""Control flow of structured code, known before translation: basic blocks in the context of what is on the
reconvergence stack, where each lane can go from them, and which registers it still needs there.

A node is (pc, stack): the same code under another stack (a function called from two places) is another node.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gpuvm.isa.instruction import Const, Instruction, Mem, Pred, Reg
from gpuvm.jit.discover import BRANCHES, CALLS, INDIRECT, LEAVES, PUSHES, Program, always, target_of

Entry = tuple[str, int]
"""(kind, target): kind is SSY, PBK, PCNT, RET or LONGJMP."""
Stack = tuple[Entry, ...]
Node = tuple[int, Stack]

PUSH_KIND = {"SSY": "SSY", "PBK": "PBK", "PCNT": "PCNT", "PRET": "RET", "PLONGJMP": "LONGJMP"}
LEAVE_KIND = {"BRK": "PBK", "CONT": "PCNT", "RET": "RET", "LONGJMP": "LONGJMP"}
FLAGS_BIT = 70
PRED_BIT = 63
ALL = (1 << 71) - 1


class Unstructured(Exception):
    """The code branches in a way that only the general translator handles."""


@dataclass
class Block:
    """One node's straight code.

    Attributes
    ----------
    instructions : list of (pc, Instruction or None)
        None: the word does not decode.
    stack : Stack
        What is on the stack when the last instruction executes (pushes of this block included).
    successors : list of Node
        Where lanes can go, not counting what waits on the stack.
    """

    instructions: list[tuple[int, Instruction | None]] = field(default_factory=list)
    stack: Stack = ()
    successors: list[Node] = field(default_factory=list)
    uses: int = 0
    defines: int = 0
    kept: list[int] = field(default_factory=list)
    """For each instruction with a guard: what it writes whose old value is needed where the guard does not
    hold."""


@dataclass
class Flow:
    entry: Node
    blocks: dict[Node, Block]
    live: dict[Node, int]
    headers: set[Node]
    spins: set[Node]
    """Loop headers of loops that load from an address that the loop does not change."""


def find_kind(stack: Stack, kind: str) -> int:
    """Index of the innermost entry of a kind, -1 if there is none."""
    for index in range(len(stack) - 1, -1, -1):
        if stack[index][0] == kind:
            return index
    return -1


def build(program: Program, max_nodes: int, max_depth: int) -> Flow:
    """Find all nodes, their edges and liveness.

    Raises
    ------
    Unstructured
        For indirect branches, recursion or too many contexts.
    """
    if program.indirect:
        raise Unstructured("indirect branch")
    entry: Node = (program.entry, ())
    blocks: dict[Node, Block] = {}
    pending = [entry]
    while pending:
        node = pending.pop()
        if node in blocks:
            continue
        if len(blocks) >= max_nodes:
            raise Unstructured("too many contexts")
        block = blocks[node] = read_block(program, node, max_depth)
        pending.extend(block.successors)
    live = liveness(blocks)
    for block in blocks.values():
        after = 0
        for target in block.successors:
            after |= live[target]
        block.kept = [guarded_needs(block, n, after) for n in range(len(block.instructions))]
    headers = loop_headers(entry, blocks)
    return Flow(entry, blocks, live, headers, spin_headers(blocks, headers))


def read_block(program: Program, node: Node, max_depth: int) -> Block:
    pc, stack = node
    block = Block()
    while True:
        ins = program.instructions.get(pc)
        block.instructions.append((pc, ins))
        block.stack = stack
        if ins is None:
            break
        uses, defines = effects(ins)
        block.uses |= uses & ~block.defines
        if always(ins) or not ins.dst:
            block.defines |= defines
        after = pc + ins.size
        name = ins.name
        if name in PUSHES:
            target = target_of(ins)
            if target is None:
                raise Unstructured("computed push")
            stack = (*stack, (PUSH_KIND[name], target))
            if len(stack) > max_depth:
                raise Unstructured("deep stack")
        elif name in CALLS:
            target = target_of(ins)
            if target is None:
                raise Unstructured("computed call")
            inner = stack if ins.mods.get("noinc") else (*stack, ("RET", after))
            if len(inner) > max_depth or sum(1 for kind, _ in inner if kind == "RET") > 16:
                raise Unstructured("deep calls")
            block.successors.append((target, inner))
            break
        elif name in BRANCHES:
            target = target_of(ins)
            if target is None or name in INDIRECT:
                raise Unstructured("computed branch")
            block.successors.append((target, stack))
            if not always(ins):
                block.successors.append((after, stack))
            break
        elif name in LEAVES:
            kind = LEAVE_KIND.get(name)
            where = find_kind(stack, kind) if kind else -1
            if where >= 0:
                block.successors.append((stack[where][1], stack[:where]))
            if not always(ins):
                block.successors.append((after, stack))
            break
        elif name == "RTT" or (name == "BPT" and ins.mods.get("mode") == "TRAP"):
            break
        elif name == "BAR" and not ins.sync:
            block.successors.append((after, stack))
            break
        elif ins.sync:
            if name == "BAR":
                raise Unstructured("barrier with .S")
            if stack and stack[-1][0] == "SSY":
                block.successors.append((stack[-1][1], stack[:-1]))
            if not always(ins):
                block.successors.append((after, stack))
            break
        pc = after
        if pc in program.leaders:
            block.successors.append((pc, stack))
            break
    return block


def bits(index: int, count: int) -> int:
    return 0 if index >= 63 else ((1 << count) - 1) << index


def effects(ins: Instruction) -> tuple[int, int]:
    """(used, defined) registers, predicates and condition code of an instruction, as bit sets."""
    used = defined = 0
    if ins.guard.index < 7:
        used |= 1 << PRED_BIT + ins.guard.index
    for op in ins.src:
        if isinstance(op, Reg):
            used |= bits(op.index, op.count)
        elif isinstance(op, Pred):
            used |= 1 << PRED_BIT + op.index if op.index < 7 else 0
        elif isinstance(op, Mem):
            used |= bits(op.base.index, op.base.count)
        else:
            assert not isinstance(op, Const) or True
    for out in ins.dst:
        if isinstance(out, Reg):
            defined |= bits(out.index, out.count)
        elif isinstance(out, Pred) and out.index < 7:
            defined |= 1 << PRED_BIT + out.index
    mods = ins.mods
    if (
        mods.get("x")
        or mods.get("test", "T") not in ("T", "F")
        or mods.get("range") in ("XLO", "XMED", "XHI")
    ):
        used |= 1 << FLAGS_BIT
    if mods.get("cc") or mods.get("range") in ("XLO", "XMED", "XHI"):
        defined |= 1 << FLAGS_BIT
    if ins.name == "P2R":
        used |= 127 << PRED_BIT | 1 << FLAGS_BIT
    if ins.name == "R2P":
        # Writes what the mask says: keeps the rest.
        used |= 127 << PRED_BIT | 1 << FLAGS_BIT
        defined |= 127 << PRED_BIT | 1 << FLAGS_BIT
    if ins.name in ("MOV", "MOV32I") and mods.get("lanes", 15) != 15:
        used |= defined
    if ins.name in ("LDLK", "LDSLK"):
        used |= defined
    return used, defined


def guarded_needs(block: Block, index: int, live_out: int) -> int:
    """Of what a guarded instruction writes, what is read later where its guard does not hold.

    Code under one predicate computes an address and uses it: nobody looks at it elsewhere, so nothing need be
    kept.
    """
    ins = block.instructions[index][1]
    if ins is None or ins.guard.index == 7:
        return ALL
    needed = 0
    open_ = effects(ins)[1]
    guard_bit = 1 << PRED_BIT + ins.guard.index
    same_guard = not open_ & guard_bit
    for _, later in block.instructions[index + 1 :]:
        if not open_:
            return needed
        if later is None:
            break
        uses, defines = effects(later)
        same = same_guard and later.guard == ins.guard
        # The guard itself is read everywhere.
        read = uses if not same else 0
        needed |= open_ & read
        open_ &= ~read
        if always(later):
            open_ &= ~defines
        elif later.guard.index != 7 and not same:
            pass
        if defines & guard_bit:
            same_guard = False
    return needed | open_ & live_out


def liveness(blocks: dict[Node, Block]) -> dict[Node, int]:
    """What a lane at each node may still read."""
    live = dict.fromkeys(blocks, 0)
    sources: dict[Node, list[Node]] = {node: [] for node in blocks}
    for node, block in blocks.items():
        for target in block.successors:
            sources[target].append(node)
    pending = list(blocks)
    queued = set(pending)
    while pending:
        node = pending.pop()
        queued.discard(node)
        block = blocks[node]
        out = 0
        for target in block.successors:
            out |= live[target]
        new = block.uses | out & ~block.defines
        if new != live[node]:
            live[node] = new
            for source in sources[node]:
                if source not in queued:
                    queued.add(source)
                    pending.append(source)
    return live


def loop_headers(entry: Node, blocks: dict[Node, Block]) -> set[Node]:
    """Targets of back edges of a depth-first walk, and every node that a reconvergence can jump back to."""
    headers: set[Node] = set()
    state: dict[Node, int] = {}
    walk: list[tuple[Node, int]] = [(entry, 0)]
    state[entry] = 1
    while walk:
        node, index = walk.pop()
        successors = blocks[node].successors
        if index < len(successors):
            walk.append((node, index + 1))
            target = successors[index]
            if state.get(target) == 1:
                headers.add(target)
            elif target not in state:
                state[target] = 1
                walk.append((target, 0))
        else:
            state[node] = 2
    return headers


def spin_headers(blocks: dict[Node, Block], headers: set[Node]) -> set[Node]:
    """Headers of loops in which a load's address registers never change: another thread may end such a
    loop."""
    found: set[Node] = set()
    for header in headers:
        inside = loop_nodes(blocks, header)
        written = 0
        loads: list[int] = []
        for node in inside:
            for _, ins in blocks[node].instructions:
                if ins is None:
                    continue
                written |= effects(ins)[1]
                if ins.name in ("LD", "LDU", "LDS", "LDL"):
                    loads.append(
                        sum(bits(op.base.index, op.base.count) for op in ins.src if isinstance(op, Mem))
                    )
        if any(not registers & written for registers in loads):
            found.add(header)
    return found


def loop_nodes(blocks: dict[Node, Block], header: Node) -> set[Node]:
    """Nodes on a path from `header` back to it."""
    forward: set[Node] = set()
    pending = [header]
    while pending:
        node = pending.pop()
        if node in forward:
            continue
        forward.add(node)
        pending.extend(blocks[node].successors)
    sources: dict[Node, list[Node]] = {}
    for node in forward:
        for target in blocks[node].successors:
            sources.setdefault(target, []).append(node)
    inside: set[Node] = set()
    pending = list(sources.get(header, []))
    while pending:
        node = pending.pop()
        if node in inside:
            continue
        inside.add(node)
        if node != header:
            pending.extend(sources.get(node, []))
    return inside

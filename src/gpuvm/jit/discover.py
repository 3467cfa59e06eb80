"""Which instructions a kernel can reach: follows branches, calls and pushed targets from the entry.

An indirect branch (BRX, or a target in a constant bank) can go anywhere: then every instruction of the
surrounding
code, read in order until something does not decode, is a possible target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gpuvm.isa import decoder
from gpuvm.isa.errors import DecodeError
from gpuvm.isa.instruction import PT, Instruction, Target
from gpuvm.jit.space import AccessError

MAX_INSTRUCTIONS = 1 << 16
BRANCHES = frozenset({"BRA", "JMP", "BRX", "JMX"})
INDIRECT = frozenset({"BRX", "JMX"})
PUSHES = frozenset({"SSY", "PBK", "PCNT", "PRET", "PLONGJMP"})
CALLS = frozenset({"CAL", "JCAL"})
LEAVES = frozenset({"EXIT", "KIL", "RET", "BRK", "CONT", "LONGJMP"})
ENDS = BRANCHES | CALLS | LEAVES | frozenset({"BAR", "BPT", "RTT"})
"""What a basic block ends with (besides .S)."""


@dataclass
class Program:
    """Reachable code by offset.

    Attributes
    ----------
    instructions : dict
        Offset -> instruction; None where the word does not decode (an error only if it is reached).
    unreadable : set of int
        Offsets whose code is not mapped.
    leaders : set of int
        Offsets where a basic block begins.
    indirect : bool
        Whether a branch goes to a target that is not in the code.
    spans : list of (start, end)
        The bytes that were read as code, merged: what a cache key must cover.
    """

    entry: int
    instructions: dict[int, Instruction | None] = field(default_factory=dict)
    unreadable: set[int] = field(default_factory=set)
    leaders: set[int] = field(default_factory=set)
    indirect: bool = False
    spans: list[tuple[int, int]] = field(default_factory=list)

    def names(self) -> set[str]:
        return {ins.name for ins in self.instructions.values() if ins is not None}


def target_of(ins: Instruction) -> int | None:
    """The fixed target of a control instruction, None if it has none."""
    for op in ins.src:
        if isinstance(op, Target):
            return op.offset & 0xFFFFFFFF
    return None


def always(ins: Instruction) -> bool:
    """Whether the instruction acts in every active lane."""
    return ins.guard.index == PT and not ins.guard.inv and ins.mods.get("test", "T") == "T"


def discover(read: Callable[[int, int], bytes], entry: int) -> Program:
    """Find the code reachable from `entry`.

    Parameters
    ----------
    read : callable
        (offset, size) -> bytes of the code segment; raises AccessError where nothing is mapped.
    """
    program = Program(entry)
    chunks: dict[int, bytes | None] = {}

    def fetch(pc: int, size: int) -> bytes:
        got = b""
        while len(got) < size:
            at = pc + len(got)
            page = at & ~0xFFF
            if page not in chunks:
                try:
                    chunks[page] = read(page, 4096)
                except AccessError:
                    chunks[page] = None
            chunk = chunks[page]
            if chunk is None:
                return got
            got += chunk[at - page : at - page + size - len(got)]
        return got

    def decode(pc: int) -> Instruction | None:
        raw = fetch(pc, 8)
        if len(raw) < 4:
            program.unreadable.add(pc)
            return None
        try:
            return decoder.decode(raw, 0, pc)
        except DecodeError:
            return None

    pending = [entry]
    program.leaders.add(entry)
    swept = False
    while pending or (program.indirect and not swept):
        if not pending:
            swept = True
            pending = sweep(program, fetch, decode)
            continue
        pc = pending.pop()
        while pc not in program.instructions and len(program.instructions) < MAX_INSTRUCTIONS:
            ins = None if pc < 0 or pc % 4 else decode(pc)
            program.instructions[pc] = ins
            if ins is None:
                break
            after = pc + ins.size
            name = ins.name
            goes_on = True
            if name in BRANCHES or name in PUSHES or name in CALLS:
                target = target_of(ins)
                if target is None or name in INDIRECT:
                    program.indirect = True
                else:
                    program.leaders.add(target)
                    pending.append(target)
                if name in BRANCHES:
                    goes_on = not always(ins)
            elif name in LEAVES:
                goes_on = not always(ins)
            elif name == "RTT" or (name == "BPT" and ins.mods.get("mode") == "TRAP"):
                goes_on = False
            if ins.sync and always(ins):
                goes_on = False
            if not goes_on:
                break
            pc = after
    for pc, ins in program.instructions.items():
        if ins is not None and (ins.sync or ins.name in ENDS):
            program.leaders.add(pc + ins.size)
    program.leaders = {pc for pc in program.leaders if pc in program.instructions}
    for pc in sorted(program.instructions):
        found = program.instructions[pc]
        # A word that does not decode counts too: it may be written later.
        size = found.size if found is not None else len(fetch(pc, 8)) if pc >= 0 else 0
        if size == 0:
            continue
        if program.spans and pc <= program.spans[-1][1]:
            program.spans[-1] = (program.spans[-1][0], max(program.spans[-1][1], pc + size))
        else:
            program.spans.append((pc, pc + size))
    return program


def sweep(
    program: Program, fetch: Callable[[int, int], bytes], decode: Callable[[int], Instruction | None]
) -> list[int]:
    """Possible targets of indirect branches: all code in order around what is known."""
    known = [pc for pc, ins in program.instructions.items() if ins is not None]
    if not known:
        return []
    pc = min(known)
    got: list[int] = []
    while len(got) < MAX_INSTRUCTIONS:
        ins = program.instructions.get(pc) or decode(pc)
        if ins is None or not any(fetch(pc, 8)):
            program.instructions.setdefault(pc, None)  # code may be written here later
            break
        got.append(pc)
        program.leaders.add(pc)
        pc += ins.size
    return got

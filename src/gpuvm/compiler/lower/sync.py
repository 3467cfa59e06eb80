"""Barriers, votes and traps."""

from __future__ import annotations

from gpuvm.compiler.errors import CompileError, unsupported
from gpuvm.compiler.lower.core import Lowering, handles
from gpuvm.compiler.lower.memory import _guard
from gpuvm.compiler.mir import TRUE, ZERO, Imm, Src, Value
from gpuvm.compiler.ptx import ast

FULL = 0xFFFFFFFF


def _barrier(low: Lowering, o: ast.Operand) -> Src:
    s = low.word(o, "u32")
    if isinstance(s, Imm):
        if s.value > 15:
            raise CompileError(f"there are 16 barriers, 0 to 15; {s.value} is none", low.line)
        low.fn.barriers = max(low.fn.barriers, s.value + 1)
    else:
        low.fn.barriers = 16
    return s


@handles("bar", "barrier")
def bar(low: Lowering, i: ast.Instr) -> None:
    mods = [m for m in i.mods if m not in ("cta", "aligned")]
    if "cluster" in i.mods:
        raise unsupported(i.text, i.line, "clusters came with sm_90")
    b = low.builder
    if mods[:1] == ["warp"]:
        # all threads of a warp run in step
        return
    mode = mods[0] if mods else "sync"
    if mode in ("sync", "arrive"):
        if not 1 <= len(i.args) <= 2 or (mode == "arrive" and len(i.args) != 2):
            raise CompileError(f"{i.text} needs a barrier and a thread count", i.line)
        which = _barrier(low, i.args[0])
        count = low.word(i.args[1], "u32") if len(i.args) == 2 else ZERO
        count = _count(low, count)
        _guard(low, i, b.emit("BAR", [], [which, count], {"mode": "SYNC" if mode == "sync" else "ARV"}))
        return
    if mode != "red" or len(mods) < 3:
        raise CompileError(f"{i.text} is no barrier operation", i.line)
    d, *rest = i.args
    which = _barrier(low, rest[0])
    count = _count(low, low.word(rest[1], "u32") if len(rest) == 3 else ZERO)
    p = low.predicate(rest[-1])
    inst = b.emit("BARRED", "rp", [which, count, p], {"op": mods[1].upper()})
    word, flag = inst.dsts
    assert isinstance(word, Value)
    assert isinstance(flag, Value)
    if mods[1] == "popc":
        low.set_word(d, word)
    else:
        low.set_predicate(low.destination(d), flag)


def _count(low: Lowering, s: Src) -> Src:
    if isinstance(s, Imm) and s.value >= 4096:
        raise CompileError(f"a barrier counts at most 1536 threads, not {s.value}", low.line)
    return s


def _full_mask(low: Lowering, i: ast.Instr, o: ast.Operand) -> None:
    s = low.word(o, "b32")
    if not (isinstance(s, Imm) and s.value == FULL):
        inst = low.builder.maker(s, "VOTE")
        if inst is None:
            raise unsupported(
                i.text,
                i.line,
                "a vote takes all active threads of the warp on this chip; the mask must be 0xffffffff",
            )


@handles("vote")
def vote(low: Lowering, i: ast.Instr) -> None:
    b = low.builder
    args = list(i.args)
    if "sync" in i.mods:
        if len(args) != 3:
            raise CompileError(f"{i.text} takes 3 operands", i.line)
        _full_mask(low, i, args.pop())
    elif len(args) != 2:
        raise CompileError(f"{i.text} takes 2 operands", i.line)
    d, c = args
    p = low.predicate(c)
    mode = next((m for m in i.mods if m in ("all", "any", "uni", "ballot")), "")
    if not mode:
        raise CompileError(f"{i.text} needs .all, .any, .uni or .ballot", i.line)
    inst = b.emit("VOTE", "rp", [p], {"op": {"all": "ALL", "any": "ANY", "uni": "EQ", "ballot": "ANY"}[mode]})
    word, flag = inst.dsts
    assert isinstance(word, Value)
    assert isinstance(flag, Value)
    if mode == "ballot":
        low.set_word(d, word)
    else:
        low.set_predicate(low.destination(d), flag)


@handles("activemask")
def activemask(low: Lowering, i: ast.Instr) -> None:
    (d,) = low.need(i, 1)
    word = low.builder.emit("VOTE", "rp", [TRUE], {"op": "ANY"}).dsts[0]
    assert isinstance(word, Value)
    low.set_word(d, word)


@handles("brkpt")
def brkpt(low: Lowering, i: ast.Instr) -> None:
    low.builder.emit("BPT", [], [], {"mode": "PAUSE"})


@handles("pmevent")
def pmevent(low: Lowering, i: ast.Instr) -> None:
    """A performance event: nothing listens."""


@handles("isa_nop", "nop")
def nop(low: Lowering, i: ast.Instr) -> None:
    """Nothing."""

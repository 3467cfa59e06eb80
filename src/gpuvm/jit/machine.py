"""The state of a warp group while one basic block is translated: registers, predicates, condition code,
active lanes.

Operations (`ops_*.py`) read and write it; where registers live between blocks is the business of `codegen`.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuvm.isa.instruction import Const, Imm, Instruction, Operand, Pred, Reg
from gpuvm.jit.emit import FALSE, TRUE, Emitter, Flags, PVal, Scalar, Shape, Val, Wide
from gpuvm.jit.helpers import SIGNATURES
from gpuvm.jit.launch import ErrorKind


class Untranslatable(Exception):
    """An operation that the GPU of this project does not execute: ILLEGAL_INSTRUCTION when reached."""


@dataclass(frozen=True)
class Limits:
    """What of a launch is compiled in."""

    registers: int
    shared_window: int
    local_window: int
    barriers: int
    stack_entries: int
    uniform_loads: bool
    """A generic load from a uniform address is uniform (no lane can reach local memory by it)."""


# Text that kernels use for their context: set up in the prologue of every translated function.
ALIAS, SHARED, LOCAL, COUNTERS, SCRATCH = "%alias", "%shared", "%local", "%counters", "%scratch"


class Machine:
    """Symbolic registers of one block under translation."""

    def __init__(self, em: Emitter, shape: Shape, limits: Limits) -> None:
        self.em = em
        self.shape = shape
        self.limits = limits
        self.regs: list[Val | None] = [None] * 63
        self.preds: list[PVal | None] = [None] * 7
        self.flags: Flags | None = None
        self.active: PVal = TRUE
        self.guard: PVal = TRUE
        self.pc = 0
        self.constants: dict[tuple[int, int], Val] = {}
        self.wides: dict[tuple[int, int], Wide] = {}
        self.dirty: set[object] = set()
        self.gather_index = False
        """Whether base + 32-bit index is one gather instruction and other gathers are better lane by lane
        (AVX2)."""

    # Hooks of the code generator

    def use_bank(self, bank: int, top: int = 1 << 16) -> None:
        raise NotImplementedError

    def count_access(self, space: int, write: bool, segments: int, mask: PVal) -> None:
        raise NotImplementedError

    def count_atomic(self, mask: PVal) -> None:
        raise NotImplementedError

    def load_reg(self, index: int) -> Val:
        raise NotImplementedError

    def load_pred(self, index: int) -> PVal:
        raise NotImplementedError

    def load_flags(self) -> Flags:
        raise NotImplementedError

    # Registers

    def get(self, index: int) -> Val:
        if index >= 63:
            return self.em.const(0)
        got = self.regs[index]
        if got is None:
            got = self.regs[index] = self.load_reg(index)
        return got

    def put(self, index: int, value: Val) -> None:
        if index >= 63:
            return
        when = self.reg_mask(index)
        if when is not TRUE:
            value = self.em.select(when, value, self.get(index))
        self.regs[index] = value
        self.dirty.add(index)

    def reg_mask(self, index: int) -> PVal:
        """Lanes that a write of a register is confined to."""
        return self.mask()

    def pred_mask(self, index: int) -> PVal:
        return self.mask()

    def flags_mask(self) -> PVal:
        return self.mask()

    def get_pred(self, p: Pred) -> PVal:
        if p.index >= 7:
            return FALSE if p.inv else TRUE
        got = self.preds[p.index]
        if got is None:
            got = self.preds[p.index] = self.load_pred(p.index)
        return self.em.pnot(got) if p.inv else got

    def put_pred(self, index: int, value: PVal) -> None:
        if index >= 7:
            return
        when = self.pred_mask(index)
        if when is not TRUE:
            value = self.em.pselect(when, value, self.get_pred(Pred(index)))
        self.preds[index] = value
        self.dirty.add(("p", index))

    def get_flags(self) -> Flags:
        if self.flags is None:
            self.flags = self.load_flags()
        return self.flags

    def put_flags(self, value: Flags) -> None:
        when = self.flags_mask()
        if when is not TRUE:
            old, new = self.get_flags(), value
            value = Flags([lambda n=n: self.em.pselect(when, new.get(n), old.get(n)) for n in range(4)])  # type: ignore[misc]
            for n in range(4):
                value.get(n)
        self.flags = value
        self.dirty.add("cc")

    def mask(self) -> PVal:
        """Lanes in which the current instruction acts."""
        return self.em.pbin("and", self.guard, self.active)

    # Operands

    def word(self, op: Operand) -> Val:
        """The 32 bits of a source, modifiers not applied."""
        if isinstance(op, Reg):
            return self.get(op.index)
        if isinstance(op, Imm):
            return self.em.const(op.value)
        if isinstance(op, Const):
            return self.constant(op.bank, op.offset)
        raise Untranslatable(f"operand {op!r}")

    def iword(self, op: Operand) -> Val:
        """The 32 bits of an integer source with `inv` and `neg` applied."""
        value = self.word(op)
        if isinstance(op, Reg | Const | Imm):
            if op.inv:
                value = self.em.inv(value)
            if op.neg:
                value = self.em.neg(value)
        return value

    def constant(self, bank: int, offset: int) -> Val:
        """A word of a constant bank at a fixed offset."""
        got = self.constants.get((bank, offset))
        if got is None:
            got = self.em.uniform(self.constant_scalar(bank, offset, "i32"))
            self.constants[bank, offset] = got
        return got

    def constant_scalar(self, bank: int, offset: int, kind: str) -> str:
        at = self.em.op(f"getelementptr i8, ptr %bank{bank}, i64 {offset & 0xFFFF}")
        return self.em.op(f"load {kind}, ptr {at}, align 4, !invariant.load !0, !noalias !9")

    def double_words(self, op: Operand) -> tuple[Val, Val]:
        """Low and high word of a 64-bit source."""
        if isinstance(op, Reg):
            if op.index >= 63:
                return self.em.const(0), self.em.const(0)
            return self.get(op.index), self.get(op.index + 1)
        if isinstance(op, Imm):
            return self.em.const(op.value), self.em.const(op.value >> 32)
        if isinstance(op, Const):
            return self.constant(op.bank, op.offset), self.constant(op.bank, op.offset + 4)
        raise Untranslatable(f"operand {op!r}")

    def wide(self, op: Operand) -> Wide:
        lo, hi = self.double_words(op)
        return self.join(lo, hi)

    def join(self, lo: Val, hi: Val) -> Wide:
        """The 64-bit value of two words, remembered."""
        got = self.em.wide(lo, hi)
        if lo.wide is None and hi.wide is None and (lo.k != "u" or hi.k != "u") and lo is not hi:
            lo.wide, hi.wide = (got, 0), (got, 1)
        return got

    def put_wide(self, index: int, value: Wide) -> None:
        if index >= 63:
            return
        lo, hi = self.em.wide_halves(value)
        self.put(index, lo)
        self.put(index + 1, hi)

    # Errors

    def fail_if(self, bad: str, kind: ErrorKind, address: str = "0", write: bool = False) -> None:
        """Leave the launch with an error at this instruction if the i1 `bad` holds."""
        em = self.em
        stop, go = em.new_label("fail"), em.new_label("go")
        em.do(f"br i1 {bad}, label %{stop}, label %{go}, !prof !1")
        em.place(stop)
        self.fail(kind, address, write)
        em.place(go)

    def fail(self, kind: ErrorKind, address: str = "0", write: bool = False) -> None:
        """Leave the launch with an error; ends the LLVM block."""
        em = self.em
        em.declare(SIGNATURES["gpuvm_fail"])
        em.do(
            f"call void @gpuvm_fail(ptr %ctx, i32 {kind.value}, i32 {self.pc}, i64 {address}, i32 {int(write)})"
        )
        em.do("unreachable")

    def any_lane(self, p: PVal) -> str | bool:
        """An i1: whether any lane is in the mask."""
        if p.k == "u":
            return p.x if p.x is not None else False
        return self.em.op(f"icmp ne {self.em.mi} {self.em.bits(p)}, 0")


def mod_bool(ins: Instruction, name: str) -> bool:
    return bool(ins.mods.get(name, False))


def mod_text(ins: Instruction, name: str, default: str = "") -> str:
    return str(ins.mods.get(name, default))


__all__ = ["Limits", "Machine", "Scalar", "Untranslatable", "mod_bool", "mod_text"]

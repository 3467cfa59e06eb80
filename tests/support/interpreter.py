"""A lane-by-lane interpreter of Fermi machine code: slow, and plainly right. It judges `gpuvm.jit`.

Same contract as `gpuvm.jit.executor.Executor.run`: a `Launch` in, an `Outcome` out; one block after the
other, the warps of a block in turn until each waits at a barrier or has ended.

Where neither NVIDIA's PTX manual, envytools nor Mesa say what the chip does, this project has chosen, and a
comment here says so: executor and interpreter must then agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from gpuvm.isa.decoder import decode
from gpuvm.isa.errors import DecodeError
from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Operand, Pred, Reg, Special, Target
from gpuvm.jit.launch import ErrorKind, ExecutionError, Launch, Outcome, Statistics
from gpuvm.jit.space import AccessError
from support import floats as fl

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF
WIDTH = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "32": 4, "64": 8, "128": 16}
COMPARE = {
    "F": 0, "LT": 1, "EQ": 2, "LE": 3, "GT": 4, "NE": 5, "GE": 6, "NUM": 7, "NAN": 8, "LTU": 9, "EQU": 10,
    "LEU": 11, "GTU": 12, "NEU": 13, "GEU": 14, "T": 15,
}  # fmt: skip
FORMAT = {"F16": fl.F16, "F32": fl.F32, "F64": fl.F64}
INTEGRAL = {"ROUND": "RN", "FLOOR": "RM", "CEIL": "RP", "TRUNC": "RZ"}


class Stop(Exception):
    def __init__(self, kind: ErrorKind, pc: int, address: int = 0, write: bool = False) -> None:
        super().__init__(kind.name)
        self.error = ExecutionError(kind, pc, address, write)


@dataclass
class Thread:
    tid: tuple[int, int, int]
    lane: int
    regs: list[int] = field(default_factory=lambda: [0] * 64)
    preds: list[bool] = field(default_factory=lambda: [False] * 7 + [True])
    z: bool = False
    s: bool = False
    c: bool = False
    o: bool = False
    local: dict[int, int] = field(default_factory=dict)


@dataclass
class Token:
    kind: str
    mask: int
    pc: int


@dataclass
class Warp:
    index: int
    threads: list[Thread]
    pc: int
    active: int
    budget: int = 0
    stack: list[Token] = field(default_factory=list)
    waiting: tuple[int, int, bool] | None = None
    """(barrier, lanes that wait, whether they reconverge after it)."""
    vote: list[tuple[Thread, Instruction, bool]] = field(default_factory=list)
    done: bool = False


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def combine(op: str, a: bool, b: bool) -> bool:
    return a and b if op == "AND" else a or b if op == "OR" else a != b


class Interpreter:
    """Runs launches; `steps` bounds the warp instructions of one launch (past it: STOPPED)."""

    def __init__(self, steps: int = 2_000_000, turn: int = 0) -> None:
        self.limit = steps
        self.turn = turn
        """Instructions a warp runs before the next one has its turn; 0: until it waits or ends."""

    def run(self, launch: Launch, stop: object = None) -> Outcome:
        out = Outcome(statistics=Statistics())
        self.launch, self.stats, self.steps = launch, out.statistics, self.limit
        self.decoded: dict[int, Instruction] = {}
        gx, gy, gz = launch.grid
        try:
            out.blocks_done = launch.first_block
            for n in range(launch.first_block, gx * gy * gz):
                self.block((n % gx, n // gx % gy, n // (gx * gy)))
                out.blocks_done += 1
        except Stop as stopped:
            out.error = stopped.error
        out.statistics.blocks = out.blocks_done - launch.first_block
        return out

    # One block

    def block(self, ctaid: tuple[int, int, int]) -> None:
        self.ctaid = ctaid
        bx, by, bz = self.launch.block
        threads = [Thread((n % bx, n // bx % by, n // (bx * by)), n % 32) for n in range(bx * by * bz)]
        self.shared = bytearray(self.launch.shared_size)
        self.locks: dict[tuple[str, int], Thread] = {}
        self.barriers: dict[int, int] = {}
        """Warps that only arrived (BAR.ARV), by barrier."""
        self.expected: dict[int, int] = {}
        warps = [
            Warp(n // 32, threads[n : n + 32], self.launch.entry, (1 << len(threads[n : n + 32])) - 1)
            for n in range(0, len(threads), 32)
        ]
        self.warps = warps
        while not all(w.done for w in warps):
            moved = False
            for w in warps:
                left = self.turn or -1
                while not w.done and w.waiting is None and left:
                    moved = True
                    left -= 1
                    self.step(w)
                self.release()
            if not moved and all(w.waiting is not None or w.done for w in warps):
                # A barrier that can never open: the chip hangs until its watchdog ends it.
                raise Stop(ErrorKind.TRAP, -1)

    def release(self) -> None:
        for number in sorted(self.expected):
            here = [w for w in self.warps if w.waiting and w.waiting[0] == number]
            live = sum(not w.done for w in self.warps)
            arrived = len(here) + self.barriers.get(number, 0)
            # The count is of threads, in whole warps; the last one that arrives says it.
            wanted = -(-self.expected[number] // 32) or live
            if arrived and arrived >= wanted:
                votes = [v for w in here for v in w.vote]
                count = sum(v for _, _, v in votes)
                for thread, ins, _ in votes:
                    self.put(thread, ins.dst[0], count)
                    result = count == len(votes) if ins.mods["op"] == "AND" else count > 0
                    self.put_pred(thread, ins.dst[1], result)
                self.barriers[number] = 0
                del self.expected[number]
                for w in here:
                    _, lanes, sync = w.waiting
                    w.waiting, w.vote = None, []
                    if sync:
                        self.join(w, lanes)

    # One warp instruction

    def fetch(self, pc: int) -> Instruction:
        if pc not in self.decoded:
            if pc % 4:
                raise Stop(ErrorKind.ILLEGAL_INSTRUCTION, pc)
            try:
                code = self.launch.space.read(self.launch.code_base + pc, 8)
            except AccessError:
                try:
                    code = self.launch.space.read(self.launch.code_base + pc, 4)
                except AccessError as error:
                    raise Stop(ErrorKind.UNMAPPED, pc, error.va) from None
            try:
                self.decoded[pc] = decode(code, 0, pc)
            except DecodeError:
                raise Stop(ErrorKind.ILLEGAL_INSTRUCTION, pc) from None
        return self.decoded[pc]

    def step(self, w: Warp) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Stop(ErrorKind.STOPPED, w.pc)
        self.pc = w.pc
        ins = self.fetch(w.pc)
        self.stats.warp_instructions += 1
        regs = [op.base if isinstance(op, Mem) else op for op in (*ins.dst, *ins.src)]
        named = [r for r in regs if isinstance(r, Reg) and r.index != 63]
        if any(r.index + r.count > self.launch.registers for r in named):
            raise Stop(ErrorKind.OUT_OF_RANGE_REGISTER, w.pc)
        after = w.pc + ins.size & M32
        lanes = [t for t in w.threads if w.active >> t.lane & 1]
        test = "T" if ins.name in ("CSET", "CSETP") else str(ins.mods.get("test", "T"))
        acting = [t for t in lanes if self.pred(t, ins.guard) and self.test(t, test)]
        mask = sum(1 << t.lane for t in acting)
        if acting and self.unknown(ins, named):
            raise Stop(ErrorKind.ILLEGAL_INSTRUCTION, self.pc)
        w.pc = after
        if self.unknown(ins, named):
            return
        control = getattr(self, "flow_" + ins.name, None)
        if control is not None:
            control(w, ins, acting, mask)
        else:
            warp_wide = getattr(self, "warp_" + ins.name, None)
            if warp_wide is not None:
                warp_wide(w, ins, acting)
            else:
                for t in acting:
                    getattr(self, "op_" + ins.name)(t, ins)
        if ins.sync and w.waiting is None:
            self.join(w, mask)

    def unknown(self, ins: Instruction, named: list[Reg]) -> bool:
        """Whether the chip could not execute it: an error where a thread acts, nothing where none does."""
        if any(r.index % {1: 1, 2: 2}.get(r.count, 4) for r in named):
            return True
        constants = [
            o for o in ins.src if isinstance(o, Const) or (isinstance(o, Mem) and o.space == "const")
        ]
        if any(op.bank >= 18 for op in constants):
            return True
        return not any(hasattr(self, prefix + ins.name) for prefix in ("op_", "warp_", "flow_"))

    # The reconvergence stack

    def push(self, w: Warp, kind: str, pc: int, mask: int) -> None:
        top = w.stack[-1] if w.stack else None
        if kind == "DIV" and top and top.kind == "DIV" and top.pc == pc:
            # Lanes that leave a loop one by one wait in one entry.
            top.mask |= mask
            return
        if len(w.stack) >= min(max(self.launch.stack_size // 16, 32), 4096):
            raise Stop(ErrorKind.STACK, self.pc)
        w.stack.append(Token(kind, mask, pc))

    def join(self, w: Warp, mask: int) -> None:
        """.S: the lanes wait at the innermost reconvergence point, which must be an SSY's."""
        if not mask:
            return
        kinds = [token.kind for token in w.stack if token.kind != "DIV"]
        if not kinds or kinds[-1] != "SSY":
            raise Stop(ErrorKind.STACK, self.pc)
        w.active &= ~mask
        if not w.active:
            self.pop(w)

    def pop(self, w: Warp) -> None:
        while w.stack:
            token = w.stack.pop()
            if token.mask:
                w.active, w.pc = token.mask, token.pc
                return
        w.active, w.done = 0, True

    def leave(self, w: Warp, kinds: tuple[str, ...], mask: int) -> None:
        """Take lanes out up to the innermost token of `kinds`; go on with what is left on the stack."""
        if not mask:
            return
        for token in reversed(w.stack):
            if token.kind in kinds:
                break
            token.mask &= ~mask
        else:
            if kinds:
                raise Stop(ErrorKind.STACK, self.pc)
        w.active &= ~mask
        if not w.active:
            self.pop(w)

    def target(self, w: Warp, ins: Instruction, acting: list[Thread]) -> int:
        op = ins.src[-1]
        if isinstance(op, Target):
            return op.offset & M32
        assert isinstance(op, Const)
        word = self.constant(op.bank, op.offset)
        return word if ins.name.startswith("J") else self.pc + ins.size + word & M32

    def jump(self, w: Warp, mask: int, pc: int) -> None:
        if mask == 0:
            return
        rest = w.active & ~mask
        if rest:
            self.push(w, "DIV", w.pc, rest)
        w.active, w.pc = mask, pc

    def flow_BRA(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        if ins.mods["u"] and mask != w.active:
            return
        if acting:
            self.jump(w, mask, self.target(w, ins, acting))

    flow_JMP = flow_BRA

    def flow_BRX(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        """One target at a time, the lowest lane's first: lanes that want another wait and branch again."""
        if not acting:
            return
        goals: dict[int, int] = {}
        for t in acting:
            if isinstance(ins.src[0], Mem):
                word = self.constant_at(ins.src[0], t)
                to = word if ins.name == "JMX" else w.pc + word
            else:
                to = ins.src[1].offset + self.read(t, ins.src[0])
            goals[to & M32] = goals.get(to & M32, 0) | 1 << t.lane
        to, lanes = next(iter(goals.items()))
        if w.active & ~mask:
            self.push(w, "DIV", w.pc, w.active & ~mask)
        if mask & ~lanes:
            self.push(w, "DIV", self.pc, mask & ~lanes)
        w.active, w.pc = lanes, to

    flow_JMX = flow_BRX

    def flow_SSY(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.push(w, ins.name, self.target(w, ins, acting), w.active)

    flow_PBK = flow_PCNT = flow_PRET = flow_PLONGJMP = flow_SSY

    def flow_CAL(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        if not ins.mods["noinc"]:
            self.push(w, "PRET", w.pc, w.active)
        w.pc = self.target(w, ins, acting)

    flow_JCAL = flow_CAL

    def flow_BRK(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.leave(w, ("PBK",), mask)

    def flow_CONT(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.leave(w, ("PCNT",), mask)

    def flow_RET(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.leave(w, ("PRET",), mask)

    def flow_LONGJMP(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.leave(w, ("PLONGJMP",), mask)

    def flow_EXIT(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        self.leave(w, (), mask)

    flow_KIL = flow_EXIT

    def flow_NOP(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None: ...

    flow_MEMBAR = flow_PMTRIG = flow_SAM = flow_RAM = flow_NOP

    def flow_BPT(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        if ins.mods["mode"] == "TRAP":
            raise Stop(ErrorKind.TRAP, self.pc)

    def flow_BAR(self, w: Warp, ins: Instruction, acting: list[Thread], mask: int) -> None:
        if not acting:
            return
        number, count = self.read(acting[0], ins.src[0]), self.read(acting[0], ins.src[1])
        if number >= max(self.launch.barriers, 1):
            raise Stop(ErrorKind.BAD_LAUNCH, self.pc)
        self.expected[number] = count
        if ins.mods["mode"] == "ARV":
            self.barriers[number] = self.barriers.get(number, 0) + 1
            return
        w.waiting = (number, mask, ins.sync)
        if ins.mods["mode"] == "RED":
            w.vote = [(t, ins, self.pred(t, ins.src[2])) for t in acting]

    def warp_VOTE(self, w: Warp, ins: Instruction, acting: list[Thread]) -> None:
        votes = [self.pred(t, ins.src[0]) for t in acting]
        ballot = sum(1 << t.lane for t, v in zip(acting, votes, strict=True) if v)
        result = {"ALL": all(votes), "ANY": any(votes), "EQ": len(set(votes)) <= 1}[str(ins.mods["op"])]
        for t in acting:
            self.put(t, ins.dst[0], ballot)
            self.put_pred(t, ins.dst[1], result)

    def warp_FSWZADD(self, w: Warp, ins: Instruction, acting: list[Thread]) -> None:
        before = {t.lane: (self.read(t, ins.src[0]), self.read(t, ins.src[1])) for t in w.threads}
        for t in acting:
            q = t.lane & 3
            source = t.lane & ~3 | int(str(ins.mods["lane"])[q])
            a, b = before.get(source, (0, 0))[0], before[t.lane][1]
            op = ins.mods[f"op{q}"]
            if op == "SUBR":
                a ^= 1 << 31
            elif op == "SUB":
                b ^= 1 << 31
            if ins.mods["ftz"]:
                a, b = fl.flush(a, fl.F32), fl.flush(b, fl.F32)
            got = fl.canonical(b, fl.F32) if op == "MOV2" else self.fadd(a, b, ins)
            self.put(t, ins.dst[0], got)

    # Operands

    def pred(self, t: Thread, p: Operand) -> bool:
        assert isinstance(p, Pred)
        return t.preds[p.index] != p.inv

    def test(self, t: Thread, name: str) -> bool:
        if name == "T":
            return True
        if name in COMPARE:
            less, equal, nan = t.s != t.o, t.z, False
            # A signed comparison by flags; zero and sign together mean unordered, as floats set them.
            if t.z and t.s:
                less, equal, nan = False, False, True
            bits = COMPARE[name]
            return bool(bits & (8 if nan else 2 if equal else 1 if less else 4))
        return {
            "OFF": not t.o, "LO": not t.c, "SFF": not t.s, "LS": t.z or not t.c, "HI": t.c and not t.z,
            "SFT": t.s, "HS": t.c, "OFT": t.o,
        }[name]  # fmt: skip

    def raw(self, t: Thread, op: Operand, count: int = 1) -> int:
        if isinstance(op, Reg):
            n = max(op.count, count)
            if op.index >= 63:
                return 0
            return sum(t.regs[op.index + i] << 32 * i for i in range(n))
        if isinstance(op, Const):
            value = self.constant(op.bank, op.offset)
            return value | self.constant(op.bank, op.offset + 4) << 32 if count == 2 else value
        assert isinstance(op, Imm), op
        return op.value

    def read(self, t: Thread, op: Operand) -> int:
        """An integer operand with its modifiers, 32 bits."""
        value = self.raw(t, op)
        assert isinstance(op, Reg | Const | Imm)
        if op.abs:
            value = abs(signed(value))
        if op.neg:
            value = -value
        if op.inv:
            value = ~value
        return value & M32

    def f32(self, t: Thread, op: Operand, ftz: bool = False) -> int:
        return self.fmods(self.raw(t, op), op, fl.F32, ftz)

    def f64(self, t: Thread, op: Operand) -> int:
        return self.fmods(self.raw(t, op, 2), op, fl.F64, False)

    def fmods(self, value: int, op: Operand, f: fl.Format, ftz: bool) -> int:
        assert isinstance(op, Reg | Const | Imm)
        if ftz:
            value = fl.flush(value, f)
        if op.abs:
            value &= f.sign - 1
        if op.neg:
            value ^= f.sign
        return value

    def put(self, t: Thread, op: Operand, value: int) -> None:
        assert isinstance(op, Reg)
        if op.index == 63:
            return
        for i in range(op.count):
            t.regs[op.index + i] = value >> 32 * i & M32

    def put64(self, t: Thread, op: Operand, value: int) -> None:
        assert isinstance(op, Reg)
        self.put(t, Reg(op.index, 2), value)

    def put_pred(self, t: Thread, op: Operand, value: bool) -> None:
        assert isinstance(op, Pred)
        if op.index != 7:
            t.preds[op.index] = value

    def flags(self, t: Thread, ins: Instruction, value: int, c: bool = False, o: bool = False) -> None:
        if ins.mods.get("cc"):
            t.z, t.s, t.c, t.o = value & M32 == 0, bool(value >> 31 & 1), c, o

    def wide_flags(self, t: Thread, ins: Instruction, value: int, size: int) -> None:
        """Of a conversion to an integer of any size: all 64 bits of a long one count (our choice)."""
        bits = 64 if size == 64 else 32
        value &= (1 << bits) - 1
        self.flags(t, ins, value >> 32 & 0x80000000 | bool(value) if size == 64 else value)

    def fflags(self, t: Thread, ins: Instruction, value: int, f: fl.Format = fl.F32) -> None:
        if ins.mods.get("cc"):
            nan = fl.is_nan(value, f)
            # Zero and sign together mean unordered, so a minus zero is not negative.
            zero = value & (f.sign - 1) == 0
            t.z = zero or nan
            t.s = (fl.negative(value, f) and not zero) or nan
            t.c = t.o = False

    def constant(self, bank: int, offset: int, size: int = 4) -> int:
        """A constant; bytes past the end of the buffer are 0."""
        banks = self.launch.constants
        b = banks[bank] if bank < len(banks) else None
        have = 0 if b is None else min(size, min(b.size, 1 << 16) - offset)
        if b is None or have <= 0:
            return 0
        try:
            return int.from_bytes(self.launch.space.read(b.address + offset, have), "little")
        except AccessError as error:
            raise Stop(ErrorKind.UNMAPPED, self.pc, error.va) from None

    def constant_at(self, m: Mem, t: Thread) -> int:
        return self.constant(m.bank, (self.raw(t, m.base) + m.offset) & 0xFFFFFFFC)

    # Float

    def fadd(self, a: int, b: int, ins: Instruction) -> int:
        got = fl.add(a, b, fl.F32, str(ins.mods.get("rnd", "RN")))
        return self.fin(got, ins)

    def fin(self, bits: int, ins: Instruction) -> int:
        if ins.mods.get("ftz") or ins.mods.get("fmz"):
            bits = fl.flush(bits, fl.F32)
        if ins.mods.get("sat"):
            bits = self.saturate(bits, fl.F32)
        return bits

    def saturate(self, bits: int, f: fl.Format) -> int:
        one = f.bias << f.mantissa
        if fl.is_nan(bits, f) or fl.negative(bits, f):
            return 0
        return min(bits, one)

    def op_FADD(self, t: Thread, ins: Instruction) -> None:
        ftz = bool(ins.mods.get("ftz"))
        got = self.fadd(self.f32(t, ins.src[0], ftz), self.f32(t, ins.src[1], ftz), ins)
        self.put(t, ins.dst[0], got)
        self.fflags(t, ins, got)

    op_FADD32I = op_FADD

    def op_FMUL(self, t: Thread, ins: Instruction) -> None:
        from fractions import Fraction

        flush = bool(ins.mods.get("ftz") or ins.mods.get("fmz"))
        a, b = self.f32(t, ins.src[0], flush), self.f32(t, ins.src[1], flush)
        name = str(ins.mods.get("scale", ""))
        scale = Fraction(int(name[1:] or 1)) ** (-1 if name[:1] == "D" else 1) if name else Fraction(1)
        if ins.mods.get("fmz") and 0 in (a & 0x7FFFFFFF, b & 0x7FFFFFFF):
            got = 0
        else:
            got = fl.mul(a, b, fl.F32, str(ins.mods.get("rnd", "RN")), scale)
        got = self.fin(got, ins)
        self.put(t, ins.dst[0], got)
        self.fflags(t, ins, got)

    op_FMUL32I = op_FMUL

    def op_FFMA(self, t: Thread, ins: Instruction) -> None:
        flush = bool(ins.mods.get("ftz") or ins.mods.get("fmz"))
        a, b, c = (self.f32(t, s, flush) for s in ins.src)
        rnd = str(ins.mods.get("rnd", "RN"))
        if ins.mods.get("fmz") and 0 in (a & 0x7FFFFFFF, b & 0x7FFFFFFF):
            got = fl.add(0, c, fl.F32, rnd)
        else:
            got = fl.fma(a, b, c, fl.F32, rnd)
        got = self.fin(got, ins)
        self.put(t, ins.dst[0], got)
        self.fflags(t, ins, got)

    op_FFMA32I = op_FFMA

    def minmax(self, a: int, b: int, f: fl.Format, least: bool) -> int:
        if fl.is_nan(a, f):
            return f.nan if fl.is_nan(b, f) else b
        if fl.is_nan(b, f):
            return a
        order = fl.compare(a, b, f)
        if order == 2:
            # Equal but for the sign of zero: -0 is the lesser.
            first = a if fl.negative(a, f) else b
            return first if least else (b if first == a else a)
        return a if (order == 1) == least else b

    def op_FMNMX(self, t: Thread, ins: Instruction) -> None:
        ftz = bool(ins.mods.get("ftz"))
        a, b = self.f32(t, ins.src[0], ftz), self.f32(t, ins.src[1], ftz)
        got = self.minmax(a, b, fl.F32, self.pred(t, ins.src[2]))
        self.put(t, ins.dst[0], got)
        self.fflags(t, ins, got)

    def fcmp(self, ins: Instruction, a: int, b: int, f: fl.Format) -> bool:
        return bool(COMPARE[str(ins.mods["cmp"])] & fl.compare(a, b, f))

    def set_result(self, t: Thread, ins: Instruction, result: bool) -> None:
        self.put(t, ins.dst[0], (0x3F800000 if ins.mods.get("bf") else M32) if result else 0)
        if ins.mods.get("bf"):
            self.fflags(t, ins, 0x3F800000 if result else 0)
        else:
            self.flags(t, ins, M32 if result else 0)

    def setp_result(self, t: Thread, ins: Instruction, result: bool, with_: bool) -> None:
        bop = str(ins.mods["bop"])
        self.put_pred(t, ins.dst[0], combine(bop, result, with_))
        self.put_pred(t, ins.dst[1], combine(bop, not result, with_))

    def op_FSET(self, t: Thread, ins: Instruction) -> None:
        ftz = bool(ins.mods.get("ftz"))
        r = self.fcmp(ins, self.f32(t, ins.src[0], ftz), self.f32(t, ins.src[1], ftz), fl.F32)
        self.set_result(t, ins, combine(str(ins.mods["bop"]), r, self.pred(t, ins.src[2])))

    def op_FSETP(self, t: Thread, ins: Instruction) -> None:
        ftz = bool(ins.mods.get("ftz"))
        r = self.fcmp(ins, self.f32(t, ins.src[0], ftz), self.f32(t, ins.src[1], ftz), fl.F32)
        self.setp_result(t, ins, r, self.pred(t, ins.src[2]))

    def op_FCMP(self, t: Thread, ins: Instruction) -> None:
        r = self.fcmp(ins, self.f32(t, ins.src[2], bool(ins.mods.get("ftz"))), 0, fl.F32)
        self.put(t, ins.dst[0], self.raw(t, ins.src[0 if r else 1]))

    def op_DADD(self, t: Thread, ins: Instruction) -> None:
        got = fl.add(self.f64(t, ins.src[0]), self.f64(t, ins.src[1]), fl.F64, str(ins.mods["rnd"]))
        self.put64(t, ins.dst[0], got)
        self.fflags(t, ins, got, fl.F64)

    def op_DMUL(self, t: Thread, ins: Instruction) -> None:
        got = fl.mul(self.f64(t, ins.src[0]), self.f64(t, ins.src[1]), fl.F64, str(ins.mods["rnd"]))
        self.put64(t, ins.dst[0], got)
        self.fflags(t, ins, got, fl.F64)

    def op_DFMA(self, t: Thread, ins: Instruction) -> None:
        a, b, c = (self.f64(t, s) for s in ins.src)
        got = fl.fma(a, b, c, fl.F64, str(ins.mods["rnd"]))
        self.put64(t, ins.dst[0], got)
        self.fflags(t, ins, got, fl.F64)

    def op_DMNMX(self, t: Thread, ins: Instruction) -> None:
        got = self.minmax(self.f64(t, ins.src[0]), self.f64(t, ins.src[1]), fl.F64, self.pred(t, ins.src[2]))
        self.put64(t, ins.dst[0], got)
        self.fflags(t, ins, got, fl.F64)

    def op_DSET(self, t: Thread, ins: Instruction) -> None:
        r = self.fcmp(ins, self.f64(t, ins.src[0]), self.f64(t, ins.src[1]), fl.F64)
        self.set_result(t, ins, combine(str(ins.mods["bop"]), r, self.pred(t, ins.src[2])))

    def op_DSETP(self, t: Thread, ins: Instruction) -> None:
        r = self.fcmp(ins, self.f64(t, ins.src[0]), self.f64(t, ins.src[1]), fl.F64)
        self.setp_result(t, ins, r, self.pred(t, ins.src[2]))

    def op_RRO(self, t: Thread, ins: Instruction) -> None:
        # The reduced form is the hardware's own; MUFU here takes the argument as it is.
        self.put(t, ins.dst[0], fl.canonical(self.f32(t, ins.src[0]), fl.F32))

    def op_MUFU(self, t: Thread, ins: Instruction) -> None:
        op = str(ins.mods["op"])
        bits = self.f32(t, ins.src[0])
        if op.endswith("64H"):
            # As rcp.approx.ftz.f64 promises: denormals count as zero, also as results.
            x = fl.to_float(fl.flush(bits << 32, fl.F64), fl.F64)
            got = fl.flush(fl.from_float(self.special(op[:3], x), fl.F64), fl.F64) >> 32
            self.put(t, ins.dst[0], got)
            return
        got = fl.from_float(self.special(op, fl.to_float(fl.flush(bits, fl.F32), fl.F32)), fl.F32)
        got = fl.flush(got, fl.F32)
        self.put(t, ins.dst[0], self.saturate(got, fl.F32) if ins.mods.get("sat") else got)

    def special(self, op: str, x: float) -> float:
        if math.isnan(x):
            return x
        if op == "RCP":
            return math.copysign(math.inf, x) if x == 0 else 1 / x
        if op == "RSQ":
            if x == 0:
                return math.copysign(math.inf, x)
            return math.nan if x < 0 else 0.0 if math.isinf(x) else 1 / math.sqrt(x)
        if op == "LG2":
            return -math.inf if x == 0 else math.nan if x < 0 else x if math.isinf(x) else math.log2(x)
        if op == "EX2":
            return math.inf if x >= 128 else 0.0 if x < -150 else 2.0**x
        if math.isinf(x):
            return math.nan
        return math.sin(x) if op == "SIN" else math.cos(x)

    # Conversions

    def op_F2F(self, t: Thread, ins: Instruction) -> None:
        d, s, rnd = FORMAT[str(ins.mods["dtype"])], FORMAT[str(ins.mods["stype"])], str(ins.mods["rnd"])
        bits = self.source(t, ins, s)
        if ins.mods["ftz"] and s is fl.F32:
            bits = fl.flush(bits, s)
        if rnd in INTEGRAL and not fl.is_nan(bits, s) and not fl.is_inf(bits, s):
            whole = fl.integral(fl.exact(bits, s), INTEGRAL[rnd])
            bits = fl.rounded(fl.exact(bits, s) * 0 + whole, s, "RN", fl.negative(bits, s))
            rnd = "RN"
        if fl.is_nan(bits, s):
            got = d.nan
        elif fl.is_inf(bits, s):
            got = d.infinity | (d.sign if fl.negative(bits, s) else 0)
        else:
            got = fl.rounded(fl.exact(bits, s), d, "RN" if rnd in INTEGRAL else rnd, fl.negative(bits, s))
        if ins.mods["ftz"] and d is fl.F32:
            got = fl.flush(got, d)
        if ins.mods["sat"]:
            got = self.saturate(got, d)
        (self.put64 if d is fl.F64 else self.put)(t, ins.dst[0], got)
        self.fflags(t, ins, got, d)

    def source(self, t: Thread, ins: Instruction, f: fl.Format) -> int:
        op = ins.src[-1]
        bits = self.raw(t, op, 2 if f is fl.F64 else 1)
        if f is fl.F16:
            bits = bits >> (16 if ins.mods["part"] == "B2" else 0) & 0xFFFF
        return self.fmods(bits, op, f, False)

    def op_F2I(self, t: Thread, ins: Instruction) -> None:
        s, dtype, rnd = FORMAT[str(ins.mods["stype"])], str(ins.mods["dtype"]), str(ins.mods["rnd"])
        bits = self.source(t, ins, s)
        if ins.mods["ftz"] and s is fl.F32:
            bits = fl.flush(bits, s)
        size = int(dtype[1:])
        low = -(1 << (size - 1)) if dtype[0] == "S" else 0
        high = (1 << (size - (dtype[0] == "S"))) - 1
        if fl.is_nan(bits, s):
            # PTX: zero, but the most negative number if the source is a double or the result has 64 bits.
            value = 0 if size < 64 and s is not fl.F64 else 1 << (size - 1)
            value = signed(value, size) if dtype[0] == "S" else value
        elif fl.is_inf(bits, s):
            value = low if fl.negative(bits, s) else high
        else:
            value = min(max(fl.integral(fl.exact(bits, s), INTEGRAL[rnd]), low), high)
        (self.put64 if size == 64 else self.put)(t, ins.dst[0], value & (M64 if size == 64 else M32))
        self.wide_flags(t, ins, value, size)

    def integer(self, t: Thread, ins: Instruction, stype: str) -> int:
        op = ins.src[-1]
        size = int(stype[1:])
        bits = self.raw(t, op, 2 if size == 64 else 1)
        if size < 32:
            bits >>= 8 * int(str(ins.mods["part"])[1:])
        value = signed(bits, size) if stype[0] == "S" else bits & ((1 << size) - 1)
        assert isinstance(op, Reg | Const | Imm)
        value = abs(value) if op.abs else value
        return -value if op.neg else value

    def op_I2F(self, t: Thread, ins: Instruction) -> None:
        from fractions import Fraction

        d = FORMAT[str(ins.mods["dtype"])]
        value = self.integer(t, ins, str(ins.mods["stype"]))
        got = fl.rounded(Fraction(value), d, str(ins.mods["rnd"]))
        (self.put64 if d is fl.F64 else self.put)(t, ins.dst[0], got)
        self.fflags(t, ins, got, d)

    def op_I2I(self, t: Thread, ins: Instruction) -> None:
        dtype = str(ins.mods["dtype"])
        value = self.integer(t, ins, str(ins.mods["stype"]))
        size = int(dtype[1:])
        if ins.mods["sat"]:
            low = -(1 << (size - 1)) if dtype[0] == "S" else 0
            value = min(max(value, low), (1 << (size - (dtype[0] == "S"))) - 1)
        value = signed(value, size) if dtype[0] == "S" else value & ((1 << size) - 1)
        (self.put64 if size == 64 else self.put)(t, ins.dst[0], value & M64)
        self.wide_flags(t, ins, value, size)

    # Integer

    def add(self, t: Thread, ins: Instruction, a: int, b: int, na: bool, nb: bool) -> int:
        """±a ± b (+ carry, + 1) as an adder does it: negation is inversion and a carry in."""
        a, b = (~a if na else a) & M32, (~b if nb else b) & M32
        # PO is the code of "both negated": the adder's carry in without an inversion.
        carry = int(t.c) if ins.mods.get("x") else int(bool(na or nb or ins.mods.get("po")))
        total = a + b + carry
        value = total & M32
        overflow = bool((a ^ value) & (b ^ value) & 0x80000000)
        if ins.mods.get("sat") and overflow:
            value = 0x7FFFFFFF if value >> 31 else 0x80000000
        self.flags(t, ins, value, bool(total >> 32), overflow)
        return value

    def op_IADD(self, t: Thread, ins: Instruction) -> None:
        a, b = ins.src
        assert isinstance(a, Reg | Const | Imm)
        assert isinstance(b, Reg | Const | Imm)
        self.put(t, ins.dst[0], self.add(t, ins, self.raw(t, a), self.raw(t, b), a.neg, b.neg))

    op_IADD32I = op_IADD

    def product(self, t: Thread, ins: Instruction) -> int:
        a, b = self.raw(t, ins.src[0]), self.raw(t, ins.src[1])
        a = signed(a) if ins.mods["atype"] == "S32" else a
        b = signed(b) if ins.mods["btype"] == "S32" else b
        return (a * b >> 32 if ins.mods["hi"] else a * b) & M32

    def op_IMUL(self, t: Thread, ins: Instruction) -> None:
        value = self.product(t, ins)
        self.put(t, ins.dst[0], value)
        self.flags(t, ins, value)

    op_IMUL32I = op_IMUL

    def op_IMAD(self, t: Thread, ins: Instruction) -> None:
        a, c = ins.src[0], ins.src[2]
        assert isinstance(a, Reg | Const | Imm)
        assert isinstance(c, Reg | Const | Imm)
        self.put(t, ins.dst[0], self.add(t, ins, self.product(t, ins), self.raw(t, c), a.neg, c.neg))

    op_IMAD32I = op_IMAD

    def op_ISCADD(self, t: Thread, ins: Instruction) -> None:
        a, b, shift = ins.src
        assert isinstance(a, Reg | Const | Imm)
        assert isinstance(b, Reg | Const | Imm)
        left = self.raw(t, a) << self.raw(t, shift) & M32
        self.put(t, ins.dst[0], self.add(t, ins, left, self.raw(t, b), a.neg, b.neg))

    op_ISCADD32I = op_ISCADD

    def op_ISAD(self, t: Thread, ins: Instruction) -> None:
        a, b = (self.typed(self.raw(t, s), ins) for s in ins.src[:2])
        self.put(t, ins.dst[0], self.add(t, ins, abs(a - b), self.raw(t, ins.src[2]), False, False))

    def typed(self, value: int, ins: Instruction) -> int:
        return signed(value) if ins.mods["type"] == "S32" else value

    def op_IMNMX(self, t: Thread, ins: Instruction) -> None:
        a, b = (self.typed(self.raw(t, s), ins) for s in ins.src[:2])
        least = self.pred(t, ins.src[2])
        if ins.mods["range"]:
            # Words of a wider minimum, the highest first: Z says "equal so far", C "a is less" (our choice).
            less, same = a < b, a == b
            if ins.mods["range"] != "XHI":
                less = self.raw(t, ins.src[0]) < self.raw(t, ins.src[1]) if t.z else t.c
                same = same and t.z
            value = (a if less == least else b) & M32
            self.put(t, ins.dst[0], value)
            t.z, t.s, t.c, t.o = same, bool(value >> 31), less, False
            return
        value = (min if least else max)(a, b) & M32
        self.put(t, ins.dst[0], value)
        self.flags(t, ins, value)

    def icmp(self, t: Thread, ins: Instruction, a: int, b: int) -> bool:
        x = bool(ins.mods.get("x"))
        if x:
            # The high words of a wider comparison: the low words' difference left carry (not less) and zero.
            a, b = self.typed(a, ins), self.typed(b, ins)
            order = 1 if a < b or (a == b and not t.c) else 2 if a == b and t.z else 4
            # Equal low words leave a carry: the other pair of flags is no comparison's, and counts as both.
            if a == b and t.z and not t.c:
                order = 3
        else:
            a, b = self.typed(a, ins), self.typed(b, ins)
            order = 1 if a < b else 2 if a == b else 4
        if order == 3:
            return {"LT": True, "EQ": True, "LE": True, "GT": False, "NE": False, "GE": False}.get(
                str(ins.mods["cmp"]).removesuffix("U"), str(ins.mods["cmp"]) in ("NUM", "T")
            )
        return bool(COMPARE[str(ins.mods["cmp"])] & order)

    def op_ISET(self, t: Thread, ins: Instruction) -> None:
        r = self.icmp(t, ins, self.raw(t, ins.src[0]), self.raw(t, ins.src[1]))
        self.set_result(t, ins, combine(str(ins.mods["bop"]), r, self.pred(t, ins.src[2])))

    def op_ISETP(self, t: Thread, ins: Instruction) -> None:
        r = self.icmp(t, ins, self.raw(t, ins.src[0]), self.raw(t, ins.src[1]))
        self.setp_result(t, ins, r, self.pred(t, ins.src[2]))

    def op_ICMP(self, t: Thread, ins: Instruction) -> None:
        r = self.icmp(t, ins, self.raw(t, ins.src[2]), 0)
        self.put(t, ins.dst[0], self.raw(t, ins.src[0 if r else 1]))

    def op_BFE(self, t: Thread, ins: Instruction) -> None:
        a, b = self.raw(t, ins.src[0]), self.raw(t, ins.src[1])
        if ins.mods["brev"]:
            a = int(f"{a:032b}"[::-1], 2)
        position, length = b & 0xFF, b >> 8 & 0xFF
        wide = self.typed(a, ins)
        if length == 0:
            value = 0
        else:
            value = wide >> min(position, 64)
            if length < 32:
                field_ = value & ((1 << length) - 1)
                top = wide >> min(position + length - 1, 31) & 1
                value = field_ - (1 << length) if ins.mods["type"] == "S32" and top else field_
        value &= M32
        self.put(t, ins.dst[0], value)
        self.flags(t, ins, value)

    def op_BFI(self, t: Thread, ins: Instruction) -> None:
        a, b, c = (self.raw(t, s) for s in ins.src)
        position, length = b & 0xFF, b >> 8 & 0xFF
        mask = ((1 << length) - 1) << position & M32
        value = (a << position & mask) | (c & ~mask)
        self.put(t, ins.dst[0], value)
        self.flags(t, ins, value)

    def op_FLO(self, t: Thread, ins: Instruction) -> None:
        a = self.read(t, ins.src[0])
        if ins.mods["type"] == "S32" and a >> 31:
            a = ~a & M32
        top = a.bit_length() - 1
        value = M32 if top < 0 else 31 - top if ins.mods["sh"] else top
        self.put(t, ins.dst[0], value)
        self.flags(t, ins, value)

    def op_POPC(self, t: Thread, ins: Instruction) -> None:
        self.put(t, ins.dst[0], (self.read(t, ins.src[0]) & self.read(t, ins.src[1])).bit_count())

    def op_SHL(self, t: Thread, ins: Instruction) -> None:
        a, b = self.raw(t, ins.src[0]), self.raw(t, ins.src[1])
        count = b & 31 if ins.mods["w"] else min(b, 32)
        whole = a << count
        value = whole & M32
        self.put(t, ins.dst[0], value)
        # Carry and overflow as envytools measured them on Tesla: 32 and more leave no carry.
        self.flags(
            t, ins, value, count < 32 and bool(whole >> 32 & 1), count == 1 and bool((a ^ value) >> 31)
        )

    def op_SHR(self, t: Thread, ins: Instruction) -> None:
        a, b = self.raw(t, ins.src[0]), self.raw(t, ins.src[1])
        if ins.mods["brev"]:
            a = int(f"{a:032b}"[::-1], 2)
        count = b & 31 if ins.mods["w"] else min(b, 32)
        value = self.typed(a, ins) >> count & M32
        self.put(t, ins.dst[0], value)
        self.flags(
            t, ins, value, 0 < count < 32 and bool(a >> count - 1 & 1), count == 1 and bool((a ^ value) >> 31)
        )

    def op_LOP(self, t: Thread, ins: Instruction) -> None:
        a, b = self.read(t, ins.src[0]), self.read(t, ins.src[1])
        value = {"AND": a & b, "OR": a | b, "XOR": a ^ b, "PASS_B": b}[str(ins.mods["op"])]
        self.put(t, ins.dst[0], value)
        z = t.z
        self.flags(t, ins, value)
        if ins.mods.get("cc") and ins.mods.get("x"):
            t.z = t.z and z

    op_LOP32I = op_LOP

    def op_PRMT(self, t: Thread, ins: Instruction) -> None:
        a, b, c = (self.raw(t, s) for s in ins.src)
        pool = a | c << 32
        mode = str(ins.mods["mode"])
        n = b & 3
        if mode == "":
            picks = [b >> 4 * i & 15 for i in range(4)]
        elif mode == "F4E":
            picks = [n + i for i in range(4)]
        elif mode == "B4E":
            picks = [(n - i) % 8 for i in range(4)]
        elif mode == "RC8":
            picks = [n] * 4
        elif mode == "ECL":
            picks = [max(i, n) for i in range(4)]
        elif mode == "ECR":
            picks = [min(i, n) for i in range(4)]
        else:
            picks = [(n & 1) * 2, (n & 1) * 2 + 1] * 2
        value = 0
        for i, pick in enumerate(picks):
            byte = pool >> 8 * (pick & 7) & 0xFF
            if pick & 8:
                byte = 0xFF if byte >> 7 else 0
            value |= byte << 8 * i
        self.put(t, ins.dst[0], value)

    # Video operations on one part of each register, as PTX describes them

    def video(self, t: Thread, ins: Instruction, which: int) -> int:
        op, kind = ins.src[which], str(ins.mods["atype" if which == 0 else "btype"])
        select = str(ins.mods["asel" if which == 0 else "bsel"])
        bits = {"": 32, "B": 8, "H": 16}[select[:1]]
        low = bits * int(select[1:] or 0)
        value = self.raw(t, op) >> low & ((1 << bits) - 1)
        value = signed(value, bits) if kind[0] == "S" else value
        assert isinstance(op, Reg | Imm)
        return -value if op.neg else value

    def video_put(self, t: Thread, ins: Instruction, value: int) -> None:
        merge, kind = str(ins.mods["merge"]), str(ins.mods.get("dtype", "U32"))
        bits = {"B": 8, "H": 16}.get(merge[:1], 32)
        if ins.mods.get("sat"):
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind[0] == "S" else (0, (1 << bits) - 1)
            value = min(max(value, low), high)
        c = self.raw(t, ins.src[2])
        order = signed if kind[0] == "S" else (lambda x: x & M32)
        if merge == "ACC":
            value += c
        elif merge in ("MIN", "MAX"):
            value = (min if merge == "MIN" else max)(value & M32, c, key=order)
        elif merge:
            place = (1 << bits) - 1 << bits * int(merge[1:]) if bits == 16 else 255 << 8 * int(merge[1:])
            shift = bits * int(merge[1:])
            value = c & ~place | (value << shift & place)
        self.put(t, ins.dst[0], value & M32)
        self.flags(t, ins, value & M32)

    def op_VADD(self, t: Thread, ins: Instruction) -> None:
        self.video_put(t, ins, self.video(t, ins, 0) + self.video(t, ins, 1) + int(bool(ins.mods["po"])))

    def op_VMNMX(self, t: Thread, ins: Instruction) -> None:
        self.video_put(t, ins, (max if ins.mods["mx"] else min)(self.video(t, ins, 0), self.video(t, ins, 1)))

    def op_VABSDIFF(self, t: Thread, ins: Instruction) -> None:
        self.video_put(t, ins, abs(self.video(t, ins, 0) - self.video(t, ins, 1)))

    def video_test(self, t: Thread, ins: Instruction) -> bool:
        a, b = self.video(t, ins, 0), self.video(t, ins, 1)
        return bool(COMPARE[str(ins.mods["cmp"])] & (1 if a < b else 2 if a == b else 4))

    def op_VSET(self, t: Thread, ins: Instruction) -> None:
        self.video_put(t, ins, int(self.video_test(t, ins)))

    def op_VSETP(self, t: Thread, ins: Instruction) -> None:
        self.setp_result(t, ins, self.video_test(t, ins), self.pred(t, ins.src[2]))

    def op_VSHL(self, t: Thread, ins: Instruction) -> None:
        count = self.video(t, ins, 1) & M32
        count = count & 31 if ins.mods["w"] else min(count, 32)
        a = self.video(t, ins, 0)
        self.video_put(t, ins, a << count if ins.name == "VSHL" else a >> count)

    op_VSHR = op_VSHL

    # Moves and predicates

    def op_MOV(self, t: Thread, ins: Instruction) -> None:
        if int(ins.mods["lanes"]) >> (t.lane & 3) & 1:
            self.put(t, ins.dst[0], self.raw(t, ins.src[0]))

    op_MOV32I = op_MOV

    def op_SEL(self, t: Thread, ins: Instruction) -> None:
        self.put(t, ins.dst[0], self.raw(t, ins.src[0 if self.pred(t, ins.src[2]) else 1]))

    def op_S2R(self, t: Thread, ins: Instruction) -> None:
        special = ins.src[0]
        assert isinstance(special, Special)
        x, y, z = t.tid
        warp = (x + self.launch.block[0] * (y + self.launch.block[1] * z)) // 32
        lane = 1 << t.lane
        values: dict[str, Callable[[], int]] = {
            "SR_LANEID": lambda: t.lane,
            "SR_TID": lambda: x | y << 16 | z << 26,
            "SR_TID.X": lambda: x,
            "SR_TID.Y": lambda: y,
            "SR_TID.Z": lambda: z,
            "SR_CTAID.X": lambda: self.ctaid[0],
            "SR_CTAID.Y": lambda: self.ctaid[1],
            "SR_CTAID.Z": lambda: self.ctaid[2],
            "SR_NTID.X": lambda: self.launch.block[0],
            "SR_NTID.Y": lambda: self.launch.block[1],
            "SR_NTID.Z": lambda: self.launch.block[2],
            "SR_NCTAID.X": lambda: self.launch.grid[0],
            "SR_NCTAID.Y": lambda: self.launch.grid[1],
            "SR_NCTAID.Z": lambda: self.launch.grid[2],
            "SR_NTID": lambda: self.launch.block[0] | self.launch.block[1] << 16 | self.launch.block[2] << 26,
            "SR_SWINLO": lambda: self.launch.shared_window & M32,
            "SR_LWINLO": lambda: self.launch.local_window & M32,
            "SR_SWINSZ": lambda: 1 << 24,
            "SR_LWINSZ": lambda: 1 << 24,
            "SR_SMEMSZ": lambda: self.launch.shared_size,
            "SR_SMEMBANKS": lambda: 32,
            "SR_LMEMLOSZ": lambda: self.launch.local_positive,
            "SR_LMEMHIOFF": lambda: (1 << 24) - self.launch.local_negative,
            "SR_EQMASK": lambda: lane,
            "SR_LTMASK": lambda: lane - 1,
            "SR_LEMASK": lambda: lane | (lane - 1),
            "SR_GTMASK": lambda: ~(lane | (lane - 1)) & M32,
            "SR_GEMASK": lambda: ~(lane - 1) & M32,
            "SR_VIRTID": lambda: warp << 8,
        }
        self.put(t, ins.dst[0], values.get(special.name.upper(), lambda: 0)())

    def op_P2R(self, t: Thread, ins: Instruction) -> None:
        state = sum(t.preds[i] << i for i in range(7)) | t.z << 12 | t.s << 13 | t.c << 14 | t.o << 15
        mask = self.raw(t, ins.src[1]) & 0xFFFF
        shift = 16 if ins.mods["hi"] else 0
        a = self.raw(t, ins.src[0])
        self.put(t, ins.dst[0], a & ~(mask << shift) & M32 | (state & mask) << shift)

    def op_R2P(self, t: Thread, ins: Instruction) -> None:
        a, mask = self.raw(t, ins.src[0]) >> (16 if ins.mods["hi"] else 0), self.raw(t, ins.src[1])
        for i in range(7):
            if mask >> i & 1:
                t.preds[i] = bool(a >> i & 1)
        for i, name in enumerate("zsco"):
            if mask >> (12 + i) & 1:
                setattr(t, name, bool(a >> (12 + i) & 1))

    def op_CSETP(self, t: Thread, ins: Instruction) -> None:
        self.setp_result(t, ins, self.test(t, str(ins.mods["test"])), self.pred(t, ins.src[0]))

    def op_CSET(self, t: Thread, ins: Instruction) -> None:
        result = self.test(t, str(ins.mods["test"]))
        self.set_result(t, ins, combine(str(ins.mods["bop"]), result, self.pred(t, ins.src[0])))

    def op_PSETP(self, t: Thread, ins: Instruction) -> None:
        a, b, c = (self.pred(t, s) for s in ins.src)
        self.setp_result(t, ins, combine(str(ins.mods["bop0"]), a, b), c)

    def op_PSET(self, t: Thread, ins: Instruction) -> None:
        a, b, c = (self.pred(t, s) for s in ins.src)
        self.set_result(t, ins, combine(str(ins.mods["bop"]), combine(str(ins.mods["bop0"]), a, b), c))

    def op_LEPC(self, t: Thread, ins: Instruction) -> None:
        self.put(t, ins.dst[0], self.pc)

    # Memory

    def address(self, t: Thread, m: Mem) -> int:
        if m.base.count == 2:
            return (self.raw(t, m.base, 2) + m.offset) & M64
        return (self.raw(t, m.base) + m.offset) & M32

    def at(self, t: Thread, m: Mem, size: int, write: bool) -> tuple[str, int]:
        """Where an access goes ("shared", "local" or "global") and the address there, checked."""
        address = self.address(t, m)
        space = m.space
        if address % size:
            raise Stop(ErrorKind.MISALIGNED, self.pc, address, write)
        if space == "generic":
            if self.launch.shared_window <= address < self.launch.shared_window + (1 << 24):
                space, address = "shared", address - self.launch.shared_window
            elif self.launch.local_window <= address < self.launch.local_window + (1 << 24):
                space, address = "local", address - self.launch.local_window
            else:
                space = "global"
        if space == "shared" and address + size > len(self.shared):
            raise Stop(ErrorKind.SHARED_RANGE, self.pc, 0, write)
        if space == "local" and not (
            address + size <= self.launch.local_positive
            or (1 << 24) - self.launch.local_negative <= address <= (1 << 24) - size
        ):
            raise Stop(ErrorKind.LOCAL_RANGE, self.pc, 0, write)
        return space, address

    def load(self, t: Thread, m: Mem, size: int) -> int:
        if m.space == "const":
            address = (self.raw(t, m.base) + m.offset) & M32
            if address % size:
                raise Stop(ErrorKind.MISALIGNED, self.pc)
            return self.constant(m.bank, address, size)
        space, address = self.at(t, m, size, False)
        return self.peek(t, space, address, size)

    def peek(self, t: Thread, space: str, address: int, size: int) -> int:
        if space == "shared":
            return int.from_bytes(self.shared[address : address + size], "little")
        if space == "local":
            return sum(t.local.get(address + i, 0) << 8 * i for i in range(size))
        try:
            return int.from_bytes(self.launch.space.read(address, size), "little")
        except AccessError as error:
            raise Stop(ErrorKind.UNMAPPED, self.pc, error.va) from None

    def probe(self, address: int, size: int) -> None:
        """An atomic operation needs a writable page before it reads."""
        try:
            old = self.launch.space.read(address, size)
        except AccessError as error:
            raise Stop(ErrorKind.UNMAPPED, self.pc, error.va, True) from None
        try:
            self.launch.space.write(address, old)
        except AccessError as error:
            raise Stop(ErrorKind.READ_ONLY, self.pc, error.va, True) from None

    def poke(self, t: Thread, space: str, address: int, size: int, value: int) -> None:
        raw = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        if space == "shared":
            self.shared[address : address + size] = raw
        elif space == "local":
            t.local.update({address + i: b for i, b in enumerate(raw)})
        else:
            try:
                self.launch.space.write(address, raw)
            except AccessError as error:
                kind = ErrorKind.UNMAPPED
                try:
                    self.launch.space.read(address, size)
                    kind = ErrorKind.READ_ONLY
                except AccessError:
                    pass
                raise Stop(kind, self.pc, error.va, True) from None

    def op_LD(self, t: Thread, ins: Instruction) -> None:
        self.load_into(t, ins, ins.dst[-1], ins.src[0])

    def load_into(self, t: Thread, ins: Instruction, dst: Operand, m: Operand) -> None:
        size = str(ins.mods["size"])
        assert isinstance(m, Mem)
        value = self.load(t, m, WIDTH[size])
        if size in ("S8", "S16"):
            value = signed(value, WIDTH[size] * 8) & M32
        assert isinstance(dst, Reg)
        self.put(t, Reg(dst.index, max(1, WIDTH[size] // 4)), value)

    op_LDU = op_LDL = op_LDS = op_LDC = op_LD

    def op_LD_LDU(self, t: Thread, ins: Instruction) -> None:
        """Both addresses are read before either result is written."""
        values = []
        for dst, m, size in zip(ins.dst, ins.src, (ins.mods["size"], ins.mods["ldu_size"]), strict=True):
            assert isinstance(m, Mem)
            value = self.load(t, m, WIDTH[str(size)])
            values.append((dst, signed(value, WIDTH[str(size)] * 8) & M32 if str(size)[0] == "S" else value))
        for dst, value in values:
            self.put(t, dst, value)

    op_LDS_LDU = op_LD_LDU

    def op_ST(self, t: Thread, ins: Instruction) -> None:
        m, data = ins.src
        size = WIDTH[str(ins.mods["size"])]
        assert isinstance(m, Mem)
        space, address = self.at(t, m, size, True)
        self.poke(t, space, address, size, self.raw(t, data, max(1, size // 4)))

    op_STL = op_STS = op_ST

    def warp_LDLK(self, w: Warp, ins: Instruction, acting: list[Thread]) -> None:
        """Global locks are fewer than addresses: 4096 for words of the launch's memory (our choice)."""
        self.warp_LDSLK(w, ins, acting)

    def lock_key(self, ins: Instruction, address: int) -> tuple[str, int]:
        return ("shared", address >> 2) if "S" in ins.name[2:4] else ("global", address >> 2 & 0xFFF)

    def warp_LDSLK(self, w: Warp, ins: Instruction, acting: list[Thread]) -> None:
        for t in acting:
            m = ins.src[0]
            assert isinstance(m, Mem)
            address = self.address(t, m)
            size = WIDTH[str(ins.mods["size"])]
            self.at(t, m, size, False)
            # Who does not get the lock sees the predicate false and gets no value (this project's choice).
            key = self.lock_key(ins, address)
            free = key not in self.locks
            if free:
                self.locks[key] = t
                self.load_into(t, ins, ins.dst[1], m)
            self.put_pred(t, ins.dst[0], free)

    def op_STSUL(self, t: Thread, ins: Instruction) -> None:
        self.op_ST(t, ins)
        m = ins.src[0]
        assert isinstance(m, Mem)
        self.locks.pop(self.lock_key(ins, self.address(t, m)), None)

    op_STUL = op_STSUL

    def atomic(self, t: Thread, ins: Instruction) -> tuple[int, int]:
        """Perform it; (old value, bytes)."""
        m = ins.src[0]
        kind, op = str(ins.mods["type"]), str(ins.mods["op"])
        size = 8 if kind == "U64" else 4
        assert isinstance(m, Mem)
        window = self.address(t, m) - self.launch.local_window
        if 0 <= window < 1 << 24:
            raise Stop(ErrorKind.LOCAL_RANGE, self.pc, 0, True)
        space, address = self.at(t, m, size, True)
        if space == "global":
            self.probe(address, size)
        old = self.peek(t, space, address, size)
        n = size // 4
        a = self.raw(t, ins.src[1], n)
        mask = (1 << 8 * size) - 1
        order = signed if kind == "S32" else (lambda v: v)
        if op == "CAS":
            new = self.raw(t, ins.src[2], n) if old == a & mask else old
        elif op == "ADD" and kind == "F32":
            new = fl.add(old, a, fl.F32, "RN")
        else:
            new = {
                "ADD": lambda: old + a,
                "MIN": lambda: min(old, a, key=order),
                "MAX": lambda: max(old, a, key=order),
                "INC": lambda: 0 if old >= a else old + 1,
                "DEC": lambda: a if old == 0 or old > a else old - 1,
                "AND": lambda: old & a,
                "OR": lambda: old | a,
                "XOR": lambda: old ^ a,
                "EXCH": lambda: a,
            }[op]()
        self.poke(t, space, address, size, new & mask)
        return old, n

    def op_ATOM(self, t: Thread, ins: Instruction) -> None:
        old, _ = self.atomic(t, ins)
        self.put(t, ins.dst[0], old)

    def op_RED(self, t: Thread, ins: Instruction) -> None:
        self.atomic(t, ins)

    def op_CCTL(self, t: Thread, ins: Instruction) -> None: ...

    op_CCTLL = op_CCTL

"""The general translator: right for any code, however it branches. Registers and the reconvergence stack live
in
memory, every basic block is a case of one switch on the pc, every write is masked.
"""

from __future__ import annotations

from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Operand, Pred, Reg
from gpuvm.jit import layout as at
from gpuvm.jit.discover import BRANCHES, CALLS, INDIRECT, LEAVES, PUSHES, Program, target_of
from gpuvm.jit.emit import TRUE, Emitter, Flags, PVal, Shape, Val
from gpuvm.jit.helpers import SIGNATURES, SPACE_GENERIC, SPACE_SHARED
from gpuvm.jit.kernel import Frame, Mix, Shapes, counter, initial_mask, poll, prologue
from gpuvm.jit.launch import ErrorKind
from gpuvm.jit.machine import Limits, Machine, Untranslatable, mod_text
from gpuvm.jit.ops import OPERATIONS
from gpuvm.jit.ops_integer import condition, dst, dst_pred

KINDS = {
    "SSY": at.KIND_SSY,
    "PBK": at.KIND_PBK,
    "PCNT": at.KIND_PCNT,
    "PRET": at.KIND_RET,
    "PLONGJMP": at.KIND_LONGJMP,
}
LEAVE_KINDS = {"BRK": at.KIND_PBK, "CONT": at.KIND_PCNT, "RET": at.KIND_RET, "LONGJMP": at.KIND_LONGJMP}
DOUBLES = frozenset({"DADD", "DMUL", "DFMA", "DMNMX", "DSET", "DSETP"})
SPECIALS = frozenset({"MUFU"})


class Counting(Machine):
    """A machine that notes what its block counts."""

    def __init__(self, em: Emitter, shape: Shape, limits: Limits, frame: Frame) -> None:
        super().__init__(em, shape, limits)
        self.frame = frame
        self.mix = Mix(-1)
        self.shapes = Shapes()
        self.gather_index = em.U == 8 and not em.avx512

    def use_bank(self, bank: int, top: int = 1 << 16) -> None:
        if bank >= 18:
            raise Untranslatable(f"c[{bank:#x}]")
        self.frame.banks[bank] = max(self.frame.banks.get(bank, 0), top)

    def constant(self, bank: int, offset: int) -> Val:
        self.use_bank(bank, min((offset & 0xFFFF) + 8, 1 << 16))
        return super().constant(bank, offset)

    def count_access(self, space: int, write: bool, segments: int, mask: PVal) -> None:
        if segments == 0:
            self.shapes.gathers += not write
            self.shapes.scatters += write
        if space == SPACE_SHARED:
            self.mix.shared += 1
            return
        if write:
            self.mix.stores += 1
        else:
            self.mix.loads += 1
        self.mix.segments += segments
        if segments == 0 and space == SPACE_GENERIC:
            # A gather: one segment for each active lane (documented estimate).
            if mask is TRUE:
                self.mix.segments += self.shape.lanes
            else:
                em = self.em
                ones = em.call(em.mi, f"llvm.ctpop.{em.mi}", [(em.mi, em.bits(mask))])
                if em.mi != "i64":
                    ones = em.op(f"zext {em.mi} {ones} to i64")
                counter(em, 0, ones)

    def count_atomic(self, mask: PVal) -> None:
        self.mix.atomics += 1

    def count_instruction(self, ins: Instruction) -> None:
        self.mix.instructions += 1
        if ins.name in DOUBLES or "F64" in (ins.mods.get("dtype"), ins.mods.get("stype")):
            self.mix.doubles += 1
        if ins.name in SPECIALS:
            self.mix.specials += 1
        if ins.name == "BAR":
            self.mix.barriers += 1


def highest_register(ins: Instruction) -> int:
    """Highest general register that an instruction names, -1 for none."""
    top = -1
    for op in (*ins.dst, *ins.src):
        reg = op.base if isinstance(op, Mem) else op
        if isinstance(reg, Reg) and reg.index < 63:
            top = max(top, reg.index + reg.count - 1)
    return top


def check_registers(ins: Instruction) -> bool:
    """Whether register groups are aligned and inside the register file."""
    for op in (*ins.dst, *ins.src):
        reg = op.base if isinstance(op, Mem) else op
        if not isinstance(reg, Reg) or reg.index >= 63 or reg.count == 1:
            continue
        if reg.index % (4 if reg.count == 4 else 2) or reg.index + reg.count > 63:
            return False
    return True


class GeneralMachine(Counting):
    """Registers in the group's state, every write masked by the active lanes."""

    def state(self, offset: int) -> str:
        return self.em.op(f"getelementptr i8, ptr %state, i64 {offset}")

    def load_reg(self, index: int) -> Val:
        em = self.em
        size = 4 * self.shape.lanes
        rows = []
        for unit in range(self.shape.units):
            p = self.state(at.STATE_REGS + index * size + unit * 4 * em.U)
            rows.append(em.op(f"load {em.vi}, ptr {p}, align 4"))
        return em.vector(rows)

    def _bits(self, offset: int) -> str:
        em = self.em
        return em.op(f"load {em.mi}, ptr {self.state(offset)}, align 8")

    def load_pred(self, index: int) -> PVal:
        return PVal("v", bits=self._bits(at.STATE_PREDS + 8 * index))

    def load_flags(self) -> Flags:
        got = [PVal("v", bits=self._bits(at.STATE_FLAGS + 8 * n)) for n in range(4)]
        return Flags([lambda n=n: got[n] for n in range(4)])  # type: ignore[misc]

    def store(self) -> None:
        """Write what the block changed back to the state."""
        em = self.em
        size = 4 * self.shape.lanes
        for name in list(self.dirty):
            if isinstance(name, int):
                value = self.regs[name]
                assert value is not None
                for unit, x in enumerate(em.units(value)):
                    p = self.state(at.STATE_REGS + name * size + unit * 4 * em.U)
                    em.do(f"store {em.vi} {x}, ptr {p}, align 4")
            elif name == "cc":
                flags = self.get_flags()
                for n in range(4):
                    em.do(
                        f"store {em.mi} {em.bits(flags.get(n))}, ptr {self.state(at.STATE_FLAGS + 8 * n)}, align 8"
                    )
            elif isinstance(name, tuple):
                bits = self.preds[name[1]]
                assert bits is not None
                em.do(
                    f"store {em.mi} {em.bits(bits)}, ptr {self.state(at.STATE_PREDS + 8 * name[1])}, align 8"
                )
        self.dirty.clear()


class General:
    """Translates a program into `@warp`."""

    def __init__(self, program: Program, shape: Shape, limits: Limits, avx512: bool) -> None:
        self.program = program
        self.shape = shape
        self.limits = limits
        self.em = Emitter(shape, avx512)
        self.frame = Frame(shape)
        self.frame.barriers = True
        self.frame.mixes.append(Mix(-1))  # counter 0: gather segments
        self.stack_at = at.state_stack(shape.lanes)
        self.frame.state_bytes = at.state_size(shape.lanes, limits.stack_entries)

    def translate(self) -> tuple[Emitter, Frame]:
        em = self.em
        prologue(em, self.frame)
        resume = em.op(f"load i32, ptr {self._state(at.STATE_RESUME)}, align 4")
        late = {
            pc: ins for pc, ins in self.program.instructions.items() if ins is not None and late_barrier(ins)
        }
        cases = " ".join(f"i32 {2 + pc}, label %bar{pc}" for pc in sorted(late))
        em.do(f"switch i32 {resume}, label %dispatch [ i32 0, label %start {cases} ]")
        em.place("start")
        em.do(f"store i32 1, ptr {self._state(at.STATE_RESUME)}, align 4")
        em.do(f"store i32 {self.program.entry}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do(f"store i32 0, ptr {self._state(at.STATE_SP)}, align 4")
        em.do(f"store ptr {self._state(self.stack_at)}, ptr {self._state(at.STATE_STACK)}, align 8")
        mask = initial_mask(em, self.shape)
        em.do(f"store i64 0, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        em.do(f"store {em.mi} {mask}, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        size = self.stack_at - at.STATE_PREDS
        em.declare("declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
        em.do(f"call void @llvm.memset.p0.i64(ptr {self._state(at.STATE_PREDS)}, i8 0, i64 {size}, i1 false)")
        em.do("br label %dispatch")
        em.place("dispatch")
        poll(em)
        pc = em.op(f"load i32, ptr {self._state(at.STATE_PC)}, align 4")
        cases = " ".join(f"i32 {leader}, label %pc{leader}" for leader in sorted(self.program.leaders))
        em.do(f"switch i32 {pc}, label %nowhere [ {cases} ]")
        em.place("nowhere")
        em.declare(SIGNATURES["gpuvm_fail"])
        kind = ErrorKind.ILLEGAL_INSTRUCTION.value
        em.do(f"call void @gpuvm_fail(ptr %ctx, i32 {kind}, i32 {pc}, i64 0, i32 0)")
        em.do("unreachable")
        for leader in sorted(self.program.leaders):
            self._block(leader)
            em.locate(None)
        for place, barrier in sorted(late.items()):
            self._after_barrier(place, barrier)
        return em, self.frame

    def _state(self, offset: int) -> str:
        return self.em.op(f"getelementptr i8, ptr %state, i64 {offset}")

    def _block(self, leader: int) -> None:
        em = self.em
        em.place(f"pc{leader}")
        m = GeneralMachine(em, self.shape, self.limits, self.frame)
        m.mix = Mix(leader)
        self.frame.mixes.append(m.mix)
        counter(em, len(self.frame.mixes) - 1)
        active = em.op(f"load {em.mi}, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        m.active = PVal("v", bits=active)
        pc = leader
        while True:
            m.pc = pc
            ins = self.program.instructions.get(pc)
            if ins is None:
                kind = ErrorKind.UNMAPPED if pc in self.program.unreadable else ErrorKind.ILLEGAL_INSTRUCTION
                m.fail(kind)
                return
            m.count_instruction(ins)
            em.locate(pc)
            try:
                ended = self._instruction(m, ins)
            except Untranslatable:
                # Only an error where a lane acts.
                m.fail_if(em.i1(m.any_lane(m.mask())), ErrorKind.ILLEGAL_INSTRUCTION)
                ended = False
            if ended:
                return
            pc += ins.size
            if pc in self.program.leaders:
                m.store()
                self._go(pc)
                return

    def _go(self, pc: int) -> None:
        em = self.em
        em.do(f"store i32 {pc}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch" if pc not in self.program.leaders else f"br label %pc{pc}")

    def _guard(self, m: GeneralMachine, ins: Instruction) -> PVal:
        guard = m.get_pred(ins.guard)
        test = mod_text(ins, "test", "T")
        if test != "T" and ins.name not in ("CSET", "CSETP"):
            guard = self.em.pbin("and", guard, condition(m, test))
        return guard

    def _instruction(self, m: GeneralMachine, ins: Instruction) -> bool:
        """Translate one instruction; True if it ended the block."""
        if highest_register(ins) >= self.limits.registers:
            m.fail(ErrorKind.OUT_OF_RANGE_REGISTER)
            return True
        m.guard = self._guard(m, ins)
        if not check_registers(ins):
            raise Untranslatable("register group")
        name = ins.name
        if name in PUSHES or name in CALLS:
            return self._push(m, ins)
        if name in BRANCHES:
            self._branch(m, ins)
            return True
        if name in LEAVES:
            self._leave(m, ins)
            return True
        if name == "BAR":
            self._barrier(m, ins)
            return True
        if name == "BPT":
            if ins.mods.get("mode") == "TRAP":
                m.fail(ErrorKind.TRAP)
                return True
            return self._sync(m, ins)
        operation = OPERATIONS.get(name)
        if operation is None:
            raise Untranslatable(name)
        operation(m, ins)
        return self._sync(m, ins)

    def _sync(self, m: GeneralMachine, ins: Instruction) -> bool:
        if not ins.sync:
            return False
        em = self.em
        m.guard = self._guard(m, ins)
        lanes = self._mask64(m, m.mask())
        m.store()
        em.do(f"store i32 {m.pc + ins.size}, ptr {self._state(at.STATE_PC)}, align 4")
        self._call("gpuvm_join", f"ptr %ctx, ptr %state, i64 {lanes}, i32 {m.pc}")
        self._resume(m)
        return True

    def _call(self, name: str, args: str) -> None:
        self.em.declare(SIGNATURES[name])
        self.em.do(f"call void @{name}({args})")

    def _push_entry(self, m: GeneralMachine, kind: int, target: object, lanes: str) -> None:
        limit = self.limits.stack_entries
        state = f"ptr %ctx, ptr %state, i32 {kind}, i32 {target}, i64 {lanes}"
        self._call("gpuvm_push", f"{state}, i32 {limit}, i32 {m.pc}")

    def _mask64(self, m: GeneralMachine, p: PVal) -> str:
        em = self.em
        bits = em.bits(p)
        if em.mi == "i64":
            return bits
        if bits == "-1":
            return str((1 << self.shape.lanes) - 1)
        return em.op(f"zext {em.mi} {bits} to i64")

    def _resume(self, m: GeneralMachine) -> None:
        """Go where the state says, or return if the group has ended."""
        em = self.em
        status = em.op(f"load i32, ptr {self._state(at.STATE_STATUS)}, align 4")
        ended = em.op(f"icmp eq i32 {status}, 2")
        out = em.new_label("out")
        em.do(f"br i1 {ended}, label %{out}, label %dispatch")
        em.place(out)
        em.do("ret void")

    def _push(self, m: GeneralMachine, ins: Instruction) -> bool:
        em = self.em
        target = self._target(m, ins)
        lanes = self._mask64(m, m.active)
        if ins.name in PUSHES:
            kind = KINDS[ins.name]
            self._push_entry(m, kind, target, lanes)
            return False
        m.store()
        after = m.pc + ins.size
        if not ins.mods.get("noinc"):
            self._push_entry(m, at.KIND_RET, after, lanes)
        em.do(f"store i32 {target}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch")
        return True

    def _target(self, m: GeneralMachine, ins: Instruction) -> str:
        """A uniform target as i32 text."""
        fixed = target_of(ins)
        if fixed is not None:
            return str(fixed)
        for op in ins.src:
            if isinstance(op, Const):
                word = m.em.scalar(m.constant(op.bank, op.offset))
                if ins.name in ("JMP", "JCAL"):
                    return m.em.s32(word)
                return m.em.s32(m.em.sop("add", word, m.pc + ins.size))
        raise Untranslatable("branch target")

    def _branch(self, m: GeneralMachine, ins: Instruction) -> None:
        em = self.em
        after = m.pc + ins.size
        taken = em.pbin("and", m.guard, m.active)
        bits = self._mask64(m, taken)
        every = self._mask64(m, m.active)
        rest = em.op(f"and i64 {every}, {em.op(f'xor i64 {bits}, -1')}")
        if ins.name in INDIRECT or any(isinstance(op, Mem) for op in ins.src):
            self._indirect(m, ins, bits, rest, after)
            return
        target = self._target(m, ins)
        m.store()
        some, none = em.op(f"icmp ne i64 {bits}, 0"), em.op(f"icmp eq i64 {rest}, 0")
        both = em.op(f"and i1 {some}, {em.op(f'xor i1 {none}, true')}")
        if ins.mods.get("u"):
            # Taken by the whole warp or not at all.
            both, some = "false", none
        split, plain = em.new_label("split"), em.new_label("plain")
        em.do(f"br i1 {both}, label %{split}, label %{plain}")
        em.place(split)
        self._push_entry(m, at.KIND_DIV, after, rest)
        em.do(f"store i64 {bits}, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        em.do(f"store i32 {target}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch")
        em.place(plain)
        to = em.op(f"select i1 {some}, i32 {target}, i32 {after}")
        em.do(f"store i32 {to}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch")

    def _indirect(self, m: GeneralMachine, ins: Instruction, bits: str, rest: str, after: int) -> None:
        """One target at a time: lanes that want another wait and execute the branch again."""
        em = self.em
        where = self._indirect_target(m, ins)
        rows = em.units(where)
        m.store()
        none_label, some_label = em.new_label("none"), em.new_label("some")
        empty = em.op(f"icmp eq i64 {bits}, 0")
        em.do(f"br i1 {empty}, label %{none_label}, label %{some_label}")
        em.place(none_label)
        em.do(f"store i32 {after}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch")
        em.place(some_label)
        for n, x in enumerate(rows):
            p = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT + n * 4 * em.U}")
            em.do(f"store {em.vi} {x}, ptr {p}, align 4")
        lane = em.call("i64", "llvm.cttz.i64", [("i64", bits), ("i1", "true")])
        base = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT}")
        first = em.op(f"load i32, ptr {em.op(f'getelementptr i32, ptr {base}, i64 {lane}')}, align 4")
        row = em.splat(first)
        same = self._mask64(m, PVal("v", u=[em.op(f"icmp eq {em.vi} {x}, {row}") for x in rows]))
        go = em.op(f"and i64 {bits}, {same}")
        other = em.op(f"and i64 {bits}, {em.op(f'xor i64 {same}, -1')}")
        for waiting, pc in ((rest, after), (other, m.pc)):
            some = em.op(f"icmp ne i64 {waiting}, 0")
            put, on = em.new_label("put"), em.new_label("on")
            em.do(f"br i1 {some}, label %{put}, label %{on}")
            em.place(put)
            self._push_entry(m, at.KIND_DIV, pc, waiting)
            em.do(f"br label %{on}")
            em.place(on)
        em.do(f"store i64 {go}, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        em.do(f"store i32 {first}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do("br label %dispatch")

    def _indirect_target(self, m: GeneralMachine, ins: Instruction) -> Val:
        em = self.em
        first: Operand = ins.src[0]
        if isinstance(first, Reg):
            return em.ibin("add", m.get(first.index), em.const(target_of(ins) or 0))
        if isinstance(first, Mem):
            from gpuvm.jit.address import Plan
            from gpuvm.jit.ops_memory import Access, lanes_load

            m.use_bank(first.bank)
            address = em.ibin("add", m.get(first.base.index), em.const(first.offset))
            address = em.iminmax("umin", em.ibin("and", address, em.const(0xFFFFFFFC)), em.const(0x10000))
            acc = Access(4, False, SPACE_SHARED, f"%bank{first.bank}", "!noalias !9", False)
            word = em.vector(lanes_load(m, acc, TRUE, Plan("index", [], address=0, index=address), 1))
            return word if ins.name == "JMX" else em.ibin("add", word, em.const(m.pc + ins.size))
        raise Untranslatable("indirect branch")

    def _leave(self, m: GeneralMachine, ins: Instruction) -> None:
        em = self.em
        lanes = self._mask64(m, m.mask())
        m.store()
        em.do(f"store i32 {m.pc + ins.size}, ptr {self._state(at.STATE_PC)}, align 4")
        some = em.op(f"icmp ne i64 {lanes}, 0")
        act, on = em.new_label("act"), em.new_label("on")
        em.do(f"br i1 {some}, label %{act}, label %{on}")
        em.place(act)
        if ins.name in LEAVE_KINDS:
            kind = LEAVE_KINDS[ins.name]
            self._call("gpuvm_leave", f"ptr %ctx, ptr %state, i32 {kind}, i64 {lanes}, i32 {m.pc}")
        else:
            self._call("gpuvm_exit", f"ptr %state, i64 {lanes}")
        left = em.op(f"load i64, ptr {self._state(at.STATE_ACTIVE)}, align 8")
        gone = em.op(f"icmp eq i64 {left}, 0")
        pop = em.new_label("pop")
        em.do(f"br i1 {gone}, label %{pop}, label %{on}")
        em.place(pop)
        self._call("gpuvm_pop", f"ptr %ctx, ptr %state, i32 {m.pc}")
        em.do(f"br label %{on}")
        em.place(on)
        self._resume(m)

    def _barrier(self, m: GeneralMachine, ins: Instruction) -> None:
        em = self.em
        after = m.pc + ins.size
        number, count = barrier_operand(m, ins.src[0]), barrier_operand(m, ins.src[1])
        mode = mod_text(ins, "mode", "SYNC")
        mask = m.mask()
        some = m.any_lane(mask)
        act, skip = em.new_label("act"), em.new_label("skip")
        source = ins.src[2] if len(ins.src) > 2 else Pred(7)
        assert isinstance(source, Pred)
        votes = self._mask64(m, em.pbin("and", m.get_pred(source), mask))
        every = self._mask64(m, mask)
        m.store()
        em.do(f"store i32 {after}, ptr {self._state(at.STATE_PC)}, align 4")
        em.do(f"br i1 {em.i1(some)}, label %{act}, label %{skip}")
        em.place(skip)
        if ins.sync:
            self._call("gpuvm_join", f"ptr %ctx, ptr %state, i64 {every}, i32 {m.pc}")
            self._resume(m)
        else:
            em.do("br label %dispatch")
        em.place(act)
        limit = max(self.limits.barriers, 1)
        m.fail_if(em.op(f"icmp uge i32 {number}, {limit}"), ErrorKind.BAD_LAUNCH)
        if mode == "ARV":
            self._call("gpuvm_arrive", f"ptr %ctx, i32 {number}, i32 {count}, i32 0")
        else:
            em.do(f"store i32 {number}, ptr {self._state(at.STATE_BARRIER)}, align 4")
            em.do(f"store i32 {count}, ptr {self._state(at.STATE_COUNT)}, align 4")
            ones = em.call("i64", "llvm.ctpop.i64", [("i64", votes)])
            em.do(f"store i32 {em.op(f'trunc i64 {ones} to i32')}, ptr {self._state(at.STATE_POPC)}, align 4")
            all_true = em.op(f"sext i1 {em.op(f'icmp eq i64 {votes}, {every}')} to i32")
            any_true = em.op(f"sext i1 {em.op(f'icmp ne i64 {votes}, 0')} to i32")
            em.do(f"store i32 {all_true}, ptr {self._state(at.STATE_AND)}, align 4")
            em.do(f"store i32 {any_true}, ptr {self._state(at.STATE_OR)}, align 4")
            em.do(f"store i32 1, ptr {self._state(at.STATE_STATUS)}, align 4")
            if late_barrier(ins):
                # What follows the opening of the barrier has a block of its own.
                em.do(f"store i32 {2 + m.pc}, ptr {self._state(at.STATE_RESUME)}, align 4")
            em.do("ret void")
            return
        if ins.sync:
            self._call("gpuvm_join", f"ptr %ctx, ptr %state, i64 {every}, i32 {m.pc}")
            self._resume(m)
        else:
            em.do("br label %dispatch")

    def _after_barrier(self, pc: int, ins: Instruction) -> None:
        """Write what the barrier reduced, and reconverge if the barrier said so."""
        em = self.em
        em.place(f"bar{pc}")
        m = GeneralMachine(em, self.shape, self.limits, self.frame)
        m.pc = pc
        em.do(f"store i32 1, ptr {self._state(at.STATE_RESUME)}, align 4")
        m.active = PVal("v", bits=em.op(f"load {em.mi}, ptr {self._state(at.STATE_ACTIVE)}, align 8"))
        m.guard = self._guard(m, ins)
        every = self._mask64(m, m.mask())
        reduced(m, ins)
        m.store()
        if ins.sync:
            self._call("gpuvm_join", f"ptr %ctx, ptr %state, i64 {every}, i32 {pc}")
            self._resume(m)
        else:
            em.do("br label %dispatch")


def late_barrier(ins: Instruction) -> bool:
    """Whether something is left to do when the barrier has opened."""
    return (
        ins.name == "BAR"
        and mod_text(ins, "mode", "SYNC") != "ARV"
        and (ins.sync or mod_text(ins, "mode") == "RED")
    )


def reduced(m: Machine, ins: Instruction) -> None:
    """Destinations of BAR.RED from the group's state."""
    if mod_text(ins, "mode") != "RED":
        return
    em = m.em

    def word(offset: int) -> Val:
        return em.uniform(
            em.op(f"load i32, ptr {em.op(f'getelementptr i8, ptr %state, i64 {offset}')}, align 4")
        )

    if ins.dst and isinstance(ins.dst[0], Reg):
        m.put(dst(ins), word(at.STATE_POPC))
    offset = at.STATE_AND if mod_text(ins, "op", "POPC") == "AND" else at.STATE_OR
    if dst_pred(ins, 1) != 7:
        m.put_pred(dst_pred(ins, 1), em.icmp("ne", word(offset), em.const(0)))


def barrier_operand(m: Machine, op: Operand) -> str:
    """Barrier number or thread count: uniform; a register's first active lane counts."""
    em = m.em
    if isinstance(op, Imm):
        return str(op.value & 0xFFFFFFFF)
    if isinstance(op, Reg):
        value = m.get(op.index)
        if value.k == "u":
            return em.s32(em.scalar(value))
        for n, x in enumerate(em.units(value)):
            p = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT + n * 4 * em.U}")
            em.do(f"store {em.vi} {x}, ptr {p}, align 4")
        bits = em.bits(m.mask())
        lane = em.call(em.mi, f"llvm.cttz.{em.mi}", [(em.mi, bits), ("i1", "false")])
        lane = em.op(f"and {em.mi} {lane}, {m.shape.lanes - 1}")
        base = em.op(f"getelementptr i8, ptr %scratch, i64 {at.SCRATCH_RESULT}")
        return em.op(f"load i32, ptr {em.op(f'getelementptr i32, ptr {base}, {em.mi} {lane}')}, align 4")
    raise Untranslatable("barrier operand")


__all__ = ["General", "dst", "dst_pred"]

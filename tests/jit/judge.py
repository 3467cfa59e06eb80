"""A slow Fermi interpreter that judges the executor: one lane after the other, Python integers, no
cleverness."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import exact as sf

from gpuvm.isa import decoder
from gpuvm.isa.instruction import Const, Imm, Instruction, Mem, Pred, Reg, Special, Target

M32 = 0xFFFFFFFF
M64 = (1 << 64) - 1
RELATIONS = {"less": 1, "equal": 2, "greater": 4, "unordered": 8}
COMPARE = {
    name: n
    for n, name in enumerate(
        ["F", "LT", "EQ", "LE", "GT", "NE", "GE", "NUM", "NAN", "LTU", "EQU", "LEU", "GTU", "NEU", "GEU", "T"]
    )
}
INTEGRAL = {"ROUND": "RN", "FLOOR": "RM", "CEIL": "RP", "TRUNC": "RZ"}


class Stop(Exception):
    """The warp met an error of this kind."""


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


@dataclass
class Lane:
    tid: tuple[int, int, int]
    index: int
    r: list[int] = field(default_factory=lambda: [0] * 64)
    p: list[bool] = field(default_factory=lambda: [False] * 7)
    cc: list[bool] = field(default_factory=lambda: [False] * 4)  # zero, sign, carry, overflow

    def reg(self, n: int) -> int:
        return 0 if n == 63 else self.r[n]

    def set(self, n: int, x: int) -> None:
        if n != 63:
            self.r[n] = x & M32

    def pred(self, p: Pred) -> bool:
        got = True if p.index == 7 else self.p[p.index]
        return got != p.inv

    def set_pred(self, n: int, x: bool) -> None:
        if n != 7:
            self.p[n] = x


class Memory:
    """Bytes by address, from one block of global memory, plus the block's shared and the threads' local
    memory."""

    def __init__(self, base: int, data: bytearray) -> None:
        self.base = base
        self.data = data


class Block:
    """One thread block."""

    def __init__(
        self, code: bytes, memory: Memory, constants: dict[int, bytes], block: tuple[int, int, int],
        cta: tuple[int, int, int] = (0, 0, 0), shared: int = 0, local: int = 0, limit: int = 200000,
    ) -> None:  # fmt: skip
        self.code = code
        self.memory = memory
        self.constants = constants
        self.cta = cta
        self.block = block
        self.shared = bytearray(shared)
        self.local_size = local
        bx, by, bz = block
        lanes = [Lane((i % bx, i // bx % by, i // (bx * by)), i) for i in range(bx * by * bz)]
        self.local = [bytearray(local) for _ in lanes]
        self.warps = [Warp(self, lanes[n : n + 32]) for n in range(0, len(lanes), 32)]
        self.steps = limit
        self.decoded: dict[int, Instruction] = {}

    def run(self) -> None:
        """All warps in turn, each until it waits or ends."""
        while True:
            ran = False
            for warp in self.warps:
                if not warp.done and not warp.waiting:
                    warp.run()
                    ran = True
            waiting = [w for w in self.warps if w.waiting]
            alive = [w for w in self.warps if not w.done]
            if not alive:
                return
            for number in {w.waiting[0] for w in waiting if w.waiting}:
                here = [w for w in waiting if w.waiting and w.waiting[0] == number]
                count = here[0].waiting[1] if here[0].waiting else 0
                if len(here) >= (count // 32 if count else len(alive)):
                    total = sum(w.votes[0] for w in here)
                    every = all(w.votes[1] for w in here)
                    some = any(w.votes[2] for w in here)
                    for w in here:
                        w.release(total, every, some)
                    ran = True
            if not ran:
                raise Stop("deadlock")

    def fetch(self, pc: int) -> Instruction:
        if pc not in self.decoded:
            self.decoded[pc] = decoder.decode(self.code, pc, pc)
        return self.decoded[pc]


class Warp:
    def __init__(self, block: Block, lanes: list[Lane]) -> None:
        self.block = block
        self.lanes = lanes
        self.active = set(range(len(lanes)))
        self.pc = 0
        self.stack: list[tuple[str, int, set[int]]] = []
        self.done = False
        self.waiting: tuple[int, int] | None = None
        self.votes = (0, True, False)
        self.after: Callable[[int, bool, bool], None] | None = None

    def release(self, total: int, every: bool, some: bool) -> None:
        self.waiting = None
        if self.after:
            self.after(total, every, some)
            self.after = None

    def pop(self) -> None:
        while not self.active:
            if not self.stack:
                self.done = True
                return
            _, self.pc, self.active = self.stack.pop()

    def run(self) -> None:
        while not self.done and not self.waiting:
            self.block.steps -= 1
            if self.block.steps < 0:
                raise Stop("too long")
            self.step()

    def step(self) -> None:
        pc = self.pc
        ins = self.block.fetch(pc)
        after = pc + ins.size
        who = {n for n in self.active if self.lanes[n].pred(ins.guard)}
        test = ins.mods.get("test", "T")
        if test != "T" and ins.name not in ("CSET", "CSETP"):
            who = {n for n in who if condition(self.lanes[n], str(test))}
        name = ins.name
        self.pc = after
        target = next((op.offset for op in ins.src if isinstance(op, Target)), 0)
        if name in ("SSY", "PBK", "PCNT", "PRET", "PLONGJMP"):
            self.stack.append(
                ({"PRET": "RET", "PLONGJMP": "LONGJMP"}.get(name, name), target, set(self.active))
            )
        elif name in ("CAL", "JCAL"):
            self.stack.append(("RET", after, set(self.active)))
            self.pc = target
        elif name in ("BRA", "JMP"):
            rest = self.active - who
            if ins.mods.get("u"):
                if not rest:
                    self.pc = target
            elif who and rest:
                self.stack.append(("DIV", after, rest))
                self.active = who
                self.pc = target
            elif who:
                self.pc = target
        elif name == "BRX":
            register = next(op for op in ins.src if isinstance(op, Reg))
            if who:
                place = {n: (self.lanes[n].reg(register.index) + target) & M32 for n in who}
                first = place[min(who)]
                go = {n for n in who if place[n] == first}
                if self.active - who:
                    self.stack.append(("DIV", after, self.active - who))
                if who - go:
                    self.stack.append(("DIV", pc, who - go))
                self.active = go
                self.pc = first
        elif name in ("EXIT", "KIL"):
            self.leave(who, None)
        elif name in ("BRK", "CONT", "RET", "LONGJMP"):
            if who:
                self.leave(who, {"BRK": "PBK", "CONT": "PCNT"}.get(name, name))
        elif name == "BAR":
            if who:
                self.barrier(ins, who)
        else:
            self.execute(ins, who)
        if ins.sync:
            kinds = [kind for kind, _, _ in self.stack if kind != "DIV"]
            if who:
                if not kinds or kinds[-1] != "SSY":
                    raise Stop("stack")
                self.active = self.active - who
        if not self.active:
            self.pop()

    def leave(self, who: set[int], kind: str | None) -> None:
        place = -1
        if kind is not None:
            places = [n for n, (k, _, _) in enumerate(self.stack) if k == kind]
            if not places and kind != "RET":
                raise Stop("stack")
            place = places[-1] if places else -1
        self.stack = [
            (k, pc, mask - who if n > place else mask) for n, (k, pc, mask) in enumerate(self.stack)
        ]
        self.active = self.active - who

    def barrier(self, ins: Instruction, who: set[int]) -> None:
        lane = self.lanes[min(who)]
        number, count = (lane.reg(op.index) if isinstance(op, Reg) else op.value for op in ins.src[:2])  # type: ignore[union-attr]
        if ins.mods.get("mode") == "ARV":
            raise NotImplementedError
        self.waiting = (number, count)
        if ins.mods.get("mode") == "RED":
            source = ins.src[2]
            assert isinstance(source, Pred)
            yes = [self.lanes[n].pred(source) for n in sorted(who)]
            self.votes = (sum(yes), all(yes), any(yes))

            def after(total: int, every: bool, some: bool) -> None:
                for n in who:
                    if ins.dst and isinstance(ins.dst[0], Reg):
                        self.lanes[n].set(ins.dst[0].index, total)
                    if len(ins.dst) > 1 and isinstance(ins.dst[1], Pred):
                        self.lanes[n].set_pred(
                            ins.dst[1].index, every if ins.mods.get("op") == "AND" else some
                        )

            self.after = after

    def execute(self, ins: Instruction, who: set[int]) -> None:
        if ins.name == "VOTE":
            source = ins.src[0]
            assert isinstance(source, Pred)
            yes = {n for n in who if self.lanes[n].pred(source)}
            ballot = sum(1 << n for n in yes)
            result = {"ALL": yes == who, "ANY": bool(yes), "EQ": yes == who or not yes}[str(ins.mods["op"])]
            for n in who:
                self.lanes[n].set(ins.dst[0].index, ballot)  # type: ignore[union-attr]
                self.lanes[n].set_pred(ins.dst[1].index, result)  # type: ignore[union-attr]
            return
        loads = sorted(who)
        if ins.name in ("LD", "LDU", "LDS", "LDL", "LDC", "ST", "STS", "STL"):
            for n in loads:
                memory(self, self.lanes[n], ins)
            return
        if ins.name in ("ATOM", "RED"):
            for n in loads:
                atomic(self, self.lanes[n], ins)
            return
        for n in loads:
            alu(self, self.lanes[n], ins)


# Operands


def word(w: Warp, lane: Lane, op: Any, at: int = 0) -> int:
    if isinstance(op, Reg):
        return 0 if op.index == 63 else lane.reg(op.index + at)
    if isinstance(op, Const):
        bank = w.block.constants.get(op.bank, b"")
        where = op.offset + 4 * at
        return int.from_bytes(bank[where : where + 4].ljust(4, b"\0"), "little")
    assert isinstance(op, Imm)
    return op.value >> 32 * at & M32


def integer(w: Warp, lane: Lane, op: Any) -> int:
    x = word(w, lane, op)
    if op.inv:
        x = ~x
    if op.neg:
        x = -x
    return x & M32


def floating(w: Warp, lane: Lane, op: Any, size: int) -> int:
    x = word(w, lane, op)
    if size == 64:
        x |= word(w, lane, op, 1) << 32
    top = 1 << (size - 1)
    if op.abs:
        x &= top - 1
    if op.neg:
        x ^= top
    return x


def condition(lane: Lane, test: str) -> bool:
    z, s, c, o = lane.cc
    simple = {
        "OFF": not o,
        "OFT": o,
        "SFF": not s,
        "SFT": s,
        "LO": not c,
        "HS": c,
        "LS": not c or z,
        "HI": c and not z,
    }
    if test in simple:
        return simple[test]
    if z:
        relation = 8 if s else 2
        if False:
            relation = 2
    else:
        relation = 1 if s != o else 4
    return bool(COMPARE[test] & relation)


def set_result(lane: Lane, ins: Instruction, x: int, carry: bool = False, overflow: bool = False) -> None:
    x &= M32
    if ins.mods.get("cc"):
        lane.cc = [x == 0, bool(x >> 31), carry, overflow]
    lane.set(ins.dst[0].index, x)  # type: ignore[union-attr]


def set_predicates(lane: Lane, ins: Instruction, test: bool, last: int) -> None:
    def join(x: bool, y: bool) -> bool:
        return {"AND": x and y, "OR": x or y, "XOR": x != y}[str(ins.mods.get("bop", "AND"))]

    other = lane.pred(ins.src[last]) if last < len(ins.src) else True  # type: ignore[arg-type]
    if isinstance(ins.dst[0], Reg):
        value = (0x3F800000 if ins.mods.get("bf") else M32) if join(test, other) else 0
        set_result(lane, ins, value)
        return
    first, second = join(test, other), join(not test, other)
    lane.set_pred(ins.dst[0].index, first)  # type: ignore[union-attr]
    if len(ins.dst) > 1:
        lane.set_pred(ins.dst[1].index, second)  # type: ignore[union-attr]


def alu(w: Warp, lane: Lane, ins: Instruction) -> None:
    mods, name = ins.mods, ins.name.removesuffix("32I") if ins.name != "MOV32I" else "MOV"
    src = ins.src

    def i(n: int) -> int:
        return word(w, lane, src[n])

    if name in ("IADD", "IMAD", "ISCADD"):
        add(w, lane, ins, name)
    elif name == "IMUL":
        set_result(lane, ins, product(lane, ins, i(0), i(1)))
    elif name == "ISAD":
        a, b = (signed(x) if mods["type"] == "S32" else x for x in (i(0), i(1)))
        whole = abs(a - b) + i(2)
        over = not -(1 << 31) <= signed(abs(a - b)) + signed(i(2)) < 1 << 31
        set_result(lane, ins, whole, carry=whole > M32, overflow=over)
    elif name == "IMNMX":
        a, b = (signed(x) if mods["type"] == "S32" else x for x in (i(0), i(1)))
        set_result(lane, ins, min(a, b) if lane.pred(src[2]) else max(a, b))  # type: ignore[arg-type]
    elif name in ("ISETP", "ISET"):
        a, b = (signed(x) if mods["type"] == "S32" else x for x in (i(0), i(1)))
        relation = 1 if a < b else 4 if a > b else 2
        if mods.get("x") and relation == 2:
            relation = 2 if lane.cc[0] else 4 if lane.cc[2] else 1
            if lane.cc[0] and not lane.cc[2]:
                relation = 3  # equal below and borrowed at once: both hold
        set_predicates(lane, ins, bool(COMPARE[str(mods["cmp"])] & relation), 2)
    elif name == "ICMP":
        c = signed(i(2)) if mods["type"] == "S32" else i(2)
        relation = 1 if c < 0 else 4 if c > 0 else 2
        set_result(lane, ins, i(0) if COMPARE[str(mods["cmp"])] & relation else i(1))
    elif name == "BFE":
        a = reverse(i(0)) if mods["brev"] else i(0)
        position, size = i(1) & 255, i(1) >> 8 & 255
        wide = signed(a) if mods["type"] == "S32" else a
        x = wide >> position & (1 << min(size, 32)) - 1
        set_result(lane, ins, signed(x, min(size, 32)) if size and mods["type"] == "S32" else x)
    elif name == "BFI":
        position, size = i(1) & 255, i(1) >> 8 & 255
        mask = (1 << size) - 1 << position & M32
        set_result(lane, ins, (i(0) << position & mask) | (i(2) & ~mask))
    elif name == "FLO":
        a = integer(w, lane, src[0])
        if mods["type"] == "S32" and a >> 31:
            a = ~a & M32
        top = a.bit_length() - 1
        set_result(lane, ins, 31 - top if mods["sh"] and top >= 0 else top)
    elif name == "POPC":
        lane.set(ins.dst[0].index, (integer(w, lane, src[0]) & integer(w, lane, src[1])).bit_count())  # type: ignore[union-attr]
    elif name == "SHL":
        count = i(1) & 31 if mods["w"] else i(1)
        x = i(0) << min(count, 32) & M32
        over = count == 1 and bool((i(0) ^ x) >> 31)
        set_result(lane, ins, x, carry=0 < count < 32 and bool(i(0) >> (32 - count) & 1), overflow=over)
    elif name == "SHR":
        a = reverse(i(0)) if mods["brev"] else i(0)
        count = i(1) & 31 if mods["w"] else i(1)
        wide = signed(a) if mods["type"] == "S32" else a
        out = 0 < count < 32 and bool(wide >> (count - 1) & 1)
        x = wide >> min(count, 32) & M32
        set_result(lane, ins, x, carry=out, overflow=count == 1 and bool((a ^ x) >> 31))
    elif name == "LOP":
        a, b = integer(w, lane, src[0]), integer(w, lane, src[1])
        set_result(lane, ins, {"AND": a & b, "OR": a | b, "XOR": a ^ b, "PASS_B": b}[str(mods["op"])])
    elif name == "PRMT":
        permute(lane, ins, i(0), i(1), i(2))
    elif name == "MOV":
        if int(mods.get("lanes", 15)) >> (lane.index & 3) & 1:
            lane.set(ins.dst[0].index, i(0))  # type: ignore[union-attr]
    elif name == "SEL":
        lane.set(ins.dst[0].index, i(0) if lane.pred(src[2]) else i(1))  # type: ignore[union-attr,arg-type]
    elif name in ("PSETP", "PSET"):
        p, q = lane.pred(src[0]), lane.pred(src[1])  # type: ignore[arg-type]
        test = {"AND": p and q, "OR": p or q, "XOR": p != q}[str(mods["bop0"])]
        set_predicates(lane, ins, test, 2)
    elif name in ("CSETP", "CSET"):
        set_predicates(lane, ins, condition(lane, str(mods["test"])), 0)
    elif name == "P2R":
        x = sum(1 << n for n in range(7) if lane.p[n]) | sum(1 << 12 + n for n in range(4) if lane.cc[n])
        mask = i(1) & 0xFFFF
        if mods["hi"]:
            x, mask = x << 16, mask << 16
        lane.set(ins.dst[0].index, (i(0) & ~mask) | (x & mask))  # type: ignore[union-attr]
    elif name == "R2P":
        a, mask = i(0) >> (16 if mods["hi"] else 0), i(1)
        for n in range(7):
            if mask >> n & 1:
                lane.p[n] = bool(a >> n & 1)
        for n in range(4):
            if mask >> 12 + n & 1:
                lane.cc[n] = bool(a >> 12 + n & 1)
    elif name == "S2R":
        assert isinstance(src[0], Special)
        lane.set(ins.dst[0].index, special(w, lane, src[0].name))  # type: ignore[union-attr]
    elif name in ("FADD", "FMUL", "FFMA", "FMNMX", "FSETP", "FSET", "FCMP"):
        single(w, lane, ins, name)
    elif name in ("DADD", "DMUL", "DFMA", "DMNMX", "DSETP", "DSET"):
        double(w, lane, ins, name)
    elif name in ("F2F", "F2I", "I2F", "I2I"):
        convert(w, lane, ins, name)
    elif name in ("NOP", "MEMBAR"):
        pass
    else:
        raise NotImplementedError(name)


def reverse(x: int) -> int:
    return int(f"{x:032b}"[::-1], 2)


def product(lane: Lane, ins: Instruction, a: int, b: int) -> int:
    x = signed(a) if ins.mods["atype"] == "S32" else a
    y = signed(b) if ins.mods["btype"] == "S32" else b
    return (x * y >> (32 if ins.mods["hi"] else 0)) & M32


def add(w: Warp, lane: Lane, ins: Instruction, name: str) -> None:
    mods = ins.mods
    ops = list(ins.src)
    if name == "IMAD":
        a = product(lane, ins, word(w, lane, ops[0]), word(w, lane, ops[1]))
        first, second = ops[0], ops[2]
    elif name == "ISCADD":
        a = word(w, lane, ops[0]) << ops[2].value & M32  # type: ignore[union-attr]
        first, second = ops[0], ops[1]
    else:
        a = word(w, lane, ops[0])
        first, second = ops[0], ops[1]
    b = word(w, lane, second)
    aneg, bneg = first.neg, second.neg  # type: ignore[union-attr]
    if aneg:
        a ^= M32
    if bneg:
        b ^= M32
    extra = int(lane.cc[2]) if mods.get("x") else int(aneg) + int(bneg) + int(bool(mods.get("po")))
    whole = a + b + extra
    x = whole & M32
    over = not -(1 << 31) <= signed(a) + signed(b) + extra < 1 << 31
    if mods.get("sat") and over:
        x = 0x80000000 if a >> 31 else 0x7FFFFFFF
    set_result(lane, ins, x, carry=whole > M32, overflow=over)


PRMT = {
    "F4E": ["3210", "4321", "5432", "6543"], "B4E": ["5670", "6701", "7012", "0123"],
    "RC8": ["0000", "1111", "2222", "3333"], "ECL": ["3210", "3211", "3222", "3333"],
    "ECR": ["0000", "1110", "2210", "3210"], "RC16": ["1010", "3232", "1010", "3232"],
}  # fmt: skip


def permute(lane: Lane, ins: Instruction, a: int, b: int, c: int) -> None:
    data = (a | c << 32).to_bytes(8, "little")
    mode = str(ins.mods["mode"])
    selector = int(PRMT[mode][b & 3], 16) if mode else b
    out = []
    for n in range(4):
        nibble = selector >> 4 * n & 15
        byte = data[nibble & 7]
        out.append((255 if byte >> 7 else 0) if nibble & 8 else byte)
    lane.set(ins.dst[0].index, int.from_bytes(bytes(out), "little"))  # type: ignore[union-attr]


def special(w: Warp, lane: Lane, name: str) -> int:
    block = w.block
    table = {
        "SR_TID.X": lane.tid[0], "SR_TID.Y": lane.tid[1], "SR_TID.Z": lane.tid[2],
        "SR_CTAID.X": block.cta[0], "SR_CTAID.Y": block.cta[1], "SR_CTAID.Z": block.cta[2],
        "SR_NTID.X": block.block[0], "SR_NTID.Y": block.block[1], "SR_NTID.Z": block.block[2],
        "SR_LANEID": lane.index & 31, "SR_EQMASK": 1 << (lane.index & 31), "SR_LTMASK": (1 << (lane.index & 31)) - 1,
        "SR_LEMASK": (2 << (lane.index & 31)) - 1, "SR_GTMASK": ~((2 << (lane.index & 31)) - 1),
        "SR_GEMASK": ~((1 << (lane.index & 31)) - 1),
        "SR_TID": lane.tid[0] | lane.tid[1] << 16 | lane.tid[2] << 26,
    }  # fmt: skip
    return table[name] & M32


# Floats


def float_flags(lane: Lane, ins: Instruction, bits: int, size: int) -> None:
    if ins.mods.get("cc"):
        kind, sign, magnitude = sf.parts(bits, size)
        nan = kind == "nan"
        zero = kind == "number" and magnitude == 0
        lane.cc = [zero or nan, nan or (bool(sign) and not zero), False, False]


def saturate(bits: int, size: int) -> int:
    one = sf.encode(Fraction(1), size, "RN")
    kind, sign, magnitude = sf.parts(bits, size)
    if kind == "nan" or sign or (kind == "number" and magnitude == 0):
        return 0
    return one if kind == "inf" or magnitude > 1 else bits


def minimum(a: int, b: int, size: int, least: bool) -> int:
    if sf.is_nan(a, size) or sf.is_nan(b, size):
        if sf.is_nan(a, size) and sf.is_nan(b, size):
            return sf.default_nan(size)
        return b if sf.is_nan(a, size) else a
    relation = sf.compare(a, b, size)
    if relation == "equal":
        low, high = (a, b) if a >> (size - 1) else (b, a)
        return low if least else high
    return a if (relation == "less") == least else b


def single(w: Warp, lane: Lane, ins: Instruction, name: str) -> None:
    mods = ins.mods
    if name == "FCMP":
        c = floating(w, lane, ins.src[2], 32)
        c = sf.flush(c) if mods["ftz"] else c
        relation = RELATIONS[sf.compare(c, 0, 32)]
        take = 0 if COMPARE[str(mods["cmp"])] & relation else 1
        lane.set(ins.dst[0].index, word(w, lane, ins.src[take]))  # type: ignore[union-attr]
        return
    args = [floating(w, lane, op, 32) for op in ins.src if not isinstance(op, Pred)]
    ftz = mods.get("ftz") or mods.get("fmz")
    if ftz:
        args = [sf.flush(x) for x in args]
    if name in ("FSETP", "FSET"):
        relation = RELATIONS[sf.compare(args[0], args[1], 32)]
        set_predicates(lane, ins, bool(COMPARE[str(mods["cmp"])] & relation), 2)
        return
    mode = str(mods.get("rnd", "RN"))
    if name == "FMNMX":
        x = minimum(args[0], args[1], 32, lane.pred(ins.src[2]))  # type: ignore[arg-type]
    elif name == "FADD":
        x = sf.add(args[0], args[1], 32, mode)
    elif name == "FMUL":
        x = sf.multiply(args[0], args[1], 32, mode)
    else:
        x = sf.fma(args[0], args[1], args[2], 32, mode)
    if mods.get("fmz") and (args[0] & 0x7FFFFFFF == 0 or args[1] & 0x7FFFFFFF == 0):
        x = sf.add(args[2], 0, 32, "RN") if name == "FFMA" else 0
    if ftz:
        x = sf.flush(x)
    if mods.get("sat"):
        x = saturate(x, 32)
    float_flags(lane, ins, x, 32)
    lane.set(ins.dst[0].index, x)  # type: ignore[union-attr]


def set_double(lane: Lane, ins: Instruction, x: int) -> None:
    index = ins.dst[0].index  # type: ignore[union-attr]
    lane.set(index, x)
    lane.set(index + 1 if index != 63 else 63, x >> 32)


def double(w: Warp, lane: Lane, ins: Instruction, name: str) -> None:
    mods = ins.mods
    args = [floating(w, lane, op, 64) for op in ins.src if not isinstance(op, Pred)]
    if name in ("DSETP", "DSET"):
        relation = RELATIONS[sf.compare(args[0], args[1], 64)]
        set_predicates(lane, ins, bool(COMPARE[str(mods["cmp"])] & relation), 2)
        return
    mode = str(mods.get("rnd", "RN"))
    if name == "DMNMX":
        x = minimum(args[0], args[1], 64, lane.pred(ins.src[2]))  # type: ignore[arg-type]
    elif name == "DADD":
        x = sf.add(args[0], args[1], 64, mode)
    elif name == "DMUL":
        x = sf.multiply(args[0], args[1], 64, mode)
    else:
        x = sf.fma(args[0], args[1], args[2], 64, mode)
    float_flags(lane, ins, x, 64)
    set_double(lane, ins, x)


def part_of(x: int, part: str, bits: int) -> int:
    return x >> {"B0": 0, "B1": 8, "B2": 16, "B3": 24}[part] & (1 << bits) - 1


def convert(w: Warp, lane: Lane, ins: Instruction, name: str) -> None:
    mods = ins.mods
    dtype, stype = str(mods["dtype"]), str(mods["stype"])
    op = ins.src[0]
    ssize, dsize = int(stype[1:]), int(dtype[1:])
    if name in ("F2F", "F2I"):
        if ssize == 16:
            raw = part_of(word(w, lane, op), str(mods["part"]), 16)
            raw = raw & 0x7FFF if op.abs else raw  # type: ignore[union-attr]
            raw ^= 0x8000 if op.neg else 0  # type: ignore[union-attr]
        else:
            raw = floating(w, lane, op, ssize)
        if mods.get("ftz") and ssize == 32:
            raw = sf.flush(raw)
        kind, sign, _ = sf.parts(raw, ssize)
        mode = str(mods["rnd"])
        if name == "F2I":
            low, high = (
                (-(1 << dsize - 1), (1 << dsize - 1) - 1) if dtype[0] == "S" else (0, (1 << dsize) - 1)
            )
            if kind == "nan":
                x = (low if dtype[0] == "S" else 1 << dsize - 1) if 64 in (ssize, dsize) else 0
            elif kind == "inf":
                x = low if sign else high
            else:
                x = max(low, min(high, sf.round_integer(sf.value(raw, ssize), INTEGRAL[mode])))
            if dsize == 64:
                set_double(lane, ins, x & M64)
            else:
                set_result(lane, ins, x)
            return
        if kind == "nan":
            bits = sf.default_nan(dsize)
        elif kind == "inf":
            bits = sf.infinity(sign, dsize)
        else:
            number = sf.value(raw, ssize)
            if mode in INTEGRAL:
                number = Fraction(sf.round_integer(number, INTEGRAL[mode]))
                mode = "RN"
            bits = sf.encode(number, dsize, mode, sign)
            if mods.get("ftz") and dsize == 32:
                bits = sf.flush(bits)
        if mods.get("sat"):
            bits = saturate(bits, dsize)
        float_flags(lane, ins, bits, dsize)
        if dsize == 64:
            set_double(lane, ins, bits)
        else:
            lane.set(ins.dst[0].index, bits)  # type: ignore[union-attr]
        return
    x = word(w, lane, op)
    if ssize == 64:
        x |= word(w, lane, op, 1) << 32
    elif ssize < 32:
        x = part_of(x, str(mods["part"]), ssize)
    if stype[0] == "S":
        x = signed(x, ssize)
        if op.abs:  # type: ignore[union-attr]
            x = abs(x)
    if op.neg:  # type: ignore[union-attr]
        x = -x
    if name == "I2F":
        bits = sf.encode(Fraction(x), dsize, str(mods["rnd"]))
        float_flags(lane, ins, bits, dsize)
        if dsize == 64:
            set_double(lane, ins, bits)
        else:
            lane.set(ins.dst[0].index, bits)  # type: ignore[union-attr]
        return
    low, high = (-(1 << dsize - 1), (1 << dsize - 1) - 1) if dtype[0] == "S" else (0, (1 << dsize) - 1)
    if mods["sat"]:
        x = max(low, min(high, x))
    elif dsize < 32:
        x = signed(x, dsize) if dtype[0] == "S" else x & (1 << dsize) - 1
    if dsize == 64:
        set_double(lane, ins, x & M64)
    else:
        set_result(lane, ins, x)


# Memory


SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "32": 4, "64": 8, "128": 16}


def place(w: Warp, lane: Lane, ins: Instruction) -> tuple[bytearray, int, Mem]:
    op = next(op for op in ins.src if isinstance(op, Mem))
    base = 0 if op.base.index == 63 else lane.reg(op.base.index)
    wide = op.base.count == 2
    if wide and op.base.index != 63:
        base |= lane.reg(op.base.index + 1) << 32
    address = (base + op.offset) & (M64 if wide else M32)
    if ins.name in ("LDS", "STS"):
        return w.block.shared, address, op
    if ins.name in ("LDL", "STL"):
        return w.block.local[lane.index], address, op
    if ins.name == "LDC":
        return (
            bytearray(w.block.constants.get(op.bank, b"").ljust((1 << 16) + 16, b"\0")),
            min(address, 1 << 16),
            op,
        )
    if 0xFE000000 <= address < 0xFF000000:
        return w.block.shared, address - 0xFE000000, op
    if 0xFF000000 <= address < 0x100000000:
        return w.block.local[lane.index], address - 0xFF000000, op
    return w.block.memory.data, address - w.block.memory.base, op


def memory(w: Warp, lane: Lane, ins: Instruction) -> None:
    data, at, _ = place(w, lane, ins)
    size = SIZES[str(ins.mods["size"])]
    if at % size:
        raise Stop("misaligned")
    if not 0 <= at <= len(data) - size:
        raise Stop("range")
    register: Any = ins.dst[0] if ins.dst else ins.src[-1]
    if ins.dst:
        raw = int.from_bytes(data[at : at + size], "little")
        if size < 4 and str(ins.mods["size"])[0] == "S":
            raw = signed(raw, 8 * size) & M32
        for n in range(max(size // 4, 1)):
            lane.set(register.index + n if register.index != 63 else 63, raw >> 32 * n)
    else:
        words = [word(w, lane, register, n) for n in range(max(size // 4, 1))]
        data[at : at + size] = struct.pack(f"<{len(words)}I", *words)[:size]


def atomic(w: Warp, lane: Lane, ins: Instruction) -> None:
    data, at, _ = place(w, lane, ins)
    kind, op = str(ins.mods["type"]), str(ins.mods["op"])
    size = 8 if kind == "U64" else 4
    values = [
        word(w, lane, r) | (word(w, lane, r, 1) << 32 if size == 8 else 0)
        for r in ins.src
        if isinstance(r, Reg)
    ]
    if at % size:
        raise Stop("misaligned")
    old = int.from_bytes(data[at : at + size], "little")
    x = values[0]
    a, b = (signed(old), signed(x)) if kind == "S32" else (old, x)
    new = {
        "ADD": lambda: sf.add(old, x, 32, "RN") if kind == "F32" else old + x, "MIN": lambda: min(a, b),
        "MAX": lambda: max(a, b), "INC": lambda: 0 if old >= x else old + 1,
        "DEC": lambda: x if old == 0 or old > x else old - 1, "AND": lambda: old & x, "OR": lambda: old | x,
        "XOR": lambda: old ^ x, "EXCH": lambda: x, "CAS": lambda: values[1] if old == x else old,
    }[op]()  # fmt: skip
    data[at : at + size] = (new & (1 << 8 * size) - 1).to_bytes(size, "little")
    if ins.dst:
        index = ins.dst[0].index  # type: ignore[union-attr]
        lane.set(index, old)
        if size == 8:
            lane.set(index + 1 if index != 63 else 63, old >> 32)

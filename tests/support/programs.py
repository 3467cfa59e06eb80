"""Random programs of all kinds of control flow, as assembler text: what compilers write, and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from support.machine import NEAR

OUT = NEAR
"""A word for each thread of the grid."""
COUNTERS = NEAR + 0x80000
"""Words that atomic operations of all threads reach."""
SHARED = 0x2000
SCRATCH = 0x1800
"""Shared bytes past those that threads exchange: locks and counters."""
LOCAL = 64
ATOMIC = ("ADD", "XOR", "AND", "OR", "MIN", "MAX", "MIN.S32", "MAX.S32")


@dataclass
class Writer:
    """Collects the text of one kernel.

    Registers: R0 thread in the block, R1 the running value, R2, R3 addresses, R4 to R9 temporaries, R10 and
    up loop counters by depth. Predicates P0 to P2 are temporaries, P3 is odd lanes, P4 a warp's lower half.
    """

    chance: Random
    threads: int
    lines: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    labels: int = 0
    depth: int = 0
    loops: int = 0
    calls: int = 0
    loose: bool = False
    """Lanes may stay diverged where no .S joins them. How long they do is the executor's choice, so such
    programs have neither votes nor barriers."""

    def put(self, *lines: str) -> None:
        self.lines += lines

    def label(self) -> str:
        self.labels += 1
        return f"l{self.labels}"

    def small(self, limit: int) -> str:
        return hex(self.chance.randrange(limit))

    # Straight code

    def value(self) -> None:
        """Something that changes the running value in every lane."""
        c = self.chance
        kind = c.randrange(6)
        guard = c.choice(["", "", "", "@P3 ", "@!P4 ", "@P0 "])
        if kind == 0:
            self.put(f"{guard}IMAD R1, R1, {self.small(1 << 18)}, R0;")
        elif kind == 1:
            self.put(f"{guard}IADD R1, R1, {self.small(1 << 18)};")
        elif kind == 2:
            self.put(f"SHR.U32 R4, R1, {self.small(31)};", f"{guard}LOP.XOR R1, R1, R4;")
        elif kind == 3:
            self.put(f"{guard}IADD R1.CC, R1, R0;", "IADD.X R1, R1, RZ;")
        elif kind == 4:
            self.put(
                f"{guard}BFE.U32 R4, R1, {hex(c.randrange(32) | c.randrange(1, 33) << 8)};",
                "IADD R1, R1, R4;",
            )
        else:
            vote = c.random() < 0.3 and not self.loose
            self.put(f"{guard}VOTE.ANY R4, P1, P3;" if vote else "S2R R4, SR_LANEID;", "LOP.XOR R1, R1, R4;")

    def condition(self, p: str = "P0") -> None:
        """A predicate that differs between lanes, or does not."""
        c = self.chance
        kind = c.randrange(5)
        if kind < 3:
            self.put(f"BFE.U32 R4, R1, {hex(c.randrange(28) | c.randrange(1, 4) << 8)};")
            self.put(f"ISETP.{c.choice(['NE', 'EQ', 'GT', 'LE'])}.U32.AND {p}, PT, R4, {self.small(4)}, PT;")
        elif kind == 3:
            self.put(f"ISETP.LT.U32.AND {p}, PT, R0, {self.small(self.threads + 8)}, PT;")
        else:
            self.put(
                "S2R R4, SR_CTAID.X;", f"ISETP.EQ.AND {p}, PT, R4, {self.small(2)}, {c.choice(['PT', 'P3'])};"
            )

    def ballot(self) -> None:
        if self.loose:
            return self.value()
        self.condition("P1")
        self.put(
            f"VOTE.{self.chance.choice(['ALL', 'ANY', 'EQ'])} R4, P2, {self.chance.choice(['', '!'])}P1;"
        )
        self.put("IADD R1, R1, R4;", "@P2 IADD R1, R1, 0x11;")
        return None

    def memory(self) -> None:
        c = self.chance
        kind = c.randrange(7)
        if kind == 0:  # local memory, by a lane's own index
            self.put(f"LOP.AND R4, R1, {hex(LOCAL - 4)};", "STL [R4], R1;")
            self.put(f"LDL R5, [{hex(c.randrange(0, LOCAL, 4))}];", "IADD R1, R1, R5;")
        elif kind == 1:  # the stack at the top of local memory
            self.put(
                "MOV32I R4, 0x1000000;",
                "STL [R4-0x8], R1;",
                "LDL R5, [R4-0x4];",
                "STL [R4-0x4], R0;",
                "IADD R1, R1, R5;",
            )
        elif kind == 2:  # generic window of local memory
            self.put(
                f"LOP.AND R4, R1, {hex(LOCAL - 4)};",
                "IADD R4, R4, c[0x0][0x4];",
                "ST [R4], R0;",
                "LD R5, [R4];",
            )
            self.put("LOP.XOR R1, R1, R5;")
        elif kind == 3:  # counters of the grid
            number, op = c.choice(list(enumerate(ATOMIC)))
            self.put(f"MOV32I R4, {hex(COUNTERS + 4 * number)};")
            self.put(f"{c.choice(['', '@P3 '])}RED.{op} [R4], R1;")
        elif kind == 4:  # counters of the block
            self.put("MOV R4, c[0x0][0x0];", f"IADD R4, R4, {hex(SCRATCH + 64)};", "RED.ADD [R4], R1;")
        elif kind == 5:  # a lane's own output word
            self.put("ST [R3], R1;", "LD R4, [R3];", "IADD R1, R1, R4;")
        else:
            self.put(
                f"LOP.AND R4, R1, {hex(c.choice([0x3C, 0xFC]))};",
                "LDC R5, c[0x0][R4+0x40];",
                "IADD R1, R1, R5;",
            )

    # Divergence

    def joined(self, inside: Callable[[], None]) -> None:
        """Code that leaves lanes diverged, between SSY and .S unless the program is loose."""
        end = self.label()
        if not self.loose:
            self.put(f"SSY {end};")
        inside()
        self.put(*([] if self.loose else ["NOP.S;"]), f"{end}:")

    def branch(self) -> None:
        c = self.chance
        self.condition()
        end, other = self.label(), self.label()
        p = c.choice(["P0", "!P0", "P3", "!P4"])
        kind = c.randrange(6)
        if kind == 0:  # as nvcc: both sides end in .S
            self.put(f"SSY {end};", f"@{p} BRA {other};")
            self.body()
            self.put(c.choice(["NOP.S;", "IADD.S R1, R1, 0x5;"]), f"{other}:")
            self.body()
            self.put("NOP.S;", f"{end}:")
        elif kind == 1:  # as Mesa: the first side jumps to a common .S
            common = self.label()
            self.put(f"SSY {end};", f"@{p} BRA {other};")
            self.body()
            self.put(f"BRA {common};", f"{other}:")
            self.body()
            self.put(f"{common}:", "NOP.S;", f"{end}:")
        elif kind == 2:  # one-sided
            self.put(f"SSY {end};", f"@{p} BRA {other};")
            self.body()
            self.put(f"{other}:", "NOP.S;", f"{end}:")
        elif kind == 3:  # one-sided, lanes that have nothing to do wait at once
            self.put(f"SSY {end};", f"@{p} NOP.S;")
            self.body()
            self.put("NOP.S;", f"{end}:")
        elif kind == 4:  # without a reconvergence point

            def skip() -> None:
                self.put(f"@{p} BRA {other};")
                self.body()
                self.put(f"{other}:")

            self.joined(skip)
        elif not self.loose:  # uniform branch: only if all agree
            self.put(f"@{p} BRA.U {other};")
            self.value()
            self.put(f"{other}:")

    def switch(self) -> None:
        """An indirect branch to one of four cases of equal length."""
        end, base = self.label(), self.label()
        cases = [self.chance.randrange(1 << 18) for _ in range(4)]
        self.put(f"SSY {end};", "LOP.AND R4, R1, 0x3;", "SHL R4, R4, 0x4;")
        self.put(f"{self.chance.choice(['BRX', 'BRX', '@P3 BRX'])} R4, {base};", "NOP.S;", f"{base}:")
        for case in cases:
            self.put(f"IADD R1, R1, {hex(case)};", "NOP.S CC.T;")
        self.put(f"{end}:")

    def trips(self) -> str:
        """Put the number of rounds, different in each lane or not, into a fresh register."""
        register = f"R{10 + self.loops}"
        self.loops += 1
        if self.chance.random() < 0.7:
            self.put(f"BFE.U32 {register}, R1, {hex(self.chance.randrange(28) | 2 << 8)};")
        else:
            self.put(f"MOV32I {register}, {self.small(4)};")
        return register

    def loop(self) -> None:
        counter = self.trips()
        top, end, again = self.label(), self.label(), self.label()
        kind = self.chance.randrange(6)
        if kind == 0:  # while, left by BRK
            self.put(f"PBK {end};", f"{top}:", f"ISETP.EQ.AND P0, PT, {counter}, RZ, PT;", "@P0 BRK;")
            self.body(loop=True)
            self.put(f"IADD {counter}, {counter}, -0x1;", f"BRA {top};", f"{end}:")
        elif kind == 1:  # with CONT
            self.put(
                f"PBK {end};",
                f"{top}:",
                f"PCNT {again};",
                f"ISETP.EQ.AND P0, PT, {counter}, RZ, PT;",
                "@P0 BRK;",
            )
            self.condition()
            self.put(f"IADD {counter}, {counter}, -0x1;", "@P0 CONT;")
            self.body(loop=True)
            self.put("CONT;", f"{again}:", f"BRA {top};", f"{end}:")
        elif kind == 2:  # do-while between SSY and .S
            self.put(f"SSY {end};", f"{top}:")
            self.body()
            self.put(f"IADD {counter}, {counter}, -0x1;", f"ISETP.GT.AND P0, PT, {counter}, RZ, PT;")
            self.put(f"@P0 BRA {top};", "NOP.S;", f"{end}:")
        elif kind == 3:  # do-while with nothing around it

            def rounds() -> None:
                self.put(f"{top}:")
                self.body()
                self.put(
                    f"IADD {counter}, {counter}, -0x1;",
                    f"ISETP.GT.AND P0, PT, {counter}, RZ, PT;",
                    f"@P0 BRA {top};",
                )

            self.joined(rounds)
        elif kind == 4:  # two ways out, by BRK at different depths
            self.put(f"PBK {end};", f"{top}:")
            self.body(loop=True)
            self.put(
                f"IADD {counter}, {counter}, -0x1;", f"ISETP.LT.AND P0, PT, {counter}, RZ, PT;", "@P0 BRK;"
            )
            inner = self.label()
            self.condition()
            self.put(
                f"SSY {inner};",
                f"@P0 BRA {again};",
                "IADD R1, R1, 0x7;",
                "@P3 BRK;",
                f"{again}:",
                "NOP.S;",
                f"{inner}:",
            )
            self.put(f"BRA {top};", f"{end}:")
        else:  # condition code
            self.put(f"SSY {end};", f"{top}:")
            self.body()
            self.put(f"IADD {counter}.CC, {counter}, -0x1;", f"BRA CC.GT, {top};", "NOP.S;", f"{end}:")
        self.loops -= 1

    def call(self) -> None:
        kind = self.chance.randrange(3)
        name = f"f{self.labels}x{len(self.functions)}"
        inner = Writer(
            self.chance, self.threads, functions=self.functions, labels=1000 * (len(self.functions) + 1)
        )
        inner.loose = self.loose
        inner.depth, inner.loops, inner.calls = self.depth + 1, self.loops, self.calls + 1
        self.functions.append("")
        slot = len(self.functions) - 1
        inner.put(f"{name}:")
        inner.body()
        if self.chance.random() < 0.5:
            inner.condition()
            inner.put(f"@{self.chance.choice(['P0', 'P3', '!P4'])} RET;")
            inner.body()
        inner.put("RET;")
        self.functions[slot] = "\n".join(inner.lines)
        if kind == 0:
            self.put(f"CAL {name};")
        elif kind == 1:
            self.put(f"JCAL {name};")
        else:
            after = self.label()
            self.put(f"PRET {after};", f"BRA {name};", f"{after}:")

    def jump(self) -> None:
        """A long jump out of nested divergence."""
        end, inside = self.label(), self.label()
        self.put(f"PLONGJMP {end};")
        self.condition()
        self.put(f"SSY {inside};", "@P0 LONGJMP;", "IADD R1, R1, 0x3;", "NOP.S;", f"{inside}:")
        self.value()
        self.put("LONGJMP;", f"{end}:")

    def leave(self) -> None:
        self.condition()
        self.put("@P0 ST [R3], R1;", "@P0 EXIT;")

    def lock(self) -> None:
        """Each lane in turn adds to a word of shared memory under its lock."""
        top = self.label()

        def take() -> None:
            self.put(f"MOV32I R4, {hex(SCRATCH)};", f"{top}:", "LDSLK P1, R5, [R4];", "@P1 IADD R5, R5, R1;")
            self.put("@P1 STSUL [R4], R5;", f"@!P1 BRA {top};")

        self.joined(take)

    # Warps together

    def exchange(self) -> None:
        """Neighbours' values through shared memory, between barriers."""
        c = self.chance
        k = c.randrange(1, 64)
        number = c.choice(["0x0", "0x1", "0xf"])
        self.put("SHL R4, R0, 0x2;", "STS [R4], R1;", f"BAR.SYNC {number}, RZ;")
        self.put(f"IADD R5, R0, {hex(k)};", f"ISETP.GE.U32.AND P1, PT, R5, {hex(self.threads)}, PT;")
        self.put("@P1 MOV R5, R0;")
        self.put("SHL R5, R5, 0x2;", "LDS R5, [R5];", f"BAR.SYNC {number}, RZ;", "IMAD R1, R1, 0x11, R5;")

    def reduce(self) -> None:
        self.condition("P1")
        kind = self.chance.choice(["POPC", "AND", "OR"])
        self.put(
            f"BAR.RED.{kind} R4, P2, 0x2, RZ, {self.chance.choice(['', '!'])}P1;",
            "IADD R1, R1, R4;" if kind == "POPC" else "@P2 IADD R1, R1, 0x9;",
        )

    def produce(self) -> None:
        """The first warp waits for the others, which only arrive."""
        warps = -(-self.threads // 32)
        if warps < 2:
            return
        other, end = self.label(), self.label()
        count = hex(32 * warps)
        self.put("ISETP.LT.U32.AND P1, PT, R0, 0x20, PT;", "SHL R4, R0, 0x2;", f"@P1 BRA {other};")
        self.put("STS [R4], R1;", "MEMBAR.CTA;", f"BAR.ARV 0x3, {count};", f"BRA {end};")
        self.put(
            f"{other}:",
            f"BAR.SYNC 0x3, {count};",
            "LDS R5, [R4+0x80];" if self.threads >= 64 else "LDS R5, [0x80];",
            "IADD R1, R1, R5;",
        )
        self.put(f"{end}:", "BAR.SYNC 0x0, RZ;")

    # Putting it together

    def body(self, loop: bool = False) -> None:
        """A few statements one level deeper."""
        self.depth += 1
        for _ in range(self.chance.randrange(1, 3)):
            self.statement()
        if loop and self.chance.random() < 0.3:
            self.condition()
            self.put("@P0 BRK;")
        self.depth -= 1

    def statement(self) -> None:
        c = self.chance
        if self.depth > 3:
            self.value()
            return
        kinds = [self.value] * 3 + [self.branch] * 3 + [self.memory] * 2 + [self.ballot, self.switch]
        if self.loops < 2:
            kinds += [self.loop] * 3
        if self.calls < 2:
            kinds.append(self.call)
        if c.random() < 0.15:
            kinds = [self.jump, self.leave, self.lock]
        c.choice(kinds)()


def kernel(chance: Random, block: tuple[int, int, int], statements: int = 8) -> str:
    """Text of a kernel for blocks of this shape that ends with its value in the thread's word of OUT."""
    bx, by, bz = block
    threads = bx * by * bz
    w = Writer(chance, threads, loose=chance.random() < 0.3)
    w.put("S2R R0, SR_TID.X;", "S2R R4, SR_TID.Y;", "S2R R5, SR_TID.Z;")
    w.put(f"IMAD R0, R4, {hex(bx)}, R0;", f"IMAD R0, R5, {hex(bx * by)}, R0;")
    w.put("S2R R4, SR_CTAID.Y;", "S2R R5, SR_NCTAID.X;", "S2R R6, SR_CTAID.X;", "IMAD R4, R4, R5, R6;")
    w.put(f"IMAD R2, R4, {hex(threads)}, R0;", "SHL R3, R2, 0x2;", f"IADD32I R3, R3, {hex(OUT)};")
    w.put("MOV32I R1, 0x9e3779b9;", "IMAD R1, R1, R2, R1;", "SHR.U32 R4, R1, 0xf;", "LOP.XOR R1, R1, R4;")
    w.put(
        "LOP.AND R4, R0, 0x1;",
        "ISETP.NE.AND P3, PT, R4, RZ, PT;",
        "S2R R4, SR_LANEID;",
        "ISETP.LT.AND P4, PT, R4, 0x10, PT;",
    )
    # Local memory starts with whatever was there.
    w.put(
        *(f"STL.128 [{hex(16 * n)}], RZ;" for n in range(LOCAL // 16)),
        "MOV32I R4, 0x1000000;",
        "STL.128 [R4-0x10], RZ;",
    )
    # So does shared memory; threads that leave early write none.
    w.put("SHL R4, R0, 0x2;", "STS [R4], RZ;", "BAR.SYNC 0x0, RZ;")
    for _ in range(statements):
        if chance.random() < 0.25 and not w.loose:
            chance.choice([w.exchange, w.exchange, w.reduce, w.produce])()
        else:
            w.statement()
    w.put("ST [R3], R1;", "EXIT;")
    return "\n".join([*w.lines, *w.functions])

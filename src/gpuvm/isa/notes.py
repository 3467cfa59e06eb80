"""What the operations do, in a sentence each: the prose of `docs/isa.md`. The fields come from the tables."""

from __future__ import annotations

INTRODUCTION = """# Fermi (sm_20) machine code

Generated from the tables of `gpuvm.isa` by `python -m gpuvm.isa.reference`; do not edit.

How to read an operation: `(destinations) <- (sources)`. `R` register, `R:2` two consecutive registers (`Reg.count`), `P`
predicate, `c[b]` constant, `imm s20` signed 20-bit immediate (`<<12`: its value's low 12 bits are zero), `dst` the
destination's own register. In brackets what the operand may carry: `-` negation, `|` absolute value, `~` bitwise not,
`!` inversion. Where a position lists several kinds, at most one source is a constant or an immediate; of three sources
(b, c) is (R, R), (c[b], R), (imm, R) or (R, c[b]).

Every decoded instruction carries all mods of its operation. One that is built for the encoder names only those that differ
from the default. Everywhere: `cc` writes the condition code, `x` adds its carry, `ftz` flushes denormals (sources and
result), `rnd` is the rounding, `sat` clamps a float to [0, 1] or an integer to its range, `type`/`atype`/`btype`
signedness, `bop` joins a comparison with the predicate that is the last source, `test` is the condition-code test of
control operations (text `CC.NE`), `e` means 64-bit addresses (`Mem.base.count` 2). `cmp` has a bit each for less (1), equal
(2), greater (4) and unordered (8), which never holds for integers. Sixteen-bit parts in `part` are `B0` and `B2`.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "Single precision": (
        "FADD", "FADD32I", "FMUL", "FMUL32I", "FFMA", "FFMA32I", "FMNMX", "FSET", "FSETP", "FCMP", "MUFU", "RRO", "FSWZADD",
    ),
    "Double precision": ("DADD", "DMUL", "DFMA", "DMNMX", "DSET", "DSETP"),
    "Integer": (
        "IADD", "IADD32I", "IMUL", "IMUL32I", "IMAD", "IMAD32I", "ISCADD", "ISCADD32I", "ISAD", "IMNMX", "ISET", "ISETP",
        "ICMP", "BFE", "BFI", "FLO", "POPC", "SHL", "SHR", "LOP", "LOP32I", "PRMT",
    ),
    "Conversion": ("F2F", "F2I", "I2F", "I2I"),
    "Moves and predicates": (
        "MOV", "MOV32I", "SEL", "S2R", "P2R", "R2P", "PSET", "PSETP", "CSET", "CSETP", "VOTE", "LEPC", "B2R",
    ),
    "Memory": (
        "LD", "LDU", "LDL", "LDS", "LDC", "ST", "STL", "STS", "ATOM", "RED", "LDLK", "STUL", "LDSLK", "STSUL", "CCTL", "CCTLL",
        "MEMBAR", "LD_LDU", "LDS_LDU",
    ),
    "Control": (
        "BRA", "BRX", "JMP", "JMX", "SSY", "PBK", "PCNT", "PRET", "PLONGJMP", "CAL", "JCAL", "BRK", "CONT", "RET", "LONGJMP",
        "EXIT", "KIL", "BAR", "NOP", "PMTRIG", "BPT", "RTT", "SAM", "RAM",
    ),
}  # fmt: skip

NOTES: dict[str, str] = {
    "FADD": "d = a + b.",
    "FADD32I": "d = a + imm.",
    "FMUL": "d = a * b; negation of a is that of the product; `scale` divides (D) or multiplies (M) the exact product by 2, 4, 8.",
    "FMUL32I": "d = a * imm.",
    "FFMA": "d = a * b + c, rounded once; negation of a is that of the product. `fmz`: 0 * anything is 0.",
    "FFMA32I": "d = a * imm + d.",
    "FMNMX": "d = pred ? min(a, b) : max(a, b).",
    "FSET": "d = ((a cmp b) bop pred) as a mask (-1 / 0), or 1.0f / 0 with `bf`.",
    "FSETP": "p = (a cmp b) bop pred; q = !(a cmp b) bop pred.",
    "FCMP": "d = (c cmp 0.0) ? a : b, bits unchanged.",
    "MUFU": "d = function(a); SIN, COS, EX2 want RRO's form of the argument. RCP64H, RSQ64H work on a double's high word.",
    "RRO": "Range reduction for MUFU: SINCOS or EX2.",
    "FSWZADD": "Within each quad: d = op<lane>(a of the lane that `lane` names, b).",
    "DADD": "d = a + b.",
    "DMUL": "d = a * b; negation of a is that of the product.",
    "DFMA": "d = a * b + c, rounded once; negation of a is that of the product.",
    "DMNMX": "d = pred ? min(a, b) : max(a, b).",
    "DSET": "As FSET.",
    "DSETP": "As FSETP.",
    "IADD": "d = a + b (+ carry with `x`); at most one is negated; `po`: a + b + 1.",
    "IADD32I": "As IADD.",
    "IMUL": "d = low or (`hi`) high word of a * b; signedness of each factor.",
    "IMUL32I": "As IMUL.",
    "IMAD": "d = low or (`hi`) high word of a * b, plus c (+ carry); negation of a is that of the product; `po` adds 1.",
    "IMAD32I": "d = a * imm + d.",
    "ISCADD": "d = (a << shift) + b; the last source is the shift, 0 to 31; at most one of a, b is negated; `po` adds 1.",
    "ISCADD32I": "d = (a << shift) + imm.",
    "ISAD": "d = |a - b| + c.",
    "IMNMX": "d = pred ? min(a, b) : max(a, b). `range` XLO, XMED, XHI: pieces of a wider comparison through the condition code.",
    "ISET": "As FSET; `x` continues a wider comparison through the carry.",
    "ISETP": "As FSETP; `x` continues a wider comparison through the carry.",
    "ICMP": "d = (c cmp 0) ? a : b.",
    "BFE": "Bit field of a: b bits 0-7 position, 8-15 length; sign-extended for S32; `brev` reverses a first.",
    "BFI": "c with the low bits of a inserted; b bits 0-7 position, 8-15 length.",
    "FLO": "Number of the highest set bit (U32) or highest bit that differs from the sign (S32), -1 if none; `sh`: 31 - that.",
    "POPC": "d = number of ones in a & b.",
    "SHL": "d = a << b; shift amounts above 31 give 0, or with `w` count modulo 32.",
    "SHR": "d = a >> b; shift amounts above 31 act as 32, or with `w` count modulo 32; `brev` reverses a first.",
    "LOP": "d = a op b; PASS_B: b.",
    "LOP32I": "d = a op imm.",
    "PRMT": "Byte permutation of (a, c) by b's selector nibbles, or by `mode`.",
    "F2F": "Float to float; ROUND, FLOOR, CEIL, TRUNC round to an integral value.",
    "F2I": "Float to integer, saturating.",
    "I2F": "Integer to float; `part`: which byte or half of the register.",
    "I2I": "Integer to integer, `sat` saturating; `part`: which byte or half of the register.",
    "MOV": "d = b; `lanes` masks the lanes of each quad that write.",
    "MOV32I": "d = imm.",
    "SEL": "d = pred ? a : b.",
    "S2R": "d = special register.",
    "P2R": "d = (a & ~mask) | (predicates and condition code & mask); P0-P6 bits 0-6, condition code 12-15; `hi`: high half.",
    "R2P": "Predicates and condition code from a where the mask has ones.",
    "PSET": "d = (p bop0 q) bop r as a mask, or 1.0f / 0 with `bf`.",
    "PSETP": "p = (a bop0 b) bop c; q = !(a bop0 b) bop c.",
    "CSET": "d = (condition code passes test) bop pred as a mask, or 1.0f / 0 with `bf`.",
    "CSETP": "p = test bop pred; q = !test bop pred.",
    "VOTE": "d = ballot of the active lanes where pred holds; p = ALL, ANY or EQ (all alike).",
    "LEPC": "d = address of the instruction.",
    "B2R": "d = state of a barrier.",
    "LD": "Load, generic: the shared and local windows are addresses too.",
    "LDU": "Load, the address being the same in all lanes.",
    "LDL": "Load from local memory.",
    "LDS": "Load from shared memory.",
    "LDC": "Load from constant bank `Mem.bank` at register + offset.",
    "ST": "Store, generic.",
    "STL": "Store to local memory.",
    "STS": "Store to shared memory.",
    "ATOM": "d = old value; memory = op(old, data). CAS has compare and new value as data. EXCH and CAS: U32 or U64.",
    "RED": "memory = op(memory, data).",
    "LDLK": "Load from global memory and lock; p tells whether the lock was taken.",
    "STUL": "Store to global memory and unlock.",
    "LDSLK": "Load from shared memory and lock; p tells whether the lock was taken.",
    "STSUL": "Store to shared memory and unlock.",
    "CCTL": "Cache control of the line at the address.",
    "CCTLL": "Cache control of local memory.",
    "MEMBAR": "Fence: block, GPU or system.",
    "BRA": "Branch; `u`: only if the whole warp takes it. With a constant, its word is the distance.",
    "BRX": "Branch to target + register, or by a constant indexed by a register.",
    "JMP": "Branch to an absolute offset in the code segment.",
    "JMX": "Branch to absolute target + register.",
    "SSY": "Push a reconvergence point, popped by .S.",
    "PBK": "Push a break target.",
    "PCNT": "Push a continue target.",
    "PRET": "Push a return target.",
    "PLONGJMP": "Push a long-jump target.",
    "CAL": "Call.",
    "JCAL": "Call an absolute offset.",
    "BRK": "Go to the innermost break target.",
    "CONT": "Go to the innermost continue target.",
    "RET": "Return.",
    "LONGJMP": "Go to the long-jump target.",
    "EXIT": "End the thread.",
    "KIL": "Discard the fragment.",
    "BAR": "Barrier: sources are its number and the count of threads (0: all of the block). RED also reduces a predicate: d ="
    " count, p = AND or OR.",
    "NOP": "Nothing (with .S: reconvergence).",
    "PMTRIG": "Performance monitor trigger.",
    "BPT": "Breakpoint or trap.",
    "RTT": "Return from the trap handler.",
    "SAM": "Set active mask: all lanes of each quad.",
    "RAM": "Restore active mask.",
}

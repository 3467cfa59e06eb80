"""What the compiler knows of each operation: purity, which source slots may hold constants, which may be
negated.

Names are the chip's. Pseudo operations (each expands to the lines shown, always adjacent, at emission):

======== ===================================== =============================================================
ADD64    lo, hi <- (alo, ahi, blo, bhi)        IADD.CC lo, alo, blo; IADD.X hi, ahi, bhi (b negated: a - b)
MAD64    lo, hi <- (a, b, clo, chi)            IMAD.CC lo, a, b, clo; IMAD.HI.X hi, a, b, chi (types by
`atype`) CARRY    d <- (c, a, b) and carry out          see emission; add with carry in and out as 0/1 words
PMOV     p <- q                                PSETP COPY     d <- s                                MOV
======== ===================================== =============================================================
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Op:
    """`const` are the slots that can hold a constant-bank word, `imm` those that can hold an immediate of the
    kind `imm_kind` ("i": 20 bits sign-extended, "f": high 20 bits of a float, "d": of a double). At most one
    slot of an instruction holds a constant or immediate. `swap` says how sources 0 and 1 may change places.
    """

    pure: bool = True
    const: tuple[int, ...] = ()
    imm: tuple[int, ...] = ()
    imm_kind: str = "i"
    swap: str = ""
    neg: tuple[int, ...] = ()
    abs: tuple[int, ...] = ()
    inv: tuple[int, ...] = ()
    long: str = ""


def _ab(kind: str = "i", swap: str = "plain", **more: object) -> Op:
    return Op(const=(1,), imm=(1,), imm_kind=kind, swap=swap, **more)  # type: ignore[arg-type]


OPS: dict[str, Op] = {
    "FADD": _ab("f", neg=(0, 1), abs=(0, 1), long="FADD32I"),
    "FMUL": _ab("f", neg=(0, 1), long="FMUL32I"),
    "FFMA": Op(const=(1, 2), imm=(1,), imm_kind="f", swap="plain", neg=(0, 1, 2)),
    "FMNMX": _ab("f", neg=(0, 1), abs=(0, 1)),
    "FSET": _ab("f", "compare", neg=(0, 1), abs=(0, 1)),
    "FSETP": _ab("f", "compare", neg=(0, 1), abs=(0, 1)),
    "MUFU": Op(neg=(0,), abs=(0,)),
    "RRO": Op(const=(0,), neg=(0,), abs=(0,)),
    "DADD": _ab("d", neg=(0, 1), abs=(0, 1)),
    "DMUL": _ab("d", neg=(0, 1)),
    "DFMA": Op(const=(1, 2), imm=(1,), imm_kind="d", swap="plain", neg=(0, 1, 2)),
    "DMNMX": _ab("d", neg=(0, 1), abs=(0, 1)),
    "DSETP": _ab("d", "compare", neg=(0, 1), abs=(0, 1)),
    "IADD": _ab(neg=(0, 1), long="IADD32I"),
    "IMUL": _ab(swap="types", long="IMUL32I"),
    "IMAD": Op(const=(1, 2), imm=(1,), swap="types", neg=(0, 2)),
    "ISCADD": Op(const=(1,), imm=(1,), neg=(0, 1)),
    "ISAD": Op(const=(1, 2), imm=(1,), swap="plain"),
    "IMNMX": _ab(),
    "ISET": _ab(swap="compare"),
    "ISETP": _ab(swap="compare"),
    "BFE": Op(const=(1,), imm=(1,)),
    "BFI": Op(const=(1, 2), imm=(1,)),
    "FLO": Op(const=(0,), inv=(0,)),
    "POPC": _ab(inv=(0, 1)),
    "SHL": Op(const=(1,), imm=(1,)),
    "SHR": Op(const=(1,), imm=(1,)),
    "LOP": _ab(inv=(0, 1), long="LOP32I"),
    "PRMT": Op(const=(1, 2), imm=(1,)),
    "SEL": Op(const=(1,), imm=(1,), swap="select"),
    "MOV": Op(const=(0,), imm=(0,), long="MOV32I"),
    "COPY": Op(const=(0,), imm=(0,), long="MOV32I"),
    "PMOV": Op(),
    "PSETP": Op(),
    "S2R": Op(),
    "CLOCK": Op(pure=False),
    "F2F": Op(const=(0,), neg=(0,), abs=(0,)),
    "F2I": Op(const=(0,), neg=(0,), abs=(0,)),
    "I2F": Op(const=(0,), neg=(0,), abs=(0,)),
    "I2I": Op(const=(0,), neg=(0,), abs=(0,)),
    "LDC": Op(),
    "LD": Op(pure=False),
    "LDL": Op(pure=False),
    "LDS": Op(pure=False),
    "ST": Op(pure=False),
    "STL": Op(pure=False),
    "STS": Op(pure=False),
    "LDSLK": Op(pure=False),
    "STSUL": Op(pure=False),
    "ATOM": Op(pure=False),
    "RED": Op(pure=False),
    "CCTL": Op(pure=False),
    "MEMBAR": Op(pure=False),
    "BAR": Op(pure=False),
    "BARRED": Op(pure=False),
    "VOTE": Op(pure=False),
    "CAL": Op(pure=False),
    "ENTER": Op(pure=False),
    "LEAVE": Op(pure=False),
    "BPT": Op(pure=False),
    "EXIT": Op(pure=False),
    # pseudo operations
    "ADD64": Op(const=(0, 1, 2, 3), imm=(0, 1, 2, 3)),
    "MAD64": Op(const=(1, 2, 3), imm=(1,)),
    "ADDC": Op(const=(1,), imm=(1,)),
    "LOCALBASE": Op(),
}


def fits_immediate(kind: str, value: int) -> bool:
    """Whether the 20-bit immediate field can hold the value (32 raw bits; 64 for kind "d")."""
    if kind == "i":
        signed = value - (1 << 32) if value >> 31 else value
        return -(1 << 19) <= signed < 1 << 19
    if kind == "f":
        return value & 0xFFF == 0
    return value & ((1 << 44) - 1) == 0

"""Rows of branches, the reconvergence stack, calls, barriers, votes and the like (long words)."""

from __future__ import annotations

from gpuvm.isa.fields import (
    ConstField,
    ImmField,
    MemField,
    Mod,
    PredField,
    RegField,
    TargetField,
    at,
    choice,
    fixed,
    flag,
)
from gpuvm.isa.instruction import Imm
from gpuvm.isa.rows import (
    DST,
    FORM,
    SRC1,
    SRC2,
    SRC3,
    Form,
    Row,
    condition,
    make_row,
    op,
    pcombine,
    rd,
)

_FLOW = 0xF80000000000000F
_MOVE = 0xFC00000000000007
_INDIRECT = 1 << 14


def _ignored() -> Mod:
    """Bits 10 to 13 of an operation that acts for the whole warp, guard or not."""
    return Mod("ign", at(10, 4), tuple(range(16)), 0, texts={n: f"IGN{n}" if n else "" for n in range(16)})


def _flow() -> list[Row]:
    rows: list[Row] = []
    relative = TargetField(at(26, 24), relative=True)
    absolute = TargetField(at(26, 32), relative=False)
    table = ConstField(at(26, 16), at(42, 5), unit=1)
    indexed = MemField("const", SRC1, at(26, 16), bank=at(42, 5))
    warp, limit, noinc = flag("u", 15), flag("lmt", 16), flag("noinc", 16)

    def flow(name: str, opcode: int, forms: list[Form], mods: list[Mod], *, guarded: bool) -> None:
        lead = [condition()] if guarded else [_ignored()]
        for form in forms:
            rows.append(
                make_row(
                    name,
                    8,
                    7 | opcode << 56 | form.match,
                    _FLOW | form.mask,
                    [],
                    form.fields,
                    [*mods, *lead],
                    guarded=guarded,
                    syncable=False,
                )
            )

    def direct(target: TargetField) -> list[Form]:
        return [Form(0, _INDIRECT, (target,)), Form(_INDIRECT, _INDIRECT, (table,))]

    def register(target: TargetField) -> list[Form]:
        return [Form(0, _INDIRECT, (RegField(SRC1), target)), Form(_INDIRECT, _INDIRECT, (indexed,))]

    plain = [Form(0, 0, ())]
    flow("JMP", 0x00, direct(absolute), [warp, limit], guarded=True)
    flow("JMX", 0x08, register(absolute), [limit], guarded=True)
    flow("JCAL", 0x10, direct(absolute), [noinc], guarded=False)
    flow("BRA", 0x40, direct(relative), [warp, limit], guarded=True)
    flow("BRX", 0x48, register(relative), [limit], guarded=True)
    flow("CAL", 0x50, direct(relative), [noinc], guarded=False)
    flow("PLONGJMP", 0x58, direct(relative), [], guarded=False)
    flow("SSY", 0x60, direct(relative), [], guarded=False)
    flow("PBK", 0x68, direct(relative), [], guarded=False)
    flow("PCNT", 0x70, direct(relative), [], guarded=False)
    flow("PRET", 0x78, direct(relative), [noinc], guarded=False)
    flow("EXIT", 0x80, plain, [], guarded=True)
    flow("LONGJMP", 0x88, plain, [], guarded=True)
    flow("RET", 0x90, plain, [], guarded=True)
    flow("KIL", 0x98, plain, [], guarded=True)
    flow("RTT", 0xA0, plain, [flag("terminate", 14)], guarded=False)
    flow("BRK", 0xA8, plain, [], guarded=True)
    flow("CONT", 0xB0, plain, [], guarded=True)
    flow("SAM", 0xC0, plain, [], guarded=False)
    flow("RAM", 0xC8, plain, [], guarded=False)
    flow(
        "BPT",
        0xD0,
        [Form(0, 0, (ImmField(at(26, 20)),))],
        [choice("mode", at(14, 2), "DRAIN CAL PAUSE TRAP")],
        guarded=False,
    )
    return rows


def _synchronisation() -> list[Row]:
    barrier = [Form(0, 1 << 47, (RegField(SRC1),)), Form(1 << 47, 1 << 47, (ImmField(at(SRC1, 4)),))]
    count = [Form(0, 1 << FORM, (RegField(SRC2),)), Form(1 << FORM, 1 << FORM, (ImmField(at(26, 12)),))]
    opcode = _MOVE | 7 << 5
    none = (0x3F << DST) | 7 << 53 | 0xF << SRC3
    unused = 0x3F << DST | 7 << 53 | 7 << SRC3
    operation = choice("op", at(5, 2), "POPC AND OR")
    outputs = [rd(), PredField(53)]
    plain = fixed("op", "POPC", text="")
    arrive = 4 << 5
    return [
        *op(
            "BAR",
            0x5000000000000004 | unused,
            opcode | none,
            [],
            [barrier, count],
            [fixed("mode", "SYNC", show=True), plain],
        ),
        *op(
            "BAR",
            0x5000000000000004 | arrive | unused,
            opcode | none,
            [],
            [barrier, count],
            [fixed("mode", "ARV", "SYNC", show=True), plain],
        ),
        *op(
            "BAR",
            0x5000000000000004,
            _MOVE | 1 << 7,
            outputs,
            [barrier, count, pcombine()],
            [fixed("mode", "RED", "SYNC", show=True), operation],
        ),
        *op("B2R", 0x3800000000000004, _MOVE, [rd()], [ImmField(at(SRC1, 4))]),
        *op(
            "VOTE",
            0x4800000000000004,
            _MOVE,
            [rd(), PredField(54)],
            [PredField(SRC1, 23)],
            [choice("op", at(5, 2), "ALL ANY EQ")],
        ),
        *op("LEPC", 0x4400000000000004, _MOVE, [rd()], []),
        *op("NOP", 0x4000000000000004, _MOVE | 1 << 50, [], [], [condition(show=True)]),
        *op("PMTRIG", 0x4004000000000004, _MOVE | 1 << 50, [], [ImmField(at(26, 16))], [condition()]),
    ]


NO_COUNT = Imm(0)
"""Thread count of a barrier that waits for the whole block."""

ROWS: list[Row] = [*_flow(), *_synchronisation()]

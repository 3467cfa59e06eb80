"""Assembly text: labels, comments, numbers, and errors that say where."""

from __future__ import annotations

import pytest

from gpuvm.isa.assembler import assemble
from gpuvm.isa.decoder import decode, decode_all
from gpuvm.isa.disassembler import disassemble, format_instruction
from gpuvm.isa.errors import AssembleError
from gpuvm.isa.instruction import Const, Imm, Mem, Pred, Reg, Target

PROGRAM = """
        MOV R1, c[0x1][0x100];        // the stack
        S2R R0, SR_TID.X;
loop:   @!P0 FADD.FTZ.RM R1, -R2, |c[0x0][0x20]|;
        IADD R3.CC, R3, -0x5;  IADD.X R4, R4, RZ;
        ISETP.GE.U32.AND P0, PT, R0, c[0x0][0x8], PT;
        SSY done;                     /* a comment
                                         over two lines */
   @P0  BRA loop;
        NOP.S CC.T;
done:   LD.E.64 R4, [R2+0x10];
        LDS.128 R8, [R3];
        LDC R5, c[0x3][R2+0x4];
        BAR.SYNC 0x0, 0x0;
        ST.E [R2-0x8], R4;
        ATOM.E.ADD R7, [R2], R4;
        RED.E.ADD.F32.FTZ.RN [R2], R4;
        IMAD.U32.U32.HI.X R5, R0, R4, c[0x0][0x24];
        IADD.SHORT R3, R3, R4;
        BRA CC.NE, loop;
        EXIT;
"""


def test_a_program_and_its_listing_are_the_same_code() -> None:
    code = assemble(PROGRAM, 0x40)
    listing = "\n".join(disassemble(code, 0x40))
    assert assemble(listing, 0x40) == code


def test_labels_are_offsets_in_the_code_segment() -> None:
    branches = [i for _, i in decode_all(assemble(PROGRAM, 0x40), 0x40) if i.name in ("BRA", "SSY")]
    assert [i.src for i in branches] == [(Target(0x88),), (Target(0x50),), (Target(0x50),)]
    forward = assemble("BRA end; NOP CC.T; end: EXIT;", 0x1000)
    assert decode(forward, 0, 0x1000).src == (Target(0x1010),)


def test_numbers_are_what_the_operation_sees() -> None:
    def sources(text: str) -> tuple[object, ...]:
        return decode(assemble(text), 0).src[1:]

    assert sources("FMUL R0, R1, 0.5;") == (Imm(0x3F000000),)
    assert sources("FADD R0, R1, -1.0;") == (Imm(0x3F800000, neg=True),)
    assert sources("FMUL R0, R1, -1.5;") == (Imm(0xBFC00000),)
    assert sources("DADD R0, R2, 2.0;") == (Imm(0x4000000000000000),)
    assert sources("LOP.AND R0, R1, -0x10;") == (Imm(0xFFFFFFF0),)
    assert sources("LOP32I.AND R0, R1, 0xfffffff0;") == (Imm(0xFFFFFFF0),)
    assert sources("IADD R0, R1, 20;") == (Imm(20),)
    assert sources("FADD32I R0, R1, INF;") == (Imm(0x7F800000),)


def test_operands_of_every_kind() -> None:
    load = decode(assemble("@P2 LD.E.CG.64.S R4, [R2+0x10];"), 0)
    assert (load.dst, load.src) == ((Reg(4, 2),), (Mem("generic", Reg(2, 2), 16),))
    assert (load.guard, load.sync) == (Pred(2), True)
    assert (load.mods["e"], load.mods["cache"], load.mods["size"]) == (True, "CG", "64")
    indexed = decode(assemble("LDC.64 R4, c[0x3][R2-0x8];"), 0)
    assert indexed.src == (Mem("const", Reg(2), -8, 3),)
    choose = decode(assemble("FFMA R0, R1, R2, -c[0x2][0x10];"), 0)
    assert choose.src == (Reg(1), Reg(2), Const(2, 16, neg=True))
    part = decode(assemble("I2F.F32.U8 R0, R1.B3;"), 0)
    assert part.mods["part"] == "B3"
    predicates = decode(assemble("PSETP.AND.OR P1, P2, !P3, P4, !PT;"), 0)
    assert predicates.dst == (Pred(1), Pred(2))
    assert predicates.src == (Pred(3, True), Pred(4), Pred(7, True))


def test_flags_may_stand_in_any_order_and_values_may_not() -> None:
    assert assemble("FADD.RM.FTZ.SAT R0, R1, R2;") == assemble("FADD.FTZ.RM.SAT R0, R1, R2;")
    with pytest.raises(AssembleError):
        assemble("I2F.S32.F32 R0, R1;")


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("FROB R1;", (1, 1), "no GF100 operation"),
        ("\n  FADD R1 R2, R3;", (2, 11), "',' or ';'"),
        ("FADD R1, R2;", (1, 1), "takes 3 operands, got 2"),
        ("FADD R64, R1, R2;", (1, 6), "R0 to R62"),
        ("FADD.QQ R1, R2, R3;", (1, 1), "QQ"),
        ("IADD R0, R1, 0x12345678;", (1, 14), "-524288 to 524287"),
        ("EXIT; BRA nowhere;", (1, 11), "nowhere is not defined"),
        ("LD.E R0, R2;", (1, 10), "a memory address"),
        ("MOV R1, c[0x0][0x21];", (1, 9), "multiple of 4"),
        ("@P9 EXIT;", (1, 2), "P0 to P6"),
        ("@R1 EXIT;", (1, 2), "a guard"),
        ("FADD R1, R2, !P0;", (1, 14), "a register"),
        ("ISETP P0, PT, R1, R2, PT;", (1, 1), "needs modifiers"),
        ("x: x: EXIT;", (1, 3), "defined twice"),
        ("FADD R1, ~R2, R3;", (1, 10), "no inversion"),
        ("BAR.SYNC 0x10, 0x0;", (1, 10), "0 to 15"),
        ("LDS.64 R1, [R2+R3];", (1, 16), "a number"),
        ("@P0 SSY 0x40;", (1, 5), "no guard"),
        ("DADD.SHORT R0, R2, R4;", (1, 1), "4 bytes"),
        ("MOV R1, c[0x0][R2];", (1, 9), "must stand here"),
        ("FADD R1, R2, c[0x0;", (1, 19), "']'"),
        ("@P0", (1, 4), "an instruction"),
    ],
)
def test_errors_say_where_and_what(text: str, place: tuple[int, int], message: str) -> None:
    with pytest.raises(AssembleError, match=message) as caught:
        assemble(text)
    assert (caught.value.line, caught.value.column) == place


def test_nothing_assembles_to_nothing() -> None:
    assert assemble("") == b""
    assert assemble(" ;; // only a comment\n lonely:\n") == b""


def test_text_shows_what_is_not_default() -> None:
    """The style of NVIDIA's listings."""
    for text in (
        "MOV R1, c[0x1][0x100];",
        "S2R R0, SR_CTAID.X;",
        "IMAD.U32.U32 R4.CC, R0, R5, c[0x0][0x20];",
        "ISETP.GE.U32.AND P0, PT, R4, c[0x0][0x28], PT;",
        "@!P0 FADD.FTZ.RM R1, -R2, |c[0x0][0x20]|;",
        "F2F.F64.F32 R0, R2;",
        "F2I.FTZ.S32.F32.TRUNC R3, R0;",
        "MUFU.RCP R0, R1;",
        "ST.E.128 [R4+0x10], R8;",
        "VADD.UD.U32.U32.ACC R5, R6, R7, R5;",
        "PRMT R0, R1, 0x7604, R2;",
        "SHR.U32.W R3, R0, 0x2;",
        "NOP.S CC.T;",
        "BRX c[0x10][R4];",
    ):
        assert format_instruction(decode(assemble(text), 0)) == text

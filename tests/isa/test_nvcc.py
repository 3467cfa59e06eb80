"""The tables against NVIDIA's own tools: sm_20 cubins made by nvcc and listings made by cuobjdump, where they
are present.

The files are not part of the repository: put `*.cubin` and cuobjdump listings (`*.isa`) under
`shared/data/fermi/nvcc`.
"""

from __future__ import annotations

import re
from pathlib import Path

from elftools.elf.elffile import ELFFile
from samples import fermi_data

from gpuvm.isa.decoder import decode, decode_word
from gpuvm.isa.disassembler import format_instruction
from gpuvm.isa.encoder import encode_word
from gpuvm.isa.instruction import Instruction

DATA = fermi_data()
FOLDER = DATA / "nvcc" if DATA else None

DIFFERENCES = {
    "immediate": "cuobjdump prints the 20 raw bits of an immediate, we the value that the operation sees;"
    " it prints 32-bit"
    " ones signed, we as a pattern",
    "wrap": "one release of cuobjdump prints .W where the shift's wrap bit is 0 (the source says"
    " vshl.clamp there), another"
    " the other way round",
    "product": "cuobjdump writes the sign of a product on the second factor, we on the first",
    "predicates": "cuobjdump 4 writes the three sources of PSET and PSETP from the last to the first",
    "barrier": "cuobjdump 4 calls a whole-block barrier BAR.RED.POPC RZ, RZ; we BAR.SYNC, as later ones do",
    "texture": "cuobjdump's texture operands are in an order of their own",
    "zero offset": "cuobjdump writes the offset 0 of an indexed branch",
    "part": "cuobjdump says a video operand's part by the width in its type, and only a part other than"
    " the lowest on it",
    "merge": "for a video operation with an immediate cuobjdump reads a part selector out of the"
    " immediate's bits",
}
"""Why a text may differ from NVIDIA's, by kind."""


def theirs(text: str) -> str:
    """cuobjdump's line in our spelling."""
    text = text.strip().replace("c [", "c[").replace("] [", "][").replace("+-", "-")
    text = re.sub(r"(?<![A-Za-z])pt\b", "PT", text)
    return re.sub(r"SR_\w+", lambda found: found.group().upper(), text)


def ours(instruction: Instruction) -> str:
    text = format_instruction(instruction).rstrip(";")
    return re.sub(r"SR_[\w.]+", lambda found: found.group().replace(".", "_"), text)


def _numbers_hidden(text: str) -> str:
    return re.sub(r"-?0x[0-9a-f]+", "#", text)


def kind_of_difference(instruction: Instruction, text: str) -> str:
    """Key of DIFFERENCES, "" if there is none, "?" if it is not a known one."""
    mine, other = ours(instruction), theirs(text)
    if mine == other:
        return ""
    name = instruction.name
    if name in ("SHL", "SHR", "VSHL", "VSHR") and mine.replace(".W", "") == other.replace(".W", ""):
        return "wrap"
    if _numbers_hidden(mine) == _numbers_hidden(other):
        return "immediate"
    if name in ("PSET", "PSETP") and sorted(mine) == sorted(other):
        return "predicates"
    if name in ("FFMA", "FMUL", "DFMA", "DMUL", "IMAD") and mine.replace("-", "") == other.replace("-", ""):
        return "product"
    if name == "BAR" and "RED.POPC" in other:
        return "barrier"
    if name in ("TEX", "TLD", "TXQ", "TXD"):
        return "texture"
    if name in ("BRX", "JMX") and other.replace("+0x0]", "]") == mine:
        return "zero offset"
    if name.startswith("V") and re.sub(r"\.[BH]0|[US](8|16|32)", "", mine) == re.sub(
        r"[US](8|16|32)", "", other
    ):
        return "part"
    if (
        name.startswith("V")
        and _numbers_hidden(mine.replace(".W", "")).split(" ")[-4:] == _numbers_hidden(other).split(" ")[-4:]
    ):
        return "merge"
    return "?"


def check_listing(path: Path) -> tuple[int, list[str]]:
    """(lines, unexplained differences) of one cuobjdump listing."""
    count, problems = 0, []
    for line in path.read_text(errors="replace").splitlines():
        found = re.match(r"\s*/\*([0-9a-f]+)\*/\s*/\*0x([0-9a-f]{16})\*/\s*(.*?);?\s*$", line)
        if found is None:
            continue
        pc, word = int(found[1], 16), int(found[2][8:] + found[2][:8], 16)
        instruction = decode_word(word, 8, pc)
        count += 1
        if kind_of_difference(instruction, found[3]) == "?":
            problems.append(f"{path.name} {word:#018x}: {ours(instruction)} / {theirs(found[3])}")
    return count, problems


def check_cubin(path: Path) -> int:
    """Instructions of all kernels of one cubin; each must decode, encode back and stay inside its section."""
    count = 0
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            if not section.name.startswith(".text."):
                continue
            code = section.data()
            offset = 0
            while offset < len(code):
                instruction = decode(code, offset)
                assert encode_word(instruction, offset) == instruction.word
                if offset == 0:
                    assert format_instruction(instruction) == "MOV R1, c[0x1][0x100];"
                offset += instruction.size
                count += 1
            assert offset == len(code)
    return count


def test_cuobjdumps_listings() -> None:
    assert FOLDER is not None
    results = [check_listing(path) for path in sorted(FOLDER.rglob("*.isa"))]
    assert [problem for _, problems in results for problem in problems] == []


def test_nvccs_cubins() -> None:
    assert FOLDER is not None
    counts = [check_cubin(path) for path in sorted(FOLDER.rglob("*.cubin"))]
    assert all(counts)

"""`gpuvm asm` and `gpuvm disasm` are each other's inverse on files, and say what is wrong with one."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.compiler.cubin import read

SOURCE = """
// one thread counts down
    MOV R1, c[0x1][0x100];
    MOV32I R0, 0x10;
again:
    IADD R0, R0, -0x1;
    ISETP.NE.AND P0, PT, R0, RZ, PT;
    @P0 BRA again;
    EXIT;
"""


def gpuvm(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_a_listing_assembles_to_the_code_that_it_lists(tmp_path: Path) -> None:
    source, binary, listing, again = (tmp_path / name for name in ("a.s", "a.bin", "b.s", "b.bin"))
    source.write_text(SOURCE)
    assert gpuvm("asm", source, "-o", binary) == (0, "", "")
    status, text, _ = gpuvm("disasm", binary)
    assert status == 0
    assert "IADD R0, R0, -0x1;" in text
    assert "@P0 BRA 0x10;" in text
    listing.write_text(text)
    assert gpuvm("asm", listing, "-o", again)[0] == 0
    assert again.read_bytes() == binary.read_bytes()


def test_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "bad.s"
    source.write_text("EXIT;\nFOO R1;\n")
    status, _, error = gpuvm("asm", source, "-o", tmp_path / "bad.bin")
    assert status == 1
    assert error == f"gpuvm: {source}: line 2, column 1: FOO is no GF100 operation\n"
    assert not (tmp_path / "bad.bin").exists()


def test_what_is_no_code_is_refused(tmp_path: Path) -> None:
    odd = tmp_path / "odd.bin"
    odd.write_bytes(b"abc")
    assert gpuvm("disasm", odd) == (
        2,
        "",
        f"gpuvm: {odd} must be a cubin or whole words of code, got 3 bytes\n",
    )
    assert (
        gpuvm("disasm", tmp_path / "none")[2] == f"gpuvm: {tmp_path / 'none'} must be a file; there is none\n"
    )


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    source = tmp_path / "a.s"
    source.write_text("EXIT;")
    status, _, error = gpuvm("asm", source, "-o", tmp_path / "no" / "a.bin")
    assert status == 1
    assert error.endswith("must be writable: No such file or directory\n")


CUBIN = """
.kernel store            // writes 42
.registers 6
.parameters 0:8
    MOV R2, c[0x0][0x20];
    MOV R3, c[0x0][0x24];
    MOV32I R0, 0x2a;
    ST.E [R2], R0;
    EXIT;

.kernel twice
.registers 4
.shared 128
.barriers 1
loop:
    @P0 BRA loop;
    EXIT;
"""


def test_kernels_with_what_they_take_become_a_cubin(tmp_path: Path) -> None:
    source, cubin, again = tmp_path / "k.s", tmp_path / "k.cubin", tmp_path / "again.cubin"
    source.write_text(CUBIN)
    assert gpuvm("asm", source, "-o", cubin) == (0, "", "")
    kernels = read(cubin.read_bytes()).kernels
    assert list(kernels) == ["store", "twice"]
    assert kernels["store"].parameters == [(0, 8)]
    assert (kernels["twice"].shared_size, kernels["twice"].barriers) == (128, 1)
    status, text, _ = gpuvm("disasm", cubin)
    assert status == 0
    source.write_text(text)
    assert gpuvm("asm", source, "-o", again)[0] == 0
    assert again.read_bytes() == cubin.read_bytes()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (".registers many", "line 3, column 1: .registers takes a number, got 'many'"),
        (".parameters 8", "line 3, column 1: .parameters takes offset:size pairs, such as 0:8 8:4"),
        (".regs 5", "line 3, column 1: .regs is no directive"),
        ("FOO;", "line 3, column 1: FOO is no GF100 operation"),
    ],
)
def test_a_mistake_in_a_kernel_is_told_with_the_file_s_line(tmp_path: Path, line: str, sentence: str) -> None:
    source = tmp_path / "k.s"
    source.write_text(f"\n.kernel k\n{line}\nEXIT;\n")
    status, _, error = gpuvm("asm", source, "-o", tmp_path / "k.cubin")
    assert status == 1
    assert error.startswith(f"gpuvm: {source}: {sentence}")


def test_a_broken_cubin_is_one_sentence(tmp_path: Path) -> None:
    broken = tmp_path / "broken.cubin"
    broken.write_bytes(b"\x7fELF" + bytes(60))
    status, output, error = gpuvm("disasm", broken)
    assert (status, output) == (1, "")
    assert error.startswith(f"gpuvm: {broken}: ")
    assert error.count("\n") == 1

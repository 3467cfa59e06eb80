"""`gpuvm asm` and `gpuvm disasm` are each other's inverse on files, and say what is wrong with one."""

from pathlib import Path

from typer.testing import CliRunner

from gpuvm.cli.main import app

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

"""`gpuvm compile`: PTX and, where NVRTC is installed, CUDA C to an sm_20 cubin."""

import builtins
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from typer.testing import CliRunner

from gpuvm.cli.main import app

PTX = """
.version 2.3
.target sm_20
.address_size 64

.entry store(.param .u64 out)
{
    .reg .u64 %rd<3>;
    .reg .u32 %r<2>;
    ld.param.u64 %rd1, [out];
    mov.u32 %r1, 42;
    st.global.u32 [%rd1], %r1;
    ret;
}
"""
CUDA = """
extern "C" __global__ void store(unsigned *out) { *out = VALUE; }
"""


def gpuvm(*arguments: str | Path) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def sections(cubin: Path) -> set[str]:
    with cubin.open("rb") as file:
        return {section.name for section in ELFFile(file).iter_sections()}


def test_ptx_becomes_a_cubin_beside_it(tmp_path: Path) -> None:
    source = tmp_path / "store.ptx"
    source.write_text(PTX)
    assert gpuvm("compile", source) == (0, "", "")
    assert ".text.store" in sections(tmp_path / "store.cubin")


def test_verbose_says_what_a_kernel_takes(tmp_path: Path) -> None:
    source = tmp_path / "store.ptx"
    source.write_text(PTX)
    status, _, log = gpuvm("compile", source, "-o", tmp_path / "x.cubin", "-v")
    assert status == 0
    assert "store" in log
    assert "registers" in log


def test_a_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "bad.ptx"
    source.write_text(PTX.replace("mov.u32", "muv.u32"))
    status, _, error = gpuvm("compile", source)
    assert status == 1
    assert error.startswith(f"gpuvm: {source}: line 11: ")
    assert "muv.u32" in error
    assert not source.with_suffix(".cubin").exists()


def test_cuda_c_goes_through_nvrtc(tmp_path: Path) -> None:
    pytest.importorskip("cuda.bindings.nvrtc")
    source = tmp_path / "store.cu"
    source.write_text(CUDA)
    assert gpuvm("compile", source, "-D", "VALUE=42", "--ptx")[0] == 0
    assert ".text.store" in sections(tmp_path / "store.cubin")
    assert ".visible .entry store(" in (tmp_path / "store.ptx").read_text()
    status, _, error = gpuvm("compile", source)
    assert status == 1
    assert 'identifier "VALUE" is undefined' in error


def test_without_nvrtc_cuda_c_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("cuda"):
            raise ImportError("No module named 'cuda'")
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    source = tmp_path / "store.cu"
    source.write_text(CUDA)
    status, _, error = gpuvm("compile", source)
    assert status == 1
    assert error == ("gpuvm: compiling CUDA C needs NVRTC; install it with: pip install 'gpuvm[cuda]'\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("x.c",), "the source must be a .cu or .ptx file, got"),
        (("store.ptx", "--max-registers", "8"), "--max-registers must be 16 to 63, or 0 for all, got 8"),
    ],
)
def test_a_wrong_request_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    for name in ("x.c", "store.ptx"):
        (tmp_path / name).write_text(PTX)
    status, _, error = gpuvm("compile", tmp_path / arguments[0], *arguments[1:])
    assert status == 2
    assert error.startswith(f"gpuvm: {sentence}")
    assert error.count("\n") == 1

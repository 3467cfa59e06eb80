"""CUDA C to PTX through NVRTC, for those who installed the optional extra `cuda`. The PTX is for compute_50,
the oldest target that NVRTC 12 has; `compile_ptx` refuses what of it Fermi cannot do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuvm.compiler.errors import CompileError

ARCHITECTURE = "compute_50"


class NvrtcMissingError(Exception):
    """NVRTC is not installed or does not load."""


def compile_cuda(source: bytes, name: str = "kernel.cu", options: Sequence[str] = ()) -> tuple[str, str]:
    """Compile CUDA C.

    Parameters
    ----------
    source : bytes
        The text.
    name : str
        What messages call it.
    options : sequence of str
        More options as NVRTC takes them, such as "-DN=16" or "-I/folder".

    Returns
    -------
    ptx, log : str

    Raises
    ------
    CompileError
        If NVRTC refuses the text; the message is its log.
    NvrtcMissingError
        If there is no NVRTC here.
    """
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()
    except Exception as error:  # an ImportError, or what the bindings raise when their library does not load
        raise NvrtcMissingError(
            f"CUDA C needs NVRTC ({error}); install it with: pip install 'gpuvm[cuda]'"
        ) from None
    program = _check(nvrtc.nvrtcCreateProgram(source, name.encode(), 0, [], []), "create a program")
    try:
        words = [f"--gpu-architecture={ARCHITECTURE}".encode(), *(option.encode() for option in options)]
        (result,) = nvrtc.nvrtcCompileProgram(program, len(words), words)
        log = bytearray(_check(nvrtc.nvrtcGetProgramLogSize(program), "give its log's size"))
        _check(nvrtc.nvrtcGetProgramLog(program, log), "give its log")
        text = log.rstrip(b"\0\n").decode(errors="replace")
        if int(result) != 0:
            raise CompileError(text or f"NVRTC refuses {name} with {result.name}")
        ptx = bytearray(_check(nvrtc.nvrtcGetPTXSize(program), "give the PTX's size"))
        _check(nvrtc.nvrtcGetPTX(program, ptx), "give the PTX")
        return ptx.rstrip(b"\0").decode(), text
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _check(result: tuple[Any, ...], what: str) -> Any:
    if int(result[0]) != 0:
        raise CompileError(f"NVRTC must {what}, but returned {result[0].name}")
    return result[1] if len(result) > 1 else None

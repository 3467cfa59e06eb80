"""CUDA C to PTX through NVRTC, where the optional extra `gpuvm[cuda]` is installed."""

from __future__ import annotations

from collections.abc import Sequence

from gpuvm.compiler.errors import CompileError

ARCHITECTURE = "compute_50"
"""The oldest that NVRTC 12 knows; its PTX goes down to sm_20 as far as Fermi has the means."""


class NvrtcMissingError(RuntimeError):
    """NVRTC is not installed."""

    def __init__(self) -> None:
        super().__init__("compiling CUDA C needs NVRTC; install it with: pip install 'gpuvm[cuda]'")


def compile_cuda(
    source: str | bytes, name: str = "program.cu", options: Sequence[str] = ()
) -> tuple[str, str]:
    """Compile CUDA C.

    Parameters
    ----------
    source : str or bytes
        The program text.
    name : str
        Its name in messages.
    options : sequence of str
        NVRTC options; the architecture is added unless given.

    Returns
    -------
    (ptx, log)

    Raises
    ------
    NvrtcMissingError
        If NVRTC is not installed.
    CompileError
        With NVRTC's log, if the program is wrong.
    """
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        raise NvrtcMissingError from None
    text = source.encode() if isinstance(source, str) else source
    chosen = list(options)
    if not any(o.startswith(("--gpu-architecture", "-arch")) for o in chosen):
        chosen.insert(0, f"--gpu-architecture={ARCHITECTURE}")
    error, program = nvrtc.nvrtcCreateProgram(text, name.encode(), 0, [], [])
    if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CompileError(f"NVRTC did not take the program: {error.name}")
    try:
        (error,) = nvrtc.nvrtcCompileProgram(program, len(chosen), [o.encode() for o in chosen])
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        buffer = b" " * size
        nvrtc.nvrtcGetProgramLog(program, buffer)
        log = buffer.split(b"\0", 1)[0].decode(errors="replace").strip()
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CompileError(f"NVRTC: {log or error.name}")
        _, size = nvrtc.nvrtcGetPTXSize(program)
        buffer = b" " * size
        nvrtc.nvrtcGetPTX(program, buffer)
        return buffer.split(b"\0", 1)[0].decode(), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)

"""NVRTC with Fermi among its targets: the installed cuda.bindings.nvrtc, asked for the oldest PTX that it
makes.

NVRTC 12 knows no architecture before compute_50. A program that asks for its device's own (compute_20,
sm_20) gets PTX for compute_50, which the guest's compiler takes as far as Fermi has the means, and cubins
made from it by that compiler.
"""

from __future__ import annotations

import functools
import re
import sys
from types import ModuleType
from typing import Any

from gpuvm.compiler.errors import CompileError

OLDEST = "compute_50"
_ARCHITECTURE = re.compile(rb"^(--gpu-architecture=|-arch=)(compute|sm)_(\d+)[af]?$")
FERMI = 20


@functools.cache
def fermi_nvrtc() -> ModuleType | None:
    """Return the module, None where cuda-python's NVRTC is not installed."""
    try:
        from cuda.bindings import nvrtc
    except ImportError:
        return None
    return _wrap(nvrtc)


def _wrap(real: Any) -> ModuleType:
    module = ModuleType(real.__name__, real.__doc__)
    module.__dict__.update(
        {name: value for name, value in vars(real).items() if name not in ("__name__", "__doc__")}
    )
    result = real.nvrtcResult
    fermi: dict[int, bool] = {}
    cubins: dict[int, bytes] = {}

    def nvrtcCompileProgram(prog: Any, numOptions: int, options: Any) -> Any:
        rewritten, old = _options(list(options or []))
        cubins.pop(int(prog), None)
        fermi[int(prog)] = old
        return real.nvrtcCompileProgram(prog, numOptions + len(rewritten) - len(options or []), rewritten)

    def nvrtcDestroyProgram(prog: Any) -> Any:
        fermi.pop(int(prog), None)
        cubins.pop(int(prog), None)
        return real.nvrtcDestroyProgram(prog)

    def cubin(prog: Any) -> tuple[Any, bytes]:
        number = int(prog)
        if number not in cubins:
            error, size = real.nvrtcGetPTXSize(prog)
            if error != result.NVRTC_SUCCESS:
                return error, b""
            text = b" " * size
            (error,) = real.nvrtcGetPTX(prog, text)
            if error != result.NVRTC_SUCCESS:
                return error, b""
            from gpuvm.compiler import compile_ptx

            try:
                cubins[number] = compile_ptx(text.rstrip(b"\0")).cubin
            except CompileError as problem:
                print(f"nvrtc for sm_{FERMI}: {problem}", file=sys.stderr)
                return result.NVRTC_ERROR_COMPILATION, b""
        return result.NVRTC_SUCCESS, cubins[number]

    def nvrtcGetCUBINSize(prog: Any) -> Any:
        if not fermi.get(int(prog)):
            return real.nvrtcGetCUBINSize(prog)
        error, data = cubin(prog)
        return error, len(data)

    def nvrtcGetCUBIN(prog: Any, cubin_buffer: Any) -> Any:
        if not fermi.get(int(prog)):
            return real.nvrtcGetCUBIN(prog, cubin_buffer)
        import ctypes

        from gpuvm.guest.cuda.types import address_of

        error, data = cubin(prog)
        ctypes.memmove(address_of(cubin_buffer), data, len(data))
        return (error,)

    def nvrtcGetSupportedArchs() -> Any:
        error, archs = real.nvrtcGetSupportedArchs()
        return error, [FERMI, *archs] if error == result.NVRTC_SUCCESS else archs

    def nvrtcGetNumSupportedArchs() -> Any:
        error, count = real.nvrtcGetNumSupportedArchs()
        return error, count + 1 if error == result.NVRTC_SUCCESS else count

    for function in (
        nvrtcCompileProgram,
        nvrtcDestroyProgram,
        nvrtcGetCUBINSize,
        nvrtcGetCUBIN,
        nvrtcGetSupportedArchs,
        nvrtcGetNumSupportedArchs,
    ):
        module.__dict__[function.__name__] = function
    return module


def _options(options: list[bytes]) -> tuple[list[bytes], bool]:
    """Return the options with an architecture that NVRTC knows, and whether Fermi was asked for."""
    out: list[bytes] = []
    old = False
    named = False
    index = 0
    while index < len(options):
        option = options[index]
        if option in (b"-arch", b"--gpu-architecture") and index + 1 < len(options):
            option = b"--gpu-architecture=" + options[index + 1]
            index += 1
        match = _ARCHITECTURE.match(option)
        if match:
            named = True
            if int(match[3]) < 50:
                old = True
                option = match[1] + OLDEST.encode()
        out.append(option)
        index += 1
    if not named:
        # NVRTC's own default is newer than what this device's compiler takes.
        old = True
        out.append(b"--gpu-architecture=" + OLDEST.encode())
    return out, old

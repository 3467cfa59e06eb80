"""`gpuvm compile`: CUDA C or PTX in a file to a cubin."""

from __future__ import annotations

import sys
from pathlib import Path

from gpuvm.cli.errors import FAILED, CommandError, existing_file, save
from gpuvm.compiler import compile_ptx
from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.nvrtc import NvrtcMissingError, compile_cuda


def compile_file(
    source: Path,
    output: Path | None,
    keep_ptx: bool,
    nvrtc_options: list[str],
    max_registers: int,
    optimize: int,
    verbose: bool,
) -> None:
    """Compile a .cu or .ptx file to a cubin.

    Raises
    ------
    CommandError
        If the source does not compile; the sentence names its line.
    """
    existing_file(source)
    kind = source.suffix.lower()
    if kind not in (".cu", ".ptx"):
        raise CommandError(f"the source must be a .cu or .ptx file, got {source}")
    if max_registers and not 16 <= max_registers <= 63:
        raise CommandError(f"--max-registers must be 16 to 63, or 0 for all, got {max_registers}")
    output = output or source.with_suffix(".cubin")
    text = source.read_bytes()
    log = ""
    try:
        if kind == ".cu":
            ptx, log = compile_cuda(text, source.name, nvrtc_options)
            text = ptx.encode()
            if keep_ptx:
                save(output.with_suffix(".ptx"), text)
        result = compile_ptx(text, max_registers=max_registers, optimize=optimize)
    except NvrtcMissingError as error:
        raise CommandError(str(error), FAILED) from None
    except CompileError as error:
        raise CommandError(f"{source}: {error}", FAILED) from None
    if verbose:
        print("\n".join(part.strip() for part in (log, result.log) if part.strip()), file=sys.stderr)
    save(output, result.cubin)

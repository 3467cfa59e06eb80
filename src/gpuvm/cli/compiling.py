"""`gpuvm compile`: CUDA C or PTX in a file to a cubin."""

from __future__ import annotations

import sys
from pathlib import Path

from gpuvm.cli.code import save
from gpuvm.cli.errors import FAILED, CommandError, existing_file
from gpuvm.compiler import compile_ptx
from gpuvm.compiler.errors import CompileError
from gpuvm.compiler.nvrtc import NvrtcMissingError, compile_cuda


def compile_file(
    source: Path, output: Path | None, keep_ptx: bool, define: list[str], include: list[Path], verbose: bool
) -> None:
    """Compile a .cu or .ptx file to a cubin."""
    existing_file(source)
    output = output or source.with_suffix(".cubin")
    text = source.read_bytes()
    kind = source.suffix.lower()
    if kind not in (".cu", ".ptx"):
        raise CommandError(f"the source must be a .cu or .ptx file, got {source}")
    try:
        if kind == ".cu":
            options = [f"-D{macro}" for macro in define] + [f"-I{folder}" for folder in include]
            ptx, log = compile_cuda(text, source.name, options)
            if verbose and log:
                print(log, file=sys.stderr)
            if keep_ptx:
                save(output.with_suffix(".ptx"), ptx.encode())
            text = ptx.encode()
        result = compile_ptx(text)
    except NvrtcMissingError as error:
        raise CommandError(str(error), FAILED) from None
    except CompileError as error:
        raise CommandError(f"{source}: {error}", FAILED) from None
    if verbose and result.log:
        print(result.log, file=sys.stderr)
    save(output, result.cubin)

"""`gpuvm disasm` and `gpuvm asm`: machine code in files to text and back."""

from __future__ import annotations

from pathlib import Path

from gpuvm.cli.errors import FAILED, CommandError, existing_file, save
from gpuvm.cli.listing import build, listing
from gpuvm.compiler.cubin import read
from gpuvm.compiler.errors import CompileError
from gpuvm.isa.disassembler import disassemble
from gpuvm.isa.errors import IsaError

ELF_MAGIC = b"\x7fELF"


def disassemble_file(binary: Path) -> None:
    """Print the code of a cubin's kernels, or of a bare binary."""
    data = existing_file(binary).read_bytes()
    if data.startswith(ELF_MAGIC):
        try:
            lines = listing(read(data))
        except CompileError as error:
            raise CommandError(f"{binary}: {error}", FAILED) from None
    elif data and len(data) % 4 == 0:
        lines = disassemble(data)
    else:
        raise CommandError(f"{binary} must be a cubin or whole words of code, got {len(data)} bytes")
    for line in lines:
        print(line)


def assemble_file(source: Path, output: Path) -> None:
    """Assemble a file to a cubin, or to bare code if it names no kernel."""
    try:
        code = build(existing_file(source).read_text())
    except UnicodeDecodeError:
        raise CommandError(f"{source} must be text") from None
    except IsaError as error:
        raise CommandError(f"{source}: {error}", FAILED) from None
    save(output, code)

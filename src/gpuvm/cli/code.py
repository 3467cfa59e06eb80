"""`gpuvm disasm` and `gpuvm asm`: machine code in files to text and back."""

from __future__ import annotations

from pathlib import Path

from gpuvm.cli.errors import FAILED, CommandError, existing_file
from gpuvm.isa.assembler import assemble
from gpuvm.isa.disassembler import disassemble
from gpuvm.isa.errors import IsaError

ELF_MAGIC = b"\x7fELF"


def disassemble_file(binary: Path) -> None:
    """Print the code of a cubin's kernels, or of a bare binary."""
    data = existing_file(binary).read_bytes()
    if not data.startswith(ELF_MAGIC):
        if not data or len(data) % 4:
            raise CommandError(f"{binary} must be a cubin or whole words of code, got {len(data)} bytes")
        show(data)
        return
    from gpuvm.compiler import CompileError, cubin

    try:
        program = cubin.read(data)
    except CompileError as error:
        raise CommandError(f"{binary}: {error}", FAILED) from None
    for number, (name, kernel) in enumerate(program.kernels.items()):
        print(f"{'' if number == 0 else chr(10)}.kernel {name}")
        show(kernel.code)


def assemble_file(source: Path, output: Path) -> None:
    """Assemble a file to bare code."""
    try:
        code = assemble(existing_file(source).read_text())
    except UnicodeDecodeError:
        raise CommandError(f"{source} must be text") from None
    except IsaError as error:
        raise CommandError(f"{source}: {error}", FAILED) from None
    save(output, code)


def show(code: bytes) -> None:
    """Print machine code a line an instruction."""
    for line in disassemble(code):
        print(line)


def save(path: Path, data: bytes) -> None:
    """Write a file."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CommandError(f"{path} must be writable: {error.strerror}", FAILED) from None

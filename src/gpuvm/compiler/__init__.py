"""PTX to Fermi machine code, and cubins (ELF) read and written. Knows the instruction set and no device."""

from gpuvm.compiler.compile import CompileResult, compile_ptx
from gpuvm.compiler.errors import CompileError

__all__ = ["CompileError", "CompileResult", "compile_ptx"]

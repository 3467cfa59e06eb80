"""The text form of a cubin that `gpuvm disasm` prints and `gpuvm asm` reads: per kernel what it takes, as
directives, and its code.

    .kernel scale
    .registers 6
    .parameters 0:8 8:4
        MOV R1, c[0x1][0x100];
        EXIT;

Text without `.kernel` is bare code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpuvm.compiler.cubin import Cubin, Kernel
from gpuvm.compiler.cubin_write import KernelImage, ModuleImage, write
from gpuvm.isa.assembler import assemble
from gpuvm.isa.disassembler import disassemble
from gpuvm.isa.errors import AssembleError

NUMBERS = ("registers", "shared", "local", "stack", "calls", "barriers")
"""Directives of one number: registers of a thread; bytes of a block's shared memory, of a thread's local
memory and stack, of a warp's call stack; named barriers."""

_KERNEL = re.compile(r"^[ \t]*\.kernel[ \t]+([A-Za-z_$][\w$]*)[ \t]*(?://.*)?$", re.MULTILINE)
_DIRECTIVE = re.compile(r"^[ \t]*\.([a-z]+)\b(?!\s*:)([^\n]*)$", re.MULTILINE)
_PARAMETER = re.compile(r"(\d+):(\d+)")


def listing(cubin: Cubin) -> Iterator[str]:
    """Lines of a cubin's text form."""
    for name, kernel in cubin.kernels.items():
        yield f".kernel {name}"
        for directive, value in zip(NUMBERS, _numbers(kernel), strict=True):
            if value:
                yield f".{directive} {value}"
        if kernel.parameters:
            yield ".parameters " + " ".join(f"{offset}:{size}" for offset, size in kernel.parameters)
        yield from disassemble(kernel.code)
        yield ""
    banks = sorted(cubin.constants.keys() | {bank for k in cubin.kernels.values() for bank in k.constants})
    if banks or cubin.data or cubin.relocations:
        parts = [*(f"constants c[{bank:#x}]" for bank in banks), *cubin.data]
        yield f"// Beside the code: {', '.join(parts) or 'nothing'}; {len(cubin.relocations)} relocations."


def _numbers(kernel: Kernel) -> tuple[int, ...]:
    return (
        kernel.registers,
        kernel.shared_size,
        kernel.local_positive,
        kernel.local_negative,
        kernel.call_stack,
        kernel.barriers,
    )


def build(text: str) -> bytes:
    """Assemble a text: a cubin if it has a `.kernel`, else bare code.

    Raises
    ------
    AssembleError
        With the line, for text that is not valid assembly.
    """
    heads = list(_KERNEL.finditer(text))
    if not heads:
        return assemble(text)
    ends = [head.start() for head in heads[1:]] + [len(text)]
    kernels = []
    for head, end in zip(heads, ends, strict=True):
        # Lines before this kernel stay as empty ones, so that errors name the file's lines.
        before = "\n" * text.count("\n", 0, head.end())
        kernels.append(_kernel(head[1], before + text[head.end() : end]))
    return write(ModuleImage(kernels=kernels))


def _kernel(name: str, text: str) -> KernelImage:
    numbers = dict.fromkeys(NUMBERS, 0)
    parameters: list[tuple[int, int]] = []

    def take(match: re.Match[str]) -> str:
        directive, rest = match[1], match[2].partition("//")[0].strip()
        line = text.count("\n", 0, match.start()) + 1
        if directive == "parameters":
            fields = [_PARAMETER.fullmatch(word) for word in rest.split()]
            if not all(fields):
                raise AssembleError(".parameters takes offset:size pairs, such as 0:8 8:4", line, 1)
            parameters.extend((int(field[1]), int(field[2])) for field in fields if field)
        elif directive in numbers:
            if not rest.isdecimal():
                raise AssembleError(f".{directive} takes a number, got {rest!r}", line, 1)
            numbers[directive] = int(rest)
        else:
            known = ", ".join(f".{each}" for each in ("kernel", *NUMBERS, "parameters"))
            raise AssembleError(f".{directive} is no directive; there are {known}", line, 1)
        return ""

    code = assemble(_DIRECTIVE.sub(take, text))
    return KernelImage(
        name,
        code,
        registers=numbers["registers"] or 63,
        shared_size=numbers["shared"],
        local_size=numbers["local"],
        stack_size=numbers["stack"],
        crs_stack=numbers["calls"],
        barriers=numbers["barriers"],
        parameters=parameters,
        parameter_size=max((offset + size for offset, size in parameters), default=0),
    )

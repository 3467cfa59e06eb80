"""From a module's image to what lies in VRAM: PTX is compiled, a cubin's sections get their places, and once
the base address is known its relocations are applied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gpuvm.compiler import CompileError, compile_ptx, cubin
from gpuvm.guest.cuda.core import CudaError, fail
from gpuvm.guest.cuda.options import JitOptions

ALIGN = 256
"""Constant buffers and code start at multiples of it."""
FETCH_SLACK = 256
"""Bytes behind the code that the instruction fetch may touch."""
DEFAULT_CALL_STACK = 0x800
"""Bytes of reconvergence stack of a warp if the cubin does not say: 128 entries."""
SHARED_BANKS = (2, 14)
PTX_VERSION = 20
MAXIMUM_PARAMETERS = 0x1000 - 0x20

Compiled = tuple[bytes, str]


@dataclass(slots=True)
class LoadedKernel:
    """A kernel as the launch code needs it. Sizes are bytes; `entry` is an offset in the code segment.

    Attributes
    ----------
    layout : list of (offset, size)
        Parameters, from c[0x0][0x20].
    constants : dict
        Bank -> (offset in the module's memory, size).
    local_negative : int
        Without what the ABI reserves at the top.
    required : tuple or None
        The only block shape that the kernel runs with (.reqntid).
    """

    name: str
    entry: int
    registers: int
    shared: int
    barriers: int
    local_positive: int
    local_negative: int
    call_stack: int
    layout: list[tuple[int, int]]
    constants: dict[int, tuple[int, int]] = field(default_factory=dict)
    constant_size: int = 0
    max_threads: int = 1024
    required: tuple[int, int, int] | None = None


@dataclass(slots=True)
class Segments:
    """A module's memory.

    Attributes
    ----------
    size, filled : int
        Bytes in all, and bytes at the start that have contents; the rest is zero.
    pieces : list of (offset, bytes)
        The contents.
    variables : dict of str to (offset, size)
    patches : list of (offset, size, shift, target offset)
        Addresses to be written once the base is known: `size` bytes of (base + target) >> shift.
    """

    size: int = 0
    filled: int = 0
    pieces: list[tuple[int, bytes]] = field(default_factory=list)
    kernels: list[LoadedKernel] = field(default_factory=list)
    variables: dict[str, tuple[int, int]] = field(default_factory=dict)
    patches: list[tuple[int, int, int, int]] = field(default_factory=list)


def compile_text(text: bytes, options: JitOptions) -> Compiled:
    """Compile PTX; returns (cubin, log).

    Raises
    ------
    CudaError
        INVALID_PTX for text that cannot be compiled; the detail has the compiler's sentence.
    """
    level = options.integer("OPTIMIZATION_LEVEL")
    try:
        result = compile_ptx(
            text,
            max_registers=options.integer("MAX_REGISTERS") or 0,
            optimize=3 if level is None else min(max(level, 0), 4),
        )
    except CompileError as error:
        raise compile_failure(error) from None
    return result.cubin, result.log


def compile_failure(error: CompileError) -> CudaError:
    """Return what a compiler's error is in CUDA."""
    if error.kind == "cubin":
        code = "NO_BINARY_FOR_GPU" if "sm_" in str(error) else "INVALID_IMAGE"
        return fail(code, str(error))
    return fail("INVALID_PTX", str(error))


def layout(data: bytes) -> Segments:
    """Give every section of a cubin its place.

    Raises
    ------
    CudaError
        INVALID_IMAGE for a broken cubin, NO_BINARY_FOR_GPU for one of another chip.
    """
    try:
        image = cubin.read(data)
    except CompileError as error:
        raise compile_failure(error) from None
    out = Segments()
    places: dict[str, int] = {}
    for kernel in image.kernels.values():
        # Kernels of one text section share it; the longest view of it is the section from its first kernel
        # on.
        if kernel.section not in places:
            first = min(
                (k for k in image.kernels.values() if k.section == kernel.section), key=lambda k: k.offset
            )
            places[kernel.section] = _place(out, first.code, len(first.code)) - first.offset
    out.size += FETCH_SLACK
    banks = {number: _place(out, contents, len(contents)) for number, contents in image.constants.items()}
    for number, at in banks.items():
        places[f".nv.constant{number}"] = at
    own: dict[tuple[str, int], int] = {}
    for kernel in image.kernels.values():
        for number, contents in kernel.constants.items():
            own[kernel.name, number] = _place(out, contents, len(contents))
            places[f".nv.constant{number}.{kernel.name}"] = own[kernel.name, number]
    sections = sorted(image.data.values(), key=lambda each: each.contents is None)
    for section in sections:
        if section.contents is None:
            out.filled = out.filled or _up(out.size, ALIGN)
        places[section.name] = _place(out, section.contents, section.size, section.align)
    out.size = _up(out.size, ALIGN)
    out.filled = out.filled or out.size
    for kernel in image.kernels.values():
        out.kernels.append(_kernel(kernel, places[kernel.section], banks, own, image))
    for name, variable in image.variables.items():
        out.variables[name] = (places[variable.section] + variable.offset, variable.size)
    for relocation in image.relocations:
        place, target = places.get(relocation.section), places.get(relocation.target)
        if place is None or target is None:
            raise fail(
                "INVALID_IMAGE", f"a relocation must name sections of the cubin, not {relocation.target}"
            )
        if place + relocation.offset + relocation.size > out.filled:
            raise fail(
                "INVALID_IMAGE", f"a relocation must lie in {relocation.section}, which has no such offset"
            )
        out.patches.append(
            (place + relocation.offset, relocation.size, relocation.shift, target + relocation.addend)
        )
    return out


def build(segments: Segments, base: int) -> bytearray:
    """Return the contents of the module's memory for GPU virtual address `base`."""
    data = bytearray(segments.filled)
    for offset, piece in segments.pieces:
        data[offset : offset + len(piece)] = piece
    for offset, size, shift, target in segments.patches:
        value = (base + target) >> shift & (1 << 8 * size) - 1
        data[offset : offset + size] = value.to_bytes(size, "little")
    return data


def _up(value: int, align: int) -> int:
    return -(-value // align) * align


def _place(out: Segments, contents: bytes | None, size: int, align: int = ALIGN) -> int:
    at = _up(out.size, max(ALIGN, min(align, 1 << 16)))
    out.size = at + size
    if contents:
        out.pieces.append((at, contents))
    return at


def _kernel(
    kernel: cubin.Kernel,
    section: int,
    banks: dict[int, int],
    own: dict[tuple[str, int], int],
    image: cubin.Cubin,
) -> LoadedKernel:
    name = kernel.name
    constants = {number: (at, len(image.constants[number])) for number, at in banks.items()}
    constants |= {
        number: (at, len(kernel.constants[number])) for (owner, number), at in own.items() if owner == name
    }
    end = max((offset + size for offset, size in kernel.parameters), default=0)
    if end > MAXIMUM_PARAMETERS:
        raise fail(
            "INVALID_IMAGE", f"the parameters of {name} must fit {MAXIMUM_PARAMETERS} bytes, not {end}"
        )
    limit = math.prod(kernel.max_threads or kernel.required_threads or (1024, 1, 1))
    return LoadedKernel(
        name,
        section + kernel.offset,
        kernel.registers,
        kernel.shared_size,
        kernel.barriers,
        kernel.local_positive,
        kernel.local_negative,
        kernel.call_stack or DEFAULT_CALL_STACK,
        kernel.parameters,
        # A bank's size is in units of 256 bytes; what a bank has too much is the next section's start.
        {bank: (at, _up(size, ALIGN)) for bank, (at, size) in constants.items() if size and bank < 18},
        len(image.constants.get(2, b"")),
        max(limit, 1),
        kernel.required_threads,
    )

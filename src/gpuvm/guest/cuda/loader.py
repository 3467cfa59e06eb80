"""From a cubin to what lies in VRAM: one segment of code, constants and variables, with addresses patched in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gpuvm.guest.cuda.core import fail


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


@dataclass(slots=True)
class Segments:
    """A module's memory: `size` bytes, of which `pieces` (offset, bytes) are initialised and the rest is
    zero."""

    size: int
    code: int
    pieces: list[tuple[int, bytes]]
    kernels: list[LoadedKernel]
    variables: dict[str, tuple[int, int]] = field(default_factory=dict)
    patches: list[Any] = field(default_factory=list)


def build(segments: Segments, base: int) -> bytearray:
    """Return the module's memory for GPU virtual address `base`."""
    data = bytearray(segments.size)
    for offset, piece in segments.pieces:
        data[offset : offset + len(piece)] = piece
    return data


def compile_text(text: bytes, options: Any) -> tuple[bytes, str, int]:
    raise fail("NOT_SUPPORTED")


def layout(cubin: bytes) -> Segments:
    raise fail("NOT_SUPPORTED")

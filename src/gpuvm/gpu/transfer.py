"""Moves bytes between two ranges of a GPU address space, at the speed of memmove: linear rectangles for the
copying classes.

What goes to VRAM in large pieces passes the caches by: mostly the piece comes from a staging buffer, which should
stay in them. What goes to the machine's memory is about to be read there.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from gpuvm.gpu.translations import Run
from gpuvm.jit import stream

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

_memmove = ctypes.CDLL(None).memmove
_memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memmove.restype = None


def copy(gpu: Gf100, channel: Channel, source: int, target: int, size: int) -> None:
    """Copy `size` bytes; both ranges are checked before the first byte moves.

    Raises
    ------
    MmuFault
        At the first address that may not be read or written.
    """
    sources = channel.space.runs(source, size, False)
    targets = channel.space.runs(target, size, True)
    _pairs(gpu, channel, sources, targets)


def _pairs(gpu: Gf100, channel: Channel, sources: list[Run], targets: list[Run]) -> None:
    vram, wrote = gpu.vram, gpu.memory.wrote
    moved = [0, 0, 0, 0]
    pieces = iter(sources)
    left = 0
    kind = origin = 0
    for to, to_offset, length in targets:
        wanted = length
        target = to.address + to_offset
        to_device = 2 if to is vram else 0
        while wanted:
            if not left:
                region, offset, left = next(pieces)
                origin = region.address + offset
                kind = 1 if region is vram else 0
            count = left if left < wanted else wanted
            if to_device and count >= stream.LEAST:
                stream.copy(target, origin, count)
            else:
                _memmove(target, origin, count)
            moved[kind + to_device] += count
            target += count
            origin += count
            wanted -= count
            left -= count
        wrote(to, to_offset, length)
    for kind, size in enumerate(moved):
        if size:
            gpu.counters.copied(channel.number, size, bool(kind & 1), bool(kind & 2))


def copy_lines(
    gpu: Gf100, channel: Channel, source: int, target: int, pitches: tuple[int, int], length: int, lines: int
) -> None:
    """Copy `lines` lines of `length` bytes that start `pitches` bytes apart in source and target.

    Raises
    ------
    MmuFault
        Lines before the one that faults are copied.
    """
    if length == 0 or lines == 0:
        return
    if pitches == (length, length):
        copy(gpu, channel, source, target, length * lines)
        return
    for line in range(lines):
        copy(gpu, channel, source + line * pitches[0], target + line * pitches[1], length)

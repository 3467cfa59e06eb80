"""Moves bytes between two ranges of a GPU address space, at the speed of memmove: linear rectangles for the
copying classes.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from gpuvm.gpu.translations import Run

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
    vram, copied, number, wrote = gpu.vram, gpu.counters.copied, channel.number, gpu.memory.wrote
    index, (region, offset, left) = 0, sources[0]
    base = region.address
    for to, to_offset, length in targets:
        to_base = to.address
        while length:
            count = min(left, length)
            _memmove(to_base + to_offset, base + offset, count)
            copied(number, count, region is vram, to is vram)
            wrote(to, to_offset, count)
            to_offset += count
            offset += count
            length -= count
            left -= count
            if not left and index + 1 < len(sources):
                index += 1
                region, offset, left = sources[index]
                base = region.address


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

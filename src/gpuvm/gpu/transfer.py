"""Moves bytes between two ranges of a GPU address space, at the speed of memmove: linear rectangles for the
copying classes.

What goes to VRAM in large pieces passes the caches by: mostly the piece comes from a staging buffer, which should
stay in them. What goes to the machine's memory is about to be read there, unless it is more than caches hold.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from gpuvm.gpu.classes.method import Switched
from gpuvm.gpu.translations import Run
from gpuvm.jit import stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.classes.method import ClassObject
    from gpuvm.gpu.device import Gf100

PIECE = 2 << 20
"""Bytes after which a copy looks whether its channel is to be switched out."""
CACHED = 8 << 20
"""Most bytes that somebody who waits for a copy into the machine's memory may still find in the caches."""

_memmove = ctypes.CDLL(None).memmove
_memmove.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_memmove.restype = None


class Interrupted(Exception):
    """A copy was switched out.

    Attributes
    ----------
    done : int
        Bytes copied.
    """

    def __init__(self, done: int) -> None:
        super().__init__(done)
        self.done = done


def copy(gpu: Gf100, channel: Channel, source: int, target: int, size: int) -> None:
    """Copy `size` bytes; both ranges are checked before the first byte moves.

    Raises
    ------
    MmuFault
        At the first address that may not be read or written.
    Interrupted
        When the channel is to be switched out. A copy onto itself is never cut: its pieces would not give
        what the whole gives.
    """
    sources = channel.space.runs(source, size, False)
    targets = channel.space.runs(target, size, True)
    piece = size if abs(source - target) < size else PIECE
    _pairs(gpu, channel, sources, targets, piece, size > CACHED)


def _pairs(
    gpu: Gf100, channel: Channel, sources: list[Run], targets: list[Run], piece: int, large: bool
) -> None:
    vram, wrote = gpu.vram, gpu.memory.wrote
    moved = [0, 0, 0, 0]
    pieces = iter(sources)
    left = 0
    kind = origin = 0
    done = 0
    look = piece
    cut = False
    for to, to_offset, length in targets:
        wanted = length
        target = to.address + to_offset
        to_device = 2 if to is vram else 0
        while wanted:
            if done >= look:
                look = done + piece
                cut = gpu.runner.due(channel)
                if cut:
                    break
            if not left:
                region, offset, left = next(pieces)
                origin = region.address + offset
                kind = 1 if region is vram else 0
            count = left if left < wanted else wanted
            if count > piece:
                count = piece
            if (large or to_device) and count >= stream.LEAST:
                stream.copy(target, origin, count)
            else:
                _memmove(target, origin, count)
            moved[kind + to_device] += count
            target += count
            origin += count
            wanted -= count
            left -= count
            done += count
        wrote(to, to_offset, length - wanted)
        if cut:
            break
    for kind, size in enumerate(moved):
        if size:
            gpu.counters.copied(channel.number, size, bool(kind & 1), bool(kind & 2))
    if cut:
        raise Interrupted(done)


def copy_lines(
    gpu: Gf100,
    channel: Channel,
    source: int,
    target: int,
    pitches: tuple[int, int],
    length: int,
    lines: int,
    done: int = 0,
) -> None:
    """Copy `lines` lines of `length` bytes that start `pitches` bytes apart in source and target.

    Parameters
    ----------
    done : int
        Bytes that were copied before the copy was switched out.

    Raises
    ------
    MmuFault
        Lines before the one that faults are copied.
    Interrupted
        With the bytes copied in all, when the channel is to be switched out.
    """
    total = length * lines
    if pitches == (length, length):
        length = total
    look = done + PIECE
    while done < total:
        if done >= look:
            look = done + PIECE
            if gpu.runner.due(channel):
                raise Interrupted(done)
        line, at = divmod(done, length)
        try:
            copy(gpu, channel, source + line * pitches[0] + at, target + line * pitches[1] + at, length - at)
        except Interrupted as cut:
            raise Interrupted(done + cut.done) from None
        done += length - at


def take_up(target: ClassObject, copying: Callable[[int], None]) -> None:
    """Carry out a copy by `copying(done)`, or go on with the one that was switched out.

    Raises
    ------
    Switched
    """
    done, target.done = target.done, 0
    try:
        copying(done)
    except Interrupted as cut:
        target.done = cut.done
        raise Switched from None

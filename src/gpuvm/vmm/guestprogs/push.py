"""Pushbuffer words for a Fermi channel: headers, semaphores, copies by both engines, a kernel's launch."""

from __future__ import annotations

from .drm import COMPUTE, COPY, M2MF

SUBCHANNEL = {COMPUTE: 1, M2MF: 2, COPY: 4}
"""Where objects are bound."""

LINE = 4096
LINES = 2047
"""Bytes of a line and lines of a copy, at most."""

_ACQUIRE_AT_LEAST, _RELEASE, _SWITCH = 4, 2, 1 << 12
_SHORT = 1 << 24
"""A release that writes four bytes, and no time."""

CODE = {
    # S2R R0, SR_TID.X; S2R R1, SR_CTAID.X; IMAD R2, R1, c[0x0][0x8], R0; ISETP.GE.U32.AND P0, PT, R2, c[0x0][0x28],
    # PT; @P0 EXIT; MOV R1, 4; IMAD.U32.U32 R0.CC, R2, R1, c[0x0][0x20]; IMAD.U32.U32.HI.X R1, R2, R1, c[0x0][0x24];
    # LD.E R3, [R0]; MOV32I R4, 0x9e3779b1; IMAD R2, R3, R4, R2; ST.E [R0], R2; EXIT
    "mix": (
        *(0x84001C04, 0x2C000000, 0x94005C04, 0x2C000000, 0x20109CA3, 0x20004000, 0xA021DC03, 0x1B0E4000),
        *(0x000001E7, 0x80000000, 0x10005DE4, 0x2800C000, 0x80201C03, 0x20038000, 0x90205C43, 0x20828000),
        *(0x0000DC85, 0x84000000, 0xC4011DE2, 0x1A78DDE6, 0x10309CA3, 0x20040000, 0x00009C85, 0x94000000),
        *(0x00001DE7, 0x80000000),
    ),
    # L: BRA L
    "endless": (0xE0001DE7, 0x4003FFFF),
}
"""Machine code. "mix": x[i] = x[i] * 0x9e3779b1 + i for i < n, with x in c[0x0][0x20] and n in c[0x0][0x28]."""

MIX_FACTOR = 0x9E3779B1


def methods(subchannel: int, first: int, *data: int) -> list[int]:
    """Words that send data to consecutive methods."""
    return [1 << 29 | len(data) << 16 | subchannel << 13 | first >> 2, *data]


def bind(class_: int) -> list[int]:
    """Put an object of the class on its subchannel."""
    return methods(SUBCHANNEL[class_], 0, class_)


def release(address: int, value: int) -> list[int]:
    """Write a semaphore when all before it is done."""
    return methods(0, 0x10, address >> 32, address & 0xFFFFFFFF, value, _RELEASE | _SHORT)


def acquire(address: int, value: int) -> list[int]:
    """Wait until a semaphore is at least `value`; other channels run meanwhile."""
    return methods(0, 0x10, address >> 32, address & 0xFFFFFFFF, value, _ACQUIRE_AT_LEAST | _SWITCH)


def copy(class_: int, source: int, target: int, size: int) -> list[int]:
    """Copy bytes, whole lines of 4 KiB, by the memory-to-memory class or a copy engine."""
    words: list[int] = []
    subchannel = SUBCHANNEL[class_]
    for at in range(0, size, LINE * LINES):
        lines = min(size - at, LINE * LINES) // LINE
        out, into = source + at, target + at
        if class_ == M2MF:
            words += methods(subchannel, 0x238, into >> 32, into & 0xFFFFFFFF)
            words += methods(subchannel, 0x30C, out >> 32, out & 0xFFFFFFFF, LINE, LINE, LINE, lines)
            words += methods(subchannel, 0x300, 0x100110)
        else:
            halves = (out >> 32, out & 0xFFFFFFFF, into >> 32, into & 0xFFFFFFFF)
            words += methods(subchannel, 0x30C, *halves, LINE, LINE, LINE, lines)
            words += methods(subchannel, 0x300, 0x110)
    return words


def launch(code: int, constants: int, blocks: int, threads: int, arguments: tuple[int, ...]) -> list[int]:
    """Launch a kernel.

    Parameters
    ----------
    code, constants : int
        GPU virtual addresses: of its first instruction, of 4 KiB for its constants.
    arguments : tuple of int
        Words of c[0x0] from 0x20 on.
    """
    sub = SUBCHANNEL[COMPUTE]
    shared, local = 0xFE000000, 0xFF000000
    words = methods(sub, 0x758, 1 << 5)
    words += methods(sub, 0xD64, 0xF)
    words += methods(sub, 0x77C, local)
    words += methods(sub, 0x204, 0, 0, 0x200)
    words += methods(sub, 0x308, 3)
    words += methods(sub, 0x214, shared)
    words += methods(sub, 0x24C, 0)
    words += methods(sub, 0x1608, code >> 32, code & 0xFFFFFFFF)
    words += methods(sub, 0x1698, 1)
    words += methods(sub, 0x3B4, 0)
    words += methods(sub, 0x2380, 0x1000, constants >> 32, constants & 0xFFFFFFFF)
    words += methods(sub, 0x1694, 1)
    values = (shared, local, threads, 1, 1, blocks, 1, 1, *arguments)
    words += methods(sub, 0x238C, 0)
    # One method takes all of the values.
    words += [5 << 29 | len(values) << 16 | sub << 13 | 0x2390 >> 2, *values]
    words += methods(sub, 0x1698, 0x1000)
    words += methods(sub, 0x238, 1 << 16 | blocks, 1)
    words += methods(sub, 0x3AC, 1 << 16 | threads, 1)
    words += methods(sub, 0x250, threads)
    words += methods(sub, 0x2C0, 8)
    words += methods(sub, 0x254, 0)
    words += methods(sub, 0x1698, 0x110)
    words += methods(sub, 0x29C, 0)
    words += methods(sub, 0xA08, 0)
    words += methods(sub, 0x368, 0x1000)
    words += methods(sub, 0xA04, 0)
    return words + methods(sub, 0x360, 1)

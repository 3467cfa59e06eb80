"""The attributes in a cubin's .nv.info sections (EIATTR): their numbers and their encoding.

Each attribute is a format byte (1: none, 2: one byte, 3: one half word in place of the length, 4: length and
bytes), an attribute byte and two bytes of value or length. Seen in cubins made by nvcc 3.2 to 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator

NONE, BYTE, HALF, SIZED = 1, 2, 3, 4

MAX_THREADS = 0x05
PARAM_CBANK = 0x0A
CBANK_PARAM_OFFSETS = 0x0C
SYNC_STACK = 0x0D
EXTERNS = 0x0F
REQNTID = 0x10
FRAME_SIZE = 0x11
MIN_STACK_SIZE = 0x12
KPARAM_INFO = 0x17
CBANK_PARAM_SIZE = 0x19
MAXREG_COUNT = 0x1B
CRS_STACK_SIZE = 0x1E


def attribute(number: int, payload: bytes) -> bytes:
    """A sized attribute."""
    return bytes((SIZED, number)) + len(payload).to_bytes(2, "little") + payload


def half(number: int, value: int) -> bytes:
    """An attribute whose value takes the place of the length."""
    return bytes((HALF, number)) + value.to_bytes(2, "little")


def word_list(*values: int) -> bytes:
    return b"".join((v & 0xFFFFFFFF).to_bytes(4, "little") for v in values)


def parameter(ordinal: int, offset: int, size: int) -> bytes:
    """KPARAM_INFO: which parameter, where in the parameter area, how many bytes."""
    packed = size << 18 | 0x1F000
    body = word_list(0xFFFFFFFF, ordinal | offset << 16, packed)
    return attribute(KPARAM_INFO, body)


def read(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, payload) of each attribute; a half-word value is a payload of two bytes. Stops at a truncated
    one.
    """
    at = 0
    while at + 4 <= len(data):
        form, number = data[at], data[at + 1]
        size = int.from_bytes(data[at + 2 : at + 4], "little")
        at += 4
        if form == SIZED:
            if at + size > len(data):
                return
            yield number, data[at : at + size]
            at += size
        elif form in (BYTE, HALF):
            yield number, size.to_bytes(2, "little")
        else:
            yield number, b""

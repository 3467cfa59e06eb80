"""What a fresh channel's RAMFC holds: the first 512 bytes of its instance block, as nouveau writes them for a
GF100.
"""

from __future__ import annotations

import struct

RAMFC_SIZE = 0x200
USERD, RING = 0x08, 0x48
CONSTANTS = (
    (0x10, 0x0000FACE), (0x30, 0xFFFFF902), (0x54, 0x00000002), (0x84, 0x20400000), (0x94, 0x30000001),
    (0x9C, 0x00000100), (0xA4, 0x1F1F1F1F), (0xA8, 0x1F1F1F1F), (0xAC, 0x0000001F), (0xB8, 0xF8000000),
    (0xF8, 0x10003080), (0xFC, 0x10000010),
)  # fmt: skip
"""Words whose meaning is not public."""


def ramfc(userd: int, ring: int, order: int) -> bytes:
    """Return a fresh RAMFC.

    Parameters
    ----------
    userd : int
        VRAM address of the channel's page of the poll area.
    ring : int
        GPU virtual address of the GPFIFO.
    order : int
        Log2 of its entries.
    """
    data = bytearray(RAMFC_SIZE)
    struct.pack_into("<Q", data, USERD, userd)
    struct.pack_into("<II", data, RING, ring & 0xFFFFFFFF, order << 16 | ring >> 32)
    for offset, value in CONSTANTS:
        struct.pack_into("<I", data, offset, value)
    return bytes(data)

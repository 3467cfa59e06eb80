"""The card's video BIOS, built by code: the least that a driver accepts. Layout: PCI 3.0 expansion ROM and
the BIT header.
"""

from __future__ import annotations

import struct

IMAGE_SIZE = 4096
PROM_BASE, PROM_SIZE = 0x300000, 0x100000

_PCIR_AT, _BIT_AT, _VERSION_AT, _STRINGS_AT = 0x40, 0x100, 0x180, 0x200
_BIT_ENTRY = 6


def build(vendor: int, device: int) -> bytes:
    """Return an image of 4 KiB whose bytes sum to 0.

    Parameters
    ----------
    vendor, device : int
        PCI identification that the image names.
    """
    image = bytearray(IMAGE_SIZE)
    struct.pack_into("<HB", image, 0, 0xAA55, IMAGE_SIZE // 512)
    struct.pack_into("<H", image, 0x18, _PCIR_AT)
    struct.pack_into(
        "<4sHHHHBBBBHHBBH",
        image,
        _PCIR_AT,
        b"PCIR",
        vendor,
        device,
        0,
        24,
        0,
        0x00,
        0x00,
        0x03,
        IMAGE_SIZE // 512,
        0,
        0x00,
        0x80,
        0,
    )
    entries = {
        "i": struct.pack("<BBBBB10x", 0x01, 0x00, 0x00, 0x70, 0x00),  # version 70.00.00.01.00
        "I": bytes(32),
        "D": bytes(8),
        "M": bytes(8),
    }
    struct.pack_into("<H3sBHBBBB", image, _BIT_AT, 0xB8FF, b"BIT", 0, 0x0100, 12, _BIT_ENTRY, len(entries), 0)
    table, data = _BIT_AT + 12, _VERSION_AT
    for name, content in entries.items():
        struct.pack_into("<cBHH", image, table, name.encode(), 2 if name != "I" else 1, len(content), data)
        image[data : data + len(content)] = content
        table += _BIT_ENTRY
        data += len(content)
    image[_BIT_AT + 11] = -sum(image[_BIT_AT : _BIT_AT + 11]) & 0xFF
    text = b"gpuvm GF100\0"
    image[_STRINGS_AT : _STRINGS_AT + len(text)] = text
    image[-1] = -sum(image[:-1]) & 0xFF
    return bytes(image)

"""What a module image is: PTX text, a cubin, or a fat binary with either in it; given as bytes, a buffer or
an address."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

from gpuvm.guest.cuda.core import fail
from gpuvm.guest.cuda.types import address_of

ELF_MAGIC = b"\x7fELF"
FATBIN_MAGIC = 0xBA55ED50
WRAPPER_MAGIC = 0x466243B1
KIND_PTX, KIND_ELF = 1, 2
FLAG_COMPRESSED = 0x2000
MACHINE_CUDA = 190
LARGEST_IMAGE = 1 << 30


def read_image(image: Any) -> bytes:
    """Return the bytes of a module image argument: PTX without its NUL, or a whole cubin or fat binary.

    Raises
    ------
    CudaError
        INVALID_VALUE for a null pointer.
    """
    if isinstance(image, str):
        return image.encode()
    if isinstance(image, (bytes, bytearray)):
        data = bytes(image)
    elif hasattr(image, "__buffer__") or _is_buffer(image):
        data = memoryview(image).tobytes()
    else:
        address = address_of(image)
        if not address:
            raise fail("INVALID_VALUE", "a module image must not be null")
        return _at(address)
    if data[:4] == ELF_MAGIC or data[:4] == struct.pack("<I", FATBIN_MAGIC):
        return data
    if len(data) >= 24 and data[:4] == struct.pack("<I", WRAPPER_MAGIC):
        return _at(struct.unpack_from("<Q", data, 8)[0])
    return data.split(b"\0", 1)[0]


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value)
    except TypeError:
        return False
    return True


def _at(address: int) -> bytes:
    """Read an image whose size only it knows."""
    magic = ctypes.string_at(address, 4)
    number = struct.unpack("<I", magic)[0]
    if magic == ELF_MAGIC:
        return ctypes.string_at(address, _elf_size(ctypes.string_at(address, 64), address))
    if number == FATBIN_MAGIC:
        _, _, header, size = struct.unpack("<IHHQ", ctypes.string_at(address, 16))
        return ctypes.string_at(address, min(header + size, LARGEST_IMAGE))
    if number == WRAPPER_MAGIC:
        return _at(struct.unpack("<Q", ctypes.string_at(address + 8, 8))[0])
    return ctypes.string_at(address)


def _elf_size(header: bytes, address: int) -> int:
    """Bytes of an ELF file: to the end of the last section, section header or program header."""
    wide = header[4] == 2
    if wide:
        phoff, shoff = struct.unpack_from("<QQ", header, 0x20)
        ehsize, phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHHH", header, 0x34)
    else:
        phoff, shoff = struct.unpack_from("<II", header, 0x1C)
        ehsize, phentsize, phnum, shentsize, shnum = struct.unpack_from("<HHHHH", header, 0x28)
    end = max(ehsize, phoff + phentsize * phnum, shoff + shentsize * shnum)
    table = ctypes.string_at(address + shoff, min(shentsize * shnum, 1 << 24))
    for index in range(shnum):
        at = index * shentsize
        if wide:
            kind = struct.unpack_from("<I", table, at + 4)[0]
            offset, size = struct.unpack_from("<QQ", table, at + 0x18)
        else:
            kind = struct.unpack_from("<I", table, at + 4)[0]
            offset, size = struct.unpack_from("<II", table, at + 0x10)
        if kind != 8:
            end = max(end, offset + size)
    return int(min(end, LARGEST_IMAGE))


def select(data: bytes) -> tuple[str, bytes]:
    """Return ("ptx" or "cubin", its bytes) for what an image holds for this device.

    Raises
    ------
    CudaError
        INVALID_IMAGE if it is none of the known kinds; NO_BINARY_FOR_GPU if a fat binary has nothing usable.
    """
    if data[:4] == ELF_MAGIC:
        return "cubin", data
    if len(data) >= 16 and struct.unpack_from("<I", data)[0] == FATBIN_MAGIC:
        return _from_fatbin(data)
    text = data.split(b"\0", 1)[0]
    if not text.strip():
        raise fail(
            "INVALID_IMAGE", "a module image must be PTX text, a cubin or a fat binary; this one is empty"
        )
    if any(byte < 9 or 13 < byte < 32 or byte == 127 for byte in text[:4096]):
        raise fail(
            "INVALID_IMAGE", "a module image must be PTX text, a cubin or a fat binary; this one is neither"
        )
    return "ptx", text


def _from_fatbin(data: bytes) -> tuple[str, bytes]:
    _, _, header, size = struct.unpack_from("<IHHQ", data)
    at, end = header, min(header + size, len(data))
    ptx: tuple[int, bytes] | None = None
    while at + 64 <= end:
        kind, _, entry_header, payload_size = struct.unpack_from("<HHIQ", data, at)
        compressed_size = struct.unpack_from("<I", data, at + 16)[0]
        architecture = struct.unpack_from("<I", data, at + 28)[0]
        flags = struct.unpack_from("<Q", data, at + 40)[0]
        unpacked = struct.unpack_from("<Q", data, at + 56)[0]
        if entry_header < 64 or at + entry_header + payload_size > end:
            raise fail("INVALID_IMAGE", "an entry of the fat binary must lie inside it")
        payload = data[at + entry_header : at + entry_header + payload_size]
        if flags & FLAG_COMPRESSED:
            payload = _lz4(payload[: compressed_size or len(payload)], unpacked)
        if kind == KIND_ELF and architecture in (20, 21):
            return "cubin", payload
        if kind == KIND_PTX and (ptx is None or architecture < ptx[0]):
            ptx = (architecture, payload.split(b"\0", 1)[0])
        at += entry_header + payload_size
    if ptx is None:
        raise fail("NO_BINARY_FOR_GPU", "the fat binary must hold code for sm_20 or PTX; it holds neither")
    return "ptx", ptx[1]


def _lz4(data: bytes, size: int) -> bytes:
    """Decompress an LZ4 block of known unpacked size."""
    if size > LARGEST_IMAGE:
        raise fail(
            "INVALID_IMAGE", f"a fat binary's entry must unpack to at most {LARGEST_IMAGE} bytes, not {size}"
        )
    out = bytearray()
    at = 0
    try:
        while at < len(data) and len(out) < size:
            token = data[at]
            at += 1
            length = token >> 4
            if length == 15:
                while True:
                    more = data[at]
                    at += 1
                    length += more
                    if more != 255:
                        break
            out += data[at : at + length]
            at += length
            if at >= len(data):
                break
            distance = data[at] | data[at + 1] << 8
            at += 2
            length = (token & 15) + 4
            if token & 15 == 15:
                while True:
                    more = data[at]
                    at += 1
                    length += more
                    if more != 255:
                        break
            start = len(out) - distance
            if distance == 0 or start < 0:
                raise IndexError
            if len(out) + length > size:
                length = size - len(out)
            for index in range(length):
                out.append(out[start + index])
    except IndexError:
        raise fail("INVALID_IMAGE", "a compressed entry of the fat binary is damaged") from None
    return bytes(out)

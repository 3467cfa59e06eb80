"""Module images: PTX, cubins and fat binaries are told apart, from bytes, buffers and addresses."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest

from gpuvm.guest.cuda.core import CudaError
from gpuvm.guest.cuda.image import FLAG_COMPRESSED, _lz4, read_image, select

PTX = b".version 3.2\n.target sm_20\n.address_size 64\n"


def fatbin(*entries: tuple[int, int, bytes, int, int]) -> bytes:
    """A fat binary of (kind, architecture, payload, flags, unpacked size)."""
    body = b""
    for kind, architecture, payload, flags, unpacked in entries:
        padded = payload + bytes(-len(payload) % 8)
        head = struct.pack("<HHIQ", kind, 0x101, 64, len(padded))
        head += struct.pack("<III", len(payload), 0, 0) + struct.pack("<I", architecture)
        head += struct.pack("<QQQQ", 0, flags, 0, unpacked)
        body += head + padded
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_text_in_every_wrapping_is_ptx() -> None:
    cell = ctypes.create_string_buffer(PTX)
    for image in (PTX.decode(), PTX, PTX + b"\0rubbish", bytearray(PTX + b"\0"), ctypes.addressof(cell)):
        assert select(read_image(image)) == ("ptx", PTX)
    array = np.char.array(PTX + b" ")
    assert select(read_image(array.ctypes.data))[0] == "ptx"


def test_an_elf_given_by_address_is_read_to_its_end() -> None:
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<QQ", header, 0x20, 0, 64)
    struct.pack_into("<HHHHH", header, 0x34, 64, 0, 0, 64, 2)
    section = bytearray(128)
    struct.pack_into("<I", section, 64 + 4, 1)
    struct.pack_into("<QQ", section, 64 + 0x18, 192, 40)
    image = bytes(header + section) + b"c" * 40
    cell = ctypes.create_string_buffer(image + b"beyond")
    assert select(read_image(ctypes.addressof(cell))) == ("cubin", image)
    assert select(read_image(image)) == ("cubin", image)


def test_a_fat_binary_gives_its_fermi_code_else_its_oldest_ptx() -> None:
    elf = b"\x7fELF fermi"
    data = fatbin((1, 75, b"newer\0", 0, 0), (1, 50, PTX + b"\0", 0, 0), (2, 75, b"\x7fELF turing", 0, 0))
    assert select(data) == ("ptx", PTX)
    kind, code = select(fatbin((1, 50, PTX, 0, 0), (2, 20, elf, 0, 0)))
    assert (kind, code.rstrip(b"\0")) == ("cubin", elf)
    with pytest.raises(CudaError) as error:
        select(fatbin((2, 75, b"\x7fELF", 0, 0)))
    assert error.value.code.name == "CUDA_ERROR_NO_BINARY_FOR_GPU"


def test_compressed_ptx_is_unpacked() -> None:
    packed = bytes([0x5F, *b"abcde", 5, 0, 3, 0x10, ord("!")])
    unpacked = b"abcde" + (b"abcde" * 5)[:22] + b"!"
    assert _lz4(packed, len(unpacked)) == unpacked
    assert select(fatbin((1, 50, packed, FLAG_COMPRESSED, len(unpacked)))) == ("ptx", unpacked)
    with pytest.raises(CudaError, match="damaged"):
        _lz4(bytes([0x10, ord("a"), 9, 0]), 50)


@pytest.mark.parametrize("image", [b"\0", b"   \n\0", bytes(range(1, 40)), b"\x7fEL"])
def test_what_is_neither_is_an_invalid_image(image: bytes) -> None:
    with pytest.raises(CudaError) as error:
        select(read_image(image))
    assert error.value.code.name == "CUDA_ERROR_INVALID_IMAGE"


def test_a_null_image_is_an_invalid_value() -> None:
    with pytest.raises(CudaError) as error:
        read_image(0)
    assert error.value.code.name == "CUDA_ERROR_INVALID_VALUE"

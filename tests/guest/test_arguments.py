"""Kernel arguments reach c[0x0] whatever form they are given in."""

from __future__ import annotations

import ctypes
import struct
from typing import Any

import numpy as np
import pytest

from gpuvm.guest.cuda.arguments import pack
from gpuvm.guest.cuda.core import CudaError
from gpuvm.guest.cuda.types import NAMES

LAYOUT = [(0, 8), (8, 4), (12, 1), (16, 8)]
TOTAL = 24
EXPECTED = struct.pack("<QiBxxxd", 0x123456789A, -7, 200, 2.5)


def words(data: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(data) // 4}I", data))


def test_values_with_types() -> None:
    pointer = NAMES["CUdeviceptr"](0x123456789A)
    for first, kind in (
        (pointer, None),
        (0x123456789A, ctypes.c_void_p),
        (np.uint64(0x123456789A), ctypes.c_ulonglong),
    ):
        parameters = (
            (first, np.int32(-7), 200, ctypes.c_double(2.5)),
            (kind, ctypes.c_int, ctypes.c_ubyte, ctypes.c_double),
        )
        assert pack(LAYOUT, TOTAL, parameters, 0) == words(EXPECTED)


def test_an_array_of_addresses() -> None:
    cells = [np.array([v], d) for v, d in ((0x123456789A, "u8"), (-7, "i4"), (200, "u1"), (2.5, "f8"))]
    addresses = np.array([cell.ctypes.data for cell in cells], np.uint64)
    for parameters in (addresses, addresses.ctypes.data, (ctypes.c_void_p * 4)(*addresses.tolist())):
        assert pack(LAYOUT, TOTAL, parameters, 0) == words(EXPECTED)


def test_extra_names_a_packed_buffer() -> None:
    data = ctypes.create_string_buffer(EXPECTED, len(EXPECTED))
    size = ctypes.c_size_t(len(EXPECTED))
    extra = (ctypes.c_uint64 * 5)(1, ctypes.addressof(data), 2, ctypes.addressof(size), 0)
    assert pack(LAYOUT, TOTAL, 0, ctypes.addressof(extra)) == words(EXPECTED)
    size.value = 8
    with pytest.raises(CudaError, match="must have 24 bytes"):
        pack(LAYOUT, TOTAL, 0, ctypes.addressof(extra))


def test_a_structure_is_passed_by_value() -> None:
    class Pair(ctypes.Structure):
        _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_float)]

    assert pack([(0, 8)], 8, ((Pair(3, 1.0),), (None,)), 0) == words(struct.pack("<if", 3, 1.0))


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        (((1,), (ctypes.c_int,)), CudaError),
        (None, CudaError),
        (0, CudaError),
        (((1, 2, 3, 4), (ctypes.c_int,)), TypeError),
        ([1, 2], TypeError),
        (((object(), 1, 1, 1), (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int)), TypeError),
        (((1, 1, 1, 1), (str, ctypes.c_int, ctypes.c_int, ctypes.c_int)), TypeError),
    ],
)
def test_wrong_forms_are_refused(parameters: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        pack(LAYOUT, TOTAL, parameters, 0)


def test_a_kernel_without_parameters_takes_any_form() -> None:
    for parameters in (None, 0, ((), ())):
        assert pack([], 0, parameters, 0) == []

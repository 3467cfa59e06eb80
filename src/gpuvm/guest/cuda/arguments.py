"""Kernel arguments in every form that cuda-python takes, packed into the words of c[0x0]."""

from __future__ import annotations

import ctypes
import struct
from array import array
from collections.abc import Sequence
from typing import Any

from gpuvm.guest.cuda.core import fail
from gpuvm.guest.cuda.types import CudaEnum, address_of

LAUNCH_END, LAUNCH_POINTER, LAUNCH_SIZE = 0, 1, 2

_FORMATS: dict[Any, struct.Struct] = {
    ctypes.c_bool: struct.Struct("<?"),
    ctypes.c_byte: struct.Struct("<b"),
    ctypes.c_ubyte: struct.Struct("<B"),
    ctypes.c_short: struct.Struct("<h"),
    ctypes.c_ushort: struct.Struct("<H"),
    ctypes.c_int: struct.Struct("<i"),
    ctypes.c_uint: struct.Struct("<I"),
    ctypes.c_long: struct.Struct("<q"),
    ctypes.c_ulong: struct.Struct("<Q"),
    ctypes.c_longlong: struct.Struct("<q"),
    ctypes.c_ulonglong: struct.Struct("<Q"),
    ctypes.c_size_t: struct.Struct("<Q"),
    ctypes.c_float: struct.Struct("<f"),
    ctypes.c_double: struct.Struct("<d"),
    ctypes.c_char: struct.Struct("<c"),
    ctypes.c_wchar: struct.Struct("<i"),
}
_POINTER = struct.Struct("<Q")

Layout = Sequence[tuple[int, int]]
"""(byte offset from the first parameter, bytes) of each parameter."""


def pack(layout: Layout, total: int, parameters: Any, extra: Any) -> list[int]:
    """Return the argument words of a launch.

    Parameters
    ----------
    total : int
        Bytes of all parameters.
    parameters, extra
        As given to cuLaunchKernel.

    Raises
    ------
    CudaError
        INVALID_VALUE if the form is right and the content is not.
    TypeError
        As cuda-python raises it, if the form is not one of those known.
    """
    data = bytearray(-(-total // 4) * 4)
    if extra is not None and not isinstance(extra, int):
        extra = address_of(extra)
    if extra:
        _from_extra(data, total, extra)
    elif not layout:
        pass
    elif type(parameters) is tuple and len(parameters) == 2 and type(parameters[0]) is tuple:
        values, types = parameters
        if len(values) != len(types):
            raise TypeError("Argument 'kernelParams' has tuples with different length")
        if len(values) < len(layout):
            raise fail("INVALID_VALUE", f"the kernel takes {len(layout)} arguments, {len(values)} were given")
        for (offset, size), value, kind in zip(layout, values, types, strict=False):
            raw = _raw(value, kind, size)
            if len(raw) >= size:
                data[offset : offset + size] = raw[:size]
            else:
                data[offset : offset + len(raw)] = raw
    elif parameters is None:
        raise fail("INVALID_VALUE", f"the kernel takes {len(layout)} arguments, none were given")
    else:
        if isinstance(parameters, (tuple, list)):
            raise TypeError(
                "Argument 'kernelParams' is not a valid type: tuple[tuple[Any, ...], tuple[Any, ...]] or "
                "PyObject implimenting Buffer Protocol or Int"
            )
        base = address_of(parameters)
        if not base:
            raise fail("INVALID_VALUE", "the array of argument addresses must not be null")
        pointers = (ctypes.c_uint64 * len(layout)).from_address(base)
        for (offset, size), pointer in zip(layout, pointers, strict=True):
            if not pointer:
                raise fail("INVALID_VALUE", "the address of an argument must not be null")
            data[offset : offset + size] = ctypes.string_at(pointer, size)
    return array("I", bytes(data)).tolist()


def _raw(value: Any, kind: Any, size: int) -> bytes:
    """Bytes of one argument, zero-extended to 8 as cuda-python's slots are."""
    form = _FORMATS.get(kind)
    if form is not None:
        if isinstance(value, kind) or (kind is ctypes.c_double and isinstance(value, ctypes.c_float)):
            value = value.value
        try:
            return form.pack(value) + bytes(8 - form.size)
        except (struct.error, TypeError):
            converted = kind(value)
            return bytes(converted) + bytes(8 - form.size)
    if kind is ctypes.c_void_p:
        if isinstance(value, int):
            return _POINTER.pack(value & (1 << 64) - 1)
        if isinstance(value, ctypes.c_void_p):
            return _POINTER.pack(value.value or 0)
        pointer = getattr(value, "getPtr", None)
        if callable(pointer):
            return _POINTER.pack(pointer())
        raise TypeError(
            f"Provided argument is of type {type(value)} but expected Type {int}, {ctypes.c_void_p} "
            "or CUDA Binding structure with getPtr() attribute"
        )
    if kind is None:
        if isinstance(value, CudaEnum):
            return struct.pack("<i", int(value)) + bytes(4)
        pointer = getattr(value, "getPtr", None)
        if callable(pointer):
            return ctypes.string_at(pointer(), size)
        if isinstance(value, ctypes.Structure):
            return ctypes.string_at(ctypes.addressof(value), min(size, ctypes.sizeof(value)))
        raise TypeError(
            f"Provided argument is of type {type(value)} but expected Type {ctypes.Structure}, "
            f"{ctypes.c_void_p} or CUDA Binding structure with getPtr() attribute"
        )
    raise TypeError(f"Unsupported type: {kind!r}")


def _from_extra(data: bytearray, total: int, extra: int) -> None:
    """Read the packed buffer that an `extra` list names."""
    pointer = size = 0
    at = extra
    for _ in range(16):
        key = ctypes.c_uint64.from_address(at).value
        if key == LAUNCH_END:
            break
        value = ctypes.c_uint64.from_address(at + 8).value
        if key == LAUNCH_POINTER:
            pointer = value
        elif key == LAUNCH_SIZE:
            size = ctypes.c_size_t.from_address(value).value
        else:
            raise fail("INVALID_VALUE")
        at += 16
    if not pointer or size > len(data) or size < total:
        raise fail("INVALID_VALUE", f"the argument buffer must have {total} bytes, it has {size}")
    data[:size] = ctypes.string_at(pointer, size)

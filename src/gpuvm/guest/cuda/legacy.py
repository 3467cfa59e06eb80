"""Launches as they were before cuLaunchKernel: a function's block shape and arguments are set, then a grid is
launched."""

from __future__ import annotations

import ctypes
import struct
from array import array
from typing import Any

from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.cuda.loader import MAXIMUM_PARAMETERS
from gpuvm.guest.cuda.types import address_of


class LegacyApi(ApiBase):
    """cuFuncSetBlockShape, cuParamSet*, cuLaunch*."""

    @entry
    def cuFuncSetBlockShape(self, hfunc: Any, x: Any, y: Any, z: Any) -> None:
        shape = (int(x), int(y), int(z))
        if min(shape) <= 0:
            raise fail("INVALID_VALUE")
        self._resolve(hfunc, self._current()).legacy_block = shape

    @entry
    def cuFuncSetSharedSize(self, hfunc: Any, numbytes: Any) -> None:
        if int(numbytes) < 0:
            raise fail("INVALID_VALUE")
        self._resolve(hfunc, self._current()).legacy_shared = int(numbytes)

    @entry
    def cuParamSetSize(self, hfunc: Any, numbytes: Any) -> None:
        size = int(numbytes)
        if not 0 <= size <= MAXIMUM_PARAMETERS:
            raise fail("INVALID_VALUE")
        function = self._resolve(hfunc, self._current())
        old = function.legacy_arguments
        function.legacy_arguments = old[:size] + bytearray(max(0, size - len(old)))

    def _set(self, hfunc: Any, offset: int, data: bytes) -> None:
        function = self._resolve(hfunc, self._current())
        if offset < 0 or offset + len(data) > MAXIMUM_PARAMETERS:
            raise fail("INVALID_VALUE", f"arguments must lie in {MAXIMUM_PARAMETERS} bytes, not at {offset}")
        held = function.legacy_arguments
        held += bytes(max(0, offset + len(data) - len(held)))
        held[offset : offset + len(data)] = data

    @entry
    def cuParamSeti(self, hfunc: Any, offset: Any, value: Any) -> None:
        self._set(hfunc, int(offset), struct.pack("<I", int(value) & 0xFFFFFFFF))

    @entry
    def cuParamSetf(self, hfunc: Any, offset: Any, value: Any) -> None:
        self._set(hfunc, int(offset), struct.pack("<f", float(value)))

    @entry
    def cuParamSetv(self, hfunc: Any, offset: Any, ptr: Any, numbytes: Any) -> None:
        address = address_of(ptr)
        if not address or not 0 <= int(numbytes) <= MAXIMUM_PARAMETERS:
            raise fail("INVALID_VALUE")
        self._set(hfunc, int(offset), ctypes.string_at(address, int(numbytes)))

    def _launch_legacy(self, f: Any, width: int, height: int, hStream: Any) -> None:
        context = self._current()
        function = self._resolve(f, context)
        if function.legacy_block is None:
            raise fail("INVALID_VALUE", "cuFuncSetBlockShape must be called before a grid is launched")
        data = function.legacy_arguments
        if len(data) < function.parameter_size:
            raise fail(
                "INVALID_VALUE",
                f"{function.name} takes {function.parameter_size} bytes of arguments, got {len(data)}",
            )
        words = array("I", bytes(data) + bytes(-len(data) % 4)).tolist()
        stream = self._stream(hStream, context)
        block, shared = function.legacy_block, function.legacy_shared
        self._start(context, function, stream, (width, height, 1), block, shared, words)

    @entry
    def cuLaunch(self, f: Any) -> None:
        self._launch_legacy(f, 1, 1, 0)

    @entry
    def cuLaunchGrid(self, f: Any, grid_width: Any, grid_height: Any) -> None:
        self._launch_legacy(f, int(grid_width), int(grid_height), 0)

    @entry
    def cuLaunchGridAsync(self, f: Any, grid_width: Any, grid_height: Any, hStream: Any) -> None:
        self._launch_legacy(f, int(grid_width), int(grid_height), hStream)

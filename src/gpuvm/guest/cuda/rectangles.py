"""Copies of rectangles and boxes, and fills."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from gpuvm.guest.cuda.context import Context, Stream
from gpuvm.guest.cuda.copies import CopyApi
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.driver.copy import MAX_LINES, m2mf_rectangle

HOST, DEVICE, ARRAY, UNIFIED = 1, 2, 3, 4


class RectangleApi(CopyApi):
    """cuMemcpy2D, cuMemcpy3D and cuMemset."""

    def _end(self, copy: Any, side: str, context: Context, shape: tuple[int, int, int]) -> _End:
        """Return one end of a 2D or 3D copy, checked."""
        width, rows, depth = shape
        kind = int(copy._values.get(side + "MemoryType", 0))
        host = int(getattr(copy, side + "Host"))
        dev = int(getattr(copy, side + "Device"))
        if kind == UNIFIED:
            address = dev
            kind = DEVICE if self._is_device(address) else HOST
            host = address
        if kind == ARRAY:
            raise fail("NOT_SUPPORTED", "CUDA arrays are not supported")
        if kind not in (HOST, DEVICE):
            raise fail("INVALID_VALUE")
        pitch = int(getattr(copy, side + "Pitch"))
        x, y = int(getattr(copy, side + "XInBytes")), int(getattr(copy, side + "Y"))
        z = int(getattr(copy, side + "Z", 0))
        tall = int(getattr(copy, side + "Height", 0)) or rows
        if pitch == 0 and (rows > 1 or y):
            pitch = x + width
        if pitch and pitch < x + width:
            raise fail("INVALID_VALUE", f"a pitch of {pitch} bytes must hold {x + width} bytes a row")
        slice_ = pitch * tall
        offset = z * slice_ + y * pitch + x
        extent = (depth - 1) * slice_ + (rows - 1) * pitch + width
        if kind == DEVICE:
            return _End(self._device_range(context, dev + offset, extent), pitch, slice_, True, extent)
        if not host:
            raise fail("INVALID_VALUE")
        address, reachable = self._host(host + offset, extent)
        return _End(address, pitch, slice_, reachable, extent)

    def _rectangle(self, copy: Any, context: Context, stream: Stream, sync: bool) -> None:
        if copy is None:
            raise fail("INVALID_VALUE")
        shape = (int(copy.WidthInBytes), int(copy.Height), int(getattr(copy, "Depth", 1)))
        if 0 in shape:
            return
        src = self._end(copy, "src", context, shape)
        dst = self._end(copy, "dst", context, shape)
        width, rows, depth = shape
        if src.on_gpu and dst.on_gpu:
            sequence = 0
            for z in range(depth):
                words = m2mf_rectangle(
                    dst.address + z * dst.slice,
                    src.address + z * src.slice,
                    width,
                    rows,
                    dst.pitch,
                    src.pitch,
                )
                sequence = context.submit(stream, words)
            if sync:
                context.wait(sequence)
            return
        if not src.on_gpu and not dst.on_gpu:
            context.wait(stream.last)
            for z in range(depth):
                for y in range(rows):
                    ctypes.memmove(
                        dst.address + z * dst.slice + y * dst.pitch,
                        src.address + z * src.slice + y * src.pitch,
                        width,
                    )
            return
        for z in range(depth):
            if dst.on_gpu:
                self._upload_rows(context, stream, dst, src, z, width, rows)
            else:
                self._download_rows(context, stream, dst, src, z, width, rows)

    def _upload_rows(
        self, context: Context, stream: Stream, dst: _End, src: _End, z: int, width: int, rows: int
    ) -> None:
        """Pack rows of pageable memory densely into staging pieces; the GPU spreads them."""
        piece = context.staging.piece
        at = 0
        while at < rows:
            count = max(1, min(rows - at, piece // width, MAX_LINES))
            source = src.address + z * src.slice + at * src.pitch
            target = dst.address + z * dst.slice + at * dst.pitch
            if width > piece:
                self._upload(context, stream, target, source, width, False)
            else:
                with context.staging.lock:
                    staged = context.staging.reserve(width * count)
                    _strided(staged, width, count, width)[:] = _strided(source, width, count, src.pitch)
                    context.submit(stream, m2mf_rectangle(target, staged, width, count, dst.pitch, width))
            at += count

    def _download_rows(
        self, context: Context, stream: Stream, dst: _End, src: _End, z: int, width: int, rows: int
    ) -> None:
        """The GPU packs rows into a dense buffer; the CPU spreads them into pageable memory."""
        buffer = self.driver.allocate_host(width * rows)
        try:
            words = m2mf_rectangle(buffer.address, src.address + z * src.slice, width, rows, width, src.pitch)
            context.wait(context.submit(stream, words))
            target = _strided(dst.address + z * dst.slice, width, rows, dst.pitch)
            target[:] = _strided(buffer.address, width, rows, width)
        finally:
            self.driver.free_host(buffer)

    @entry
    def cuMemcpy2D(self, pCopy: Any) -> None:
        context = self._current()
        self._rectangle(pCopy, context, context.default_stream, True)

    @entry
    def cuMemcpy2DUnaligned(self, pCopy: Any) -> None:
        context = self._current()
        self._rectangle(pCopy, context, context.default_stream, True)

    @entry
    def cuMemcpy2DAsync(self, pCopy: Any, hStream: Any) -> None:
        context = self._current()
        self._rectangle(pCopy, context, self._stream(hStream, context), False)

    @entry
    def cuMemcpy3D(self, pCopy: Any) -> None:
        context = self._current()
        self._rectangle(pCopy, context, context.default_stream, True)

    @entry
    def cuMemcpy3DAsync(self, pCopy: Any, hStream: Any) -> None:
        context = self._current()
        self._rectangle(pCopy, context, self._stream(hStream, context), False)

    def _fill(
        self,
        stream_arg: Any,
        pointer: Any,
        value: Any,
        element: int,
        width: int,
        rows: int = 1,
        pitch: int = 0,
    ) -> None:
        context = self._current()
        stream = context.default_stream if stream_arg is None else self._stream(stream_arg, context)
        if width < 0 or rows < 0:
            raise fail("INVALID_VALUE")
        if width == 0 or rows == 0:
            return
        size = width * element
        address = int(pointer or 0)
        if address % element or (rows > 1 and (pitch < size or pitch % element)):
            raise fail("INVALID_VALUE", f"a fill of {element}-byte elements must be aligned to them")
        self._device_range(context, address, (rows - 1) * pitch + size)
        pattern = (int(value) & (1 << 8 * element) - 1).to_bytes(element, "little")
        context.fill(stream, address, pattern, size, rows, pitch)

    @entry
    def cuMemsetD8(self, dstDevice: Any, uc: Any, N: Any) -> None:
        self._fill(None, dstDevice, uc, 1, int(N))

    @entry
    def cuMemsetD16(self, dstDevice: Any, us: Any, N: Any) -> None:
        self._fill(None, dstDevice, us, 2, int(N))

    @entry
    def cuMemsetD32(self, dstDevice: Any, ui: Any, N: Any) -> None:
        self._fill(None, dstDevice, ui, 4, int(N))

    @entry
    def cuMemsetD8Async(self, dstDevice: Any, uc: Any, N: Any, hStream: Any) -> None:
        self._fill(hStream or 0, dstDevice, uc, 1, int(N))

    @entry
    def cuMemsetD16Async(self, dstDevice: Any, us: Any, N: Any, hStream: Any) -> None:
        self._fill(hStream or 0, dstDevice, us, 2, int(N))

    @entry
    def cuMemsetD32Async(self, dstDevice: Any, ui: Any, N: Any, hStream: Any) -> None:
        self._fill(hStream or 0, dstDevice, ui, 4, int(N))

    @entry
    def cuMemsetD2D8(self, dstDevice: Any, dstPitch: Any, uc: Any, Width: Any, Height: Any) -> None:
        self._fill(None, dstDevice, uc, 1, int(Width), int(Height), int(dstPitch))

    @entry
    def cuMemsetD2D16(self, dstDevice: Any, dstPitch: Any, us: Any, Width: Any, Height: Any) -> None:
        self._fill(None, dstDevice, us, 2, int(Width), int(Height), int(dstPitch))

    @entry
    def cuMemsetD2D32(self, dstDevice: Any, dstPitch: Any, ui: Any, Width: Any, Height: Any) -> None:
        self._fill(None, dstDevice, ui, 4, int(Width), int(Height), int(dstPitch))

    @entry
    def cuMemsetD2D8Async(
        self, dstDevice: Any, dstPitch: Any, uc: Any, Width: Any, Height: Any, hStream: Any
    ) -> None:
        self._fill(hStream or 0, dstDevice, uc, 1, int(Width), int(Height), int(dstPitch))

    @entry
    def cuMemsetD2D16Async(
        self, dstDevice: Any, dstPitch: Any, us: Any, Width: Any, Height: Any, hStream: Any
    ) -> None:
        self._fill(hStream or 0, dstDevice, us, 2, int(Width), int(Height), int(dstPitch))

    @entry
    def cuMemsetD2D32Async(
        self, dstDevice: Any, dstPitch: Any, ui: Any, Width: Any, Height: Any, hStream: Any
    ) -> None:
        self._fill(hStream or 0, dstDevice, ui, 4, int(Width), int(Height), int(dstPitch))


class _End:
    """One end of a rectangle copy."""

    def __init__(self, address: int, pitch: int, slice_: int, on_gpu: bool, extent: int) -> None:
        self.address = address
        self.pitch = pitch
        self.slice = slice_
        self.on_gpu = on_gpu
        self.extent = extent


def _strided(address: int, width: int, rows: int, pitch: int) -> Any:
    """Memory as a uint8[rows, width] array."""
    size = (rows - 1) * pitch + width
    flat = np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B"), np.uint8)
    return np.lib.stride_tricks.as_strided(flat, (rows, width), (pitch, 1))

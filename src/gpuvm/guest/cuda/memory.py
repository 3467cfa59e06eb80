"""Memory: device allocations, page-locked host memory, copies, fills, what a pointer is."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda.base import ApiBase
from gpuvm.guest.cuda.context import Allocation, Context, Stream
from gpuvm.guest.cuda.core import entry, fail
from gpuvm.guest.cuda.types import NAMES, address_of
from gpuvm.guest.driver.copy import MAX_LINES, m2mf_linear, m2mf_rectangle
from gpuvm.guest.driver.host import HostBuffer, RegisteredBuffer, owns_its_pages
from gpuvm.guest.driver.space import DEVICE_BASE, DEVICE_SIZE

CUdeviceptr: Any = NAMES["CUdeviceptr"]
CUmemorytype: Any = NAMES["CUmemorytype"]
Attribute: Any = NAMES["CUpointer_attribute"]

ALLOCATE_FLAGS = 0x7
REGISTER_FLAGS = 0xF
HOST, DEVICE, ARRAY, UNIFIED = 1, 2, 3, 4


class Pinned:
    """Page-locked host memory that the program owns.

    Attributes
    ----------
    flags : int
        As given to cuMemHostAlloc or cuMemHostRegister.
    buffer : HostBuffer or None
        None for registered memory whose pages hold other data too: copies are staged.
    """

    def __init__(
        self, buffer: HostBuffer | None, address: int, size: int, flags: int, context: Context
    ) -> None:
        self.buffer = buffer
        self.address = address
        self.size = size
        self.flags = flags
        self.context = context

    @property
    def allocated(self) -> bool:
        """Whether cuMemHostAlloc made it (else it is registered)."""
        return self.buffer is not None and not isinstance(self.buffer, RegisteredBuffer)


class MemoryApi(ApiBase):
    """Memory management."""

    # What a pointer is -------------------------------------------------------------------------------------

    def _find_pinned(self, address: int) -> Pinned | None:
        for pinned in list(self._pinned.values()):
            if pinned.address <= address < pinned.address + max(pinned.size, 1):
                return pinned
        return None

    def _device_range(self, context: Context, pointer: Any, size: int) -> int:
        """Return a device pointer's address after checking that `size` bytes from it may be accessed."""
        address = int(pointer or 0)
        allocation = context.find(address)
        if allocation is not None:
            if address + size > allocation.address + allocation.size:
                raise fail("INVALID_VALUE", _beyond(address, size, allocation.address, allocation.size))
            return address
        for pinned in list(self._pinned.values()):
            if pinned.buffer is None:
                continue
            base = pinned.buffer.gpu_address
            if base <= address < base + pinned.size:
                if address + size > base + pinned.size:
                    raise fail("INVALID_VALUE", _beyond(address, size, base, pinned.size))
                return address
            if pinned.address <= address < pinned.address + pinned.size:
                return self._device_range(context, base + address - pinned.address, size)
        raise fail("INVALID_VALUE", f"{address:#x} must be a device pointer of this context; it is none")

    def _is_device(self, address: int) -> bool:
        return DEVICE_BASE <= address < DEVICE_BASE + DEVICE_SIZE

    def _host(self, pointer: Any, size: int) -> tuple[int, bool]:
        """Return (address, whether the GPU reaches it) of a host pointer argument."""
        address = address_of(pointer)
        if not address:
            raise fail("INVALID_VALUE", "a host pointer must not be null")
        pinned = self._find_pinned(address)
        if pinned is None or pinned.buffer is None:
            return address, False
        if address + size > pinned.address + pinned.size:
            raise fail("INVALID_VALUE", _beyond(address, size, pinned.address, pinned.size))
        return pinned.buffer.gpu_address + address - pinned.address, True

    # Allocation --------------------------------------------------------------------------------------------

    @entry
    def cuMemGetInfo(self) -> Any:
        self._current()
        return self.driver.vram.free_bytes, self.driver.vram.total

    @entry
    def cuMemAlloc(self, bytesize: Any) -> Any:
        context = self._current()
        if int(bytesize) <= 0:
            raise fail("INVALID_VALUE", f"an allocation must have at least 1 byte, got {int(bytesize)}")
        return CUdeviceptr(context.allocate(int(bytesize)).address)

    @entry
    def cuMemAllocPitch(self, WidthInBytes: Any, Height: Any, ElementSizeBytes: Any) -> Any:
        context = self._current()
        width, height = int(WidthInBytes), int(Height)
        if width <= 0 or height <= 0 or int(ElementSizeBytes) not in (4, 8, 16):
            raise fail("INVALID_VALUE")
        pitch = -(-width // device.PITCH_ALIGN) * device.PITCH_ALIGN
        return CUdeviceptr(context.allocate(pitch * height).address), pitch

    @entry
    def cuMemFree(self, dptr: Any) -> None:
        context = self._current()
        address = int(dptr or 0)
        if not address:
            return
        allocation = context.find(address)
        if allocation is None or allocation.address != address or allocation.module:
            raise fail("INVALID_VALUE", f"{address:#x} must be a pointer that cuMemAlloc returned")
        context.synchronize()
        context.free(allocation)

    @entry
    def cuMemGetAddressRange(self, dptr: Any) -> Any:
        context = self._current()
        address = int(dptr or 0)
        allocation = context.find(address)
        if allocation is not None:
            return CUdeviceptr(allocation.address), allocation.size
        pinned = self._find_pinned(address)
        if pinned is not None:
            return CUdeviceptr(pinned.address), pinned.size
        raise fail("NOT_FOUND")

    def _allocate_host(self, size: int, flags: int) -> int:
        context = self._current()
        if size <= 0 or flags & ~ALLOCATE_FLAGS:
            raise fail("INVALID_VALUE")
        buffer = self.driver.allocate_host(size)
        self._pinned[buffer.address] = Pinned(buffer, buffer.address, size, flags, context)
        return int(buffer.address)

    @entry
    def cuMemAllocHost(self, bytesize: Any) -> Any:
        return self._allocate_host(int(bytesize), 0)

    @entry
    def cuMemHostAlloc(self, bytesize: Any, Flags: Any) -> Any:
        return self._allocate_host(int(bytesize), int(Flags))

    @entry
    def cuMemFreeHost(self, p: Any) -> None:
        self._current()
        address = address_of(p)
        pinned = self._pinned.get(address)
        if pinned is None or not pinned.allocated:
            raise fail("INVALID_VALUE", f"{address:#x} must be an address that cuMemHostAlloc returned")
        self._release_pinned(pinned)

    @entry
    def cuMemHostRegister(self, p: Any, bytesize: Any, Flags: Any) -> None:
        context = self._current()
        address, size, flags = address_of(p), int(bytesize), int(Flags)
        if not address or size <= 0 or flags & ~REGISTER_FLAGS:
            raise fail("INVALID_VALUE")
        if flags & NAMES["CU_MEMHOSTREGISTER_IOMEMORY"]:
            raise fail("NOT_SUPPORTED")
        if any(
            address < other.address + other.size and other.address < address + size
            for other in list(self._pinned.values())
        ):
            raise fail("HOST_MEMORY_ALREADY_REGISTERED")
        buffer = self.driver.register_host(address, size) if owns_its_pages(address, size) else None
        self._pinned[address] = Pinned(buffer, address, size, flags, context)

    @entry
    def cuMemHostUnregister(self, p: Any) -> None:
        self._current()
        pinned = self._pinned.get(address_of(p))
        if pinned is None or pinned.allocated:
            raise fail("HOST_MEMORY_NOT_REGISTERED")
        self._release_pinned(pinned)

    def _release_pinned(self, pinned: Pinned) -> None:
        for context in list(self._contexts.values()):
            if context.error is None:
                context.synchronize()
        del self._pinned[pinned.address]
        if pinned.buffer is not None:
            self.driver.free_host(pinned.buffer)

    @entry
    def cuMemHostGetDevicePointer(self, p: Any, Flags: Any) -> Any:
        self._current()
        if int(Flags):
            raise fail("INVALID_VALUE")
        address = address_of(p)
        pinned = self._find_pinned(address)
        if pinned is None:
            raise fail("INVALID_VALUE", f"{address:#x} must lie in page-locked host memory")
        if pinned.buffer is None:
            raise fail(
                "NOT_SUPPORTED",
                "registered memory is mapped only if its pages hold nothing else: align it to 4096 bytes, "
                "or allocate it with cuMemHostAlloc",
            )
        return CUdeviceptr(pinned.buffer.gpu_address + address - pinned.address)

    @entry
    def cuMemHostGetFlags(self, p: Any) -> Any:
        self._current()
        pinned = self._find_pinned(address_of(p))
        if pinned is None:
            raise fail("INVALID_VALUE")
        return pinned.flags

    @entry
    def cuPointerGetAttribute(self, attribute: Any, ptr: Any) -> Any:
        return self._attribute(Attribute(int(attribute)), int(ptr or 0), self._current())

    @entry
    def cuPointerGetAttributes(self, numAttributes: Any, attributes: Any, ptr: Any) -> Any:
        context = self._current()
        wanted = list(attributes or [])
        if int(numAttributes) > len(wanted):
            raise RuntimeError(f"List is too small: {len(wanted)} < {int(numAttributes)}")
        out = []
        for attribute in wanted[: int(numAttributes)]:
            try:
                out.append(self._attribute(Attribute(int(attribute)), int(ptr or 0), context))
            except Exception:
                # CUDA gives a default for what a pointer has not, and succeeds.
                out.append(0)
        return out

    def _attribute(self, attribute: Any, address: int, context: Context) -> Any:
        found: Allocation | Pinned | None = context.find(address) or self._find_pinned(address)
        if found is None:
            raise fail("INVALID_VALUE", f"{address:#x} is no pointer of this context")
        is_device = isinstance(found, Allocation)
        A = Attribute
        if attribute == A.CU_POINTER_ATTRIBUTE_CONTEXT:
            owner = context if isinstance(found, Allocation) else found.context
            return NAMES["CUcontext"](owner.handle)
        if attribute == A.CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
            return CUmemorytype(DEVICE if is_device else HOST)
        if attribute == A.CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
            return CUdeviceptr(address)
        if attribute == A.CU_POINTER_ATTRIBUTE_HOST_POINTER:
            if is_device:
                raise fail("INVALID_VALUE")
            return address
        if attribute == A.CU_POINTER_ATTRIBUTE_IS_MANAGED:
            return False
        if attribute == A.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
            return 0
        if attribute == A.CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
            return found.address
        if attribute == A.CU_POINTER_ATTRIBUTE_RANGE_SIZE:
            return found.size
        if attribute == A.CU_POINTER_ATTRIBUTE_MAPPED:
            return True
        if attribute == A.CU_POINTER_ATTRIBUTE_BUFFER_ID:
            return found.address
        raise fail("NOT_SUPPORTED")

    # Copies ------------------------------------------------------------------------------------------------

    def _upload(
        self, context: Context, stream: Stream, destination: int, source: Any, size: int, sync: bool
    ) -> None:
        if size == 0:
            return
        self._device_range(context, destination, size)
        address, reachable = self._host(source, size)
        if reachable:
            sequence = context.copy(stream, destination, address, size)
            if sync:
                context.wait(sequence)
            return
        context.staging.upload(
            address,
            size,
            lambda at, staged, length: context.copy(stream, destination + at, staged, length),
        )

    def _download(
        self, context: Context, stream: Stream, destination: Any, source: int, size: int, sync: bool
    ) -> None:
        if size == 0:
            return
        self._device_range(context, source, size)
        address, reachable = self._host(destination, size)
        if reachable:
            sequence = context.copy(stream, address, source, size)
            if sync:
                context.wait(sequence)
            return
        context.staging.download(
            address,
            size,
            lambda at, staged, length: context.copy(stream, staged, source + at, length),
            context.wait,
        )

    def _move(self, context: Context, stream: Stream, destination: int, source: int, size: int) -> None:
        if size == 0:
            return
        self._device_range(context, destination, size)
        self._device_range(context, source, size)
        context.copy(stream, destination, source, size)

    @entry
    def cuMemcpyHtoD(self, dstDevice: Any, srcHost: Any, ByteCount: Any) -> None:
        context = self._current()
        self._upload(context, context.default_stream, int(dstDevice or 0), srcHost, int(ByteCount), True)

    @entry
    def cuMemcpyHtoDAsync(self, dstDevice: Any, srcHost: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._upload(context, stream, int(dstDevice or 0), srcHost, int(ByteCount), False)

    @entry
    def cuMemcpyDtoH(self, dstHost: Any, srcDevice: Any, ByteCount: Any) -> None:
        context = self._current()
        self._download(context, context.default_stream, dstHost, int(srcDevice or 0), int(ByteCount), True)

    @entry
    def cuMemcpyDtoHAsync(self, dstHost: Any, srcDevice: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._download(context, stream, dstHost, int(srcDevice or 0), int(ByteCount), False)

    @entry
    def cuMemcpyDtoD(self, dstDevice: Any, srcDevice: Any, ByteCount: Any) -> None:
        context = self._current()
        stream = context.default_stream
        self._move(context, stream, int(dstDevice or 0), int(srcDevice or 0), int(ByteCount))

    @entry
    def cuMemcpyDtoDAsync(self, dstDevice: Any, srcDevice: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._move(context, stream, int(dstDevice or 0), int(srcDevice or 0), int(ByteCount))

    def _unified(self, context: Context, stream: Stream, dst: int, src: int, size: int, sync: bool) -> None:
        """Copy between addresses of either kind; unified addressing tells which is which."""
        if self._is_device(dst):
            if self._is_device(src):
                self._move(context, stream, dst, src, size)
            else:
                self._upload(context, stream, dst, src, size, sync)
        elif self._is_device(src):
            self._download(context, stream, dst, src, size, sync)
        else:
            context.wait(stream.last)
            ctypes.memmove(dst, src, size)

    @entry
    def cuMemcpy(self, dst: Any, src: Any, ByteCount: Any) -> None:
        context = self._current()
        self._unified(context, context.default_stream, int(dst or 0), int(src or 0), int(ByteCount), True)

    @entry
    def cuMemcpyAsync(self, dst: Any, src: Any, ByteCount: Any, hStream: Any) -> None:
        context = self._current()
        stream = self._stream(hStream, context)
        self._unified(context, stream, int(dst or 0), int(src or 0), int(ByteCount), False)

    @entry
    def cuMemcpyPeer(
        self, dstDevice: Any, dstContext: Any, srcDevice: Any, srcContext: Any, ByteCount: Any
    ) -> None:
        self._peer(dstDevice, dstContext, srcDevice, srcContext, int(ByteCount))

    @entry
    def cuMemcpyPeerAsync(
        self, dstDevice: Any, dstContext: Any, srcDevice: Any, srcContext: Any, ByteCount: Any, hStream: Any
    ) -> None:
        self._stream(hStream, self._current())
        self._peer(dstDevice, dstContext, srcDevice, srcContext, int(ByteCount))

    def _peer(self, dst: Any, dst_context: Any, src: Any, src_context: Any, size: int) -> None:
        to, source = self._contexts.get(int(dst_context or 0)), self._contexts.get(int(src_context or 0))
        if to is None or source is None:
            raise fail("INVALID_CONTEXT")
        if to is source:
            self._move(to, to.default_stream, int(dst or 0), int(src or 0), size)
            return
        # Two address spaces of one card: through page-locked memory, which both map.
        buffer = self.driver.allocate_host(min(max(size, 1), 4 << 20))
        try:
            done = 0
            while done < size:
                length = min(buffer.size, size - done)
                self._device_range(source, int(src) + done, length)
                self._device_range(to, int(dst) + done, length)
                words = m2mf_linear(buffer.address, int(src) + done, length)
                source.wait(source.submit(source.default_stream, words))
                words = m2mf_linear(int(dst) + done, buffer.address, length)
                to.wait(to.submit(to.default_stream, words))
                done += length
        finally:
            self.driver.free_host(buffer)

    # Rectangles --------------------------------------------------------------------------------------------

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

    # Fills -------------------------------------------------------------------------------------------------

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


def _beyond(address: int, size: int, base: int, length: int) -> str:
    return f"{size} bytes at {address:#x} must lie in one allocation; the one at {base:#x} has {length} bytes"

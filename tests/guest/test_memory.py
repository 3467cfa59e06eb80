"""Memory: what is copied, filled and freed is what the program asked for; what it may not do is refused."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import pytest
from guest_support import Lab, ok

from gpuvm.guest.cuda import Cuda
from gpuvm.guest.driver.copy import copy_linear


def host_view(address: int, count: int, dtype: Any = np.uint8) -> Any:
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer(memoryview((ctypes.c_ubyte * size).from_address(address)).cast("B"), dtype)


def download(cuda: Cuda, pointer: Any, count: int, dtype: Any = np.uint8) -> Any:
    out = np.empty(count, dtype)
    ok(cuda.cuMemcpyDtoH(out, pointer, out.nbytes))
    return out


@pytest.mark.parametrize("size", [1, 3, 4096, 131071, (3 << 20) + 5])
def test_pageable_memory_goes_there_and_back(cuda: Cuda, size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    pointer = ok(cuda.cuMemAlloc(size))
    ok(cuda.cuMemcpyHtoD(pointer, data, size))
    assert np.array_equal(download(cuda, pointer, size), data)
    ok(cuda.cuMemFree(pointer))


def test_unaligned_parts_of_an_allocation(cuda: Cuda) -> None:
    pointer = int(ok(cuda.cuMemAlloc(1000)))
    ok(cuda.cuMemsetD8(pointer, 0, 1000))
    ok(cuda.cuMemcpyHtoD(pointer + 13, b"hello", 5))
    ok(cuda.cuMemcpyDtoD(pointer + 501, pointer + 13, 5))
    out = download(cuda, pointer, 1000).tobytes()
    assert out[13:18] == out[501:506] == b"hello"
    assert out.count(0) == 990


def test_a_buffer_larger_than_the_staging_ring_survives(cuda: Cuda) -> None:
    data = np.arange(5 << 20, dtype=np.uint32)
    pointer = ok(cuda.cuMemAlloc(data.nbytes))
    ok(cuda.cuMemcpyHtoDAsync(pointer, data, data.nbytes, 0))
    assert np.array_equal(download(cuda, pointer, data.size, np.uint32), data)


def test_page_locked_memory_is_one_address_for_program_and_gpu(cuda: Cuda) -> None:
    host = ok(cuda.cuMemHostAlloc(100_000, cuda.CU_MEMHOSTALLOC_DEVICEMAP))
    assert int(ok(cuda.cuMemHostGetDevicePointer(host, 0))) == host < 1 << 40
    assert ok(cuda.cuMemHostGetFlags(host)) == cuda.CU_MEMHOSTALLOC_DEVICEMAP
    view = host_view(host, 25_000, np.uint32)
    view[:] = np.arange(25_000)
    pointer = ok(cuda.cuMemAlloc(100_000))
    ok(cuda.cuMemcpyHtoDAsync(pointer, host, 100_000, 0))
    ok(cuda.cuMemsetD32Async(host, 7, 25_000, 0))
    ok(cuda.cuCtxSynchronize())
    assert (view == 7).all()
    ok(cuda.cuMemcpy(host, pointer, 100_000))
    ok(cuda.cuCtxSynchronize())
    assert np.array_equal(view, np.arange(25_000))
    del view
    ok(cuda.cuMemFreeHost(host))
    assert cuda.cuMemFreeHost(host)[0] == cuda.CUresult.CUDA_ERROR_INVALID_VALUE


def test_registered_memory_is_seen_by_the_gpu_where_it_is(cuda: Cuda) -> None:
    pages = mmap.mmap(-1, 200_704)
    data = np.frombuffer(pages, np.uint32)
    data[:] = np.arange(50_176)
    ok(cuda.cuMemHostRegister(data, data.nbytes, cuda.CU_MEMHOSTREGISTER_DEVICEMAP))
    again = cuda.cuMemHostRegister(data.ctypes.data + 64, 4, 0)
    assert again == (cuda.CUresult.CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,)
    device = ok(cuda.cuMemHostGetDevicePointer(data.ctypes.data, 0))
    pointer = ok(cuda.cuMemAlloc(data.nbytes))
    ok(cuda.cuMemcpyDtoD(pointer, device, data.nbytes))
    assert np.array_equal(download(cuda, pointer, data.size, np.uint32), np.arange(50_176))
    ok(cuda.cuMemsetD32(device, 5, 10))
    ok(cuda.cuCtxSynchronize())
    assert (data[:10] == 5).all()
    assert data[10] == 10
    ok(cuda.cuMemHostUnregister(data))
    assert (data[:10] == 5).all()
    assert data[49_999] == 49_999
    big = np.arange(16 << 20, dtype=np.uint32)
    ok(cuda.cuMemHostRegister(big, big.nbytes, 0))
    ok(cuda.cuMemHostUnregister(big))
    assert np.array_equal(big, np.arange(16 << 20))
    gone = cuda.cuMemHostUnregister(data)
    assert gone == (cuda.CUresult.CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,)


def test_registered_memory_that_shares_pages_is_copied_but_not_mapped(cuda: Cuda) -> None:
    data = np.arange(100, dtype=np.uint8)
    ok(cuda.cuMemHostRegister(data, data.nbytes, 0))
    pointer = ok(cuda.cuMemAlloc(100))
    ok(cuda.cuMemcpyHtoDAsync(pointer, data, 100, 0))
    assert np.array_equal(download(cuda, pointer, 100), data)
    assert cuda.cuMemHostGetDevicePointer(data, 0)[0] == cuda.CUresult.CUDA_ERROR_NOT_SUPPORTED
    assert "align it" in cuda.last_error
    ok(cuda.cuMemHostUnregister(data))


@pytest.mark.parametrize(
    ("function", "dtype", "value"),
    [("D8", np.uint8, 0xA5), ("D16", np.uint16, 0xBEEF), ("D32", np.uint32, 0xDEADBEEF)],
)
@pytest.mark.parametrize("count", [1, 1000, 300_001])
def test_fills(cuda: Cuda, function: str, dtype: Any, value: int, count: int) -> None:
    pointer = ok(cuda.cuMemAlloc((count + 2) * 4))
    ok(cuda.cuMemsetD8(pointer, 0x11, (count + 2) * 4))
    ok(getattr(cuda, "cuMemset" + function)(pointer, value, count))
    out = download(cuda, pointer, count + 2, dtype)
    assert (out[:count] == value).all()
    assert out[count] == 0x11111111 & np.iinfo(dtype).max


def test_rectangle_fills_leave_the_gaps(cuda: Cuda) -> None:
    pointer, pitch = ok(cuda.cuMemAllocPitch(300, 40, 4))
    assert pitch == 512
    ok(cuda.cuMemsetD8(pointer, 0, pitch * 40))
    ok(cuda.cuMemsetD2D16(pointer, pitch, 0x0102, 75, 40))
    out = download(cuda, pointer, pitch * 40).reshape(40, pitch)
    assert (out[:, 0:150:2] == 2).all()
    assert (out[:, 1:150:2] == 1).all()
    assert not out[:, 150:].any()
    narrow = cuda.cuMemsetD2D32(pointer, 100, 0, 75, 40)
    assert narrow == (cuda.CUresult.CUDA_ERROR_INVALID_VALUE,)


@pytest.mark.parametrize("pinned", [False, True])
def test_rectangles_go_both_ways(cuda: Cuda, pinned: bool) -> None:
    rows, width = 37, 90
    source = np.arange(rows * 100, dtype=np.uint8).reshape(rows, 100)
    pointer, pitch = ok(cuda.cuMemAllocPitch(width, rows + 2, 4))
    ok(cuda.cuMemsetD8(pointer, 255, pitch * (rows + 2)))
    back = np.zeros((rows, 128), np.uint8)
    if pinned:
        ok(cuda.cuMemHostRegister(source, source.nbytes, 0))
        ok(cuda.cuMemHostRegister(back, back.nbytes, 0))
    kinds = cuda.CUmemorytype
    up = cuda.CUDA_MEMCPY2D()
    up.srcMemoryType, up.srcHost, up.srcPitch, up.srcXInBytes = kinds.CU_MEMORYTYPE_HOST, source, 100, 4
    up.dstMemoryType, up.dstDevice, up.dstPitch, up.dstY = kinds.CU_MEMORYTYPE_DEVICE, pointer, pitch, 2
    up.WidthInBytes, up.Height = width, rows
    ok(cuda.cuMemcpy2D(up))
    down = cuda.CUDA_MEMCPY2D()
    down.srcMemoryType, down.srcDevice, down.srcPitch = kinds.CU_MEMORYTYPE_UNIFIED, int(pointer), pitch
    down.srcY, down.dstMemoryType, down.dstHost, down.dstPitch = 2, kinds.CU_MEMORYTYPE_HOST, back, 128
    down.dstXInBytes, down.WidthInBytes, down.Height = 8, width, rows
    ok(cuda.cuMemcpy2DAsync(down, 0))
    ok(cuda.cuCtxSynchronize())
    assert np.array_equal(back[:, 8 : 8 + width], source[:, 4 : 4 + width])
    assert not back[:, :8].any()
    assert not back[:, 8 + width :].any()
    assert (download(cuda, pointer, pitch * 2) == 255).all()
    if pinned:
        ok(cuda.cuMemHostUnregister(source))
        ok(cuda.cuMemHostUnregister(back))


def test_boxes(cuda: Cuda) -> None:
    source = np.arange(4 * 5 * 16, dtype=np.uint8).reshape(4, 5, 16)
    pointer = ok(cuda.cuMemAlloc(6 * 8 * 32))
    ok(cuda.cuMemsetD8(pointer, 0, 6 * 8 * 32))
    box = cuda.CUDA_MEMCPY3D()
    box.srcMemoryType, box.srcHost, box.srcPitch, box.srcHeight = cuda.CUmemorytype(1), source, 16, 5
    box.dstMemoryType, box.dstDevice, box.dstPitch, box.dstHeight = cuda.CUmemorytype(2), pointer, 32, 8
    box.dstXInBytes, box.dstY, box.dstZ = 3, 2, 1
    box.WidthInBytes, box.Height, box.Depth = 16, 5, 4
    ok(cuda.cuMemcpy3D(box))
    out = download(cuda, pointer, 6 * 8 * 32).reshape(6, 8, 32)
    assert np.array_equal(out[1:5, 2:7, 3:19], source)
    assert out.sum() == source.sum()


def test_freed_memory_is_reused_and_counted(lab: Lab, cuda: Cuda) -> None:
    before = ok(cuda.cuMemGetInfo())
    for _ in range(3):
        pointers = [ok(cuda.cuMemAlloc(10 << 20)) for _ in range(4)] + [
            ok(cuda.cuMemAlloc(100)) for _ in range(50)
        ]
        assert len({int(p) for p in pointers}) == 54
        assert all(int(p) % 256 == 0 for p in pointers)
        assert ok(cuda.cuMemGetInfo())[0] <= before[0] - (40 << 20)
        for pointer in pointers:
            ok(cuda.cuMemFree(pointer))
    free, total = ok(cuda.cuMemGetInfo())
    assert total == before[1]
    assert free >= before[0] - (1 << 20) - (1 << 18)


def test_out_of_memory_is_an_error_and_nothing_more(cuda: Cuda) -> None:
    total = ok(cuda.cuDeviceTotalMem(0))
    before = ok(cuda.cuMemGetInfo())
    assert cuda.cuMemAlloc(total + 1) == (cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    assert "must have" in cuda.last_error
    assert cuda.cuMemHostAlloc(1 << 40, 0) == (cuda.CUresult.CUDA_ERROR_OUT_OF_MEMORY, None)
    assert ok(cuda.cuMemGetInfo()) == before
    pointer = ok(cuda.cuMemAlloc(total // 2))
    ok(cuda.cuMemsetD8(pointer, 1, total // 2))
    ok(cuda.cuCtxSynchronize())


def test_fragmented_memory_still_serves_large_buffers(cuda: Cuda) -> None:
    held = []
    while True:
        error, pointer = cuda.cuMemAlloc(4 << 20)
        if error:
            break
        held.append(pointer)
    for pointer in held[::2]:
        ok(cuda.cuMemFree(pointer))
    data = np.arange(4 << 20, dtype=np.uint32)
    big = ok(cuda.cuMemAlloc(data.nbytes))
    ok(cuda.cuMemcpyHtoD(big, data, data.nbytes))
    assert np.array_equal(download(cuda, big, data.size, np.uint32), data)


def test_bad_pointers_are_refused(cuda: Cuda) -> None:
    invalid = cuda.CUresult.CUDA_ERROR_INVALID_VALUE
    pointer = int(ok(cuda.cuMemAlloc(100)))
    out = np.zeros(200, np.uint8)
    for call in (
        lambda: cuda.cuMemcpyHtoD(0x1234, out, 4),
        lambda: cuda.cuMemcpyHtoD(pointer, out, 101),
        lambda: cuda.cuMemcpyHtoD(pointer, None, 4),
        lambda: cuda.cuMemcpyDtoH(out, pointer + 1, 100),
        lambda: cuda.cuMemcpyDtoD(pointer, pointer + 99, 2),
        lambda: cuda.cuMemsetD8(pointer + 50, 0, 51),
        lambda: cuda.cuMemsetD32(pointer + 2, 0, 1),
        lambda: cuda.cuMemFree(pointer + 4),
        lambda: cuda.cuMemFree(0x600000),
    ):
        assert call() == (invalid,)
    assert cuda.cuMemAlloc(0) == (invalid, None)
    ok(cuda.cuMemFree(0))
    ok(cuda.cuMemFree(pointer))
    assert cuda.cuMemFree(pointer) == (invalid,)


def test_what_a_pointer_is(cuda: Cuda) -> None:
    attribute = cuda.CUpointer_attribute
    pointer = ok(cuda.cuMemAlloc(1000))
    inside = int(pointer) + 10
    base, size = ok(cuda.cuMemGetAddressRange(inside))
    assert (int(base), size) == (int(pointer), 1000)
    kind = ok(cuda.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, inside))
    assert kind is cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE
    owner = ok(cuda.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_CONTEXT, inside))
    assert owner == ok(cuda.cuCtxGetCurrent())
    host = ok(cuda.cuMemAllocHost(64))
    assert ok(cuda.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_HOST_POINTER, host)) == host
    both = [attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE, attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL]
    assert ok(cuda.cuPointerGetAttributes(2, both, host)) == [cuda.CUmemorytype.CU_MEMORYTYPE_HOST, 0]
    assert cuda.cuMemGetAddressRange(0x999)[0] == cuda.CUresult.CUDA_ERROR_NOT_FOUND


def test_memory_goes_between_contexts(cuda: Cuda) -> None:
    data = np.arange(70_000, dtype=np.uint8)
    first = ok(cuda.cuCtxGetCurrent())
    here = ok(cuda.cuMemAlloc(data.size))
    ok(cuda.cuMemcpyHtoD(here, data, data.size))
    second = ok(cuda.cuCtxCreate(0, 0))
    there = ok(cuda.cuMemAlloc(data.size))
    assert cuda.cuMemcpyDtoD(there, int(here) + (1 << 36), 1)[0] == cuda.CUresult.CUDA_ERROR_INVALID_VALUE
    ok(cuda.cuMemcpyPeer(there, second, here, first, data.size))
    assert np.array_equal(download(cuda, there, data.size), data)


def test_page_locked_memory_reaches_contexts_made_later(cuda: Cuda) -> None:
    host = ok(cuda.cuMemHostAlloc(4096, 0))
    host_view(host, 4096)[:] = 9
    ok(cuda.cuCtxCreate(0, 0))
    pointer = ok(cuda.cuMemAlloc(4096))
    ok(cuda.cuMemcpyHtoD(pointer, host, 4096))
    assert (download(cuda, pointer, 4096) == 9).all()


@pytest.mark.parametrize("size", [1, 0x8000, 0x8000 * 5 + 3])
def test_a_streams_copies_go_through_the_copy_engine(lab: Lab, cuda: Cuda, size: int) -> None:
    assert cuda.driver.copy_engine
    stream = ok(cuda.cuStreamCreate(0))
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    first, second = (ok(cuda.cuMemAlloc(size)) for _ in range(2))
    out = np.zeros(size, np.uint8)
    ok(cuda.cuMemcpyHtoDAsync(first, data, size, stream))
    ok(cuda.cuMemcpyDtoDAsync(second, first, size, stream))
    ok(cuda.cuMemcpyDtoHAsync(out, second, size, stream))
    ok(cuda.cuStreamSynchronize(stream))
    assert np.array_equal(out, data)


def test_without_a_copy_engine_m2mf_does_it(lab: Lab, cuda: Cuda) -> None:
    cuda.driver.copy_engine = False
    ok(cuda.cuCtxCreate(0, 0))
    stream = ok(cuda.cuStreamCreate(0))
    pointer = ok(cuda.cuMemAlloc(5))
    ok(cuda.cuMemcpyHtoDAsync(pointer, b"hello", 5, stream))
    assert download(cuda, pointer, 5).tobytes() == b"hello"


def test_the_copy_engine_takes_a_large_copy_in_pieces() -> None:
    size = (600 << 20) + 7
    done = 0
    words = copy_linear(0x10_0000_0000, 0x20_0000_0000, size)
    while words:
        _, high, low, to_high, to_low, pitch, to_pitch, _, width, lines, _, trigger = words[:12]
        assert (high << 32 | low) - 0x20_0000_0000 == done == (to_high << 32 | to_low) - 0x10_0000_0000
        assert max(pitch, to_pitch) < 1 << 19
        assert width < 1 << 16
        assert lines < 1 << 13
        assert trigger == 0x110
        done += width * lines
        words = words[12:]
    assert done == size

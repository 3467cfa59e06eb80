"""Contexts, devices, streams and events, as CUDA defines them; and nothing is left behind."""

from __future__ import annotations

import ctypes
import threading
import time
from typing import Any

import numpy as np
import pytest
from guest_support import Lab, ok

from gpuvm.guest.cuda import Cuda
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.errors import NoDevice
from gpuvm.vmm.inprocess import VirtualMachine

E = NAMES["CUresult"]


def test_nothing_works_before_init(lab: Lab) -> None:
    cuda = lab.cuda
    assert cuda.cuDeviceGetCount() == (E.CUDA_ERROR_NOT_INITIALIZED, None)
    assert cuda.cuMemAlloc(4) == (E.CUDA_ERROR_NOT_INITIALIZED, None)
    assert cuda.cuGraphCreate(0) == (E.CUDA_ERROR_NOT_INITIALIZED, None)
    assert ok(cuda.cuDriverGetVersion()) == 12090
    assert cuda.cuInit(1) == (E.CUDA_ERROR_INVALID_VALUE,)


def test_a_machine_without_a_gpu_has_no_device() -> None:
    machine = VirtualMachine("empty", 16 << 20)
    cuda = Cuda(machine)
    assert cuda.cuInit(0) == (E.CUDA_ERROR_NO_DEVICE,)
    assert "10de:06d8" in cuda.last_error
    assert cuda.cuDeviceGetCount()[0] == E.CUDA_ERROR_NOT_INITIALIZED
    cuda.close()
    machine.close()
    assert issubclass(NoDevice, Exception)


def test_the_device(cuda: Cuda) -> None:
    A = cuda.CUdevice_attribute
    assert ok(cuda.cuDeviceGetCount()) == 1
    assert cuda.cuDeviceGet(1) == (E.CUDA_ERROR_INVALID_DEVICE, None)
    device = ok(cuda.cuDeviceGet(0))
    assert ok(cuda.cuDeviceGetName(32, device)).split(b"\0")[0] == b"Quadro 6000"
    assert len(ok(cuda.cuDeviceGetName(8, device))) == 8
    assert ok(cuda.cuDeviceComputeCapability(device)) == (2, 0)
    assert 100 << 20 < ok(cuda.cuDeviceTotalMem(device)) <= 128 << 20
    expected = {
        "MULTIPROCESSOR_COUNT": 14,
        "WARP_SIZE": 32,
        "MAX_THREADS_PER_BLOCK": 1024,
        "MAX_SHARED_MEMORY_PER_BLOCK": 49152,
        "MAX_REGISTERS_PER_BLOCK": 32768,
        "COMPUTE_CAPABILITY_MAJOR": 2,
        "UNIFIED_ADDRESSING": 1,
        "MANAGED_MEMORY": 0,
        "COOPERATIVE_LAUNCH": 0,
    }
    for name, value in expected.items():
        assert ok(cuda.cuDeviceGetAttribute(getattr(A, "CU_DEVICE_ATTRIBUTE_" + name), device)) == value, name
    for attribute in A:
        if attribute != A.CU_DEVICE_ATTRIBUTE_MAX:
            assert isinstance(ok(cuda.cuDeviceGetAttribute(attribute, device)), int)
    assert ok(cuda.cuDeviceGetProperties(device)).maxGridSize == [65535] * 3
    assert len(ok(cuda.cuDeviceGetUuid(device)).bytes) == 16
    bus = ok(cuda.cuDeviceGetPCIBusId(16, device)).rstrip(b"\0")
    assert int(ok(cuda.cuDeviceGetByPCIBusId(bus))) == 0
    assert ok(cuda.cuDeviceCanAccessPeer(0, 0)) == 0


def test_every_error_has_a_name_and_a_text(cuda: Cuda) -> None:
    for error in cuda.CUresult:
        assert ok(cuda.cuGetErrorName(error)) == error.name.encode()
        assert ok(cuda.cuGetErrorString(error))
    assert (
        ok(cuda.cuGetErrorString(E.CUDA_ERROR_ILLEGAL_ADDRESS)) == b"an illegal memory access was encountered"
    )


def test_contexts_stack_by_thread(cuda: Cuda) -> None:
    first = ok(cuda.cuCtxGetCurrent())
    second = ok(cuda.cuCtxCreate(0, 0))
    assert ok(cuda.cuCtxGetCurrent()) == second != first
    assert ok(cuda.cuCtxPopCurrent()) == second
    assert ok(cuda.cuCtxGetCurrent()) == first
    seen: list[Any] = []

    def other() -> None:
        seen.append(int(ok(cuda.cuCtxGetCurrent())))
        seen.append(cuda.cuMemAlloc(4)[0])
        ok(cuda.cuCtxSetCurrent(second))
        seen.append(cuda.cuMemAlloc(4)[0])

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [0, E.CUDA_ERROR_INVALID_CONTEXT, E.CUDA_SUCCESS]
    ok(cuda.cuCtxDestroy(second))
    assert cuda.cuCtxPushCurrent(second) == (E.CUDA_ERROR_INVALID_CONTEXT,)
    ok(cuda.cuCtxDestroy(first))
    assert cuda.cuMemAlloc(4) == (E.CUDA_ERROR_INVALID_CONTEXT, None)


def test_a_context_is_made_as_cuda_python_12_and_13_do(cuda: Cuda) -> None:
    for arguments in ((0, 0), (None, 0, 0)):
        context = ok(cuda.cuCtxCreate(*arguments))
        assert int(ok(cuda.cuCtxGetCurrent())) == int(context)
        ok(cuda.cuCtxDestroy(context))


def test_a_context_destroyed_under_a_thread_is_an_error_there(cuda: Cuda) -> None:
    context = ok(cuda.cuCtxCreate(0, 0))
    ok(cuda.cuCtxPushCurrent(context))
    ok(cuda.cuCtxDestroy(context))
    assert cuda.cuMemAlloc(4) == (E.CUDA_ERROR_CONTEXT_IS_DESTROYED, None)


def test_the_primary_context_counts_its_users(cuda: Cuda) -> None:
    assert ok(cuda.cuDevicePrimaryCtxGetState(0)) == (0, 0)
    one, two = ok(cuda.cuDevicePrimaryCtxRetain(0)), ok(cuda.cuDevicePrimaryCtxRetain(0))
    assert one == two
    assert ok(cuda.cuDevicePrimaryCtxGetState(0)) == (0, 1)
    assert cuda.cuCtxDestroy(one) == (E.CUDA_ERROR_INVALID_CONTEXT,)
    ok(cuda.cuDevicePrimaryCtxRelease(0))
    ok(cuda.cuCtxSetCurrent(one))
    ok(cuda.cuMemAlloc(16))
    ok(cuda.cuDevicePrimaryCtxRelease(0))
    assert ok(cuda.cuDevicePrimaryCtxGetState(0)) == (0, 0)
    assert cuda.cuDevicePrimaryCtxRelease(0) == (E.CUDA_ERROR_INVALID_CONTEXT,)


def test_limits_and_configuration(cuda: Cuda) -> None:
    limit = cuda.CUlimit
    assert ok(cuda.cuCtxGetLimit(limit.CU_LIMIT_STACK_SIZE)) == 1024
    ok(cuda.cuCtxSetLimit(limit.CU_LIMIT_STACK_SIZE, 5000))
    assert ok(cuda.cuCtxGetLimit(limit.CU_LIMIT_STACK_SIZE)) == 5008
    assert cuda.cuCtxSetLimit(limit.CU_LIMIT_STACK_SIZE, 1 << 30) == (E.CUDA_ERROR_INVALID_VALUE,)
    assert cuda.cuCtxGetLimit(limit.CU_LIMIT_PERSISTING_L2_CACHE_SIZE)[0] == E.CUDA_ERROR_UNSUPPORTED_LIMIT
    ok(cuda.cuCtxSetCacheConfig(cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_L1))
    assert ok(cuda.cuCtxGetCacheConfig()) is cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_L1
    assert ok(cuda.cuCtxGetStreamPriorityRange()) == (0, 0)
    assert ok(cuda.cuCtxGetApiVersion(0)) == 3020


def test_streams_and_events(cuda: Cuda) -> None:
    stream = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
    ok(cuda.cuStreamQuery(stream))
    start, end = ok(cuda.cuEventCreate(0)), ok(cuda.cuEventCreate(0))
    assert cuda.cuEventElapsedTime(start, end) == (E.CUDA_ERROR_INVALID_HANDLE, None)
    ok(cuda.cuEventQuery(start))
    pointer = ok(cuda.cuMemAlloc(8 << 20))
    ok(cuda.cuEventRecord(start, stream))
    ok(cuda.cuMemsetD8Async(pointer, 1, 8 << 20, stream))
    ok(cuda.cuEventRecord(end, stream))
    ok(cuda.cuStreamWaitEvent(0, end, 0))
    ok(cuda.cuEventSynchronize(end))
    elapsed = ok(cuda.cuEventElapsedTime(start, end))
    assert elapsed > 0
    assert np.float32(elapsed) == elapsed
    quiet = ok(cuda.cuEventCreate(cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING))
    ok(cuda.cuEventRecord(quiet, 0))
    ok(cuda.cuCtxSynchronize())
    assert cuda.cuEventElapsedTime(start, quiet)[0] == E.CUDA_ERROR_INVALID_HANDLE
    ok(cuda.cuEventDestroy(end))
    assert cuda.cuEventSynchronize(end) == (E.CUDA_ERROR_INVALID_HANDLE,)
    assert ok(cuda.cuStreamGetCtx(stream)) == ok(cuda.cuCtxGetCurrent())
    ok(cuda.cuStreamDestroy(stream))
    assert cuda.cuStreamSynchronize(stream) == (E.CUDA_ERROR_INVALID_HANDLE,)


def test_work_is_queued_and_the_call_returns_first(cuda: Cuda) -> None:
    gate = threading.Event()
    ok(cuda.cuLaunchHostFunc(0, lambda _: gate.wait(10), None))
    pointer = ok(cuda.cuMemAlloc(64))
    ok(cuda.cuMemsetD8(pointer, 3, 64))
    event = ok(cuda.cuEventCreate(0))
    ok(cuda.cuEventRecord(event, 0))
    assert cuda.cuStreamQuery(0) == (E.CUDA_ERROR_NOT_READY,)
    assert cuda.cuEventQuery(event) == (E.CUDA_ERROR_NOT_READY,)
    gate.set()
    ok(cuda.cuEventSynchronize(event))
    ok(cuda.cuStreamQuery(0))


def test_host_functions_run_in_stream_order(cuda: Cuda) -> None:
    host = ok(cuda.cuMemHostAlloc(4, 0))
    word = ctypes.c_uint32.from_address(host)
    seen: list[tuple[Any, ...]] = []
    stream = ok(cuda.cuStreamCreate(0))
    for value in (1, 2, 3):
        ok(cuda.cuMemsetD32Async(host, value, 1, stream))
        ok(
            cuda.cuLaunchHostFunc(
                stream, lambda data: (time.sleep(0.002), seen.append((data, word.value))), value
            )
        )
    plain = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: seen.append(("c", data)))
    ok(
        cuda.cuLaunchHostFunc(
            stream, cuda.CUhostFn(_ptr=ctypes.addressof(ctypes.c_void_p.from_buffer(plain))), 77
        )
    )
    ok(cuda.cuStreamAddCallback(stream, lambda s, status, data: seen.append((int(s), status, data)), 5, 0))
    ok(cuda.cuCtxSynchronize())
    assert seen == [(1, 1), (2, 2), (3, 3), ("c", 77), (int(stream), E.CUDA_SUCCESS, 5)]


def test_nothing_is_left_when_contexts_go(lab: Lab, cuda: Cuda) -> None:
    driver = lab.cuda.driver
    for _ in range(3):
        context = ok(cuda.cuCtxCreate(0, 0))
        ok(cuda.cuMemAlloc(3 << 20))
        pointer = ok(cuda.cuMemAlloc(10))
        ok(cuda.cuMemcpyHtoD(pointer, b"0123456789", 10))
        ok(cuda.cuMemHostAlloc(1 << 20, 0))
        ok(cuda.cuEventRecord(ok(cuda.cuEventCreate(0)), ok(cuda.cuStreamCreate(0))))
        ok(cuda.cuLaunchHostFunc(0, lambda _: None, 0))
        ok(cuda.cuCtxDestroy(context))
    ok(cuda.cuCtxDestroy(ok(cuda.cuCtxGetCurrent())))
    assert driver.vram.used_bytes == driver.idle_vram
    assert driver.fifo.channels_in_use == 0
    assert lab.machine.pages.used_bytes == driver.idle_ram
    cuda.close()
    assert driver.vram.used_bytes == 0


def test_more_contexts_than_channels_is_out_of_memory(lab: Lab) -> None:
    cuda = lab.cuda
    ok(cuda.cuInit(0))
    driver = cuda.driver
    driver.fifo._numbers = {1, 2, 3}
    held = [ok(cuda.cuCtxCreate(0, 0)) for _ in range(3)]
    assert cuda.cuCtxCreate(0, 0) == (E.CUDA_ERROR_OUT_OF_MEMORY, None)
    assert "destroy a context first" in cuda.last_error
    for context in held:
        ok(cuda.cuCtxDestroy(context))
    assert driver.vram.used_bytes == driver.idle_vram
    ok(cuda.cuCtxCreate(0, 0))


def test_two_machines_do_not_know_each_others_handles() -> None:
    one, two = Lab(64 << 20, 64 << 20), Lab(64 << 20, 64 << 20)
    try:
        for lab in (one, two):
            ok(lab.cuda.cuInit(0))
            ok(lab.cuda.cuCtxCreate(0, 0))
        stream = ok(one.cuda.cuStreamCreate(0))
        assert two.cuda.cuStreamSynchronize(stream) == (E.CUDA_ERROR_INVALID_HANDLE,)
        context = ok(one.cuda.cuCtxGetCurrent())
        assert two.cuda.cuCtxPushCurrent(context) == (E.CUDA_ERROR_INVALID_CONTEXT,)
        uuids = {ok(lab.cuda.cuDeviceGetUuid(0)).bytes for lab in (one, two)}
        assert len(uuids) == 1
    finally:
        one.close()
        two.close()


@pytest.mark.parametrize("vram", [64 << 20, 256 << 20])
def test_the_driver_sizes_vram_by_its_partitions(vram: int) -> None:
    lab = Lab(64 << 20, vram)
    try:
        ok(lab.cuda.cuInit(0))
        total = ok(lab.cuda.cuDeviceTotalMem(0))
        assert vram - (2 << 20) <= total < vram
    finally:
        lab.close()

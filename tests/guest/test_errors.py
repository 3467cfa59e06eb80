"""What a kernel does wrong ends as its context's sticky error; other contexts and the machine go on."""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from guest_support import Lab, ok

import kernels
from gpuvm.compiler import compile_ptx
from gpuvm.guest.cuda import Cuda
from gpuvm.guest.cuda.types import NAMES

E = NAMES["CUresult"]
POINTER = (ctypes.c_void_p, ctypes.c_void_p)


@pytest.fixture
def impatient() -> Iterator[Lab]:
    """A machine whose GPU ends a launch after three tenths of a second."""
    made = Lab(watchdog_s=0.3)
    ok(made.cuda.cuInit(0))
    ok(made.cuda.cuCtxCreate(0, 0))
    yield made
    made.close()


def kernel(cuda: Cuda, name: str) -> Any:
    return ok(cuda.cuModuleGetFunction(ok(cuda.cuModuleLoadData(kernels.STORE.encode())), name.encode()))


def run(cuda: Cuda, function: Any, values: Any, types: Any, block: int = 1) -> Any:
    ok(cuda.cuLaunchKernel(function, 1, 1, 1, block, 1, 1, 0, 0, (values, types), 0))
    return cuda.cuCtxSynchronize()


def works(cuda: Cuda) -> bool:
    """Whether a fresh kernel in the current context computes."""
    function = kernel(cuda, "store")
    pointer = ok(cuda.cuMemAlloc(400))
    ok(run(cuda, function, (pointer, 1), (None, ctypes.c_uint), block=100))
    out = np.empty(100, np.uint32)
    ok(cuda.cuMemcpyDtoH(out, pointer, 400))
    return bool((out == np.arange(1, 101)).all())


@pytest.mark.parametrize("address", [0, 0x40, 0x1_0000_0000, 0x3F_0000_0000, 0xFF_FFFF_F000])
def test_a_wild_pointer_is_an_illegal_address(lab: Lab, cuda: Cuda, address: int) -> None:
    pointer = ok(cuda.cuMemAlloc(16))
    assert run(cuda, kernel(cuda, "load"), (int(pointer), address), POINTER) == (
        E.CUDA_ERROR_ILLEGAL_ADDRESS,
    )
    assert f"read fault at {address:#012x}" in cuda.last_error


def test_the_error_is_sticky_until_the_context_is_gone(lab: Lab, cuda: Cuda) -> None:
    healthy = ok(cuda.cuCtxGetCurrent())
    sick = ok(cuda.cuCtxCreate(0, 0))
    pointer, event, stream = ok(cuda.cuMemAlloc(16)), ok(cuda.cuEventCreate(0)), ok(cuda.cuStreamCreate(0))
    function = kernel(cuda, "load")
    assert run(cuda, function, (0, int(pointer)), POINTER) == (E.CUDA_ERROR_ILLEGAL_ADDRESS,)
    assert "write fault" in cuda.last_error
    for call in (
        lambda: cuda.cuMemAlloc(4),
        lambda: cuda.cuMemFree(pointer),
        lambda: cuda.cuMemcpyHtoD(pointer, b"abcd", 4),
        lambda: cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, ((0, 0), POINTER), 0),
        lambda: cuda.cuCtxSynchronize(),
        lambda: cuda.cuStreamSynchronize(stream),
        lambda: cuda.cuStreamQuery(stream),
        lambda: cuda.cuEventQuery(event),
        lambda: cuda.cuModuleLoadData(kernels.STORE),
    ):
        assert call()[0] == E.CUDA_ERROR_ILLEGAL_ADDRESS
    ok(cuda.cuCtxPopCurrent())
    assert ok(cuda.cuCtxGetCurrent()) == healthy
    assert works(cuda)
    ok(cuda.cuCtxDestroy(sick))
    ok(cuda.cuCtxCreate(0, 0))
    assert works(cuda)


def test_the_primary_context_is_whole_again_after_a_reset(lab: Lab) -> None:
    cuda = lab.cuda
    ok(cuda.cuInit(0))
    for _ in range(2):
        ok(cuda.cuCtxSetCurrent(ok(cuda.cuDevicePrimaryCtxRetain(0))))
        pointer = ok(cuda.cuMemAlloc(16))
        assert run(cuda, kernel(cuda, "load"), (int(pointer), 0), POINTER) == (E.CUDA_ERROR_ILLEGAL_ADDRESS,)
        ok(cuda.cuDevicePrimaryCtxReset(0))
        assert cuda.cuMemAlloc(4)[0] == E.CUDA_ERROR_CONTEXT_IS_DESTROYED
        assert cuda.driver.vram.used_bytes == cuda.driver.idle_vram
        assert cuda.driver.fifo.channels_in_use == 0
    ok(cuda.cuCtxSetCurrent(ok(cuda.cuDevicePrimaryCtxRetain(0))))
    assert works(cuda)


def test_a_misaligned_access(cuda: Cuda) -> None:
    pointer = int(ok(cuda.cuMemAlloc(16)))
    result = run(cuda, kernel(cuda, "load"), (pointer, pointer + 2), POINTER)
    assert result == (E.CUDA_ERROR_MISALIGNED_ADDRESS,)
    assert "MISALIGNED_ADDR" in cuda.last_error


def test_a_trap_is_a_launch_failure(cuda: Cuda) -> None:
    ok(cuda.cuLaunchKernel(kernel(cuda, "stop"), 1, 1, 1, 32, 1, 1, 0, 0, None, 0))
    assert cuda.cuCtxSynchronize() == (E.CUDA_ERROR_LAUNCH_FAILED,)


def test_shared_memory_beyond_the_blocks_own_is_an_illegal_address(cuda: Cuda) -> None:
    pointer = ok(cuda.cuMemAlloc(16))
    assert run(cuda, kernel(cuda, "shared_beyond"), (pointer,), (None,)) == (E.CUDA_ERROR_ILLEGAL_ADDRESS,)


def test_code_that_is_no_code_is_an_illegal_instruction(cuda: Cuda) -> None:
    image = bytearray(compile_ptx(kernels.STORE).cubin)
    module = ok(cuda.cuModuleLoadData(bytes(image)))
    assert ok(cuda.cuModuleGetFunctionCount(module)) == 5
    sections = struct.unpack_from("<Q", image, 0x28)[0]
    count = struct.unpack_from("<H", image, 0x3C)[0]
    for index in range(count):
        flags, offset, size = (
            struct.unpack_from("<Q", image, sections + 64 * index + at)[0] for at in (0x08, 0x18, 0x20)
        )
        if flags & 4:
            image[offset : offset + size] = b"\xff" * size
    broken = ok(cuda.cuModuleLoadData(bytes(image)))
    function = ok(cuda.cuModuleGetFunction(broken, b"store"))
    result = run(cuda, function, (ok(cuda.cuMemAlloc(64)), 1), (None, ctypes.c_uint))
    assert result == (E.CUDA_ERROR_ILLEGAL_INSTRUCTION,)


def test_a_kernel_that_never_ends_is_timed_out(impatient: Lab) -> None:
    cuda = impatient.cuda
    sick = ok(cuda.cuCtxGetCurrent())
    flag = ok(cuda.cuMemAlloc(4))
    ok(cuda.cuMemsetD32(flag, 0, 1))
    assert run(cuda, kernel(cuda, "spin"), (flag,), (None,)) == (E.CUDA_ERROR_LAUNCH_TIMEOUT,)
    ok(cuda.cuCtxDestroy(sick))
    ok(cuda.cuCtxCreate(0, 0))
    assert works(cuda)
    assert cuda.driver.fifo.channels_in_use == 1


def test_a_context_with_a_running_kernel_can_be_destroyed(impatient: Lab) -> None:
    cuda = impatient.cuda
    flag = ok(cuda.cuMemAlloc(4))
    ok(cuda.cuMemsetD32(flag, 0, 1))
    ok(cuda.cuLaunchKernel(kernel(cuda, "spin"), 1, 1, 1, 1, 1, 1, 0, 0, ((flag,), (None,)), 0))
    ok(cuda.cuCtxDestroy(ok(cuda.cuCtxGetCurrent())))
    assert cuda.driver.vram.used_bytes == cuda.driver.idle_vram
    ok(cuda.cuCtxCreate(0, 0))
    assert works(cuda)


def test_a_host_that_answers_a_spinning_kernel_lets_it_end(cuda: Cuda) -> None:
    host = ok(cuda.cuMemHostAlloc(4, 0))
    word = ctypes.c_uint32.from_address(host)
    word.value = 0
    ok(cuda.cuLaunchKernel(kernel(cuda, "spin"), 1, 1, 1, 1, 1, 1, 0, 0, ((host,), (ctypes.c_void_p,)), 0))
    assert cuda.cuStreamQuery(0) == (E.CUDA_ERROR_NOT_READY,)
    word.value = 1
    ok(cuda.cuCtxSynchronize())


def test_a_waiting_thread_hears_of_a_fault(cuda: Cuda) -> None:
    context = ok(cuda.cuCtxGetCurrent())
    host = ok(cuda.cuMemHostAlloc(4, 0))
    word = ctypes.c_uint32.from_address(host)
    word.value = 0
    ok(cuda.cuLaunchKernel(kernel(cuda, "spin"), 1, 1, 1, 1, 1, 1, 0, 0, ((host,), (ctypes.c_void_p,)), 0))
    ok(
        cuda.cuLaunchKernel(
            kernel_bad := kernel(cuda, "load"), 1, 1, 1, 1, 1, 1, 0, 0, ((host, 0), POINTER), 0
        )
    )
    seen: list[Any] = []

    def wait() -> None:
        ok(cuda.cuCtxSetCurrent(context))
        seen.append(cuda.cuCtxSynchronize())

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    word.value = 1
    for thread in threads:
        thread.join()
    assert seen == [(E.CUDA_ERROR_ILLEGAL_ADDRESS,)] * 3
    assert int(kernel_bad)


def test_host_functions_after_a_fault(cuda: Cuda) -> None:
    pointer = ok(cuda.cuMemAlloc(16))
    seen: list[Any] = []
    ok(cuda.cuLaunchKernel(kernel(cuda, "load"), 1, 1, 1, 1, 1, 1, 0, 0, ((int(pointer), 0), POINTER), 0))
    result = cuda.cuStreamAddCallback(0, lambda stream, status, data: seen.append(status), 0, 0)
    assert result[0] in (E.CUDA_SUCCESS, E.CUDA_ERROR_ILLEGAL_ADDRESS)
    assert cuda.cuCtxSynchronize() == (E.CUDA_ERROR_ILLEGAL_ADDRESS,)
    cuda.close()
    assert seen in ([], [E.CUDA_ERROR_ILLEGAL_ADDRESS])


def test_the_end_of_a_process_ends_its_endless_kernel(lab: Lab, cuda: Cuda) -> None:
    driver = cuda.driver
    flag = ok(cuda.cuMemAlloc(4))
    ok(cuda.cuMemsetD32(flag, 0, 1))
    ok(cuda.cuLaunchKernel(kernel(cuda, "spin"), 1, 1, 1, 1, 1, 1, 0, 0, ((flag,), (None,)), 0))
    seen: list[Any] = []
    ok(cuda.cuStreamAddCallback(0, lambda stream, status, data: seen.append(status), 0, 0))
    cuda.close()
    assert driver.vram.used_bytes == 0
    assert lab.machine.pages.used_bytes == 0
    assert seen == [E.CUDA_ERROR_LAUNCH_FAILED]
    ok(cuda.cuInit(0))
    ok(cuda.cuCtxCreate(0, 0))
    assert works(cuda)

"""Modules and launches: kernels get their arguments, memory and shape; what they may not have is refused."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guest_support import ok

import kernels
from gpuvm.guest.cuda import Cuda
from gpuvm.guest.cuda.types import NAMES

E = NAMES["CUresult"]
OUT = (None, ctypes.c_uint)


def load(cuda: Cuda, ptx: str, name: str) -> Any:
    return ok(cuda.cuModuleGetFunction(ok(cuda.cuModuleLoadData(ptx)), name.encode()))


def words(cuda: Cuda, pointer: Any, count: int) -> Any:
    out = np.empty(count, np.uint32)
    ok(cuda.cuMemcpyDtoH(out, pointer, out.nbytes))
    return out


def launch(cuda: Cuda, function: Any, grid: int, block: int, values: Any, types: Any, shared: int = 0) -> Any:
    return cuda.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, 0, (values, types), 0)


def test_a_grid_writes_every_element(cuda: Cuda) -> None:
    function = load(cuda, kernels.STORE, "store")
    pointer = ok(cuda.cuMemAlloc(4 * 96 * 64))
    ok(launch(cuda, function, 64, 96, (pointer, 5), OUT))
    assert np.array_equal(words(cuda, pointer, 96 * 64), np.arange(5, 5 + 96 * 64))


def test_launches_of_one_stream_follow_each_other(cuda: Cuda) -> None:
    function = load(cuda, kernels.STORE, "store")
    stream = ok(cuda.cuStreamCreate(0))
    pointer = ok(cuda.cuMemAlloc(400))
    for value in range(200):
        arguments = ((pointer, value), OUT)
        ok(cuda.cuLaunchKernel(function, 1, 1, 1, 100, 1, 1, 0, stream, arguments, 0))
    ok(cuda.cuStreamSynchronize(stream))
    assert np.array_equal(words(cuda, pointer, 100), np.arange(199, 299))


def test_variables_constants_and_zeroed_memory(cuda: Cuda) -> None:
    module = ok(cuda.cuModuleLoadData(kernels.VARIABLES.encode()))
    function = ok(cuda.cuModuleGetFunction(module, b"count"))
    assert cuda.cuModuleGetFunction(module, b"missing") == (E.CUDA_ERROR_NOT_FOUND, None)
    counter, size = ok(cuda.cuModuleGetGlobal(module, b"counter"))
    assert size == 4
    assert words(cuda, counter, 1)[0] == 41
    room, size = ok(cuda.cuModuleGetGlobal(module, b"room"))
    assert size == 65536
    assert not words(cuda, room, 16384).any()
    table, size = ok(cuda.cuModuleGetGlobal(module, b"table"))
    assert size == 16
    assert words(cuda, table, 4).tolist() == [10, 20, 30, 40]
    pointer = ok(cuda.cuMemAlloc(16))
    ok(launch(cuda, function, 1, 4, (pointer,), (None,)))
    assert words(cuda, pointer, 4).tolist() == [10, 20, 30, 40]
    assert words(cuda, counter, 1)[0] == 45
    ok(cuda.cuMemcpyHtoD(table, np.array([1, 2, 3, 4], np.uint32), 16))
    ok(cuda.cuMemcpyHtoD(room, np.array([100, 200, 300, 400], np.uint32), 16))
    ok(launch(cuda, function, 1, 4, (pointer,), (None,)))
    assert words(cuda, pointer, 4).tolist() == [101, 202, 303, 404]
    assert cuda.cuMemFree(counter)[0] == E.CUDA_ERROR_INVALID_VALUE
    ok(cuda.cuModuleUnload(module))
    assert launch(cuda, function, 1, 4, (pointer,), (None,)) == (E.CUDA_ERROR_INVALID_HANDLE,)
    assert cuda.cuModuleUnload(module) == (E.CUDA_ERROR_INVALID_HANDLE,)


def test_static_and_dynamic_shared_memory(cuda: Cuda) -> None:
    function = load(cuda, kernels.SHARED, "reverse")
    data = np.random.default_rng(3).integers(0, 1 << 20, 256).astype(np.uint32)
    pointer = ok(cuda.cuMemAlloc(data.nbytes))
    ok(cuda.cuMemcpyHtoD(pointer, data, data.nbytes))
    assert (
        ok(cuda.cuFuncGetAttribute(cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function))
        == 1024
    )
    ok(launch(cuda, function, 1, 256, (pointer,), (None,), shared=1024))
    assert np.array_equal(words(cuda, pointer, 256), data[::-1] + np.arange(256)[::-1])
    too_much = launch(cuda, function, 1, 256, (pointer,), (None,), shared=48 << 10)
    assert too_much == (E.CUDA_ERROR_INVALID_VALUE,)


def test_local_memory_is_every_threads_own(cuda: Cuda) -> None:
    function = load(cuda, kernels.LOCAL, "local_sum")
    before = ok(cuda.cuMemGetInfo())[0]
    pointer = ok(cuda.cuMemAlloc(4 * 512))
    ok(launch(cuda, function, 4, 128, (pointer, 200), OUT))
    assert np.array_equal(words(cuda, pointer, 512), np.arange(512) * 200 + 199 * 100)
    local = ok(
        cuda.cuFuncGetAttribute(cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES, function)
    )
    assert local >= 1024
    assert before - ok(cuda.cuMemGetInfo())[0] >= 14 * 48 * 32 * 1024


def test_parameters_of_every_size(cuda: Cuda) -> None:
    function = load(cuda, kernels.MIXED, "mixed")
    pointer = ok(cuda.cuMemAlloc(40))
    layout = [(0, 8), (8, 1), (10, 2), (16, 8), (24, 4), (32, 8)]
    assert [ok(cuda.cuFuncGetParamInfo(function, index)) for index in range(6)] == layout
    assert cuda.cuFuncGetParamInfo(function, 6)[0] == E.CUDA_ERROR_INVALID_VALUE
    values = (pointer, 250, -3, 0.1, np.float32(1.5), -(1 << 40))
    types = (None, ctypes.c_ubyte, ctypes.c_short, ctypes.c_double, ctypes.c_float, ctypes.c_longlong)
    ok(launch(cuda, function, 1, 1, values, types))
    out = np.empty(5)
    ok(cuda.cuMemcpyDtoH(out, pointer, 40))
    assert out[:4].tolist() == [250.0, -3.0, 0.1, 1.5]
    assert out.view(np.int64)[4] == -(1 << 40)


@pytest.mark.parametrize(
    ("grid", "block", "error"),
    [
        ((0, 1, 1), (1, 1, 1), "INVALID_VALUE"),
        ((1, 1, 1), (1, 0, 1), "INVALID_VALUE"),
        ((65536, 1, 1), (1, 1, 1), "INVALID_VALUE"),
        ((1, 1, 1), (1025, 1, 1), "INVALID_VALUE"),
        ((1, 1, 1), (1, 1, 65), "INVALID_VALUE"),
        ((1, 1, 1), (32, 33, 1), "INVALID_VALUE"),
    ],
)
def test_impossible_shapes_are_refused(cuda: Cuda, grid: Any, block: Any, error: str) -> None:
    function = load(cuda, kernels.STORE, "stop")
    result = cuda.cuLaunchKernel(function, *grid, *block, 0, 0, None, 0)
    assert result == (getattr(E, "CUDA_ERROR_" + error),)
    ok(cuda.cuCtxSynchronize())


def test_a_kernel_with_many_registers_is_out_of_resources(cuda: Cuda) -> None:
    function = load(cuda, kernels.REGISTERS_MANY, "heavy")
    A = cuda.CUfunction_attribute
    registers = ok(cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_NUM_REGS, function))
    limit = ok(cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK, function))
    assert registers > 50
    assert limit < 1024
    pointer = ok(cuda.cuMemAlloc(4096))
    assert launch(cuda, function, 1, 1024, (pointer,), (None,)) == (E.CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,)
    ok(launch(cuda, function, 1, limit, (pointer,), (None,)))
    assert ok(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, limit, 0)) == 1
    grid, block = ok(cuda.cuOccupancyMaxPotentialBlockSize(function, None, 0, 0))
    assert block <= limit
    assert grid >= 14
    capped = ok(
        cuda.cuModuleLoadDataEx(
            kernels.REGISTERS_MANY.encode(), 1, [cuda.CUjit_option.CU_JIT_MAX_REGISTERS], [32]
        )
    )
    function = ok(cuda.cuModuleGetFunction(capped, b"heavy"))
    assert ok(cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_NUM_REGS, function)) <= 32


def test_the_launch_ex_form(cuda: Cuda) -> None:
    function = load(cuda, kernels.STORE, "store")
    pointer = ok(cuda.cuMemAlloc(4 * 64))
    config = cuda.CUlaunchConfig()
    config.gridDimX = config.gridDimY = config.gridDimZ = 1
    config.blockDimX, config.blockDimY, config.blockDimZ = 64, 1, 1
    ok(cuda.cuLaunchKernelEx(config, function, ((pointer, 3), OUT), 0))
    assert words(cuda, pointer, 64)[63] == 66
    attribute = cuda.CUlaunchAttribute()
    attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    config.attrs, config.numAttrs = [attribute], 1
    assert cuda.cuLaunchKernelEx(config, function, ((pointer, 3), OUT), 0) == (E.CUDA_ERROR_NOT_SUPPORTED,)


def test_compiler_logs_go_into_the_programs_buffers(cuda: Cuda) -> None:
    option = cuda.CUjit_option
    info, error = bytearray(600), bytearray(600)
    keys = [
        option.CU_JIT_INFO_LOG_BUFFER,
        option.CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        option.CU_JIT_ERROR_LOG_BUFFER,
        option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        option.CU_JIT_LOG_VERBOSE,
    ]
    values = [info, 600, error, 600, 1]
    ok(cuda.cuModuleLoadDataEx(kernels.STORE.encode(), 5, keys, values))
    assert b"store" in info
    assert b"registers" in info
    assert error[0] == 0
    broken = kernels.STORE.replace("st.global.u32 [%d2], %r5;", "st.global.u33 [%d2], %r5;")
    result = cuda.cuModuleLoadDataEx(broken.encode(), 5, keys, values)
    assert result == (E.CUDA_ERROR_INVALID_PTX, None)
    text = error.split(b"\0")[0].decode()
    line = broken[: broken.index("u33")].count("\n") + 1
    assert f"line {line}" in text
    with pytest.raises(RuntimeError, match="List is too small"):
        cuda.cuModuleLoadDataEx(kernels.STORE.encode(), 6, keys, values)


@pytest.mark.parametrize(
    ("image", "error"),
    [
        (b"this is no module", "INVALID_PTX"),
        (b"", "INVALID_IMAGE"),
        (b"\x7fELF" + bytes(60), "INVALID_IMAGE"),
        (b"\x7fELF\x02\x01\x01" + b"\xff" * 200, "INVALID_IMAGE"),
        (
            b".version 8.0\n.target sm_90\n.visible .entry k() { wgmma.fence.sync.aligned; ret; }",
            "INVALID_PTX",
        ),
    ],
)
def test_broken_images_are_refused_by_kind(cuda: Cuda, image: bytes, error: str) -> None:
    assert cuda.cuModuleLoadData(image) == (getattr(E, "CUDA_ERROR_" + error), None)
    assert cuda.last_error.startswith("cuModuleLoadData: ")
    assert cuda.cuModuleLoadData(0) == (E.CUDA_ERROR_INVALID_VALUE, None)


def test_a_cubin_from_the_linker_loads_from_file_and_address(cuda: Cuda, tmp_path: Path) -> None:
    state = ok(cuda.cuLinkCreate(0, [], []))
    kind = cuda.CUjitInputType.CU_JIT_INPUT_PTX
    text = kernels.STORE.encode()
    ok(cuda.cuLinkAddData(state, kind, text, len(text), b"store.ptx", 0, [], []))
    address, size = ok(cuda.cuLinkComplete(state))
    path = tmp_path / "store.cubin"
    path.write_bytes(ctypes.string_at(address, size))
    for load_ in (lambda: cuda.cuModuleLoad(str(path).encode()), lambda: cuda.cuModuleLoadData(address)):
        module = ok(load_())
        assert ok(cuda.cuModuleGetFunctionCount(module)) == 5
        function = ok(cuda.cuModuleGetFunction(module, b"store"))
        pointer = ok(cuda.cuMemAlloc(400))
        ok(launch(cuda, function, 1, 100, (pointer, 1), OUT))
        assert words(cuda, pointer, 100)[99] == 100
    ok(cuda.cuLinkDestroy(state))
    assert cuda.cuModuleLoad(b"/nowhere.cubin") == (E.CUDA_ERROR_FILE_NOT_FOUND, None)


def test_a_library_is_loaded_into_each_context_that_uses_it(cuda: Cuda) -> None:
    library = ok(cuda.cuLibraryLoadData(kernels.STORE.encode(), None, None, 0, None, None, 0))
    kernel = ok(cuda.cuLibraryGetKernel(library, b"store"))
    assert ok(cuda.cuLibraryGetKernelCount(library)) == 5
    assert ok(cuda.cuKernelGetName(kernel)) == b"store"
    for _ in range(2):
        pointer = ok(cuda.cuMemAlloc(400))
        ok(launch(cuda, cuda.CUfunction(int(kernel)), 1, 100, (pointer, 8), OUT))
        ok(launch(cuda, kernel, 1, 100, (pointer, 8), OUT))
        assert words(cuda, pointer, 100)[0] == 8
        function = ok(cuda.cuKernelGetFunction(kernel))
        assert ok(cuda.cuFuncGetName(function)) == b"store"
        ok(cuda.cuCtxCreate(0, 0))
    ok(cuda.cuLibraryUnload(library))
    assert cuda.cuLibraryGetKernel(library, b"store")[0] == E.CUDA_ERROR_INVALID_HANDLE


def test_functions_know_their_attributes(cuda: Cuda) -> None:
    function = load(cuda, kernels.STORE, "store")
    A = cuda.CUfunction_attribute
    for attribute in A:
        if attribute != A.CU_FUNC_ATTRIBUTE_MAX:
            assert isinstance(ok(cuda.cuFuncGetAttribute(attribute, function)), int)
    assert ok(cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_BINARY_VERSION, function)) == 20
    ok(cuda.cuFuncSetAttribute(function, A.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, 1000))
    assert ok(cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, function)) == 1000
    assert cuda.cuFuncSetAttribute(function, A.CU_FUNC_ATTRIBUTE_NUM_REGS, 1) == (E.CUDA_ERROR_INVALID_VALUE,)
    assert cuda.cuFuncGetAttribute(A.CU_FUNC_ATTRIBUTE_NUM_REGS, 0x1234)[0] == E.CUDA_ERROR_INVALID_HANDLE
    ok(cuda.cuFuncSetCacheConfig(function, cuda.CUfunc_cache.CU_FUNC_CACHE_PREFER_L1))
    assert ok(cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, 64, 16 << 10)) == 1


def test_launches_as_before_cu_launch_kernel(cuda: Cuda) -> None:
    function = load(cuda, kernels.STORE, "store")
    pointer = ok(cuda.cuMemAlloc(4 * 96))
    cell = ctypes.c_uint64(int(pointer))
    assert cuda.cuLaunchGrid(function, 3, 1) == (E.CUDA_ERROR_INVALID_VALUE,)
    ok(cuda.cuFuncSetBlockShape(function, 32, 1, 1))
    assert cuda.cuLaunchGrid(function, 3, 1) == (E.CUDA_ERROR_INVALID_VALUE,)
    ok(cuda.cuParamSetv(function, 0, ctypes.addressof(cell), 8))
    ok(cuda.cuParamSeti(function, 8, 7))
    ok(cuda.cuParamSetSize(function, 12))
    ok(cuda.cuLaunchGrid(function, 3, 1))
    assert np.array_equal(words(cuda, pointer, 96), np.arange(7, 103))


def test_recursion_uses_the_stack_that_the_limit_gives(cuda: Cuda) -> None:
    ok(cuda.cuCtxSetLimit(cuda.CUlimit.CU_LIMIT_STACK_SIZE, 64 << 10))
    function = load(cuda, kernels.RECURSION, "triangle")
    pointer = ok(cuda.cuMemAlloc(4 * 64))
    assert launch(cuda, function, 1, 64, (pointer,), (None,)) == (E.CUDA_ERROR_OUT_OF_MEMORY,)
    ok(cuda.cuCtxSetLimit(cuda.CUlimit.CU_LIMIT_STACK_SIZE, 2 << 10))
    ok(launch(cuda, function, 1, 64, (pointer,), (None,)))
    n = np.arange(64)
    assert np.array_equal(words(cuda, pointer, 64), n * (n + 1) // 2)

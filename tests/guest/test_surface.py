"""The guest's CUDA has the names, values and signatures of the installed cuda.bindings.driver."""

from __future__ import annotations

import ctypes
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

from gpuvm.guest.cuda import Cuda
from gpuvm.guest.cuda.surface import SUPPORTED
from gpuvm.guest.cuda.types import NAMES, Boxed, CudaEnum, Structure, address_of

driver = pytest.importorskip("cuda.bindings.driver")
PYTHON_NAMES = {"Any", "Optional", "ctypes", "cuda", "cudaBindingsDriverGlobal"}


def names() -> list[str]:
    return [name for name in dir(driver) if not name.startswith("_") and name not in PYTHON_NAMES]


def is_enum(value: Any) -> bool:
    return inspect.isclass(value) and hasattr(value, "__members__")


def test_every_public_name_is_there() -> None:
    assert [name for name in names() if not hasattr(Cuda, name)] == []


# cuda-python 13 gave this name another parameter; programs for either version run.
LATER = {"cuCtxCreate": ["device"]}


def test_every_function_has_the_same_parameters() -> None:
    functions = [n for n in names() if n.startswith("cu") and not inspect.isclass(getattr(driver, n))]
    assert len(functions) > 450
    different = {}
    for name in functions:
        theirs = list(inspect.signature(getattr(driver, name)).parameters)
        ours = list(inspect.signature(getattr(Cuda, name)).parameters)[1:]
        if ours != theirs + LATER.get(name, []):
            different[name] = (ours, theirs)
    assert different == {}


def test_every_enumeration_has_the_same_members() -> None:
    enums = [name for name in names() if is_enum(getattr(driver, name))]
    assert len(enums) > 80
    for name in enums:
        theirs = {member: int(value) for member, value in getattr(driver, name).__members__.items()}
        ours = {member: int(value) for member, value in getattr(Cuda, name).__members__.items()}
        assert ours == theirs, name
        assert [m.name for m in getattr(Cuda, name)] == [m.name for m in getattr(driver, name)], name


def test_every_structure_has_the_same_attributes() -> None:
    for name in names():
        theirs = getattr(driver, name)
        if not inspect.isclass(theirs) or is_enum(theirs):
            continue
        ours = getattr(Cuda, name)
        assert inspect.isclass(ours), name
        if issubclass(ours, Boxed):
            assert hasattr(theirs, "__int__"), name
            assert hasattr(theirs, "__index__") == hasattr(ours, "__index__"), name
            continue
        public = {n for n in dir(theirs) if not n.startswith("_")}
        assert {n for n in dir(ours) if not n.startswith("_")} >= public, name


def test_constants_have_the_same_values() -> None:
    for name in names():
        value = getattr(driver, name)
        if isinstance(value, int) and not inspect.isclass(value):
            assert getattr(Cuda, name) == value, name


@pytest.mark.parametrize("name", ["CUDA_MEMCPY2D", "CUDA_MEMCPY3D", "CUdeviceptr", "CUdevice", "CUuuid"])
def test_sizes_are_those_of_c(name: str) -> None:
    cuda = Cuda.__new__(Cuda)
    assert cuda.sizeof(NAMES[name]) == driver.sizeof(getattr(driver, name))


def test_unsupported_functions_say_so_with_the_right_number_of_values(cuda: Cuda) -> None:
    missing = cuda.CUresult.CUDA_ERROR_NOT_SUPPORTED
    assert cuda.cuGraphCreate(0) == (missing, None)
    assert cuda.cuMemAllocManaged(16, 1) == (missing, None)
    assert cuda.cuLaunchCooperativeKernel(0, 1, 1, 1, 1, 1, 1, 0, 0, None) == (missing,)
    assert cuda.cuStreamGetCaptureInfo(0) == (missing, None, None, None, None, None)
    with pytest.raises(TypeError, match="missing a required argument"):
        cuda.cuGraphCreate()
    assert len(SUPPORTED) > 150


def test_handles_behave_as_cuda_pythons() -> None:
    for module in (Cuda, driver):
        context = module.CUcontext(7)
        assert (int(context), context == module.CUcontext(7), context == 7) == (7, True, False)
        assert hash(context) == hash(module.CUcontext(7))
        assert repr(context) == "<CUcontext 0x7>"
        pointer = module.CUdeviceptr(0x123)
        assert (int(pointer), repr(pointer)) == (0x123, "<CUdeviceptr 291>")
        assert ctypes.c_uint64.from_address(pointer.getPtr()).value == 0x123
        assert int(module.CUdeviceptr(pointer)) == 0x123
        with pytest.raises(OverflowError):
            module.CUdeviceptr(-1)
        assert np.array([int(pointer)], np.uint64)[0] == np.uint64(0x123)
        cell = ctypes.c_void_p(0x77)
        assert int(module.CUhostFn(_ptr=ctypes.addressof(cell))) == 0x77


def test_enumerations_are_integers_with_a_name() -> None:
    for module in (Cuda, driver):
        error = module.CUresult(700)
        assert error is module.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
        assert error == 700
        assert (error.name, error.value, repr(error)) == (
            "CUDA_ERROR_ILLEGAL_ADDRESS",
            700,
            "<CUresult.CUDA_ERROR_ILLEGAL_ADDRESS: 700>",
        )
        with pytest.raises(ValueError, match="not a valid CUresult"):
            module.CUresult(31337)
    assert pickle.loads(pickle.dumps(NAMES["CUresult"](2))) is NAMES["CUresult"].CUDA_ERROR_OUT_OF_MEMORY
    assert issubclass(NAMES["CUresult"], CudaEnum)


def test_structures_convert_what_is_assigned() -> None:
    for module in (Cuda, driver):
        copy = module.CUDA_MEMCPY2D()
        host = np.zeros(4)
        copy.srcMemoryType = module.CUmemorytype.CU_MEMORYTYPE_HOST
        copy.srcHost = host
        copy.dstDevice = 5
        assert copy.srcMemoryType is module.CUmemorytype.CU_MEMORYTYPE_HOST
        assert copy.srcHost == host.ctypes.data
        assert int(copy.dstDevice) == 5
        assert "WidthInBytes : 0" in str(copy)
    assert issubclass(NAMES["CUDA_MEMCPY2D"], Structure)


def test_a_structures_image_is_laid_out_as_in_c() -> None:
    ours, theirs = NAMES["CUDA_MEMCPY2D"](), driver.CUDA_MEMCPY2D()
    for module, copy in ((Cuda, ours), (driver, theirs)):
        copy.srcXInBytes, copy.srcPitch, copy.WidthInBytes, copy.Height = 1, 2, 3, 4
        copy.srcMemoryType = module.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.dstMemoryType = module.CUmemorytype.CU_MEMORYTYPE_DEVICE
        copy.srcDevice, copy.dstDevice = 0x1000, 0x2000
    assert ctypes.string_at(ours.getPtr(), 128) == ctypes.string_at(theirs.getPtr(), 128)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.arange(4),
        lambda: bytearray(b"abcd"),
        lambda: memoryview(bytearray(8)),
        lambda: (ctypes.c_int * 3)(),
    ],
)
def test_a_buffers_address_is_where_its_bytes_are(make: Any) -> None:
    buffer = make()
    assert ctypes.string_at(address_of(buffer), len(bytes(memoryview(buffer)))) == bytes(memoryview(buffer))


def test_no_address_for_what_is_no_buffer() -> None:
    with pytest.raises(TypeError, match="Buffer Protocol"):
        address_of(object())
    assert address_of(None) == 0

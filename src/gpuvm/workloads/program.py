"""What the benchmark programs share on the CUDA side: error check, context, module, buffers, launch, close.

Written against `cuda.bindings.driver` as it is: every call returns a tuple whose first element is the error.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib import resources
from types import TracebackType
from typing import Any

import numpy as np

from gpuvm.workloads.base import Array, Clock

Dimensions = tuple[int, int, int]
Argument = tuple[Any, int | float]
"""A kernel argument: ctypes type and value."""


class CudaError(RuntimeError):
    """A driver call failed.

    Attributes
    ----------
    code : int
        The CUresult.
    name : str
        Its name, e.g. "CUDA_ERROR_OUT_OF_MEMORY".
    """

    def __init__(self, code: int, name: str, call: str) -> None:
        super().__init__(f"{call} must succeed, but returned {name} ({code})")
        self.code = code
        self.name = name


def check(result: tuple[Any, ...], call: str = "the CUDA call") -> Any:
    """What a driver call returned beside its error; raises `CudaError` unless that is CUDA_SUCCESS."""
    error = result[0]
    if int(error) != 0:
        raise CudaError(int(error), str(getattr(error, "name", error)), call)
    values = result[1:]
    if not values:
        return None
    return values[0] if len(values) == 1 else values


def ptx(stem: str) -> bytes:
    """The PTX of `kernels/<stem>.ptx`, terminated as cuModuleLoadData wants it."""
    return resources.files("gpuvm.workloads.kernels").joinpath(f"{stem}.ptx").read_bytes() + b"\0"


class Program:
    """A context on device 0 with at most one module; a context manager that ends as the phase "close".

    Buffers, pinned memory, the module and the context are released on the way out, also after an error.

    Parameters
    ----------
    cu : module or object
        `cuda.bindings.driver` or the guest's equal.
    clock : Clock
    kernels : str, optional
        Stem of the PTX file to load.
    """

    def __init__(self, cu: Any, clock: Clock, kernels: str | None = None) -> None:
        self.cu = cu
        self.clock = clock
        self.module: Any = None
        self._functions: dict[str, Any] = {}
        self._buffers: list[int] = []
        self._pinned: list[int] = []
        with clock.phase("init"):
            check(cu.cuInit(0), "cuInit")
            device = check(cu.cuDeviceGet(0), "cuDeviceGet")
            self.context = check(cu.cuCtxCreate(0, device), "cuCtxCreate")
            try:
                if kernels is not None:
                    self.module = check(cu.cuModuleLoadData(ptx(kernels)), "cuModuleLoadData")
            except BaseException:
                cu.cuCtxDestroy(self.context)
                raise

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After an error every call may fail again: each release is tried, the first error is the one told.
        with self.clock.phase("close"):
            results = [(self.cu.cuMemFree(pointer), "cuMemFree") for pointer in self._buffers]
            results += [(self.cu.cuMemFreeHost(pointer), "cuMemFreeHost") for pointer in self._pinned]
            if self.module is not None:
                results.append((self.cu.cuModuleUnload(self.module), "cuModuleUnload"))
            results.append((self.cu.cuCtxDestroy(self.context), "cuCtxDestroy"))
        if kind is None:
            for result, call in results:
                check(result, call)

    def function(self, name: str) -> Any:
        """The kernel `name` of the module."""
        if name not in self._functions:
            result = self.cu.cuModuleGetFunction(self.module, name.encode())
            self._functions[name] = check(result, f"cuModuleGetFunction({name})")
        return self._functions[name]

    def symbol(self, name: str) -> int:
        """Device address of the module's variable `name`."""
        result = self.cu.cuModuleGetGlobal(self.module, name.encode())
        return int(check(result, f"cuModuleGetGlobal({name})")[0])

    def allocate(self, size: int) -> int:
        """Device address of `size` new bytes."""
        pointer = int(check(self.cu.cuMemAlloc(size), f"cuMemAlloc({size})"))
        self._buffers.append(pointer)
        return pointer

    def pin(self, size: int) -> int:
        """Host address of `size` new bytes of pinned memory."""
        pointer = int(check(self.cu.cuMemAllocHost(size), f"cuMemAllocHost({size})"))
        self._pinned.append(pointer)
        return pointer

    def upload(self, destination: int, source: Array) -> None:
        """Copy a C-contiguous array to the device."""
        assert source.flags.c_contiguous
        check(self.cu.cuMemcpyHtoD(destination, source.ctypes.data, source.nbytes), "cuMemcpyHtoD")

    def download(self, destination: Array, source: int) -> None:
        """Fill a C-contiguous array from the device."""
        assert destination.flags.c_contiguous
        check(self.cu.cuMemcpyDtoH(destination.ctypes.data, source, destination.nbytes), "cuMemcpyDtoH")

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: Sequence[Argument],
    ) -> None:
        """Launch a kernel; `arguments` are pairs of ctypes type and value. Does not wait."""
        values = tuple(value for _, value in arguments)
        types = tuple(kind for kind, _ in arguments)
        result = self.cu.cuLaunchKernel(
            self.function(name), *_three(grid), *_three(block), 0, 0, (values, types), 0
        )
        check(result, f"cuLaunchKernel({name})")

    def synchronize(self) -> None:
        """Wait until everything launched is done."""
        check(self.cu.cuCtxSynchronize(), "cuCtxSynchronize")


def pointer(value: int) -> Argument:
    """A device address as a kernel argument."""
    return (ctypes.c_void_p, value)


def i32(value: int) -> Argument:
    """An int as a kernel argument."""
    return (ctypes.c_int, value)


def f32(value: float) -> Argument:
    """A float as a kernel argument."""
    return (ctypes.c_float, float(np.float32(value)))


def _three(size: tuple[int, ...]) -> Dimensions:
    x, y, z = (*size, 1, 1)[:3]
    return x, y, z


def blocks(count: int, size: int) -> int:
    """How many blocks of `size` cover `count` elements."""
    return -(-count // size)

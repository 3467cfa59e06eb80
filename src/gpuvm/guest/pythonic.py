"""A thin Pythonic layer over the driver API: context managers, NumPy arrays in and out, kernels called by
name.

    with Gpu(cuda) as gpu:
        module = gpu.module(ptx)
        y = gpu.array(y_host)
        module.saxpy[blocks, 256](np.float32(2), x_host, y, n)
        print(y.get())
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuvm.guest.cuda.surface import Cuda
from gpuvm.guest.cuda.types import CUdeviceptr

Shape = int | Sequence[int]


class GpuError(Exception):
    """A call that failed.

    Attributes
    ----------
    code : CUresult
    """

    def __init__(self, code: Any, detail: str) -> None:
        super().__init__(f"{code.name}: {detail}")
        self.code = code


class Gpu:
    """A context on a machine's GPU, made current for the thread that enters it.

    Parameters
    ----------
    cuda : Cuda
        CUDA of the machine; initialised here if it is not yet.

    Raises
    ------
    GpuError
        From every method, when CUDA refuses or the GPU stopped the context.
    """

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._call(cuda.cuInit(0))
        self._context = self._call(cuda.cuCtxCreate(0, 0))
        self._call(cuda.cuCtxPopCurrent())

    def __enter__(self) -> Gpu:
        self._call(self.cuda.cuCtxPushCurrent(self._context))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cuda.cuCtxPopCurrent()
        self.cuda.cuCtxDestroy(self._context)

    def _call(self, result: tuple[Any, ...]) -> Any:
        if result[0]:
            text = self.cuda.cuGetErrorString(result[0])[1].decode()
            raise GpuError(result[0], self.cuda.last_error or text)
        return result[1] if len(result) == 2 else result[1:]

    def module(self, image: str | bytes) -> KernelModule:
        """Load PTX text, a cubin or a fat binary."""
        return KernelModule(self, self._call(self.cuda.cuModuleLoadData(image)))

    def array(self, values: npt.ArrayLike) -> DeviceArray:
        """Copy an array to the device."""
        host = np.ascontiguousarray(values)
        made = self.empty(host.shape, host.dtype)
        made.set(host)
        return made

    def empty(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Allocate an array on the device; its contents are whatever was there."""
        return DeviceArray(self, shape, np.dtype(dtype))

    def zeros(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Allocate an array of zeros on the device."""
        made = self.empty(shape, dtype)
        if made.nbytes:
            self._call(self.cuda.cuMemsetD8(made.pointer, 0, made.nbytes))
        return made

    def synchronize(self) -> None:
        """Wait for everything queued."""
        self._call(self.cuda.cuCtxSynchronize())


class DeviceArray:
    """An array in device memory. It is freed with its context, by `free`, or at the end of a `with`.

    Attributes
    ----------
    pointer : CUdeviceptr
    """

    def __init__(self, gpu: Gpu, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._gpu = gpu
        self.shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
        self.dtype = dtype
        self.size = int(np.prod(self.shape, dtype=np.int64))
        self.nbytes = self.size * dtype.itemsize
        self.pointer = gpu._call(gpu.cuda.cuMemAlloc(max(self.nbytes, 1)))

    def __enter__(self) -> DeviceArray:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def __len__(self) -> int:
        return self.shape[0]

    def set(self, values: npt.ArrayLike) -> None:
        """Copy values of the same shape in."""
        host = np.ascontiguousarray(values, self.dtype)
        if host.shape != self.shape:
            raise ValueError(f"values must have the array's shape {self.shape}, got {host.shape}")
        if self.nbytes:
            self._gpu._call(self._gpu.cuda.cuMemcpyHtoD(self.pointer, host.ctypes.data, self.nbytes))

    def get(self, out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """Copy the values out, into `out` if given; waits for the kernels that make them."""
        host = np.empty(self.shape, self.dtype) if out is None else out
        if host.shape != self.shape or host.dtype != self.dtype or not host.flags.c_contiguous:
            raise ValueError(f"out must be a contiguous {self.dtype} array of shape {self.shape}")
        if self.nbytes:
            self._gpu._call(self._gpu.cuda.cuMemcpyDtoH(host.ctypes.data, self.pointer, self.nbytes))
        return host

    def free(self) -> None:
        """Give the memory back."""
        if int(self.pointer):
            self._gpu._call(self._gpu.cuda.cuMemFree(self.pointer))
            self.pointer = CUdeviceptr(0)


class KernelModule:
    """A loaded module; its kernels are its attributes."""

    def __init__(self, gpu: Gpu, handle: Any) -> None:
        self._gpu = gpu
        self.handle = handle
        self._kernels: dict[str, Kernel] = {}

    def __getattr__(self, name: str) -> Kernel:
        if name.startswith("__"):
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, name: str) -> Kernel:
        kernel = self._kernels.get(name)
        if kernel is None:
            function = self._gpu._call(self._gpu.cuda.cuModuleGetFunction(self.handle, name.encode()))
            kernel = self._kernels[name] = Kernel(self._gpu, name, function)
        return kernel

    def variable(self, name: str) -> tuple[Any, int]:
        """Return (device pointer, bytes) of a variable of the module."""
        pointer, size = self._gpu._call(self._gpu.cuda.cuModuleGetGlobal(self.handle, name.encode()))
        return pointer, size

    def unload(self) -> None:
        self._gpu._call(self._gpu.cuda.cuModuleUnload(self.handle))


class Kernel:
    """A kernel: `kernel[grid, block](arguments)`, or `[grid, block, shared bytes, stream]`."""

    def __init__(self, gpu: Gpu, name: str, function: Any) -> None:
        self._gpu = gpu
        self.name = name
        self.function = function
        self._sizes: list[int] = []
        while True:
            result = gpu.cuda.cuFuncGetParamInfo(function, len(self._sizes))
            if result[0]:
                break
            self._sizes.append(result[2])

    def __getitem__(self, shape: tuple[Any, ...]) -> Launch:
        if not isinstance(shape, tuple) or not 2 <= len(shape) <= 4:
            raise TypeError(f"a launch of {self.name} is written kernel[grid, block](arguments)")
        grid, block, *rest = shape
        shared, stream = [*rest, 0, 0][:2] if len(rest) < 2 else rest
        return Launch(self, _three(grid), _three(block), int(shared), stream)

    def __call__(self, *_: object) -> None:
        raise TypeError(
            f"a launch of {self.name} needs a grid and a block: {self.name}[grid, block](arguments)"
        )


class Launch:
    """A kernel with its grid."""

    def __init__(
        self, kernel: Kernel, grid: Sequence[int], block: Sequence[int], shared: int, stream: Any
    ) -> None:
        self._kernel = kernel
        self._grid = grid
        self._block = block
        self._shared = shared
        self._stream = stream

    def __call__(self, *arguments: Any) -> None:
        """Launch. A NumPy array is copied to the device before the kernel and back after it, which waits for
        the kernel; device arrays, pointers and numbers are passed as they are, a plain Python number in the
        size that the kernel declares.
        """
        kernel = self._kernel
        gpu, sizes = kernel._gpu, kernel._sizes
        if len(arguments) != len(sizes):
            raise TypeError(f"{kernel.name} takes {len(sizes)} arguments, got {len(arguments)}")
        copies: list[tuple[npt.NDArray[Any], DeviceArray]] = []
        cells: list[Any] = []
        try:
            for argument, size in zip(arguments, sizes, strict=True):
                value = argument
                if isinstance(value, np.ndarray):
                    copied = gpu.array(value)
                    copies.append((value, copied))
                    value = copied
                raw = _raw(value, size, kernel.name)
                cells.append(ctypes.create_string_buffer(raw, max(size, len(raw))))
            addresses = (ctypes.c_void_p * max(len(cells), 1))(*[ctypes.addressof(cell) for cell in cells])
            gpu._call(
                gpu.cuda.cuLaunchKernel(
                    kernel.function, *self._grid, *self._block, self._shared, self._stream, addresses, 0
                )
            )
            for host, copied in copies:
                if host.flags.writeable:
                    host[...] = copied.get()
        finally:
            for _, copied in copies:
                gpu.cuda.cuMemFree(copied.pointer)


def _three(size: Any) -> tuple[int, int, int]:
    values = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    x, y, z = (*[int(n) for n in values], 1, 1)[:3]
    return x, y, z


def _raw(value: Any, size: int, name: str) -> bytes:
    if isinstance(value, DeviceArray):
        value = value.pointer
    if isinstance(value, np.generic):
        return value.tobytes()
    if isinstance(value, (bool, int)) or hasattr(value, "getPtr"):
        return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
    if isinstance(value, float):
        if size == 4:
            return np.float32(value).tobytes()
        if size == 8:
            return np.float64(value).tobytes()
    if isinstance(value, (ctypes.Structure, ctypes._SimpleCData)):
        return bytes(value)
    raise TypeError(
        f"an argument of {name} must be an array, a pointer or a number, got {type(value).__name__}"
    )

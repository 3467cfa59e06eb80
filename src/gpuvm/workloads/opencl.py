"""The benchmark programs on an OpenCL device: the driver calls they make, answered through pyopencl.

A stand-in for `cuda.bindings.driver` that runs the `.cl` twins of the kernels, so that the same `run`, inputs
and checks serve the comparison with PoCL on the same cores. Needs the extra `bench` and an OpenCL driver.
"""

from __future__ import annotations

import ctypes
from importlib import resources
from typing import Any

import numpy as np

from gpuvm.workloads.base import Array

TWINS = ("MMUL", "FMMUL", "HS", "SRAD2", "NN", "LUD", "BFS")
"""Workloads whose kernels exist in OpenCL too."""
_NUMBERS: dict[Any, Any] = {ctypes.c_int: np.int32, ctypes.c_uint: np.uint32, ctypes.c_float: np.float32}


class OpenClDriver:
    """What a `Program` calls, on the first device of the first OpenCL platform whose name holds `platform`.

    Attributes
    ----------
    device : str
        Platform and device, for reports.
    kernel_s : list of (str, float)
        Every launch since the last `clear`: kernel and seconds on the device's own clock.
    """

    def __init__(self, platform: str = "") -> None:
        import pyopencl

        self._cl: Any = pyopencl
        found = [p for p in pyopencl.get_platforms() if platform.lower() in p.name.lower()]
        if not found:
            raise RuntimeError(f"an OpenCL platform named like {platform!r} must be installed, but none is")
        device = found[0].get_devices()[0]
        self.device = f"{found[0].name} {found[0].version}, {device.name}"
        self._context = pyopencl.Context([device])
        properties = pyopencl.command_queue_properties.PROFILING_ENABLE
        self._queue = pyopencl.CommandQueue(self._context, properties=properties)
        self._buffers: dict[int, Any] = {}
        self._next = 1 << 20
        self._programs: dict[str, Any] = {}
        self._events: list[tuple[str, Any]] = []

    @property
    def kernel_s(self) -> list[tuple[str, float]]:
        self._queue.finish()
        return [(name, (event.profile.end - event.profile.start) * 1e-9) for name, event in self._events]

    def clear(self) -> None:
        """Forget the launches so far."""
        self._events.clear()

    def cuInit(self, flags: int) -> tuple[int]:
        return (0,)

    def cuDeviceGet(self, ordinal: int) -> tuple[int, int]:
        return 0, ordinal

    def cuCtxCreate(self, flags: int, device: int) -> tuple[int, object]:
        return 0, self._context

    def cuCtxDestroy(self, context: object) -> tuple[int]:
        return (0,)

    def cuCtxSynchronize(self) -> tuple[int]:
        self._queue.finish()
        return (0,)

    def cuModuleLoadData(self, image: bytes) -> tuple[int, Any]:
        folder = resources.files("gpuvm.workloads.kernels")
        stems = [
            entry.name.removesuffix(".ptx")
            for entry in folder.iterdir()
            if entry.name.endswith(".ptx") and entry.read_bytes() == image.rstrip(b"\0")
        ]
        if not stems:
            raise ValueError("the PTX must be one of this package's, whose OpenCL twin is known")
        stem = stems[0]
        if stem not in self._programs:
            source = folder.joinpath(f"{stem}.cl").read_text()
            self._programs[stem] = self._cl.Program(self._context, source).build()
        return 0, self._programs[stem]

    def cuModuleUnload(self, module: Any) -> tuple[int]:
        return (0,)

    def cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[int, Any]:
        return 0, self._cl.Kernel(module, name.decode())

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        address = self._next
        self._next += (size + 0xFFF) & ~0xFFF
        self._buffers[address] = self._cl.Buffer(self._context, self._cl.mem_flags.READ_WRITE, size)
        return 0, address

    def cuMemFree(self, address: int) -> tuple[int]:
        self._buffers.pop(address).release()
        return (0,)

    def cuMemcpyHtoD(self, target: int, source: int, size: int) -> tuple[int]:
        self._cl.enqueue_copy(self._queue, self._buffers[target], _bytes(source, size), is_blocking=True)
        return (0,)

    def cuMemcpyDtoH(self, target: int, source: int, size: int) -> tuple[int]:
        self._cl.enqueue_copy(self._queue, _bytes(target, size), self._buffers[source], is_blocking=True)
        return (0,)

    def cuLaunchKernel(self, kernel: Any, *rest: Any) -> tuple[int]:
        gx, gy, gz, bx, by, bz, _, _, (values, types), _ = rest
        arguments = [
            self._buffers[value] if kind is ctypes.c_void_p else _NUMBERS[kind](value)
            for value, kind in zip(values, types, strict=True)
        ]
        event = kernel(self._queue, (gx * bx, gy * by, gz * bz), (bx, by, bz), *arguments)
        self._events.append((kernel.function_name, event))
        return (0,)


def _bytes(address: int, size: int) -> Array:
    """The host's memory at an address as an array."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

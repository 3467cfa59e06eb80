"""The whole `cuda.bindings.driver` of one machine as an object: functions, enumerations, structures,
constants."""

from __future__ import annotations

import ctypes
from typing import Any

from gpuvm.guest.cuda.context import Context
from gpuvm.guest.cuda.contexts import ContextApi
from gpuvm.guest.cuda.core import PARAMETERS, unsupported
from gpuvm.guest.cuda.device import DeviceApi
from gpuvm.guest.cuda.launch import LaunchApi
from gpuvm.guest.cuda.legacy import LegacyApi
from gpuvm.guest.cuda.libraries import LibraryApi
from gpuvm.guest.cuda.linker import LinkerApi
from gpuvm.guest.cuda.rectangles import RectangleApi
from gpuvm.guest.cuda.streams import StreamApi
from gpuvm.guest.cuda.types import NAMES, Boxed, Structure
from gpuvm.guest.machine import Machine


class Cuda(LaunchApi, LegacyApi, LibraryApi, LinkerApi, RectangleApi, StreamApi, ContextApi, DeviceApi):
    """CUDA in one machine.

    Its attributes are the names of `cuda.bindings.driver` (12.9): every function returns a tuple that begins
    with a CUresult. The device is opened by `cuInit`. Each thread has its own stack of current contexts, as
    in CUDA.

    Parameters
    ----------
    machine : Machine
        With a GF100, real or virtual, plugged in.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine)

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *NAMES})

    def close(self) -> None:
        """Destroy every context and release the device, as the end of a process does: work that is still
        queued is dropped, a kernel that runs is ended. Handles are invalid from now on.
        """
        for context in list(self._contexts.values()):
            self._destroy(context, kill=True)
        self._primary = None
        self._libraries.clear()
        self._kernels.clear()
        self._links.clear()
        self._pinned.clear()
        if self._driver is not None:
            self._driver.close()
            self._driver = None
        self._initialized = False

    def _forget_objects(self, context: Context) -> None:
        """Make every handle into a context invalid."""
        for table in (self._streams, self._events, self._modules):
            for handle in [h for h, each in table.items() if each.context is context]:
                del table[handle]
        for handle in [h for h, each in self._functions.items() if each.module.context is context]:
            del self._functions[handle]
        for pinned in [each for each in self._pinned.values() if each.context is context]:
            del self._pinned[pinned.address]
            if pinned.buffer is not None:
                self.driver.free_host(pinned.buffer)

    def sizeof(self, objType: Any) -> int:
        """Bytes of a type of this API, as C lays it out.

        Raises
        ------
        TypeError
            For a type that is none of this API's.
        """
        if isinstance(objType, type) and issubclass(objType, Boxed):
            return ctypes.sizeof(objType._ctype)
        if isinstance(objType, type) and issubclass(objType, Structure):
            return ctypes.sizeof(objType()._pack())
        raise TypeError(f"Unknown type: {objType}")


def _complete() -> None:
    for name, value in NAMES.items():
        setattr(Cuda, name, value)
    for name in PARAMETERS:
        if name not in Cuda.__dict__ and not any(name in base.__dict__ for base in Cuda.__mro__):
            setattr(Cuda, name, unsupported(name))


_complete()
SUPPORTED = tuple(
    name for name in PARAMETERS if not (getattr(Cuda, name).__doc__ or "").startswith("Not supported")
)
"""Functions that do something."""

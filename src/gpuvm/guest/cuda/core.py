"""How an API function is made: results as tuples, errors as CUresult values, the signature that cuda-python
has."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

from gpuvm.guest.cuda.function_data import FUNCTIONS
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.errors import ChannelFault, DriverError, FaultKind, NoDevice, OutOfMemory

CUresult: Any = NAMES["CUresult"]
SUCCESS = CUresult.CUDA_SUCCESS
OK = (SUCCESS,)

PARAMETERS: dict[str, tuple[int, list[str]]] = {
    line.split()[0]: (int(line.split()[1]), line.split()[2:]) for line in FUNCTIONS.strip().split("\n")
}
"""Function name -> (values after the CUresult, parameter names)."""

FAULT_RESULTS = {
    FaultKind.ILLEGAL_ADDRESS: CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,
    FaultKind.READ_ONLY_ADDRESS: CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,
    FaultKind.OUT_OF_RANGE_ADDRESS: CUresult.CUDA_ERROR_ILLEGAL_ADDRESS,
    FaultKind.MISALIGNED_ADDRESS: CUresult.CUDA_ERROR_MISALIGNED_ADDRESS,
    FaultKind.INVALID_ADDRESS_SPACE: CUresult.CUDA_ERROR_INVALID_ADDRESS_SPACE,
    FaultKind.ILLEGAL_INSTRUCTION: CUresult.CUDA_ERROR_ILLEGAL_INSTRUCTION,
    FaultKind.INVALID_PC: CUresult.CUDA_ERROR_INVALID_PC,
    FaultKind.STACK: CUresult.CUDA_ERROR_HARDWARE_STACK_ERROR,
    FaultKind.TIMEOUT: CUresult.CUDA_ERROR_LAUNCH_TIMEOUT,
    FaultKind.BAD_METHOD: CUresult.CUDA_ERROR_LAUNCH_FAILED,
    FaultKind.TRAP: CUresult.CUDA_ERROR_LAUNCH_FAILED,
}
"""What a GPU fault is called in CUDA."""

handles = itertools.count(0x5000_0000_0010, 0x10)
"""Names of objects, unique in the process: a handle of another machine is no handle here."""


class CudaError(Exception):
    """An API call's CUresult on its way out of the implementation.

    Attributes
    ----------
    code : CUresult
    detail : str
        One sentence for people, or nothing.
    """

    def __init__(self, code: Any, detail: str = "") -> None:
        super().__init__(detail or code.name)
        self.code = code
        self.detail = detail


def fail(name: str, detail: str = "") -> CudaError:
    """Return the error of that name: `raise fail("INVALID_VALUE")`."""
    return CudaError(getattr(CUresult, "CUDA_ERROR_" + name), detail)


def result_of(error: Exception) -> Any:
    """Return the CUresult that a driver error becomes."""
    if isinstance(error, CudaError):
        return error.code
    if isinstance(error, ChannelFault):
        return FAULT_RESULTS[error.fault.kind]
    if isinstance(error, OutOfMemory):
        return CUresult.CUDA_ERROR_OUT_OF_MEMORY
    if isinstance(error, NoDevice):
        return CUresult.CUDA_ERROR_NO_DEVICE
    return CUresult.CUDA_ERROR_UNKNOWN


def entry(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method an API function: it returns its values or raises; callers get (CUresult, values...)."""
    return _entry(method, needs_init=True)


def entry_without_init(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same for the few functions that work before cuInit."""
    return _entry(method, needs_init=False)


def _entry(method: Callable[..., Any], needs_init: bool) -> Callable[..., Any]:
    name = method.__name__
    extra, _ = PARAMETERS[name]
    nothing = (None,) * extra

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if needs_init and not self._initialized:
            return (CUresult.CUDA_ERROR_NOT_INITIALIZED, *nothing)
        try:
            value = method(self, *args, **kwargs)
        except (CudaError, DriverError) as error:
            self.last_error = f"{name}: {error}"
            return (result_of(error), *nothing)
        if extra == 0:
            return OK
        if extra == 1:
            return (SUCCESS, value)
        return (SUCCESS, *value)

    return call


def unsupported(name: str) -> Callable[..., Any]:
    """Make the API function that exists and says CUDA_ERROR_NOT_SUPPORTED."""
    extra, names = PARAMETERS[name]
    signature = inspect.Signature(
        [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in names]
    )
    nothing = (None,) * extra

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        if not bound.arguments["self"]._initialized:
            return (CUresult.CUDA_ERROR_NOT_INITIALIZED, *nothing)
        return (CUresult.CUDA_ERROR_NOT_SUPPORTED, *nothing)

    call.__name__ = name
    call.__qualname__ = f"Cuda.{name}"
    call.__doc__ = "Not supported by this driver: returns CUDA_ERROR_NOT_SUPPORTED."
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call

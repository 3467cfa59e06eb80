"""CUjit_option lists: what of them this driver obeys, and the log buffers that it fills."""

from __future__ import annotations

import ctypes
from typing import Any

from gpuvm.guest.cuda.types import NAMES, address_of

Option: Any = NAMES["CUjit_option"]


class JitOptions:
    """One option list.

    Attributes
    ----------
    values : dict
        CUjit_option -> value as given.
    """

    def __init__(self, count: int, options: Any, values: Any) -> None:
        keys = list(options or [])
        given = list(values or [])
        if not all(isinstance(each, Option) for each in keys):
            raise TypeError(
                "Argument 'options' is not instance of type (expected tuple or list of CUjit_option)"
            )
        for each in (keys, given):
            if count > len(each):
                raise RuntimeError(f"List is too small: {len(each)} < {count}")
        self.values: dict[Any, Any] = dict(zip(keys[:count], given[:count], strict=True))

    def integer(self, name: str) -> int | None:
        """An integer option, None if it was not given."""
        value = self.values.get(getattr(Option, "CU_JIT_" + name))
        return None if value is None else int(value)

    def write_logs(self, info: str, error: str) -> None:
        """Fill the program's log buffers, NUL-terminated and cut to their sizes."""
        self._write("INFO_LOG_BUFFER", info)
        self._write("ERROR_LOG_BUFFER", error)

    def write_wall_time(self, milliseconds: float) -> None:
        """CU_JIT_WALL_TIME, if a place for it was given."""
        value = self.values.get(Option.CU_JIT_WALL_TIME)
        if value is not None and not isinstance(value, (int, float)):
            ctypes.c_float.from_address(address_of(value)).value = milliseconds

    def _write(self, name: str, text: str) -> None:
        buffer = self.values.get(getattr(Option, "CU_JIT_" + name))
        size = self.integer(name + "_SIZE_BYTES")
        if buffer is None or not size or size <= 0:
            return
        data = text.encode()[: size - 1] + b"\0"
        ctypes.memmove(address_of(buffer), data, len(data))

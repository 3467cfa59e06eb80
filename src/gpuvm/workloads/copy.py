"""CPY and PINCPY: bytes to the device and back, from ordinary and from pinned host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.program import Program
from gpuvm.workloads.verdict import Verdict, exact


class Copy(Workload):
    """CPY: 256 MiB from pageable memory to the device and back."""

    name = "CPY"
    title = "copy to the device and back"
    # The small size is no multiple of a page, nor of the words that a copy engine moves.
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"bytes": 256 << 20},
        "small": {"bytes": (1 << 20) + 4099},
    }

    def validate(self, parameters: Parameters) -> None:
        count = parameters["bytes"]
        if count != int(count) or count < 1:
            raise WorkloadError(f"bytes of {self.name} must be a whole number of at least 1, not {count}")

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        count = int(parameters["bytes"])
        words = rng.integers(0, 1 << 64, -(-count // 8), dtype=np.uint64)
        return {"data": words.view(np.uint8)[:count]}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        data = inputs["data"]
        # Touched before the copy, so that "dtoh" does not time the host's page faults.
        back = np.empty_like(data)
        back.fill(0)
        with Program(cu, clock) as gpu:
            with clock.phase("init"):
                buffer = gpu.allocate(data.nbytes)
            with clock.phase("htod"):
                gpu.upload(buffer, data)
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(back, buffer)
        return {"data": back}

    def compute(self, inputs: Inputs) -> Arrays:
        return {"data": inputs["data"]}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        got, want = outputs.get("data"), inputs["data"]
        if got is not None and got.shape == want.shape and got.dtype == want.dtype and _same(got, want):
            return Verdict(True)
        return exact("data", outputs, want)


class PinnedCopy(Copy):
    """PINCPY: 256 MiB from pinned memory to the device and back; the host must be able to pin that much."""

    name = "PINCPY"
    title = "copy from pinned memory and back"

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        data = inputs["data"]
        with Program(cu, clock) as gpu:
            with clock.phase("init"):
                host = gpu.pin(data.nbytes)
                buffer = gpu.allocate(data.nbytes)
            pinned = np.ctypeslib.as_array((ctypes.c_uint8 * data.nbytes).from_address(host))
            pinned[:] = data
            with clock.phase("htod"):
                gpu.upload(buffer, pinned)
                gpu.synchronize()
            # The same memory receives the answer: without this a copy that moves nothing would pass.
            pinned.fill(0)
            with clock.phase("dtoh"):
                gpu.download(pinned, buffer)
            back = pinned.copy()
        return {"data": back}


def _same(a: Array, b: Array) -> bool:
    """Equality of two byte arrays, eight bytes at a time."""
    whole = a.size & ~7
    words = np.array_equal(a[:whole].view(np.uint64), b[:whole].view(np.uint64))
    return words and np.array_equal(a[whole:], b[whole:])

"""NOP and LOOP: a context that does nothing, and one thread that works long on no data."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.program import Program, pointer
from gpuvm.workloads.verdict import Verdict, exact


class Nop(Workload):
    """NOP: initialize, make a context, destroy it."""

    name = "NOP"
    title = "context, no GPU work"
    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {}, "small": {}}

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        return {}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        with Program(cu, clock) as gpu:
            gpu.synchronize()
        return {}

    def compute(self, inputs: Inputs) -> Arrays:
        return {}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        if outputs:
            return Verdict(False, f"NOP must return nothing, not {', '.join(outputs)}", float("inf"))
        return Verdict(True)


class Loop(Workload):
    """LOOP: one thread steps a xorshift generator `n` times."""

    name = "LOOP"
    title = "long loop, one thread, no data"
    kernels = "loop"
    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {"n": 10_000_000}, "small": {"n": 20_000}}

    def validate(self, parameters: Parameters) -> None:
        n = parameters["n"]
        if n != int(n) or not 0 <= n < 1 << 32:
            raise WorkloadError(f"n of LOOP must be a whole number from 0 to 2**32 - 1, not {n}")

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        return {"state": rng.integers(1, 1 << 32, 1, dtype=np.uint32)}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        state = np.empty(1, np.uint32)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                buffer = gpu.allocate(state.nbytes)
            with clock.phase("htod"):
                gpu.upload(buffer, inputs["state"])
            with clock.phase("launch"):
                gpu.launch("loop", (1,), (1,), [pointer(buffer), (ctypes.c_uint, inputs.count("n"))])
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(state, buffer)
        return {"state": state}

    def compute(self, inputs: Inputs) -> Arrays:
        """In closed form: a step is linear over GF(2), so n steps are the n-th power of its bit matrix."""
        state = int(inputs["state"][0])
        step = [_step(1 << bit) for bit in range(32)]
        n = inputs.count("n")
        while n:
            if n & 1:
                state = _apply(step, state)
            step = [_apply(step, column) for column in step]
            n >>= 1
        return {"state": np.array([state], np.uint32)}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        return exact("state", outputs, self.reference(inputs)["state"])


def _step(x: int) -> int:
    x ^= x << 13 & 0xFFFFFFFF
    x ^= x >> 17
    return x ^ (x << 5 & 0xFFFFFFFF)


def _apply(matrix: list[int], vector: int) -> int:
    """Product of a bit matrix (list of columns) and a bit vector over GF(2)."""
    result = 0
    for bit in range(32):
        if vector >> bit & 1:
            result ^= matrix[bit]
    return result

"""MADD, MMUL, FMADD, FMMUL: sums and products of square matrices of words or floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.program import Program, blocks, i32, pointer
from gpuvm.workloads.verdict import Verdict, close, exact

TILE = 16
UNIT_ROUNDOFF = 2.0**-24
"""Relative error of one float operation that rounds to nearest."""


class _Matrix(Workload):
    """Two n x n matrices in, one out."""

    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {"n": 1024}, "small": {"n": 72}}

    def validate(self, parameters: Parameters) -> None:
        n = parameters["n"]
        if n != int(n) or not 1 <= n <= 16384:
            raise WorkloadError(f"n of {self.name} must be a whole number from 1 to 16384, not {n}")

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        a, b = inputs["a"], inputs["b"]
        n = inputs.count("n")
        c = np.empty_like(a)
        assert self.kernels is not None
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                device_a, device_b, device_c = (gpu.allocate(x.nbytes) for x in (a, b, c))
            with clock.phase("htod"):
                gpu.upload(device_a, a)
                gpu.upload(device_b, b)
            with clock.phase("launch"):
                arguments = [pointer(device_a), pointer(device_b), pointer(device_c), i32(n)]
                gpu.launch(self.kernels, (blocks(n, TILE), blocks(n, TILE)), (TILE, TILE), arguments)
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(c, device_c)
        return {"c": c}


class _Words(_Matrix):
    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        n = int(parameters["n"])
        return {name: rng.integers(0, 1 << 32, (n, n), dtype=np.uint32) for name in "ab"}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        return exact("c", outputs, self.reference(inputs)["c"])


class _Floats(_Matrix):
    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        n = int(parameters["n"])
        return {name: rng.random((n, n), dtype=np.float32) for name in "ab"}


class Madd(_Words):
    """MADD: c = a + b modulo 2**32."""

    name = "MADD"
    title = "matrix sum, 32-bit words"
    kernels = "madd"

    def compute(self, inputs: Inputs) -> Arrays:
        return {"c": inputs["a"] + inputs["b"]}


class Mmul(_Words):
    """MMUL: c = a b modulo 2**32."""

    name = "MMUL"
    title = "matrix product, 32-bit words"
    kernels = "mmul"

    def compute(self, inputs: Inputs) -> Arrays:
        return {"c": product_of_words(inputs["a"], inputs["b"])}


class Fmadd(_Floats):
    """FMADD: c = a + b in float."""

    name = "FMADD"
    title = "matrix sum, floats"
    kernels = "fmadd"

    def compute(self, inputs: Inputs) -> Arrays:
        return {"c": inputs["a"] + inputs["b"]}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # One correctly rounded addition has one right answer.
        return exact("c", outputs, self.reference(inputs)["c"])


class Fmmul(_Floats):
    """FMMUL: c = a b in float."""

    name = "FMMUL"
    title = "matrix product, floats"
    kernels = "fmmul"

    def compute(self, inputs: Inputs) -> Arrays:
        return {"c": inputs["a"].astype(np.float64) @ inputs["b"].astype(np.float64)}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # A sum of n products, in any order, fused or not, errs by less than n roundings of the sum of
        # magnitudes (both matrices are positive, so that is the result itself).
        want = self.reference(inputs)["c"]
        return close("c", outputs, want, inputs.count("n") * UNIT_ROUNDOFF * want)


def product_of_words(a: Array, b: Array) -> Array:
    """Matrix product modulo 2**32, exact: float products of 16-bit halves, whose sums stay below 2**53."""
    low_a, low_b = (a & 0xFFFF).astype(np.float64), (b & 0xFFFF).astype(np.float64)
    high_a, high_b = (a >> 16).astype(np.float64), (b >> 16).astype(np.float64)
    low = (low_a @ low_b).astype(np.uint64)
    cross = (high_a @ low_b + low_a @ high_b).astype(np.uint64)
    return (low + (cross << np.uint64(16))).astype(np.uint32)

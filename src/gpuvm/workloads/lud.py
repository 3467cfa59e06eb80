"""LUD: LU decomposition of a matrix in place, without pivoting (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads import data as files
from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.program import Program, i32, pointer
from gpuvm.workloads.verdict import Verdict, close

TILE = 16
FILE = "256.dat"
UNIT_ROUNDOFF = 2.0**-24


class Lud(Workload):
    """LUD: an n x n matrix becomes L (below the diagonal, which is 1) and U."""

    name = "LUD"
    title = "LU decomposition"
    kernels = "lud"
    sizes: ClassVar[Mapping[str, Parameters]] = {"paper": {"n": 256}, "small": {"n": 64}}

    def validate(self, parameters: Parameters) -> None:
        n = parameters["n"]
        if n != int(n) or not TILE <= n <= 8192 or n % TILE:
            raise WorkloadError(f"n of LUD must be a multiple of {TILE} up to 8192, not {n}")

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """The product of a random L and U, so that every leading part can be factored without pivoting."""
        n = int(parameters["n"])
        lower = np.tril(rng.uniform(-1, 1, (n, n)), -1) / np.sqrt(n) + np.eye(n)
        upper = np.triu(rng.uniform(-1, 1, (n, n)), 1) / np.sqrt(n) + np.diag(rng.uniform(1, 2, n))
        return {"matrix": (lower @ upper).astype(np.float32)}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        whole = files.matrix(data / "lud" / FILE)
        n = int(parameters["n"])
        if n > len(whole):
            raise WorkloadError(f"n of LUD must be at most the {len(whole)} of lud/{FILE}, not {n}")
        part = "" if n == len(whole) else f" (first {n} rows and columns)"
        return Source({"matrix": np.ascontiguousarray(whole[:n, :n])}, f"lud/{FILE}{part}")

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        n = inputs.count("n")
        result = np.empty((n, n), np.float32)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                matrix = gpu.allocate(result.nbytes)
            with clock.phase("htod"):
                gpu.upload(matrix, inputs["matrix"])
            with clock.phase("launch"):
                for offset in range(0, n, TILE):
                    arguments = [pointer(matrix), i32(n), i32(offset)]
                    gpu.launch("diagonal", (1,), (TILE,), arguments)
                    rest = (n - offset) // TILE - 1
                    if rest:
                        gpu.launch("perimeter", (rest,), (2 * TILE,), arguments)
                        gpu.launch("internal", (rest, rest), (TILE, TILE), arguments)
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(result, matrix)
        return {"matrix": result}

    def compute(self, inputs: Inputs) -> Arrays:
        """The factors are unique, so the answer is what their product must be: the matrix."""
        return {"product": inputs["matrix"].astype(np.float64)}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # The factors of an ill-conditioned matrix (Rodinia's is one) may be far from the exact ones, but
        # their product is the matrix: element by element within n roundings of |L||U| for certain, and
        # within about sqrt(n) where roundings go both ways, as they do. Observed are 4 to 7.4 for n = 64 to
        # 512.
        want = self.reference(inputs)["product"]
        got = outputs.get("matrix")
        if got is None or got.shape != want.shape:
            return close("matrix", outputs, want, 0.0)
        lower, upper = factors(got.astype(np.float64))
        with np.errstate(invalid="ignore", over="ignore"):
            bound = (4.0 + len(want) ** 0.5) * UNIT_ROUNDOFF * (np.abs(lower) @ np.abs(upper))
            product = {"product of L and U": lower @ upper}
        return close("product of L and U", product, want, bound)


def factors(packed: Array) -> tuple[Array, Array]:
    """L with its unit diagonal, and U, of a decomposition stored in one matrix."""
    return np.tril(packed, -1) + np.eye(len(packed)), np.triu(packed)

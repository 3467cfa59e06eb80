"""SRAD2: speckle reducing anisotropic diffusion, version 2 of Rodinia: tiles, statistics on the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Workload, WorkloadError
from gpuvm.workloads.diffusion import diffuse, speckle_of
from gpuvm.workloads.program import Program, f32, i32, pointer
from gpuvm.workloads.verdict import Verdict, close

TILE = 16


class Srad2(Workload):
    """SRAD2: an n x n image; the speckle is measured in the region of rows and columns 0 to `region` - 1."""

    name = "SRAD2"
    title = "speckle reduction, version 2"
    kernels = "srad2"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"n": 2048, "region": 128, "lambda": 0.5, "iterations": 2},
        "small": {"n": 80, "region": 32, "lambda": 0.5, "iterations": 2},
    }

    def validate(self, parameters: Parameters) -> None:
        n, region, iterations = (parameters[key] for key in ("n", "region", "iterations"))
        if n != int(n) or not TILE <= n <= 16384 or n % TILE:
            raise WorkloadError(f"n of SRAD2 must be a multiple of {TILE} up to 16384, not {n}")
        if any(x != int(x) for x in (region, iterations)) or not 2 <= region <= n or iterations < 1:
            raise WorkloadError(
                f"SRAD2 needs a region of 2 to {n} and at least one iteration, not {region} and {iterations}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """The exponential of uniform noise, as Rodinia makes it."""
        n = int(parameters["n"])
        return {"image": np.exp(rng.random((n, n), dtype=np.float32))}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        n, region = inputs.count("n"), inputs.count("region")
        image = inputs["image"].copy()
        grid, block = (n // TILE, n // TILE), (TILE, TILE)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_image, d_coefficient = gpu.allocate(image.nbytes), gpu.allocate(image.nbytes)
                sides = [pointer(gpu.allocate(image.nbytes)) for _ in range(4)]
            common = [*sides, pointer(d_image), pointer(d_coefficient), i32(n), i32(n)]
            for _ in range(inputs.count("iterations")):
                speckle = speckle_of(image[:region, :region])
                with clock.phase("htod"):
                    gpu.upload(d_image, image)
                with clock.phase("launch"):
                    gpu.launch("coefficients", grid, block, [*common, f32(speckle)])
                    gpu.launch("update", grid, block, [*common, f32(inputs.real("lambda"))])
                    gpu.synchronize()
                with clock.phase("dtoh"):
                    gpu.download(image, d_image)
        return {"image": image}

    def compute(self, inputs: Inputs) -> Arrays:
        image = inputs["image"].astype(np.float64)
        region = inputs.count("region")
        for _ in range(inputs.count("iterations")):
            image = diffuse(image, speckle_of(image[:region, :region]), inputs.real("lambda"))
        return {"image": image}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        want = self.reference(inputs)["image"]
        return close("image", outputs, want, tolerance(want, inputs))


def tolerance(want: Array, inputs: Inputs) -> Array:
    """Bound of the error of every pixel, per iteration 32 roundings of its magnitude.

    The diffusion coefficient is a smooth function of about 30 operations, kept within 0 to 1; the update adds
    an eighth of the differences to the neighbours, so errors add from iteration to iteration and do not grow.
    """
    bound: Array = inputs.count("iterations") * 32 * 2.0**-24 * np.abs(want)
    return bound

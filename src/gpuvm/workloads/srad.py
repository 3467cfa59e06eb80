"""SRAD: speckle reducing anisotropic diffusion of an ultrasound image, version 1 of Rodinia."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads import data as files
from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.diffusion import diffuse, speckle_of
from gpuvm.workloads.program import Program, blocks, f32, i32, pointer
from gpuvm.workloads.verdict import Verdict, close

THREADS = 512


class Srad(Workload):
    """SRAD: an image of rows x columns pixels 0 to 255; its statistics by a reduction on the device."""

    name = "SRAD"
    title = "speckle reduction, version 1"
    kernels = "srad"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"rows": 502, "columns": 458, "lambda": 0.5, "iterations": 100},
        "small": {"rows": 50, "columns": 45, "lambda": 0.5, "iterations": 4},
    }

    def validate(self, parameters: Parameters) -> None:
        rows, columns, iterations = (parameters[key] for key in ("rows", "columns", "iterations"))
        whole = all(x == int(x) for x in (rows, columns, iterations))
        if not whole or rows < 2 or columns < 2 or rows * columns > 1 << 26 or iterations < 0:
            raise WorkloadError(
                f"SRAD needs at least 2 rows and 2 columns, at most {1 << 26} pixels and no negative number "
                f"of iterations, all whole, not {rows} x {columns} and {iterations}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """A dark cavity in bright tissue under multiplicative speckle, 8 bits deep."""
        rows, columns = int(parameters["rows"]), int(parameters["columns"])
        y, x = np.mgrid[0:rows, 0:columns]
        distance = np.hypot((y - rows / 2) / rows, (x - columns / 2) / columns)
        tissue = np.where(distance < 0.2, 60.0, 150.0) + 30.0 * np.cos(9.0 * distance)
        speckled = tissue * rng.rayleigh(0.8, (rows, columns))
        return {"image": np.clip(np.rint(speckled), 0, 255).astype(np.float32)}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        whole = files.image(data / "srad" / "image.pgm")
        rows, columns = int(parameters["rows"]), int(parameters["columns"])
        if whole.shape[0] < rows or whole.shape[1] < columns:
            raise WorkloadError(
                f"srad/image.pgm must have at least {rows} rows and {columns} columns, but has {whole.shape}"
            )
        part = "" if whole.shape == (rows, columns) else f" (first {rows} rows and {columns} columns)"
        return Source({"image": np.ascontiguousarray(whole[:rows, :columns])}, f"srad/image.pgm{part}")

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        rows, columns = inputs.count("rows"), inputs.count("columns")
        count = rows * columns
        image = np.ascontiguousarray(inputs["image"].T)  # column after column, as the kernels want it
        row, column = np.arange(rows, dtype=np.int32), np.arange(columns, dtype=np.int32)
        neighbours = (
            np.maximum(row - 1, 0),
            np.minimum(row + 1, rows - 1),
            np.minimum(column + 1, columns - 1),
            np.maximum(column - 1, 0),
        )
        total = np.empty(2, np.float32)
        grid, block = (blocks(count, THREADS),), (THREADS,)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                tables = [gpu.allocate(table.nbytes) for table in neighbours]
                d_image, d_sums, d_squares, d_coefficient = (gpu.allocate(image.nbytes) for _ in range(4))
                sides = [pointer(gpu.allocate(image.nbytes)) for _ in range(4)]
            with clock.phase("htod"):
                for address, table in zip(tables, neighbours, strict=True):
                    gpu.upload(address, table)
                gpu.upload(d_image, image)
            above, below, right, left = (pointer(address) for address in tables)
            pixels, coefficient = pointer(d_image), pointer(d_coefficient)
            sums = [pointer(d_sums), pointer(d_squares)]
            with clock.phase("launch"):
                gpu.launch("extract", grid, block, [i32(count), pixels])
            for _ in range(inputs.count("iterations")):
                with clock.phase("launch"):
                    gpu.launch("prepare", grid, block, [i32(count), pixels, *sums])
                    left_over, stride = count, 1
                    while True:
                        level = blocks(left_over, THREADS)
                        gpu.launch("reduce", (level,), block, [i32(left_over), i32(stride), *sums])
                        if level == 1:
                            break
                        left_over, stride = level, stride * THREADS
                    gpu.synchronize()
                with clock.phase("dtoh"):
                    gpu.download(total[:1], d_sums)
                    gpu.download(total[1:], d_squares)
                mean, square = (float(value) / count for value in total)
                speckle = (square - mean * mean) / (mean * mean)
                with clock.phase("launch"):
                    arguments = [i32(rows), i32(count), above, below, right, left, *sides]
                    gpu.launch("srad", grid, block, [*arguments, f32(speckle), coefficient, pixels])
                    arguments = [i32(rows), i32(count), below, right, *sides, f32(inputs.real("lambda"))]
                    gpu.launch("srad2", grid, block, [*arguments, coefficient, pixels])
            with clock.phase("launch"):
                gpu.launch("compress", grid, block, [i32(count), pixels])
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(image, d_image)
        return {"image": np.ascontiguousarray(image.T)}

    def compute(self, inputs: Inputs) -> Arrays:
        image: Array = np.exp(inputs["image"].astype(np.float64) / 255.0)
        for _ in range(inputs.count("iterations")):
            image = diffuse(image, speckle_of(image), inputs.real("lambda"))
        return {"image": np.log(image) * 255.0}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # Pixels 1 to e are kept in float: 32 roundings an iteration (see SRAD2), times 255 by the
        # logarithm; the float sums of the whole image shift the coefficient by less than that.
        want = self.reference(inputs)["image"]
        bound = 255.0 * np.e * 32 * 2.0**-24 * (inputs.count("iterations") + 1)
        return close("image", outputs, want, bound)

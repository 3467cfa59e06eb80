"""HS: hotspot, the transient temperature of a chip from its power map (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads import data as files
from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.program import Program, blocks, f32, i32, pointer
from gpuvm.workloads.verdict import Verdict, close

TILE = 16
FILE_SIZE = 512

# The chip that Rodinia models, in SI units.
AMBIENT = 80.0
MAXIMUM_POWER_DENSITY = 3.0e6
PRECISION = 0.001
SPECIFIC_HEAT = 1.75e6
CONDUCTIVITY = 100.0
CAPACITANCE_FACTOR = 0.5
THICKNESS = 0.0005
EDGE = 0.016


class Hotspot(Workload):
    """HS: `steps` time steps on an n x n grid, `pyramid` of them in one launch."""

    name = "HS"
    title = "hotspot: temperature of a chip"
    kernels = "hotspot"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"n": 512, "steps": 2, "pyramid": 2},
        "small": {"n": 70, "steps": 5, "pyramid": 2},
    }

    def validate(self, parameters: Parameters) -> None:
        n, steps, pyramid = (parameters[key] for key in ("n", "steps", "pyramid"))
        whole = all(x == int(x) for x in (n, steps, pyramid))
        if not (whole and n >= 2 and steps >= 1 and 1 <= pyramid < TILE // 2):
            raise WorkloadError(
                f"HS needs n of at least 2, steps of at least 1 and a pyramid of 1 to {TILE // 2 - 1}, "
                f"all whole, not n={n}, steps={steps}, pyramid={pyramid}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        n = int(parameters["n"])
        y, x = np.mgrid[0:n, 0:n] / n
        warm = 323.0 + 10.0 * np.sin(5 * x) * np.cos(3 * y) + rng.random((n, n))
        # Hot units on a cool die, strong enough that a kernel without the power term would be seen.
        power = 5.0 * (rng.random((n, n)) < 0.1) * rng.random((n, n))
        return {"temperature": warm.astype(np.float32), "power": power.astype(np.float32)}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        n = int(parameters["n"])
        if n > FILE_SIZE:
            raise WorkloadError(f"n of HS must be at most {FILE_SIZE} with Rodinia's files, not {n}")
        names = {"temperature": f"temp_{FILE_SIZE}", "power": f"power_{FILE_SIZE}"}
        whole = {key: files.grid(data / "hotspot" / name, FILE_SIZE) for key, name in names.items()}
        arrays = {key: np.ascontiguousarray(grid[:n, :n]) for key, grid in whole.items()}
        part = "" if n == FILE_SIZE else f" (first {n} rows and columns)"
        return Source(arrays, f"hotspot/temp_{FILE_SIZE}, hotspot/power_{FILE_SIZE}{part}")

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        n, pyramid, total = inputs.count("n"), inputs.count("pyramid"), inputs.count("steps")
        result = np.empty((n, n), np.float32)
        rate, rx1, ry1, rz1 = coefficients(n)
        side = blocks(n, TILE - 2 * pyramid)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                now, then, power = (gpu.allocate(result.nbytes) for _ in range(3))
            with clock.phase("htod"):
                gpu.upload(now, inputs["temperature"])
                gpu.upload(power, inputs["power"])
            with clock.phase("launch"):
                for done in range(0, total, pyramid):
                    steps = min(pyramid, total - done)
                    arguments = [i32(steps), pointer(power), pointer(now), pointer(then), i32(n), i32(n)]
                    arguments += [f32(value) for value in (rate, rx1, ry1, rz1, AMBIENT)]
                    # The last launch may take fewer steps: its blocks then overlap less, so fewer would do.
                    gpu.launch("hotspot", (side, side), (TILE, TILE), arguments)
                    now, then = then, now
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(result, now)
        return {"temperature": result}

    def compute(self, inputs: Inputs) -> Arrays:
        rate, rx1, ry1, rz1 = coefficients(inputs.count("n"))
        now = inputs["temperature"].astype(np.float64)
        power = inputs["power"].astype(np.float64)
        for _ in range(inputs.count("steps")):
            now = _step(now, power, rate, rx1, ry1, rz1)
        return {"temperature": now}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # A step is a weighted mean of neighbours: it amplifies no error and adds under two units in the last
        # place of the largest temperature.
        want = self.reference(inputs)["temperature"]
        bound = 2.0 * inputs.count("steps") * float(np.spacing(np.float32(np.abs(want).max())))
        return close("temperature", outputs, want, bound)


def coefficients(n: int) -> tuple[float, float, float, float]:
    """Step over capacitance, and inverse thermal resistances in x, y and z, of one of n x n cells."""
    cell = EDGE / n
    capacitance = CAPACITANCE_FACTOR * SPECIFIC_HEAT * THICKNESS * cell * cell
    resistance_xy = cell / (2.0 * CONDUCTIVITY * THICKNESS * cell)
    resistance_z = THICKNESS / (CONDUCTIVITY * cell * cell)
    slope = MAXIMUM_POWER_DENSITY / (CAPACITANCE_FACTOR * THICKNESS * SPECIFIC_HEAT)
    return PRECISION / slope / capacitance, 1 / resistance_xy, 1 / resistance_xy, 1 / resistance_z


def _step(now: Array, power: Array, rate: float, rx1: float, ry1: float, rz1: float) -> Array:
    around = np.pad(now, 1, mode="edge")
    vertical = around[2:, 1:-1] + around[:-2, 1:-1] - 2.0 * now
    horizontal = around[1:-1, 2:] + around[1:-1, :-2] - 2.0 * now
    change: Array = now + rate * (power + vertical * ry1 + horizontal * rx1 + (AMBIENT - now) * rz1)
    return change

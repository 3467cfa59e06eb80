"""NN: the k records nearest to a position, over files of hurricane records (Rodinia)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from gpuvm.workloads import data as files
from gpuvm.workloads.base import Array, Arrays, Clock, Inputs, Parameters, Source, Workload, WorkloadError
from gpuvm.workloads.program import Program, blocks, f32, i32, pointer
from gpuvm.workloads.verdict import Verdict, close, exact, worst

BLOCK = 256
FILES = tuple(f"cane4_{i}.db" for i in range(4))


class NearestNeighbours(Workload):
    """NN: distances on the device, the `k` smallest on the host."""

    name = "NN"
    title = "k nearest neighbours"
    kernels = "nn"
    sizes: ClassVar[Mapping[str, Parameters]] = {
        "paper": {"records": 4 * 10691, "k": 5, "latitude": 30.0, "longitude": 90.0},
        "small": {"records": 1000, "k": 5, "latitude": 30.0, "longitude": 90.0},
    }

    def validate(self, parameters: Parameters) -> None:
        records, k = parameters["records"], parameters["k"]
        if records != int(records) or k != int(k) or not 1 <= k <= records <= 1 << 24:
            raise WorkloadError(
                f"NN needs 1 <= k <= records <= {1 << 24}, both whole, not k={k} and records={records}"
            )

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        """Positions with one decimal, as in the records."""
        count = int(parameters["records"])
        latitude = rng.integers(70, 700, count) / 10
        longitude = rng.integers(0, 3590, count) / 10
        return {"positions": np.stack((latitude, longitude), axis=1).astype(np.float32)}

    def read(self, data: Path, parameters: Parameters) -> Source | None:
        positions = np.concatenate([files.records(data / "nn" / name) for name in FILES])
        count = min(int(parameters["records"]), len(positions))
        if count < parameters["k"]:
            k = parameters["k"]
            raise WorkloadError(f"the record files must hold at least k={k} records, not {count}")
        text = f"nn/{FILES[0]} to {FILES[-1]}"
        if count < len(positions):
            text += f" (first {count} records)"
        return Source({"positions": np.ascontiguousarray(positions[:count])}, text, {"records": count})

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        positions = inputs["positions"]
        count = len(positions)
        distances = np.empty(count, np.float32)
        with Program(cu, clock, self.kernels) as gpu:
            with clock.phase("init"):
                d_positions, d_distances = gpu.allocate(positions.nbytes), gpu.allocate(distances.nbytes)
            with clock.phase("htod"):
                gpu.upload(d_positions, positions)
            with clock.phase("launch"):
                arguments = [pointer(d_positions), pointer(d_distances), i32(count)]
                arguments += [f32(inputs.real("latitude")), f32(inputs.real("longitude"))]
                gpu.launch("euclid", (blocks(count, BLOCK),), (BLOCK,), arguments)
                gpu.synchronize()
            with clock.phase("dtoh"):
                gpu.download(distances, d_distances)
        return {"distances": distances, "nearest": nearest(distances, inputs.count("k"))}

    def compute(self, inputs: Inputs) -> Arrays:
        target = np.array([inputs.real("latitude"), inputs.real("longitude")])
        return {"distances": np.hypot(*(target - inputs["positions"].astype(np.float64)).T)}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        # Two differences, two products, a sum and a root: under 4 roundings of a distance.
        want = self.reference(inputs)["distances"]
        verdict = close("distances", outputs, want, 4 * 2.0**-24 * want + 1e-30)
        if not verdict:
            return verdict
        # Which of two records at one distance comes first, the distances that the device computed settle.
        return worst(verdict, exact("nearest", outputs, nearest(outputs["distances"], inputs.count("k"))))


def nearest(distances: Array, k: int) -> Array:
    """Indices of the k smallest distances, nearest first, the earlier record first among equals."""
    order: Array = np.argsort(distances, kind="stable")[:k]
    return order

"""Simulates a fleet: on this core, or GPU by GPU on the workers of a Dask cluster. Both give the same bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from gpuvm.lab.simulation.engine import simulate_gpu
from gpuvm.lab.simulation.fleet import Settings, Task
from gpuvm.lab.simulation.program import Program
from gpuvm.lab.simulation.statistics import GpuResult

Progress = Callable[[int], None]
"""Told how many more GPUs are done."""


def simulate(
    tasks: Sequence[Task],
    programs: Sequence[Program],
    settings: Settings,
    progress: Progress | None = None,
    *,
    reference: bool = False,
) -> list[GpuResult]:
    """Simulate every GPU, one after the other; `reference` does it with SimPy, some ten times slower."""
    if reference:
        from gpuvm.lab.simulation.reference import simulate_gpu as one
    else:
        one = simulate_gpu
    results = []
    for task in tasks:
        results.append(one(task, programs, settings))
        if progress is not None:
            progress(1)
    return results


def digest(results: Sequence[GpuResult]) -> str:
    """A fingerprint of everything that was counted: equal for equal simulations, wherever they ran."""
    state = hashlib.sha256()
    for result in sorted(results, key=lambda result: result.gpu):
        for name in GpuResult.__slots__:
            value = getattr(result, name)
            data = value.tobytes() if isinstance(value, np.ndarray) else str(value).encode()
            state.update(f"{name}:{len(data)}:".encode() + data)
    return state.hexdigest()

"""A simulation's results as one document: what `gpuvm simulate --json` writes and what its tables show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuvm.lab.simulation.fleet import Settings
from gpuvm.lab.simulation.program import Program
from gpuvm.lab.simulation.statistics import GpuResult, mean, share_errors, summarize

SCHEMA = 1


def document(
    results: Sequence[GpuResult], programs: Sequence[Program], settings: Settings, gpus: int, digest: str
) -> dict[str, Any]:
    """Everything but how long the simulation took, so that equal simulations give equal documents."""
    return {
        "schema": SCHEMA,
        "scheduler": settings.scheduler,
        "parameters": dict(settings.parameters),
        "gpus": gpus,
        "until_s": settings.until / 1e9,
        "window_s": settings.window / 1e9,
        "seed": settings.seed,
        "digest": digest,
        "fleet": summarize(results, settings.until, settings.window),
        "programs": [
            row
            for number, program in enumerate(programs)
            if (row := _program(number, program, results, settings)) is not None
        ],
        "gpu_use": [result.busy / settings.until for result in results],
        "vms": sorted(
            (row for result in results for row in _machines(result, programs, settings)),
            key=lambda row: row["vm"],
        ),
    }


def _machines(result: GpuResult, programs: Sequence[Program], settings: Settings) -> list[dict[str, Any]]:
    errors = share_errors(result)
    rows = []
    for at, vm in enumerate(result.vms.tolist()):
        column = errors[:, at].tolist()
        rows.append(
            {
                "vm": vm,
                "gpu": result.gpu,
                "program": programs[int(result.programs[at])].name,
                "weight": int(result.weights[at]),
                "launches": int(result.launches[at]),
                "share": int(result.used[at]) / settings.until,
                "entitled": float(result.entitled[at]),
                "window_error_mean": mean(column),
                "window_error_worst": max(column, default=None),
                "p50_ns": int(result.p50[at]),
                "p99_ns": int(result.p99[at]),
                "longest_ns": int(result.longest[at]),
                "longest_wait_ns": int(result.longest_wait[at]),
            }
        )
    return rows


def _program(
    number: int, program: Program, results: Sequence[GpuResult], settings: Settings
) -> dict[str, Any] | None:
    """Means over all machines that run a program; None if none does."""
    parts = [(result, result.programs == number) for result in results]
    count = sum(int(chosen.sum()) for _, chosen in parts)
    if not count:
        return None

    def column(name: str) -> list[Any]:
        return [value for result, chosen in parts for value in getattr(result, name)[chosen].tolist()]

    return {
        "program": program.name,
        "vms": count,
        "weight": mean(column("weights")),
        "launches": sum(column("launches")),
        "share": (mean(column("used")) or 0.0) / settings.until,
        "entitled": mean(column("entitled")),
        "p50_ns": mean(column("p50")),
        "p99_ns": mean(column("p99")),
        "longest_ns": max(column("longest")),
    }

"""The fleet on a Dask cluster: runs of GPUs as tasks, on workers of this machine or of many."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from gpuvm.lab.simulation.engine import simulate_gpu
from gpuvm.lab.simulation.fleet import Settings, Task
from gpuvm.lab.simulation.program import Program
from gpuvm.lab.simulation.statistics import GpuResult

PIECES = 8
"""Tasks a worker gets, so that an unlucky one does not hold up the end."""


class ClusterError(RuntimeError):
    """The cluster is not there or lost its workers."""


def simulate_on_cluster(
    tasks: Sequence[Task],
    programs: Sequence[Program],
    settings: Settings,
    progress: Callable[[int], None] | None = None,
    *,
    workers: int = 2,
    address: str | None = None,
) -> list[GpuResult]:
    """Simulate every GPU on Dask workers; the results come in order of the GPUs.

    Parameters
    ----------
    workers : int
        Processes to start on this machine, if there is no `address`.
    address : str, optional
        Scheduler of a cluster that is running, such as "tcp://host:8786".

    Raises
    ------
    ClusterError
        If Dask is not installed, or the cluster cannot be reached.
    """
    try:
        import distributed
        from distributed.deploy.subprocess import SubprocessCluster
    except ImportError:
        raise ClusterError(
            "--engine dask needs dask.distributed, which is not installed: pip install 'gpuvm[cluster]'"
        ) from None
    dask: Any = distributed
    with ExitStack() as stack:
        try:
            if address is None:
                cluster: Any = stack.enter_context(
                    SubprocessCluster(
                        n_workers=workers,
                        worker_kwargs={"nthreads": 1, "dashboard": False},
                        scheduler_kwargs={"dashboard": False},
                        silence_logs=50,
                    )
                )
                client: Any = stack.enter_context(dask.Client(cluster))
            else:
                client = stack.enter_context(dask.Client(address, timeout=10))
                workers = max(len(client.scheduler_info()["workers"]), 1)
        except (OSError, TimeoutError) as error:
            where = address or "of this machine"
            raise ClusterError(f"the Dask cluster {where} must be reachable: {error}") from None
        shared = client.scatter((list(programs), settings), broadcast=True)
        futures = [
            client.submit(_piece_of, piece, shared, pure=False) for piece in split(tasks, workers * PIECES)
        ]
        results: list[GpuResult] = []
        for future in dask.as_completed(futures):
            piece: list[GpuResult] = future.result()
            results.extend(piece)
            if progress is not None:
                progress(len(piece))
    results.sort(key=lambda result: result.gpu)
    return results


def _piece_of(tasks: Sequence[Task], shared: tuple[Sequence[Program], Settings]) -> list[GpuResult]:
    programs, settings = shared
    return [simulate_gpu(task, programs, settings) for task in tasks]


def split(tasks: Sequence[Task], pieces: int) -> list[Sequence[Task]]:
    """Runs of tasks, as equal in length as can be, none empty."""
    pieces = min(pieces, len(tasks))
    bounds = [len(tasks) * at // pieces for at in range(pieces + 1)]
    return [tasks[start:end] for start, end in itertools.pairwise(bounds)]

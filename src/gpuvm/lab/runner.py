"""Runs workloads in virtual machines side by side: a thread each, a common start, each result checked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog

from gpuvm.lab.clock import Phase, PhaseClock, add
from gpuvm.lab.costs import device_seconds
from gpuvm.workloads.base import Arrays, Inputs, Workload
from gpuvm.workloads.program import CudaError

log = structlog.get_logger(__name__)


class Guest(Protocol):
    """A virtual machine as the runner needs it; `lab.system` makes them."""

    @property
    def name(self) -> str: ...

    @property
    def mode(self) -> str: ...

    def counters(self) -> Mapping[str, float]:
        """Counted events of this machine and its GPU so far; they only grow."""

    def process(self) -> AbstractContextManager[Any]:
        """A new process in the machine: gives its CUDA driver API, and releases all it held at the end."""


class Observer(Protocol):
    """Is told how far runs are, from the threads that run them."""

    def began(self, job: Job, /) -> None: ...

    def entered(self, job: Job, phase: str, /) -> None: ...

    def ended(self, job: Job, run: Run, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Job:
    """One program to run in one machine."""

    guest: Guest
    workload: Workload
    inputs: Inputs


@dataclass(slots=True)
class Run:
    """What came of a job.

    Attributes
    ----------
    vm : str
        Name of the machine.
    verified : bool
        The program ended without an error and all of its results are right.
    error : str
        One sentence if it is not verified.
    wall_s : float
        From the program's first call to its last.
    phases : dict
        By name, in the papers' order.
    counters : dict
        What moved from the program's first call to its last.
    """

    mode: str
    workload: str
    size: str
    vm: str
    verified: bool = False
    error: str = ""
    wall_s: float = 0.0
    phases: dict[str, Phase] = field(default_factory=dict)
    counters: dict[str, float] = field(default_factory=dict)

    @property
    def device_s(self) -> float:
        """Device time of the phases together, in seconds."""
        return sum(device_seconds(phase.counters) for phase in self.phases.values())


def run_together(jobs: Sequence[Job], observer: Observer | None = None) -> list[Run]:
    """Run jobs at the same time, at most one a machine, and check each result afterwards.

    All programs start together; results are compared with the reference when the last one has ended, so that
    no check takes time from a program. A job that fails does not disturb the others.
    """
    if len({id(job.guest) for job in jobs}) != len(jobs):
        raise ValueError("jobs that run together must be in different machines")
    for job in jobs:
        job.workload.reference(job.inputs)
    start = threading.Barrier(len(jobs))
    with ThreadPoolExecutor(max(len(jobs), 1), thread_name_prefix="lab") as pool:
        pending = [pool.submit(_run, job, start, observer) for job in jobs]
        results = [future.result() for future in pending]
    for job, (run, outputs) in zip(jobs, results, strict=True):
        if outputs is not None:
            verdict = job.workload.check(job.inputs, outputs)
            run.verified, run.error = verdict.ok, verdict.error
        if observer is not None:
            observer.ended(job, run)
    return [run for run, _ in results]


def _run(job: Job, start: threading.Barrier, observer: Observer | None) -> tuple[Run, Arrays | None]:
    guest = job.guest
    run = Run(guest.mode, job.workload.name, job.inputs.size, guest.name)
    entered: Callable[[str], None] | None = None
    if observer is not None:
        entered = lambda phase: observer.entered(job, phase)  # noqa: E731
    clock = PhaseClock(guest.counters, entered)
    run.phases = clock.phases
    start.wait()
    if observer is not None:
        observer.began(job)
    outputs: Arrays | None = None
    began = time.perf_counter()
    try:
        with guest.process() as cuda:
            began = time.perf_counter()
            outputs = job.workload.run(cuda, job.inputs, clock)
            run.wall_s = time.perf_counter() - began
    except CudaError as error:
        run.error = str(error)
        outputs = None
    except Exception as error:
        # A defect of the program or below: it fails this run and is told in full; the others go on.
        log.exception("a workload ended by an exception", workload=run.workload, mode=run.mode, vm=run.vm)
        run.error = f"{type(error).__name__}: {error}"
        outputs = None
    if outputs is None:
        run.wall_s = time.perf_counter() - began
    for phase in clock.phases.values():
        add(run.counters, phase.counters)
    return run, outputs

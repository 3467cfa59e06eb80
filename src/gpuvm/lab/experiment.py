"""Experiments over several modes: the same programs native, passed through and virtualized, side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from gpuvm.jit.executor import Executor
from gpuvm.lab.modes import MODES
from gpuvm.lab.runner import Job, Observer, Run, run_together
from gpuvm.lab.system import MEMORY, VRAM, System
from gpuvm.workloads.base import SEED, Inputs, Workload


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes
    ----------
    modes : sequence of str
        Names in `MODES`.
    workloads : sequence of Workload
    size : str or mapping
        "paper" or "small", for all workloads or by a workload's name.
    vms : int
        Machines of a mode that can share the GPU; the others have one.
    scheduler : str
        Name of a scheduling policy.
    data : Path or None
        Folder of Rodinia's inputs; None makes inputs.
    seed : int
        Of the made inputs.
    repeat : int
        Times that each workload runs in each mode.
    stagger : int
        Machine n runs the workload that stands n * stagger places further on, so that different programs
        share the GPU; 0 has all machines run the same one.
    """

    modes: Sequence[str]
    workloads: Sequence[Workload]
    size: str | Mapping[str, str] = "paper"
    vms: int = 1
    scheduler: str = "fifo"
    data: Path | None = None
    seed: int = SEED
    repeat: int = 1
    stagger: int = 0
    warm_up: bool = True
    """Whether each workload runs once in the first mode before it is measured. That translates its kernels
    and touches its memory for the first time, which would otherwise count against the first mode."""
    vram: int = VRAM
    memory: int = MEMORY
    """Bytes of video memory and of RAM that each machine has."""

    def machines(self, mode: str) -> int:
        """Machines of a mode."""
        return self.vms if MODES[mode].shared else 1

    @property
    def runs(self) -> int:
        """Runs that the plan makes in all."""
        return sum(self.machines(mode) for mode in self.modes) * len(self.workloads) * self.repeat

    def inputs(self, workload: Workload) -> Inputs:
        """Input of a workload.

        Raises
        ------
        WorkloadError
            If the data folder does not hold it in Rodinia's format.
        """
        size = self.size if isinstance(self.size, str) else self.size.get(workload.name, "small")
        return workload.inputs(size, self.data, self.seed)


def carry_out(
    plan: Plan, observer: Observer | None = None, attach: Callable[[System], None] | None = None
) -> Iterator[Run]:
    """Run a plan: for each workload all modes one after the other, the machines of a mode together.

    `attach` is told of each system when it is made. Yields each run when it has been checked. The systems are
    taken down when the iterator ends or is closed.
    """
    count = len(plan.workloads)
    cold = {workload.name for workload in plan.workloads} if plan.warm_up else set()
    with ExitStack() as stack:
        executor = Executor()
        stack.callback(executor.close)
        systems = [
            stack.enter_context(
                System(
                    mode,
                    plan.machines(mode),
                    scheduler=plan.scheduler,
                    vram=plan.vram,
                    memory=plan.memory,
                    executor=executor,
                )
            )
            for mode in plan.modes
        ]
        if attach is not None:
            for system in systems:
                attach(system)
        for turn in range(count):
            for system in systems:
                chosen = [
                    plan.workloads[(turn + number * plan.stagger) % count]
                    for number in range(len(system.guests))
                ]
                for workload in chosen:
                    if workload.name in cold:
                        cold.remove(workload.name)
                        run_together([Job(systems[0].guests[0], workload, plan.inputs(workload))])
                for _ in range(plan.repeat):
                    jobs = [
                        Job(guest, workload, plan.inputs(workload))
                        for guest, workload in zip(system.guests, chosen, strict=True)
                    ]
                    yield from run_together(jobs, observer)
            if plan.stagger == 0:
                plan.workloads[turn].forget()

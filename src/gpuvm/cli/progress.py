"""How far an experiment is: bars on a terminal, a line a run where the output is kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from gpuvm.lab.runner import Job, Run


class ProgressObserver(Protocol):
    """An `Observer` of runs that is opened and closed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def began(self, job: Job, /) -> None: ...

    def entered(self, job: Job, phase: str, /) -> None: ...

    def ended(self, job: Job, run: Run, /) -> None: ...


def observer(console: Console, machines: Sequence[tuple[str, str, int]]) -> ProgressObserver:
    """Bars if `console` is a terminal, else lines. `machines` are (mode, machine's name, number of runs)."""
    return _Bars(console, machines) if console.is_terminal else _Lines(console, machines)


class _Bars:
    """A bar for each machine, with the program and the phase that it is in."""

    def __init__(self, console: Console, machines: Sequence[tuple[str, str, int]]) -> None:
        self._progress = Progress(
            TextColumn("{task.fields[mode]:<11} {task.fields[vm]:<8}"),
            BarColumn(bar_width=40),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            refresh_per_second=8,
        )
        self._console = console
        self._tasks: dict[tuple[str, str], TaskID] = {
            (mode, vm): self._progress.add_task("", total=runs, mode=mode, vm=vm, start=False)
            for mode, vm, runs in machines
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _task(self, job: Job) -> TaskID:
        return self._tasks[job.guest.mode, job.guest.name]

    def began(self, job: Job, /) -> None:
        self._progress.start_task(self._task(job))
        self._progress.update(self._task(job), description=job.workload.name)

    def entered(self, job: Job, phase: str, /) -> None:
        self._progress.update(self._task(job), description=f"{job.workload.name} [dim]{phase}[/]")

    def ended(self, job: Job, run: Run, /) -> None:
        self._progress.update(self._task(job), advance=1, description="")
        if run.error:
            self._console.print(failure(run), highlight=False, markup=False)


class _Lines:
    """A line for each run that ended."""

    def __init__(self, console: Console, machines: Sequence[tuple[str, str, int]]) -> None:
        self._console = console
        self._all = sum(runs for _, _, runs in machines)
        self._done = 0
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def began(self, job: Job, /) -> None:
        pass

    def entered(self, job: Job, phase: str, /) -> None:
        pass

    def ended(self, job: Job, run: Run, /) -> None:
        with self._lock:
            self._done += 1
            place = f"[{self._done}/{self._all}]"
        verdict = "verified" if run.verified else f"NOT VERIFIED: {run.error}"
        text = f"{place} {run.mode} {run.vm} {run.workload}: {run.wall_s:.2f} s, {verdict}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def failure(run: Run) -> str:
    """One sentence on a run that is not verified."""
    return f"{run.workload} in {run.vm} ({run.mode}) was not verified: {run.error}"

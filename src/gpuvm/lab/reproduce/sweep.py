"""Every workload once in every mode: the runs that several experiments read, kept in a file as they come, so
that an interrupted sweep goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from gpuvm.hypervisor.full import FullGpu
from gpuvm.lab.costs import device_seconds
from gpuvm.lab.experiment import Plan, carry_out
from gpuvm.lab.runner import Job, Observer, Run
from gpuvm.lab.system import System
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.base import PHASES

Record = dict[str, Any]
"""One run as it stands in the file."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What to run."""

    modes: tuple[str, ...]
    workloads: tuple[str, ...]
    size: str
    data: Path | None = None
    repeat: int = 1

    @property
    def key(self) -> str:
        """Tells whether a file was made for this choice."""
        return json.dumps(
            [self.size, self.repeat, None if self.data is None else str(self.data), "v1"],
            separators=(",", ":"),
        )


class _Watch:
    """Passes on what it hears, and writes down how much the shadows took in each run."""

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self._virtual: dict[int, FullGpu] = {}
        self.peaks: dict[int, int] = {}
        """By identity of the run."""

    def attach(self, system: System) -> None:
        if system.aggregator is not None:
            by_name = {each.name: each for each in system.aggregator.virtual_gpus()}
            for guest in system.guests:
                virtual = by_name[guest.name]
                if isinstance(virtual, FullGpu):
                    self._virtual[id(guest)] = virtual

    def began(self, job: Job, /) -> None:
        virtual = self._virtual.get(id(job.guest))
        if virtual is not None:
            virtual.forget_peak()
        if self._observer is not None:
            self._observer.began(job)

    def entered(self, job: Job, phase: str, /) -> None:
        if self._observer is not None:
            self._observer.entered(job, phase)

    def ended(self, job: Job, run: Run, /) -> None:
        virtual = self._virtual.get(id(job.guest))
        self.peaks[id(run)] = 0 if virtual is None else virtual.shadow_bytes_peak
        if self._observer is not None:
            self._observer.ended(job, run)


def record(run: Run, shadow_bytes: int) -> Record:
    """A run as the file keeps it: counters by phase, so that device time can be had under any cost table."""
    return {
        "mode": run.mode,
        "workload": run.workload,
        "verified": run.verified,
        "error": run.error,
        "wall_s": run.wall_s,
        "phases": {
            name: {"wall_s": phase.wall_s, "counters": dict(sorted(phase.counters.items()))}
            for name, phase in run.phases.items()
        },
        "shadow_bytes": shadow_bytes,
    }


def run_sweep(path: Path, choice: Choice, observer: Callable[[Choice], Any], *, force: bool = False) -> Sweep:
    """Run what the file does not hold yet, and return all of `choice`.

    Parameters
    ----------
    observer : callable
        Makes the observer, a context manager, for what is left to run.
    """
    have = [] if force else _read(path, choice)
    done = {(row["mode"], row["workload"]) for row in have}
    todo = tuple(name for name in choice.workloads if any((mode, name) not in done for mode in choice.modes))
    if not have:
        path.write_text(json.dumps({"sweep": choice.key}) + "\n", encoding="utf-8")
    if todo:
        have = [row for row in have if row["workload"] not in todo]
        rest = Choice(choice.modes, todo, choice.size, choice.data, choice.repeat)
        with observer(rest) as watching, path.open("a", encoding="utf-8") as out:
            for rows in _run(rest, watching):
                have += rows
                out.write("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
                out.flush()
    return Sweep(
        choice, [row for row in have if row["mode"] in choice.modes and row["workload"] in choice.workloads]
    )


def _read(path: Path, choice: Choice) -> list[Record]:
    """What an earlier sweep of the same kind left; a line that was cut off is left out."""
    try:
        head, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(head) != {"sweep": choice.key}:
            return []
    except (OSError, ValueError):
        return []
    latest: dict[tuple[str, str], list[Record]] = {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        same = latest.setdefault((row["mode"], row["workload"]), [])
        if len(same) >= choice.repeat:
            same.clear()  # run again later: with other modes beside it
        same.append(row)
    return [row for rows in latest.values() for row in rows if len(rows) == choice.repeat]


def _run(choice: Choice, observer: Observer | None) -> Iterator[list[Record]]:
    """Yield the records of one workload after the other."""
    watch = _Watch(observer)
    plan = Plan(
        modes=list(choice.modes),
        workloads=[WORKLOADS[name] for name in choice.workloads],
        size=choice.size,
        data=choice.data,
        repeat=choice.repeat,
    )
    rows: list[Record] = []
    for run in carry_out(plan, watch, watch.attach):
        rows.append(record(run, watch.peaks.pop(id(run))))
        if len(rows) == len(choice.modes) * choice.repeat:
            yield rows
            rows = []


@dataclass(slots=True)
class Sweep:
    """The runs, and what is read off them. Times are medians over repetitions."""

    choice: Choice
    rows: list[Record]
    _by: dict[tuple[str, str], list[Record]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.rows:
            self._by.setdefault((row["mode"], row["workload"]), []).append(row)

    @property
    def modes(self) -> Sequence[str]:
        return self.choice.modes

    @property
    def workloads(self) -> Sequence[str]:
        return self.choice.workloads

    def wall(self, mode: str, workload: str, phase: str | None = None) -> float:
        """Wall seconds of a program or of one of its phases."""
        rows = self._by[mode, workload]
        if phase is None:
            return float(median(row["wall_s"] for row in rows))
        return float(median(row["phases"][phase]["wall_s"] for row in rows))

    def device(self, mode: str, workload: str, *phases: str) -> float:
        """Device seconds of a program, or of some of its phases."""
        rows = self._by[mode, workload]
        return median(
            sum(device_seconds(row["phases"][name]["counters"]) for name in phases or PHASES) for row in rows
        )

    def counters(self, mode: str, workload: str, *phases: str) -> dict[str, float]:
        """Counted events, means over repetitions."""
        rows = self._by[mode, workload]
        total: dict[str, float] = {}
        for row in rows:
            for name in phases or PHASES:
                for event, count in row["phases"][name]["counters"].items():
                    total[event] = total.get(event, 0) + count / len(rows)
        return total

    def shadow_bytes(self, mode: str, workload: str) -> int:
        """Most video memory that the shadows took."""
        return int(max(row["shadow_bytes"] for row in self._by[mode, workload]))

    def verified(self, mode: str) -> tuple[int, int]:
        """Runs of a mode that were verified, and all."""
        rows = [row for row in self.rows if row["mode"] == mode]
        return sum(bool(row["verified"]) for row in rows), len(rows)

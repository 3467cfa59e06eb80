"""`gpuvm bench` and `gpuvm demo`: the workloads in the modes, a table for people, a JSON file for tools."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import typer
from rich.console import Console

from gpuvm.cli.errors import FAILED, CommandError, choose, choose_one, save
from gpuvm.cli.logs import to_stderr
from gpuvm.cli.progress import observer
from gpuvm.hypervisor.errors import HypervisorError
from gpuvm.lab import traces
from gpuvm.lab.experiment import Plan, carry_out
from gpuvm.lab.machine import describe
from gpuvm.lab.modes import MODES
from gpuvm.lab.recorder import Recorder
from gpuvm.lab.report import comparison, document, totals
from gpuvm.lab.runner import Run
from gpuvm.schedulers import NAMES
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.base import SIZES, WorkloadError


def bench(
    mode: str,
    workload: str,
    size: str,
    vms: int,
    scheduler: str,
    data: Path | None,
    json_file: Path | None,
    repeat: int,
    warm_up: bool,
    seed: int,
    times: str,
    picture: Path | None,
    record: Path | None = None,
) -> None:
    """Carry out what the options say, print the table, write the JSON.

    Raises
    ------
    CommandError
        If an option names something that is not there, or the JSON file cannot be written.
    """
    chosen_times = choose_one("--times", times, ["wall", "device"])
    plan = Plan(
        modes=choose("--mode", mode, MODES),
        workloads=[WORKLOADS[name] for name in choose("--workload", workload, WORKLOADS)],
        size=choose_one("--size", size, SIZES),
        vms=vms,
        scheduler=choose_one("--scheduler", scheduler, NAMES),
        data=data,
        seed=seed,
        repeat=repeat,
        warm_up=warm_up,
    )
    if data is not None and not data.is_dir():
        raise CommandError(f"--data must be a folder laid out as Rodinia's data, got {data}")
    check_outputs(json_file, picture, record)
    runs = perform(plan, record)
    if json_file is not None:
        write(json_file, runs)
    show(runs, chosen_times, picture)
    finish(runs)


DEMO_SIZES: dict[str, str] = {}
"""Workloads that the demo runs at another size than the papers'."""


def demo(json_file: Path | None, picture: Path | None) -> None:
    """Two machines share the GPU; the same natively and passed through."""
    check_outputs(json_file, picture)
    everything = list(WORKLOADS.values())
    plan = Plan(
        modes=list(MODES),
        workloads=everything,
        size={each.name: DEMO_SIZES.get(each.name, "paper") for each in everything},
        vms=2,
        stagger=len(everything) // 2,
    )
    print(
        "Two virtual machines share one Fermi GPU under full virtualization (fv-naive) and run different\n"
        "programs at once; the same programs run natively and passed through. Every result is checked."
    )
    runs = perform(plan)
    if json_file is not None:
        write(json_file, runs)
    show(runs, "wall", picture)
    finish(runs)


def check_outputs(json_file: Path | None, picture: Path | None, record: Path | None = None) -> None:
    """Find out before the work, not after it, that its result has no place."""
    for option, path in (("--json", json_file), ("--svg", picture), ("--record", record)):
        if path is not None and not path.absolute().parent.is_dir():
            raise CommandError(f"{option} must name a file in a folder that exists, got {path}")


def perform(plan: Plan, record: Path | None = None) -> list[Run]:
    """Carry a plan out with progress on stderr; write a trace of it to `record`."""
    to_stderr()
    console = Console(stderr=True)
    runs_each = len(plan.workloads) * plan.repeat
    machines = [(mode, vm, runs_each) for mode in plan.modes for vm in names(plan, mode)]
    runs: list[Run] = []
    try:
        with observer(console, machines) as watching:
            if record is None:
                runs.extend(carry_out(plan, watching))
            else:
                recorder = Recorder(watching)
                runs.extend(carry_out(plan, recorder, recorder.attach))
                save_trace(record, recorder.streams, console)
    except (WorkloadError, HypervisorError) as error:
        raise CommandError(str(error)) from None
    return runs


def save_trace(path: Path, streams: list[traces.Stream], console: Console) -> None:
    """Write a trace and say what is in it."""
    try:
        traces.write(path, streams, describe())
    except OSError as error:
        raise CommandError(f"{path} must be writable: {error.strerror}", FAILED) from None
    console.print(f"Recorded {traces.summary(streams)}.", highlight=False, markup=False)


def names(plan: Plan, mode: str) -> list[str]:
    """Names of a mode's machines."""
    return [f"vm{number}" for number in range(plan.machines(mode))]


def write(path: Path, runs: list[Run]) -> None:
    """Write the JSON document."""
    save(path, (json.dumps(document(describe(), runs), indent=1) + "\n").encode())


def show(runs: list[Run], times: str, picture: Path | None) -> None:
    """Print the table, never narrower than it needs to be, and the closing sentences; also as a picture."""
    table = comparison(runs, times)
    console = Console(highlight=False)
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    outputs = [Console(highlight=False, width=max(needed, console.width))]
    if picture is not None:
        outputs.append(Console(highlight=False, width=needed, record=True, file=io.StringIO()))
    for output in outputs:
        output.print(table)
        for line in totals(runs):
            output.print(line, markup=False)
    if picture is not None:
        drawn = outputs[-1].export_svg(title="gpuvm")
        save(picture, FONT_DOWNLOADS.sub("", drawn).encode())


FONT_DOWNLOADS = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""A picture shows with the fonts that are there; it loads none."""


def finish(runs: list[Run]) -> None:
    """End with status 1 if a run was not verified."""
    if not all(run.verified for run in runs):
        raise typer.Exit(FAILED)

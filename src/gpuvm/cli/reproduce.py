"""`gpuvm reproduce`: the papers' evaluation, experiment by experiment, and one page for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from gpuvm.cli.errors import FAILED, CommandError, choose, choose_one
from gpuvm.cli.logs import to_stderr
from gpuvm.cli.progress import observer
from gpuvm.hypervisor.errors import HypervisorError
from gpuvm.lab.modes import MODES
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.run import EXPERIMENTS, carry_out, load
from gpuvm.lab.reproduce.sweep import Choice
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.base import SIZES, WorkloadError


def reproduce(
    experiments: list[str],
    out: Path,
    size: str,
    modes: str,
    workloads: str,
    data: Path | None,
    repeat: int,
    force: bool,
) -> None:
    """Carry out experiments; say what came of each and where the page is.

    Raises
    ------
    CommandError
        If an option is wrong, or the machines cannot be made.
    """
    to_stderr()
    names = chosen_experiments(experiments)
    if data is not None and not data.is_dir():
        raise CommandError(f"--data must be a folder laid out as Rodinia's data, got {data}")
    choice = Choice(
        modes=tuple(mode for mode in MODES if mode in choose("--modes", modes, MODES)),
        workloads=tuple(name for name in WORKLOADS if name in choose("--workloads", workloads, WORKLOADS)),
        size=choose_one("--size", size, SIZES),
        data=data,
        repeat=repeat,
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out must be a folder that can be made, got {out}: {error.strerror}") from None
    console = Console(stderr=True, highlight=False)

    def watch(rest: Choice) -> Any:
        machines = [(mode, "vm0", len(rest.workloads) * rest.repeat) for mode in rest.modes]
        return observer(console, machines)

    def say(text: str) -> None:
        console.print(text, markup=False)

    try:
        written = carry_out(names, Context(out, choice, watch, say, force))
    except (WorkloadError, HypervisorError) as error:
        raise CommandError(str(error), FAILED) from None
    except OSError as error:
        raise CommandError(f"results could not be kept in {out}: {error}", FAILED) from None
    printer = Console(highlight=False)
    for name in names:
        document = load(out / f"{name}.json")
        if document is not None:
            printer.print(f"{EXPERIMENTS[name].number}. {EXPERIMENTS[name].title}", style="bold")
            for note in document["notes"]:
                printer.print(f"  {note}", markup=False, soft_wrap=True)
    printer.print(f"{len(written)} files; all of it on one page: {written[-1]}", markup=False, soft_wrap=True)


def chosen_experiments(wanted: list[str]) -> list[str]:
    """Names of experiments by name or number, in order of their numbers."""
    numbers = {str(each.number): each.name for each in EXPERIMENTS.values()}
    names = [numbers.get(text, text) for text in wanted] or ["all"]
    chosen = {name for text in names for name in choose("EXPERIMENT", text, EXPERIMENTS)}
    return [name for name in EXPERIMENTS if name in chosen]

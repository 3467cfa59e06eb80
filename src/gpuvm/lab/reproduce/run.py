"""Carries out experiments: measures what is not there yet, renders what is, writes one page for all."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuvm.lab.machine import describe
from gpuvm.lab.reproduce import accesses, boot, fairness, properties, scaling, times
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.page import Section, write_page
from gpuvm.lab.reproduce.report import Data, Report

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Experiment:
    """One of the evaluation's parts.

    Attributes
    ----------
    measure : callable
        Takes the measurements; what it returns goes to a JSON file.
    report : callable
        Makes tables, figures and notes of them.
    """

    number: int
    name: str
    title: str
    measure: Callable[[Context], Data]
    report: Callable[[Data], Report]


_ALL = (
    (1, "times", "Execution time relative to native", times.measure_times, times.report_times),
    (2, "phases", "Execution time by phase", times.measure_phases, times.report_phases),
    (
        3,
        "accesses",
        "Accesses to the BARs, and shadowing",
        accesses.measure_accesses,
        accesses.report_accesses,
    ),
    (4, "scaling", "Many contexts, many machines", scaling.measure_scaling, scaling.report_scaling),
    (5, "fairness", "Fairness of the schedulers", fairness.measure_fairness, fairness.report_fairness),
    (6, "boot", "Start of the driver", boot.measure_boot, boot.report_boot),
    (7, "written", "Bytes written by trapped accesses", accesses.measure_written, accesses.report_written),
    (8, "properties", "Five properties", properties.measure_properties, properties.report_properties),
)

EXPERIMENTS: dict[str, Experiment] = {
    name: Experiment(number, name, title, measure, report) for number, name, title, measure, report in _ALL
}
"""Every experiment by its name, in order of their numbers."""


def carry_out(names: Sequence[str], context: Context) -> list[Path]:
    """Carry out experiments and write their files and the page.

    An experiment whose JSON file was made for the same choice is not measured again, unless
    `context.force`. The page has every experiment whose results stand in the folder.

    Returns
    -------
    list of Path
        The files that were written, the page last.
    """
    written: list[Path] = []
    for name in names:
        experiment = EXPERIMENTS[name]
        path = context.folder / f"{name}.json"
        document = None if context.force else load(path, context)
        if document is None:
            context.say(f"{experiment.number}. {experiment.title}: measuring")
            began = time.perf_counter()
            data = experiment.measure(context)
            document = {
                "schema": SCHEMA,
                "experiment": name,
                "title": experiment.title,
                "choice": choice_of(context),
                "machine": describe(),
                "seconds": round(time.perf_counter() - began, 1),
                "data": data,
            }
        else:
            context.say(f"{experiment.number}. {experiment.title}: measured before; --force measures again")
        report = experiment.report(document["data"])
        # The notes belong to the machine-readable results, too; they are made anew with the report.
        document["notes"] = report.notes
        temporary = path.with_suffix(".json.part")
        temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
        written += [path, *report.save(context.folder, name)]
    written.append(page(context))
    return written


def choice_of(context: Context) -> dict[str, Any]:
    """What a result depends on beside the program."""
    choice = context.choice
    return {
        "size": choice.size,
        "modes": list(choice.modes),
        "workloads": list(choice.workloads),
        "data": None if choice.data is None else str(choice.data),
        "repeat": choice.repeat,
    }


def load(path: Path, context: Context | None = None) -> dict[str, Any] | None:
    """A result that is there and, if a context is given, was made for its choice; None otherwise."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return None
    if context is not None and document.get("choice") != choice_of(context):
        return None
    return document


def page(context: Context) -> Path:
    """Write the page of all experiments whose results are there."""
    sections = []
    for experiment in EXPERIMENTS.values():
        document = load(context.folder / f"{experiment.name}.json")
        if document is not None:
            report = experiment.report(document["data"])
            sections.append(Section(experiment.number, experiment.name, experiment.title, document, report))
    path = context.folder / "index.html"
    write_page(path, sections)
    return path

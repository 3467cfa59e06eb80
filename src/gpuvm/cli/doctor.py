"""`gpuvm doctor`: the findings of `lab.doctor` as a table or as JSON."""

from __future__ import annotations

import json

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gpuvm.cli.errors import FAILED
from gpuvm.jit.cache import default_directory
from gpuvm.lab.doctor import Finding, State, examine

_MARKS = {State.OK: "[green]ok[/]", State.OPTIONAL: "[yellow]lacks[/]", State.MISSING: "[red]missing[/]"}


def doctor(as_json: bool) -> None:
    findings = examine(default_directory())
    if as_json:
        rows = [
            {"name": f.name, "state": f.state.value, "value": f.value, "advice": f.advice} for f in findings
        ]
        print(json.dumps(rows, indent=2))
    else:
        Console(highlight=False).print(_table(findings))
        print(_summary(findings))
    if any(finding.state is State.MISSING for finding in findings):
        raise typer.Exit(FAILED)


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        value = escape(finding.value) + (f"\n[dim]{escape(finding.advice)}[/]" if finding.advice else "")
        table.add_row(finding.name, _MARKS[finding.state], value)
    return table


def _summary(findings: list[Finding]) -> str:
    missing = [finding.name for finding in findings if finding.state is State.MISSING]
    lacking = [finding.name for finding in findings if finding.state is State.OPTIONAL]
    if missing:
        return f"gpuvm cannot work here before this is mended: {', '.join(missing)}."
    if lacking:
        return f"gpuvm works here; without {', '.join(lacking)} some things are slower or left out."
    return "gpuvm works here, and nothing is lacking."

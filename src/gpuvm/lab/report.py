"""What a set of runs looks like outside: the JSON document of `gpuvm bench` and the tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.table import Table

from gpuvm.lab.clock import add
from gpuvm.lab.costs import device_seconds
from gpuvm.lab.runner import Run
from gpuvm.workloads.base import PHASES

SCHEMA = 1


def document(machine: Mapping[str, str | int], runs: Sequence[Run]) -> dict[str, Any]:
    """Runs as the JSON that `gpuvm bench --json` writes."""
    return {"schema": SCHEMA, "machine": dict(machine), "runs": [record(run) for run in runs]}


def record(run: Run) -> dict[str, Any]:
    """One run as it stands in the document. Times are seconds, counters count events of this run."""
    return {
        "mode": run.mode,
        "workload": run.workload,
        "size": run.size,
        "vm": run.vm,
        "verified": run.verified,
        "wall_s": run.wall_s,
        "device_s": run.device_s,
        "phases": {
            name: {"wall_s": phase.wall_s, "device_s": device_seconds(phase.counters)}
            for name, phase in run.phases.items()
        },
        "counters": dict(sorted(run.counters.items())),
    }


def comparison(runs: Sequence[Run], baseline: str = "native") -> Table:
    """The table of `gpuvm demo` and `gpuvm bench`: a row per workload and mode, slowdown against `baseline`.

    Times are the median over the virtual machines and repetitions of a row; traps are the mean. Device times
    stand under wall times. The slowdown in wall time leaves out what translation took: the first mode to run
    a kernel translates it for all.
    """
    table = Table(caption=_CAPTION, caption_justify="left")
    table.add_column("workload", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("verified", no_wrap=True)
    for phase in PHASES:
        table.add_column(f"{phase}\nms", justify="right", no_wrap=True)
    table.add_column("traps\nBAR0", justify="right", no_wrap=True)
    table.add_column("traps\nBAR1", justify="right", no_wrap=True)
    table.add_column("traps\nBAR3", justify="right", no_wrap=True)
    table.add_column("slowdown\nwall", justify="right", no_wrap=True)
    table.add_column("slowdown\ndevice", justify="right", no_wrap=True)
    for workload, rows in _by_workload(runs).items():
        base = rows.get(baseline)
        for number, (mode, group) in enumerate(rows.items()):
            table.add_row(
                workload if number == 0 else "",
                mode,
                _verified(group),
                *(_times(group, phase) for phase in PHASES),
                *(_traps(group, bar) for bar in (0, 1, 3)),
                *_slowdown(group, base, mode == baseline),
                end_section=number == len(rows) - 1,
            )
    return table


_CAPTION = (
    "Above: wall time here; the wall slowdown is without translation of kernels.\n"
    "[dim]Below: device time, what a Quadro 6000 under Xen would have taken (docs/costs.md).[/]"
)


def totals(runs: Sequence[Run], baseline: str = "native") -> list[str]:
    """Closing sentences: how many verified, and the mean slowdown of each mode against `baseline`."""
    verified = sum(run.verified for run in runs)
    lines = [f"{verified} of {len(runs)} runs verified."]
    groups = _by_workload(runs)
    for mode in dict.fromkeys(run.mode for run in runs):
        pairs = [
            (rows[mode], rows[baseline]) for rows in groups.values() if mode in rows and baseline in rows
        ]
        if mode == baseline or not pairs:
            continue
        wall = _geometric_mean([_median_wall(group) / _median_wall(base) for group, base in pairs])
        device = _geometric_mean([_median_device(group) / _median_device(base) for group, base in pairs])
        lines.append(
            f"{mode}: {wall:.2f}x {baseline} in wall time, {device:.1f}x in device time (geometric means)."
        )
    return lines


def _by_workload(runs: Sequence[Run]) -> dict[str, dict[str, list[Run]]]:
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.workload, {}).setdefault(run.mode, []).append(run)
    return groups


def _verified(group: Sequence[Run]) -> str:
    good = sum(run.verified for run in group)
    if good == len(group):
        return "[green]yes[/]" if good == 1 else f"[green]{good} of {good}[/]"
    return f"[red]{good} of {len(group)}[/]"


def _times(group: Sequence[Run], phase: str) -> str:
    wall = median(run.phases[phase].wall_s for run in group)
    device = median(device_seconds(run.phases[phase].counters) for run in group)
    return f"{_ms(wall)}\n[dim]{_ms(device)}[/]"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _traps(group: Sequence[Run], bar: int) -> str:
    total: dict[str, float] = {}
    for run in group:
        add(total, run.counters)
    count = (total.get(f"traps_bar{bar}_read", 0) + total.get(f"traps_bar{bar}_write", 0)) / len(group)
    return f"{count:,.0f}" if count else "[dim]-[/]"


def _slowdown(group: Sequence[Run], base: Sequence[Run] | None, is_base: bool) -> tuple[str, str]:
    if is_base or not base:
        return "[dim]-[/]", "[dim]-[/]"
    wall = _median_wall(group) / _median_wall(base)
    device = _median_device(group) / _median_device(base)
    return f"{wall:.2f}x", f"{device:.1f}x"


def _median_wall(group: Sequence[Run]) -> float:
    return max(median(run.wall_s - run.translation_s for run in group), 1e-9)


def _median_device(group: Sequence[Run]) -> float:
    return max(median(run.device_s for run in group), 1e-9)


def _geometric_mean(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return float(product ** (1 / len(values)))

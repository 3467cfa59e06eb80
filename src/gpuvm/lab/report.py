"""What a set of runs looks like outside: the JSON document of `gpuvm bench` and the tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from gpuvm.lab.clock import add
from gpuvm.lab.costs import device_seconds
from gpuvm.lab.modes import MODES
from gpuvm.lab.runner import Run
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.base import PHASES

SCHEMA = 1
TRAPPED_BARS = (0, 1, 3)


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


def comparison(runs: Sequence[Run], times: str = "wall", baseline: str = "native") -> Table:
    """The table of `gpuvm demo` and `gpuvm bench`: a row per workload and mode, slowdown against `baseline`.

    Times are medians over the machines and repetitions of a row, traps are means.

    Parameters
    ----------
    times : str
        "wall" or "device": which time the phases are given in.
    """
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=_CAPTIONS[times],
        caption_justify="left",
    )
    table.add_column("workload", no_wrap=True)
    table.add_column("mode", no_wrap=True)
    table.add_column("verified", no_wrap=True)
    numbers = [*(f"{phase}\nms" for phase in PHASES), "wall\nms", "device\nms"]
    numbers += [f"traps\nBAR{bar}" for bar in TRAPPED_BARS] + ["slowdown\nwall", "slowdown\ndevice"]
    for head in numbers:
        table.add_column(head, justify="right", no_wrap=True)
    for workload, rows in _by_workload(runs).items():
        base = rows.get(baseline)
        for number, (mode, group) in enumerate(rows.items()):
            table.add_row(
                workload if number == 0 else "",
                mode,
                _verified(group),
                *(_ms(_phase_seconds(group, phase, times)) for phase in PHASES),
                _ms(median(run.wall_s for run in group)),
                _ms(median(run.device_s for run in group)),
                *(_traps(group, bar) for bar in TRAPPED_BARS),
                *_slowdown(group, base, mode == baseline),
                end_section=number == len(rows) - 1,
            )
    return table


_WALL = "wall time: what this machine took"
_DEVICE = "device time: what a Quadro 6000 under Xen would have taken (docs/costs.md)"
_CAPTIONS = {
    "wall": f"Phases in {_WALL}.\nDevice: {_DEVICE.removeprefix('device time: ')}.",
    "device": f"Phases in {_DEVICE}.\nWall: {_WALL.removeprefix('wall time: ')}.",
}


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
    """Runs by workload and mode, both in the order of their tables, whatever order they ran in."""
    groups: dict[str, dict[str, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: (_place(run.workload, WORKLOADS), _place(run.mode, MODES))):
        groups.setdefault(run.workload, {}).setdefault(run.mode, []).append(run)
    return groups


def _place(name: str, table: Mapping[str, object]) -> int:
    return list(table).index(name) if name in table else len(table)


def _verified(group: Sequence[Run]) -> str:
    good = sum(run.verified for run in group)
    if good == len(group):
        return "[green]yes[/]" if good == 1 else f"[green]{good} of {good}[/]"
    return f"[red]{good} of {len(group)}[/]"


def _phase_seconds(group: Sequence[Run], phase: str, times: str) -> float:
    if times == "wall":
        return median(run.phases[phase].wall_s for run in group)
    return median(device_seconds(run.phases[phase].counters) for run in group)


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
    return max(median(run.wall_s for run in group), 1e-9)


def _median_device(group: Sequence[Run]) -> float:
    return max(median(run.device_s for run in group), 1e-9)


def _geometric_mean(values: Sequence[float]) -> float:
    product = 1.0
    for value in values:
        product *= value
    return float(product ** (1 / len(values)))

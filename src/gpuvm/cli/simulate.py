"""`gpuvm simulate`: a fleet of machines that replay traces on many GPUs in virtual time."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gpuvm.cli.errors import FAILED, CommandError, choose_one, existing_file, save
from gpuvm.lab import traces
from gpuvm.lab.simulation import report
from gpuvm.lab.simulation.cluster import ClusterError, simulate_on_cluster
from gpuvm.lab.simulation.fleet import PLACEMENTS, Settings, make_tenants, place
from gpuvm.lab.simulation.program import TIMES, Program, compile_all
from gpuvm.lab.simulation.run import digest, simulate
from gpuvm.lab.simulation.statistics import GpuResult
from gpuvm.schedulers import NAMES, make_scheduler

ENGINES = ("local", "dask", "simpy")


@dataclass(slots=True)
class Request:
    """What the options say."""

    vms: int
    gpus: int
    scheduler: str
    trace: list[Path]
    workload: str
    weights: str
    depth: str
    caps: str
    until: float
    seed: int
    engine: str
    workers: int
    cluster: str | None
    placement: str
    times: str
    resident: bool
    jitter: float
    switch_us: float
    window_ms: float
    json_file: Path | None


def simulate_fleet(request: Request) -> None:
    """Carry out what the options say, print the tables, write the JSON.

    Raises
    ------
    CommandError
        If an option or a trace is wrong, or the cluster is not there.
    """
    engine = choose_one("--engine", request.engine, ENGINES)
    if request.cluster is not None and engine != "dask":
        raise CommandError(f"--cluster needs --engine dask, got {engine}")
    if request.json_file is not None and not request.json_file.absolute().parent.is_dir():
        raise CommandError(f"--json must name a file in a folder that exists, got {request.json_file}")
    programs = load(request)
    settings = Settings(
        scheduler=choose_one("--scheduler", request.scheduler, NAMES),
        until=round(request.until * 1e9),
        seed=request.seed,
        window=round(request.window_ms * 1e6),
        switch=round(request.switch_us * 1e3),
        jitter=request.jitter,
    )
    if request.caps and make_scheduler(settings.scheduler).concurrent:
        raise CommandError(f"--caps needs a scheduler that queues commands, got {settings.scheduler}")
    tenants = make_tenants(
        request.vms,
        len(programs),
        numbers("--weights", request.weights),
        numbers("--depth", request.depth),
        fractions("--caps", request.caps),
    )
    placement = choose_one("--placement", request.placement, PLACEMENTS)
    tasks = place(tenants, request.gpus, programs, placement)
    began = time.perf_counter()
    with progress_bar(len(tasks)) as bar:
        task = bar.add_task("simulating", total=len(tasks))
        advance = lambda done: bar.advance(task, done)  # noqa: E731
        if engine == "dask":
            try:
                results = simulate_on_cluster(
                    tasks, programs, settings, advance, workers=request.workers, address=request.cluster
                )
            except ClusterError as error:
                raise CommandError(str(error), FAILED) from None
        else:
            results = simulate(tasks, programs, settings, advance, reference=engine == "simpy")
    seconds = time.perf_counter() - began
    document = report.document(results, programs, settings, request.gpus, digest(results))
    if request.json_file is not None:
        run = {"engine": engine, "workers": request.workers if engine == "dask" else 1, "wall_s": seconds}
        save(request.json_file, (json.dumps(document | {"run": run}, indent=1) + "\n").encode())
    show(document, results, programs, seconds)


def load(request: Request) -> list[Program]:
    """The traces' programs that `--workload` asks for."""
    times = choose_one("--times", request.times, TIMES)
    streams: list[traces.Stream] = []
    for path in request.trace:
        try:
            streams += traces.read(existing_file(path))
        except (traces.TraceError, OSError) as error:
            raise CommandError(str(error)) from None
    if request.workload.lower() != "all":
        wanted = {name.strip().lower() for name in request.workload.split(",")}
        known = {stream.workload.lower() for stream in streams}
        if missing := sorted(wanted - known):
            names = ", ".join(dict.fromkeys(stream.workload for stream in streams))
            raise CommandError(f"--workload must be among the traces' ({names}), got {missing[0]!r}")
        streams = [stream for stream in streams if stream.workload.lower() in wanted]
    programs = compile_all(streams, times, request.resident)
    if not programs:
        raise CommandError("the traces must hold at least one launch or copy, got none")
    return programs


def numbers(option: str, text: str) -> list[int]:
    """Read a comma-separated list of whole numbers of at least 1."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 1 << 20 for part in parts):
        raise CommandError(f"{option} must be whole numbers of at least 1 such as 1 or 1,2,4, got {text!r}")
    return [int(part) for part in parts]


def fractions(option: str, text: str) -> list[float | None]:
    """Read a comma-separated list of parts of a GPU; "-" and an empty text are none."""
    result: list[float | None] = []
    for part in text.split(","):
        try:
            value = None if part.strip() in ("", "-") else float(part)
        except ValueError:
            value = 0.0
        if value is not None and not 0 < value <= 1:
            raise CommandError(f"{option} must be parts of a GPU above 0 and up to 1, or -, got {part!r}")
        result.append(value)
    return result


def progress_bar(total: int) -> Progress:
    """A bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=40),
        MofNCompleteColumn(),
        TextColumn("GPUs"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


MOST_ROWS = 32


def show(
    document: dict[str, Any], results: Sequence[GpuResult], programs: Sequence[Program], seconds: float
) -> None:
    """Print the fleet's figures, and a row for each machine if they are few, else for each program."""
    fleet = document["fleet"]
    rows = document["vms"] if len(document["vms"]) <= MOST_ROWS else document["programs"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    single = rows is document["vms"]
    table.add_column("VM" if single else "VMs", justify="right")
    table.add_column("program", no_wrap=True)
    for head in ("weight", "launches", "share", "entitled", "p50 ms", "p99 ms", "longest ms"):
        table.add_column(head, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row["vm"] if single else row["vms"]),
            row["program"],
            f"{row['weight']:g}",
            f"{row['launches']:,}",
            f"{row['share']:.2%}",
            f"{row['entitled']:.2%}",
            *(f"{row[name] / 1e6:,.3f}" for name in ("p50_ns", "p99_ns", "longest_ns")),
        )
    console = Console(highlight=False)
    needed = console.measure(table, options=console.options.update(width=1000)).maximum
    console = Console(highlight=False, width=max(needed, console.width))
    console.print(table)
    error, latency, use = fleet["share_error"], fleet["latency_ns"], fleet["gpu_use"]
    launches = fleet["launches"]
    lines = [
        f"{len(document['vms']):,} machines on {document['gpus']:,} GPUs under {document['scheduler']}, "
        f"{document['until_s']:g} s of virtual time, seed {document['seed']}: {launches:,} launches, "
        f"{fleet['preemptions']:,} preemptions.",
        f"GPU use {use['mean']:.1%} on average ({use['least']:.1%} to {use['most']:.1%}). "
        f"Jain {fleet['jain']:.4f} of shares relative to what each is entitled to.",
        f"Share error: {error['whole_run_mean']:.2%} on average, {error['whole_run_worst']:.2%} at worst"
        + (
            f"; over windows {error['window_mean']:.2%}, {error['window_worst']:.2%}."
            if error["window_mean"] is not None
            else "."
        ),
        f"Latency: p50 {latency['p50'] / 1e6:,.3f} ms, p90 {latency['p90'] / 1e6:,.3f} ms, "
        f"p99 {latency['p99'] / 1e6:,.3f} ms, longest {latency['longest'] / 1e6:,.3f} ms.",
        f"Simulated in {seconds:.1f} s: {launches / max(seconds, 1e-9):,.0f} launches a second. "
        f"Fingerprint {document['digest'][:16]}.",
    ]
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    sys.stdout.flush()

"""Experiment 4: one machine with 1, 2, 4 and 8 contexts, and 1, 2, 4 and 8 machines with one each."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from gpuvm.jit.executor import Executor
from gpuvm.lab.clock import PhaseClock, moved
from gpuvm.lab.costs import device_seconds
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.figures import lines
from gpuvm.lab.reproduce.published import published
from gpuvm.lab.reproduce.report import Cell, Data, Picture, Report, Table
from gpuvm.lab.system import MIB, LabMachine, System
from gpuvm.workloads import WORKLOADS

COUNTS = (1, 2, 4, 8)
PROGRAMS = ("HS", "MMUL", "SRAD")
"""Short, one long launch, many short launches."""
VRAM, MEMORY = 96 * MIB, 192 * MIB
CHANNELS = 2 * max(COUNTS)
"""Of the machine that has all contexts."""
PATIENCE_S = 600.0
"""Longest that programs may take together before the experiment is given up."""


def measure_scaling(context: Context) -> Data:
    """Seconds until all of n programs that began together have ended."""
    names = [name for name in PROGRAMS if name in context.choice.workloads] or list(
        context.choice.workloads[:1]
    )
    data: Data = {
        "counts": list(COUNTS),
        "programs": names,
        "modes": list(context.choice.modes),
        "contexts": {},
        "machines": {},
    }
    shared = context.shared_modes()
    with closing(context.executor()) as executor:
        for mode in context.choice.modes:
            context.say(f"contexts and machines under {mode}")
            with System(
                mode,
                vram=max(COUNTS) * VRAM,
                memory=max(COUNTS) * MEMORY,
                channels=CHANNELS,
                executor=executor,
            ) as system:
                for name in names:
                    _run(system.guests[:1], name, 1, context.choice.size)  # translates
                    data["contexts"][f"{mode}/{name}"] = [
                        _run(system.guests, name, count, context.choice.size) for count in COUNTS
                    ]
            if mode in shared:
                data["machines"] |= _machines(mode, names, context.choice.size, executor)
    return data


def _machines(mode: str, names: list[str], size: str, executor: Executor) -> dict[str, list[Data]]:
    results: dict[str, list[Data]] = {f"{mode}/{name}": [] for name in names}
    for count in COUNTS:
        with System(mode, count, vram=VRAM, memory=MEMORY, executor=executor) as system:
            for name in names:
                results[f"{mode}/{name}"].append(_run(system.guests, name, 1, size))
    return results


def _run(guests: list[LabMachine], name: str, contexts: int, size: str) -> Data:
    """Run a program `contexts` times at once in each machine; wall and device seconds until the last ended.

    Device seconds add up over machines: the aggregator serves one access at a time and the GPU runs one
    channel at a time.
    """
    workload = WORKLOADS[name]
    inputs = workload.inputs(size)
    workload.reference(inputs)
    outputs: list[Any] = []
    errors: list[str] = []
    start = threading.Barrier(len(guests) * contexts + 1)

    def program(cuda: Any) -> None:
        start.wait()
        try:
            outputs.append(workload.run(cuda, inputs, PhaseClock(dict)))
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")

    with _processes(guests) as apis:
        threads = [
            threading.Thread(target=program, args=(api,), daemon=True)
            for api in apis
            for _ in range(contexts)
        ]
        before = [guest.counters() for guest in guests]
        for thread in threads:
            thread.start()
        start.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join(max(began + PATIENCE_S - time.perf_counter(), 0.1))
        if any(thread.is_alive() for thread in threads):
            raise RuntimeError(
                f"{len(threads)} programs {name} must end within {PATIENCE_S:g} s, but some did not"
            )
        wall = time.perf_counter() - began
        device = sum(
            device_seconds(moved(old, guest.counters())) for old, guest in zip(before, guests, strict=True)
        )
    verified = len(outputs) == len(threads) and all(workload.check(inputs, each).ok for each in outputs)
    return {"wall_s": wall, "device_s": device, "verified": verified, "errors": errors}


@contextmanager
def _processes(guests: list[LabMachine]) -> Iterator[list[Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield [stack.enter_context(guest.process()) for guest in guests]


def report_scaling(data: Data) -> Report:
    """Throughput relative to one program alone."""
    report = Report()
    counts = data["counts"]
    rows: list[list[Cell]] = []
    bad = 0
    for kind in ("contexts", "machines"):
        for key, results in data[kind].items():
            mode, name = key.split("/")
            bad += sum(not each["verified"] for each in results)
            one = results[0]
            rows.append(
                [
                    kind, name, mode,
                    *(1e3 * each["wall_s"] for each in results),
                    *(count * one["wall_s"] / each["wall_s"] for count, each in zip(counts, results, strict=True)),
                    *(count * one["device_s"] / each["device_s"] for count, each in zip(counts, results, strict=True)),
                ]
            )  # fmt: skip
    heads = ["n of", "workload", "mode", *(f"{n}: wall ms" for n in counts)]
    heads += [f"{n}: wall throughput" for n in counts] + [f"{n}: device throughput" for n in counts]
    report.tables.append(Table("n programs at once; throughput relative to one alone", heads, rows))
    total = sum(len(results) for kind in ("contexts", "machines") for results in data[kind].values())
    report.notes.append(f"{total - bad} of {total} runs verified.")
    for kind, text in (
        ("machines", "virtual machines with one context each"),
        ("contexts", "contexts of one machine"),
    ):
        if not data[kind]:
            continue
        series: dict[str, list[float | None]] = {}
        for mode in dict.fromkeys(key.split("/")[0] for key in data[kind]):
            curves = [
                [
                    count * results[0]["wall_s"] / each["wall_s"]
                    for count, each in zip(counts, results, strict=True)
                ]
                for key, results in data[kind].items()
                if key.startswith(f"{mode}/")
            ]
            series[mode] = [sum(values) / len(values) for values in zip(*curves, strict=True)]
        report.figures.append(
            Picture(
                f"Throughput with n {text}",
                lines(counts, series, text, "throughput, wall, 1 alone = 1"),
                kind,
            )
        )
        if kind == "machines" and "fv" in series:
            worst = min(value for value in series["fv"] if value is not None)
            report.notes.append(
                f"Shared by {counts[-1]} machines under fv, the GPU gets {series['fv'][-1]:.2f} times as much "
                f"done as for one (least {worst:.2f}); published: over "
                f"{published()['averages']['sharing_loss']:.0%} lost when shared."
            )
    return report

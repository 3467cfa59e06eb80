"""Experiment 6: what it takes to load the GPU's driver, the part of a machine's boot that virtualization slows
down."""

from __future__ import annotations

import time
from statistics import median

from gpuvm.lab.clock import moved
from gpuvm.lab.costs import device_seconds
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.figures import stacks
from gpuvm.lab.reproduce.published import beyond, cause, published
from gpuvm.lab.reproduce.report import Cell, Data, Picture, Report, Table
from gpuvm.lab.system import MIB, System

REPEATS = 5
VRAM, MEMORY = 64 * MIB, 64 * MIB


def measure_boot(context: Context) -> Data:
    """Wall seconds and counted events of a driver's start."""
    data: Data = {}
    for mode in context.choice.modes:
        context.say(f"driver start under {mode}")
        with System(mode, vram=VRAM, memory=MEMORY) as system:
            (guest,) = system.guests
            walls, events = [], {}
            for _ in range(REPEATS):
                guest.shut_down()
                before = guest.counters()
                began = time.perf_counter()
                guest.boot()
                walls.append(time.perf_counter() - began)
                events = moved(before, guest.counters())
        data[mode] = {"wall_s": median(walls), "counters": events}
    return data


def report_boot(data: Data) -> Report:
    """Each mode against native and the published factor."""
    report = Report()
    rows: list[list[Cell]] = []
    native = data.get("native")
    base = None if native is None else device_seconds(native["counters"])
    for mode, each in data.items():
        device = device_seconds(each["counters"])
        traps = sum(value for event, value in each["counters"].items() if event.startswith("traps_"))
        rows.append(
            [
                mode, 1e3 * each["wall_s"], 1e3 * device,
                None if native is None else each["wall_s"] / native["wall_s"],
                device / base if base else None,
                traps, each["counters"].get("shadow_passes", 0), cause(each["counters"]),
            ]
        )  # fmt: skip
    heads = [
        "mode",
        "wall ms",
        "device ms",
        "wall / native",
        "device / native",
        "traps",
        "shadow passes",
        "device time",
    ]
    report.tables.append(Table("Start of the GPU's driver", heads, rows))
    report.figures.append(
        Picture(
            "Device time of the driver's start",
            stacks(
                list(data),
                {"device time": [1e3 * device_seconds(each["counters"]) for each in data.values()]},
                "ms",
                log=True,
            ),
        )
    )
    if base and "fv-naive" in data:
        ours = device_seconds(data["fv-naive"]["counters"]) / base
        theirs = published()["averages"]["boot_slowdown"]
        text = (
            f"more than 2x apart: {cause(data['fv-naive']['counters'])}; the published factor is of a whole "
            "guest's boot, most of which does not touch the GPU"
            if beyond(ours, theirs)
            else "within 2x"
        )
        report.notes.append(
            f"fv-naive starts the driver {ours:.1f} times slower than native; "
            f"published for a guest's boot: {theirs}x ({text})."
        )
    return report

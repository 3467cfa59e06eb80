"""Experiment 5: who gets the GPU under each scheduler, measured live with short launches beside long ones."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

from gpuvm.lab.fairness import MEASURE_S, MIXES, Bench
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.figures import dots
from gpuvm.lab.reproduce.published import published
from gpuvm.lab.reproduce.report import Cell, Data, Picture, Report, Table
from gpuvm.schedulers import SCHEDULERS

SMALL_S = 1.5


def measure_fairness(context: Context) -> Data:
    """Every scheduler with every mix of machines."""
    shared = context.shared_modes()
    mode = "fv" if "fv" in shared or not shared else shared[0]
    mixes = [mix for mix in MIXES if not context.small or len(mix.kinds) == 2]
    seconds = SMALL_S if context.small else MEASURE_S
    results = []
    with closing(context.executor()) as executor:
        for scheduler in SCHEDULERS:
            with Bench(scheduler, mode, max(len(mix.kinds) for mix in mixes), executor) as bench:
                for mix in mixes:
                    context.say(f"{scheduler}, {mix.name}")
                    results.append(asdict(bench.run(mix, seconds)))
    return {"mode": mode, "seconds": seconds, "results": results}


def report_fairness(data: Data) -> Report:
    """A row for each scheduler and mix, and the published shares beside ours."""
    report = Report()
    rows: list[list[Cell]] = []
    for each in data["results"]:
        short = [guest for guest in each["guests"] if guest["kind"] == "short"]
        rows.append(
            [
                each["mix"], each["scheduler"],
                sum(guest["share"] for guest in short), each["error_worst"], each["error_mean"], each["jain"],
                each["throughput"], each["use"],
                1e3 * max(guest["latency_p50_s"] for guest in short),
                1e3 * max(guest["latency_p99_s"] for guest in short),
                1e3 * max(guest["latency_max_s"] for guest in each["guests"]), each["switches"],
            ]
        )  # fmt: skip
    rows.sort(key=lambda row: str(row[0]))
    heads = [
        "mix",
        "scheduler",
        "share of the short",
        "share error, worst",
        "mean",
        "Jain",
        "throughput",
        "GPU use",
    ]
    heads += ["short p50 ms", "short p99 ms", "longest ms", "switches"]
    report.tables.append(
        Table(f"Half of the machines short, half long, under {data['mode']}; windows of 500 ms", heads, rows)
    )
    guests: list[list[Cell]] = [
        [
            each["mix"], each["scheduler"], number, guest["kind"], guest["share"], guest["rate"], guest["alone"],
            1e3 * guest["latency_p50_s"], 1e3 * guest["latency_p99_s"], 1e3 * guest["latency_max_s"],
        ]
        for each in data["results"]
        for number, guest in enumerate(each["guests"])
    ]  # fmt: skip
    heads = [
        "mix",
        "scheduler",
        "machine",
        "launches",
        "share",
        "launches/s",
        "alone",
        "p50 ms",
        "p99 ms",
        "longest ms",
    ]
    report.tables.append(Table("Each machine", heads, guests, "machines", folded=True))
    theirs = published()["fairness"]
    two = {
        each["scheduler"]: each for each in data["results"] if len(each["guests"]) == 2 and each["depth"] == 1
    }
    beside: list[list[Cell]] = []
    for scheduler, each in two.items():
        share = sum(guest["share"] for guest in each["guests"] if guest["kind"] == "short")
        quoted = theirs.get(scheduler)
        beside.append(
            [scheduler, share, None if quoted is None else quoted["short_share"], each["jain"],
             None if quoted is None else quoted["jain"], each["use"], None if quoted is None else quoted["use"]]
        )  # fmt: skip
    heads = ["scheduler", "short's share", "published", "Jain", "published", "use", "published"]
    report.tables.append(
        Table(f"Two machines that wait for each launch ({theirs['source']})", heads, beside, "published")
    )
    mixes = list(dict.fromkeys(each["mix"] for each in data["results"]))
    schedulers = list(dict.fromkeys(each["scheduler"] for each in data["results"]))
    worst = {
        scheduler: [
            next(
                (
                    100 * max(each["error_worst"], 1e-5)
                    for each in data["results"]
                    if (each["scheduler"], each["mix"]) == (scheduler, mix)
                ),
                None,
            )
            for mix in mixes
        ]
        for scheduler in schedulers
    }
    report.figures.append(
        Picture(
            "Worst share error over 500 ms windows",
            dots(mixes, worst, "% of the share that a machine is entitled to", {"1 %": 1.0}),
        )
    )
    fair = [each for each in data["results"] if each["scheduler"] == "fair"]
    if fair:
        report.notes.append(
            f"fair: share error at most {max(each['error_worst'] for each in fair):.2%} in any window, Jain at least "
            f"{min(each['jain'] for each in fair):.4f}, throughput at least "
            f"{min(each['throughput'] for each in fair):.1%} of one machine alone."
        )
    report.notes.append(
        "All of this is wall time on this machine: the software GPU, its drivers and the measuring share the processor."
    )
    return report

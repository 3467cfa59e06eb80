"""What a mode costs in wall time beside another one, workload by workload, measured in pairs in one run.

    python bench/modes.py [--modes fv,pv-multicall] [--against passthrough] [--workloads all] [--size paper]
                          [--seconds S] [--rounds N] [--json FILE] [--at-most G] [--worst W]

The systems of all modes stand side by side in this process and take turns on each workload, in an order that
rotates, so that a slow moment of the machine hits all alike. Each figure is a median over the rounds; the
ratio of a workload is the median of the rounds' ratios, the last line their geometric mean and the worst. With
`--at-most` or `--worst` the exit status says whether every mode stayed within them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from gpuvm.jit.executor import Executor
from gpuvm.lab.machine import describe
from gpuvm.lab.modes import MODES
from gpuvm.lab.runner import Job, Run, run_together
from gpuvm.lab.system import System
from gpuvm.workloads import WORKLOADS

LEAST_ROUNDS = 5


def measure(
    systems: dict[str, System], name: str, size: str, seconds: float, most: int
) -> dict[str, list[Run]]:
    """Run one workload in all systems in turn, after one unmeasured round."""
    workload = WORKLOADS[name]
    inputs = workload.inputs(size)
    order = list(systems)
    runs: dict[str, list[Run]] = {mode: [] for mode in order}
    deadline = 0.0
    for turn in range(most + 1):
        for mode in order:
            (run,) = run_together([Job(systems[mode].guests[0], workload, inputs)])
            if not run.verified:
                raise SystemExit(f"{name} must verify in {mode}: {run.error}")
            if turn:
                runs[mode].append(run)
        order.append(order.pop(0))
        if not turn:
            deadline = time.perf_counter() + seconds
        elif turn >= LEAST_ROUNDS and time.perf_counter() > deadline:
            break
    workload.forget()
    return runs


def compare(runs: dict[str, list[Run]], base: str) -> dict[str, dict[str, Any]]:
    """Medians by mode, and the ratio to the base."""
    result: dict[str, dict[str, Any]] = {}
    for mode, done in runs.items():
        ratios = [run.wall_s / other.wall_s for run, other in zip(done, runs[base], strict=True)]
        phases = {
            phase: statistics.median(run.phases[phase].wall_s for run in done) for phase in done[0].phases
        }
        result[mode] = {
            "wall_s": statistics.median(run.wall_s for run in done),
            "ratio": statistics.median(ratios),
            "rounds": len(done),
            "phases_s": phases,
        }
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--modes", default="fv", help="modes to measure, by comma")
    parser.add_argument("--against", default="passthrough", choices=list(MODES))
    parser.add_argument("--workloads", default="all", help="names by comma, or all")
    parser.add_argument("--size", default="paper", choices=["paper", "small"])
    parser.add_argument("--seconds", type=float, default=4.0, help="for each workload, in all modes together")
    parser.add_argument("--rounds", type=int, default=41, help="at most so many for each workload")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--at-most", type=float, help="largest geometric mean that passes")
    parser.add_argument("--worst", type=float, help="largest ratio of a workload that passes")
    asked = parser.parse_args()
    modes = [asked.against, *(mode for mode in asked.modes.split(",") if mode != asked.against)]
    names = list(WORKLOADS) if asked.workloads == "all" else asked.workloads.split(",")
    unknown = [each for each in modes if each not in MODES] + [each for each in names if each not in WORKLOADS]
    if unknown:
        parser.error(f"modes and workloads must be known ones, got {', '.join(unknown)}")
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with ExitStack() as stack:
        executor = Executor()
        stack.callback(executor.close)
        systems = {mode: stack.enter_context(System(mode, executor=executor)) for mode in modes}
        print(f"{'workload':<8} {asked.against + ' ms':>15}" + "".join(f"{mode:>22}" for mode in modes[1:]))
        for name in names:
            runs = measure(systems, name, asked.size, asked.seconds, asked.rounds)
            results[name] = found = compare(runs, asked.against)
            line = f"{name:<8} {found[asked.against]['wall_s'] * 1e3:>15.2f}"
            for mode in modes[1:]:
                line += f"{found[mode]['wall_s'] * 1e3:>14.2f} {found[mode]['ratio']:>6.3f}x"
            print(f"{line}  ({found[asked.against]['rounds']} rounds)", flush=True)
    within = True
    summary = {}
    for mode in modes[1:]:
        ratios = {name: results[name][mode]["ratio"] for name in names}
        mean = math.exp(statistics.fmean(math.log(ratio) for ratio in ratios.values()))
        worst = max(ratios, key=lambda name: ratios[name])
        summary[mode] = {"geometric_mean": mean, "worst": ratios[worst], "worst_workload": worst}
        print(f"{mode}: {mean:.3f}x {asked.against} (geometric mean), {ratios[worst]:.3f}x at worst ({worst})")
        within &= asked.at_most is None or mean <= asked.at_most
        within &= asked.worst is None or ratios[worst] <= asked.worst
    if asked.json:
        report = {"machine": describe(), "against": asked.against, "size": asked.size}
        asked.json.write_text(json.dumps(report | {"summary": summary, "workloads": results}, indent=1) + "\n")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())

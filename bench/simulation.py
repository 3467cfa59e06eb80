"""Speed of the simulator: launches a second on one core as machines grow, and two Dask workers against one.

    python bench/simulation.py [--machines 10000] [--gpus 1000] [--seconds 0.5] [--trace FILE]
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from gpuvm.lab.simulation.cluster import simulate_on_cluster
from gpuvm.lab.simulation.fleet import Settings, make_tenants, place
from gpuvm.lab.simulation.program import Program, compile_all
from gpuvm.lab.simulation.run import digest, simulate
from gpuvm.lab.traces import read
from gpuvm.schedulers import SCHEDULERS

US = 1000


def programs(trace: Path | None) -> list[Program]:
    """The trace's programs with their contexts kept, or two made ones: short and longer launches."""
    if trace is not None:
        return compile_all(read(trace), "device", resident=True)
    short = [(60 + 7 * at % 90) * US for at in range(50)]
    longer = [(400 + 37 * at % 500) * US for at in range(30)]
    return [
        Program("short", [20 * US] * 50, short, [10 * US] * 50),
        Program("longer", [30 * US] * 30, longer, [20 * US] * 30),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=10_000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=0.5, help="virtual time")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--dask", action="store_true", help="also compare one and two workers")
    arguments = parser.parse_args()
    made = programs(arguments.trace)
    until = round(arguments.seconds * 1e9)
    print(f"{'scheduler':<10}{'machines':>9}{'GPUs':>6}{'launches':>11}{'s':>8}{'launches/s':>12}{'MB':>7}")
    for scheduler in SCHEDULERS:
        for share in (10, 1):
            machines, gpus = arguments.machines // share, arguments.gpus // share
            tasks = place(make_tenants(machines, len(made)), gpus, made)
            began = time.process_time()
            results = simulate(tasks, made, Settings(scheduler, until, switch=20 * US))
            took = time.process_time() - began
            launches = sum(int(result.launches.sum()) for result in results)
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(
                f"{scheduler:<10}{machines:>9,}{gpus:>6,}{launches:>11,}{took:>8.1f}"
                f"{launches / took:>12,.0f}{memory:>7.0f}"
            )
    if arguments.dask:
        tasks = place(make_tenants(arguments.machines, len(made)), arguments.gpus, made)
        settings = Settings("fifo", 4 * until, switch=20 * US)
        times, prints = [], set()
        for workers in (1, 2):
            began = time.perf_counter()
            prints.add(digest(simulate_on_cluster(tasks, made, settings, workers=workers)))
            times.append(time.perf_counter() - began)
        print(
            f"Dask: one worker {times[0]:.1f} s, two {times[1]:.1f} s: {times[1] / times[0]:.2f} of the time; "
            f"{'the same result' if len(prints) == 1 else 'DIFFERENT RESULTS'}."
        )


if __name__ == "__main__":
    main()

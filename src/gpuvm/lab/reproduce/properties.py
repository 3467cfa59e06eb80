"""Experiment 8: the five properties by which GPU virtualization is compared, for each mode, each with the
measurement or the count behind it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from gpuvm.gpu.device import Gf100
from gpuvm.guest.cuda import Cuda
from gpuvm.hypervisor.aggregator import FULL_MODES, Aggregator
from gpuvm.hypervisor.errors import HypervisorError
from gpuvm.hypervisor.passthrough import PassthroughGpu
from gpuvm.lab.modes import MODES
from gpuvm.lab.reproduce.context import Context
from gpuvm.lab.reproduce.report import Cell, Data, Report, Table, arithmetic, geometric
from gpuvm.lab.system import MIB

PROBE_VRAM = 16 * MIB
PROBE_LIMIT = 256
CARD = 4096 * MIB
PARA_DRIVER = ("gpuvm.guest.driver.para", "gpuvm.guest.driver.split", "gpuvm.paravirt")
"""Modules that exist only because a driver knows the hypervisor."""


def measure_properties(context: Context) -> Data:
    """Slowdowns from the sweep; counts of machines, accesses and lines."""
    sweep = context.sweep()
    data: Data = {"modes": list(sweep.modes)}
    for mode in sweep.modes:
        row: dict[str, Any] = {"verified": list(sweep.verified(mode))}
        if "native" in sweep.modes:
            for kind, read in (("wall", sweep.wall), ("device", sweep.device)):
                row[kind] = geometric(
                    [read(mode, name) / max(read("native", name), 1e-9) for name in sweep.workloads]
                )
        events = [sweep.counters(mode, name) for name in sweep.workloads]
        row["trapped"] = arithmetic([_count(each, "traps") for each in events])
        row["direct"] = arithmetic([_count(each, "direct_bar") for each in events])
        row["doorbells"] = arithmetic([each.get("doorbells", 0) for each in events])
        row["launches"] = arithmetic([each.get("launches", 0) for each in events])
        row["machines"] = machines_at_once(mode)
        row["hypervisor_lines"] = lines(_modules_of(mode))
        row["driver_lines"] = lines(_driver_modules()) if mode.startswith("pv") else 0
        data[mode] = row
    data["functions"] = len([name for name in dir(Cuda) if name.startswith("cu") and name[2:3].isupper()])
    return data


def _count(counters: dict[str, float], prefix: str) -> float:
    return sum(
        value
        for event, value in counters.items()
        if event.startswith(prefix) and (event.endswith(("_read", "_write")) and "bytes" not in event)
    ) + (counters.get("traps_call", 0) if prefix == "traps" else 0)


def machines_at_once(mode: str, card: int = CARD) -> int:
    """Virtual GPUs with a channel and 16 MiB that one card of `card` bytes gives under a mode."""
    if not MODES[mode].hypervisor:
        return 1
    gpu = Gf100(card)
    try:
        with Aggregator(gpu) as aggregator:
            for count in range(PROBE_LIMIT):
                try:
                    if MODES[mode].shared:
                        aggregator.create(f"vm{count}", mode=mode, vram=PROBE_VRAM, channels=1)
                    else:
                        aggregator.create(f"vm{count}", mode=mode)
                except HypervisorError:
                    return count
        return PROBE_LIMIT
    finally:
        gpu.close()


def _modules_of(mode: str) -> set[ModuleType]:
    """Modules that define a mode's virtual GPU: its class and what that class is made of."""
    if mode == "native":
        return set()
    kind: type = FULL_MODES[mode] if MODES[mode].shared else PassthroughGpu
    found: set[ModuleType] = set()
    waiting = [
        sys.modules[base.__module__]
        for base in kind.__mro__
        if base.__module__.startswith("gpuvm.hypervisor")
    ]
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        found.add(module)
        for value in vars(module).values():
            name = getattr(value, "__module__", None)
            if (
                isinstance(name, str)
                and name.startswith("gpuvm.hypervisor.")
                and name != "gpuvm.hypervisor.aggregator"
            ):
                waiting.append(sys.modules[name])
    return found


def _driver_modules() -> set[ModuleType]:
    return {module for name, module in sys.modules.items() if name.startswith(PARA_DRIVER)}


def lines(modules: Iterable[ModuleType]) -> int:
    """Lines that hold code or text, blank ones and comments left out."""
    total = 0
    for module in modules:
        text = inspect.getsource(module)
        total += sum(bool(line.strip()) and not line.lstrip().startswith("#") for line in text.splitlines())
    return total


def report_properties(data: Data) -> Report:
    """A row for each mode."""
    report = Report()
    rows: list[list[Cell]] = []
    for mode in data["modes"]:
        row = data[mode]
        seen = row["trapped"] / max(row["trapped"] + row["direct"], 1e-9)
        good, runs = row["verified"]
        rows.append(
            [
                mode, row.get("wall"), row.get("device"), f"{good} of {runs}", row["driver_lines"], row["machines"],
                seen, row["doorbells"], row["launches"], row["hypervisor_lines"],
            ]
        )  # fmt: skip
    heads = ["mode", "performance: wall / native", "device / native", "fidelity: programs verified"]
    heads += ["driver lines that know", "multiplexing: machines on a 4 GiB card"]
    heads += ["interposition: part of accesses seen", "submissions seen", "launches"]
    heads += ["complexity: hypervisor lines"]
    report.tables.append(Table("Five properties", heads, rows))
    report.notes += [
        "Performance: geometric means over the workloads, relative to native of the same kind of time.",
        f"Fidelity: the guest has the same {data['functions']} functions of the CUDA driver API in every mode; the "
        "lines are those of a driver that exist only because it knows the hypervisor. 0: the driver of a bare "
        "machine, unmodified.",
        "Multiplexing: virtual GPUs with a channel and 16 MiB each that were made before the card refused one.",
        "Interposition: trapped accesses among all that the guest's CPU makes; submissions (doorbells) that pass "
        "the scheduler.",
        "Complexity: lines, without blanks and comments, of the modules of which a mode's virtual GPU is made.",
    ]
    return report

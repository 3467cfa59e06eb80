"""Every program at its small size, and at shapes that fit no block, on the software GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gpuvm.lab.clock import PhaseClock
from gpuvm.lab.system import LabMachine, System
from gpuvm.workloads import WORKLOADS, CudaError, Verdict


@pytest.fixture(scope="module")
def machine() -> Iterator[LabMachine]:
    with System("native") as system:
        yield system.guests[0]


def verdict_of(machine: LabMachine, name: str, **parameters: float) -> tuple[Verdict, PhaseClock]:
    workload = WORKLOADS[name]
    inputs = workload.inputs("small", **parameters)
    clock = PhaseClock(machine.counters)
    with machine.process() as cu:
        outputs = workload.run(cu, inputs, clock)
    return workload.check(inputs, outputs), clock


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_answer_is_right(name: str, machine: LabMachine) -> None:
    verdict, clock = verdict_of(machine, name)
    assert verdict.ok, verdict.error
    assert clock.phases["init"].wall_s > 0
    assert (clock.phases["launch"].wall_s > 0) == (name not in ("NOP", "CPY", "PINCPY"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LOOP", {"n": 0}),
        ("LOOP", {"n": 1}),
        ("MADD", {"n": 1}),
        ("MMUL", {"n": 19}),
        ("FMMUL", {"n": 33}),
        ("CPY", {"bytes": 1}),
        ("PINCPY", {"bytes": 4097}),
        ("BP", {"inputs": 16}),
        ("BFS", {"nodes": 1}),
        ("BFS", {"nodes": 513}),
        ("HS", {"n": 3, "steps": 4, "pyramid": 3}),
        ("HS", {"n": 37, "steps": 7, "pyramid": 5}),
        ("LUD", {"n": 16}),
        ("NN", {"records": 257}),
        ("NW", {"n": 16, "penalty": 0}),
        ("SRAD", {"rows": 23, "columns": 1201, "iterations": 1}),
        ("SRAD2", {"n": 16, "region": 16}),
    ],
)
def test_other_shapes(name: str, parameters: dict[str, float], machine: LabMachine) -> None:
    verdict, _ = verdict_of(machine, name, **parameters)
    assert verdict.ok, verdict.error


def test_heart_wall_renews_its_templates(machine: LabMachine) -> None:
    verdict, _ = verdict_of(machine, "HW", inner=1, outer=1, frames=13)
    assert verdict.ok, verdict.error


def test_a_program_that_runs_out_of_memory_leaves_the_machine_usable() -> None:
    with System("native", vram=64 << 20) as system:
        (machine,) = system.guests
        with pytest.raises(CudaError, match="CUDA_ERROR_OUT_OF_MEMORY") as error:
            verdict_of(machine, "MADD", n=2560)
        assert error.value.code == 2
        assert verdict_of(machine, "MADD")[0].ok

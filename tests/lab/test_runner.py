"""The runner starts programs together, keeps one's failure from another, and believes no result unchecked."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

from gpuvm.lab.report import comparison, document, totals
from gpuvm.lab.runner import Job, run_together
from gpuvm.workloads.base import Arrays, Clock, Inputs, Parameters, Workload
from gpuvm.workloads.program import CudaError
from gpuvm.workloads.verdict import Verdict, exact


class Doubler(Workload):
    """A program that has its machine double a vector."""

    name = "DOUBLE"
    title = "doubles"
    sizes: ClassVar[Mapping[str, Parameters]] = {"small": {"count": 4}}

    def generate(self, parameters: Parameters, rng: np.random.Generator) -> Arrays:
        return {"x": rng.integers(0, 100, int(parameters["count"]))}

    def run(self, cu: Any, inputs: Inputs, clock: Clock) -> Arrays:
        with clock.phase("init"):
            cu.work(traps_bar0_write=100)
        with clock.phase("launch"):
            y = cu.double(inputs["x"])
        return {"y": y}

    def compute(self, inputs: Inputs) -> Arrays:
        return {"y": inputs["x"] * 2}

    def check(self, inputs: Inputs, outputs: Arrays) -> Verdict:
        return exact("y", outputs, self.reference(inputs)["y"])


class FakeGuest:
    """A machine whose "GPU" doubles, wrongly by `error`, or fails."""

    def __init__(
        self, name: str, mode: str = "fv-naive", error: int = 0, meet: threading.Barrier | None = None
    ):
        self.name = name
        self.mode = mode
        self.error = error
        self.meet = meet
        self.events: dict[str, float] = {}
        self.processes = 0

    def counters(self) -> dict[str, float]:
        return dict(self.events)

    @contextmanager
    def process(self) -> Iterator[Any]:
        self.processes += 1
        yield self
        self.processes -= 1

    def work(self, **events: int) -> None:
        for name, count in events.items():
            self.events[name] = self.events.get(name, 0) + count

    def double(self, x: Any) -> Any:
        self.work(launches=1)
        if self.meet is not None:
            self.meet.wait(timeout=20)
        if self.error < 0:
            raise CudaError(700, "CUDA_ERROR_ILLEGAL_ADDRESS", "cuCtxSynchronize")
        return x * 2 + self.error


DOUBLER = Doubler()


def job(guest: FakeGuest) -> Job:
    return Job(guest, DOUBLER, DOUBLER.inputs("small"))


def test_programs_of_different_machines_run_at_the_same_time() -> None:
    meet = threading.Barrier(2)  # passes only if both are in their launch at once
    runs = run_together([job(FakeGuest("vm0", meet=meet)), job(FakeGuest("vm1", meet=meet))])
    assert [(run.vm, run.verified) for run in runs] == [("vm0", True), ("vm1", True)]


def test_one_machine_runs_one_program_at_a_time() -> None:
    guest = FakeGuest("vm0")
    with pytest.raises(ValueError, match="must be in different machines"):
        run_together([job(guest), job(guest)])


def test_a_wrong_result_is_not_verified_and_says_where() -> None:
    (run,) = run_together([job(FakeGuest("vm0", error=1))])
    assert not run.verified
    assert run.error.startswith("y[")


def test_a_failing_machine_does_not_disturb_its_neighbour() -> None:
    bad, good = FakeGuest("bad", error=-1), FakeGuest("good")
    runs = {run.vm: run for run in run_together([job(bad), job(good)])}
    assert not runs["bad"].verified
    assert runs["bad"].error == "cuCtxSynchronize must succeed, but returned CUDA_ERROR_ILLEGAL_ADDRESS (700)"
    assert runs["good"].verified


def test_an_exception_in_a_program_fails_its_run_only() -> None:
    class Broken(FakeGuest):
        def double(self, x: Any) -> Any:
            return x.no_such_thing

    runs = {run.vm: run for run in run_together([job(Broken("broken")), job(FakeGuest("good"))])}
    assert "AttributeError" in runs["broken"].error
    assert runs["good"].verified


def test_counters_are_of_this_run_by_phase_and_together() -> None:
    guest = FakeGuest("vm0")
    guest.work(launches=50, traps_bar0_write=7)  # an earlier program
    (run,) = run_together([job(guest)])
    assert run.counters == {"traps_bar0_write": 100, "launches": 1}
    assert run.phases["init"].counters == {"traps_bar0_write": 100}
    assert run.device_s == pytest.approx(
        sum(phase["device_s"] for phase in document({}, [run])["runs"][0]["phases"].values())
    )
    assert run.device_s > 0


def test_the_document_has_exactly_the_agreed_shape() -> None:
    (run,) = run_together([job(FakeGuest("vm0"))])
    made = document({"cpu": "test"}, [run])
    assert list(made) == ["schema", "machine", "runs"]
    assert made["schema"] == 1
    (row,) = made["runs"]
    wanted = ["mode", "workload", "size", "vm", "verified", "wall_s", "device_s", "phases", "counters"]
    assert list(row) == wanted
    assert list(row["phases"]) == ["init", "htod", "launch", "dtoh", "close"]
    assert all(list(phase) == ["wall_s", "device_s"] for phase in row["phases"].values())


def test_totals_compare_with_native() -> None:
    runs = run_together([job(FakeGuest("host", mode="native")), job(FakeGuest("vm0", error=1))])
    for run, wall in zip(runs, (0.5, 2.0), strict=True):
        run.wall_s = wall
    lines = totals(runs)
    assert lines[0] == "1 of 2 runs verified."
    assert lines[1].startswith("fv-naive: 4.00x native in wall time, 1.0x in device time")
    assert comparison(runs).row_count == 2

"""The phase clock gives each phase its own counters, and no phase another's."""

import pytest

from gpuvm.lab.clock import PhaseClock
from gpuvm.workloads.base import PHASES


class Counters(dict[str, float]):
    def read(self) -> dict[str, float]:
        return dict(self)


def test_what_moves_in_a_phase_is_counted_there() -> None:
    counters = Counters(launches=3, traps=10)
    clock = PhaseClock(counters.read)
    with clock.phase("htod"):
        counters["traps"] += 5
    with clock.phase("launch"):
        counters["launches"] += 1
        counters["traps"] += 2
    counters["traps"] += 100  # outside every phase
    with clock.phase("launch"):
        counters["launches"] += 1
    assert clock.phases["htod"].counters == {"traps": 5}
    assert clock.phases["launch"].counters == {"launches": 2, "traps": 2}
    assert clock.phases["init"].counters == {}
    assert list(clock.phases) == list(PHASES)


def test_a_phase_that_fails_is_counted_and_closed() -> None:
    counters = Counters(traps=0)
    clock = PhaseClock(counters.read)

    def fail() -> None:
        with clock.phase("init"):
            counters["traps"] = 7
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with clock.phase("close"):
        counters["traps"] = 8
    assert clock.phases["init"].counters == {"traps": 7}
    assert clock.phases["close"].counters == {"traps": 1}


def test_phases_are_the_papers_five_and_do_not_nest() -> None:
    clock = PhaseClock(dict)
    with (
        pytest.raises(ValueError, match="a phase must be one of init, htod, launch, dtoh, close, got 'warm'"),
        clock.phase("warm"),
    ):
        pass
    with (
        clock.phase("init"),
        pytest.raises(ValueError, match="'htod' must not begin inside phase 'init'"),
        clock.phase("htod"),
    ):
        pass

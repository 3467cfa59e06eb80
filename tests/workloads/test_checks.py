"""Every workload's check accepts the right answer and refuses one with a single wrong element."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from gpuvm.workloads import WORKLOADS, Inputs
from gpuvm.workloads.base import Array

Answer = Callable[[str, Inputs], dict[str, Array]]
PAPERS = [
    *("NOP", "LOOP", "MADD", "MMUL", "FMADD", "FMMUL", "CPY", "PINCPY"),
    *("BP", "BFS", "HW", "HS", "LUD", "NN", "NW", "SRAD", "SRAD2"),
]


def test_the_papers_programs_are_all_there() -> None:
    assert list(WORKLOADS) == PAPERS


def spoil(array: Array, at: int) -> None:
    """Change one element: the lowest bit of a whole number; a float by a thousandth of the largest."""
    flat = array.reshape(-1)
    if array.dtype.kind == "f":
        flat[at] += 1e-3 * np.abs(flat).max()
    else:
        flat[at] ^= 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_right_answer_passes(name: str, right_answer: Answer) -> None:
    inputs = WORKLOADS[name].inputs("small")
    verdict = WORKLOADS[name].check(inputs, right_answer(name, inputs))
    assert verdict.ok, verdict.error


# A position of HW one pixel off is judged by its correlation, in a test of its own.
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("NOP", "HW")])
def test_one_wrong_element_is_seen(name: str, right_answer: Answer) -> None:
    workload = WORKLOADS[name]
    inputs = workload.inputs("small")
    answer = right_answer(name, inputs)
    rng = np.random.default_rng(5)
    for key, array in answer.items():
        if key == "magnitude":  # of BP's reference: a part of its bound, no result
            continue
        for at in {0, array.size - 1, *rng.integers(0, array.size, 6).tolist()}:
            spoiled = {**answer, key: array.copy()}
            spoil(spoiled[key], at)
            verdict = workload.check(inputs, spoiled)
            assert not verdict.ok, f"{name} did not see that {key}[{at}] is wrong"
            assert verdict.error
            assert verdict.where


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("NOP", "LOOP")])
def test_a_result_that_was_never_computed_is_refused(name: str, right_answer: Answer) -> None:
    workload = WORKLOADS[name]
    inputs = workload.inputs("small")
    blank = {key: np.zeros_like(value) for key, value in right_answer(name, inputs).items()}
    assert not workload.check(inputs, blank).ok
    assert not workload.check(inputs, {}).ok


@pytest.mark.parametrize("name", ["FMMUL", "HS", "LUD", "NN", "SRAD", "SRAD2"])
def test_nan_is_refused(name: str, right_answer: Answer) -> None:
    workload = WORKLOADS[name]
    inputs = workload.inputs("small")
    answer = right_answer(name, inputs)
    next(iter(answer.values())).reshape(-1)[3] = np.nan
    assert not workload.check(inputs, answer).ok


def test_an_unchanged_input_does_not_pass_for_a_result() -> None:
    for name, key, given in (
        ("HS", "temperature", "temperature"),
        ("SRAD", "image", "image"),
        ("LUD", "matrix", "matrix"),
    ):
        inputs = WORKLOADS[name].inputs("small")
        assert not WORKLOADS[name].check(inputs, {key: inputs[given].copy()}).ok


def test_nop_returns_nothing() -> None:
    nop = WORKLOADS["NOP"]
    assert not nop.check(nop.inputs("small"), {"x": np.zeros(1)}).ok


def test_heart_wall_positions_are_judged_by_correlation(right_answer: Answer) -> None:
    workload = WORKLOADS["HW"]
    inputs = workload.inputs("small")
    answer = right_answer("HW", inputs)
    answer["outer"][1, 2] += (3, 0)
    verdict = workload.check(inputs, answer)
    assert not verdict.ok
    assert verdict.where == "outer[1, 2]"
    assert "correlation" in verdict.error


def test_a_heart_wall_point_that_starts_elsewhere_is_wrong(right_answer: Answer) -> None:
    workload = WORKLOADS["HW"]
    inputs = workload.inputs("small")
    answer = right_answer("HW", inputs)
    answer["inner"][0, 0] += 1
    assert workload.check(inputs, answer).where == "inner[0, 0]"

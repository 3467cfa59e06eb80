"""A verdict looks at every element and says which one is wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.workloads.verdict import Verdict, close, exact, worst


def test_exact_names_the_element_that_deviates_most() -> None:
    want = np.arange(12, dtype=np.uint32).reshape(3, 4)
    got = want.copy()
    got[1, 2] += 5
    got[2, 0] += 1
    verdict = exact("c", {"c": got}, want)
    assert (verdict.ok, verdict.where, verdict.deviation) == (False, "c[1, 2]", 5.0)
    assert verdict.error == "c[1, 2] must be 6, not 11 (2 of 12 elements differ)"


@given(st.integers(0, 99), st.integers(0, 31))
def test_exact_sees_every_bit(at: int, bit: int) -> None:
    want = np.arange(100, dtype=np.uint32)
    got = want.copy()
    got[at] ^= np.uint32(1 << bit)
    assert exact("c", {"c": want.copy()}, want).ok
    verdict = exact("c", {"c": got}, want)
    assert not verdict.ok
    assert verdict.where == f"c[{at}]"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1.5])
def test_close_refuses_what_is_not_within_the_bound(bad: float) -> None:
    want = np.ones(10)
    got = want.astype(np.float32)
    assert close("x", {"x": got}, want, 1e-6).ok
    got[7] = bad
    verdict = close("x", {"x": got}, want, 0.4)
    assert not verdict.ok
    assert verdict.where == "x[7]"


def test_close_takes_a_bound_per_element_and_tells_the_worst() -> None:
    want = np.array([1.0, 100.0])
    got = np.array([1.0, 100.5], np.float32)
    verdict = close("x", {"x": got}, want, 0.01 * want)
    assert verdict == Verdict(True, "", 0.5, "x[1]")
    got[0] = 1.02
    assert close("x", {"x": got}, want, 0.01 * want).where == "x[0]"


@pytest.mark.parametrize("compare", [exact, lambda name, got, want: close(name, got, want, 1.0)])
def test_a_missing_or_misshapen_result_is_wrong(compare: object) -> None:
    assert callable(compare)
    want = np.zeros((2, 3))
    assert "must return 'x'" in compare("x", {}, want).error
    verdict = compare("x", {"x": np.zeros(6)}, want)
    assert not verdict.ok
    assert verdict.error == "x must have shape (2, 3), not (6,)"


def test_the_worst_of_several_is_the_failure() -> None:
    near, far = Verdict(True, "", 1.0, "a"), Verdict(True, "", 2.0, "b")
    wrong = Verdict(False, "wrong", 0.5, "c")
    assert worst(near, far) is far
    assert worst(far, wrong, near) is wrong
    assert worst().ok

"""Comparison of results with a reference: every element, the worst deviation and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Verdict:
    """Whether a result is right.

    Attributes
    ----------
    ok : bool
    error : str
        One sentence on what is wrong; empty if nothing is.
    deviation : float
        Largest absolute difference of any element; infinity for a missing or misshapen result.
    where : str
        The element that deviates most, e.g. "temperature[3, 17]"; empty if none does.
    """

    ok: bool
    error: str = ""
    deviation: float = 0.0
    where: str = ""

    def __bool__(self) -> bool:
        return self.ok


def _result(name: str, outputs: Mapping[str, npt.NDArray[Any]], want: npt.NDArray[Any]) -> Any:
    """The result to compare, or the verdict that there is none of the right shape."""
    got = outputs.get(name)
    if got is None:
        return Verdict(False, f"the program must return {name!r}, but did not", float("inf"), name)
    if got.shape != want.shape:
        return Verdict(False, f"{name} must have shape {want.shape}, not {got.shape}", float("inf"), name)
    return got


def _place(name: str, flat: int, shape: tuple[int, ...]) -> str:
    index = ", ".join(str(int(i)) for i in np.unravel_index(flat, shape))
    return f"{name}[{index}]" if shape else name


def exact(name: str, outputs: Mapping[str, npt.NDArray[Any]], want: npt.NDArray[Any]) -> Verdict:
    """`outputs[name]` must equal `want` in every element."""
    got = _result(name, outputs, want)
    if isinstance(got, Verdict):
        return got
    wrong = got != want
    count = int(np.count_nonzero(wrong))
    if not count:
        return Verdict(True)
    where = np.flatnonzero(wrong)
    distance = np.abs(got.reshape(-1)[where].astype(np.float64) - want.reshape(-1)[where].astype(np.float64))
    worst = int(np.argmax(distance))
    flat = int(where[worst])
    place = _place(name, flat, want.shape)
    text = f"{place} must be {want.flat[flat]}, not {got.flat[flat]} ({count} of {want.size} elements differ)"
    return Verdict(False, text, float(distance[worst]), place)


def close(
    name: str,
    outputs: Mapping[str, npt.NDArray[Any]],
    want: npt.NDArray[Any],
    bound: float | npt.NDArray[Any],
) -> Verdict:
    """`outputs[name]` must be finite and within `bound` (absolute; a number or one per element) of `want`."""
    got = _result(name, outputs, want)
    if isinstance(got, Verdict):
        return got
    if want.size == 0:
        return Verdict(True)
    difference = np.abs(got - want.astype(np.float64, copy=False))
    # A NaN compares false with everything: count what is not within the bound.
    within = difference <= bound
    difference[np.isnan(difference)] = np.inf
    if bool(within.all()):
        flat = int(np.argmax(difference))
        return Verdict(True, "", float(difference.flat[flat]), _place(name, flat, want.shape))
    flat = int(np.argmax(np.where(within, -1.0, difference)))
    place = _place(name, flat, want.shape)
    limit = float(np.broadcast_to(np.asarray(bound), want.shape).flat[flat])
    text = (
        f"{place} must be {float(want.flat[flat]):.9g} within {limit:.3g}, not {float(got.flat[flat]):.9g} "
        f"({int(np.count_nonzero(~within))} of {want.size} elements deviate)"
    )
    return Verdict(False, text, float(difference.flat[flat]), place)


def worst(*verdicts: Verdict) -> Verdict:
    """The first failure, or else the verdict with the largest deviation."""
    for verdict in verdicts:
        if not verdict.ok:
            return verdict
    return max(verdicts, key=lambda verdict: verdict.deviation, default=Verdict(True))

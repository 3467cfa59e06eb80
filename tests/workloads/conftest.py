"""Where optional data is found, and right answers in the form in which the programs return them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpuvm.workloads import WORKLOADS, Inputs
from gpuvm.workloads.base import Array
from gpuvm.workloads.nn import nearest

Answer = Callable[[str, Inputs], dict[str, Array]]


@pytest.fixture(scope="session")
def rodinia() -> Path:
    """The directory of Rodinia's input files beside the repository; without it the test is left out."""
    for folder in Path(__file__).resolve().parents:
        found = folder / "shared" / "data" / "rodinia"
        if found.is_dir():
            return found
    pytest.skip("Rodinia's input files are not on this machine")


@pytest.fixture(scope="session")
def right_answer() -> Answer:
    """A function of a workload's name and its inputs: what a correct device returns, writable."""
    return _right_answer


def _lud(inputs: Inputs) -> dict[str, Array]:
    m = inputs["matrix"].astype(np.float64)
    for k in range(len(m) - 1):
        m[k + 1 :, k] /= m[k, k]
        m[k + 1 :, k + 1 :] -= np.outer(m[k + 1 :, k], m[k, k + 1 :])
    return {"matrix": m.astype(np.float32)}


def _nn(inputs: Inputs) -> dict[str, Array]:
    distances = WORKLOADS["NN"].reference(inputs)["distances"].astype(np.float32)
    return {"distances": distances, "nearest": nearest(distances, inputs.count("k"))}


SPECIAL: dict[str, Callable[[Inputs], dict[str, Array]]] = {"LUD": _lud, "NN": _nn}


def _right_answer(name: str, inputs: Inputs) -> dict[str, Array]:
    """What a correct device returns for `inputs`, writable."""
    if name in SPECIAL:
        return SPECIAL[name](inputs)
    answer = WORKLOADS[name].reference(inputs)
    return {
        key: value.astype(np.float32) if value.dtype == np.float64 else value.copy()
        for key, value in answer.items()
    }

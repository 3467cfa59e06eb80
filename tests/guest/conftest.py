"""Fixtures of the guest's stories; `guest_support` is beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guest_support import Lab

from gpuvm.guest.cuda import Cuda


@pytest.fixture(
    params=["native", *(pytest.param(mode, marks=pytest.mark.long) for mode in ("pv-naive", "pv-multicall", "pv-drm"))]
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(mode=request.param)
    yield made
    made.close()


@pytest.fixture
def cuda(lab: Lab) -> Cuda:
    """CUDA, initialised, with a context."""
    assert lab.cuda.cuInit(0)[0] == 0
    assert lab.cuda.cuCtxCreate(0, 0)[0] == 0
    return lab.cuda

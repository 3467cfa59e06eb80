"""Fixtures of the guest's stories; `guest_support` is beside this file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from guest_support import Lab

from gpuvm.guest.cuda import Cuda


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab()
    yield made
    made.close()


@pytest.fixture
def cuda(lab: Lab) -> Cuda:
    """CUDA, initialised, with a context."""
    assert lab.cuda.cuInit(0)[0] == 0
    assert lab.cuda.cuCtxCreate(0, 0)[0] == 0
    return lab.cuda

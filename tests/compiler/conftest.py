"""Fixtures: an executor for the whole session and a clean device for each test; `device` and `ptx` are beside
this file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from device import Device

from gpuvm.jit.executor import Executor


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    made = Executor(threads=1)
    yield made
    made.close()


@pytest.fixture
def device(executor: Executor) -> Iterator[Device]:
    with Device(executor) as made:
        yield made

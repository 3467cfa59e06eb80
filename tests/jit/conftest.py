"""Fixtures of the executor's tests: memory to run kernels in, executors with a cache of their own, and a rig
that runs and judges short kernels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig

from gpuvm.jit.executor import Executor
from gpuvm.jit.translate import Plan
from support.machine import Memory


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jit-cache")


@pytest.fixture(scope="session")
def executor(cache: Path) -> Iterator[Executor]:
    with Executor(2, cache) as made:
        yield made


@pytest.fixture
def single(cache: Path) -> Iterator[Executor]:
    """One thread, so that blocks run in order."""
    with Executor(1, cache) as made:
        yield made


@pytest.fixture(params=["default", "general"])
def each(request: pytest.FixtureRequest, single: Executor) -> Executor:
    """A single-threaded executor that chooses how to translate, and one that always translates generally."""
    single.translator.plan = Plan(general=request.param == "general")
    return single


@pytest.fixture
def rig(executor: Executor) -> Iterator[Rig]:
    made = Rig(executor)
    yield made
    made.close()


@pytest.fixture
def memory() -> Iterator[Memory]:
    got = Memory()
    yield got
    got.close()

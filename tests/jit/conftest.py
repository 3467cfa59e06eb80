"""Fixtures of the executor's tests: executors with a cache of their own, and a rig that runs and judges kernels."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from rig import Rig  # noqa: E402

from gpuvm.jit.executor import Executor  # noqa: E402


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jit-cache")


@pytest.fixture(scope="session")
def executor(cache: Path) -> Iterator[Executor]:
    with Executor(2, cache) as made:
        yield made


@pytest.fixture
def rig(executor: Executor) -> Iterator[Rig]:
    made = Rig(executor)
    yield made
    made.close()

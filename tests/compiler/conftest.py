"""Fixtures: the executor for the whole session and clean devices on it and on the interpreter.

`device`, `ptx_text` and the references are beside this file; `support` is the tests' common folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from device import Device  # noqa: E402

from gpuvm.jit.executor import Executor  # noqa: E402
from support.interpreter import Interpreter  # noqa: E402


@pytest.fixture(scope="session")
def executor() -> Iterator[Executor]:
    made = Executor(threads=1)
    yield made
    made.close()


@pytest.fixture
def device(executor: Executor) -> Iterator[Device]:
    """What the GPU runs."""
    with Device(executor) as made:
        yield made


@pytest.fixture
def slow_device() -> Iterator[Device]:
    """The interpreter: right, and no code to translate for kernels that run once."""
    with Device(Interpreter(20_000_000), 8 << 20) as made:
        yield made

"""The OpenCL twins give right answers on whatever OpenCL device is there."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest

from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.opencl import TWINS, OpenClDriver


class Untimed:
    def phase(self, name: str) -> Any:
        return nullcontext()


@pytest.fixture(scope="module")
def driver() -> OpenClDriver:
    pyopencl = pytest.importorskip("pyopencl", reason="pyopencl comes with the extra 'bench'")
    try:
        return OpenClDriver()
    except (RuntimeError, pyopencl.Error):
        pytest.skip("no OpenCL driver is installed")


@pytest.mark.parametrize("name", TWINS)
def test_the_twin_gives_the_right_answer(name: str, driver: OpenClDriver) -> None:
    workload = WORKLOADS[name]
    inputs = workload.inputs("small")
    driver.clear()
    verdict = workload.check(inputs, workload.run(driver, inputs, Untimed()))
    assert verdict.ok, verdict.error
    assert driver.kernel_s
    assert all(seconds >= 0 for _, seconds in driver.kernel_s)

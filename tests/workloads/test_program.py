"""The driver calls of a program: in order, within phases, and all released however the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from gpuvm.workloads import WORKLOADS, CudaError
from gpuvm.workloads.base import PHASES
from gpuvm.workloads.program import Program, blocks, check, i32, pointer


class Code(int):
    """A CUresult as cuda-python has it: a number with a name."""

    name = "CUDA_ERROR_LAUNCH_FAILED"


class Recorder:
    """A driver that notes calls and succeeds, but for the one that is to fail."""

    def __init__(self, fail: str = "", after: int = 0) -> None:
        self.calls: list[str] = []
        self.live: set[int] = set()
        self._fail, self._after = fail, after
        self._next = 0x1000
        self.phase = ""
        self.phases: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            self.phases.append((name, self.phase))
            if name == self._fail and self.calls.count(name) > self._after:
                return (Code(719), None)
            if name in ("cuMemAlloc", "cuMemAllocHost"):
                self._next += 0x1000
                self.live.add(self._next)
                return (0, self._next)
            if name in ("cuMemFree", "cuMemFreeHost"):
                self.live.remove(arguments[0])
                return (0,)
            if name == "cuModuleGetGlobal":
                return (0, 0x10, 12)
            if name in ("cuDeviceGet", "cuCtxCreate", "cuModuleLoadData", "cuModuleGetFunction"):
                return (0, name)
            return (0,)

        return call

    @contextmanager
    def enter(self, name: str) -> Iterator[None]:
        assert name in PHASES
        assert self.phase == "", "phases do not nest"
        self.phase = name
        try:
            yield
        finally:
            self.phase = ""


class Clock:
    def __init__(self, driver: Recorder) -> None:
        self.phase = driver.enter


def test_check_returns_what_the_call_returned() -> None:
    assert check((0,)) is None
    assert check((0, 5)) == 5
    assert check((0, 5, 6)) == (5, 6)
    with pytest.raises(
        CudaError, match=r"cuX must succeed, but returned CUDA_ERROR_LAUNCH_FAILED \(719\)"
    ) as error:
        check((Code(719), None), "cuX")
    assert (error.value.code, error.value.name) == (719, "CUDA_ERROR_LAUNCH_FAILED")


def test_a_program_in_order() -> None:
    driver = Recorder()
    with Program(driver, Clock(driver), "madd") as gpu:
        buffer = gpu.allocate(64)
        gpu.upload(buffer, np.zeros(16, np.float32))
        gpu.launch("madd", (1, 2), (16, 16), [pointer(buffer), i32(3)])
        gpu.synchronize()
    assert driver.calls == [
        *("cuInit", "cuDeviceGet", "cuCtxCreate", "cuModuleLoadData", "cuMemAlloc", "cuMemcpyHtoD"),
        *(
            "cuModuleGetFunction",
            "cuLaunchKernel",
            "cuCtxSynchronize",
            "cuMemFree",
            "cuModuleUnload",
            "cuCtxDestroy",
        ),
    ]
    assert not driver.live


# Programs whose host part runs on what the recorder leaves in their arrays need a device.
@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("PINCPY", "BFS")])
def test_every_call_is_in_its_phase(name: str) -> None:
    driver = Recorder()
    workload = WORKLOADS[name]
    with np.errstate(all="ignore"):
        try:
            workload.run(driver, workload.inputs("small"), Clock(driver))
        except ZeroDivisionError:
            assert name == "SRAD"  # its statistics come from the device
    expected = {
        "cuInit": "init",
        "cuCtxCreate": "init",
        "cuModuleLoadData": "init",
        "cuMemAlloc": "init",
        "cuMemcpyHtoD": "htod",
        "cuLaunchKernel": "launch",
        "cuMemcpyDtoH": "dtoh",
        "cuMemFree": "close",
        "cuModuleUnload": "close",
        "cuCtxDestroy": "close",
    }
    for call, phase in driver.phases:
        assert phase == expected.get(call, phase), call
    assert not driver.live
    assert driver.calls[-1] == "cuCtxDestroy"


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("cuMemAlloc", 2),
        ("cuMemcpyHtoD", 1),
        ("cuLaunchKernel", 0),
        ("cuCtxSynchronize", 0),
        ("cuMemcpyDtoH", 0),
    ],
)
def test_a_failed_call_is_told_and_everything_is_released(call: str, after: int) -> None:
    driver = Recorder(call, after)
    workload = WORKLOADS["MADD"]
    with pytest.raises(CudaError, match=call):
        workload.run(driver, workload.inputs("small"), Clock(driver))
    assert not driver.live
    assert driver.calls[-2:] == ["cuModuleUnload", "cuCtxDestroy"]


def test_a_module_that_does_not_load_leaves_no_context() -> None:
    driver = Recorder("cuModuleLoadData")
    with pytest.raises(CudaError, match="cuModuleLoadData"):
        Program(driver, Clock(driver), "madd")
    assert driver.calls[-1] == "cuCtxDestroy"


def test_a_release_that_fails_is_told_when_nothing_else_was_wrong() -> None:
    driver = Recorder("cuCtxDestroy")
    with pytest.raises(CudaError, match="cuCtxDestroy"), Program(driver, Clock(driver)):
        pass


@pytest.mark.parametrize(("count", "size", "expected"), [(1, 16, 1), (16, 16, 1), (17, 16, 2), (0, 16, 0)])
def test_blocks_cover_all(count: int, size: int, expected: int) -> None:
    assert blocks(count, size) == expected

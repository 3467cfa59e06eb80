"""Unmodified cuda-python programs run in a machine; so do several at once, each in its own."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from guest_support import Lab, ok

import kernels
from gpuvm.guest.injection import current, inside, run_program
from gpuvm.guest.pythonic import Gpu, GpuError
from gpuvm.lab.system import System

PROGRAMS = Path(__file__).parent / "programs"
needs_nvrtc = pytest.mark.usefixtures("nvrtc")


@pytest.fixture
def nvrtc() -> None:
    pytest.importorskip("cuda.bindings.nvrtc")


def test_a_vector_addition_through_nvrtc(lab: Lab, nvrtc: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(lab.cuda, PROGRAMS / "vector_add.py", ["3000"]) == 0
    assert capsys.readouterr().out == "3000 sums are right\n"
    driver = lab.cuda.driver
    assert driver.vram.used_bytes == driver.idle_vram


def test_saxpy_with_argument_addresses_and_a_cubin(
    lab: Lab, nvrtc: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_program(lab.cuda, PROGRAMS / "saxpy.py") == 0
    assert capsys.readouterr().out == "saxpy is right\n"


def test_streams_threads_and_host_functions(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_program(lab.cuda, PROGRAMS / "streams.py") == 0
    assert capsys.readouterr().out == "streams are right\n"
    assert lab.cuda.driver.fifo.channels_in_use == 0


def test_two_machines_run_programs_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    labs = [Lab(64 << 20, 64 << 20) for _ in range(2)]
    statuses: list[int] = []
    threads = [
        threading.Thread(
            target=lambda lab=lab: statuses.append(run_program(lab.cuda, PROGRAMS / "streams.py"))
        )
        for lab in labs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lab in labs:
        lab.close()
    assert statuses == [0, 0]
    assert capsys.readouterr().out == "streams are right\n" * 2


def test_how_a_program_ends_is_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    leaves = PROGRAMS / "leaves.py"
    assert run_program(lab.cuda, leaves, ["end"]) == 0
    assert run_program(lab.cuda, leaves, ["status"]) == 3
    assert run_program(lab.cuda, leaves, ["message"]) == 1
    assert capsys.readouterr().err == "it did not work\n"
    with pytest.raises(ValueError, match="a program's own error"):
        run_program(lab.cuda, leaves, ["error"])
    with pytest.raises(FileNotFoundError):
        run_program(lab.cuda, PROGRAMS / "missing.py")
    lab.cuda.close()
    assert lab.machine.pages.used_bytes == 0


def test_everything_is_as_before_afterwards(lab: Lab) -> None:
    before = {name: sys.modules.get(name) for name in ("cuda", "cuda.bindings", "cuda.bindings.driver")}
    argv, path, start = sys.argv, list(sys.path), threading.Thread.start
    run_program(lab.cuda, PROGRAMS / "leaves.py", ["end"])
    assert argv is sys.argv
    assert path == sys.path
    assert threading.Thread.start is start
    for name, module in before.items():
        if module is not None:
            assert sys.modules[name] is module
    with pytest.raises(RuntimeError, match="no virtual machine's program"):
        current()


def test_threads_belong_to_the_machine_of_their_starter() -> None:
    labs = [Lab(64 << 20, 64 << 20) for _ in range(2)]
    seen: dict[int, list[object]] = {}

    def program(lab: Lab) -> None:
        with inside(lab.cuda) as driver:
            ok(driver.cuInit(0))
            threads = [
                threading.Thread(target=lambda: seen.setdefault(id(lab), []).append(current()))
                for _ in range(3)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    outer = [threading.Thread(target=program, args=(lab,)) for lab in labs]
    for thread in outer:
        thread.start()
    for thread in outer:
        thread.join()
    assert seen == {id(lab): [lab.cuda] * 3 for lab in labs}
    for lab in labs:
        lab.close()


@pytest.mark.parametrize("mode", ["passthrough", "fv-naive"])
def test_the_same_driver_and_program_on_a_virtual_gpu(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    with System(mode, 1, memory=64 << 20, vram=64 << 20) as system, system.guests[0].process() as cuda:
        for _ in range(2):
            assert run_program(cuda, PROGRAMS / "streams.py") == 0
    assert capsys.readouterr().out == "streams are right\n" * 2


def test_a_fault_in_one_machine_is_no_other_machines_business() -> None:
    with System("fv-naive", 2, memory=64 << 20, vram=64 << 20) as system:
        sick, healthy = system.guests
        with sick.process() as bad, healthy.process() as good, Gpu(good) as gpu:
            module = gpu.module(kernels.STORE)
            out = gpu.zeros(64, np.uint32)
            for round_ in range(3):
                with Gpu(bad) as other:
                    broken = other.module(kernels.STORE)
                    broken.load[1, 1](0x10, 0x20)
                    module.store[2, 32](out, round_)
                    with pytest.raises(GpuError, match="ILLEGAL_ADDRESS"):
                        other.synchronize()
                assert np.array_equal(out.get(), np.arange(round_, round_ + 64))

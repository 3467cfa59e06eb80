"""`gpuvm run`: a cuda-python program runs unmodified in one or more virtual machines."""

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.cli.output import Prefixed
from gpuvm.lab.modes import MODES

COPY = """
import sys
import threading

import numpy as np
from cuda.bindings import driver


def check(result):
    assert result[0] == driver.CUresult.CUDA_SUCCESS, result[0]
    return result[1] if len(result) == 2 else result[1:]


check(driver.cuInit(0))
context = check(driver.cuCtxCreate(0, check(driver.cuDeviceGet(0))))
sent = np.arange(1000, dtype=np.int32)
back = np.zeros_like(sent)
memory = check(driver.cuMemAlloc(sent.nbytes))
check(driver.cuMemcpyHtoD(memory, sent.ctypes.data, sent.nbytes))
check(driver.cuMemcpyDtoH(back.ctypes.data, memory, back.nbytes))
print("equal" if (sent == back).all() else "different", *sys.argv[1:])
thread = threading.Thread(target=lambda: print("from a thread"))
thread.start()
thread.join()
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(COPY)
    return path


def run(*arguments: str | Path) -> tuple[int, str, str]:
    small = ["--memory", "32M", "--vram", "32M"]
    result = CliRunner().invoke(app, ["run", *small, *(str(argument) for argument in arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("mode", ["native", "passthrough", "fv-naive"])
def test_a_program_runs_in_every_mode(program: Path, mode: str) -> None:
    assert run(program, "--mode", mode) == (0, "equal\nfrom a thread\n", "")


def test_arguments_are_the_program_s(program: Path) -> None:
    assert run(program, "7", "--fast", "--mode", "native")[1].splitlines()[0] == "equal 7 --fast"
    assert run("--mode", "native", program, "--", "--mode", "x")[1].splitlines()[0] == "equal --mode x"


def test_lines_of_several_machines_carry_their_names(program: Path) -> None:
    status, output, _ = run(program, "--vms", "2")
    assert status == 0
    assert sorted(output.splitlines()) == [
        "vm0 | equal",
        "vm0 | from a thread",
        "vm1 | equal",
        "vm1 | from a thread",
    ]


def test_the_exit_status_is_the_program_s(tmp_path: Path) -> None:
    path = tmp_path / "leave.py"
    path.write_text("import sys\nsys.exit(7)\n")
    assert run(path) == (7, "", "")


def test_a_program_s_own_error_is_its_traceback(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def f():\n    raise KeyError('mine')\n\n\nf()\n")
    status, output, error = run(path, "--vms", "2")
    assert (status, output) == (1, "")
    lines = error.splitlines()
    assert "vm0 | KeyError: 'mine'" in lines
    assert "vm1 | KeyError: 'mine'" in lines
    assert [line for line in lines if line.startswith("vm0 |   File")] == [
        f'vm0 |   File "{path}", line 5, in <module>',
        f'vm0 |   File "{path}", line 2, in f',
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--mode", "xen"), f"--mode must be one of {', '.join(MODES)}, got 'xen'"),
        (
            ("--mode", "native", "--vms", "2"),
            "--vms must be 1 with --mode native, which does not share the GPU, got 2",
        ),
        (("--memory", "much"), "--memory must be a size such as 256M or 1G, got 'much'"),
    ],
)
def test_a_wrong_request_is_one_sentence(program: Path, arguments: tuple[str, ...], sentence: str) -> None:
    assert run(program, *arguments) == (2, "", f"gpuvm: {sentence}\n")


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert run(tmp_path / "none.py") == (
        2,
        "",
        f"gpuvm: {tmp_path / 'none.py'} must be a file; there is none\n",
    )


def test_pieces_of_a_line_are_put_together() -> None:
    out, lock = io.StringIO(), threading.Lock()
    left, right = Prefixed(out, "a | ", lock), Prefixed(out, "b | ", lock)
    left.write("one ")
    right.write("two\nthree")
    left.write("line\n")
    right.finish()
    left.finish()
    assert out.getvalue() == "b | two\na | one line\nb | three\n"


ENDLESS = '''
from cuda.bindings import driver

PTX = b"""
.version 2.3
.target sm_20
.address_size 64
.entry spin() {
again:
    bra again;
}
"""


def check(result):
    if result[0]:
        raise SystemExit(result[0].name)
    return result[1] if len(result) == 2 else result[1:]


check(driver.cuInit(0))
context = check(driver.cuCtxCreate(0, check(driver.cuDeviceGet(0))))
kernel = check(driver.cuModuleGetFunction(check(driver.cuModuleLoadData(PTX)), b"spin"))
check(driver.cuLaunchKernel(kernel, 1, 1, 1, 32, 1, 1, 0, 0, 0, 0))
print("launched", flush=True)
check(driver.cuCtxSynchronize())
'''


def test_the_watchdog_ends_a_kernel_that_does_not(tmp_path: Path) -> None:
    path = tmp_path / "spin.py"
    path.write_text(ENDLESS)
    status, output, error = run(path, "--vms", "2", "--watchdog", "0.5")
    assert status == 1
    assert sorted(output.splitlines()) == ["vm0 | launched", "vm1 | launched"]
    for name in ("vm0", "vm1"):
        assert f"{name} | CUDA_ERROR_LAUNCH_TIMEOUT" in error.splitlines()


@pytest.mark.parametrize("machines", [1, 2])
def test_an_interrupt_ends_programs_and_their_kernels(tmp_path: Path, machines: int) -> None:
    path = tmp_path / "spin.py"
    path.write_text(ENDLESS)
    code = "from gpuvm.cli.main import app; app()"
    command = [sys.executable, "-c", code, "run", "--vms", str(machines), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for _ in range(machines):
            assert process.stdout.readline().endswith("launched\n")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130

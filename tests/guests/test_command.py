"""`gpuvm vm run` as a person runs it: output, exit status, files, JSON, and an end that leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu import Qemu

pytestmark = [pytest.mark.guests, pytest.mark.timeout(600)]

GPUVM = (sys.executable, "-c", "from gpuvm.cli.main import app; app()")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_a_command_runs_in_a_guest_that_has_the_gpu_passed_through(
    qemu: Qemu, image: Image, tmp_path: Path
) -> None:
    script = tmp_path / "hello.sh"
    script.write_text("#!/bin/sh\necho hello from $(uname -r); gpuvm-info; echo oops >&2; exit 3\n")
    script.chmod(0o755)
    options = [
        "--mode",
        "passthrough",
        "--vram",
        "48M",
        "--copy",
        str(script),
        "--logs",
        str(tmp_path / "logs"),
    ]
    done = subprocess.run(
        [*GPUVM, "vm", "run", *options, "--json", str(tmp_path / "out.json"), "--", "./hello.sh"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"hello from {image.manifest['kernel']}"
    assert lines[1].startswith("NVIDIA chipset c0, device 06d8")
    assert "oops" in done.stderr
    assert "complains" not in done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    (guest,) = report["guests"]
    assert (guest["status"], guest["problems"]) == (3, [])
    assert 0 < guest["boot"]["probe_s"] < guest["boot"]["bound_s"]
    assert "NVIDIA GF100" in (tmp_path / "logs" / "vm0.kernel").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupt_ends_the_guests_too(qemu: Qemu, image: Image, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*GPUVM, "vm", "run", "--count", "2", "--vram", "32M", "--", "sleep 1000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment(),
    )
    guests = children(process.pid, 2)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in guests):
        assert time.monotonic() < deadline, "a guest outlives the command"
        time.sleep(0.1)


def children(parent: int, count: int) -> list[int]:
    """Wait for so many guests of a process."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = []
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            for pid in map(int, task.read_text().split()):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if (
                    b"-kernel" in words
                    and b"virtio-serial-pci,max_ports=2" in words
                    and words[0] != b"setpriv"
                ):
                    found.append(pid)
        if len(found) == count:
            return found
        time.sleep(0.1)
    raise AssertionError("the command must start its guests")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

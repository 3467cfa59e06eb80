"""`gpuvm serve` and `gpuvm ctl` as a person uses them."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from typer.testing import CliRunner

from gpuvm.cli.main import app
from gpuvm.vmm.vfio_user import Client

COMMAND = [sys.executable, "-c", "from gpuvm.cli.main import app; app()", "serve"]
SMALL = ["--profile", "small", "--gpu-memory", "96M"]


def ctl(socket: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["ctl", "--socket", str(socket), *arguments])
    return result.exit_code, result.stdout, result.stderr


def serve(socket: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [*COMMAND, "--control", str(socket), *SMALL, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """A command that runs in this process leaves the logs as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "run" / "control.sock"


@pytest.fixture
def daemon(socket: Path) -> Iterator[subprocess.Popen[str]]:
    process = serve(socket, "--vm", "a,vram=16M,weight=2")
    assert process.stdout is not None
    assert process.stdout.readline() == f"serving 1 virtual GPU; control socket {socket}\n"
    yield process
    if process.poll() is None:
        process.kill()
    process.communicate()


def test_a_daemon_is_looked_at_changed_and_stopped(daemon: subprocess.Popen[str], socket: Path) -> None:
    status, out, _ = ctl(socket, "list")
    assert status == 0
    assert "a     fv-naive  idle" in out
    assert f"process {daemon.pid}" in out
    assert ctl(socket, "add", "b,vram=16M,channels=4") == (0, f"{socket.parent / 'b.sock'}\n", "")
    assert ctl(socket, "set", "b", "weight=4") == (0, "", "")
    assert ctl(socket, "set", "scheduler=credit") == (0, "", "")
    assert ctl(socket, "set", "b", "cap=25") == (0, "", "")
    assert ctl(socket, "reset", "b") == (0, "", "")
    listed = json.loads(ctl(socket, "list", "--json")[1])
    assert listed["scheduler"] == "credit"
    assert [(vm["name"], vm["weight"], vm["cap"], vm["channels"]) for vm in listed["vms"]] == [
        ("a", 2, 0, 16),
        ("b", 4, 25, 4),
    ]
    with Client(socket.parent / "a.sock") as client:
        assert client.read(0, 0, 4) >> 20 == 0x0C0
        top = json.loads(ctl(socket, "top", "-n", "1", "-i", "0.1", "--json")[1])
        assert [(vm["name"], vm["state"]) for vm in top["vms"]] == [("a", "connected"), ("b", "idle")]
        assert "launches/s" in ctl(socket, "top", "-n", "1", "-i", "0.1")[1]
        assert ctl(socket, "remove", "b") == (0, "", "")
        assert ctl(socket, "stop") == (0, "", "")
    assert daemon.wait(30) == 0
    assert daemon.stderr is not None
    assert daemon.stderr.read() == ""  # quiet
    assert not socket.parent.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it(daemon: subprocess.Popen[str], socket: Path, number: signal.Signals) -> None:
    client = Client(socket.parent / "a.sock")
    daemon.send_signal(number)
    assert daemon.wait(30) == 0
    client.close()
    assert not socket.parent.exists()


def test_a_killed_one_is_replaced_and_a_living_one_is_not(
    daemon: subprocess.Popen[str], socket: Path
) -> None:
    second = serve(socket)
    out, error = second.communicate(timeout=60)
    assert (second.returncode, out) == (1, "")
    assert error == (
        f"gpuvm: the daemon could not start: the control socket {socket} must be free: a daemon that runs has "
        "it; stop that one or choose another path\n"
    )
    daemon.kill()
    daemon.wait()
    assert socket.exists()
    third = serve(socket, "--vm", "a,vram=16M", "-v", "--log-json")
    assert third.stdout is not None
    assert third.stdout.readline().startswith("serving 1 virtual GPU;")
    third.terminate()
    _, error = third.communicate(timeout=60)
    assert third.returncode == 0
    events = [json.loads(line) for line in error.splitlines()]
    assert ("a VM was added", "a", "info") in [(e["event"], e.get("vm"), e["level"]) for e in events]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--vm", "a,mode=magic"], "mode of VM 'a' must be one of passthrough, fv-naive"),
        (["--vm", "=a"], "--vm must be NAME[,KEY=VALUE…], got '=a'"),
        (["--vm", "a,weight"], "--vm must have settings of the form KEY=VALUE, got 'weight'"),
        (["--vm", "a,colour=red"], "vm[0].colour must be one of the keys name, mode, socket"),
        (["--vm", "a,sealed=perhaps"], "vm[0].sealed must be true or false, got 'perhaps'"),
        (["--vm", "a,vram=1T"], "the daemon could not start: "),
        (["--vm", "a,vram=16M", "--vm", "b,mode=passthrough"], "pass-through needs the GPU for itself"),
        (["--scheduler", "best"], "scheduler must be one of direct, fifo"),
        (["--gpu-memory", "much"], "gpu.vram must be a size such as 256M or 1G, got 'much'"),
        (["none.toml"], "none.toml must be a file that can be read"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(
    socket: Path, arguments: list[str], sentence: str
) -> None:
    small = [each for each in SMALL if "--gpu-memory" not in arguments or each not in SMALL[2:]]
    result = CliRunner().invoke(app, ["serve", "--control", str(socket), *small, *arguments])
    assert result.exit_code in (1, 2)
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1
    assert not socket.parent.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["list"], "a daemon must listen on"),
        (["set", "a"], "something to set must be given"),
        (["set", "weight=1"], "gpuvm ctl set NAME weight=N"),
        (["set", "a", "weight=heavy"], "weight must be a number, got 'heavy'"),
        (["set", "a", "colour=1"], "a setting must be scheduler=S, weight=N or cap=PERCENT, got 'colour=1'"),
    ],
)
def test_ctl_says_what_is_wrong(socket: Path, arguments: list[str], sentence: str) -> None:
    status, out, error = ctl(socket, *arguments)
    assert status in (1, 2)
    assert out == ""
    assert sentence in error
    assert error.count("\n") == 1

"""A daemon on a small card, and guests in processes of their own that use what it serves."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuvm.vmm.daemon import Daemon, build

GUEST = Path(__file__).parent / "guest_process.py"
PROGRAMS = Path(__file__).parent.parent / "guest" / "programs"
MIB = 1 << 20

Start = Callable[..., Daemon]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Whether a condition comes true; a slow machine is given time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


class Guest:
    """A machine in another process, with the guest's driver on a served virtual GPU."""

    def __init__(self, socket: str, program: str, *arguments: str) -> None:
        command = [sys.executable, str(GUEST), socket, program, *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        """Wait for its end: exit status and the rest of what it printed."""
        out, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, out

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def guests() -> Iterator[Callable[..., Guest]]:
    """Starts guests; none is left."""
    started: list[Guest] = []

    def start(socket: str, program: str, *arguments: str) -> Guest:
        started.append(Guest(socket, program, *arguments))
        return started[-1]

    yield start
    for guest in started:
        if guest.process.poll() is None:
            guest.kill()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """A small daemon's configuration without VMs."""
    return {
        "control": str(tmp_path / "c"),
        "gpu": {"profile": "small", "vram": 160 * MIB, "reserve": 32 * MIB, "watchdog": 20},
    }


@pytest.fixture
def start(settings: dict[str, Any]) -> Iterator[Start]:
    """Starts a daemon with VMs; it is closed at the end."""
    daemons: list[Daemon] = []

    def make(*vms: dict[str, Any], **more: Any) -> Daemon:
        named = [{"vram": 32 * MIB, "channels": 8, **vm} for vm in vms]
        daemons.append(Daemon(build({**settings, **more, "vm": named})))
        return daemons[-1]

    yield make
    for daemon in daemons:
        daemon.close()

"""The guest's agent and the host's machine, over a socket pair and without a guest: the agent runs here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.vmm.errors import GuestError, GuestTimeout
from gpuvm.vmm.guestprogs.frames import LARGEST, FrameError, Kind, Splitter, frame
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu.locate import Qemu
from gpuvm.vmm.qemu.machine import Machine
from gpuvm.vmm.qemu.options import Guest

_AGENT = """
import sys
from gpuvm.vmm.guestprogs.agent import Agent
Agent(int(sys.argv[1]), None).run()
"""


class HostMachine(Machine):
    """A machine whose agent is a process of this host."""

    def __init__(self, folder: Path) -> None:
        qemu = Qemu(("true",), "11.1", "nowhere")
        super().__init__(qemu, Guest("host", Image(folder)), driver="", folder=folder)

    def start(self) -> None:
        here, there = socket.socketpair()
        there.setblocking(False)
        self._agent = here
        with there:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _AGENT, str(there.fileno())],
                pass_fds=(there.fileno(),),
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        threading.Thread(target=self._wait_for_end, daemon=True).start()
        threading.Thread(target=self._listen, daemon=True).start()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with HostMachine(tmp_path) as machine:
        machine.start()
        machine.wait_ready(60)
        yield machine


def test_output_errors_and_status_come_back(machine: Machine) -> None:
    done = machine.run("echo out; echo err >&2; exit 7", folder="/")
    assert (done.status, done.output, done.errors) == (7, b"out\n", b"err\n")


def test_a_program_gets_its_arguments_input_and_environment(machine: Machine) -> None:
    code = "import os, sys; print(sys.argv[1:], os.environ['X'], len(sys.stdin.read()))"
    done = machine.run(
        [sys.executable, "-c", code, "a b", "$c"], data=b"y" * 300_000, environment={"X": "1"}, folder="/"
    )
    assert done.output == b"['a b', '$c'] 1 300000\n"


def test_output_arrives_while_the_command_runs(machine: Machine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    seen = threading.Event()
    done: list[int] = []

    def work() -> None:
        done.append(machine.run(f"echo now; cat {fifo}", output=lambda _: seen.set(), folder="/").status)

    thread = threading.Thread(target=work)
    thread.start()
    assert seen.wait(60)
    assert not done
    fifo.write_text("go")
    thread.join(60)
    assert done == [0]


def test_jobs_run_at_the_same_time(machine: Machine, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    results: list[bytes] = []
    thread = threading.Thread(target=lambda: results.append(machine.run(f"cat {fifo}", folder="/").output))
    thread.start()
    machine.run(f"echo met > {fifo}", folder="/")
    thread.join(60)
    assert results == [b"met\n"]


def test_a_command_that_runs_on_is_killed(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(GuestTimeout, match=r"must end within 0\.3 s, but ran on"):
        machine.run(f"echo $$ > {tmp_path}/pid; exec sleep 1000", timeout=0.3, folder="/")
    assert machine.run("true", folder="/").status == 0


def test_a_signal_is_a_status_as_in_a_shell(machine: Machine) -> None:
    assert machine.run("kill -TERM $$", folder="/").status == 128 + signal.SIGTERM


def test_files_go_there_and_back(machine: Machine, tmp_path: Path) -> None:
    content = os.urandom(200_000)
    machine.put(str(tmp_path / "new" / "file"), content, 0o755)
    assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == 0o755
    assert machine.get(str(tmp_path / "new" / "file")) == content
    with pytest.raises(GuestError, match="cannot give /nowhere"):
        machine.get("/nowhere")
    with pytest.raises(GuestError, match="cannot run the command"):
        machine.run(["/nowhere"], folder="/")


def test_a_guest_that_dies_ends_its_commands(machine: Machine) -> None:
    threading.Timer(0.3, lambda: os.kill(machine.pid, signal.SIGKILL)).start()
    with pytest.raises(GuestError, match="ended with status -9"):
        machine.run("sleep 5", folder="/")


frames = st.tuples(st.sampled_from(list(Kind)), st.integers(0, 2**32 - 1), st.binary(max_size=50))


@given(st.lists(frames, max_size=6), st.integers(1, 40))
def test_frames_survive_any_cut(sent: list[tuple[Kind, int, bytes]], piece: int) -> None:
    stream = b"".join(frame(*each) for each in sent)
    splitter = Splitter()
    got = [each for at in range(0, len(stream), piece) for each in splitter.feed(stream[at : at + piece])]
    assert got == sent


@pytest.mark.parametrize("stream", [b"x" * 12, frame(Kind.HELLO, 0, bytes(9))[:8] + b"\xff" * 4])
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(FrameError):
        Splitter().feed(stream)
    assert LARGEST < 0xFFFFFFFF


def test_an_agent_that_talks_nonsense_is_told_of(tmp_path: Path) -> None:
    with HostMachine(tmp_path) as machine:
        here, there = socket.socketpair()
        machine._agent = here
        threading.Thread(target=machine._listen, daemon=True).start()
        there.sendall(frame(Kind.HELLO, 0, b"no JSON"))
        with pytest.raises(GuestError, match="must speak the protocol"):
            machine.wait_ready(10)
        there.sendall(frame(Kind.HELLO, 0, json.dumps({"kernel": "6", "uptime": 1.0, "boot": "b"}).encode()))
        there.close()

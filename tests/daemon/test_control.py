"""The control socket: a JSON object a line, and what becomes of lines that are none."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from typing import Any

import pytest
from daemon_rig import MIB, Start, eventually

from gpuvm.vmm.daemon import ControlClient, DaemonError, Status, VmStatus, rates
from gpuvm.vmm.daemon.control import MAX_CLIENTS
from gpuvm.vmm.daemon.protocol import MAX_LINE, Add, List, Remove, Reset, Stop


class Line:
    """A raw connection."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(10)
        self.socket.connect(path)
        self.stream = self.socket.makefile("rb")

    def ask(self, line: bytes) -> Any:
        self.socket.sendall(line + b"\n")
        return self.answer()

    def answer(self) -> Any:
        return json.loads(self.stream.readline())

    def close(self) -> None:
        self.stream.close()
        self.socket.close()


def test_a_client_asks_and_changes(start: Start) -> None:
    daemon = start({"name": "a", "weight": 2})
    with ControlClient(daemon.config.control) as client:
        status = client.ask(List(), Status)
        assert (status.pid, status.scheduler, status.profile) == (os.getpid(), "fifo", "small")
        assert [(vm.name, vm.weight, vm.state) for vm in status.vms] == [("a", 2, "idle")]
        made = client.ask(Add({"name": "b", "vram": "16M", "channels": 4}), VmStatus)
        assert (made.vram, made.channels) == (16 * MIB, 4)
        assert os.path.exists(made.socket)
        client.ask(Reset("b"), type(None))
        assert [vm.resets for vm in client.ask(List(), Status).vms] == [0, 1]
        client.ask(Remove("b"), type(None))
        assert not os.path.exists(made.socket)
        assert client.ask(List(), Status).vram_free == status.vram_free
        for request, error in (
            (Remove("b"), r"one of those that are served \(a\), got 'b'"),
            (Reset("b"), "got 'b'"),
            (Add({"name": "a"}), "there is a VM 'a' already"),
            (Add({"name": "b", "vram": "huge"}), "vram must be a size"),
            (Add({"name": "b", "vram": 1 << 40}), "bytes of video memory"),
            (Add({}), "name must be given"),
        ):
            with pytest.raises(DaemonError, match=error):
                client.ask(request, object)
        assert len(client.ask(List(), Status).vms) == 1
        client.ask(Stop(), type(None))
        assert daemon.wait(10)
        with pytest.raises(DaemonError, match="the daemon stops"):
            client.ask(List(), Status)
    daemon.close()
    with pytest.raises(DaemonError, match="start one with gpuvm serve"):
        ControlClient(daemon.config.control)


@pytest.mark.parametrize(
    "line",
    [
        b"hello",
        b"[]",
        b"{}",
        b'{"command": "dance"}',
        b'{"command": "remove"}',
        b'{"command": "remove", "name": 3}',
        b'{"command": "list", "more": 1}',
        b'{"command": "add", "vm": []}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"command": "set", "weight": 1e99}',
    ],
)
def test_a_line_that_is_no_request_is_answered_in_words(start: Start, line: bytes) -> None:
    daemon = start()
    raw = Line(daemon.config.control)
    answer = raw.ask(line)
    assert list(answer) == ["error"]
    assert len(answer["error"]) > 10
    assert raw.ask(b'{"command": "list"}')["result"]["vms"] == []
    raw.close()


def test_lines_in_pieces_and_many_at_once(start: Start) -> None:
    daemon = start()
    raw = Line(daemon.config.control)
    raw.socket.sendall(b'{"comm')
    raw.socket.sendall(b'and": "list"}\n\n{"command": "list"}\n{"command"')
    assert "result" in raw.answer()
    assert "result" in raw.answer()
    assert "result" in raw.ask(b': "list"}')
    raw.socket.sendall(b"x" * (MAX_LINE + 5000))
    assert "at most" in raw.answer()["error"]
    with contextlib.suppress(ConnectionResetError):  # what it did not read
        assert raw.stream.readline() == b""
    raw.close()


def test_too_many_are_turned_away_and_silent_ones_end_with_the_daemon(start: Start) -> None:
    daemon = start()
    silent = [Line(daemon.config.control) for _ in range(MAX_CLIENTS)]
    assert all("result" in line.ask(b'{"command": "list"}') for line in silent)
    more = Line(daemon.config.control)
    assert "at most" in more.answer()["error"]
    more.close()
    silent.pop().close()
    assert eventually(lambda: _served(daemon.config.control))
    daemon.close()
    assert all(line.stream.readline() == b"" for line in silent)
    for line in silent:
        line.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gpuvm control")]


def _served(path: str) -> bool:
    line = Line(path)
    line.socket.sendall(b'{"command": "list"}\n')
    answer = line.answer()
    line.close()
    return "result" in answer


def vm(name: str, **counts: int) -> VmStatus:
    return VmStatus(name, "fv-naive", "s", "connected", 1, 0.0, 64, 8, **counts)


def test_rates_are_differences() -> None:
    def status(seconds: int, *vms: VmStatus) -> Status:
        return Status(1, seconds * 10**9, "fifo", "small", 64, 0, 0, "c", list(vms))

    before = status(10, vm("a", traps=5, launches=10, busy_ns=10**9), vm("b", launches=7, busy_ns=5))
    after = status(
        12, vm("a", traps=25, launches=13, busy_ns=2 * 10**9), vm("b", launches=2), vm("c", traps=8, direct=2)
    )
    found = rates(before, after)
    assert [(each.name, each.device, each.traps, each.launches) for each in found] == [
        ("a", 0.5, 10.0, 1.5),
        ("b", 0.0, 0.0, 1.0),  # another VM of that name
        ("c", 0.0, 5.0, 0.0),
    ]

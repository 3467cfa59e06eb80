"""What a register access over vfio-user costs, beside what the same bytes cost on a bare socket.

    python bench/vfio_user.py [--seconds S] [--core N] [--json FILE] [--server SOCKET]

The server is another process; both are pinned to one core (`--core -1`: the scheduler decides). Each figure is
the median of rounds that take turns, so that a slow moment of the machine hits all alike. The bare ping-pong
moves as many bytes as a register read does (32 there, 36 back), in Python and with nothing in between. With
`--server` a socket of any other vfio-user server is measured too (libvfio-user's sample, for one).
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuvm.vmm.vfio_user import Client, Endpoint, Server, memory_region
from gpuvm.vmm.vfio_user.protocol import Command

REQUEST, REPLY = 32, 36
ROUND_S = 0.05


def serve(path: str) -> None:
    """Serve plain memory until standard input ends."""
    with Server(Endpoint([memory_region(bytearray(1 << 16))]), path):
        print("ready", flush=True)
        sys.stdin.read()


def echo(path: str) -> None:
    """Answer each request's bytes with a reply's."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    sock, _ = listener.accept()
    buffer, reply = bytearray(REQUEST), bytes(REPLY)
    while sock.recv_into(buffer, REQUEST):
        sock.sendall(reply)


def start(kind: str, path: Path, core: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--child", kind, "--path", str(path), "--core", str(core)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


class RawReads:
    """A register read as bytes: the client's own work is the same as the ping-pong's, what is left is the
    server's.
    """

    def __init__(self, path: Path, region: int = 0) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(path))
        hello = struct.pack("<HHIIIHH", 0, Command.VERSION, 20, 0, 0, 0, 0)
        self.sock.sendall(hello)
        self.sock.recv(4096)
        self.request = struct.pack("<HHIIIQII", 1, Command.REGION_READ, REQUEST, 0, 0, 0, region, 4)
        self.buffer = bytearray(REPLY)

    def __call__(self) -> None:
        self.sock.sendall(self.request)
        self.sock.recv_into(self.buffer, REPLY)


def ping_pong(path: Path) -> Callable[[], None]:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    request, buffer = bytes(REQUEST), bytearray(REPLY)

    def once() -> None:
        sock.sendall(request)
        sock.recv_into(buffer, REPLY)

    return once


def one_round(access: Callable[[], None], settle: Callable[[], None], per: int) -> float:
    """Microseconds of one access."""
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < ROUND_S:
        for _ in range(50):
            access()
        count += 50
    settle()
    return (time.perf_counter() - begin) / count / per * 1e6


def measure(seconds: float, core: int, other: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        bare, ours, raw = (Path(folder) / name for name in ("bare", "ours", "raw"))
        processes = [start("echo", bare, core), start("serve", ours, core), start("serve", raw, core)]
        if core >= 0:
            os.sched_setaffinity(0, {core})
        client = Client(ours)
        writes = [(0, 4 * each, 4, each) for each in range(200)]

        def nothing() -> None: ...

        def drained() -> None:
            client.read(0, 0, 4)

        cases: dict[str, tuple[Callable[[], None], Callable[[], None], int]] = {
            "bare ping-pong": (ping_pong(bare), nothing, 1),
            "read, raw client": (RawReads(raw), nothing, 1),
            "read": (lambda: client.read(0, 8, 4) and None, nothing, 1),
            "write, answered": (lambda: client.write(0, 8, 4, 7), nothing, 1),
            "write, posted": (lambda: client.write(0, 8, 4, 7, True), drained, 1),
            "write, 200 a message": (lambda: client.write_multi(writes), drained, 200),
        }
        if other:
            cases["read, raw client, other server"] = (RawReads(Path(other)), nothing, 1)
        rounds: dict[str, list[float]] = {name: [] for name in cases}
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(rounds["read"]) < 3:
            for name, case in cases.items():
                rounds[name].append(one_round(*case))
        client.close()
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            process.wait()
    return {name: statistics.median(values) for name, values in rounds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="wall time of the whole measurement")
    parser.add_argument("--core", type=int, default=0, help="core for both sides; -1: any")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--server", default="", help="socket of another server to compare with")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        if options.core >= 0:
            os.sched_setaffinity(0, {options.core})
        {"serve": serve, "echo": echo}[options.child](options.path)
        return
    figures = measure(options.seconds, options.core, options.server)
    base = figures["bare ping-pong"]
    for name, value in figures.items():
        print(f"{name:32s} {value:7.2f} us  {value / base:5.2f} x")
    if options.json:
        options.json.write_text(
            json.dumps({"unit": "us", "core": options.core, "figures": figures}, indent=1)
        )


if __name__ == "__main__":
    main()

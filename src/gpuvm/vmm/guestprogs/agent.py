"""The agent inside a guest: runs what the host asks for, moves files, loads the driver, forwards the kernel log.

Started by the guest's init; speaks `frames` over the virtio-serial port. Jobs run at the same time.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from .frames import PORT, FrameError, Kind, Splitter, frame

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_PIECE = 1 << 16
_RECORD = 8192
_KEEP_LISTENING_S = 0.2
_PORTS = "/sys/class/virtio-ports"


class Job:
    """A process of the host's, with what of its output is still open."""

    def __init__(self, number: int, process: subprocess.Popen[bytes]) -> None:
        self.number = number
        self.process = process
        self.open: dict[int, Kind] = {}
        for pipe, kind in ((process.stdout, Kind.STDOUT), (process.stderr, Kind.STDERR)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self.open[pipe.fileno()] = kind


class Agent:
    """One connection to the host.

    Parameters
    ----------
    port : int
        File descriptor of the port.
    log : int, optional
        File descriptor of /dev/kmsg.
    """

    def __init__(self, port: int, log: int | None) -> None:
        self._port = port
        self._log = log
        self._selector = selectors.DefaultSelector()
        self._splitter = Splitter()
        self._jobs: dict[int, Job] = {}
        self._files: dict[int, tuple[str, int, int]] = {}
        self._ended: list[tuple[int, Kind, Callable[[int], Any], subprocess.Popen[bytes]]] = []
        wakes, self._wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(port, selectors.EVENT_READ, self._from_host)
        self._selector.register(wakes, selectors.EVENT_READ, lambda: os.read(wakes, 4096))
        if log is not None:
            self._selector.register(log, selectors.EVENT_READ, self._from_kernel)

    def send(self, kind: Kind, job: int, payload: bytes = b"") -> None:
        """Write one frame; waits while the host does not read."""
        data = memoryview(frame(kind, job, payload))
        while data:
            try:
                data = data[os.write(self._port, data) :]
            except BlockingIOError:
                time.sleep(0.001)

    def tell(self, kind: Kind, job: int, content: object) -> None:
        """Write one frame with JSON in it."""
        self.send(kind, job, json.dumps(content).encode())

    def run(self) -> None:
        """Serve the host until it is gone."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        self.tell(Kind.HELLO, 0, {"kernel": os.uname().release, "uptime": time.monotonic(), "boot": boot})
        while True:
            # A child may end between the look at it and the wait: a look is due now and then.
            for key, _ in self._selector.select(_KEEP_LISTENING_S if self._jobs or self._ended else None):
                key.data()
            self._reap()

    def _from_kernel(self) -> None:
        assert self._log is not None
        try:
            while True:
                self.send(Kind.KERNEL, 0, os.read(self._log, _RECORD))
        except BlockingIOError:
            return
        except BrokenPipeError:  # records were overwritten before they were read: go on with the oldest
            return

    def _from_host(self) -> None:
        data = os.read(self._port, _PIECE)
        if not data:  # nobody has the other end
            time.sleep(_KEEP_LISTENING_S)
            return
        try:
            frames = self._splitter.feed(data)
        except FrameError:
            self._splitter = Splitter()
            return
        for kind, number, payload in frames:
            try:
                self._do(kind, number, payload)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.tell(Kind.DONE, number, {"error": f"{type(error).__name__}: {error}"})

    def _do(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.RUN:
            self._start(number, json.loads(payload))
        elif kind is Kind.INPUT:
            self._input(number, payload)
        elif kind is Kind.SIGNAL:
            if (job := self._jobs.get(number)) is not None:
                os.killpg(job.process.pid, int(json.loads(payload)))
        elif kind is Kind.PUT:
            wanted = json.loads(payload)
            os.makedirs(os.path.dirname(wanted["path"]) or "/", exist_ok=True)
            partial = f"{wanted['path']}.{number}.partial"
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._files[number] = (wanted["path"], fd, int(wanted["mode"]))
        elif kind is Kind.DATA:
            self._take(number, payload)
        elif kind is Kind.GET:
            with open(json.loads(payload)["path"], "rb") as file:
                while piece := file.read(_PIECE):
                    self.send(Kind.DATA, number, piece)
            self.send(Kind.DATA, number)
        elif kind is Kind.LOAD:
            self._load(number, json.loads(payload))
        elif kind is Kind.POWER:
            self._power(json.loads(payload))

    def _start(self, number: int, wanted: dict[str, Any]) -> None:
        command = wanted["command"]
        argv = ["/bin/sh", "-c", command] if isinstance(command, str) else command
        environment = {"PATH": PATH, "HOME": "/root", "TERM": "dumb", "LANG": "C.UTF-8"}
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if wanted.get("input") else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=wanted.get("cwd") or "/root",
            env={**environment, **wanted.get("env", {})},
            start_new_session=True,
            bufsize=0,
        )
        job = self._jobs[number] = Job(number, process)
        for fd in job.open:
            self._selector.register(fd, selectors.EVENT_READ, lambda fd=fd: self._output(job, fd))

    def _output(self, job: Job, fd: int) -> bool:
        """Forward what a job wrote; whether there was something."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return False
        if data:
            self.send(job.open[fd], job.number, data)
            return True
        self._selector.unregister(fd)
        del job.open[fd]
        return False

    def _input(self, number: int, payload: bytes) -> None:
        job = self._jobs.get(number)
        if job is None or job.process.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):
            if payload:
                job.process.stdin.write(payload)
            else:
                job.process.stdin.close()

    def _take(self, number: int, payload: bytes) -> None:
        if number not in self._files:
            return  # its beginning failed, and that was said
        path, fd, mode = self._files[number]
        if payload:
            view = memoryview(payload)
            while view:
                view = view[os.write(fd, view) :]
            return
        del self._files[number]
        os.fchmod(fd, mode)
        os.close(fd)
        os.replace(f"{path}.{number}.partial", path)
        self.tell(Kind.DONE, number, {"error": ""})

    def _load(self, number: int, wanted: dict[str, Any]) -> None:
        before = time.monotonic()
        process = subprocess.Popen(
            ["modprobe", wanted["module"], *wanted.get("options", "").split()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

        def told(status: int) -> dict[str, Any]:
            assert process.stderr is not None
            error = process.stderr.read().decode("utf-8", "replace").strip()
            after = time.monotonic()
            return {"status": status, "error": error, "before": before, "after": after, "nodes": _nodes()}

        self._ended.append((number, Kind.LOADED, told, process))

    def _reap(self) -> None:
        for job in list(self._jobs.values()):
            status = job.process.poll()
            if status is None:
                continue
            for fd in list(job.open):  # what it left in its pipes, not what its own children still write
                while self._output(job, fd):
                    pass
                if fd in job.open:
                    self._selector.unregister(fd)
            for pipe in (job.process.stdin, job.process.stdout, job.process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            del self._jobs[job.number]
            self.tell(Kind.EXIT, job.number, {"status": status if status >= 0 else 128 - status})
        for entry in list(self._ended):
            number, kind, told, process = entry
            if (status := process.poll()) is not None:
                self._ended.remove(entry)
                self.tell(kind, number, told(status))

    def _power(self, action: str) -> None:
        if action == "crash":
            with open("/proc/sysrq-trigger", "w") as file:
                file.write("c")
            return
        os.sync()
        if self._log is not None:
            self._from_kernel()
        subprocess.run(["poweroff" if action == "off" else "reboot", "-f"], check=False)


def _nodes() -> list[str]:
    """The GPU's device nodes."""
    try:
        return sorted(name for name in os.listdir("/dev/dri") if not name.startswith("by-"))
    except FileNotFoundError:
        return []


def find_port(name: str = PORT) -> str:
    """The device of the port of that name.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    for entry in sorted(os.listdir(_PORTS)):
        with open(f"{_PORTS}/{entry}/name") as file:
            if file.read().strip() == name:
                return f"/dev/{entry}"
    raise FileNotFoundError(f"the machine must have a virtio-serial port named {name}")


def main() -> None:
    port = os.open(find_port(), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    Agent(port, log).run()


if __name__ == "__main__":
    main()

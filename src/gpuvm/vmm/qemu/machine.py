"""A booted guest: QEMU as a child process, the agent's answers, the kernel's log."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuvm.vmm.errors import GuestError, GuestTimeout, QemuError
from gpuvm.vmm.guestprogs.frames import LARGEST, FrameError, Kind, Splitter, frame
from gpuvm.vmm.qemu.kernellog import KernelMessage, parse, problems
from gpuvm.vmm.qemu.locate import Qemu
from gpuvm.vmm.qemu.monitor import Monitor
from gpuvm.vmm.qemu.options import Guest, command_line

_PIECE = 1 << 16
_GRACE_S = 5.0
_LOG_LIMIT = 100_000
"""Kernel messages kept of a guest."""

Sink = Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended.

    Attributes
    ----------
    status : int
        Exit status; 128 + the signal's number if one ended it.
    output, errors : bytes
        What it wrote, where no sink took it.
    """

    status: int
    output: bytes = b""
    errors: bytes = b""


@dataclass(frozen=True, slots=True)
class Boot:
    """When what was reached, in the guest's seconds since its kernel started.

    Attributes
    ----------
    agent_s : float
        The agent runs.
    before_s, bound_s : float
        Around the loading of the driver; both 0 where it was not loaded.
    nodes : tuple of str
        In /dev/dri.
    """

    kernel: str
    agent_s: float
    before_s: float = 0.0
    bound_s: float = 0.0
    nodes: tuple[str, ...] = ()

    @property
    def probe_s(self) -> float:
        """Seconds that loading and binding the driver took."""
        return self.bound_s - self.before_s


@dataclass
class _Pending:
    """A request that the agent has not answered yet."""

    sinks: dict[Kind, Sink]
    answer: dict[str, Any] | None = None
    data: bytearray = field(default_factory=bytearray)


class Machine:
    """A real virtual machine.

    Parameters
    ----------
    qemu : Qemu
    guest : Guest
        What it is made of. Its vfio-user sockets must be served when it starts.
    driver : str
        Kernel module to load at boot, "" for none.
    driver_options : str
        Its options.
    folder : Path, optional
        Where the serial line's text (`NAME.serial`) goes; a temporary one by default.

    Notes
    -----
    Methods may be called by several threads at once. The child dies with this process, however that ends.
    """

    def __init__(
        self,
        qemu: Qemu,
        guest: Guest,
        *,
        driver: str = "nouveau",
        driver_options: str = "",
        folder: Path | None = None,
    ) -> None:
        self.qemu = qemu
        self.guest = guest
        self.name = guest.name
        self._driver = driver, driver_options
        self._own_folder = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="gpuvm-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log: list[KernelMessage] = []
        """The kernel's messages since the first boot."""
        self.boots: list[Boot] = []
        """One for each boot whose driver is loaded, or whose agent runs if there is none to load."""
        self._changed = threading.Condition()
        self._pending: dict[int, _Pending] = {}
        self._next = 1
        self._process: subprocess.Popen[bytes] | None = None
        self._status: int | None = None
        self._agent: socket.socket | None = None
        self._monitor: Monitor | None = None
        self._said = b""
        self._hello: dict[str, Any] | None = None
        self._booting: str | None = None
        self._failure = ""
        self._sending = threading.Lock()

    # Life

    def start(self) -> None:
        """Start QEMU; returns before the guest has booted.

        Raises
        ------
        QemuError
            If QEMU does not start.
        """
        if self._process is not None:
            raise QemuError(f"{self.name} must be started once")
        agent, agent_there = socket.socketpair()
        monitor, monitor_there = socket.socketpair()
        self._agent = agent
        started = threading.Event()
        failures: list[Exception] = []

        def live() -> None:
            # QEMU's parent is this thread until it ends: the parent-death signal is sent at a thread's end.
            with agent_there, monitor_there:
                try:
                    self._spawn(agent_there.fileno(), monitor_there.fileno())
                except Exception as error:
                    failures.append(error)
                finally:
                    started.set()
            if not failures:
                self._wait_for_end()

        threading.Thread(target=live, name=f"{self.name} qemu", daemon=True).start()
        started.wait()
        if failures:
            agent.close()
            monitor.close()
            raise QemuError(f"QEMU must start, but: {failures[0]}")
        self._monitor = Monitor(monitor)
        threading.Thread(target=self._listen, name=f"{self.name} agent", daemon=True).start()

    def _spawn(self, agent: int, monitor: int) -> None:
        serial = self.folder / f"{self.name}.serial"
        # A person's machine is not steered from outside.
        control = None if self.guest.console else monitor
        command = command_line(self.qemu, self.guest, agent, control, serial)
        if (setpriv := shutil.which("setpriv")) is not None:
            command = [setpriv, "--pdeathsig", "KILL", *command]
        self._process = subprocess.Popen(
            command,
            stdin=None if self.guest.console else subprocess.DEVNULL,
            stdout=None if self.guest.console else subprocess.PIPE,
            stderr=None if self.guest.console else subprocess.STDOUT,
            pass_fds=(agent, monitor),
            env={**os.environ, **self.qemu.environment},
            # The terminal's Ctrl-C is for gpuvm, which ends its guests itself.
            process_group=None if self.guest.console else 0,
        )

    def _wait_for_end(self) -> None:
        process = self._process
        assert process is not None
        said = b""
        if process.stdout is not None:
            while piece := process.stdout.read(_PIECE):
                said = (said + piece)[-_PIECE:]
            process.stdout.close()
        status = process.wait()
        with self._changed:
            self._said, self._status = said, status
            self._changed.notify_all()

    @property
    def pid(self) -> int:
        """QEMU's process."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._status is None

    @property
    def stage(self) -> str:
        """How far it is, in a few words."""
        if self._process is None:
            return "not started"
        if self._status is not None:
            return "ended"
        if self.boots:
            return "ready"
        return "loads the driver" if self._hello else "boots"

    @property
    def status(self) -> int | None:
        """QEMU's exit status, negative for a signal; None while it runs."""
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait until QEMU has ended; its exit status.

        Raises
        ------
        GuestTimeout
            If it has not ended in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._status is not None, timeout):
                raise GuestTimeout(f"{self.name} must end within {timeout:g} s, but runs")
            assert self._status is not None
            return self._status

    def wait_ready(self, timeout: float | None = None, boot: int = 1) -> Boot:
        """Wait until the guest has booted so many times and its driver is bound.

        Raises
        ------
        GuestTimeout
            If it is not in time.
        GuestError
            If the driver does not bind, or the guest ends before.
        """
        with self._changed:
            done = self._changed.wait_for(
                lambda: len(self.boots) >= boot or self._status is not None or self._failure, timeout
            )
            if len(self.boots) >= boot:
                return self.boots[boot - 1]
            if self._failure:
                raise GuestError(f"{self.name}: {self._failure}")
            if not done:
                reached = (
                    "its agent runs, the driver is not bound" if self._hello else "its agent is not heard"
                )
                raise GuestTimeout(f"{self.name} must boot within {timeout:g} s, but {reached}")
        raise self._ended()

    def kill(self) -> None:
        """End QEMU as a crash would, with SIGKILL."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self.wait(_GRACE_S)

    def stop(self, timeout: float = _GRACE_S) -> int | None:
        """Let the guest switch itself off; kill it if it does not in time. QEMU's exit status."""
        if self._process is None:
            return None
        if self._hello is not None and self.alive:
            with contextlib.suppress(GuestError, OSError):
                self._send(Kind.POWER, 0, "off")
                return self.wait(timeout)
        self.kill()
        return self._status

    def close(self) -> None:
        """End the guest, if it runs, and let go of everything."""
        self.kill()
        if self._agent is not None:
            with contextlib.suppress(OSError):
                self._agent.shutdown(socket.SHUT_RDWR)
            self._agent.close()
        if self._monitor is not None:
            self._monitor.close()
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _signal(self, number: int) -> None:
        if self.alive and self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    # Work

    def run(
        self,
        command: str | Sequence[str],
        *,
        output: Sink | None = None,
        errors: Sink | None = None,
        data: bytes | None = None,
        environment: Mapping[str, str] | None = None,
        folder: str = "",
        timeout: float | None = None,
    ) -> Result:
        """Run a command in the guest and wait for its end.

        Parameters
        ----------
        command : str or sequence of str
            A line for the guest's shell, or a program and its arguments.
        output, errors : callable, optional
            Given what it writes while it runs; otherwise the result has it.
        data : bytes, optional
            Its standard input.
        timeout : float, optional
            Seconds after which it is killed.

        Raises
        ------
        GuestTimeout
            If it did not end in time.
        GuestError
            If it cannot be started, or the guest ends or reboots before it does.
        """
        written: dict[Kind, list[bytes]] = {Kind.STDOUT: [], Kind.STDERR: []}
        sinks = {
            Kind.STDOUT: output or written[Kind.STDOUT].append,
            Kind.STDERR: errors or written[Kind.STDERR].append,
        }
        job = self._request(sinks)
        wanted = {
            "command": command if isinstance(command, str) else list(command),
            "env": dict(environment or {}),
            "cwd": folder,
            "input": data is not None,
        }
        self._send(Kind.RUN, job, wanted)
        if data is not None:
            for at in range(0, len(data), _PIECE):
                self._send_bytes(Kind.INPUT, job, data[at : at + _PIECE])
            self._send_bytes(Kind.INPUT, job, b"")
        try:
            answer = self._answer(job, timeout)
        except GuestTimeout:
            with contextlib.suppress(GuestError):
                self._send(Kind.SIGNAL, job, int(signal.SIGKILL))
            raise GuestTimeout(
                f"the command in {self.name} must end within {timeout:g} s, but ran on"
            ) from None
        if answer.get("error"):
            raise GuestError(f"{self.name} cannot run the command: {answer['error']}")
        return Result(int(answer["status"]), b"".join(written[Kind.STDOUT]), b"".join(written[Kind.STDERR]))

    def put(self, path: str, content: bytes, mode: int = 0o644, timeout: float | None = 60) -> None:
        """Give the guest a file.

        Raises
        ------
        GuestError
            If it cannot take it.
        """
        job = self._request({})
        self._send(Kind.PUT, job, {"path": path, "mode": mode})
        for at in range(0, len(content), _PIECE):
            self._send_bytes(Kind.DATA, job, content[at : at + _PIECE])
        self._send_bytes(Kind.DATA, job, b"")
        if error := self._answer(job, timeout).get("error"):
            raise GuestError(f"{self.name} cannot take {path}: {error}")

    def get(self, path: str, timeout: float | None = 60) -> bytes:
        """Fetch a file of the guest.

        Raises
        ------
        GuestError
            If it cannot be read.
        """
        job = self._request({})
        pending = self._pending[job]
        self._send(Kind.GET, job, {"path": path})
        if error := self._answer(job, timeout).get("error"):
            raise GuestError(f"{self.name} cannot give {path}: {error}")
        return bytes(pending.data)

    def load(self, module: str, options: str = "", timeout: float | None = 60) -> Boot:
        """Load a driver that was not loaded at boot, or again."""
        job = self._request({})
        self._send(Kind.LOAD, job, {"module": module, "options": options})
        return self._loaded(self._answer(job, timeout))

    def reboot(self) -> None:
        """Have the guest reboot itself; see `wait_ready`. Ends it if `Guest.reboots` is not set."""
        self._send(Kind.POWER, 0, "reboot")

    def crash(self) -> None:
        """Have the guest's kernel panic."""
        self._send(Kind.POWER, 0, "crash")

    def monitor(self, command: str, **arguments: Any) -> Any:
        """Give QEMU's monitor (QMP) a command; what it returns.

        Raises
        ------
        QemuError
            If it refuses, or is gone.
        """
        if self._monitor is None:
            raise QemuError(f"{self.name} must be started before its monitor is asked")
        return self._monitor.execute(command, arguments)

    def problems(self) -> list[KernelMessage]:
        """Warnings and errors of the kernel's log that concern the GPU, and those of a kernel that fails."""
        with self._changed:
            return problems(self.log)

    # The agent

    def _request(self, sinks: dict[Kind, Sink]) -> int:
        with self._changed:
            job = self._next
            self._next += 1
            self._pending[job] = _Pending(sinks)
            return job

    def _send(self, kind: Kind, job: int, content: object) -> None:
        self._send_bytes(kind, job, json.dumps(content).encode())

    def _send_bytes(self, kind: Kind, job: int, payload: bytes) -> None:
        if len(payload) > LARGEST:
            raise GuestError(f"a request must have at most {LARGEST} bytes, got {len(payload)}")
        if self._hello is None or self._agent is None:
            raise GuestError(f"{self.name} must have booted before it is asked for something")
        try:
            with self._sending:
                self._agent.sendall(frame(kind, job, payload))
        except OSError:
            raise self._ended() from None

    def _answer(self, job: int, timeout: float | None) -> dict[str, Any]:
        with self._changed:
            pending = self._pending[job]
            self._changed.wait_for(lambda: pending.answer is not None or self._status is not None, timeout)
            self._pending.pop(job, None)
            if pending.answer is not None:
                if pending.answer.get("gone"):
                    raise GuestError(f"{self.name} rebooted before it answered")
                return pending.answer
            if self._status is None:
                raise GuestTimeout(f"{self.name} must answer within {timeout:g} s")
        raise self._ended()

    def _ended(self) -> GuestError:
        with self._changed:
            self._changed.wait_for(lambda: self._status is not None, _GRACE_S)
            said = self._said.decode("utf-8", "replace").strip().splitlines()
            how = "is gone" if self._status is None else f"ended with status {self._status}"
            text = f": {said[-1]}" if said else ""
            return GuestError(f"QEMU of {self.name} {how}{text}{self._last_words()}")

    def _last_words(self) -> str:
        """What a kernel said on its serial line before it died."""
        with contextlib.suppress(OSError):
            lines = (self.folder / f"{self.name}.serial").read_text("utf-8", "replace").splitlines()
            for line in lines:
                if "Kernel panic" in line:
                    return f"; its kernel says: {line.strip()}"
        return ""

    def _listen(self) -> None:
        """Take what the agent says, until QEMU is gone."""
        assert self._agent is not None
        splitter = Splitter()
        while True:
            try:
                data = self._agent.recv(_PIECE)
            except OSError:
                return
            if not data:
                return
            try:
                frames = splitter.feed(data)
            except FrameError:
                # A guest that died in the middle of a frame; its next boot begins anew.
                splitter = Splitter()
                continue
            for kind, job, payload in frames:
                try:
                    self._take(kind, job, payload)
                except (ValueError, KeyError, TypeError) as error:
                    self._fail(f"its agent must speak the protocol, but: {error}")

    def _fail(self, sentence: str) -> None:
        with self._changed:
            self._failure = self._failure or sentence
            self._changed.notify_all()

    def _take(self, kind: Kind, job: int, payload: bytes) -> None:
        pending = self._pending.get(job)
        if kind in (Kind.STDOUT, Kind.STDERR):
            if pending is not None and (sink := pending.sinks.get(kind)) is not None:
                sink(payload)
        elif kind is Kind.KERNEL:
            message = parse(payload)
            if message is not None:
                with self._changed:
                    if len(self.log) < _LOG_LIMIT:
                        self.log.append(message)
        elif kind is Kind.DATA:
            if pending is not None:
                if payload:
                    pending.data += payload
                else:
                    self._settle(job, {})
        elif kind is Kind.HELLO:
            self._greeted(json.loads(payload))
        elif kind in (Kind.EXIT, Kind.DONE):
            self._settle(job, json.loads(payload))
        elif kind is Kind.LOADED:
            if job == 0:
                with contextlib.suppress(GuestError):
                    self._loaded(json.loads(payload))
            else:
                self._settle(job, json.loads(payload))

    def _settle(self, job: int, answer: dict[str, Any]) -> None:
        with self._changed:
            if (pending := self._pending.get(job)) is not None:
                pending.answer = answer
                self._changed.notify_all()

    def _greeted(self, hello: dict[str, Any]) -> None:
        with self._changed:
            self._hello = hello
            for pending in self._pending.values():
                pending.answer = pending.answer or {"gone": True}
            self._changed.notify_all()
        module, options = self._driver
        if module:
            self._send(Kind.LOAD, 0, {"module": module, "options": options})
        else:
            self._booted(Boot(str(hello["kernel"]), float(hello["uptime"])))

    def _loaded(self, answer: dict[str, Any]) -> Boot:
        assert self._hello is not None
        boot = Boot(
            str(self._hello["kernel"]),
            float(self._hello["uptime"]),
            float(answer["before"]),
            float(answer["after"]),
            tuple(str(node) for node in answer["nodes"]),
        )
        if answer["status"] or not any(node.startswith("render") for node in boot.nodes):
            why = answer["error"] or "there is no render node in /dev/dri"
            sentence = f"the driver must bind the GPU, but: {why}{self._driver_said()}"
            self._fail(sentence)
            raise GuestError(f"{self.name}: {sentence}")
        self._booted(boot)
        return boot

    def _driver_said(self) -> str:
        said = self.problems()
        return f"; the kernel says: {said[0].text}" if said else ""

    def _booted(self, boot: Boot) -> None:
        with self._changed:
            self.boots.append(boot)
            self._changed.notify_all()


def deadline(seconds: float) -> Callable[[], float]:
    """A function that tells how many of so many seconds are left, never less than 0."""
    end = time.monotonic() + seconds
    return lambda: max(end - time.monotonic(), 0.0)

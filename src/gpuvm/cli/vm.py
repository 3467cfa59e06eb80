"""`gpuvm vm build` and `gpuvm vm run`: the guest image, and real guests under QEMU that share one GPU."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from gpuvm.cli.errors import FAILED, CommandError, choose_one, existing_file, size_bytes
from gpuvm.cli.logs import to_stderr
from gpuvm.cli.output import Prefixed
from gpuvm.hypervisor import MODES, HypervisorError
from gpuvm.hypervisor.aggregator import PASSTHROUGH
from gpuvm.schedulers import SCHEDULERS
from gpuvm.vmm import image as images
from gpuvm.vmm.daemon import DaemonError
from gpuvm.vmm.debian import Archive
from gpuvm.vmm.errors import GuestError, Unpinned, VmError
from gpuvm.vmm.fleet import Fleet, Plan
from gpuvm.vmm.image import Image, builder
from gpuvm.vmm.qemu.acceleration import ACCELERATORS, choose
from gpuvm.vmm.qemu.locate import Qemu, prepare
from gpuvm.vmm.qemu.machine import Machine

INTERRUPTED = 130
_SWITCH_S = 0.0005
"""How long a thread of the hypervisor may keep a guest's register access waiting for the interpreter."""


# gpuvm vm build


def build(update: bool, lock: Path | None, as_json: bool) -> None:
    """Build the guest image if it is not built, and print where it is.

    Raises
    ------
    CommandError
        If it cannot be built.
    """
    progress = Progress()
    try:
        if update or lock is not None:
            progress.say("looking for today's packages")
            builder.update(Archive(), lock)
        image = images.build(progress=lambda text: progress.say(f"guest image: {text}"))
    except Unpinned as error:
        raise CommandError(
            f"{error}; `gpuvm vm build --update` pins the versions that Debian has today", FAILED
        ) from None
    except VmError as error:
        raise CommandError(f"the guest image cannot be built: {error}", FAILED) from None
    finally:
        progress.end()
    if as_json:
        print(json.dumps({"folder": str(image.folder), **image.manifest}, indent=2))
    else:
        print(f"{image.folder}: Linux {image.manifest['kernel']}, Debian {image.manifest['suite']}")


# gpuvm vm run


@dataclass
class Wish:
    """What `gpuvm vm run` was asked for, as it stands on the command line."""

    command: Sequence[str]
    count: int
    mode: str
    scheduler: str
    vram: str
    memory: str
    gpu_memory: str | None
    cpus: int
    timeout: float
    boot_timeout: float
    copies: Sequence[str]
    logs: Path | None
    json_file: Path | None
    console: bool
    kernel_options: str
    accelerator: str


def run(wish: Wish) -> None:
    """Boot the guests, run the command in each, end with the first exit status that is not 0.

    Raises
    ------
    CommandError
        If an option is wrong, something cannot be had, or a guest does not come up.
    """
    to_stderr()
    plan = _plan(wish)
    files = [_copy(text) for text in wish.copies]
    if not wish.command and not wish.console:
        raise CommandError("a command must stand behind --, or --console be given")
    sys.setswitchinterval(_SWITCH_S)
    progress = Progress()
    try:
        with _ended_by_signals():
            qemu, image = _prepare(progress, wish.accelerator)
            print(f"gpuvm: {qemu}; guest Linux {image.manifest['kernel']}", file=sys.stderr)
            with Fleet(qemu, image, plan, logs=wish.logs) as fleet:
                status = _console(fleet) if wish.console else _work(fleet, wish, files, progress)
    except (VmError, DaemonError, HypervisorError, OSError) as error:
        progress.end()
        raise CommandError(str(error), FAILED) from None
    except KeyboardInterrupt:
        progress.end()
        status = INTERRUPTED
    if status:
        raise typer.Exit(status)


def _plan(wish: Wish) -> Plan:
    mode = choose_one("--mode", wish.mode, MODES)
    if mode == PASSTHROUGH and wish.count > 1:
        raise CommandError(
            f"--count must be 1 with --mode {mode}, which does not share the GPU, got {wish.count}"
        )
    if wish.console and wish.count > 1:
        raise CommandError(f"--count must be 1 with --console, one guest has the terminal, got {wish.count}")
    gpu = 0 if wish.gpu_memory is None else size_bytes("--gpu-memory", wish.gpu_memory)
    return Plan(
        wish.count,
        mode,
        choose_one("--scheduler", wish.scheduler, SCHEDULERS),
        size_bytes("--vram", wish.vram),
        size_bytes("--memory", wish.memory),
        wish.cpus,
        gpu,
        kernel_options=tuple(wish.kernel_options.split()),
        console=wish.console,
        driver="" if wish.console else "nouveau",
    )


def _copy(text: str) -> tuple[Path, str]:
    """Read FILE or FILE:PLACE."""
    source, _, place = text.partition(":")
    path = existing_file(Path(source))
    return path, place if place else f"/root/{path.name}"


def _prepare(progress: Progress, accelerator: str) -> tuple[Qemu, Image]:
    accelerator = choose_one("--accel", accelerator, ACCELERATORS)
    qemu = prepare(progress=lambda text: progress.say(f"QEMU: {text}"))
    try:
        image = images.build(progress=lambda text: progress.say(f"guest image: {text}"))
    except Unpinned as error:
        progress.end()
        print(
            f"gpuvm: {error}; the guest is built of what Debian has today instead, pinned in {builder.own_lock()}",
            file=sys.stderr,
        )
        builder.update(Archive())
        image = images.build(progress=lambda text: progress.say(f"guest image: {text}"))
    progress.say("KVM: does a guest run under it?")
    qemu = choose(qemu, image, accelerator)
    progress.end()
    return qemu, image


def _console(fleet: Fleet) -> int:
    """Give the terminal to the one guest until it is switched off."""
    (machine,) = fleet.machines
    machine.start()
    return abs(machine.wait())


def _work(fleet: Fleet, wish: Wish, files: Sequence[tuple[Path, str]], progress: Progress) -> int:
    began = time.monotonic()
    with progress.booting(fleet.machines):
        fleet.boot(wish.boot_timeout)
    command = wish.command[0] if len(wish.command) == 1 else list(wish.command)
    reports: dict[str, dict[str, Any]] = {machine.name: {} for machine in fleet.machines}

    def work(machine: Machine) -> None:
        for path, place in files:
            machine.put(place, path.read_bytes(), 0o755 if os.access(path, os.X_OK) else 0o644)
        with _streams(machine.name, len(fleet.machines)) as (output, errors):
            start = time.monotonic()
            reports[machine.name] = {"status": FAILED, "error": ""}
            try:
                done = machine.run(command, output=output, errors=errors, timeout=wish.timeout or None)
                reports[machine.name]["status"] = done.status
            except GuestError as error:
                reports[machine.name]["error"] = str(error)
            reports[machine.name]["wall_s"] = time.monotonic() - start

    fleet.each(work)
    # What the kernel says of the work's end is on its way still.
    fleet.each(lambda machine: machine.stop())
    for machine in fleet.machines:
        _report(machine, reports[machine.name], wish.logs)
    if wish.json_file is not None:
        _write_json(wish.json_file, fleet, wish, reports, time.monotonic() - began)
    return next((int(report["status"]) for report in reports.values() if report["status"]), 0)


def _report(machine: Machine, report: dict[str, Any], logs: Path | None) -> None:
    """Say what went wrong in a guest, and keep its kernel's log."""
    if report["error"]:
        print(f"gpuvm: {report['error']}", file=sys.stderr)
    found = machine.problems()
    boot = machine.boots[-1] if machine.boots else None
    report["problems"] = [str(message) for message in found]
    report["boot"] = (
        {
            "kernel": boot.kernel,
            "agent_s": boot.agent_s,
            "bound_s": boot.bound_s,
            "probe_s": boot.probe_s,
            "nodes": list(boot.nodes),
        }
        if boot
        else None
    )
    if found:
        print(f"gpuvm: the kernel of {machine.name} complains about the GPU:", file=sys.stderr)
        for message in found:
            print(f"  {message}", file=sys.stderr)
    if logs is not None:
        text = "".join(f"<{message.level}>{message}\n" for message in machine.log)
        (logs / f"{machine.name}.kernel").write_text(text)


def _write_json(
    path: Path, fleet: Fleet, wish: Wish, reports: dict[str, dict[str, Any]], wall_s: float
) -> None:
    qemu, plan = fleet.qemu, fleet.plan
    counters = {status.name: status for status in fleet.daemon.status().vms}
    content = {
        "command": list(wish.command),
        "mode": plan.mode,
        "scheduler": plan.scheduler,
        "vram": plan.vram,
        "memory": plan.memory,
        "qemu": {"version": qemu.version, "where": qemu.where, "accelerator": qemu.accelerator},
        "image": fleet.image.manifest,
        "wall_s": wall_s,
        "guests": [
            {"name": name, **report, "traps": counters[name].traps} for name, report in reports.items()
        ],
    }
    try:
        path.write_text(json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise CommandError(f"{path} must be writable: {error.strerror}", FAILED) from None


_printing = threading.Lock()


@contextlib.contextmanager
def _streams(name: str, count: int) -> Iterator[tuple[Any, Any]]:
    """Takers of a guest's output and errors: as they are for one guest, in lines with its name for several."""
    if count == 1:

        def through(stream: Any) -> Any:
            def take(data: bytes) -> None:
                stream.buffer.write(data)
                stream.flush()

            return take

        yield through(sys.stdout), through(sys.stderr)
        return
    opened = []

    def lines(stream: Any) -> Any:
        prefixed = Prefixed(stream, f"{name} | ", _printing)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        opened.append(prefixed)

        def take(data: bytes) -> None:
            prefixed.write(decoder.decode(data))
            prefixed.flush()

        return take

    yield lines(sys.stdout), lines(sys.stderr)
    for prefixed in opened:
        prefixed.finish()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP end the command as Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """One line on stderr that says what is being done; on a terminal it is drawn over, elsewhere it is left out
    but for its first words."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._said = ""

    def say(self, text: str) -> None:
        if self._status is not None:
            self._status.update(text)
            self._status.start()
            return
        subject = text.split(":")[0]
        if subject != self._said:
            self._said = subject
            print(f"gpuvm: {text} …", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()

    @contextlib.contextmanager
    def booting(self, machines: Sequence[Machine]) -> Iterator[None]:
        """Say how far the guests' boots are while the body runs."""
        done = threading.Event()
        began = time.monotonic()

        def show() -> None:
            while not done.wait(0.25):
                states = ", ".join(f"{machine.name} {machine.stage}" for machine in machines)
                self.say(f"booting: {states} ({time.monotonic() - began:.0f} s)")

        thread = threading.Thread(target=show, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.end()
        slowest = max(machine.boots[-1].bound_s for machine in machines)
        took = time.monotonic() - began
        print(
            f"gpuvm: booted in {took:.0f} s, driver bound after {slowest:.1f} s of guest time",
            file=sys.stderr,
        )

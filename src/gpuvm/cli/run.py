"""`gpuvm run`: a person's own cuda-python program inside one or more virtual machines."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer

from gpuvm.cli.errors import FAILED, CommandError, choose_one, existing_file, size_bytes
from gpuvm.cli.logs import to_stderr
from gpuvm.cli.output import Divided, Prefixed
from gpuvm.guest import injection
from gpuvm.hypervisor.errors import HypervisorError
from gpuvm.lab.modes import MODES
from gpuvm.lab.system import LabMachine, System
from gpuvm.schedulers import NAMES

INTERRUPTED = 130


def run(
    program: Path,
    arguments: Sequence[str],
    mode: str,
    vms: int,
    scheduler: str,
    memory: str,
    vram: str,
    watchdog: float | None,
) -> None:
    """Run the program in `vms` machines at once; end with the first exit status that is not 0.

    Raises
    ------
    CommandError
        If an option is wrong or the machines cannot be made.
    """
    to_stderr()
    existing_file(program)
    chosen = choose_one("--mode", mode, MODES)
    if vms > 1 and not MODES[chosen].shared:
        raise CommandError(f"--vms must be 1 with --mode {chosen}, which does not share the GPU, got {vms}")
    policy = choose_one("--scheduler", scheduler, NAMES)
    ram, video = size_bytes("--memory", memory), size_bytes("--vram", vram)
    try:
        system = System(chosen, vms, scheduler=policy, memory=ram, vram=video, watchdog_s=watchdog)
    except (HypervisorError, RuntimeError, OSError) as error:
        raise CommandError(f"the machines could not be made: {error}", FAILED) from None
    with system:
        if vms == 1:
            statuses = [_run_in(system.guests[0], program, arguments)]
        else:
            with divided_output([guest.name for guest in system.guests]):
                statuses = _run_together(system.guests, program, arguments)
    status = next((status for status in statuses if status), 0)
    if status:
        raise typer.Exit(status)


def _run_together(guests: Sequence[LabMachine], program: Path, arguments: Sequence[str]) -> list[int]:
    """Run the program in all machines; an interrupt from the keyboard ends the command."""
    statuses = [INTERRUPTED] * len(guests)

    def run_one(number: int) -> None:
        statuses[number] = _run_in(guests[number], program, arguments)

    threads = [threading.Thread(target=run_one, args=(n,), daemon=True) for n in range(len(guests))]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            thread.join()
    except KeyboardInterrupt:
        # The programs run on, and memory must not go while they use it: the process ends with them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
    return statuses


def _run_in(guest: LabMachine, program: Path, arguments: Sequence[str]) -> int:
    with guest.process() as cuda:
        try:
            return injection.run_program(cuda, program, arguments)
        except KeyboardInterrupt:
            return INTERRUPTED
        except Exception as error:
            with injection.inside(cuda):  # for whose name the lines carry
                _print_from(error, program)
            return FAILED


def _print_from(error: Exception, program: Path) -> None:
    """Print a traceback as Python would, from the program's first frame on."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != str(program):
        trace = trace.tb_next
    traceback.print_exception(type(error), error, trace, file=sys.stderr)


@contextmanager
def divided_output(names: Sequence[str]) -> Iterator[None]:
    """Give each line that a machine's program prints the machine's name."""
    stdout, stderr = sys.stdout, sys.stderr
    width = max(map(len, names))
    lock = threading.Lock()
    streams = {
        stream: {name: Prefixed(stream, f"{name:<{width}} | ", lock) for name in names}
        for stream in (stdout, stderr)
    }
    sys.stdout = Divided(stdout, streams[stdout], _here)
    sys.stderr = Divided(stderr, streams[stderr], _here)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for each in streams.values():
            for stream in each.values():
                stream.finish()


def _here() -> str | None:
    try:
        return injection.current().machine.name
    except RuntimeError:
        return None

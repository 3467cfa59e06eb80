"""`gpuvm serve`: run the daemon in the foreground until a signal or `gpuvm ctl stop`."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from gpuvm.cli.errors import FAILED, CommandError
from gpuvm.cli.logs import of_daemon
from gpuvm.cli.vmflags import parse_vm
from gpuvm.hypervisor import HypervisorError
from gpuvm.vmm.daemon import ConfigError, Daemon, DaemonError, load

log = structlog.get_logger(__name__)

_LOOK_S = 0.2
_END_S = 30.0
"""Beyond the time to drain: after that the process ends however it stands."""

_SWITCH_S = 0.0005
"""How long a thread of the hypervisor may keep a guest's register access waiting for the interpreter."""


def serve(
    path: Path | None,
    flags: Mapping[str, Any],
    gpu: Mapping[str, Any],
    vms: Sequence[str],
    verbose: int,
    log_json: bool,
) -> None:
    """Serve until asked to end.

    Raises
    ------
    CommandError
        If the configuration is wrong or something of it cannot be had.
    """
    of_daemon({0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG), log_json)
    changes: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    changes["gpu"] = {key: value for key, value in gpu.items() if value is not None}
    changes["vm"] = [parse_vm("--vm", text) for text in vms]
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_S)
    try:
        with _Signals() as asked:
            _run(path, changes, asked)
    finally:
        sys.setswitchinterval(before)


def _run(path: Path | None, changes: Mapping[str, Any], asked: _Signals) -> None:
    try:
        daemon = Daemon(load(path, changes))
    except ConfigError as error:
        raise CommandError(str(error)) from None
    except (DaemonError, HypervisorError, ValueError, OSError) as error:
        raise CommandError(f"the daemon could not start: {error}", FAILED) from None
    count = len(daemon.config.vm)
    print(
        f"serving {count} virtual GPU{'s' * (count != 1)}; control socket {daemon.config.control}", flush=True
    )
    while not asked.count and not daemon.wait(_LOOK_S):
        pass
    guard = _bound(daemon.config.drain + _END_S)
    daemon.close()
    guard.cancel()


class _Signals:
    """Counts requests to end; the second one ends the process at once."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        self.count += 1
        if self.count > 1:
            os._exit(128 + number)


def _bound(seconds: float) -> threading.Timer:
    """End the process with status 1 if it is still there after so long."""

    def give_up() -> None:
        names = [thread.name for thread in threading.enumerate()]
        log.error("the daemon did not end in time", threads=names)
        os._exit(FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    return timer

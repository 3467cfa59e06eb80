"""The daemon: one GPU, its hypervisor, and a served socket for each VM; changed at run time by the control
socket or by calls.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import structlog

from gpuvm.gpu.device import Gf100
from gpuvm.gpu.profile import PROFILES
from gpuvm.hypervisor import Aggregator
from gpuvm.vmm.daemon.config import Config, VmConfig, build_vm, complete
from gpuvm.vmm.daemon.control import ControlServer
from gpuvm.vmm.daemon.errors import DaemonError
from gpuvm.vmm.daemon.protocol import Add, List, Remove, Request, Reset, Set, Stop
from gpuvm.vmm.daemon.slot import Slot
from gpuvm.vmm.daemon.status import Status

log = structlog.get_logger(__name__)


class Daemon:
    """Serve virtual GPUs until `close`. Methods may be called from any thread.

    Parameters
    ----------
    config : Config
        As `config.load` or `config.build` makes it.
    control : bool
        Whether to listen on the control socket.

    Raises
    ------
    DaemonError, HypervisorError, ValueError
        If the GPU, a virtual GPU or a socket cannot be made; nothing is left then.
    """

    def __init__(self, config: Config, *, control: bool = True) -> None:
        self.config = config
        self._changing = threading.RLock()
        self._slots: dict[str, Slot] = {}
        self._stopping = threading.Event()
        self._closed = False
        self._drain_until = 0.0
        self._folders: list[Path] = []
        self._control: ControlServer | None = None
        gpu = config.gpu
        if control:
            # First, so that a second daemon is refused before it has built anything.
            self._make_folder(config.control)
            self._control = ControlServer(config.control, self.handle)
        try:
            profile = replace(PROFILES[gpu.profile], copy_engines=gpu.copy_engines)
            self.gpu = Gf100(gpu.vram, profile, watchdog_s=gpu.watchdog or None)
            try:
                self.aggregator = Aggregator(self.gpu, config.scheduler, reserve=gpu.reserve or None)
                for vm in config.vm:
                    self._add(vm)
            except BaseException:
                if hasattr(self, "aggregator"):
                    self._close_slots()
                    self.aggregator.close()
                self.gpu.close()
                raise
        except BaseException:
            if self._control is not None:
                self._control.close()
            self._remove_folders()
            raise
        if self._control is not None:
            self._control.start()

    # VMs

    def add(self, vm: VmConfig) -> None:
        """Make a virtual GPU and serve it.

        Raises
        ------
        DaemonError, HypervisorError
            If that cannot be; nothing has changed then.
        """
        complete(vm, self.config.control)
        with self._changing:
            self._add(vm)

    def _add(self, vm: VmConfig) -> None:
        if self._closed or self._stopping.is_set():
            raise DaemonError("a VM must be added before the daemon stops")
        if vm.name in self._slots:
            raise DaemonError(f"a VM's name must be new, there is a VM {vm.name!r} already")
        self._make_folder(vm.socket)
        self._slots[vm.name] = Slot(vm, self.aggregator, self.gpu.counters, lambda: self._drain_until)
        log.info("a VM was added", vm=vm.name, mode=vm.mode, socket=vm.socket)

    def remove(self, name: str) -> None:
        """End a VM's session and give back all that it had."""
        with self._changing:
            slot = self.slot(name)
            del self._slots[name]
            slot.close()
        log.info("a VM was removed", vm=name)

    def reset(self, name: str) -> None:
        """Reset a VM's virtual GPU; the others do not notice."""
        self.slot(name).reset()
        log.info("a virtual GPU was reset", vm=name)

    def slot(self, name: str) -> Slot:
        """The VM of a name.

        Raises
        ------
        DaemonError
            If there is none.
        """
        with self._changing:
            slot = self._slots.get(name)
            if slot is None:
                there = ", ".join(self._slots) or "none"
                raise DaemonError(f"a VM must be one of those that are served ({there}), got {name!r}")
            return slot

    def set(self, change: Set) -> Status:
        """Change the scheduler, or a VM's weight or cap; all or nothing.

        Raises
        ------
        DaemonError
            If something of it cannot be.
        """
        with self._changing:
            slot = None if change.name is None else self.slot(change.name)
            if slot is None and (change.weight is not None or change.cap is not None):
                raise DaemonError("a weight or cap must come with the name of the VM that it is for")
            before = self.config.scheduler
            if change.scheduler is not None:
                self.aggregator.reschedule(change.scheduler)
                self.config.scheduler = change.scheduler
            if slot is not None:
                try:
                    slot.change(change.weight, change.cap)
                except BaseException:
                    if change.scheduler is not None:
                        self.aggregator.reschedule(before)
                        self.config.scheduler = before
                    raise
            log.info("settings were changed", **msgspec.structs.asdict(change))
            return self.status()

    # State

    def status(self) -> Status:
        """How the daemon and its VMs are."""
        with self._changing:
            aggregator = self.aggregator
            exclusive = aggregator.exclusive
            return Status(
                pid=os.getpid(),
                time_ns=time.monotonic_ns(),
                scheduler=self.config.scheduler,
                profile=self.config.gpu.profile,
                vram=self.gpu.vram.size,
                vram_free=0 if exclusive else aggregator.vram.free,
                channels_free=0 if exclusive else aggregator.channels.free,
                control=self.config.control,
                vms=[slot.status() for slot in self._slots.values()],
            )

    # Control

    def handle(self, request: Request) -> Any:
        """Do what came over the control socket.

        Raises
        ------
        DaemonError, HypervisorError
            With the sentence for the person who asked.
        """
        if self._stopping.is_set():
            raise DaemonError("the daemon stops and does nothing else any more")
        match request:
            case List():
                return self.status()
            case Add(vm=vm):
                self.add(build_vm(vm, self.config.control))
                return self.slot(str(vm["name"])).status()
            case Remove(name=name):
                self.remove(name)
            case Reset(name=name):
                self.reset(name)
            case Set():
                return self.set(request)
            case Stop():
                self.stop()
        return None

    # The end

    def stop(self) -> None:
        """Ask for the end; `wait` returns."""
        self._stopping.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until somebody asks for the end; False if nobody did within the time."""
        return self._stopping.wait(timeout_s)

    def close(self) -> None:
        """Let submitted work finish for `config.drain` seconds, end all sessions, remove the sockets, end the
        GPU. Bounded in time whatever the guests do."""
        self._stopping.set()
        with self._changing:
            if self._closed:
                return
            self._closed = True
            self._drain_until = time.monotonic() + self.config.drain
            self._close_slots()
            self.aggregator.close()
            self.gpu.close()
        # Last, so that who sees it closed knows that all is gone.
        if self._control is not None:
            self._control.close()
        self._remove_folders()

    def _close_slots(self) -> None:
        slots, self._slots = list(self._slots.values()), {}
        threads = [threading.Thread(target=slot.close, name=f"{slot.name} ends") for slot in slots]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Folders of sockets

    def _make_folder(self, socket: str) -> None:
        folder = Path(socket).parent
        made = []
        while not folder.exists():
            made.append(folder)
            folder = folder.parent
        for each in reversed(made):
            try:
                each.mkdir(mode=0o700, exist_ok=True)
            except OSError as error:
                raise DaemonError(
                    f"the socket {socket} must be in a folder that can be made: {error.strerror}"
                ) from None
            self._folders.append(each)

    def _remove_folders(self) -> None:
        for folder in reversed(self._folders):
            try:
                folder.rmdir()
            except OSError:
                continue
        self._folders.clear()

"""Real guests on one GPU: a daemon that serves their virtual GPUs and a QEMU for each, booted together."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from gpuvm.hypervisor.aggregator import PASSTHROUGH
from gpuvm.vmm.daemon import Config, Daemon, GpuConfig, VmConfig
from gpuvm.vmm.errors import VmError
from gpuvm.vmm.image import Image
from gpuvm.vmm.qemu.locate import Qemu
from gpuvm.vmm.qemu.machine import Machine
from gpuvm.vmm.qemu.options import MEMORY, Guest

MIB = 1 << 20
VRAM = 256 * MIB
"""Bytes of video memory of a guest. Only what is touched costs."""

SMALLEST_RESERVE = 32 * MIB
RESERVE_EACH = 16 * MIB
"""Bytes of video memory that the hypervisor keeps for its shadows, and more for each guest."""

CHANNELS = 32
"""Channels of a guest; the kernel and each client of the driver take one or two."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is booted.

    Attributes
    ----------
    count : int
        Guests.
    mode, scheduler : str
        Names in `hypervisor.MODES` and `schedulers.SCHEDULERS`.
    vram, memory : int
        Bytes of video memory and RAM of each guest.
    gpu_memory : int
        Bytes of video memory of the GPU; 0: what the guests and the hypervisor need.
    profile : str
        Which card, a name in `gpu.profile.PROFILES`.
    watchdog : float
        Seconds after which the GPU stops a kernel; 0: never.
    kernel_options : tuple of str
        More words for the guests' kernels.
    driver : str
        The kernel module to load at boot, "" for none.
    reboots : bool
        Guests may reboot; otherwise that ends them.
    names : tuple of str
        Of the guests; vm0, vm1, … by default.
    """

    count: int = 1
    mode: str = "fv-naive"
    scheduler: str = "fifo"
    vram: int = VRAM
    memory: int = MEMORY
    cpus: int = 1
    gpu_memory: int = 0
    profile: str = "quadro-6000"
    watchdog: float = 10.0
    kernel_options: tuple[str, ...] = ()
    driver: str = "nouveau"
    driver_options: str = ""
    reboots: bool = False
    console: bool = False
    names: tuple[str, ...] = ()

    def config(self, folder: Path, write_multiple: bool) -> Config:
        """The daemon's configuration."""
        if self.count < 1 or (self.mode == PASSTHROUGH and self.count != 1):
            raise VmError(
                f"{self.mode} must have {'one guest' if self.count > 1 else 'guests'}, got {self.count}"
            )
        reserve = SMALLEST_RESERVE + RESERVE_EACH * self.count
        whole = self.gpu_memory or (
            self.vram if self.mode == PASSTHROUGH else self.count * self.vram + reserve
        )
        vms = [
            VmConfig(
                name,
                self.mode,
                str(folder / f"{name}.sock"),
                vram=self.vram,
                channels=CHANNELS,
                write_multiple=write_multiple,
            )
            for name in self.guests
        ]
        gpu = GpuConfig(self.profile, whole, self.watchdog, 0 if self.mode == PASSTHROUGH else reserve)
        return Config(gpu, self.scheduler, str(folder / "control.sock"), drain=0.0, vm=vms)

    @property
    def guests(self) -> tuple[str, ...]:
        """The guests' names."""
        return self.names or tuple(f"vm{number}" for number in range(self.count))


class Fleet:
    """Guests, their virtual GPUs and the GPU; everything ends with it.

    Parameters
    ----------
    logs : Path, optional
        Where the guests' serial lines go.

    Attributes
    ----------
    daemon : Daemon
        Made with the object: the sockets are served before a guest starts.
    machines : list of Machine
        Not started yet; see `boot`.

    Raises
    ------
    VmError, DaemonError, HypervisorError
        If the GPU cannot be shared so.
    """

    def __init__(self, qemu: Qemu, image: Image, plan: Plan, *, logs: Path | None = None) -> None:
        self.qemu, self.image, self.plan = qemu, image, plan
        with ExitStack() as stack:
            folder = Path(tempfile.mkdtemp(prefix="gpuvm-"))
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            self._sockets = folder
            self.daemon = Daemon(plan.config(folder, qemu.posts_many), control=False)
            stack.callback(self.daemon.close)
            self._logs = logs or folder
            self.machines = [self.machine(name) for name in plan.guests]
            stack.callback(self._close_machines)
            self._resources = stack.pop_all()

    def machine(self, name: str) -> Machine:
        """A machine, not started, for the virtual GPU of that name: also to boot a second one after the first
        has ended."""
        plan = self.plan
        guest = Guest(
            name,
            self.image,
            plan.memory,
            plan.cpus,
            (self._sockets / f"{name}.sock",),
            plan.kernel_options,
            plan.console,
            plan.reboots,
        )
        return Machine(
            self.qemu, guest, driver=plan.driver, driver_options=plan.driver_options, folder=self._logs
        )

    def boot(self, timeout: float) -> None:
        """Start all guests and wait until their drivers are bound.

        Raises
        ------
        VmError
            Of the first guest that does not come up in time.
        """
        for machine in self.machines:
            machine.start()
        self.each(lambda machine: machine.wait_ready(timeout))

    def each(self, work: Callable[[Machine], object]) -> Sequence[object]:
        """Do something with all machines at once; what it gives, in their order. The first failure is raised
        when all have ended, an interrupt at once."""
        pool = ThreadPoolExecutor(len(self.machines), thread_name_prefix="guest")
        try:
            futures = [pool.submit(work, machine) for machine in self.machines]
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            self._close_machines()  # which ends what waits for them
            raise
        finally:
            pool.shutdown()

    def close(self) -> None:
        """End guests, virtual GPUs and GPU."""
        self._resources.close()

    def _close_machines(self) -> None:
        for machine in self.machines:
            machine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

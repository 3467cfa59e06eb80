"""One VM's place in the daemon: its virtual GPU and the socket that it is served on.

A client that goes, by whatever way, leaves a virtual GPU that is reset, with zeroed memory, for the next one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import structlog

from gpuvm.gpu.counters import Counters, Work
from gpuvm.hypervisor import Aggregator, VirtualGpu
from gpuvm.hypervisor.partition import Range
from gpuvm.vmm.daemon.config import VmConfig
from gpuvm.vmm.daemon.errors import DaemonError
from gpuvm.vmm.daemon.status import VmStatus
from gpuvm.vmm.vfio_user.bridge import endpoint
from gpuvm.vmm.vfio_user.protocol import Limits
from gpuvm.vmm.vfio_user.server import Server

log = structlog.get_logger(__name__)

_LOOK_S = 0.005


class Slot:
    """A VM that is served.

    Parameters
    ----------
    work : gpu.counters.Counters
        Of the physical GPU.
    drain_until : callable
        Until when, by `time.monotonic`, submitted work of a client that has gone may run on: in the past
        unless the daemon ends.

    Raises
    ------
    HypervisorError
        If the virtual GPU cannot be made.
    DaemonError
        If the socket cannot.
    """

    def __init__(
        self,
        config: VmConfig,
        aggregator: Aggregator,
        work: Counters,
        drain_until: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.config = config
        self.resets = 0
        self._aggregator = aggregator
        self._drain_until = drain_until
        self.vgpu: VirtualGpu = aggregator.create(
            config.name,
            config.mode,
            vram=config.vram,
            channels=config.channels,
            weight=config.weight,
            cap=_part(config.cap),
        )
        self._vram, channels = aggregator.share(self.vgpu)
        self._work = work.channels[channels.base : channels.end]
        self._before = _sum(self._work)
        self._ending = False
        try:
            limits = Limits(sealed=config.sealed)
            served = endpoint(self.vgpu, limits, self._gone)
            self._server = Server(served, config.socket, write_multiple=config.write_multiple)
        except BaseException as error:
            aggregator.destroy(self.vgpu)
            if isinstance(error, OSError):
                raise DaemonError(
                    f"VM {config.name!r} must get its socket {config.socket}: {error.strerror}"
                ) from None
            raise

    @property
    def name(self) -> str:
        return self.config.name

    def _gone(self) -> None:
        """A client has gone: called on the thread that served it."""
        while time.monotonic() < self._drain_until() and not self._aggregator.is_idle(self.vgpu):
            time.sleep(_LOOK_S)
        if not self._ending:
            self._aggregator.recycle(self.vgpu)
            self.resets += 1
        log.info("a client has gone", vm=self.name)

    def reset(self) -> None:
        """Function-level reset; the client, if there is one, is not asked."""
        self.vgpu.reset()
        self.resets += 1

    def change(self, weight: int | None, cap: float | None) -> None:
        """Give the VM another weight or cap (percent, 0: none); None leaves it.

        Raises
        ------
        DaemonError, HypervisorError
            If that cannot be.
        """
        config = self.config
        weight = config.weight if weight is None else weight
        cap = config.cap if cap is None else cap
        if not 0 <= cap <= 100:
            raise DaemonError(f"cap must be 0 to 100 percent, got {cap:g}")
        self._aggregator.change(self.vgpu, weight, _part(cap))
        config.weight, config.cap = weight, cap

    def close(self) -> None:
        """End the client's session, remove the socket, give back all that the VM had."""
        self._ending = True
        self._server.close()
        self._aggregator.destroy(self.vgpu)

    def status(self) -> VmStatus:
        """How it is."""
        config, counters = self.config, self.vgpu.counters
        work = _sum(self._work)
        return VmStatus(
            name=config.name,
            mode=config.mode,
            socket=config.socket,
            state=self._state(),
            weight=config.weight,
            cap=config.cap,
            vram=self._vram.size,
            channels=len(self._work),
            vram_used=_held(self._aggregator.gpu.vram.fd, self._vram),
            clients=self._server.clients,
            traps=counters.traps,
            direct=counters.direct_accesses,
            launches=work.launches - self._before.launches,
            commands=counters.commands_completed,
            busy_ns=_busy(work) - _busy(self._before),
            interrupts=counters.interrupts,
            faults=counters.faults,
            denied=counters.denied,
            resets=self.resets,
        )

    def _state(self) -> str:
        if self._server.session is not None:
            return "connected"
        return "releasing" if self._server.busy else "idle"


def _part(percent: float) -> float | None:
    return percent / 100 or None


def _sum(channels: list[Work]) -> Work:
    """The parts of the work that are shown, of all channels."""
    return Work(
        launches=sum(work.launches for work in channels),
        launch_ns=sum(work.launch_ns for work in channels),
        copy_ns=sum(work.copy_ns for work in channels),
    )


def _busy(work: Work) -> int:
    return work.launch_ns + work.copy_ns


def _held(fd: int, part: Range) -> int:
    """Bytes of a range of a memfd that are backed by memory."""
    held, at = 0, part.base
    while at < part.end:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: holes to the end
            break
        if start >= part.end:
            break
        at = min(os.lseek(fd, start, os.SEEK_HOLE), part.end)
        held += at - start
    return held

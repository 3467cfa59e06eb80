"""A whole system in one mode: the GPU, the hypervisor where there is one, and the machines that use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any, Self

from gpuvm.gpu.device import Gf100
from gpuvm.guest.cuda import Cuda
from gpuvm.hypervisor.aggregator import Aggregator
from gpuvm.hypervisor.full import FullGpu
from gpuvm.jit.executor import Executor
from gpuvm.lab.events import work_events
from gpuvm.lab.meter import Meter
from gpuvm.lab.modes import MODES
from gpuvm.pci.device import PciDevice
from gpuvm.vmm.inprocess import VirtualMachine

MIB = 1 << 20
VRAM = 768 * MIB
"""Bytes of video memory of a machine: 256 MiB copies and room to spare. Only what is touched costs."""
SHADOW_VRAM = 16 * MIB
"""Bytes of video memory that the hypervisor keeps for each machine's shadows, and twice that for its own."""
CHANNELS = 8
MEMORY = 1024 * MIB
"""Bytes of RAM of a machine. Only what is touched costs."""


class LabMachine:
    """One machine of a system: what the runner calls a guest."""

    def __init__(self, mode: str, machine: VirtualMachine, read: Callable[[], dict[str, float]]) -> None:
        self.mode = mode
        self.machine = machine
        self._read = read
        self._cuda: Cuda | None = None
        self._staged = 0
        """Bytes that drivers which are gone staged."""

    @property
    def name(self) -> str:
        return self.machine.name

    def counters(self) -> dict[str, float]:
        """Counted events of this machine and of the GPU on its behalf so far."""
        cuda = self._cuda
        staged = self._staged + (0 if cuda is None else cuda.driver.bytes_staged)
        return self._read() | {"bytes_staged": staged}

    def boot(self) -> None:
        """Load the GPU's driver in the machine, as its start does, so that no program's time contains it.

        Raises
        ------
        RuntimeError
            If the driver does not find a GPU that works.
        """
        if self._cuda is None:
            cuda = Cuda(self.machine)
            (error,) = cuda.cuInit(0)
            if int(error) != 0:
                cuda.close()
                raise RuntimeError(f"{self.name} must find a working GPU, but cuInit gives {error.name}")
            self._cuda = cuda

    def shut_down(self) -> None:
        """Unload the driver; it releases everything that programs left."""
        if self._cuda is not None:
            self._staged += self._cuda.driver.bytes_staged
            self._cuda.close()
            self._cuda = None

    @contextmanager
    def process(self) -> Iterator[Any]:
        """A new process in the machine: its CUDA driver API. A process that fails takes the driver with it,
        and the next one finds a new one."""
        self.boot()
        try:
            yield self._cuda
        except BaseException:
            self.shut_down()
            raise


class System:
    """A GPU and the machines that have it, in one mode.

    Parameters
    ----------
    mode : str
        A name in `MODES`.
    machines : int
        How many; 1 in modes that do not share.
    scheduler : str
        A name in `schedulers.NAMES`.
    vram, memory : int
        Bytes of video memory and of RAM that each machine has.
    channels : int
        Channels that each machine has where it shares the GPU; a context takes one.
    watchdog_s : float, optional
        Seconds after which the GPU stops a kernel; None for never.
    executor : Executor, optional
        Shared with other systems, so that a kernel is translated once; the caller closes it.

    Attributes
    ----------
    guests : list of LabMachine

    Raises
    ------
    ValueError
        If the mode cannot have so many machines.
    """

    def __init__(
        self,
        mode: str,
        machines: int = 1,
        *,
        scheduler: str = "fifo",
        vram: int = VRAM,
        memory: int = MEMORY,
        channels: int = CHANNELS,
        watchdog_s: float | None = None,
        executor: Executor | None = None,
    ) -> None:
        if machines < 1 or (machines > 1 and not MODES[mode].shared):
            raise ValueError(f"{mode} has exactly one machine, got {machines}")
        self.mode = mode
        self.guests: list[LabMachine] = []
        with ExitStack() as stack:
            reserve = (machines + 2) * SHADOW_VRAM if MODES[mode].hypervisor else 0
            vram = -(-vram // MIB) * MIB
            self.gpu = Gf100(machines * vram + reserve, executor=executor, watchdog_s=watchdog_s)
            stack.callback(self.gpu.close)
            self.aggregator: Aggregator | None = None
            if MODES[mode].hypervisor:
                self.aggregator = Aggregator(self.gpu, scheduler, reserve=reserve)
                stack.callback(self.aggregator.close)
            self._channels = channels
            for number in range(machines):
                guest = self._add(stack, f"vm{number}", vram, memory)
                stack.callback(guest.shut_down)
                guest.boot()
                self.guests.append(guest)
            self._resources = stack.pop_all()

    def _add(self, stack: ExitStack, name: str, vram: int, memory: int) -> LabMachine:
        machine = VirtualMachine(name, memory)
        stack.callback(machine.close)
        device, read = self._device(name, vram)
        machine.plug(device)
        return LabMachine(self.mode, machine, read)

    def _device(self, name: str, vram: int) -> tuple[PciDevice, Callable[[], dict[str, float]]]:
        work = self.gpu.counters
        everything = range(len(work.channels))
        if self.aggregator is None:
            meter = Meter(self.gpu)
            return meter, lambda: meter.counters() | work_events(work, everything)
        if not MODES[self.mode].shared:
            meter = Meter(self.aggregator.create(name, mode=self.mode))
            return meter, lambda: meter.counters() | work_events(work, everything)
        virtual = self.aggregator.create(name, mode=self.mode, vram=vram, channels=self._channels)
        assert isinstance(virtual, FullGpu)
        own = [channel.physical for channel in virtual.channels]
        return virtual, lambda: virtual.counters.as_dict() | work_events(work, own)

    def channels(self, name: str) -> Sequence[int]:
        """Numbers of the physical channels that the machine `name` has."""
        if self.aggregator is None or not MODES[self.mode].shared:
            return range(len(self.gpu.counters.channels))
        (virtual,) = (each for each in self.aggregator.virtual_gpus() if each.name == name)
        assert isinstance(virtual, FullGpu)
        return [channel.physical for channel in virtual.channels]

    def close(self) -> None:
        """Take everything down: machines, virtual GPUs, the GPU."""
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

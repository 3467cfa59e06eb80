"""What every virtual GPU is: a `PciDevice` with a config space of its own, an interrupt pin, counters, and a
name."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence

from gpuvm.hypervisor.counters import Counters
from gpuvm.pci.config import ConfigSpace
from gpuvm.pci.device import Bar, InterruptSink, PciDevice
from gpuvm.pci.memory import BusMemory


class VirtualGpu(ABC):
    """A virtual GPU. Made by `Aggregator.create`, plugged into a VM like any PCI device.

    Attributes
    ----------
    id : int
        Number among the aggregator's virtual GPUs, never used again.
    name : str
        For people.
    mode : str
        The virtualization technique.
    counters : Counters
        What it cost so far.
    lock : RLock
        Held during each of this VM's accesses; taken before the aggregator's lock, never after it.
    """

    mode = ""

    def __init__(self, number: int, name: str, counters: Counters) -> None:
        self.id = number
        self.name = name
        self.counters = counters
        self.lock = threading.RLock()

    @property
    @abstractmethod
    def bars(self) -> Sequence[Bar]: ...

    @abstractmethod
    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None: ...

    @abstractmethod
    def config_read(self, offset: int, size: int) -> int: ...

    @abstractmethod
    def config_write(self, offset: int, size: int, value: int) -> None: ...

    @abstractmethod
    def read(self, bar: int, offset: int, size: int) -> int: ...

    @abstractmethod
    def write(self, bar: int, offset: int, size: int, value: int) -> None: ...

    @abstractmethod
    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes: ...

    @abstractmethod
    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None: ...

    @abstractmethod
    def reset(self) -> None: ...

    @abstractmethod
    def release(self) -> bool:
        """Stop and free everything of this virtual GPU; called once by the aggregator.

        Returns
        -------
        bool
            Whether the GPU let go of all of it, so that its memory and channels may be given to others.
        """

    def close(self) -> None:
        """A VM that lets go of the device resets it; `Aggregator.destroy` frees it."""
        self.reset()


class InterruptPin:
    """The interrupt of a virtual GPU: an MSI at each rising edge and rearm, or the level of INTx."""

    def __init__(self, config: ConfigSpace, counters: Counters) -> None:
        self._config = config
        self._counters = counters
        self._sink: InterruptSink | None = None
        self._level = False
        self.asserted = False

    def connect(self, sink: InterruptSink | None) -> None:
        """Deliver to `sink` from now on."""
        if self._sink is not None and self._level:
            self._sink.level(False)
        self._sink = sink
        self._level = False

    def set(self, asserted: bool, rearm: bool) -> None:
        """Take the pin's new state; `rearm` asks for a message even if it was asserted before."""
        fresh = asserted and (rearm or not self.asserted)
        self.asserted = asserted
        if fresh:
            self.pulse()
        self.update()

    def pulse(self) -> None:
        """Send one message, whatever the pin's state; nothing without MSI."""
        if self._config.msi_enabled and self._config.bus_master and self._sink is not None:
            self._counters.interrupts += 1
            self._sink.message(0)

    def update(self) -> None:
        """Bring the INTx line in step with the pin and the config space."""
        level = self.asserted and self._config.intx_enabled
        self._config.show_intx(self.asserted)
        if level != self._level and self._sink is not None:
            self._level = level
            self._counters.interrupts += level
            self._sink.level(level)


def copy_identity(device: PciDevice, bars: Sequence[Bar]) -> ConfigSpace:
    """A config space with the identity of a physical function."""
    identity = device.config_read(0, 4)
    revision = device.config_read(8, 4)
    subsystem = device.config_read(0x2C, 4)
    return ConfigSpace(
        vendor=identity & 0xFFFF,
        device=identity >> 16,
        class_code=revision >> 8,
        revision=revision & 0xFF,
        subsystem_vendor=subsystem & 0xFFFF,
        subsystem=subsystem >> 16,
        bars=bars,
    )

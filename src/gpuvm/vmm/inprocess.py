"""A virtual machine inside this process: RAM, PCI slots and interrupts, without a CPU. The guest's driver
and programs are Python that runs on threads of the host and touches the machine only through what is here;
it implements `gpuvm.guest.machine.Machine`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import structlog

from gpuvm.guest.machine import RamPages
from gpuvm.pci.device import PciDevice, Remappable
from gpuvm.pci.memory import BusMemory, MemoryRegion

log = structlog.get_logger(__name__)

COMMAND = 0x04
COMMAND_MEMORY_AND_MASTER = 0x6
BAR_REGISTERS = 0x10
MMIO_BASE = 0xE000_0000
"""Where firmware starts to place BARs; above the RAM's first part on a PC."""

LEVEL_RETRY_S = 0.002
"""How soon a still asserted INTx line calls its handler again."""


class _Slot:
    """One PCI slot: the device, and its interrupt pin (an `InterruptSink`)."""

    def __init__(self, machine: VirtualMachine, device: PciDevice) -> None:
        self._machine = machine
        self.device = device
        self.handler: Callable[[], None] | None = None
        self.messages = 0
        self.asserted = False
        self.raised = False

    def message(self, vector: int) -> None:
        with self._machine.interrupt:
            self.messages += 1
            self._machine.interrupt.notify()

    def level(self, asserted: bool) -> None:
        with self._machine.interrupt:
            self.raised |= asserted and not self.asserted
            self.asserted = asserted
            self._machine.interrupt.notify()


class VirtualMachine:
    """A machine with `memory` bytes of RAM at bus address 0.

    Parameters
    ----------
    name : str
        For people and the host's memory maps.
    memory : int
        Bytes of RAM; the host pays for what is touched.

    Attributes
    ----------
    memory : MemoryRegion
        The RAM.
    bus : BusMemory
        What the DMA of a plugged device reaches.
    pages : RamPages
        The page allocator of the RAM.
    """

    def __init__(self, name: str, memory: int = 256 << 20) -> None:
        if memory < 1 << 20:
            raise ValueError(f"a virtual machine needs at least 1 MiB of RAM, got {memory} bytes")
        self._name = name
        self._memory = MemoryRegion(memory, f"gpuvm-ram-{name}")
        self.bus = BusMemory()
        self.bus.add(0, self._memory)
        self._pages = RamPages(self._memory)
        self._slots: list[_Slot] = []
        self._next_bar = max(MMIO_BASE, -(-self._memory.size // (1 << 28)) << 28)
        self.interrupt = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def memory(self) -> MemoryRegion:
        return self._memory

    @property
    def pages(self) -> RamPages:
        return self._pages

    @property
    def devices(self) -> Sequence[PciDevice]:
        return tuple(slot.device for slot in self._slots)

    def plug(self, device: PciDevice) -> None:
        """Plug a device in, as firmware leaves it: BARs placed, memory accesses and bus mastering on."""
        if self._closed:
            raise RuntimeError(
                f"virtual machine {self._name!r} must not be closed before a device is plugged in"
            )
        if any(slot.device is device for slot in self._slots):
            raise ValueError(f"a device can be plugged into {self._name!r} once; unplug it first")
        slot = _Slot(self, device)
        device.connect(self.bus, slot)
        if isinstance(device, Remappable):
            device.map_directly(True)
        for bar in device.bars:
            self._next_bar = -(-self._next_bar // bar.size) * bar.size
            device.config_write(BAR_REGISTERS + 4 * bar.index, 4, self._next_bar & 0xFFFFFFFF)
            if bar.is_64bit:
                device.config_write(BAR_REGISTERS + 4 * bar.index + 4, 4, self._next_bar >> 32)
            self._next_bar += bar.size
        device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | COMMAND_MEMORY_AND_MASTER)
        self._slots.append(slot)

    def unplug(self, device: PciDevice) -> None:
        """Take a device out: it is reset, its DMA and interrupts end."""
        slot = self._slot(device)
        with self.interrupt:
            slot.handler = None
        device.reset()
        if isinstance(device, Remappable):
            device.map_directly(False)
        self._slots.remove(slot)
        device.connect(BusMemory(), _Slot(self, device))

    def on_interrupt(self, device: PciDevice, handler: Callable[[], None] | None) -> None:
        """Call `handler` on the machine's interrupt thread at each MSI, and while the INTx line is asserted;
        None stops it."""
        slot = self._slot(device)
        with self.interrupt:
            slot.handler = handler
            if handler is not None and self._thread is None:
                self._thread = threading.Thread(
                    target=self._deliver, name=f"{self._name}-interrupts", daemon=True
                )
                self._thread.start()

    def close(self) -> None:
        """Take all devices out and give the RAM back."""
        if self._closed:
            return
        for device in self.devices:
            self.unplug(device)
        with self.interrupt:
            self._closed = True
            self.interrupt.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self.bus.remove(0)
        self._memory.close()

    def __enter__(self) -> VirtualMachine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _slot(self, device: PciDevice) -> _Slot:
        for slot in self._slots:
            if slot.device is device:
                return slot
        raise ValueError(f"the device must be plugged into {self._name!r} first")

    def _deliver(self) -> None:
        while True:
            with self.interrupt:
                calls = self._take()
                while not calls and not self._closed:
                    waiting = any(slot.asserted and slot.handler for slot in self._slots)
                    if not self.interrupt.wait(LEVEL_RETRY_S if waiting else None):
                        for slot in self._slots:
                            slot.raised |= slot.asserted
                    calls = self._take()
                if self._closed:
                    return
            for handler in calls:
                try:
                    handler()
                except Exception:
                    log.exception("an interrupt handler of a guest's driver failed", machine=self._name)

    def _take(self) -> list[Callable[[], None]]:
        """Handlers that are due; pending messages of one device are merged as its single vector would be."""
        calls = []
        for slot in self._slots:
            if slot.handler is not None and (slot.messages or slot.raised):
                calls.append(slot.handler)
                slot.messages = 0
                slot.raised = False
        return calls

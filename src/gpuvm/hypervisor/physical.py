"""The physical GPU as its only owner drives it: registers, TLB flushes, and the one bring-up of the chip.

Everything here goes through the `PciDevice` interface, plus the two things that the owner of a card has and
a guest has not: its video memory as memory, and completion events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog

from gpuvm.pci.device import PciDevice
from gpuvm.pci.memory import MemoryRegion

if TYPE_CHECKING:
    from gpuvm.gpu.counters import Counters as GpuCounters

log = structlog.get_logger(__name__)

PMC_INTR = 0x000100
PMC_INTR_ENABLE = 0x000140
PMC_ENABLE = 0x000200
PMC_SUBFIFO_ENABLE = 0x000204
PMC_UNIT260 = 0x000260
PMC_INTR_MASK = 0x000640
BAR1_INSTANCE = 0x001704
BAR3_INSTANCE = 0x001714
PFIFO_INTR = 0x002100
PFIFO_INTR_ENABLE = 0x002140
PFIFO_INTR_WANTED = 0xFFFFFFFF & ~(1 << 30)
"""All but the playlist's own event: the aggregator waits for that by looking."""

PFIFO_INTR_NONSTALL = 1 << 31
PFIFO_ENABLE = 0x002200
PFIFO_SUBFIFO_ENABLE = 0x002204
PFIFO_USERD = 0x002254
PFIFO_PLAYLIST = 0x002270
PFIFO_PLAYLIST_COUNT = 0x002274
PFIFO_PLAYLIST_STATUS = 0x00227C
PFIFO_NONSTALL_ENABLE = 0x002628
PFIFO_KILL = 0x002634
PFIFO_ENGINE_STATE = 0x002640
PFIFO_CHANNELS = 0x003000
PBDMA = 0x040000
PBDMA_STRIDE = 0x2000
PBDMA_INTR = 0x108
PBDMA_INTR_ENABLE = 0x10C
BAR_FLUSH = 0x070000
MSI_REARM = 0x088704
TLB_STATUS = 0x100C80
TLB_DIRECTORY = 0x100CB8
TLB_TRIGGER = 0x100CBC
PGRAPH_STATUS = 0x400700

BUSY_BIT = 1 << 20
"""Of 0x227c and 0x2634: the playlist is being read, the channel is being preempted."""

ENGINE_BUSY = 1 << 28
ENGINE_CHANNEL = 0x7F
"""Of 0x2640: the engine works, and on which channel."""

PATIENCE_S = 2.0
"""How long the chip may take to acknowledge, as the Linux driver waits."""

MSI_CONTROL = 0x2
PCI_COMMAND = 0x04
PCI_CAPABILITIES = 0x34
CAPABILITY_MSI = 0x05


class Gpu(PciDevice, Protocol):
    """A physical GPU: a `PciDevice` with what only the owner of the card can reach."""

    @property
    def vram(self) -> MemoryRegion:
        """Video memory."""

    def wrote(self, address: int, size: int) -> None:
        """Say that a range of video memory was written as memory, so that what the GPU cached of it goes."""

    def on_idle(self, callback: Callable[[int], None]) -> None:
        """Call `callback(channel)` when a channel has run all that was submitted to it."""

    def on_switch(self, callback: Callable[[int, bool], None]) -> None:
        """Call `callback(channel, waits)` when a channel's time slice ended with work left, or (`waits`) when
        it waits for a semaphore."""

    def give(self, channel: int, until: int) -> None:
        """Let a channel run until a time of `time.monotonic_ns` (0: no end), and keep it off the engines
        after that."""

    def pending(self, channel: int) -> bool:
        """Whether a channel may run and has something to look at."""

    def rest(self, channel: int) -> None:
        """Take a channel off the engines until it is given time."""

    @property
    def counters(self) -> GpuCounters:
        """What the GPU counts."""


class PhysicalGpu:
    """Register-level access to the physical GPU.

    Attributes
    ----------
    reads, writes : int
        Register accesses made so far.
    """

    def __init__(self, device: Gpu) -> None:
        self.device = device
        self.vram = device.vram
        self.reads = 0
        self.writes = 0
        self.bars = {bar.index: bar for bar in device.bars}

    def read(self, offset: int) -> int:
        """Read a 32-bit BAR0 register."""
        self.reads += 1
        return self.device.read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit BAR0 register."""
        self.writes += 1
        self.device.write(0, offset, 4, value)

    def wait(self, offset: int, mask: int, value: int) -> bool:
        """Poll a register until `register & mask == value`; False if that does not come within
        `PATIENCE_S`."""
        if self.read(offset) & mask == value:
            return True
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            time.sleep(0.0002)
            if self.read(offset) & mask == value:
                return True
        log.warning("the GPU must acknowledge in time and did not", register=hex(offset))
        return False

    def flush_tlb(self, directory: int, trigger: int = 0x1) -> None:
        """Drop cached translations of the page directory at a card address."""
        self.write(TLB_DIRECTORY, directory >> 8)
        self.write(TLB_TRIGGER, 0x80000000 | trigger)
        self.wait(TLB_STATUS, 0x8000, 0x8000)

    def flush_bar(self) -> None:
        """Push writes through the apertures to memory."""
        self.write(BAR_FLUSH, 1)
        self.wait(BAR_FLUSH, 0x2, 0)

    def bring_up(self) -> None:
        """Enable the chip's engines and interrupts: what the driver of a bare machine does once."""
        self._enable_messages()
        self.write(PMC_INTR_ENABLE, 0)
        self.write(PMC_ENABLE, 0xFFFFFFFF)
        self.write(PMC_UNIT260, 1)
        self.write(PMC_SUBFIFO_ENABLE, 0xFFFFFFFF)
        subfifos = self.read(PMC_SUBFIFO_ENABLE)
        self.write(PFIFO_SUBFIFO_ENABLE, subfifos)
        for unit in range(bin(subfifos).count("1")):
            self.write(PBDMA + unit * PBDMA_STRIDE + PBDMA_INTR, 0xFFFFFFFF)
            self.write(PBDMA + unit * PBDMA_STRIDE + PBDMA_INTR_ENABLE, 0xFFFFFEFF)
        self.write(PFIFO_ENABLE, 1)
        self.write(PFIFO_INTR, 0xFFFFFFFF)
        self.write(PFIFO_INTR_ENABLE, PFIFO_INTR_WANTED)
        self.write(PFIFO_NONSTALL_ENABLE, 1)
        self._start_graphics()
        self.write(PMC_INTR_MASK, 0xFFFFFFFF)
        self.write(PMC_INTR_ENABLE, 1)
        self.write(MSI_REARM, 0xFF)

    def _start_graphics(self) -> None:
        """Enable PGRAPH's traps and boot its context-switch microcontroller."""
        for offset, value in GRAPHICS_START:
            self.write(offset, value)

    def _enable_messages(self) -> None:
        """Bus mastering and MSI in the function's config space."""
        device = self.device
        device.config_write(PCI_COMMAND, 2, device.config_read(PCI_COMMAND, 2) | 0x6)
        at = device.config_read(PCI_CAPABILITIES, 1)
        while at:
            if device.config_read(at, 1) == CAPABILITY_MSI:
                control = device.config_read(at + MSI_CONTROL, 2)
                device.config_write(at + MSI_CONTROL, 2, control | 1)
                return
            at = device.config_read(at + 1, 1)


GRAPHICS_START: tuple[tuple[int, int], ...] = (
    (0x400500, 0x00010001),  # FIFO access to PGRAPH
    (0x400100, 0xFFFFFFFF),  # acknowledge, then enable, every interrupt
    (0x40013C, 0xFFFFFFFF),
    (0x400108, 0xFFFFFFFF),  # traps
    (0x400138, 0xFFFFFFFF),
    (0x400118, 0xFFFFFFFF),
    (0x400130, 0xFFFFFFFF),
    (0x40011C, 0xFFFFFFFF),
    (0x400134, 0xFFFFFFFF),
    (0x409C24, 0x000F0000),  # FECS errors
    (0x404000, 0xC0000000),  # unit traps: dispatch, M2MF, compute
    (0x404600, 0xC0000000),
    (0x40910C, 0x00000000),  # start FECS
    (0x409100, 0x00000002),
)
"""Writes that start PGRAPH; the values are those of the Linux driver for the GF100."""

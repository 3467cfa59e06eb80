"""One channel: what its instance block says, where its pushbuffer stands, and what is bound to its
subchannels.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from gpuvm.gpu.classes.macro import MacroMemory
from gpuvm.gpu.physical import PhysicalMemory
from gpuvm.gpu.translations import Translations

if TYPE_CHECKING:
    from gpuvm.gpu.classes.method import ClassObject

SUBCHANNELS = 8

RAMFC_IB_PUT, RAMFC_USERD, RAMFC_IB_GET, RAMFC_REF, RAMFC_SEMAPHORE, RAMFC_IB = (
    0x00,
    0x08,
    0x14,
    0x28,
    0x30,
    0x48,
)
"""Where the instance block keeps the host's state: the layout of PSUBFIFO's registers (rnndb
fifo/gf100_pfifo.xml).
"""

USERD_DMA_GET, USERD_REF, USERD_DMA_GET_HIGH, USERD_GP_GET, USERD_GP_PUT = 0x44, 0x48, 0x60, 0x88, 0x8C
"""What a channel's page of the poll area holds. A driver that keeps commands in a ring of its own looks at
DMA_GET, the address of the next word to fetch, for the room that is left in it.
"""


class Stop(enum.Enum):
    """Why a channel does not run until the driver sets it up anew."""

    MMU_FAULT = enum.auto()
    PUSHBUFFER = enum.auto()
    TRAP = enum.auto()
    TIMEOUT = enum.auto()


class Channel:
    """A channel from the moment its instance block is put into the channel table until that entry is cleared
    or changed.

    Attributes
    ----------
    instance : int
        Physical address of the instance block.
    get : int
        Next GPFIFO entry to fetch.
    dma_get : int
        GPU address behind the segment that was fetched last.
    """

    def __init__(
        self, number: int, memory: PhysicalMemory, target: int, instance: int, space: Translations
    ) -> None:
        self.number = number
        self.target = target
        self.instance = instance
        self.space = space
        self._memory = memory
        read = memory.read32
        userd = read(target, instance + RAMFC_USERD)
        self.userd_target = userd & 3
        self.userd = (userd & 0xFFFFFE00) | (read(target, instance + RAMFC_USERD + 4) & 0xFF) << 32
        config = read(target, instance + RAMFC_IB + 4)
        self.ib = (read(target, instance + RAMFC_IB) & ~7) | (config & 0xFF) << 32
        self.ib_entries = 1 << min(config >> 16 & 0x1F, 24)
        self.get = read(target, instance + RAMFC_IB_GET) % self.ib_entries
        self.dma_get = 0
        self.reference = read(target, instance + RAMFC_REF)
        semaphore = read(target, instance + RAMFC_SEMAPHORE)
        self.acquire_limit_s = (
            ((semaphore >> 15 & 0xFFFF) << (semaphore >> 11 & 0xF)) * 1.024e-6 if semaphore >> 31 else None
        )
        """Longest wait for a semaphore; None: for ever."""
        self.waits_since = 0.0
        """When the wait began that is in progress, of `time.monotonic`; 0 if none is."""
        self.macros = MacroMemory()
        self.objects: list[ClassObject | None] = [None] * SUBCHANNELS

        self.enabled = False
        self.scheduled = False
        self.ready = True
        """Whether there may be something to fetch: a doorbell came, or work is left over."""
        self.progressed = False
        self.stop: Stop | None = None
        self.waiting = False
        """Whether an interrupt of this channel waits for the driver's acknowledgement."""
        self.retry_at = 0.0
        """When to look again at the semaphore that is waited for; 0 if none is."""
        self.backoff = 0.0
        self.kicked = False
        """Whether it is being run and is to be switched out."""
        self.slice_end = 0
        """When it is switched out by itself (`time.monotonic_ns`); 0 if never."""
        self.resting = False
        """Whether its time slice is over and its owner has not given it another."""

        self.words: memoryview | None = None
        """Segment in progress."""
        self.position = 0
        self.method = 0
        self.subchannel = 0
        self.count = 0
        """Data words that the method in progress still takes."""
        self.step = 0
        """1 incrementing, 0 not, 2 incrementing once."""
        self.semaphore_high = 0
        self.semaphore_low = 0
        self.semaphore_sequence = 0

    @property
    def runnable(self) -> bool:
        """Whether the scheduler may run it now, waiting for memory aside."""
        return self.enabled and self.scheduled and self.stop is None and not self.waiting and not self.resting

    def put(self) -> int:
        """Read GP_PUT from the poll area."""
        return self._memory.read32(self.userd_target, self.userd + USERD_GP_PUT)

    def show_get(self) -> None:
        """Write DMA_GET and GP_GET to the poll area."""
        write, target, userd = self._memory.write32, self.userd_target, self.userd
        write(target, userd + USERD_DMA_GET_HIGH, self.dma_get >> 32)
        write(target, userd + USERD_DMA_GET, self.dma_get & 0xFFFFFFFF)
        write(target, userd + USERD_GP_GET, self.get)

    def show_reference(self) -> None:
        self._memory.write32(self.userd_target, self.userd + USERD_REF, self.reference)

    def save(self) -> None:
        """Write the host's state to the instance block, as a channel switch does."""
        write, base = self._memory.write32, self.instance
        write(self.target, base + RAMFC_IB_PUT, self.put())
        write(self.target, base + RAMFC_IB_GET, self.get)
        write(self.target, base + RAMFC_REF, self.reference)

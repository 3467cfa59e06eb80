"""Host methods, below 0x100 on every subchannel: semaphores, non-stalling interrupt, reference count. Class
0x906f.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuvm.gpu.classes.method import Method, MethodTable

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

GPFIFO = MethodTable(
    0x906F,
    "GF100_GPFIFO",
    (
        Method(0x00, "OBJECT", trigger=True),
        Method(0x08, "NOP"),
        Method(0x10, "SEMAPHORE_ADDRESS_HIGH"),
        Method(0x14, "SEMAPHORE_ADDRESS_LOW"),
        Method(0x18, "SEMAPHORE_SEQUENCE"),
        Method(0x1C, "SEMAPHORE_TRIGGER", trigger=True),
        Method(0x20, "NOTIFY_INTR", trigger=True),
        Method(0x24, "WRCACHE_FLUSH"),
        Method(0x28, "UNK28"),
        Method(0x2C, "UNK2C"),
        Method(0x50, "REF_CNT", trigger=True),
        Method(0x70, "UNK70"),
        Method(0x74, "UNK74"),
        Method(0x78, "UNK78"),
        Method(0x7C, "UNK7C"),
        Method(0x80, "YIELD", trigger=True),
    ),
)

ACQUIRE_EQUAL, RELEASE, ACQUIRE_GEQUAL, ACQUIRE_MASK = 1, 2, 4, 8
SHORT = 1 << 24


class Park(Exception):
    """The channel waits for a semaphore; the method is taken again later."""


class HostMethods:
    """Executes host methods; the state of the semaphore registers belongs to the channel."""

    def __init__(self, gpu: Gf100) -> None:
        self._gpu = gpu

    def take(self, channel: Channel, method: int, value: int) -> bool:
        """Execute one method; False if there is no such method or operation.

        Raises
        ------
        Park
            If the channel has to wait; MmuFault passes through.
        """
        if method == 0x10:
            channel.semaphore_high = value & 0xFF
        elif method == 0x14:
            channel.semaphore_low = value & 0xFFFFFFFC
        elif method == 0x18:
            channel.semaphore_sequence = value
        elif method == 0x1C:
            return self._semaphore(channel, value)
        elif method == 0x20:
            self._gpu.pfifo.non_stall(0)
        elif method == 0x50:
            channel.reference = value
            channel.show_reference()
        else:
            return bool(GPFIFO.known[method >> 2])
        return True

    def _semaphore(self, channel: Channel, value: int) -> bool:
        address = channel.semaphore_high << 32 | channel.semaphore_low
        sequence = channel.semaphore_sequence
        action = value & 0xF
        if action == RELEASE:
            if value & SHORT:
                channel.space.write32(address, sequence)
            else:
                time = self._gpu.ptimer.now()
                channel.space.write32(address + 12, time >> 32)
                channel.space.write32(address + 8, time & 0xFFFFFFFF)
                channel.space.write32(address + 4, 0)
                channel.space.write32(address, sequence)
            self._gpu.runner.memory_changed()
            return True
        held = channel.space.read32(address)
        if action == ACQUIRE_EQUAL:
            passed = held == sequence
        elif action == ACQUIRE_GEQUAL:
            passed = (held - sequence) & 0x80000000 == 0
        elif action == ACQUIRE_MASK:
            passed = held & sequence != 0
        else:
            return False
        if not passed:
            raise Park
        return True

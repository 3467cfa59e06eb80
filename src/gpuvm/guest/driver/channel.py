"""A channel: GPFIFO ring, pushbuffer ring, doorbell, completion fence, and waiting for it."""

from __future__ import annotations

import ctypes
import struct
import threading
import time
from array import array
from typing import TYPE_CHECKING

from gpuvm.guest.driver.errors import ChannelFault, Fault, FaultKind
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.push import Host, semaphore
from gpuvm.guest.driver.ring import Ring

if TYPE_CHECKING:
    from gpuvm.guest.driver.context import GpuContext

FENCE_SIZE = 0x1000
RING_ENTRIES = 1024
PUSH_SIZE = 0x80000
SPINS, SPIN_BUSY, SPIN_PAUSE_S = 50, 10, 25e-6
ABANDONED = Fault(FaultKind.TRAP, 0, "the context was closed while this work was queued")
LOST_INTERRUPT_S = 0.25
"""A sleeper looks at its fence again after this long: a completion interrupt that got lost delays, and hangs
nobody."""


class Channel:
    """One PFIFO channel of a context.

    Work is submitted in pieces; each piece ends in a semaphore release of its sequence number into the fence
    word, which is what `finished` reads.

    Attributes
    ----------
    number : int
        Channel id.
    fault : Fault or None
        Why the GPU stopped the channel. A stopped channel takes no more work.
    """

    def __init__(self, context: GpuContext, number: int) -> None:
        self._context = context
        self._driver = context.driver
        self.number = number
        self.fault: Fault | None = None
        self.abandoned = False
        self.lock = threading.RLock()
        self.submitted = 0
        self._buffer = HostBuffer(self._driver.machine, FENCE_SIZE + RING_ENTRIES * 8 + PUSH_SIZE)
        context.space.map_host(self._buffer)
        base = self._buffer.address
        self._view = self._buffer.view()
        self._fence_address = base
        self._fence = ctypes.c_uint32.from_address(base)
        self.ring_address = base + FENCE_SIZE
        self._ring_offset = FENCE_SIZE
        self._push_offset = FENCE_SIZE + RING_ENTRIES * 8
        self._put = 0
        self._ring = Ring(PUSH_SIZE, self.finished, self.wait, RING_ENTRIES - 2)
        self._ring_doorbell = self._driver.fifo.doorbell(number)
        self.block = self._driver.fifo.new_block(number, context.space, self.ring_address, RING_ENTRIES)

    def submit(self, words: list[int]) -> int:
        """Queue a pushbuffer piece and ring the doorbell; returns its sequence number. Does not wait for the
        GPU (only for room in the ring).

        Raises
        ------
        ChannelFault
            If the GPU stopped the channel.
        """
        driver = self._driver
        if driver.interrupts.line.pending:
            driver.interrupts.service()
        with self.lock:
            if self.fault is not None:
                raise ChannelFault(self.fault)
            space = self._context.space
            if space.stale:
                with driver.lock:
                    space.flush()
            sequence = self.submitted + 1
            data = array("I", words)
            data.extend(semaphore(self._fence_address, sequence, Host.RELEASE | Host.RELEASE_SHORT))
            data.extend((0x20000000 | 1 << 16 | Host.NON_STALL_INTERRUPT >> 2, 0))
            size = len(data) * 4
            at = self._push_offset + self._ring.reserve(size, sequence)
            self._view[at : at + size] = memoryview(data).cast("B")
            address = self._buffer.address + at
            entry = self._ring_offset + self._put * 8
            struct.pack_into("<II", self._view, entry, address & 0xFFFFFFFC, address >> 32 | len(data) << 10)
            self._put = (self._put + 1) % RING_ENTRIES
            self.submitted = sequence
            self._ring_doorbell(self._put)
            return sequence

    def finished(self, sequence: int) -> bool:
        """Whether the GPU has passed a submission."""
        return (self._fence.value - sequence) & 0xFFFFFFFF < 0x80000000

    def wait(self, sequence: int) -> None:
        """Sleep until the GPU has passed a submission.

        Raises
        ------
        ChannelFault
            If the GPU stopped the channel instead.
        """
        driver = self._driver
        line = driver.interrupts.line
        for turn in range(SPINS):
            if self.finished(sequence):
                return
            if line.pending or self.abandoned:
                break
            # Looking costs no trap and no interrupt; short work is done before the interrupt would be armed.
            time.sleep(SPIN_PAUSE_S if turn >= SPIN_BUSY else 0)
        self.check()
        if self.finished(sequence):
            return
        driver.interrupts.watch(1)
        try:
            while True:
                seen = line.count
                if self.abandoned:
                    raise ChannelFault(ABANDONED)
                driver.interrupts.service()
                if self.finished(sequence):
                    return
                if self.fault is not None or self.abandoned:
                    raise ChannelFault(self.fault or ABANDONED)
                line.sleep(seen, LOST_INTERRUPT_S)
        finally:
            driver.interrupts.watch(-1)

    def check(self) -> None:
        """Notice what the GPU has reported.

        Raises
        ------
        ChannelFault
            If the channel was stopped.
        """
        line = self._driver.interrupts
        if line.line.pending:
            line.service()
        if self.fault is not None:
            raise ChannelFault(self.fault)

    def abandon(self) -> None:
        """Wake who waits for work that will not be finished."""
        if self.fault is None and not self.finished(self.submitted):
            self.abandoned = True
            self._driver.interrupts.line.top_half()

    def drain(self) -> None:
        """Wait for everything submitted."""
        self.wait(self.submitted)

    def close(self, kill: bool = False) -> None:
        """Stop the channel (work in flight is dropped) and free what it held.

        Parameters
        ----------
        kill : bool
            End a kernel that runs, instead of waiting for it.
        """
        driver = self._driver
        with driver.lock:
            driver.remove_channel(self, kill)
            self.block.free()
            self._context.space.unmap_host(self._buffer)
        # A thread may still wait here: it must find no freed memory, but that the channel is gone.
        self.abandoned = True
        self._fence = ctypes.c_uint32(self._fence.value)
        driver.interrupts.line.top_half()
        self._view.release()
        self._buffer.free()

"""What one GPU context is to the driver: an address space, a channel with its objects, buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuvm.guest.driver.channel import Channel
from gpuvm.guest.driver.compute import WARPS_PER_MULTIPROCESSOR, ComputeState, Program
from gpuvm.guest.driver.errors import ChannelFault, DeviceTimeout
from gpuvm.guest.driver.hardware import BIG_PAGE
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.push import (
    CLASS_COMPUTE,
    CLASS_COPY0,
    CLASS_M2MF,
    ENGINE_COPY0,
    SUBCHANNEL_COMPUTE,
    SUBCHANNEL_COPY,
    SUBCHANNEL_M2MF,
    Host,
    increment,
)
from gpuvm.guest.driver.space import Space

if TYPE_CHECKING:
    from gpuvm.guest.driver.device import Driver


class DeviceBuffer:
    """VRAM mapped into a context.

    Attributes
    ----------
    address : int
        GPU virtual address.
    size : int
        Bytes, whole 128 KiB pages.
    """

    __slots__ = ("address", "pieces", "size")

    def __init__(self, address: int, pieces: Sequence[tuple[int, int]]) -> None:
        self.address = address
        self.pieces = pieces
        self.size = sum(length for _, length in pieces)


class GpuContext:
    """An address space and the channel that runs in it.

    Attributes
    ----------
    channel : Channel
    space : AddressSpace
    compute : ComputeState
    """

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self._buffers: dict[int, DeviceBuffer] = {}
        self._local: DeviceBuffer | None = None
        with driver.lock:
            number = driver.fifo.take_number()
            self.space: Space = driver.backend.new_space()
            try:
                for buffer in driver.host_buffers.values():
                    self.space.map_host(buffer)
                graph = driver.graph
                # One big page holds c[0x0] and c[0x1] (8 KiB) and the graphics context behind them.
                self._fixed = self.allocate(0x2000 + graph.context_size)
                self.channel = Channel(self, number)
                try:
                    self.channel.block.set_context(self._fixed, 0x2000)
                    driver.add_channel(self.channel)
                except Exception:
                    self.channel.close()
                    raise
                driver.contexts.append(self)
            except Exception:
                for held in list(self._buffers.values()):
                    self.free(held)
                self.space.close()
                driver.fifo.remove(number)
                raise
        self.compute = ComputeState(self._fixed.address, driver.graph.multiprocessors)
        words = increment(SUBCHANNEL_M2MF, Host.OBJECT, CLASS_M2MF)
        words += increment(SUBCHANNEL_COMPUTE, Host.OBJECT, CLASS_COMPUTE)
        if driver.copy_engine:
            words += increment(SUBCHANNEL_COPY, Host.OBJECT, ENGINE_COPY0 | CLASS_COPY0)
        words += self.compute.first_words()
        self.channel.submit(words)

    def allocate(self, size: int) -> DeviceBuffer:
        """Allocate VRAM and map it. The GPU sees it from the next submission on.

        Raises
        ------
        OutOfMemory
        """
        driver = self.driver
        with driver.lock:
            pieces = driver.vram.allocate_pieces(size)
            try:
                address = self.space.map_vram(pieces)
            except Exception:
                for at, length in pieces:
                    driver.vram.free(at, length)
                raise
            buffer = DeviceBuffer(address, pieces)
            self._buffers[address] = buffer
            return buffer

    def free(self, buffer: DeviceBuffer) -> None:
        """Unmap VRAM and give it back; the caller has seen to it that no queued work uses it."""
        driver = self.driver
        with driver.lock:
            del self._buffers[buffer.address]
            self.space.unmap_vram(buffer.address, buffer.size)
            self.space.flush()
            for at, length in buffer.pieces:
                driver.vram.free(at, length)

    def local_memory(self, program: Program) -> tuple[int, int]:
        """Return (address, bytes) of local memory for `program` on every multiprocessor, growing it if need
        be."""
        need = program.warp_bytes * WARPS_PER_MULTIPROCESSOR * self.driver.graph.multiprocessors
        local = self._local
        if need and (local is None or local.size < need):
            if local is not None:
                self.channel.drain()
                self.free(local)
                self._local = None
            local = self._local = self.allocate(-(-need // BIG_PAGE) * BIG_PAGE)
        return (local.address, local.size) if local is not None else (0, 0)

    def close(self, kill: bool = False) -> None:
        """Stop the channel and free everything; `kill` ends a kernel that runs."""
        driver = self.driver
        with driver.lock:
            driver.contexts.remove(self)
            self.channel.close(kill)
            self.space.stale = True
            self.space.flush()
            self.space.close()
            for buffer in self._buffers.values():
                for at, length in buffer.pieces:
                    driver.vram.free(at, length)
            self._buffers.clear()
            self._local = None

    def finish(self) -> None:
        """Wait for queued work if the channel still runs."""
        try:
            self.channel.drain()
        except (ChannelFault, DeviceTimeout):
            return


__all__ = ["DeviceBuffer", "GpuContext", "HostBuffer"]

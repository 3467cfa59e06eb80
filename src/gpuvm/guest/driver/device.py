"""The kernel driver: probes the first GF100 of a machine, brings it up, hands out contexts, takes everything
back."""

from __future__ import annotations

import threading

from gpuvm.guest.driver.channel import Channel
from gpuvm.guest.driver.context import DeviceBuffer, GpuContext
from gpuvm.guest.driver.errors import DeviceTimeout, DriverError, Fault, NoDevice
from gpuvm.guest.driver.fifo import Fifo
from gpuvm.guest.driver.function import Function, find_gpu
from gpuvm.guest.driver.graph import Graph
from gpuvm.guest.driver.hardware import (
    CHIPSET_GF100,
    ENABLE_COPY0,
    INSTANCE_GRAPH,
    INSTANCE_SIZE,
    UNIT_DISABLED_COPY0,
    Reg,
)
from gpuvm.guest.driver.host import HostBuffer, RegisteredBuffer
from gpuvm.guest.driver.instance import Instance, InstanceMemory, Vram, vram_ranges
from gpuvm.guest.driver.interrupts import Interrupts
from gpuvm.guest.driver.para import CallDevice, hypercall_tables
from gpuvm.guest.driver.space import AddressSpace
from gpuvm.guest.driver.tables import HardwareTables, Tables
from gpuvm.guest.machine import Machine


class Driver:
    """The GPU's kernel driver in one machine.

    Parameters
    ----------
    machine : Machine
        Whose first PCI device 10de:06d8 is taken over.

    Attributes
    ----------
    copy_engine : bool
        Whether PCOPY0 is there.

    Raises
    ------
    NoDevice
        If the machine has no such device, or it is not a GF100.
    DeviceTimeout
        If the device does not come up.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.lock = threading.RLock()
        self.contexts: list[GpuContext] = []
        self.host_buffers: dict[int, HostBuffer] = {}
        self._channels: dict[int, Channel] = {}
        self.function = Function(find_gpu(machine.devices))
        boot = self.function.read(Reg.PMC_BOOT_0)
        if boot >> 20 & 0xFFF != CHIPSET_GF100:
            raise NoDevice(f"PMC_BOOT_0 must name chipset {CHIPSET_GF100:03x} (GF100); it reads {boot:#010x}")
        self.function.enable()
        self.vram = Vram(vram_ranges(self.function))
        self.calls = CallDevice.probe(self.function, machine)
        self.tables: Tables
        if self.calls is None:
            self.memory = InstanceMemory(self.function, self.vram)
            self.tables = HardwareTables(self.memory)
        else:
            self.tables = hypercall_tables(self.calls)
            self.memory = InstanceMemory(self.function, self.vram, self.tables.window)
        self.fifo = Fifo(self.function, self.memory, self.tables)
        self.graph = Graph(self.function)
        self.interrupts = Interrupts(self.function, self.graph.shape, self.fifo.subfifos, self._on_fault)
        machine.on_interrupt(self.function.device, self.interrupts.line.top_half)
        self.copy_engine = not self.function.read(Reg.UNITS_DISABLE) & UNIT_DISABLED_COPY0
        if self.copy_engine:
            self.function.mask(Reg.PMC_ENABLE, 0, ENABLE_COPY0)
        self.graph.start()
        self._make_golden()
        self.interrupts.enable()
        self.idle_vram = self.vram.used_bytes

    def open_context(self) -> GpuContext:
        """Make a GPU context.

        Raises
        ------
        OutOfMemory
            If channels or memory are used up.
        """
        return GpuContext(self)

    def allocate_host(self, size: int) -> HostBuffer:
        """Allocate page-locked RAM that every context of this machine sees at its host address.

        Raises
        ------
        OutOfMemory
        """
        with self.lock:
            return self._map_host(HostBuffer(self.machine, size))

    def register_host(self, address: int, size: int) -> HostBuffer:
        """Page-lock memory of this process and map it into every context.

        Raises
        ------
        OutOfMemory
        """
        with self.lock:
            return self._map_host(RegisteredBuffer(self.machine, address, size))

    def _map_host(self, buffer: HostBuffer) -> HostBuffer:
        done: list[GpuContext] = []
        try:
            for context in self.contexts:
                context.space.map_host(buffer)
                done.append(context)
        except Exception:
            for context in done:
                context.space.unmap_host(buffer)
                context.space.flush()
            buffer.free()
            raise
        self.host_buffers[buffer.address] = buffer
        return buffer

    def free_host(self, buffer: HostBuffer) -> None:
        """Take it back; the caller has seen to it that no queued work uses it."""
        with self.lock:
            del self.host_buffers[buffer.address]
            for context in self.contexts:
                context.space.unmap_host(buffer)
                context.space.flush()
            buffer.free()

    def timestamp(self) -> int:
        """The GPU's clock in ns (PTIMER), read as high, low, high."""
        while True:
            high = self.function.read(Reg.PTIMER_HIGH)
            low = self.function.read(Reg.PTIMER_LOW)
            if high == self.function.read(Reg.PTIMER_HIGH):
                return high << 32 | low

    def add_channel(self, channel: Channel) -> None:
        """Put a channel on the playlist."""
        self._channels[channel.number] = channel
        self.fifo.start(channel.number, channel.block, channel.directory)

    def remove_channel(self, channel: Channel, kill: bool = False) -> None:
        """Take a channel off the playlist for good."""
        if channel.fault is None:
            self.fifo.stop(channel.number, kill)
        self.fifo.remove(channel.number)
        self._channels.pop(channel.number, None)

    def add_graph_context(self, block: Instance, buffer: DeviceBuffer, offset: int) -> None:
        """Give a channel its graphics context inside a mapped VRAM buffer."""
        image = self.graph.golden
        at = buffer.pieces[0][0] + offset
        self.memory.pramin(at, image)
        va = buffer.address + offset
        block.write32(INSTANCE_GRAPH, va & 0xFFFFFFFF | 4)
        block.write32(INSTANCE_GRAPH + 4, va >> 32)

    def close(self) -> None:
        """Destroy the contexts and quiesce the device."""
        with self.lock:
            for context in list(self.contexts):
                context.close(kill=True)
            for buffer in list(self.host_buffers.values()):
                self.free_host(buffer)
            self.interrupts.disable()
            self.machine.on_interrupt(self.function.device, None)
            self.fifo.close()
            self.memory.close()
            if self.calls is not None:
                self.calls.close()
            self.function.disable()

    def _make_golden(self) -> None:
        """Bind a channel that never runs and let PGRAPH fill its context with the initial state."""
        size = self.graph.context_size
        space = AddressSpace(self.tables)
        pieces = self.vram.allocate_pieces(size)
        va = space.map_vram(pieces)
        block = self.memory.allocate(INSTANCE_SIZE)
        block.write(0x200, space.directory_address.to_bytes(8, "little"))
        block.write(0x208, ((1 << 40) - 1).to_bytes(8, "little"))
        block.write32(INSTANCE_GRAPH, va & 0xFFFFFFFF | 4)
        block.write32(INSTANCE_GRAPH + 4, va >> 32)
        space.flush()
        image = self.memory.show(pieces[0][0], size)
        image.zero()
        self.graph.make_golden(block, image)
        self.memory.hide(image)
        block.free()
        space.unmap_vram(va, pieces[0][1])
        space.flush()
        space.close()
        for at, length in pieces:
            self.vram.free(at, length)

    def _on_fault(self, instance: int, number: int, fault: Fault) -> None:
        with self.lock:
            for channel in list(self._channels.values()):
                if channel.fault is None and (channel.block.address == instance or channel.number == number):
                    channel.fault = fault
                    try:
                        self.fifo.stop(channel.number)
                    except DeviceTimeout as error:
                        channel.fault = Fault(fault.kind, fault.address, f"{fault.detail}; then {error}")


__all__ = ["Driver", "DriverError"]

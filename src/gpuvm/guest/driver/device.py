"""The kernel driver: probes the first GF100 of a machine, brings it up, hands out contexts, takes everything
back."""

from __future__ import annotations

import threading

from gpuvm.guest.driver.backend import Backend, HardwareBackend
from gpuvm.guest.driver.channel import Channel
from gpuvm.guest.driver.context import GpuContext
from gpuvm.guest.driver.errors import DeviceTimeout, DriverError, Fault, NoDevice
from gpuvm.guest.driver.function import Function, find_gpu
from gpuvm.guest.driver.hardware import CHIPSET_GF100, Reg
from gpuvm.guest.driver.host import HostBuffer, RegisteredBuffer
from gpuvm.guest.driver.para import CallDevice
from gpuvm.guest.driver.split import SplitBackend
from gpuvm.guest.machine import Machine
from gpuvm.paravirt.abi import SPLIT


class Driver:
    """The GPU's kernel driver in one machine.

    Parameters
    ----------
    machine : Machine
        Whose first PCI device 10de:06d8 is taken over.

    Attributes
    ----------
    backend : Backend
        The way to the GPU; what kind, the device says.
    copy_engine : bool
        Whether PCOPY0 is there.
    bytes_staged : int
        Bytes of pageable memory that the CPU copied into or out of page-locked memory so far.

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
        self.bytes_staged = 0
        self.host_buffers: dict[int, HostBuffer] = {}
        self._channels: dict[int, Channel] = {}
        self.function = Function(find_gpu(machine.devices))
        boot = self.function.read(Reg.PMC_BOOT_0)
        if boot >> 20 & 0xFFF != CHIPSET_GF100:
            raise NoDevice(f"PMC_BOOT_0 must name chipset {CHIPSET_GF100:03x} (GF100); it reads {boot:#010x}")
        self.function.enable()
        calls = CallDevice.probe(self.function, machine)
        self.backend: Backend
        if calls is not None and calls.operations >= SPLIT:
            self.backend = SplitBackend(self.function, calls, self._on_fault)
        else:
            self.backend = HardwareBackend(self.function, calls, self._on_fault)
        self.vram, self.fifo, self.graph = self.backend.vram, self.backend.fifo, self.backend.graph
        self.interrupts = self.backend.interrupts
        self.copy_engine = self.backend.copy_engine
        machine.on_interrupt(self.function.device, self.interrupts.line.top_half)
        self.backend.start()
        self.interrupts.enable()
        self.idle_vram = self.vram.used_bytes
        self.idle_ram = machine.pages.used_bytes

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
        channel.block.start()

    def remove_channel(self, channel: Channel, kill: bool = False) -> None:
        """Take a channel off the playlist for good."""
        if channel.fault is None:
            self.fifo.stop(channel.number, kill)
        self.fifo.remove(channel.number)
        self._channels.pop(channel.number, None)

    def close(self) -> None:
        """Destroy the contexts and quiesce the device."""
        with self.lock:
            for context in list(self.contexts):
                context.close(kill=True)
            for buffer in list(self.host_buffers.values()):
                self.free_host(buffer)
            self.interrupts.disable()
            self.machine.on_interrupt(self.function.device, None)
            self.backend.close()
            self.function.disable()

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

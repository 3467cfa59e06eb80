"""Any `PciDevice` as an endpoint that a vfio-user server hands to clients.

BARs and configuration space become regions that are only read and written. Nothing is mappable: BAR1, BAR3
and PRAMIN of a GPU are translated apertures, and QEMU stops posting writes once it may map anything. The
client's memory becomes the `BusMemory` that the device's DMA reaches.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from gpuvm.pci.device import PciDevice
from gpuvm.pci.memory import BusMemory, DmaError, MemoryRegion
from gpuvm.vmm.vfio_user.dma import DmaMap, DmaTable
from gpuvm.vmm.vfio_user.errors import DmaFault
from gpuvm.vmm.vfio_user.interrupts import Interrupts
from gpuvm.vmm.vfio_user.protocol import IrqIndex, Limits, RegionIndex
from gpuvm.vmm.vfio_user.regions import ABSENT, Region
from gpuvm.vmm.vfio_user.session import Endpoint

CONFIG_SIZE = 256
STATUS, CAPABILITIES, INTERRUPT_PIN = 0x06, 0x34, 0x3D
_STATUS_CAPABILITIES = 0x10
CAP_MSI, CAP_MSIX = 0x05, 0x11
_MOST_CAPABILITIES = 48


class ClientMemory(MemoryRegion):
    """Memory that a client shares. It goes with its last user: a thread of the device may still be in it when
    the client takes it away.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self._keeps = False
        super().__init__(size, "client", fd=fd, offset=offset)
        self._keeps = True

    def release(self) -> None:
        """Nothing to do, see above."""

    def __del__(self) -> None:
        if self._keeps and self.fd >= 0:
            os.close(self.fd)


class ClientBus(BusMemory):
    """The bus that the device's DMA reaches: the memory that the client shares; by `read` and `write` also
    what takes messages to the client.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = DmaTable()

    def use(self, limits: Limits) -> DmaTable:
        """Make the table of maps that fills this bus."""
        self.table = DmaTable(limits, ClientMemory, self._mapped, self._unmapped)
        return self.table

    def _mapped(self, made: DmaMap) -> None:
        if isinstance(made.memory, ClientMemory):
            self.add(made.address, made.memory)

    def _unmapped(self, gone: DmaMap) -> None:
        if isinstance(gone.memory, ClientMemory):
            self.remove(gone.address)

    def read(self, address: int, size: int) -> bytes:
        try:
            return self.table.read(address, size)
        except DmaFault as fault:
            raise DmaError(fault.address) from fault

    def write(self, address: int, data: bytes | memoryview) -> None:
        try:
            self.table.write(address, data)
        except DmaFault as fault:
            raise DmaError(fault.address) from fault


def endpoint(
    device: PciDevice, limits: Limits | None = None, gone: Callable[[], None] = lambda: None
) -> Endpoint:
    """Plug a device into a bus and interrupts that clients provide later, and describe it to them.

    Parameters
    ----------
    device : PciDevice
        Stays its owner's; connected here.
    limits : Limits, optional
    gone : callable
        See `Endpoint`.
    """
    limits = limits or Limits()
    bus = ClientBus()
    table = bus.use(limits)
    interrupts = Interrupts(vectors(device))
    regions = [ABSENT] * len(RegionIndex)
    for bar in device.bars:
        regions[bar.index] = Region(
            bar.size,
            partial(device.read, bar.index),
            partial(device.write, bar.index),
            partial(_read_bar, device, bar.index),
            partial(_write_bar, device, bar.index),
            write_run=partial(device.write_block, bar.index) if bar.prefetchable else None,
        )
    regions[RegionIndex.CONFIG] = Region(
        CONFIG_SIZE,
        device.config_read,
        device.config_write,
        partial(_read_config, device),
        partial(_write_config, device),
    )
    device.connect(bus, interrupts)
    return Endpoint(regions, interrupts, table, device.reset, gone, limits)


def vectors(device: PciDevice) -> dict[IrqIndex, int]:
    """Count the interrupts of a device from its configuration space."""
    counts = {IrqIndex.INTX: 1 if device.config_read(INTERRUPT_PIN, 1) else 0}
    if not device.config_read(STATUS, 2) & _STATUS_CAPABILITIES:
        return counts
    at = device.config_read(CAPABILITIES, 1) & 0xFC
    for _ in range(_MOST_CAPABILITIES):
        if not at:
            break
        kind, control = device.config_read(at, 1), device.config_read(at + 2, 2)
        if kind == CAP_MSI:
            counts[IrqIndex.MSI] = 1 << min(control >> 1 & 7, 5)
        elif kind == CAP_MSIX:
            counts[IrqIndex.MSIX] = (control & 0x7FF) + 1
        at = device.config_read(at + 1, 1) & 0xFC
    return counts


def _pieces(offset: int, length: int) -> tuple[int, int, int]:
    """Bytes before the first whole word, in whole words, and behind them."""
    before = min(-offset % 4, length)
    middle = (length - before) & ~3
    return before, middle, length - before - middle


def _read_bar(device: PciDevice, bar: int, offset: int, length: int) -> bytes:
    before, middle, behind = _pieces(offset, length)
    head = bytes(device.read(bar, offset + at, 1) for at in range(before))
    offset += before
    body = device.read_block(bar, offset, middle, 4) if middle else b""
    offset += middle
    return head + body + bytes(device.read(bar, offset + at, 1) for at in range(behind))


def _write_bar(device: PciDevice, bar: int, offset: int, data: bytes) -> None:
    before, middle, _ = _pieces(offset, len(data))
    for at in range(before):
        device.write(bar, offset + at, 1, data[at])
    if middle:
        device.write_block(bar, offset + before, data[before : before + middle], 4)
    for at in range(before + middle, len(data)):
        device.write(bar, offset + at, 1, data[at])


def _read_config(device: PciDevice, offset: int, length: int) -> bytes:
    return bytes(device.config_read(offset + at, 1) for at in range(length))


def _write_config(device: PciDevice, offset: int, data: bytes) -> None:
    for at, byte in enumerate(data):
        device.config_write(offset + at, 1, byte)

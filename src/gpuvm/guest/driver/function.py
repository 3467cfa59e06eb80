"""One PCI function as a driver holds it: register access by BAR, config space, capabilities, waiting for a
register."""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpuvm.guest.driver.errors import DeviceTimeout, NoDevice
from gpuvm.guest.driver.hardware import DEVICE_GF100, VENDOR_NVIDIA
from gpuvm.pci.device import PciDevice

CONFIG_COMMAND, CONFIG_STATUS, CONFIG_CAPABILITIES = 0x04, 0x06, 0x34
COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE = 1 << 1, 1 << 2, 1 << 10
CAPABILITY_MSI = 0x05
MSI_ADDRESS, MSI_DATA = 0xFEE00000, 0x0041


def find_gpu(devices: Sequence[PciDevice]) -> PciDevice:
    """Return the first GF100 of a machine.

    Raises
    ------
    NoDevice
        If there is none.
    """
    for device in devices:
        if device.config_read(0, 4) == DEVICE_GF100 << 16 | VENDOR_NVIDIA:
            return device
    raise NoDevice(
        f"the machine must have a PCI device {VENDOR_NVIDIA:04x}:{DEVICE_GF100:04x} (GF100); "
        f"none of its {len(devices)} devices is one: plug a GPU or a virtual GPU in"
    )


class Function:
    """The GPU's PCI function."""

    def __init__(self, device: PciDevice, patience: float = 10.0) -> None:
        self.device = device
        self.patience = patience
        self.bar_sizes = {bar.index: bar.size for bar in device.bars}
        self._read = device.read
        self._write = device.write

    def read(self, offset: int) -> int:
        """Read a 32-bit BAR0 register."""
        return self._read(0, offset, 4)

    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit BAR0 register."""
        self._write(0, offset, 4, value & 0xFFFFFFFF)

    def mask(self, offset: int, clear: int, set_: int) -> int:
        """Read-modify-write; returns what was read."""
        old = self._read(0, offset, 4)
        self._write(0, offset, 4, old & ~clear & 0xFFFFFFFF | set_)
        return old

    def wait(self, offset: int, mask: int, value: int, what: str, patience: float = 0.0) -> int:
        """Poll a register until `register & mask == value`; returns the register.

        Raises
        ------
        DeviceTimeout
            If that does not come within the driver's patience.
        """
        deadline = 0.0
        while True:
            now = self._read(0, offset, 4)
            if now & mask == value:
                return now
            if not deadline:
                deadline = time.monotonic() + (patience or self.patience)
            elif time.monotonic() > deadline:
                raise DeviceTimeout(
                    f"{what}: register {offset:#08x} must become {value:#x} under mask {mask:#x} "
                    f"within {patience or self.patience:g} s; it reads {now:#x}"
                )
            time.sleep(0.00005)

    def enable(self) -> None:
        """Switch on memory decoding, bus mastering and MSI (INTx stays the fallback of a function without
        MSI)."""
        device = self.device
        command = device.config_read(CONFIG_COMMAND, 2) | COMMAND_MEMORY | COMMAND_MASTER
        msi = self.capability(CAPABILITY_MSI)
        if msi:
            control = device.config_read(msi + 2, 2)
            device.config_write(msi + 4, 4, MSI_ADDRESS)
            if control & 0x80:
                device.config_write(msi + 8, 4, 0)
                device.config_write(msi + 12, 2, MSI_DATA)
            else:
                device.config_write(msi + 8, 2, MSI_DATA)
            device.config_write(msi + 2, 2, control & ~0x70 | 1)
            command |= COMMAND_INTX_DISABLE
        device.config_write(CONFIG_COMMAND, 2, command)

    def disable(self) -> None:
        """Switch MSI and bus mastering off."""
        device = self.device
        msi = self.capability(CAPABILITY_MSI)
        if msi:
            device.config_write(msi + 2, 2, device.config_read(msi + 2, 2) & ~1)
        command = device.config_read(CONFIG_COMMAND, 2)
        device.config_write(CONFIG_COMMAND, 2, command & ~COMMAND_MASTER)

    def capability(self, kind: int) -> int:
        """Return the config offset of a capability, 0 if the function has none."""
        device = self.device
        if not device.config_read(CONFIG_STATUS, 2) & 0x10:
            return 0
        at = device.config_read(CONFIG_CAPABILITIES, 1) & 0xFC
        for _ in range(48):
            if not at:
                break
            if device.config_read(at, 1) == kind:
                return at
            at = device.config_read(at + 1, 1) & 0xFC
        return 0

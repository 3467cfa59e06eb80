"""PCI configuration space of one function: header, BAR sizing, power management and MSI capabilities.

Layout: PCI Local Bus 3.0, type 0 header. Used by the software GPU and by every virtual GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gpuvm.pci.device import Bar

SIZE = 256
COMMAND, STATUS, INTERRUPT_LINE = 0x04, 0x06, 0x3C
BAR0 = 0x10
POWER, MSI = 0x60, 0x68

MEMORY_ENABLE, BUS_MASTER, INTX_DISABLE = 0x0002, 0x0004, 0x0400
_INTX_PENDING = 0x0008
_MSI_ENABLE = 0x0001


class ConfigSpace:
    """256 bytes of configuration space with a write mask for each.

    Parameters
    ----------
    vendor, device, subsystem_vendor, subsystem, revision : int
        Identification.
    class_code : int
        24 bits: base class, sub-class, programming interface.
    bars : sequence of Bar
        Memory BARs, their sizes answered to the all-ones probe.
    kept : sequence of int
        Offsets of words that keep what is written and mean nothing here.
    changed : callable, optional
        Called after a write that may move the interrupt between MSI and INTx, or enable it.

    Notes
    -----
    Accesses may have any size and alignment inside the space; reads outside give all ones, writes outside are
    dropped.
    """

    def __init__(
        self,
        *,
        vendor: int,
        device: int,
        class_code: int,
        bars: Sequence[Bar],
        subsystem_vendor: int = 0,
        subsystem: int = 0,
        revision: int = 0xA3,
        kept: Sequence[int] = (),
        changed: Callable[[], None] | None = None,
    ) -> None:
        self.bars = tuple(bars)
        self._changed = changed
        self._initial = bytearray(SIZE)
        self._mask = bytearray(SIZE)
        put = self._put
        put(0x00, vendor | device << 16, 0)
        put(COMMAND, 0x0010_0000, MEMORY_ENABLE | BUS_MASTER | INTX_DISABLE | 0x0100)
        put(0x08, revision | class_code << 8, 0)
        put(0x0C, 0, 0xFFFF)
        for bar in self.bars:
            size_mask = ~(bar.size - 1) & (0xFFFFFFFF_FFFFFFFF if bar.is_64bit else 0xFFFFFFFF)
            flags = (4 if bar.is_64bit else 0) | (8 if bar.prefetchable else 0)
            put(BAR0 + 4 * bar.index, flags, size_mask & 0xFFFFFFF0)
            if bar.is_64bit:
                put(BAR0 + 4 * bar.index + 4, 0, size_mask >> 32)
        put(0x2C, subsystem_vendor | subsystem << 16, 0)
        put(0x34, POWER, 0)
        put(INTERRUPT_LINE, 0x0000_0100, 0xFF)
        put(POWER, 0x0003_0001 | MSI << 8, 0)  # version 3, D0 and D3hot only
        put(POWER + 4, 0x0000_0008, 0x0003)
        put(MSI, 0x0080_0005, 0x0001_0000)  # one vector, 64-bit address
        put(MSI + 4, 0, 0xFFFFFFFC)
        put(MSI + 8, 0, 0xFFFFFFFF)
        put(MSI + 12, 0, 0xFFFF)
        for offset in kept:
            put(offset, 0, 0xFFFFFFFF)
        self._bytes = bytearray(self._initial)

    def _put(self, offset: int, value: int, mask: int) -> None:
        self._initial[offset : offset + 4] = value.to_bytes(4, "little")
        self._mask[offset : offset + 4] = mask.to_bytes(4, "little")

    def read(self, offset: int, size: int) -> int:
        """Read `size` bytes, little-endian."""
        if offset < 0 or offset + size > SIZE:
            return (1 << 8 * size) - 1
        return int.from_bytes(self._bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write `size` bytes, little-endian; read-only bits keep their value."""
        if offset < 0 or offset + size > SIZE:
            return
        for at, byte in enumerate((value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), offset):
            mask = self._mask[at]
            self._bytes[at] = (self._bytes[at] & ~mask & 0xFF) | (byte & mask)
        if self._changed is not None and (offset < 8 or offset + size > POWER):
            self._changed()

    def reset(self) -> None:
        """Back to the values after power-on; BARs and enables are cleared."""
        self._bytes[:] = self._initial

    @property
    def memory_enabled(self) -> bool:
        """Whether the function answers accesses to its BARs."""
        return bool(self._bytes[COMMAND] & MEMORY_ENABLE)

    @property
    def bus_master(self) -> bool:
        """Whether the function may do DMA and send messages."""
        return bool(self._bytes[COMMAND] & BUS_MASTER)

    @property
    def msi_enabled(self) -> bool:
        return bool(self._bytes[MSI + 2] & _MSI_ENABLE)

    @property
    def intx_enabled(self) -> bool:
        return not self.msi_enabled and not self.read(COMMAND, 2) & INTX_DISABLE

    def address(self, index: int) -> int:
        """Bus address that software gave to BAR `index`."""
        bar = next(each for each in self.bars if each.index == index)
        return self.read(BAR0 + 4 * index, 8 if bar.is_64bit else 4) & ~0xF

    def show_intx(self, pending: bool) -> None:
        """Set the interrupt-pending bit of the status register."""
        status = self._bytes[STATUS] & ~_INTX_PENDING
        self._bytes[STATUS] = status | (_INTX_PENDING if pending else 0)

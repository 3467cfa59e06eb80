"""What everything that plugs into a virtual machine looks like: the software GPU and every virtual GPU are a
`PciDevice`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gpuvm.pci.memory import BusMemory


@dataclass(frozen=True, slots=True)
class Bar:
    """One base address register.

    Attributes
    ----------
    index : int
        Number of the register in config space, 0 to 5. A 64-bit BAR takes `index` and `index + 1`.
    size : int
        Bytes, a power of two.
    """

    index: int
    size: int
    is_64bit: bool = False
    prefetchable: bool = False


class InterruptSink(Protocol):
    """Where a device's interrupts go: the virtual machine that it is plugged into."""

    def message(self, vector: int) -> None:
        """Deliver MSI vector `vector` (edge)."""

    def level(self, asserted: bool) -> None:
        """Set the level of the INTx line."""


class PciDevice(Protocol):
    """A PCI function: config space, BARs accessed by size, DMA to the machine's memory, an interrupt, reset.

    Accesses are little-endian and `size` is 1, 2, 4 or 8 bytes. Values are unsigned. No method raises on
    anything a guest can do: an access that nothing answers reads 0 (all ones in absent config space) and is
    dropped on write. Methods may be called from several threads.
    """

    @property
    def bars(self) -> Sequence[Bar]:
        """The BARs that this function implements."""

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        """Plug the device in: `memory` is what its DMA reaches, `interrupts` who hears it."""

    def config_read(self, offset: int, size: int) -> int: ...

    def config_write(self, offset: int, size: int, value: int) -> None: ...

    def read(self, bar: int, offset: int, size: int) -> int: ...

    def write(self, bar: int, offset: int, size: int, value: int) -> None: ...

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        """Read `length` bytes as a run of accesses of `width` bytes each (what a CPU's memcpy does); counted
        as such.
        """

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        """Write `data` as a run of accesses of `width` bytes each; counted as such."""

    def reset(self) -> None:
        """Function-level reset: registers as after power-on."""

    def close(self) -> None:
        """Release host resources (threads, memory)."""


@runtime_checkable
class Remappable(Protocol):
    """A device that can show pages of its BARs as memory, if the machine can map and unmap them while its
    guest runs. Until it is told so every access must reach the device."""

    def map_directly(self, possible: bool) -> None:
        """Say whether the machine that the device is plugged into can."""

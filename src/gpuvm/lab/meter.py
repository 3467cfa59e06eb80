"""A `PciDevice` that counts the accesses to the one behind it: how native and pass-through runs, where no
hypervisor sees an access, still know how many there were.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuvm.pci.device import Bar, InterruptSink, PciDevice
from gpuvm.pci.memory import BusMemory


class Meter:
    """`device` with its BAR accesses counted as a CPU makes them, each of at most 8 bytes.

    Attributes
    ----------
    reads, writes : list of int
        Accesses by number of the BAR (0 to 5).
    bytes_read, bytes_written : list of int
        Bytes by number of the BAR.
    interrupts : int
        Messages, and rising edges of the line.
    """

    def __init__(self, device: PciDevice) -> None:
        self.device = device
        self.reads = [0] * 6
        self.writes = [0] * 6
        self.bytes_read = [0] * 6
        self.bytes_written = [0] * 6
        self.interrupts = 0

    def counters(self) -> dict[str, float]:
        """Counts by name: `direct_bar0_read`, `direct_bar0_write`, `direct_bar0_bytes_read`, …,
        `interrupts`.
        """
        counts: dict[str, float] = {"interrupts": self.interrupts}
        for bar in sorted({bar.index for bar in self.device.bars}):
            counts[f"direct_bar{bar}_read"] = self.reads[bar]
            counts[f"direct_bar{bar}_write"] = self.writes[bar]
            counts[f"direct_bar{bar}_bytes_read"] = self.bytes_read[bar]
            counts[f"direct_bar{bar}_bytes_written"] = self.bytes_written[bar]
        return counts

    @property
    def bars(self) -> Sequence[Bar]:
        return self.device.bars

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        self.device.connect(memory, _CountedPin(self, interrupts))

    def config_read(self, offset: int, size: int) -> int:
        return self.device.config_read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.device.config_write(offset, size, value)

    def read(self, bar: int, offset: int, size: int) -> int:
        self.reads[bar] += 1
        self.bytes_read[bar] += size
        return self.device.read(bar, offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.writes[bar] += 1
        self.bytes_written[bar] += size
        self.device.write(bar, offset, size, value)

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        self.reads[bar] += -(-length // width)
        self.bytes_read[bar] += length
        return self.device.read_block(bar, offset, length, width)

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        self.writes[bar] += -(-len(data) // width)
        self.bytes_written[bar] += len(data)
        self.device.write_block(bar, offset, data, width)

    def reset(self) -> None:
        self.device.reset()

    def close(self) -> None:
        self.device.close()


class _CountedPin:
    """The machine's interrupt pin with what arrives counted."""

    def __init__(self, meter: Meter, pin: InterruptSink) -> None:
        self._meter = meter
        self._pin = pin
        self._asserted = False

    def message(self, vector: int) -> None:
        self._meter.interrupts += 1
        self._pin.message(vector)

    def level(self, asserted: bool) -> None:
        self._meter.interrupts += asserted and not self._asserted
        self._asserted = asserted
        self._pin.level(asserted)

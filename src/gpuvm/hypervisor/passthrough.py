"""Pass-through: one VM has the physical GPU for itself, and the hypervisor only forwards. The VM's RAM is
the GPU's bus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.virtual import VirtualGpu
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import BusMemory

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator


class PassthroughGpu(VirtualGpu):
    """The physical GPU under another name. Nothing traps; accesses are counted as direct ones."""

    mode = "passthrough"

    def __init__(self, aggregator: Aggregator, number: int, name: str) -> None:
        super().__init__(number, name, Counters())
        self._aggregator = aggregator
        self._device = aggregator.gpu.device
        self._gone = False
        self._device.reset()

    @property
    def bars(self) -> Sequence[Bar]:
        return self._device.bars

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        if not self._gone:
            self._device.connect(memory, interrupts)

    def config_read(self, offset: int, size: int) -> int:
        self.counters.config_accesses += 1
        return (1 << 8 * size) - 1 if self._gone else self._device.config_read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.counters.config_accesses += 1
        if not self._gone:
            self._device.config_write(offset, size, value)

    def read(self, bar: int, offset: int, size: int) -> int:
        self.counters.direct_accesses += 1
        self.counters.direct_bytes += size
        return 0 if self._gone else self._device.read(bar, offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.counters.direct_accesses += 1
        self.counters.direct_bytes += size
        if not self._gone:
            self._device.write(bar, offset, size, value)

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        self.counters.direct_accesses += -(-length // width)
        self.counters.direct_bytes += length
        return bytes(length) if self._gone else self._device.read_block(bar, offset, length, width)

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        self.counters.direct_accesses += -(-len(data) // width)
        self.counters.direct_bytes += len(data)
        if not self._gone:
            self._device.write_block(bar, offset, data, width)

    def reset(self) -> None:
        if not self._gone:
            self._device.reset()

    def release(self) -> bool:
        self._gone = True
        self._device.reset()
        self._aggregator.gpu.vram.zero(0, self._aggregator.gpu.vram.size)
        return True

"""What stands between the driver and its GPU: memory, address spaces, channels, units, interrupts.

`HardwareBackend` drives the GPU's registers and writes its tables itself, or passes page tables to a hypervisor
that wants them by calls; `gpuvm.guest.driver.split` leaves all of that to the hypervisor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from gpuvm.guest.driver.errors import Fault
from gpuvm.guest.driver.fifo import Fifo, write_context
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.graph import Graph
from gpuvm.guest.driver.hardware import ENABLE_COPY0, INSTANCE_SIZE, Reg
from gpuvm.guest.driver.instance import InstanceMemory, Vram, vram_ranges
from gpuvm.guest.driver.interrupts import Interrupts
from gpuvm.guest.driver.para import CallDevice, hypercall_tables
from gpuvm.guest.driver.space import AddressSpace, Space
from gpuvm.guest.driver.tables import HardwareTables, Tables

if TYPE_CHECKING:
    from gpuvm.guest.driver.context import DeviceBuffer

OnFault = Callable[[int, int, Fault], None]


class Memory(Protocol):
    """Video memory as the driver accounts for it."""

    @property
    def total(self) -> int: ...

    @property
    def free_bytes(self) -> int: ...

    @property
    def used_bytes(self) -> int: ...

    def allocate_pieces(self, size: int) -> list[tuple[int, int]]:
        """Return pieces (name, bytes) that `AddressSpace.map_vram` takes; `OutOfMemory` if there is not so
        much."""

    def free(self, address: int, size: int) -> None:
        """Give a piece back."""


class Units(Protocol):
    """PGRAPH as programs see it."""

    context_size: int

    @property
    def multiprocessors(self) -> int: ...


class Block(Protocol):
    """A channel's instance block."""

    @property
    def address(self) -> int:
        """What a fault report names it by."""

    def set_context(self, buffer: DeviceBuffer, offset: int) -> None:
        """Give the channel a fresh graphics context in a mapped buffer."""

    def start(self) -> None:
        """Put the channel on the playlist."""

    def free(self) -> None: ...


class Channels(Protocol):
    """PFIFO as contexts use it; see `fifo.Fifo`."""

    @property
    def channels_in_use(self) -> int: ...

    def take_number(self) -> int: ...

    def doorbell(self, number: int) -> Callable[[int], None]: ...

    def new_block(self, number: int, space: Space, ring: int, entries: int) -> Block: ...

    def stop(self, number: int, kill: bool = False) -> None: ...

    def remove(self, number: int) -> None: ...


class Backend(Protocol):
    """A way to the GPU."""

    @property
    def vram(self) -> Memory: ...

    @property
    def fifo(self) -> Channels: ...

    @property
    def graph(self) -> Units: ...

    @property
    def interrupts(self) -> Interrupts: ...

    @property
    def copy_engine(self) -> bool: ...

    def new_space(self) -> Space:
        """Make an address space."""

    def start(self) -> None:
        """Bring the GPU up, when interrupts can be received."""

    def close(self) -> None:
        """Quiesce it; nothing is in use any more."""


class HardwareBackend:
    """The GPU's own registers.

    Parameters
    ----------
    calls : CallDevice or None
        The hypervisor's, if it wants page tables by calls.
    """

    def __init__(self, function: Function, calls: CallDevice | None, on_fault: OnFault) -> None:
        self.function = function
        self._calls = calls
        self.vram = Vram(vram_ranges(function))
        self.tables: Tables
        if calls is None:
            self.memory = InstanceMemory(function, self.vram)
            self.tables = HardwareTables(self.memory)
        else:
            self.tables = hypercall_tables(calls)
            self.memory = InstanceMemory(function, self.vram, self.tables.window)
        self.fifo = Fifo(function, self.memory, self.tables)
        self.graph = Graph(function)
        self.interrupts = Interrupts(function, self.graph.shape, self.fifo.subfifos, on_fault)
        # Not by the fuses: they hide the engine from drivers that would ask it for what it cannot do.
        self.copy_engine = function.read(Reg.PCOPY0_MEMORY) != 0

    def start(self) -> None:
        if self.copy_engine:
            self.function.mask(Reg.PMC_ENABLE, 0, ENABLE_COPY0)
        self.graph.start()
        self._make_golden()

    def new_space(self) -> AddressSpace:
        return AddressSpace(self.tables)

    def close(self) -> None:
        self.fifo.close()
        self.memory.close()
        if self._calls is not None:
            self._calls.close()

    def _make_golden(self) -> None:
        """Bind a channel that never runs and let PGRAPH fill its context with the initial state."""
        size = self.graph.context_size
        space = self.new_space()
        pieces = self.vram.allocate_pieces(size)
        va = space.map_vram(pieces)
        block = self.memory.allocate(INSTANCE_SIZE)
        block.write(0x200, space.directory_address.to_bytes(8, "little"))
        block.write(0x208, ((1 << 40) - 1).to_bytes(8, "little"))
        write_context(block, va)
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
        self.fifo.golden = self.graph.golden

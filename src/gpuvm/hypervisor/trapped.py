"""A virtual GPU whose every access traps: BAR0 by the policy's table, PRAMIN, BAR1 and BAR3 into the guest's
own video memory.

The techniques (`gpuvm.hypervisor.full`) say what the translated registers do; here is what they have in
common with each other.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import structlog

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.barriers import Barriers
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.engines import VirtualEngines
from gpuvm.hypervisor.partition import Range
from gpuvm.hypervisor.physical import PhysicalGpu
from gpuvm.hypervisor.policy import Action, Rule, frozen
from gpuvm.hypervisor.shadow import BarTable
from gpuvm.hypervisor.virtual import InterruptPin, VirtualGpu, copy_identity
from gpuvm.hypervisor.windows import Window
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import PAGE, BusMemory

log = structlog.get_logger(__name__)

Reader = Callable[[int], int]
Writer = Callable[[int, int], None]

BAR0_SIZE = 16 << 20
PRAMIN = 0x700000
PRAMIN_SIZE = 0x100000
PRAMIN_WINDOW = 0x001700
PRAMIN_TARGET = 0x3000000
MSI_REARM = 0x704
GP_PUT = 0x8C
"""The doorbell in a channel's page of the poll area."""
SMALL_LARGE_PAGES = 1
"""Of 0x100c80: large pages have 64 KiB instead of 128."""

NAMED_LIMIT = 256
"""Different denied offsets that a VM's log names; later ones are only counted."""


@cache
def _policy() -> list[list[Rule | None]]:
    return frozen(BAR0_SIZE)


class GuestBar:
    """One translated aperture of a guest: its instance block, and its table as of the last flush.

    Attributes
    ----------
    instance : int or None
        Guest VRAM address of the instance block.
    directory, limit : int
        What the instance block said when it was last read.
    """

    def __init__(self, table: BarTable) -> None:
        self.table = table
        self.instance: int | None = None
        self.directory = 0
        self.limit = 0


class TrappedGpu(VirtualGpu):
    """A virtual GPU on whose BARs every access ends in the hypervisor.

    Parameters
    ----------
    part : Range
        The guest's bytes of video memory.
    window : int
        Bus address of its RAM on the machine's bus.
    channels : int
        Pages of its poll area.
    """

    own_bars: Sequence[Bar] = ()
    """BARs that a technique adds to the physical GPU's."""

    def __init__(
        self, number: int, name: str, gpu: PhysicalGpu, part: Range, window: int, channels: int
    ) -> None:
        super().__init__(number, name, Counters())
        self._gpu = gpu
        self._gone = False
        self._config = copy_identity(gpu.device, (*gpu.device.bars, *self.own_bars))
        self._pin = InterruptPin(self._config, self.counters)
        self.engines = VirtualEngines(gpu, self.counters, self._set_pin, self._reset_engines, self._is_busy)
        self.memory = GuestMemory(gpu.vram, part, window)
        self.barriers = Barriers(self.memory)
        self.barriers.changed = self._barriers_changed
        self._guarded = self.barriers.pages
        sizes = {bar.index: bar.size for bar in self._config.bars}
        self._bars = {index: GuestBar(self._make_bar_table(index, sizes[index])) for index in (1, 3)}
        self._frames1 = self._bars[1].table.frames
        self._frames3 = self._bars[3].table.frames
        self._poll = -1
        """Offset in BAR1 of the poll area, -1 if there is none."""
        self._poll_size = channels << 12
        self._base = part.base
        self._bytes = gpu.vram.bytes.data
        self._words = gpu.vram.words.data
        self._quads = gpu.vram.bytes.view(np.uint64).data
        self.windows = {
            index: Window(index, bar.table, self.barriers, self.counters, self.maps_ranges)
            for index, bar in self._bars.items()
        }
        self._named: set[int] = set()
        self._reads, self._writes = self._wire()

    # What a technique adds

    @abstractmethod
    def _attach(self, memory: BusMemory) -> None:
        """The VM's memory is known: let the GPU reach it."""

    @abstractmethod
    def _read_poll(self, poll: int, offset: int, size: int) -> int:
        """Read the poll area, at `poll` from its start and `offset` in BAR1."""

    @abstractmethod
    def _write_poll(self, poll: int, offset: int, size: int, value: int) -> None:
        """Write the poll area; a doorbell is one such write."""

    @abstractmethod
    def _reset_engines(self, bits: int) -> None:
        """The guest took engines away (bits of PMC.ENABLE)."""

    @abstractmethod
    def _is_busy(self) -> bool:
        """Whether the GPU works for this guest."""

    direct: tuple[int, ...] = ()
    """Apertures whose pages are mapped into the VM, if its machine can do that."""
    maps_ranges = False
    """Whether one call to the VM's monitor maps a range of pages; otherwise each page takes one."""

    def _make_bar_table(self, index: int, size: int) -> BarTable:
        return BarTable(self.memory, size)

    def _barriers_changed(self, physical: int, size: int) -> None:
        """Pages became guarded or were let go: they leave or enter the windows that show them."""
        for index in self.direct:
            self.windows[index].changed(-(-size // PAGE))

    def map_directly(self, possible: bool) -> None:
        """Say whether the machine can map and unmap pages of the BARs while its guest runs."""
        with self.lock:
            for index in self.direct:
                self.windows[index].opened = possible and not self._gone

    def _wire(self) -> tuple[list[list[Reader]], list[list[Writer]]]:
        """Resolve the policy's handlers: by page of BAR0 and word, functions of (offset) and (offset,
        value)."""
        known: dict[int, tuple[Reader, Writer]] = {}

        def handlers(rule: Rule | None) -> tuple[Reader, Writer]:
            key = id(rule)
            if key not in known:
                how = "denied" if rule is None or rule.action is Action.DENIED else rule.how
                known[key] = (self._handler(f"read_{how}"), self._handler(f"write_{how}"))
            return known[key]

        pages: dict[int, tuple[list[Reader], list[Writer]]] = {}
        reads, writes = [], []
        for page in _policy():
            if id(page) not in pages:
                pairs = [handlers(rule) for rule in page]
                pages[id(page)] = ([pair[0] for pair in pairs], [pair[1] for pair in pairs])
            reads.append(pages[id(page)][0])
            writes.append(pages[id(page)][1])
        return reads, writes

    def _handler(self, name: str) -> Any:
        """A handler of the technique or, if it has none of that name, of the engines."""
        return getattr(self, name, None) or getattr(self.engines, name)

    # PciDevice

    @property
    def bars(self) -> Sequence[Bar]:
        return self._config.bars

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        with self.lock:
            if self._gone:
                return
            self.memory.bus = memory
            self._attach(memory)
            self._pin.connect(interrupts)

    def config_read(self, offset: int, size: int) -> int:
        self.counters.config_accesses += 1
        return self._config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        with self.lock:
            self.counters.config_accesses += 1
            self._config.write(offset, size, value)
            self._pin.update()

    def read(self, bar: int, offset: int, size: int) -> int:
        counters = self.counters
        with self.lock:
            if bar in self.direct and (address := self.windows[bar].address(offset, size)) >= 0:
                self.windows[bar].count_read(size, size)
                if size == 4 and not offset & 3:
                    word: int = self._words[address >> 2]
                    return word
                return int.from_bytes(self._bytes[address : address + size], "little")
            if bar == 0:
                counters.traps_bar0_read += 1
                counters.bytes_bar0_read += size
                if size == 4 and not offset & 3 and 0 <= offset < BAR0_SIZE:
                    return self._reads[offset >> 12][offset >> 2 & 0x3FF](offset)
                return self._read_odd(offset, size)
            if bar == 3:
                counters.traps_bar3_read += 1
                counters.bytes_bar3_read += size
                return self._read_aperture(self._frames3, offset, size)
            if bar == 1:
                counters.traps_bar1_read += 1
                counters.bytes_bar1_read += size
                poll = offset - self._poll
                if self._poll >= 0 and 0 <= poll < self._poll_size:
                    return self._read_poll(poll, offset, size)
                return self._read_aperture(self._frames1, offset, size)
            return self._read_own(bar, offset, size)

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        counters = self.counters
        value &= (1 << 8 * size) - 1
        with self.lock:
            if bar in self.direct and (address := self.windows[bar].address(offset, size)) >= 0:
                self.windows[bar].count_write(size, size)
                self._bytes[address : address + size] = value.to_bytes(size, "little")
                return
            if bar == 0:
                counters.traps_bar0_write += 1
                counters.bytes_bar0_write += size
                if size == 4 and not offset & 3 and 0 <= offset < BAR0_SIZE:
                    self._writes[offset >> 12][offset >> 2 & 0x3FF](offset, value)
                else:
                    self._write_odd(offset, size, value)
            elif bar == 3:
                counters.traps_bar3_write += 1
                counters.bytes_bar3_write += size
                self._write_aperture(self._frames3, offset, size, value)
            elif bar == 1:
                counters.traps_bar1_write += 1
                counters.bytes_bar1_write += size
                poll = offset - self._poll
                if self._poll >= 0 and 0 <= poll < self._poll_size:
                    self._write_poll(poll, offset, size, value)
                else:
                    self._write_aperture(self._frames1, offset, size, value)
            else:
                self._write_own(bar, offset, size, value)

    def _set_pin(self, asserted: bool, rearm: bool) -> None:
        """The interrupt tree of this VM came to a result."""
        self._pin.set(asserted, rearm)

    def nonstall(self, unit: int, value: int) -> None:
        """Work of this VM may be done: the GPU said so without naming anybody."""
        self.engines.nonstall(unit, value)

    def _read_own(self, bar: int, offset: int, size: int) -> int:
        """Read one of `own_bars`."""
        return 0

    def _write_own(self, bar: int, offset: int, size: int, value: int) -> None:
        """Write one of `own_bars`."""

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        with self.lock:
            window = self.windows.get(bar)
            if window is not None and window.opened:
                parts = []
                for at, count, address in window.pieces(offset, length):
                    if address >= 0:
                        window.count_read(count, width)
                        parts.append(bytes(self._bytes[address : address + count]))
                    else:
                        parts.append(self._read_trapped(bar, at, count, width))
                return b"".join(parts)
            return self._read_trapped(bar, offset, length, width)

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        with self.lock:
            window = self.windows.get(bar)
            if window is None or not window.opened:
                self._write_trapped(bar, offset, data, width)
                return
            view = memoryview(data)
            for at, count, address in window.pieces(offset, len(view)):
                part = view[at - offset : at - offset + count]
                if address >= 0:
                    window.count_write(count, width)
                    self._bytes[address : address + count] = part
                else:
                    self._write_trapped(bar, at, bytes(part), width)

    def _read_trapped(self, bar: int, offset: int, length: int, width: int) -> bytes:
        with self.lock:
            if bar == 0 and offset >= PRAMIN and offset + length <= PRAMIN + PRAMIN_SIZE:
                self._count("read", bar, length, width)
                physical = self._window(offset, length)
                if physical is None:
                    return bytes(length)
                self.counters.vram_accesses += -(-length // width)
                return bytes(self._bytes[physical : physical + length])
            if bar == 3 or (bar == 1 and not self._in_poll(offset, length)):
                self._count("read", bar, length, width)
                return self._read_pages(self._frames3 if bar == 3 else self._frames1, offset, length, width)
            return b"".join(
                self.read(bar, at, size).to_bytes(size, "little")
                for at, size in _split(offset, length, width)
            )

    def _write_trapped(self, bar: int, offset: int, data: bytes, width: int) -> None:
        length = len(data)
        with self.lock:
            if bar == 0 and offset >= PRAMIN and offset + length <= PRAMIN + PRAMIN_SIZE:
                self._count("write", bar, length, width)
                physical = self._window(offset, length)
                if physical is not None:
                    self.counters.vram_accesses += -(-length // width)
                    self._bytes[physical : physical + length] = data
                    self._touched(physical, length)
            elif bar == 3 or (bar == 1 and not self._in_poll(offset, length)):
                self._count("write", bar, length, width)
                self._write_pages(self._frames3 if bar == 3 else self._frames1, offset, data, width)
            elif bar == 1:
                self._write_over_poll(offset, data, width)
            else:
                self._write_singly(bar, offset, data, width)

    def _write_singly(self, bar: int, offset: int, data: bytes, width: int) -> None:
        for at, size in _split(offset, len(data), width):
            self.write(bar, at, size, int.from_bytes(data[at - offset : at - offset + size], "little"))

    def _write_over_poll(self, offset: int, data: bytes, width: int) -> None:
        """Write a block of BAR1 that meets the poll area: doorbells one by one, what is between them at
        once."""
        done, end = 0, len(data)
        while done < end:
            at = offset + done
            bell = (at & ~0xFFF) + GP_PUT
            stop = min(end, (at & ~0xFFF) + PAGE - offset)
            if at < bell + 4:
                singly = bell <= at
                stop = min(stop, (bell + 4 if singly else bell) - offset)
            else:
                singly = False
            piece = data[done:stop]
            if singly:
                self._write_singly(1, at, piece, width)
            else:
                self._count("write", 1, len(piece), width)
                self._write_pages(self._frames1, at, piece, width)
            done = stop

    def _die(self) -> None:
        """Answer nothing from now on: the virtual GPU was destroyed."""
        self._gone = True
        self._poll = -1
        for window in self.windows.values():
            window.opened = False
        self._pin.connect(None)
        self.memory.bus = BusMemory()
        self._reads = [[_dead_read] * 0x400] * (BAR0_SIZE >> 12)
        self._writes = [[_dead_write] * 0x400] * (BAR0_SIZE >> 12)

    # Odd sizes and blocks

    def _read_odd(self, offset: int, size: int) -> int:
        value = 0
        first = offset & ~3
        for at in range(first, offset + size, 4):
            if 0 <= at < BAR0_SIZE:
                value |= self._reads[at >> 12][at >> 2 & 0x3FF](at) << 8 * (at - first)
        return value >> 8 * (offset - first) & ((1 << 8 * size) - 1)

    def _write_odd(self, offset: int, size: int, value: int) -> None:
        if size == 8 and not offset & 3:
            for at, part in ((offset, value & 0xFFFFFFFF), (offset + 4, value >> 32)):
                if 0 <= at < BAR0_SIZE:
                    self._writes[at >> 12][at >> 2 & 0x3FF](at, part)
            return
        if offset >= PRAMIN and offset + size <= PRAMIN + PRAMIN_SIZE:
            physical = self._window(offset, size)
            if physical is not None:
                self._store(physical, size, value)
            return
        first = offset & ~3
        if not 0 <= first < BAR0_SIZE:
            return
        shift = 8 * (offset - first)
        mask = ((1 << 8 * size) - 1) << shift & 0xFFFFFFFF
        # The bytes around keep what this VM wrote there last.
        word = self.engines.words[first >> 2] & ~mask | (value << shift & mask)
        self._writes[first >> 12][first >> 2 & 0x3FF](first, word)

    def _count(self, direction: str, bar: int, length: int, width: int) -> None:
        counters = self.counters
        accesses = -(-length // width)
        name = f"bar{bar}_{direction}"
        setattr(counters, f"traps_{name}", getattr(counters, f"traps_{name}") + accesses)
        setattr(counters, f"bytes_{name}", getattr(counters, f"bytes_{name}") + length)

    # Denied

    def read_denied(self, offset: int) -> int:
        self._deny(offset, "read")
        return 0

    def write_denied(self, offset: int, value: int) -> None:
        self._deny(offset, "write")

    def _deny(self, offset: int, kind: str) -> None:
        self.counters.denied += 1
        if offset not in self._named and len(self._named) < NAMED_LIMIT:
            self._named.add(offset)
            log.warning(
                "a register that the policy does not grant was accessed",
                vm=self.name,
                kind=kind,
                at=hex(offset),
            )

    def write_chip(self, offset: int, value: int) -> None:
        """A fact about the chip: it is read only."""
        self._deny(offset, "write")

    def read_tlb_status(self, offset: int) -> int:
        return self.engines.read_chip(offset)

    def write_tlb_status(self, offset: int, value: int) -> None:
        if value & SMALL_LARGE_PAGES:
            self._deny(offset, "write")

    # PRAMIN

    def _window(self, offset: int, length: int) -> int | None:
        """Card address of `length` bytes at a BAR0 offset in the window, None if they are not the guest's."""
        window = self.engines.words[PRAMIN_WINDOW >> 2]
        guest = ((window & 0xFFFFFF) << 16) + offset - PRAMIN
        physical = None if window & PRAMIN_TARGET else self.memory.vram_address(guest, length)
        if physical is None:
            self.counters.denied_addresses += 1
        return physical

    def read_pramin(self, offset: int) -> int:
        physical = self._window(offset, 4)
        if physical is None:
            return 0
        self.counters.vram_accesses += 1
        word: int = self._words[physical >> 2]
        return word

    def write_pramin(self, offset: int, value: int) -> None:
        physical = self._window(offset, 4)
        if physical is not None:
            self._store(physical, 4, value)

    # Apertures

    def _read_aperture(self, frames: memoryview, offset: int, size: int) -> int:
        page = offset >> 12
        if not 0 <= page < len(frames) or (base := frames[page]) < 0 or (offset & 0xFFF) + size > PAGE:
            return self._read_straddling(frames, offset, size)
        self.counters.vram_accesses += 1
        physical = base + (offset & 0xFFF)
        if size == 4 and not offset & 3:
            word: int = self._words[physical >> 2]
            return word
        return int.from_bytes(self._bytes[physical : physical + size], "little")

    def _write_aperture(self, frames: memoryview, offset: int, size: int, value: int) -> None:
        page = offset >> 12
        if not 0 <= page < len(frames) or (base := frames[page]) < 0 or (offset & 0xFFF) + size > PAGE:
            self._write_pages(frames, offset, value.to_bytes(size, "little"), size)
            return
        self._store(base + (offset & 0xFFF), size, value)

    def _store(self, physical: int, size: int, value: int) -> None:
        self.counters.vram_accesses += 1
        if size == 4 and not physical & 3:
            self._words[physical >> 2] = value
        elif size == 8 and not physical & 7:
            self._quads[physical >> 3] = value
        else:
            self._bytes[physical : physical + size] = value.to_bytes(size, "little")
        if self._guarded[physical - self._base >> 12]:
            self.barriers.write(physical, size)

    def _read_straddling(self, frames: memoryview, offset: int, size: int) -> int:
        return int.from_bytes(self._read_pages(frames, offset, size, size), "little")

    def _read_pages(self, frames: memoryview, offset: int, length: int, width: int) -> bytes:
        """Read through an aperture; pages that map nothing of the guest's read 0."""
        parts = []
        end = offset + length
        while offset < end:
            count = min(end - offset, PAGE - (offset & 0xFFF))
            page = offset >> 12
            base = frames[page] if 0 <= page < len(frames) else -1
            if base < 0:
                self.counters.denied_addresses += 1
                parts.append(bytes(count))
            else:
                self.counters.vram_accesses += -(-count // width)
                physical = base + (offset & 0xFFF)
                parts.append(bytes(self._bytes[physical : physical + count]))
            offset += count
        return b"".join(parts)

    def _write_pages(self, frames: memoryview, offset: int, data: bytes, width: int) -> None:
        """Write through an aperture; what goes to pages that map nothing of the guest's is dropped."""
        done = 0
        while done < len(data):
            count = min(len(data) - done, PAGE - (offset & 0xFFF))
            page = offset >> 12
            base = frames[page] if 0 <= page < len(frames) else -1
            if base < 0:
                self.counters.denied_addresses += 1
            else:
                self.counters.vram_accesses += -(-count // width)
                physical = base + (offset & 0xFFF)
                self._bytes[physical : physical + count] = data[done : done + count]
                self._touched(physical, count)
            offset += count
            done += count

    def _touched(self, physical: int, length: int) -> None:
        if self.barriers.hit(physical, length):
            self.barriers.write(physical, length)

    def _in_poll(self, offset: int, length: int) -> bool:
        return self._poll >= 0 and offset < self._poll + self._poll_size and offset + length > self._poll

    # The mirror of config space

    def read_pci(self, offset: int) -> int:
        return (
            self._config.read(offset & 0xFFC, 4)
            if offset & 0xFFF < 0x100
            else self.engines.words[offset >> 2]
        )

    def write_pci(self, offset: int, value: int) -> None:
        at = offset & 0xFFF
        if at < 0x100:
            self._config.write(at, 4, value)
            self._pin.update()
            return
        self.engines.words[offset >> 2] = value
        if at == MSI_REARM:
            self.engines.evaluate(rearm=True)


def _dead_read(offset: int) -> int:
    return 0


def _dead_write(offset: int, value: int) -> None:
    """The virtual GPU was destroyed."""


def _split(offset: int, length: int, width: int) -> list[tuple[int, int]]:
    """The accesses of a block: (offset, size), the rest in smaller ones."""
    pieces = []
    end = offset + length
    while offset < end:
        size = width
        while offset + size > end or size not in (1, 2, 4, 8):
            size >>= 1
        pieces.append((offset, max(size, 1)))
        offset += max(size, 1)
    return pieces

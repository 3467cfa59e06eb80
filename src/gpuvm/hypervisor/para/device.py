"""A para-virtual GPU: the shared core of virtual GPUs plus the call device, through which the guest's driver
hands over its page tables instead of writing them.

`ParaGpu` is the original's naive form, one entry a call; the other para-virtual modes offer more operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.hypervisor.channels import ShadowChannel
from gpuvm.hypervisor.full import FullGpu, Grant
from gpuvm.hypervisor.para.channels import ParaChannel
from gpuvm.hypervisor.para.tables import Directory, Refused, Table, TableMemory
from gpuvm.hypervisor.tables import LARGE_SHIFT, SMALL_SHIFT
from gpuvm.paravirt.abi import (
    ARGUMENT_LAYOUTS,
    ARGUMENTS,
    CALL_BAR,
    CALL_BAR_SIZE,
    MULTICALL,
    NAIVE,
    RESULT_LAYOUTS,
    SG_ENTRIES,
    SIGNATURE,
    SLOT_SIZE,
    SLOTS,
    VERSION,
    Op,
    Register,
    Result,
    Target,
)
from gpuvm.pci.device import Bar
from gpuvm.pci.memory import DmaError

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

Handler = Callable[[bytes], "tuple[int, ...]"]

RATIO = 1 << (LARGE_SHIFT - SMALL_SHIFT)
"""Small pages of a large one."""


class ParaGpu(FullGpu):
    """A virtual GPU for a driver that knows the hypervisor; one page-table entry a call."""

    mode = "pv-naive"
    own_bars: Sequence[Bar] = (Bar(CALL_BAR, CALL_BAR_SIZE),)
    operations: frozenset[Op] = NAIVE

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        super().__init__(aggregator, number, name, grant)
        self.tables = TableMemory(self.memory, grant.pool, self.counters, self._flush_space)
        self._bar_directories: dict[int, Directory | None] = {1: None, 3: None}
        self._bar3_table: Table | None = None
        self._area = 0
        self._offered = sum(1 << op for op in self.operations)
        self._handlers: dict[int, tuple[str, Handler]] = {
            op: (f"calls_{op.name.lower()}", getattr(self, f"_{op.name.lower()}")) for op in self.operations
        }

    def _make_channel(self, number: int) -> ShadowChannel:
        return ParaChannel(
            number,
            self._grant.channels.base + number,
            self.memory,
            self._grant.pool,
            self.spaces,
            self.counters,
            self._flush_space,
        )

    def _stop_all(self) -> bool:
        quiet = super()._stop_all()
        for index in self._bar_directories:
            self._bar_directories[index] = None
        self._bar3_table = None
        for index in self._bar_directories:
            self._show_bar(index)
        for channel in self.channels:
            assert isinstance(channel, ParaChannel)
            if channel.instance is None:
                channel.directory = None
        if quiet:
            self.tables.close()
        self._area = 0
        return quiet

    # What full virtualization reads out of the guest's memory, a para-virtual driver says

    def _shadow_bar(self, index: int) -> None:
        """An instance block of a BAR says nothing here."""

    def write_tlb_flush(self, offset: int, value: int) -> None:
        self.engines.words[offset >> 2] = value

    # The call device

    def _read_own(self, bar: int, offset: int, size: int) -> int:
        if bar != CALL_BAR:
            return 0
        self.counters.traps_call += 1
        if size != 4:
            return 0
        if offset == Register.SIGNATURE:
            return SIGNATURE
        if offset == Register.VERSION:
            return VERSION
        if offset in (Register.OPERATIONS_LOW, Register.OPERATIONS_HIGH):
            return self._offered >> 8 * (offset - Register.OPERATIONS_LOW) & 0xFFFFFFFF
        if offset in (Register.AREA_LOW, Register.AREA_HIGH):
            return self._area >> 8 * (offset - Register.AREA_LOW) & 0xFFFFFFFF
        return SLOTS if offset == Register.SLOTS else 0

    def _write_own(self, bar: int, offset: int, size: int, value: int) -> None:
        if bar != CALL_BAR:
            return
        self.counters.traps_call += 1
        if size != 4:
            return
        if offset == Register.CALL:
            if not self._gone:
                self._call(value)
        elif offset == Register.AREA_LOW:
            self._area = self._area >> 32 << 32 | value & ~(SLOT_SIZE - 1)
        elif offset == Register.AREA_HIGH:
            self._area = self._area & 0xFFFFFFFF | (value & 0xFF) << 32

    def _call(self, slot: int) -> None:
        """Perform the call in a slot. The slot is copied first: what the guest changes meanwhile is not
        seen."""
        bus = self.memory.bus
        at = self._area + slot * SLOT_SIZE
        try:
            if not self._area or slot >= SLOTS:
                raise DmaError(at)
            record = bus.read(at, SLOT_SIZE)
        except DmaError:
            self.counters.call_failures += 1
            return
        number = int.from_bytes(record[:4], "little")
        answer: tuple[int, ...] = ()
        result = Result.UNKNOWN_OPERATION
        known = self._handlers.get(number)
        if known is not None:
            name, handler = known
            setattr(self.counters, name, getattr(self.counters, name) + 1)
            try:
                answer = handler(record)
                result = Result.OK
            except Refused as refused:
                result = refused.result
        if result is not Result.OK:
            self.counters.call_failures += 1
        try:
            if answer:
                bus.write(at + ARGUMENTS, RESULT_LAYOUTS[Op(number)].pack(*answer))
            bus.write(at, result.to_bytes(4, "little"))
        except DmaError:
            # The machine's memory went away under the call.
            self.counters.call_failures += 1

    # Operations: each gets the copy of its slot and returns its results

    def _set_pgd(self, record: bytes) -> tuple[int, ...]:
        target, number, wanted = ARGUMENT_LAYOUTS[Op.SET_PGD].unpack_from(record, ARGUMENTS)
        directory = self.tables.directory(wanted) if wanted else None
        if target == Target.CHANNEL:
            if number >= len(self.channels):
                raise Refused(Result.BAD_ARGUMENT)
            channel = self.channels[number]
            assert isinstance(channel, ParaChannel)
            if channel.instance is not None and channel.directory is not directory:
                # The GPU read the directory when the channel was bound, and keeps it.
                raise Refused(Result.BUSY)
            old, channel.directory = channel.directory, directory
        elif target in (Target.BAR1, Target.BAR3):
            old, self._bar_directories[target] = self._bar_directories[target], directory
        else:
            raise Refused(Result.BAD_ARGUMENT)
        if directory is not None:
            directory.users += 1
        if old is not None:
            old.users -= 1
        if target != Target.CHANNEL:
            self._show_bar(target)
        return ()

    def _map_pgt(self, record: bytes) -> tuple[int, ...]:
        number, index, _, big, small = ARGUMENT_LAYOUTS[Op.MAP_PGT].unpack_from(record, ARGUMENTS)
        self._link(self.tables.directory(number), index, [(big, small)])
        return ()

    def _map(self, record: bytes) -> tuple[int, ...]:
        number, index, _, entry = ARGUMENT_LAYOUTS[Op.MAP].unpack_from(record, ARGUMENTS)
        table = self.tables.table(number)
        self.tables.set_one(table, index, entry)
        self._changed(table, index, 1)
        return ()

    def _vm_flush(self, record: bytes) -> tuple[int, ...]:
        (number,) = ARGUMENT_LAYOUTS[Op.VM_FLUSH].unpack_from(record, ARGUMENTS)
        directory = self.tables.directory(number)
        self.counters.tlb_flushes += 1
        self.tables.flush(directory)
        return ()

    def _mem_alloc(self, record: bytes) -> tuple[int, ...]:
        (kind,) = ARGUMENT_LAYOUTS[Op.MEM_ALLOC].unpack_from(record, ARGUMENTS)
        return (self.tables.allocate(kind),)

    def _mem_free(self, record: bytes) -> tuple[int, ...]:
        (number,) = ARGUMENT_LAYOUTS[Op.MEM_FREE].unpack_from(record, ARGUMENTS)
        self.tables.free(number)
        return ()

    def _bar3_pgt(self, record: bytes) -> tuple[int, ...]:
        (number,) = ARGUMENT_LAYOUTS[Op.BAR3_PGT].unpack_from(record, ARGUMENTS)
        table = self.tables.table(number) if number else None
        if table is not None:
            if table.big:
                raise Refused(Result.BAD_ID)
            table.links += 1
        if self._bar3_table is not None:
            self._bar3_table.links -= 1
        self._bar3_table = table
        self._show_bar(3)
        return ()

    def _map_batch(self, record: bytes) -> tuple[int, ...]:
        number, first, count, entry = ARGUMENT_LAYOUTS[Op.MAP_BATCH].unpack_from(record, ARGUMENTS)
        table = self.tables.table(number)
        self.tables.set_run(table, first, count, entry)
        self._changed(table, first, count)
        return ()

    def _map_sg_batch(self, record: bytes) -> tuple[int, ...]:
        layout = ARGUMENT_LAYOUTS[Op.MAP_SG_BATCH]
        number, first, count = layout.unpack_from(record, ARGUMENTS)
        if not 0 < count <= SG_ENTRIES:
            raise Refused(Result.BAD_ARGUMENT)
        table = self.tables.table(number)
        entries = np.frombuffer(record, np.uint64, count, ARGUMENTS + layout.size)
        self.tables.set_many(table, first, entries)
        self._changed(table, first, count)
        return ()

    def _unmap_batch(self, record: bytes) -> tuple[int, ...]:
        number, first, count = ARGUMENT_LAYOUTS[Op.UNMAP_BATCH].unpack_from(record, ARGUMENTS)
        table = self.tables.table(number)
        self.tables.clear(table, first, count)
        self._changed(table, first, count)
        return ()

    def _map_pgt_batch(self, record: bytes) -> tuple[int, ...]:
        layout = ARGUMENT_LAYOUTS[Op.MAP_PGT_BATCH]
        number, first, count = layout.unpack_from(record, ARGUMENTS)
        if not 0 < count <= SG_ENTRIES:
            raise Refused(Result.BAD_ARGUMENT)
        ids = np.frombuffer(record, np.uint64, 2 * count, ARGUMENTS + layout.size).tolist()
        self._link(self.tables.directory(number), first, list(zip(ids[::2], ids[1::2], strict=True)))
        return ()

    # What the guest's BAR1 and BAR3 show

    def _link(self, directory: Directory, first: int, pairs: Sequence[tuple[int, int]]) -> None:
        self.tables.link(directory, first, pairs)
        if first == 0:
            for index, shown in self._bar_directories.items():
                if shown is directory:
                    self._show_bar(index)

    def _bar_tables(self, index: int) -> tuple[Table | None, Table | None]:
        """The big-page and the small-page table behind a BAR."""
        if index == 3 and self._bar3_table is not None:
            return None, self._bar3_table
        directory = self._bar_directories[index]
        return (None, None) if directory is None else directory.entries.get(0, (None, None))

    def _show_bar(self, index: int) -> None:
        self._show_pages(index, 0, self._bars[index].table.pages)

    def _changed(self, table: Table, first: int, count: int) -> None:
        """Entries of a table changed: so does what a BAR shows, if it is one of the BAR's."""
        for index in self._bar_directories:
            big, small = self._bar_tables(index)
            if table is small:
                self._show_pages(index, first, count)
            elif table is big:
                self._show_pages(index, first * RATIO, count * RATIO)

    def _show_pages(self, index: int, first: int, count: int) -> None:
        """Bring pages `first`... of a BAR in step with its tables."""
        shown = self._bars[index].table
        end = min(first + count, shown.pages)
        if first >= end:
            return
        big, small = self._bar_tables(index)
        entries = np.zeros((end - first, 2), np.uint32)
        if big is not None:
            pages = np.arange(first, end)
            entries[:] = big.words[pages // RATIO]
            step = (pages % RATIO << 4).astype(np.uint32)
            entries[:, 0] += np.where(entries[:, 0] & 1, step, 0).astype(np.uint32)
        if small is not None:
            chosen = small.words[first:end]
            present = (chosen[:, 0] & 1) != 0
            entries[present] = chosen[present]
        self.counters.entries_changed += shown.put(first, entries)
        self._mirror(index, first, end)

    def _mirror(self, index: int, first: int, end: int) -> None:
        """Bring the hypervisor's own aperture in step: poll pages and arena."""
        arena = self._grant.arena1 if index == 1 else self._grant.arena3
        with self._aggregator.lock:
            aperture = self._aggregator.bar1 if index == 1 else self._aggregator.bar3
            if arena is not None:
                end = min(end, arena.size >> SMALL_SHIFT)
                if first < end:
                    visible = self._bars[index].table.entries[first:end]
                    self.counters.shadow_writes += 2 * aperture.map(
                        arena.base + (first << SMALL_SHIFT), visible
                    )
            if index == 1:
                self._map_poll()
            aperture.flush()


class MulticallGpu(ParaGpu):
    """Para-virtualization with batches of entries."""

    mode = "pv-multicall"
    operations = MULTICALL

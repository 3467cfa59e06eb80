"""Para-virtualization of page tables: the guest's driver hands entries over instead of writing tables.

`ParaGpu` is the original's naive form, one entry a call; the other para-virtual modes offer more operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gpuvm.hypervisor.channels import ShadowChannel
from gpuvm.hypervisor.full import Grant
from gpuvm.hypervisor.para.calls import CallGpu, Refused, arguments, array
from gpuvm.hypervisor.para.channels import ParaChannel
from gpuvm.hypervisor.para.tables import Directory, Table, TableMemory
from gpuvm.hypervisor.tables import LARGE_SHIFT, SMALL_SHIFT
from gpuvm.paravirt.abi import NAIVE, SG_ENTRIES, Op, Result, Target

if TYPE_CHECKING:
    from gpuvm.hypervisor.aggregator import Aggregator

RATIO = 1 << (LARGE_SHIFT - SMALL_SHIFT)
"""Small pages of a large one."""


class ParaGpu(CallGpu):
    """A virtual GPU for a driver that knows the hypervisor; one page-table entry a call."""

    mode = "pv-naive"
    operations = NAIVE

    def __init__(self, aggregator: Aggregator, number: int, name: str, grant: Grant) -> None:
        super().__init__(aggregator, number, name, grant)
        self.tables = TableMemory(self.memory, grant.pool, self.counters, self._flush_space)
        self._bar_directories: dict[int, Directory | None] = {1: None, 3: None}
        self._bar3_table: Table | None = None

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
        return quiet

    # Operations

    def _set_pgd(self, data: bytes) -> tuple[int, ...]:
        target, number, wanted = arguments(Op.SET_PGD, data)
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

    def _map_pgt(self, data: bytes) -> tuple[int, ...]:
        number, index, _, big, small = arguments(Op.MAP_PGT, data)
        self._link(self.tables.directory(number), index, [(big, small)])
        return ()

    def _map(self, data: bytes) -> tuple[int, ...]:
        number, index, _, entry = arguments(Op.MAP, data)
        table = self.tables.table(number)
        self.tables.set_one(table, index, entry)
        self._changed(table, index, 1)
        return ()

    def _vm_flush(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.VM_FLUSH, data)
        directory = self.tables.directory(number)
        self.counters.tlb_flushes += 1
        self.tables.flush(directory)
        return ()

    def _mem_alloc(self, data: bytes) -> tuple[int, ...]:
        (kind,) = arguments(Op.MEM_ALLOC, data)
        return (self.tables.allocate(kind),)

    def _mem_free(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.MEM_FREE, data)
        self.tables.free(number)
        return ()

    def _bar3_pgt(self, data: bytes) -> tuple[int, ...]:
        (number,) = arguments(Op.BAR3_PGT, data)
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

    def _map_batch(self, data: bytes) -> tuple[int, ...]:
        number, first, count, entry = arguments(Op.MAP_BATCH, data)
        table = self.tables.table(number)
        self.tables.set_run(table, first, count, entry)
        self._changed(table, first, count)
        return ()

    def _map_sg_batch(self, data: bytes) -> tuple[int, ...]:
        number, first, count = arguments(Op.MAP_SG_BATCH, data)
        entries = array(Op.MAP_SG_BATCH, data, count, SG_ENTRIES)
        table = self.tables.table(number)
        self.tables.set_many(table, first, entries)
        self._changed(table, first, count)
        return ()

    def _unmap_batch(self, data: bytes) -> tuple[int, ...]:
        number, first, count = arguments(Op.UNMAP_BATCH, data)
        table = self.tables.table(number)
        self.tables.clear(table, first, count)
        self._changed(table, first, count)
        return ()

    def _map_pgt_batch(self, data: bytes) -> tuple[int, ...]:
        number, first, count = arguments(Op.MAP_PGT_BATCH, data)
        ids = array(Op.MAP_PGT_BATCH, data, count, SG_ENTRIES).tolist()
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
        changed = shown.put(first, entries)
        self.counters.entries_changed += changed
        self.windows[index].changed(changed)
        self._mirror(index, first, end)

    def _mirror(self, index: int, first: int, end: int) -> None:
        """Bring the hypervisor's own aperture in step: poll pages and arena."""
        arena = self._grant.arena1 if index == 1 else self._grant.arena3
        with self._aggregator.lock:
            aperture = self._aggregator.bar1 if index == 1 else self._aggregator.bar3
            if arena is not None:
                last = min(end, arena.size >> SMALL_SHIFT)
                if first < last:
                    visible = self._bars[index].table.entries[first:last]
                    self.counters.shadow_writes += 2 * aperture.map(
                        arena.base + (first << SMALL_SHIFT), visible
                    )
            if index == 1:
                self._map_poll()
            aperture.flush()

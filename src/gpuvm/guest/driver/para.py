"""The para-virtual back end of the driver: page tables by calls to the hypervisor.

The device says that there is one: it has the call BAR, and that BAR's signature. What the hypervisor offers
decides whether entries go one by one or in batches.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence

import numpy as np

from gpuvm.guest.driver.errors import DriverError, OutOfMemory
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import BIG_SHIFT, SMALL_SHIFT
from gpuvm.guest.driver.instance import InstanceMemory
from gpuvm.guest.driver.tables import Entries
from gpuvm.guest.machine import Machine
from gpuvm.guest.ranges import OutOfSpace
from gpuvm.paravirt.abi import (
    AREA_SIZE,
    ARGUMENT_LAYOUTS,
    ARGUMENTS,
    CALL_BAR,
    RESULT_LAYOUTS,
    RESULT_TEXT,
    SG_ENTRIES,
    SIGNATURE,
    SLOT_SIZE,
    VERSION,
    Kind,
    Op,
    Register,
    Result,
    Target,
)


class CallDevice:
    """The call area and the register that performs a call.

    Attributes
    ----------
    operations : frozenset of Op
        What the hypervisor offers.
    """

    def __init__(self, function: Function, machine: Machine) -> None:
        self._device = function.device
        self.machine = machine
        version = self._read(Register.VERSION)
        if version != VERSION:
            raise DriverError(f"the hypervisor's call interface must have version {VERSION}, got {version}")
        offered = self._read(Register.OPERATIONS_LOW) | self._read(Register.OPERATIONS_HIGH) << 32
        self.operations = frozenset(op for op in Op if offered >> op & 1)
        try:
            self._runs = machine.pages.allocate(AREA_SIZE, contiguous=True)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None
        base = self._runs[0][0]
        self._area = machine.memory.view[base : base + AREA_SIZE]
        self._write(Register.AREA_LOW, base & 0xFFFFFFFF)
        self._write(Register.AREA_HIGH, base >> 32)
        self._lock = threading.Lock()
        self._slots = list(range(self._read(Register.SLOTS)))

    @classmethod
    def probe(cls, function: Function, machine: Machine) -> CallDevice | None:
        """Return the call device of a function, None if it has none."""
        if CALL_BAR not in function.bar_sizes:
            return None
        if function.device.read(CALL_BAR, Register.SIGNATURE, 4) != SIGNATURE:
            return None
        return cls(function, machine)

    def call(self, op: Op, *arguments: int, array: bytes = b"") -> tuple[int, ...]:
        """Perform one operation; returns its results.

        Raises
        ------
        OutOfMemory
            If the hypervisor has no more memory for page tables.
        DriverError
            If it refuses the operation otherwise.
        """
        result, answer = self.perform(op, *arguments, array=array)
        if result != Result.OK:
            raise refusal(f"{op.name}{arguments}", result)
        return answer

    def perform(self, op: Op, *arguments: int, array: bytes = b"") -> tuple[int, tuple[int, ...]]:
        """Perform one operation; returns its result (`Result`) and what it answers."""
        with self._lock:
            slot = self._slots.pop()
        try:
            at = slot * SLOT_SIZE
            area = self._area
            layout = ARGUMENT_LAYOUTS[op]
            struct.pack_into("<I", area, at, op)
            layout.pack_into(area, at + ARGUMENTS, *arguments)
            if array:
                first = at + ARGUMENTS + layout.size
                area[first : first + len(array)] = array
            self._write(Register.CALL, slot)
            (result,) = struct.unpack_from("<I", area, at)
            return result, RESULT_LAYOUTS[op].unpack_from(area, at + ARGUMENTS)
        finally:
            self._slots.append(slot)

    def share(self, address: int) -> None:
        """Say where the shared page of a split driver is, 0 for nowhere."""
        self._write(Register.SHARED_HIGH, address >> 32)
        self._write(Register.SHARED_LOW, address & 0xFFFFFFFF)

    def kick(self, channel: int) -> None:
        """Say that a channel has new work."""
        self._write(Register.KICK, channel)

    def wait(self, wanted: bool) -> None:
        """Say whether a thread sleeps until work is done."""
        self._write(Register.WAITS, int(wanted))

    def close(self) -> None:
        """Take the call area back."""
        self._write(Register.AREA_LOW, 0)
        self._write(Register.AREA_HIGH, 0)
        self._area.release()
        self.machine.pages.free(self._runs)

    def _read(self, register: Register) -> int:
        return self._device.read(CALL_BAR, register, 4)

    def _write(self, register: Register, value: int) -> None:
        self._device.write(CALL_BAR, register, 4, value)


def refusal(what: str, result: int) -> DriverError:
    """The error of a call that the hypervisor refused."""
    text = RESULT_TEXT[Result(result)] if result in RESULT_TEXT else f"result {result}"
    kind = OutOfMemory if result == Result.NO_MEMORY else DriverError
    return kind(f"the hypervisor refused {what}: {text}")


class HypercallTables:
    """`Tables` whose operations are calls, one entry each."""

    def __init__(self, calls: CallDevice) -> None:
        self.calls = calls
        self.flushes = 0

    def new_directory(self) -> int:
        return self.calls.call(Op.MEM_ALLOC, Kind.DIRECTORY)[0]

    def directory_address(self, directory: int) -> int:
        """Nothing: the instance block of a para-virtual channel names no directory."""
        return 0

    def new_table(self, big: bool) -> int:
        return self.calls.call(Op.MEM_ALLOC, Kind.BIG_TABLE if big else Kind.SMALL_TABLE)[0]

    def link(self, directory: int, index: int, big: int | None, small: int | None) -> None:
        self.calls.call(Op.MAP_PGT, directory, index, 0, big or 0, small or 0)

    def write(self, table: int, first: int, entries: Entries) -> None:
        for index, entry in enumerate(entries.tolist(), first):
            self.calls.call(Op.MAP, table, index, 0, entry)

    def flush(self, directory: int) -> None:
        self.flushes += 1
        self.calls.call(Op.VM_FLUSH, directory)

    def free(self, handle: int) -> None:
        self.calls.call(Op.MEM_FREE, handle)

    def bind(self, channel: int, directory: int) -> bool:
        arguments = (Target.CHANNEL, channel, directory)
        result, _ = self.calls.perform(Op.SET_PGD, *arguments)
        if result not in (Result.OK, Result.BAD_ARGUMENT):
            raise refusal(f"{Op.SET_PGD.name}{arguments}", result)
        return result == Result.OK

    def show(self, directory: int, size: int) -> None:
        self.calls.call(Op.SET_PGD, Target.BAR1, 0, directory)

    def window(self, memory: InstanceMemory, size: int) -> HypercallWindow:
        """The window of instance memory in BAR3."""
        return HypercallWindow(self)


class HypercallWindow:
    """BAR3's pages, by a small-page table of the hypervisor's."""

    def __init__(self, tables: HypercallTables) -> None:
        self._tables = tables
        self._table = tables.new_table(False)
        tables.calls.call(Op.BAR3_PGT, self._table)

    def set(self, offset: int, entries: Sequence[int]) -> None:
        self._tables.write(self._table, offset >> SMALL_SHIFT, np.array(entries, np.uint64))

    def close(self) -> None:
        self._tables.calls.call(Op.BAR3_PGT, 0)
        self._tables.free(self._table)


class BatchTables(HypercallTables):
    """`Tables` whose operations are calls for many entries."""

    def __init__(self, calls: CallDevice) -> None:
        super().__init__(calls)
        self._shifts: dict[int, int] = {}

    def new_table(self, big: bool) -> int:
        table = super().new_table(big)
        self._shifts[table] = BIG_SHIFT if big else SMALL_SHIFT
        return table

    def free(self, handle: int) -> None:
        super().free(handle)
        self._shifts.pop(handle, None)

    def write(self, table: int, first: int, entries: Entries) -> None:
        """One call where the entries are clear or follow each other, else one for each 128."""
        count = len(entries)
        if not entries.any():
            self.calls.call(Op.UNMAP_BATCH, table, first, count)
            return
        step = np.uint64(1 << (self._shifts[table] - 8))
        breaks = np.flatnonzero(np.diff(entries) != step) + 1
        if len(breaks) < -(-count // SG_ENTRIES):
            starts = [0, *breaks.tolist()]
            for start, end in zip(starts, [*starts[1:], count], strict=True):
                self.calls.call(Op.MAP_BATCH, table, first + start, end - start, int(entries[start]))
            return
        for start in range(0, count, SG_ENTRIES):
            piece = entries[start : start + SG_ENTRIES]
            self.calls.call(Op.MAP_SG_BATCH, table, first + start, len(piece), array=piece.tobytes())


def hypercall_tables(calls: CallDevice) -> HypercallTables:
    """The tables for what the hypervisor offers."""
    batches = {Op.MAP_BATCH, Op.MAP_SG_BATCH, Op.UNMAP_BATCH} <= calls.operations
    return BatchTables(calls) if batches else HypercallTables(calls)

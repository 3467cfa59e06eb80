"""The guest's half of a split driver: it names buffers, address spaces and channels by numbers of its own and
asks the hypervisor for the rest.

Operations wait in a queue and go out together: with an allocation (whose answer is needed at once), before a
submission, and where something must be over before its memory serves another purpose.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from gpuvm.guest.driver.errors import DeviceTimeout, DriverError, Fault, OutOfMemory
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import BIG_PAGE, BIG_SHIFT, Reg
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.interrupts import Interrupts
from gpuvm.guest.driver.para import CallDevice, refusal
from gpuvm.guest.driver.space import Space
from gpuvm.guest.ranges import OutOfSpace
from gpuvm.paravirt.abi import (
    ARGUMENT_LAYOUTS,
    ARGUMENTS,
    BATCH_LIMIT,
    BUFFER_LIMIT,
    RUN_LIMIT,
    SHARED_SIZE,
    SLOT_SIZE,
    SPACE_LIMIT,
    Op,
    Result,
    Shared,
)

if TYPE_CHECKING:
    from gpuvm.guest.driver.context import DeviceBuffer

BATCH_ROOM = SLOT_SIZE - ARGUMENTS - 8
"""Bytes of records that one batch holds."""
HOST_MAP_BYTES = 1 << 29
"""Most bytes that one operation maps here; the hypervisor takes some more."""
BUSY_PAUSE_S = 0.0002
KILL_PATIENCE_S = 0.2
STOP_PATIENCE_S = 10.0


class Queue:
    """Operations that wait to be passed together."""

    def __init__(self, calls: CallDevice) -> None:
        self._calls = calls
        self._waiting: list[tuple[Op, tuple[int, ...], bytes, Callable[[], None] | None]] = []
        self._lock = threading.RLock()

    def add(
        self, op: Op, *arguments: int, array: bytes = b"", done: Callable[[], None] | None = None
    ) -> None:
        """Queue an operation; `done` is called when it has succeeded."""
        with self._lock:
            self._waiting.append((op, arguments, array, done))

    def commit(self) -> None:
        """Pass everything that waits, in as few calls as it fits.

        Raises
        ------
        OutOfMemory, DriverError
            If the hypervisor refuses one; what was queued behind it is dropped.
        """
        with self._lock:
            waiting, self._waiting = self._waiting, []
            while waiting:
                records, size = [], 0
                for op, arguments, array, _ in waiting[:BATCH_LIMIT]:
                    data = ARGUMENT_LAYOUTS[op].pack(*arguments) + array
                    record = struct.pack("<II", op, len(data)) + data + bytes(-len(data) % 8)
                    if size + len(record) > BATCH_ROOM:
                        break
                    records.append(record)
                    size += len(record)
                count = len(records)
                if count == 1:
                    op, arguments, array, _ = waiting[0]
                    result, _ = self._calls.perform(op, *arguments, array=array)
                    done = int(result == Result.OK)
                else:
                    result, (done,) = self._calls.perform(Op.BATCH, count, 0, array=b"".join(records))
                for *_, succeeded in waiting[:done]:
                    if succeeded is not None:
                        succeeded()
                if result != Result.OK:
                    op, arguments, *_ = waiting[min(done, count - 1)]
                    raise refusal(f"{op.name}{arguments}", result)
                del waiting[:count]


class SplitMemory:
    """Video memory by numbered buffers."""

    def __init__(self, queue: Queue, total: int) -> None:
        self._queue = queue
        self.total = total
        self.used_bytes = 0
        self._next = 1
        self._free_numbers: list[int] = []
        self._made: set[int] = set()

    @property
    def free_bytes(self) -> int:
        return self.total - self.used_bytes

    def allocate_pieces(self, size: int) -> list[tuple[int, int]]:
        """Queue a buffer; whether there is memory for it shows when it is mapped."""
        pages = -(-size // BIG_PAGE)
        if pages << BIG_SHIFT > self.free_bytes:
            raise OutOfMemory(
                f"VRAM must have {pages << BIG_SHIFT} free bytes in 128 KiB pages; {self.free_bytes} are free"
            )
        if self._free_numbers:
            number = self._free_numbers.pop()
        elif self._next < BUFFER_LIMIT:
            number, self._next = self._next, self._next + 1
        else:
            raise OutOfMemory(f"there can be {BUFFER_LIMIT - 1} buffers, and all are in use")
        self._queue.add(Op.BUFFER_NEW, number, pages, done=lambda: self._made.add(number))
        self.used_bytes += pages << BIG_SHIFT
        return [(number, pages << BIG_SHIFT)]

    def free(self, address: int, size: int) -> None:
        """Queue the end of a buffer that is mapped nowhere (at the time when this is passed)."""
        if address in self._made:
            self._made.discard(address)
            self._queue.add(Op.BUFFER_FREE, address)
        self._free_numbers.append(address)
        self.used_bytes -= size


class SplitSpace(Space):
    """An address space of the hypervisor's."""

    def __init__(self, backend: SplitBackend) -> None:
        super().__init__()
        self._backend = backend
        self._queue = backend.queue
        self.number = backend.take_space()
        self._queue.add(Op.SPACE_NEW, self.number)

    def _set_vram(self, va: int, pieces: Sequence[tuple[int, int]], read_only: bool) -> None:
        for number, size in pieces:
            self._queue.add(Op.BUFFER_MAP, self.number, number, va, int(read_only), 0)
            va += size
        self._queue.commit()

    def _clear_vram(self, va: int, size: int) -> None:
        self._queue.add(Op.UNMAP, self.number, 0, va, size)
        self.stale = True

    def _set_host(self, buffer: HostBuffer, read_only: bool) -> None:
        at = buffer.address
        for runs in _pieces(buffer.runs):
            array = b"".join(struct.pack("<QQ", *run) for run in runs)
            self._queue.add(Op.HOST_MAP, self.number, len(runs), at, int(read_only), 0, array=array)
            at += sum(length for _, length in runs)
        try:
            self._queue.commit()
        except OutOfMemory:
            self._clear_host(buffer)
            self.flush()
            raise

    def _clear_host(self, buffer: HostBuffer) -> None:
        self._queue.add(Op.UNMAP, self.number, 0, buffer.address, buffer.size)
        self.stale = True

    def flush(self) -> None:
        if self.stale:
            self.stale = False
            self._queue.commit()

    def close(self) -> None:
        self._queue.add(Op.SPACE_FREE, self.number)
        self._queue.commit()
        self._backend.give_space(self.number)


class SplitUnits:
    """PGRAPH, as the hypervisor describes it."""

    def __init__(self, context_size: int, shape: list[int]) -> None:
        self.context_size = context_size
        self.shape = shape

    @property
    def multiprocessors(self) -> int:
        return sum(self.shape)


class SplitBlock:
    """What the hypervisor needs to make a channel. Its faults name it by its number."""

    def __init__(self, queue: Queue, number: int, space: SplitSpace, ring: int, entries: int) -> None:
        self._queue = queue
        self._number = number
        self._arguments = (number, space.number, ring, entries.bit_length() - 1, 0)
        self._context = 0
        self.address = number << 12

    def set_context(self, buffer: DeviceBuffer, offset: int) -> None:
        self._context = buffer.address + offset

    def start(self) -> None:
        self._queue.add(Op.CHANNEL_NEW, *self._arguments, self._context)
        self._queue.commit()

    def free(self) -> None:
        """Freed with the channel."""


class SplitChannels:
    """Channels of the hypervisor's."""

    def __init__(self, calls: CallDevice, queue: Queue, page: memoryview, count: int) -> None:
        self._calls = calls
        self._queue = queue
        self._page = page
        self._count = count
        self._numbers = set(range(count))

    @property
    def channels_in_use(self) -> int:
        return self._count - len(self._numbers)

    def take_number(self) -> int:
        """Return a free channel number.

        Raises
        ------
        OutOfMemory
        """
        if not self._numbers:
            raise OutOfMemory(
                f"the virtual GPU has {self._count} channels and all are in use: destroy a context first"
            )
        number = min(self._numbers)
        self._numbers.remove(number)
        return number

    def doorbell(self, number: int) -> Callable[[int], None]:
        """Return what submits: a word in the shared page, and a kick if the hypervisor does not look."""
        page, put, active, kick = self._page, Shared.PUT + number, Shared.ACTIVE + number, self._calls.kick

        def ring(value: int) -> None:
            page[put] = value
            if not page[active]:
                kick(number)

        return ring

    def new_block(self, number: int, space: Space, ring: int, entries: int) -> SplitBlock:
        assert isinstance(space, SplitSpace)
        return SplitBlock(self._queue, number, space, ring, entries)

    def stop(self, number: int, kill: bool = False) -> None:
        """Take a channel off the GPU for good; `kill` ends a kernel that runs."""
        self._queue.commit()
        deadline = time.monotonic() + (KILL_PATIENCE_S if kill else STOP_PATIENCE_S)
        while True:
            late = time.monotonic() > deadline
            result, _ = self._calls.perform(Op.CHANNEL_FREE, number, int(kill and late))
            if result != Result.BUSY:
                break
            if late and not kill:
                raise DeviceTimeout(f"channel {number} must leave the GPU within {STOP_PATIENCE_S:g} s")
            time.sleep(BUSY_PAUSE_S)
        if result not in (Result.OK, Result.BAD_ID):
            raise refusal(f"the end of channel {number}", result)

    def remove(self, number: int) -> None:
        """Free the number of a stopped channel."""
        self._numbers.add(number)


class SplitInterrupts(Interrupts):
    """Events by the shared page; the registers explain faults only."""

    def __init__(
        self,
        function: Function,
        shape: list[int],
        subfifos: int,
        on_fault: Callable[[int, int, Fault], None],
        calls: CallDevice,
        page: memoryview,
    ) -> None:
        super().__init__(function, shape, subfifos, on_fault)
        self._calls = calls
        self._page = page
        self._faults = 0

    def enable(self) -> None:
        # Nobody has brought PGRAPH up here, and its traps are shown in its registers.
        self._function.write(Reg.PGRAPH_INTR_EN, 0xFFFFFFFF)
        super().enable()

    def _want_completions(self, wanted: bool) -> None:
        self._calls.wait(wanted)

    def _handle(self) -> None:
        faults = self._page[Shared.FAULTS]
        if faults != self._faults:
            self._faults = faults
            super()._handle()


class SplitBackend:
    """The hypervisor's half of the driver, as a way to the GPU."""

    def __init__(
        self, function: Function, calls: CallDevice, on_fault: Callable[[int, int, Fault], None]
    ) -> None:
        self._calls = calls
        self._machine = calls.machine
        memory, context, copy_engine, subfifos, clusters, shape, channels = calls.call(Op.INFO)
        self.queue = Queue(calls)
        try:
            self._runs = self._machine.pages.allocate(SHARED_SIZE, contiguous=True)
        except OutOfSpace as error:
            raise OutOfMemory(str(error)) from None
        base = self._runs[0][0]
        self._bytes = self._machine.memory.view[base : base + SHARED_SIZE]
        self._page = self._bytes.cast("I")
        calls.share(base)
        self.vram = SplitMemory(self.queue, memory)
        self.graph = SplitUnits(context, [shape >> 4 * gpc & 0xF for gpc in range(clusters)])
        self.fifo = SplitChannels(calls, self.queue, self._page, channels)
        self.interrupts = SplitInterrupts(function, self.graph.shape, subfifos, on_fault, calls, self._page)
        self.copy_engine = bool(copy_engine)
        self._spaces = 1
        self._free_spaces: list[int] = []

    def start(self) -> None:
        """The hypervisor brought the GPU up."""

    def new_space(self) -> SplitSpace:
        return SplitSpace(self)

    def take_space(self) -> int:
        """Return an unused number of an address space."""
        if self._free_spaces:
            return self._free_spaces.pop()
        if self._spaces >= SPACE_LIMIT:
            raise OutOfMemory(f"there can be {SPACE_LIMIT - 1} address spaces, and all are in use")
        self._spaces += 1
        return self._spaces - 1

    def give_space(self, number: int) -> None:
        """Take a number back."""
        self._free_spaces.append(number)

    def close(self) -> None:
        # The hypervisor frees everything with the device; a refusal now changes nothing.
        with contextlib.suppress(DriverError):
            self.queue.commit()
        self._calls.share(0)
        self._page.release()
        self._bytes.release()
        self._machine.pages.free(self._runs)
        self._calls.close()


def _pieces(runs: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Split runs of pages so that each list fits one operation."""
    lists: list[list[tuple[int, int]]] = [[]]
    size = 0
    for address, length in runs:
        while length:
            if len(lists[-1]) >= RUN_LIMIT or size >= HOST_MAP_BYTES:
                lists.append([])
                size = 0
            part = min(length, HOST_MAP_BYTES - size)
            lists[-1].append((address, part))
            address, length, size = address + part, length - part, size + part
    return [each for each in lists if each]

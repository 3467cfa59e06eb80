"""Contexts: what a CUcontext holds, and the API functions on contexts and devices' primary contexts."""

from __future__ import annotations

import ctypes
import logging
import threading
import weakref
from bisect import bisect_right, insort
from operator import attrgetter
from typing import Any

from gpuvm.guest.cuda import attributes as device
from gpuvm.guest.cuda.core import FAULT_RESULTS, CudaError, handles
from gpuvm.guest.cuda.services import Services
from gpuvm.guest.cuda.staging import Staging
from gpuvm.guest.cuda.types import NAMES
from gpuvm.guest.driver.context import DeviceBuffer, GpuContext
from gpuvm.guest.driver.copy import copy_linear, m2mf_linear, m2mf_rectangle
from gpuvm.guest.driver.errors import ChannelFault, FaultKind
from gpuvm.guest.driver.hardware import BIG_PAGE
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.push import Host, semaphore
from gpuvm.guest.ranges import OutOfSpace, RangeAllocator

log = logging.getLogger(__name__)
"""The standard library's: unconfigured, it writes to stderr, so a program's own output stays clean."""

CUcontext: Any = NAMES["CUcontext"]
CUlimit: Any = NAMES["CUlimit"]
SLAB = 1 << 20
SMALL = 128 << 10
SLOT = 16
_address = attrgetter("address")
FILL_LINE = 64 << 10
"""Bytes of the pattern line that a fill repeats."""
DEFAULT_LIMITS = {
    CUlimit.CU_LIMIT_STACK_SIZE: 1024,
    CUlimit.CU_LIMIT_PRINTF_FIFO_SIZE: 1 << 20,
    CUlimit.CU_LIMIT_MALLOC_HEAP_SIZE: 8 << 20,
}


class Allocation:
    """Device memory with an owner: cuMemAlloc, a module's code and variables.

    Attributes
    ----------
    address, size : int
        GPU virtual address and the bytes asked for.
    """

    __slots__ = ("address", "buffer", "module", "size", "slab")

    def __init__(self, address: int, size: int, buffer: DeviceBuffer | None, slab: Slab | None) -> None:
        self.address = address
        self.size = size
        self.buffer = buffer
        self.slab = slab
        self.module = False

    def __lt__(self, other: Allocation) -> bool:
        return self.address < other.address


class Slab:
    """One mapped buffer that many small allocations share."""

    def __init__(self, buffer: DeviceBuffer) -> None:
        self.buffer = buffer
        self.ranges = RangeAllocator(buffer.address, buffer.size, device.ALLOCATION_ALIGN, "a slab")


class Stream:
    """An ordered queue of a context. All streams of a context feed one channel, in the order of submission.

    Attributes
    ----------
    last : int
        Sequence number of its latest submission; 0 before the first.
    """

    def __init__(self, context: Context, flags: int = 0, priority: int = 0) -> None:
        self.context = context
        self.handle = next(handles)
        self.flags = flags
        self.priority = priority
        self.last = 0


class Context:
    """One CUDA context.

    Attributes
    ----------
    gpu : GpuContext
        Its address space and channel.
    error : CUresult or None
        The sticky error; nothing but destruction clears it.
    """

    def __init__(self, gpu: GpuContext, flags: int) -> None:
        self.handle = next(handles)
        self.gpu = gpu
        self.flags = flags
        self.lock = threading.RLock()
        self.error: Any = None
        self.detail = ""
        self.alive = True
        self.users = 1
        self.limits: dict[Any, int] = dict(DEFAULT_LIMITS)
        self.cache_config = NAMES["CUfunc_cache"].CU_FUNC_CACHE_PREFER_NONE
        self.shared_config = NAMES["CUsharedconfig"].CU_SHARED_MEM_CONFIG_FOUR_BYTE_BANK_SIZE
        self.default_stream = Stream(self)
        self.thread_streams: weakref.WeakKeyDictionary[threading.Thread, Stream] = weakref.WeakKeyDictionary()
        self.streams: dict[int, Stream] = {}
        self.objects: set[int] = set()
        self._allocations: list[Allocation] = []
        self._slabs: list[Slab] = []
        self._slots: list[int] = []
        self._late_slots: list[tuple[int, int]] = []
        self._pages: list[HostBuffer] = []
        self.staging = Staging(gpu)
        self.callbacks: Any = None
        self.services: Services | None = None

    # Work ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise the sticky error, if there is one by now."""
        if self.error is None:
            try:
                self.gpu.channel.check()
            except ChannelFault as fault:
                raise self.poison(fault) from None
        if self.error is not None:
            raise CudaError(self.error, self.detail)

    def poison(self, error: ChannelFault) -> CudaError:
        """Make a fault the context's sticky error; returns what to raise."""
        if self.error is None:
            self.error = FAULT_RESULTS[error.fault.kind]
            self.detail = str(error)
            if self.services is not None:
                self.services.flush()
                if self.services.assertion and error.fault.kind is FaultKind.TRAP:
                    self.error = NAMES["CUresult"].CUDA_ERROR_ASSERT
                    self.detail = self.services.assertion
            machine = self.gpu.driver.machine.name
            log.warning("%s: a CUDA context was stopped, %s: %s", machine, self.error.name, self.detail)
        return CudaError(self.error, self.detail)

    def submit(self, stream: Stream, words: list[int]) -> int:
        """Queue words on a stream; returns the sequence number."""
        if self.error is not None:
            raise CudaError(self.error, self.detail)
        channel = self.gpu.channel
        with channel.lock:
            try:
                stream.last = channel.submit(words)
            except ChannelFault as fault:
                raise self.poison(fault) from None
            return stream.last

    def copy(self, stream: Stream, destination: int, source: int, size: int) -> int:
        """Queue a copy between addresses that the GPU reaches: on streams of the program's own by the copy
        engine, as drivers do to leave PGRAPH to kernels; else by M2MF.
        """
        own = stream is not self.default_stream and self.gpu.driver.copy_engine
        return self.submit(stream, (copy_linear if own else m2mf_linear)(destination, source, size))

    def wait(self, sequence: int) -> None:
        """Wait for a submission."""
        if sequence:
            if self.error is not None:
                raise CudaError(self.error, self.detail)
            try:
                self.gpu.channel.wait(sequence)
            except ChannelFault as fault:
                raise self.poison(fault) from None
            if self.services is not None and self.gpu.channel.finished(self.gpu.channel.submitted):
                self.services.flush()

    def synchronize(self) -> None:
        """Wait for everything queued so far, callbacks included."""
        self.wait(self.gpu.channel.submitted)
        if self.callbacks is not None:
            self.callbacks.drain()
        self.check()

    def write(self, address: int, data: bytes | bytearray) -> None:
        """Queue bytes of the driver's own for device memory, on the default stream."""
        source = (ctypes.c_char * len(data)).from_buffer_copy(data)
        self.staging.upload(
            ctypes.addressof(source),
            len(data),
            lambda at, staged, length: self.submit(
                self.default_stream, m2mf_linear(address + at, staged, length)
            ),
        )

    def fill(
        self, stream: Stream, address: int, pattern: bytes, size: int, rows: int = 1, pitch: int = 0
    ) -> None:
        """Fill `rows` lines of `size` bytes, `pitch` bytes apart, with a repeated pattern (whose length
        divides `size`)."""
        if size == 0 or rows == 0:
            return
        line = min(size, FILL_LINE, self.staging.piece)
        source = pattern * (line // len(pattern))
        with self.staging.lock:
            staged = self.staging.reserve(line)
            ctypes.memmove(staged, source, line)
            if size <= line:
                # A source pitch of 0 reads the same line again and again.
                self.submit(stream, m2mf_rectangle(address, staged, size, rows, pitch or size, 0))
                return
            words: list[int] = []
            for row in range(rows):
                start = address + row * pitch
                if row == 0:
                    words += m2mf_linear(start, staged, line)
                    filled = line
                    # What is filled is the source of the next, twice as long part.
                    while filled < size:
                        length = min(filled, size - filled)
                        words += m2mf_linear(start + filled, start, length)
                        filled += length
                else:
                    words += m2mf_linear(start, address, size)
                if len(words) > 8192:
                    self.submit(stream, words)
                    words = []
            if words:
                self.submit(stream, words)

    # Memory ----------------------------------------------------------------------------------------------

    def allocate(self, size: int) -> Allocation:
        """Allocate device memory, from a slab if it is small."""
        with self.lock:
            if size > SMALL:
                buffer = self.gpu.allocate(size)
                allocation = Allocation(buffer.address, size, buffer, None)
            else:
                slab, address = self._from_slab(size)
                allocation = Allocation(address, size, None, slab)
            insort(self._allocations, allocation)
            return allocation

    def free(self, allocation: Allocation) -> None:
        """Free device memory that no queued work uses."""
        with self.lock:
            self._allocations.remove(allocation)
            if allocation.buffer is not None:
                self.gpu.free(allocation.buffer)
            elif allocation.slab is not None:
                slab = allocation.slab
                slab.ranges.free(allocation.address, allocation.size)
                # One empty slab is kept: alloc/free pairs would otherwise rewrite page tables each time.
                if slab.ranges.used_bytes == 0 and sum(not s.ranges.used_bytes for s in self._slabs) > 1:
                    self._slabs.remove(slab)
                    self.gpu.free(slab.buffer)

    def find(self, address: int) -> Allocation | None:
        """Return the allocation that holds an address."""
        with self.lock:
            allocations = self._allocations
            where = bisect_right(allocations, address, key=_address) - 1
        if where >= 0:
            allocation = allocations[where]
            if address - allocation.address < max(allocation.size, 1):
                return allocation
        return None

    @property
    def allocated(self) -> int:
        """Bytes of device memory that the program holds."""
        return sum(each.size for each in self._allocations)

    def take_slot(self) -> int:
        """Return the address of a free 16-byte semaphore slot."""
        with self.lock:
            if not self._slots and self._late_slots:
                finished = self.gpu.channel.finished
                done = [slot for slot, sequence in self._late_slots if finished(sequence)]
                self._late_slots = [late for late in self._late_slots if not finished(late[1])]
                self._slots += done
            if not self._slots:
                driver = self.gpu.driver
                with driver.lock:
                    page = HostBuffer(driver.machine, 4096)
                    try:
                        self.gpu.space.map_host(page)
                    except Exception:
                        page.free()
                        raise
                self._pages.append(page)
                self._slots = list(range(page.address, page.address + page.size, SLOT))
            return self._slots.pop()

    def give_slot(self, slot: int, sequence: int) -> None:
        """Give a slot back that the GPU may write until submission `sequence` has passed."""
        with self.lock:
            if not sequence or self.gpu.channel.finished(sequence):
                self._slots.append(slot)
            else:
                self._late_slots.append((slot, sequence))

    def close(self, kill: bool = False) -> None:
        """Free everything. Queued work is waited for, unless the context is poisoned or `kill` is set."""
        if not self.alive:
            return
        self.alive = False
        if self.error is None and not kill:
            self.gpu.finish()
        if kill:
            self.gpu.channel.abandon()
        if self.callbacks is not None:
            self.callbacks.close()
        self.gpu.close(kill)
        self.staging.close()
        if self.services is not None:
            self.services.flush()
            self.services.close()
        for page in self._pages:
            page.free()
        self._pages.clear()
        self._allocations.clear()
        self._slabs.clear()

    def _from_slab(self, size: int) -> tuple[Slab, int]:
        for slab in self._slabs:
            try:
                return slab, slab.ranges.allocate(size)
            except OutOfSpace:
                continue
        free = self.gpu.driver.vram.free_bytes
        slab = Slab(self.gpu.allocate(SLAB if free > 16 * SLAB else BIG_PAGE))
        self._slabs.append(slab)
        return slab, slab.ranges.allocate(size)


def release_words(slot: int, payload: int) -> list[int]:
    """Words that write (payload, 0, time in ns) to a slot when all earlier work of the channel is done."""
    return semaphore(slot, payload, Host.RELEASE)

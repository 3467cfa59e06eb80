"""Runs launches: finds or makes the translation, gives every worker thread a context, and says what came of
it."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpuvm.jit import layout as at
from gpuvm.jit.crew import Crew, leave, serve
from gpuvm.jit.fault import POOL_SIZE, POOL_WORKERS, runtime
from gpuvm.jit.launch import ErrorKind, ExecutionError, Launch, Outcome, Statistics
from gpuvm.jit.space import VA_SIZE, AccessError, AddressSpace
from gpuvm.jit.stop import StopFlag
from gpuvm.jit.translate import Translation, Translator

MAX_THREADS_PER_BLOCK = 1536
MAX_SHARED = 48 << 10
BANK = (1 << 16) + 64
ALONE_S = 100e-6
"""Grids expected to take less than this are never parked: they run on the calling thread and its workers."""
SHARE_S = 25e-6
"""Grids expected to take less than this run on the calling thread alone."""
LEAVE_S = 50e-6
"""Time within which a thread should come to the end of its claim."""
_launches = itertools.count(1)


class _Memory:
    """Zeroed host memory at a 64-byte boundary."""

    def __init__(self, size: int) -> None:
        self._all = np.zeros(size + 64, np.uint8)
        skip = -self._all.ctypes.data % 64
        self.bytes = self._all[skip : skip + size]
        self.address = int(self.bytes.ctypes.data)
        self.size = size
        self.i32 = self.bytes[: size // 4 * 4].view(np.int32)
        self.i64 = self.bytes[: size // 8 * 8].view(np.int64)


class _Context:
    """One worker's memory, kept between launches and grown as needed."""

    def __init__(self, number: int) -> None:
        self.memory = _Memory(at.CONTEXT_SIZE)
        self.shared = _Memory(MAX_SHARED + 4096)
        self.scratch = _Memory(at.SCRATCH_SIZE)
        self.barriers = _Memory(16 * at.BARRIER_SIZE)
        self.locks = _Memory(1 << 14)
        self.local = _Memory(64)
        self.local_owner: weakref.ref[AddressSpace] | Callable[[], None] = lambda: None
        self.states = _Memory(64)
        self.counters = _Memory(64)
        self.number = number

    def prepare(self, launch: Launch, translation: Translation, job: int, banks: int, locks: int) -> None:
        groups = translation.groups
        local = launch.local_positive + launch.local_negative
        stride = local * translation.lanes
        if local and (self.local.size < stride * groups + 64 or self.local_owner() is not launch.space):
            # Another address space may be another virtual machine's: nothing of it may be left to read.
            self.local = _Memory(stride * groups + 64)
            self.local_owner = weakref.ref(launch.space)
        if self.states.size < translation.state_bytes * groups + 64:
            self.states = _Memory(translation.state_bytes * groups + 64)
        count = len(translation.mixes) + 1
        if self.counters.size < 8 * count:
            self.counters = _Memory(8 * count)
        self.counters.bytes[:] = 0
        self.shared.bytes[: launch.shared_size + 64] = 0
        if translation.locks:
            self.locks.bytes[:] = 0
        w, h = self.memory.i64, self.memory.i32
        w[at.JOB // 8] = job
        w[at.ALIAS // 8] = launch.space.base
        w[at.SHARED // 8] = self.shared.address
        w[at.SHARED_SIZE // 8] = launch.shared_size
        w[at.LOCAL // 8] = self.local.address
        w[at.LOCAL_POSITIVE // 8] = launch.local_positive
        w[at.LOCAL_NEGATIVE // 8] = launch.local_negative
        w[at.LOCAL_STRIDE // 8] = stride
        w[at.CONSTANTS // 8] = banks
        w[at.COUNTERS // 8] = self.counters.address
        w[at.STATES // 8] = self.states.address
        w[at.BARRIERS // 8] = self.barriers.address
        w[at.SCRATCH // 8] = self.scratch.address
        w[at.SHARED_WINDOW // 8] = launch.shared_window
        w[at.LOCAL_WINDOW // 8] = launch.local_window
        w[at.SHARED_LOCKS // 8] = self.locks.address
        w[at.GLOBAL_LOCKS // 8] = locks
        w[at.BLOCKS_RUN // 8] = 0
        h[at.ERROR_KIND // 4] = 0
        h[at.ERROR_PC // 4] = -1
        w[at.ERROR_ADDRESS // 8] = 0
        h[at.ERROR_WRITE // 4] = 0
        h[at.WORKER // 4] = self.number


class _Set:
    """Contexts, constant copies and a job for one launch at a time."""

    def __init__(self, workers: int) -> None:
        self.contexts = [_Context(n) for n in range(workers)]
        self.pointers = _Memory(8 * workers)
        for n, context in enumerate(self.contexts):
            self.pointers.i64[n] = context.memory.address
        self.job = _Memory(at.JOB_SIZE)
        self.banks: list[_Memory | None] = [None] * 18
        self.filled = [0] * 18
        self.zero_bank = _Memory(BANK)
        self.table = _Memory(18 * 8)
        self.locks = _Memory(4096)


class Parked:
    """A launch with threads that wait in the middle of their blocks."""

    def __init__(
        self, launch: Launch, translation: Translation, work: _Set, crew: Crew, stop: StopFlag, first: int
    ) -> None:
        self.launch = launch
        self.translation = translation
        self.work = work
        self.crew = crew
        self.stop = stop
        self.first = first
        self.total = launch.grid[0] * launch.grid[1] * launch.grid[2]
        self.native_s = 0.0
        self.compile_s = 0.0


class Executor:
    """Runs launches on this machine's cores.

    Parameters
    ----------
    threads : int, optional
        Worker threads of one launch; default: one for each core this process may use.
    cache_dir : Path, optional
        Where translations are kept; default $GPUVM_CACHE_DIR or ~/.cache/gpuvm. None of both: see
        `Translator`.
    """

    def __init__(self, threads: int | None = None, cache_dir: Path | str | None = None) -> None:
        self.threads = threads or len(os.sched_getaffinity(0))
        self.runtime = runtime()
        self.translator = Translator(cache_dir)
        self._lock = threading.Lock()
        self._idle: list[_Set] = []
        self._pool_lock = threading.Lock()
        self._pool: _Memory | None = None
        self._workers: list[threading.Thread] = []
        self._crews: list[Crew] = []
        self._parked: set[Parked] = set()
        self._closed = False

    def close(self) -> None:
        """End the worker threads; launches that are parked end where they are."""
        for parked in list(self._parked):
            self.drop(parked)
        with self._lock:
            crews, self._crews = self._crews, []
        for crew in crews:
            crew.close()
        with self._pool_lock:
            self._closed = True
            if self._pool is not None:
                self.runtime.pool_quit(self._pool.address)
                for worker in self._workers:
                    worker.join()
                self._pool = None
                self._workers = []

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, launch: Launch, stop: StopFlag | None = None) -> Outcome:
        """Run a grid to its end, its first error, or until `stop` says so.

        Called from any thread; the interpreter is free while blocks run. Never raises for what a guest did.
        """
        started = time.perf_counter()
        bad = self._refuse(launch)
        if bad is not None:
            return Outcome(error=bad)
        try:
            translation = self.translator.get(launch)
        except AccessError as error:
            return Outcome(
                error=ExecutionError(ErrorKind.UNMAPPED, launch.entry, error.va, False, str(error))
            )
        except Exception as error:
            # A mistake of this translator ends the launch that found it, not the engine that serves all guests.
            text = f"a kernel must be translatable; this one was not: {error!r:.300}"
            return Outcome(error=ExecutionError(ErrorKind.ILLEGAL_INSTRUCTION, launch.entry, message=text))
        compile_s = translation.seconds()
        with self._lock:
            work = self._idle.pop() if self._idle else _Set(self.threads)
        outcome = None
        try:
            outcome = self._run(launch, translation, work, stop or StopFlag(), compile_s)
        finally:
            if outcome is None or outcome.parked is None:
                with self._lock:
                    self._idle.append(work)
        outcome.statistics.compile_s = compile_s
        outcome.statistics.wall_s = time.perf_counter() - started
        return outcome

    def prepare(self, launch: Launch) -> None:
        """Translate what `run` would translate first, so that its time is the kernel's alone."""
        if self._refuse(launch) is None:
            with suppress(AccessError):
                self.translator.get(launch)

    def _refuse(self, launch: Launch) -> ExecutionError | None:
        def error(text: str) -> ExecutionError:
            return ExecutionError(ErrorKind.BAD_LAUNCH, launch.entry, message=text)

        if min(launch.grid) < 1 or max(launch.grid) > 0xFFFFFFFF:
            return error(f"a grid must have at least one block in each direction, got {launch.grid}")
        bx, by, bz = launch.block
        if min(launch.block) < 1 or bx * by * bz > MAX_THREADS_PER_BLOCK:
            return error(f"a block must have 1 to {MAX_THREADS_PER_BLOCK} threads, got {launch.block}")
        if not 0 <= launch.shared_size <= MAX_SHARED:
            return error(
                f"a block may have up to {MAX_SHARED} bytes of shared memory, got {launch.shared_size}"
            )
        if not 0 < launch.registers <= 63:
            return error(f"a thread must have 1 to 63 registers, got {launch.registers}")
        local = launch.local_positive + launch.local_negative
        if min(launch.local_positive, launch.local_negative) < 0 or local > 512 << 10 or local % 4:
            return error(f"local memory must be a multiple of 4 up to 512 KiB a thread, got {local} bytes")
        if not 0 <= launch.code_base < VA_SIZE or not 0 <= launch.entry < 1 << 32:
            return error(
                f"code must lie in 40 bits, got entry {launch.entry:#x} in segment {launch.code_base:#x}"
            )
        return None

    def _constants(self, launch: Launch, translation: Translation, work: _Set) -> AccessError | None:
        """Copy the constant banks that the code uses; past their end everything is zero."""
        for bank in range(18):
            work.table.i64[bank] = work.zero_bank.address
        for bank, top in translation.banks.items():
            bound = launch.constants[bank] if bank < len(launch.constants) else None
            if bound is None or bound.size <= 0:
                continue
            copy = work.banks[bank]
            if copy is None:
                copy = work.banks[bank] = _Memory(BANK)
            size = min(bound.size, top, 1 << 16)
            try:
                data = launch.space.read(bound.address, size)
            except AccessError as error:
                return error
            copy.bytes[:size] = np.frombuffer(data, np.uint8)
            if work.filled[bank] > size:
                copy.bytes[size : work.filled[bank]] = 0
            work.filled[bank] = size
            work.table.i64[bank] = copy.address
        return None

    def _run(
        self, launch: Launch, translation: Translation, work: _Set, stop: StopFlag, compile_s: float
    ) -> Outcome:
        total = launch.grid[0] * launch.grid[1] * launch.grid[2]
        first = min(max(launch.first_block, 0), total)
        expected = None if translation.block_s is None else translation.block_s * (total - first)
        parkable = stop.parkable and (expected is None or expected >= ALONE_S or translation.surprising)
        shares = min(self.threads, total - first) > 1 and (expected is None or expected >= SHARE_S)
        if shares:
            self._rouse(parkable)
        unmapped = self._constants(launch, translation, work)
        if unmapped is not None:
            text = f"a bound constant buffer must be mapped; GPU address {unmapped.va:#x} is not"
            return Outcome(
                error=ExecutionError(ErrorKind.UNMAPPED, launch.entry, unmapped.va, False, text),
                blocks_done=first,
            )
        job, half = work.job.i64, work.job.i32
        job[at.JOB_NEXT // 8] = first
        job[at.JOB_END // 8] = total
        job[at.JOB_CHUNK // 8] = self._chunk(total - first, translation, stop)
        job[at.JOB_STOP // 8] = stop.word.ctypes.data
        half[at.JOB_FAILED // 4] = 0
        half[at.JOB_GRID_X // 4 : at.JOB_GRID_X // 4 + 3] = np.array(launch.grid, np.uint32).view(np.int32)
        half[at.JOB_ID // 4] = next(_launches) & 0x7FFFFFFF
        job[at.JOB_FUNCTION // 8] = translation.address
        job[at.JOB_CONTEXTS // 8] = work.pointers.address
        if translation.locks:
            work.locks.bytes[:] = 0
        for context in work.contexts:
            context.prepare(launch, translation, work.job.address, work.table.address, work.locks.address)
        self.runtime.install()
        if parkable:
            return self._start(Parked(launch, translation, work, self._crew(), stop, first), compile_s)
        job[at.JOB_POOL // 8] = 0
        began = time.perf_counter()
        threads = min(self.threads, total - first)
        if shares and self._pool_lock.acquire(blocking=False):
            try:
                self.runtime.pool_run(self._get_pool().address, work.job.address)
            finally:
                self._pool_lock.release()
        else:
            self.runtime.job(work.job.address, 0)
            threads = 1
        native_s = time.perf_counter() - began
        translation.took(native_s, threads, total - first)
        outcome = self._outcome(launch, translation, work, total, first)
        outcome.statistics.native_s = native_s
        return outcome

    def _rouse(self, parkable: bool) -> None:
        """Wake the threads that will be wanted: it takes about as long as what is still to be prepared."""
        if not parkable:
            pool = self._pool
            if pool is not None:
                self.runtime.rouse(pool.address, self.threads - 1)
            return
        with self._lock:
            crew = self._crews[-1].address if self._crews else 0
        if crew:
            self.runtime.rouse(crew, self.threads)

    def _chunk(self, blocks: int, translation: Translation, stop: StopFlag) -> int:
        """Blocks that a thread claims at once: it leaves, when told to, only between two claims."""
        most = 64
        if stop.parkable:
            known = translation.block_s
            most = 4 if known is None else int(LEAVE_S / known) if known * 64 > LEAVE_S else 64
        return max(1, min(blocks // (self.threads * 16), most))

    # Launches that can be parked

    def _crew(self) -> Crew:
        with self._lock:
            if self._crews:
                return self._crews.pop()
        return Crew(self.threads)

    def _start(self, parked: Parked, compile_s: float) -> Outcome:
        parked.compile_s = compile_s
        parked.work.job.i64[at.JOB_POOL // 8] = parked.crew.address
        return self._go(parked)

    def resume(self, parked: object) -> Outcome:
        """Go on with a launch that was parked; clear or replace nothing but its stop flag before."""
        assert isinstance(parked, Parked)
        self._parked.discard(parked)
        began = time.perf_counter()
        parked.stop.clear()
        self.runtime.install()
        outcome = self._go(parked)
        if outcome.parked is None:
            with self._lock:
                self._idle.append(parked.work)
            outcome.statistics.compile_s = parked.compile_s
        outcome.statistics.wall_s = time.perf_counter() - began
        return outcome

    def drop(self, parked: object) -> None:
        """End a launch that was parked, for good."""
        assert isinstance(parked, Parked)
        parked.stop.kill()
        self.resume(parked)

    def _go(self, parked: Parked) -> Outcome:
        """Run a job on its crew until it ends or is parked."""
        left = parked.total - parked.first
        parked.stop.attach(parked.crew)
        began = time.perf_counter()
        try:
            waits = parked.crew.run(parked.work.job.address, min(self.threads, left))
        finally:
            parked.stop.detach()
        parked.native_s += time.perf_counter() - began
        if waits:
            self._parked.add(parked)
            text = "the launch was switched out in the middle of its blocks"
            return Outcome(error=ExecutionError(ErrorKind.STOPPED, message=text), parked=parked)
        with self._lock:
            self._crews.append(parked.crew)
        launch, translation = parked.launch, parked.translation
        outcome = self._outcome(launch, translation, parked.work, parked.total, parked.first)
        if outcome.error is None:
            translation.took(parked.native_s, min(self.threads, left), left)
        outcome.statistics.native_s = parked.native_s
        return outcome

    def _get_pool(self) -> _Memory:
        if self._pool is None:
            pool = _Memory(POOL_SIZE)
            pool.i32[POOL_WORKERS // 4] = self.threads - 1
            for index in range(1, self.threads):
                worker = threading.Thread(
                    target=serve,
                    args=(pool.address, index, pool),
                    name=f"gpuvm-worker-{index}",
                    daemon=True,
                )
                worker.start()
                self._workers.append(worker)
            self._pool = pool
            weakref.finalize(self, leave, pool.address, pool)
        return self._pool

    def _outcome(
        self, launch: Launch, translation: Translation, work: _Set, total: int, first: int
    ) -> Outcome:
        outcome = Outcome()
        claimed = min(int(work.job.i64[at.JOB_NEXT // 8]), total)
        ran = sum(int(context.memory.i64[at.BLOCKS_RUN // 8]) for context in work.contexts)
        errors = [context for context in work.contexts if context.memory.i32[at.ERROR_KIND // 4] != 0]
        if errors:
            outcome.error = self._error(launch, translation, errors)
        elif claimed < total:
            outcome.error = ExecutionError(
                ErrorKind.STOPPED, message="the launch was asked to stop between blocks"
            )
        outcome.blocks_done = claimed if not errors else min(first + ran, claimed)
        self._count(outcome.statistics, translation, work)
        outcome.statistics.blocks = ran
        return outcome

    def _error(self, launch: Launch, translation: Translation, contexts: list[_Context]) -> ExecutionError:
        # A stop reaches all workers; a real error counts more than having been stopped.
        contexts = sorted(contexts, key=lambda c: int(c.memory.i32[at.ERROR_KIND // 4]) == -2)
        memory = contexts[0].memory
        kind = int(memory.i32[at.ERROR_KIND // 4])
        pc = code_offset(memory)
        address = int(memory.i64[at.ERROR_ADDRESS // 8]) & (1 << 64) - 1
        write = bool(memory.i32[at.ERROR_WRITE // 4])
        if kind == -2:
            return ExecutionError(ErrorKind.STOPPED, message="the launch was told to stop at once")
        if kind == -1:
            return self._fault(launch, translation, memory)
        what = ErrorKind(kind)
        if what not in (ErrorKind.UNMAPPED, ErrorKind.READ_ONLY, ErrorKind.MISALIGNED):
            address = 0
        elif what is ErrorKind.UNMAPPED and address == 0:
            # An access beyond the address space has one; this is the fetch of an instruction.
            address = launch.code_base + pc
        return ExecutionError(what, pc, address, write, MESSAGES.get(what, ""))

    def _fault(self, launch: Launch, translation: Translation, memory: _Memory) -> ExecutionError:
        """A host fault: which GPU address, and which instruction."""
        ip = int(memory.i64[at.ERROR_IP // 8])
        host = int(memory.i64[at.ERROR_ADDRESS // 8]) & (1 << 64) - 1
        write = bool(memory.i32[at.ERROR_WRITE // 4])
        pc = translation.locate(ip)
        if pc is None:
            pc = code_offset(memory)
        va = host - launch.space.base
        mapped = any(start <= va < end for start, end, _ in launch.space.ranges())
        kind = ErrorKind.READ_ONLY if mapped and write else ErrorKind.UNMAPPED
        return ExecutionError(kind, pc, max(va, 0), write, MESSAGES[kind])

    def _count(self, statistics: Statistics, translation: Translation, work: _Set) -> None:
        count = len(translation.mixes)
        runs = np.zeros(count, np.int64)
        for context in work.contexts:
            runs += context.counters.i64[:count]
        table = translation.mix_table
        sums = runs @ table
        scale = translation.lanes / 32
        (
            statistics.warp_instructions, statistics.double_instructions, statistics.special_instructions,
            statistics.shared_accesses, statistics.global_loads, statistics.global_stores,
            statistics.global_transactions, statistics.atomics, statistics.barriers,
        ) = (int(x * scale) for x in sums)  # fmt: skip
        statistics.global_transactions = int(sums[6] + runs[0])


def code_offset(memory: _Memory) -> int:
    """The offset that a worker noted: 32 bits, or -1 for not known."""
    pc = int(memory.i32[at.ERROR_PC // 4])
    return pc if pc >= -1 else pc & 0xFFFFFFFF


MESSAGES = {
    ErrorKind.ILLEGAL_INSTRUCTION: "the word at this offset must be an instruction that this GPU executes; it is not",
    ErrorKind.UNMAPPED: "a GPU address must be mapped before a kernel uses it; this one is not",
    ErrorKind.READ_ONLY: "a kernel must write to writable pages only; this page is mapped read-only",
    ErrorKind.MISALIGNED: "an address must be a multiple of the size of the access; this one is not",
    ErrorKind.OUT_OF_RANGE_REGISTER: "an instruction must use registers below the launch's count; this one does not",
    ErrorKind.SHARED_RANGE: "shared memory must be accessed inside the block's size; this access is not",
    ErrorKind.LOCAL_RANGE: "local memory must be accessed inside the thread's size; this access is not",
    ErrorKind.STACK: "pushes and pops of the reconvergence stack must match and fit its size; here they do not",
    ErrorKind.TRAP: "the kernel must not trap or wait at a barrier that can never open; it did",
    ErrorKind.BAD_LAUNCH: "a barrier's number must be below the launch's barrier count; it is not",
}


def process_address(array: npt.NDArray[np.uint8]) -> int:
    """Host address of an array (for tests and benches)."""
    return int(ctypes.c_void_p(array.ctypes.data).value or 0)

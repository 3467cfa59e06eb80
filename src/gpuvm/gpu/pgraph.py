"""PGRAPH: launches grids, and tells the driver of errors in methods, data and shaders. rnndb
graph/gf100_pgraph.

Exceptions are shown one at a time: the channel that caused the one in the registers waits for the driver's
acknowledgement, others queue behind it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Protocol

from gpuvm.gpu import pmc
from gpuvm.gpu.channel import Channel, Stop
from gpuvm.gpu.classes.method import ClassObject, DataError, Switched
from gpuvm.gpu.engine import Engine
from gpuvm.gpu.paging import MmuFault, Reason, walk
from gpuvm.gpu.pusher import HUB_CLIENT_DISPATCH, UNIT_PGRAPH
from gpuvm.registers.access import W1C, R
from gpuvm.registers.declare import Block, Field, Register, Scratch, bit

if TYPE_CHECKING:
    from gpuvm.gpu.classes.compute import Compute
    from gpuvm.gpu.device import Gf100
    from gpuvm.jit.launch import ExecutionError, Launch, Outcome, Statistics
    from gpuvm.jit.stop import StopFlag

INTR_NOTIFY, INTR_ILLEGAL_MTHD, INTR_ILLEGAL_CLASS = 1 << 0, 1 << 4, 1 << 5
INTR_CTXCTL, INTR_DATA_ERROR, INTR_TRAP = 1 << 19, 1 << 20, 1 << 21
TRAP_MACRO, TRAP_GPC = 1 << 7, 1 << 24
GPC_CLIENT_L1 = 0

GPC_BASE, GPC_STRIDE, TPC_BASE, TPC_STRIDE = 0x500000, 0x8000, 0x4000, 0x800
MAX_TPCS = 4

PGRAPH = Block(
    "PGRAPH",
    0x400000,
    0x9000,
    (
        Register(0x0100, "INTR", W1C),
        Register(0x0108, "TRAP", W1C, doc="which unit trapped; bit 24: a graphics cluster"),
        Register(0x0110, "DATA_ERROR", R),
        Register(0x0118, "TRAP_GPCS", W1C),
        Register(0x011C, "TRAP_ROPS", W1C),
        Register(0x0120, "INTR_NRHOST"),
        Register(0x0124, "INTR_EN_NRHOST"),
        Register(0x0130, "TRAP_GPCS_EN"),
        Register(0x0134, "TRAP_ROPS_EN"),
        Register(0x0138, "TRAP_EN"),
        Register(0x013C, "INTR_EN"),
        Register(0x0200, "ICMD_CMD", doc="an initial value of a context, data first; taken at once"),
        Register(0x0204, "ICMD_DATA"),
        Register(0x0208, "ICMD_UNK0208"),
        Register(0x0500, "FIFO_CONTROL", fields=(bit("PUSH", 0), bit("PULL", 16)), reset=0x10001),
        Register(0x0504, "FIFO_STATUS", R),
        Register(0x0604, "GPC_STATUS", R),
        Register(0x0608, "ROP_STATUS", R),
        Register(0x060C, "FE_STATUS", R, doc="1 while a method is carried out"),
        Register(0x0700, "STATUS", R, doc="0: idle"),
        Register(0x0704, "TRAPPED_ADDR", R, doc="method in bits 2-13, subchannel in bits 16-18"),
        Register(0x0708, "TRAPPED_DATA_LOW", R),
        Register(0x070C, "TRAPPED_DATA_HIGH", R),
        Register(0x4000, "DISPATCH_TRAP", fields=(Field("STATUS", 0, 29, W1C), Field("CLEAR", 30, 31))),
        Register(
            0x4170,
            "DISPATCH_PWR_MODE",
            fields=(Field("MODE", 0, 3), bit("BUSY", 4, R)),
            doc="bit 4: changing",
        ),
        Register(
            0x4200,
            "DISPATCH_CTX_CACHE",
            R,
            count=8,
            doc="class bound to each subchannel of the channel shown",
        ),
        Register(0x4488, "MACRO_MCACHE_CTRL"),
        Register(0x448C, "MACRO_MCACHE_DATA"),
        Register(
            0x4490,
            "MACRO_TRAP",
            fields=(Field("STATUS", 0, 29, W1C), Field("CLEAR", 30, 31)),
            doc="0 too few and 1 too many parameters, 2 opcode, 3 branch in a slot, 4 timeout; 30 clears",
        ),
        Register(0x4494, "MACRO_TRAP_PC", R, doc="valid in bit 28"),
        Register(0x449C, "MACRO_TRAP_OPCODE", R),
    ),
    (Scratch(0x0000, 0x8FFC, "initial values of the front end, which nothing here depends on"),),
    doc="Graphics front end",
)

PGRAPH_UNITS = Block(
    "PGRAPH_UNITS",
    0x40A000,
    0x16000,
    scratch=(
        Scratch(0x0000, 0x15FFC, "ROPs, graphics clusters and multiprocessors, one by one and broadcast"),
    ),
    doc="Units behind the front end",
)


def clusters(tpcs: tuple[int, ...], count: int) -> tuple[Block, ...]:
    """Declare the graphics clusters and their multiprocessors."""
    result: list[Block] = []
    for number in range(count):
        units = tpcs[number] if number < len(tpcs) else 0
        base = GPC_BASE + number * GPC_STRIDE
        result.append(
            Block(
                f"GPC{number}",
                base,
                TPC_BASE,
                (
                    Register(0x2608, "CTXCTL_UNITS", R, reset=units, doc="multiprocessors in this cluster"),
                    Register(0x2C90, "CTXCTL_TRAP", W1C, doc="bits 16 up: multiprocessors"),
                    Register(0x2C94, "CTXCTL_TRAP_EN"),
                ),
                (Scratch(0, TPC_BASE - 4, "cluster units and their microcontroller"),),
            )
        )
        result.append(
            Block(
                f"GPC{number}_TPC",
                base + TPC_BASE,
                TPC_STRIDE,
                (
                    Register(0x508, "MASTER_TRAP", R, doc="bit 1: the multiprocessor"),
                    Register(0x50C, "MASTER_TRAP_EN"),
                    Register(0x644, "MP_TRAP_WARP_ERROR_EN"),
                    Register(0x648, "MP_TRAP_WARP_ERROR", doc="code of the error that stopped a warp"),
                    Register(0x64C, "MP_TRAP_GLOBAL_ERROR_EN"),
                    Register(0x650, "MP_TRAP_GLOBAL_ERROR", W1C),
                ),
                (Scratch(0, TPC_STRIDE - 4, "multiprocessor units"),),
                count=MAX_TPCS,
                stride=TPC_STRIDE,
            )
        )
    return tuple(result)


WARP_ERRORS = {
    0x01: "STACK_ERROR",
    0x02: "API_STACK_ERROR",
    0x03: "RET_EMPTY_STACK_ERROR",
    0x04: "PC_WRAP",
    0x05: "MISALIGNED_PC",
    0x06: "PC_OVERFLOW",
    0x07: "MISALIGNED_IMMC_ADDR",
    0x08: "MISALIGNED_REG",
    0x09: "ILLEGAL_INSTR_ENCODING",
    0x0A: "ILLEGAL_SPH_INSTR_COMBO",
    0x0B: "ILLEGAL_INSTR_PARAM",
    0x0C: "INVALID_CONST_ADDR",
    0x0D: "OOR_REG",
    0x0E: "OOR_ADDR",
    0x0F: "MISALIGNED_ADDR",
    0x10: "INVALID_ADDR_SPACE",
    0x14: "DIVERGENT",
    0x15: "WARP_EXIT",
}
"""Codes of MP_TRAP_WARP_ERROR."""

_WARP_ERROR_OF = {
    "ILLEGAL_INSTRUCTION": 0x09,
    "MISALIGNED": 0x0F,
    "OUT_OF_RANGE_REGISTER": 0x0D,
    "SHARED_RANGE": 0x0E,
    "LOCAL_RANGE": 0x0E,
    "STACK": 0x01,
    "TRAP": 0x00,
}
GLOBAL_BPT_INT = 1 << 4
"""MP_TRAP_GLOBAL_ERROR of a trap instruction."""


class Executor(Protocol):
    """Who runs grids: `gpuvm.jit.executor.Executor`, or a test's stand-in."""

    def prepare(self, launch: Launch) -> None:
        """Translate what `run` would translate first."""

    def run(self, launch: Launch, stop: StopFlag | None) -> Outcome: ...

    def resume(self, parked: object) -> Outcome: ...

    def drop(self, parked: object) -> None: ...


@dataclass(slots=True)
class Task:
    """A launch from its LAUNCH method to its last block, switched out or not."""

    launch: Launch
    stop: StopFlag
    statistics: Statistics
    next_block: int = 0
    parked: object | None = None
    """Threads in the middle of their blocks (`Outcome.parked`)."""
    spent_ns: int = 0

    def add(self, statistics: Statistics) -> None:
        """Count a stretch of it."""
        for each in fields(statistics):
            total = getattr(self.statistics, each.name) + getattr(statistics, each.name)
            setattr(self.statistics, each.name, total)


@dataclass(slots=True)
class Report:
    """What PGRAPH tells the driver at once."""

    channel: Channel
    intr: int
    method: int = 0
    subchannel: int = 0
    data: int = 0
    code: int = 0
    cluster: int = -1
    warp_error: int = 0
    global_error: int = 0
    macro: tuple[int, int, int] | None = None
    """MACRO_TRAP, its program counter and the instruction."""
    classes: tuple[int, ...] = field(default_factory=tuple)


class Pgraph(Engine):
    """The graphics engine."""

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._owner: Channel | None = None
        self._queue: deque[Report] = deque()
        self._launching: tuple[Channel, StopFlag] | None = None
        self._timed_out = False
        self._swept: Channel | None = None
        """Channel whose launch an engine reset ended: its driver hears of a timeout."""
        self._abort_lock = threading.Lock()

    BLOCKS: ClassVar = (PGRAPH, PGRAPH_UNITS)

    def blocks(self) -> tuple[Block, ...]:
        profile = self.gpu.profile
        return (*self.BLOCKS, *clusters(profile.tpcs, profile.max_gpcs))

    def place(self) -> None:
        super().place()
        self._intr, self._intr_en = self.at("PGRAPH", "INTR"), self.at("PGRAPH", "INTR_EN")

    # State shown

    @property
    def busy(self) -> bool:
        """Whether a channel is being run."""
        return self.gpu.runner.current is not None

    def read_status(self) -> int:
        return 1 if self.busy else 0

    def read_fe_status(self) -> int:
        return int(self.busy)

    def update(self) -> None:
        """Recompute this engine's line."""
        pending = self.words[self._intr] & self.words[self._intr_en]
        self.gpu.pmc.line(pmc.INTR_PGRAPH, bool(pending))

    # Exceptions

    def method_error(
        self, channel: Channel, number: int, subchannel: int, method: int, data: int, error: DataError | None
    ) -> None:
        """Report a method that class `number` lacks (`error` None), or a value that it refuses."""
        self._raise(
            Report(
                channel,
                INTR_ILLEGAL_MTHD if error is None else INTR_DATA_ERROR,
                method,
                subchannel,
                data,
                0 if error is None else int(error),
            )
        )

    def class_error(self, channel: Channel, subchannel: int, data: int) -> None:
        """Report a bind to a class that PGRAPH does not have."""
        self._raise(Report(channel, INTR_ILLEGAL_CLASS, 0, subchannel, data))

    def macro_trap(self, channel: Channel, bits: int, pc: int, opcode: int) -> None:
        """Report that the macro processor stopped."""
        self._raise(Report(channel, INTR_TRAP, macro=(bits, pc, opcode)))

    def write_macro_trap(self, value: int) -> None:
        if value & 1 << 30:
            self.words[self.at("PGRAPH", "MACRO_TRAP")] &= ~0x3FFFFFFF

    def _raise(self, report: Report) -> None:
        channel = report.channel
        report.classes = tuple(0 if each is None else each.TABLE.number for each in channel.objects)
        with self.gpu.locked():
            channel.waiting = True
            self._queue.append(report)
            if self._owner is None:
                self._show()
            self.update()
        self.gpu.notify_error(channel)

    def _show(self) -> None:
        if not self._queue:
            self._owner = None
            return
        report = self._queue.popleft()
        self._owner = report.channel
        words, at = self.words, self.at
        words[at("PGRAPH", "TRAPPED_ADDR")] = report.subchannel << 16 | report.method
        words[at("PGRAPH", "TRAPPED_DATA_LOW")] = report.data
        words[at("PGRAPH", "DATA_ERROR")] = report.code
        for subchannel, number in enumerate(report.classes):
            words[at("PGRAPH", "DISPATCH_CTX_CACHE", subchannel)] = number
        self.gpu.ctxctl.show_channel(report.channel.instance)
        if report.cluster >= 0:
            words[at("PGRAPH", "TRAP")] |= TRAP_GPC
            words[at("PGRAPH", "TRAP_GPCS")] |= 1 << report.cluster
            words[at(f"GPC{report.cluster}", "CTXCTL_TRAP")] |= 1 << 16
            tpc = f"GPC{report.cluster}_TPC"
            words[at(tpc, "MASTER_TRAP")] = 2
            words[at(tpc, "MP_TRAP_WARP_ERROR")] = report.warp_error
            words[at(tpc, "MP_TRAP_GLOBAL_ERROR")] = report.global_error
        if report.macro is not None:
            words[at("PGRAPH", "TRAP")] |= TRAP_MACRO
            words[at("PGRAPH", "MACRO_TRAP")] |= report.macro[0]
            words[at("PGRAPH", "MACRO_TRAP_PC")] = 1 << 28 | report.macro[1]
            words[at("PGRAPH", "MACRO_TRAP_OPCODE")] = report.macro[2]
        words[self._intr] |= report.intr

    def write_intr(self, value: int) -> None:
        if self._owner is not None and not self.words[self._intr]:
            channel, self._owner = self._owner, None
            channel.waiting = False
            self.words[self.at("GPC0_TPC", "MASTER_TRAP")] = 0
            self._show()
            self.gpu.runner.ring(channel.number)
        self.update()

    def write_intr_en(self, value: int) -> None:
        self.update()

    # Launches

    def launch(self, target: Compute, grid: tuple[int, int, int], block: tuple[int, int, int]) -> None:
        """Run a grid in the engine thread, to its end or until its channel is switched out; called again for
        the same LAUNCH it goes on from there.

        Raises
        ------
        Switched
            If the channel was switched out: the object keeps the launch.
        MmuFault
            If the page tables cannot be mapped; what the kernel itself does wrong is reported here.
        """
        channel = target.channel
        began = time.perf_counter_ns()
        task = target.task
        try:
            if task is None:
                task = target.task = self._begin(target, grid, block)
            outcome = self._run(channel, task)
        except MmuFault:
            self.drop(target)
            raise
        task.spent_ns += time.perf_counter_ns() - began
        task.add(outcome.statistics)
        error = outcome.error
        if error is not None and error.kind.name == "STOPPED" and not task.stop.killed:
            task.parked = outcome.parked
            task.next_block = outcome.blocks_done
            raise Switched
        target.task = None
        self.gpu.counters.launched(
            channel.number,
            task.statistics,
            task.spent_ns,
            math.prod(grid) * -(-math.prod(block) // 32),
            sum(self.gpu.profile.tpcs),
        )
        if error is not None:
            self._failed(channel, error)

    def _begin(self, target: Compute, grid: tuple[int, int, int], block: tuple[int, int, int]) -> Task:
        from gpuvm.jit.launch import ConstantBank, Launch, Statistics
        from gpuvm.jit.stop import StopFlag

        state = target.state
        launch = Launch(
            space=target.channel.space.prepare(),
            code_base=target.address(0x1608),
            entry=state[0x3B4 >> 2],
            grid=grid,
            block=block,
            registers=state[0x2C0 >> 2],
            shared_size=state[0x24C >> 2],
            local_positive=state[0x204 >> 2] & 0xFFFFF0,
            local_negative=state[0x208 >> 2] & 0xFFFFF0,
            stack_size=state[0x20C >> 2] & 0x1FFFFF,
            barriers=min(state[0x254 >> 2], 16),
            constants=tuple(None if bank is None else ConstantBank(*bank) for bank in target.banks),
            shared_window=state[0x214 >> 2],
            local_window=state[0x77C >> 2],
        )
        return Task(launch, StopFlag(parkable=True), Statistics())

    def _run(self, channel: Channel, task: Task) -> Outcome:
        """Give a launch the engine until it ends or is switched out."""
        executor, stop, space = self.gpu.executor(), task.stop, channel.space
        host = space.prepare()
        if task.parked is None:
            task.launch = replace(task.launch, space=host, first_block=task.next_block)
        stop.clear()
        stop.deadline = channel.slice_end
        with self._abort_lock:
            self._launching = (channel, stop)
            self._swept = None
        if channel.stop is not None or self.gpu.runner.closing:
            stop.kill()
        elif channel.kicked:
            stop.park()
        timer = None
        if task.parked is None:
            space.running(+1)
        parked = None
        try:
            if self.gpu.watchdog_s is not None and task.parked is None:
                # The limit is the kernel's own time; translating it is ours.
                executor.prepare(task.launch)
            timer = self._watch(task)
            waits = task.parked
            outcome = executor.run(task.launch, stop) if waits is None else executor.resume(waits)
            parked = task.parked = outcome.parked
            return outcome
        finally:
            # Threads that are parked still use the host's view; what they wrote so far counts all the same.
            space.running(-1)
            if parked is not None:
                space.running(+1)
            with self._abort_lock:
                self._launching = None
            if timer is not None:
                timer.cancel()

    def end_launch(self, channel: Channel) -> None:
        """End the launch that a channel was switched out of, for good."""
        for each in channel.objects:
            if each is not None:
                self.drop(each)

    def drop(self, target: ClassObject) -> None:
        """End the launch that an object was switched out of, for good."""
        task: Task | None = getattr(target, "task", None)
        if task is None:
            return
        target.task = None  # type: ignore[attr-defined]
        if task.parked is not None:
            self.gpu.executor().drop(task.parked)
            target.channel.space.running(-1)

    def switch_out(self, channel: Channel) -> None:
        """Have the launch in progress stop at its threads' next thread-block boundary or loop back-edge, if it
        is this channel's."""
        with self._abort_lock:
            if self._launching is not None and self._launching[0] is channel:
                self._launching[1].park()

    def limit(self, channel: Channel) -> None:
        """Tell the launch in progress, if it is this channel's, that its slice's end was moved."""
        with self._abort_lock:
            if self._launching is not None and self._launching[0] is channel:
                self._launching[1].deadline = channel.slice_end

    def _watch(self, task: Task) -> threading.Timer | None:
        self._timed_out = False
        limit = self.gpu.watchdog_s
        if limit is None:
            return None

        def expire() -> None:
            self._timed_out = True
            task.stop.kill()

        timer = threading.Timer(max(limit - task.spent_ns * 1e-9, 0.0), expire)
        timer.daemon = True
        timer.start()
        return timer

    def _failed(self, channel: Channel, error: ExecutionError) -> None:
        kind = error.kind.name
        if kind in ("UNMAPPED", "READ_ONLY"):
            fault = self._fault(channel, error.address, error.write or kind == "READ_ONLY", kind)
            channel.stop = Stop.MMU_FAULT
            self.gpu.pfifo.channel_fault(channel, UNIT_PGRAPH, fault, GPC_CLIENT_L1, 0)
        elif kind == "STOPPED":
            if self._timed_out or self._swept is channel:
                channel.stop = Stop.TIMEOUT
                self.gpu.pfifo.engine_timeout(channel)
        elif kind == "BAD_LAUNCH":
            channel.stop = Stop.TRAP
            self._raise(Report(channel, INTR_DATA_ERROR, 0x368, 0, 0, int(DataError.INVALID_VALUE)))
        else:
            channel.stop = Stop.TRAP
            trapped = kind == "TRAP"
            self._raise(
                Report(
                    channel,
                    INTR_TRAP,
                    cluster=0,
                    warp_error=_WARP_ERROR_OF.get(kind, 0x0B),
                    global_error=GLOBAL_BPT_INT if trapped else 0,
                )
            )

    def _fault(self, channel: Channel, address: int, write: bool, kind: str) -> MmuFault:
        """Find the reason that the walker would give."""
        try:
            walk(self.gpu.memory, channel.space.root, address)
        except MmuFault as fault:
            fault.write = write
            return fault
        return MmuFault(
            address, write, Reason.PAGE_READ_ONLY if kind == "READ_ONLY" else Reason.PAGE_NOT_PRESENT
        )

    def object_fault(self, channel: Channel, target: ClassObject, fault: MmuFault) -> None:
        """Report a fault of an engine's own access for a method."""
        self.gpu.pfifo.channel_fault(channel, UNIT_PGRAPH, fault, HUB_CLIENT_DISPATCH, None)

    def abort(self, channel: Channel | None) -> None:
        """Stop the launch in progress if it is this channel's (any channel's if None)."""
        with self._abort_lock:
            if self._launching is not None and channel in (None, self._launching[0]):
                self._launching[1].kill()

    def forget(self, channel: Channel) -> None:
        """Drop what a channel that is gone still had to say, and the launch that it was switched out of."""
        self.end_launch(channel)
        self._queue = deque(each for each in self._queue if each.channel is not channel)
        if self._owner is channel:
            self.words[self._intr] = 0
            self._show()
            self.update()

    def reset(self) -> None:
        """Engine reset: a launch in progress ends and its channel stops; exceptions are dropped."""
        with self._abort_lock:
            launching = self._launching
        if launching is not None:
            self._swept = launching[0]
            launching[1].kill()
        waiting = [each.channel for each in self._queue]
        if self._owner is not None:
            waiting.append(self._owner)
        self._queue.clear()
        self._owner = None
        super().reset()
        self.update()
        for channel in waiting:
            channel.waiting = False
            self.gpu.runner.ring(channel.number)

"""The driver's interrupt path: a top half that only takes note, and the service that reads the interrupt
tree, decodes faults and hands them to the channels they stopped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from gpuvm.guest.driver.errors import Fault, FaultKind
from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import (
    FAULT_REASONS,
    FAULT_STRIDE,
    FAULT_UNITS,
    GPC_STRIDE,
    GPC_TRAP,
    INTR_PFIFO,
    INTR_PGRAPH,
    MP_GLOBAL_ERROR,
    MP_WARP_ERROR,
    PFIFO_INTR_FAULT,
    PFIFO_INTR_NONSTALL,
    PFIFO_INTR_RUNLIST,
    PFIFO_INTR_SCHED,
    PFIFO_INTR_SUBFIFO,
    SUBFIFO_STRIDE,
    TPC_BASE,
    TPC_STRIDE,
    TPC_TRAP,
    WARP_ERRORS,
    Reg,
)

ENGINES = 6
WARP_FAULTS = {
    0x01: FaultKind.STACK,
    0x02: FaultKind.STACK,
    0x03: FaultKind.STACK,
    0x04: FaultKind.INVALID_PC,
    0x05: FaultKind.INVALID_PC,
    0x06: FaultKind.INVALID_PC,
    0x07: FaultKind.MISALIGNED_ADDRESS,
    0x08: FaultKind.ILLEGAL_INSTRUCTION,
    0x09: FaultKind.ILLEGAL_INSTRUCTION,
    0x0A: FaultKind.ILLEGAL_INSTRUCTION,
    0x0B: FaultKind.ILLEGAL_INSTRUCTION,
    0x0C: FaultKind.OUT_OF_RANGE_ADDRESS,
    0x0D: FaultKind.ILLEGAL_INSTRUCTION,
    0x0E: FaultKind.OUT_OF_RANGE_ADDRESS,
    0x0F: FaultKind.MISALIGNED_ADDRESS,
    0x10: FaultKind.INVALID_ADDRESS_SPACE,
    0x11: FaultKind.ILLEGAL_INSTRUCTION,
    0x12: FaultKind.OUT_OF_RANGE_ADDRESS,
    0x15: FaultKind.TRAP,
}


class InterruptLine:
    """Where the machine's top half and the sleeping waiters meet."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self.count = 0
        self.pending = False

    def top_half(self) -> None:
        with self._arrived:
            self.count += 1
            self.pending = True
            self._arrived.notify_all()

    def sleep(self, seen: int, seconds: float) -> None:
        """Sleep until an interrupt arrives after the `seen`-th, or the time is over."""
        with self._arrived:
            if self.count == seen:
                self._arrived.wait(seconds)


class Interrupts:
    """Services the interrupt tree.

    Parameters
    ----------
    on_fault : callable
        Called with (instance block address or -1, channel id or -1, fault) for each channel fault.
    """

    def __init__(
        self,
        function: Function,
        shape: list[int],
        subfifos: int,
        on_fault: Callable[[int, int, Fault], None],
    ) -> None:
        self._function = function
        self._shape = shape
        self._subfifos = subfifos
        self._on_fault = on_fault
        self.line = InterruptLine()
        self.lock = threading.Lock()
        self._waiters = 0
        self.serviced = 0

    def enable(self) -> None:
        function = self._function
        function.write(Reg.PFIFO_INTR, 0xFFFFFFFF)
        function.write(Reg.PFIFO_INTR_EN, 0x7FFFFFFF)
        function.write(Reg.PFIFO_NONSTALL_ENABLE, 1)
        function.write(Reg.PMC_INTR_MASK, 0x7FFFFFFF)
        function.write(Reg.PMC_INTR_EN, 1)

    def disable(self) -> None:
        self._function.write(Reg.PMC_INTR_EN, 0)
        self._function.write(Reg.PFIFO_INTR_EN, 0)

    def watch(self, more: int) -> None:
        """Count a sleeping waiter in (+1) or out (-1): completion interrupts are on only while somebody
        sleeps."""
        with self.lock:
            before = self._waiters
            self._waiters += more
            if (before == 0) != (self._waiters == 0):
                self._want_completions(self._waiters > 0)

    def service(self) -> None:
        """Handle whatever is pending. Called by whichever thread of the guest notices first."""
        if not self.line.pending:
            return
        with self.lock:
            if not self.line.pending:
                return
            self.line.pending = False
            self.serviced += 1
            self._handle()

    def _want_completions(self, wanted: bool) -> None:
        """Switch completion interrupts on or off."""
        self._function.write(Reg.PFIFO_INTR_EN, 0xFFFFFFFF if wanted else 0x7FFFFFFF)

    def _handle(self) -> None:
        """Go through the interrupt tree."""
        function = self._function
        function.write(Reg.PMC_INTR_EN, 0)
        try:
            leaf = function.read(Reg.PMC_INTR)
            # A trap names the warp's error, the fault that comes with it names the channel: read traps
            # first.
            trap = self._graph() if leaf & INTR_PGRAPH else None
            if leaf & INTR_PFIFO:
                trap = self._fifo(trap)
            if trap is not None:
                self._on_fault(trap[0], -1, trap[1])
        finally:
            function.write(Reg.PMC_INTR_EN, 1)
            function.device.write(0, Reg.PCI_MSI_REARM, 1, 0xFF)

    def _fifo(self, trap: tuple[int, Fault] | None) -> tuple[int, Fault] | None:
        function = self._function
        status = function.read(Reg.PFIFO_INTR)
        if status & PFIFO_INTR_NONSTALL:
            units = function.read(Reg.PFIFO_NONSTALL_UNITS)
            unit = 0
            while units >> unit:
                if units >> unit & 1:
                    value = function.read(Reg.PFIFO_NONSTALL_VALUE + 4 * unit)
                    function.write(Reg.PFIFO_NONSTALL_VALUE + 4 * unit, value)
                unit += 1
            function.write(Reg.PFIFO_INTR, PFIFO_INTR_NONSTALL)
        if status & PFIFO_INTR_FAULT:
            units = function.read(Reg.PFIFO_FAULT_UNITS)
            for unit in range(32):
                if units >> unit & 1:
                    self._memory_fault(unit)
            function.write(Reg.PFIFO_FAULT_UNITS, units)
            function.write(Reg.PFIFO_INTR, PFIFO_INTR_FAULT)
        if status & PFIFO_INTR_SUBFIFO:
            for unit in range(self._subfifos):
                if function.read(Reg.PFIFO_SUBFIFO_INTR) >> unit & 1:
                    self._subfifo(unit)
            function.write(Reg.PFIFO_INTR, PFIFO_INTR_SUBFIFO)
        if status & PFIFO_INTR_SCHED:
            self._stuck_engine()
            function.write(Reg.PFIFO_INTR, PFIFO_INTR_SCHED)
        if status & PFIFO_INTR_RUNLIST:
            function.write(Reg.PFIFO_RUNLIST_INTR, function.read(Reg.PFIFO_RUNLIST_INTR))
            function.write(Reg.PFIFO_INTR, PFIFO_INTR_RUNLIST)
        return trap

    def _stuck_engine(self) -> None:
        """PFIFO gave up on an engine that does not switch away from a channel: a kernel that never ends."""
        code = self._function.read(Reg.PFIFO_SCHED_ERROR)
        for engine in range(ENGINES):
            state = self._function.read(Reg.PFIFO_ENGINE_STATE + 4 * engine)
            if state >> 31:
                detail = (
                    f"PFIFO stopped a channel that kept engine {engine} too long (scheduler error {code:#x})"
                )
                self._on_fault(-1, state & 0x7F, Fault(FaultKind.TIMEOUT, 0, detail))

    def _memory_fault(self, unit: int) -> None:
        read = self._function.read
        base = Reg.PFIFO_FAULT + FAULT_STRIDE * unit
        instance = read(base) << 12
        address = read(base + 8) << 32 | read(base + 4)
        status = read(base + 12)
        reason = FAULT_REASONS.get(status & 0xF, f"reason {status & 0xF:#x}")
        kind = FaultKind.READ_ONLY_ADDRESS if status & 0xF == 6 else FaultKind.ILLEGAL_ADDRESS
        access = "write" if status & 0x80 else "read"
        who = FAULT_UNITS.get(unit, f"unit {unit:#x}")
        self._on_fault(
            instance, -1, Fault(kind, address, f"{who} {access} fault at {address:#012x}: {reason}")
        )

    def _subfifo(self, unit: int) -> None:
        function = self._function
        at = SUBFIFO_STRIDE * unit
        status = function.read(Reg.SUBFIFO_INTR + at)
        method = function.read(Reg.SUBFIFO_METHOD + at)
        data = function.read(Reg.SUBFIFO_DATA + at)
        channel = function.read(Reg.SUBFIFO_CHANNEL + at) & 0x7F
        function.write(Reg.SUBFIFO_INTR + at, status)
        function.write(Reg.PFIFO_SUBFIFO_INTR, 1 << unit)
        detail = (
            f"PBDMA{unit} error {status:#010x}: subchannel {method >> 16 & 7}, "
            f"method {method & 0x3FFC:#06x}, data {data:#010x}"
        )
        self._on_fault(-1, channel, Fault(FaultKind.BAD_METHOD, 0, detail))

    def _graph(self) -> tuple[int, Fault] | None:
        """Read and clear PGRAPH's traps; returns (instance block, fault) if a channel is to blame."""
        function = self._function
        status = function.read(Reg.PGRAPH_INTR)
        instance = (function.read(Reg.FECS_CURRENT) & 0x0FFFFFFF) << 12
        fault: Fault | None = None
        if status & 0x00200000:
            traps = function.read(Reg.PGRAPH_TRAP)
            if traps & 0x01000000:
                fault = self._multiprocessors()
            if fault is None:
                fault = Fault(FaultKind.TRAP, 0, f"PGRAPH trap {traps:#010x}")
            function.write(Reg.PGRAPH_TRAP, traps)
        elif status & 0x00100070:
            address = function.read(Reg.PGRAPH_TRAPPED_ADDRESS)
            data = function.read(Reg.PGRAPH_TRAPPED_DATA)
            class_error = function.read(Reg.PGRAPH_UNIT110)
            detail = (
                f"PGRAPH refused a method (status {status:#x}, error {class_error:#x}): "
                f"subchannel {address >> 16 & 7}, method {address & 0x3FFC:#06x}, data {data:#010x}"
            )
            fault = Fault(FaultKind.BAD_METHOD, 0, detail)
        elif status & 0x00080000:
            fecs = function.read(Reg.FECS_INTR)
            function.write(Reg.FECS_INTR_ACK, fecs)
            fault = Fault(FaultKind.TIMEOUT, 0, f"PGRAPH context control stopped the channel: {fecs:#x}")
        if status:
            function.write(Reg.PGRAPH_INTR, status)
        function.write(Reg.PGRAPH_FIFO_CONTROL, 0x00010001)
        return (instance, fault) if fault is not None else None

    def _multiprocessors(self) -> Fault | None:
        function = self._function
        gpcs = function.read(Reg.PGRAPH_TRAP_GPC)
        found: Fault | None = None
        for gpc, tpcs in enumerate(self._shape):
            if not gpcs >> gpc & 1:
                continue
            base = Reg.GPC0 + GPC_STRIDE * gpc
            which = function.read(base + GPC_TRAP) >> 16
            for tpc in range(tpcs):
                if not which >> tpc & 1:
                    continue
                unit = base + TPC_BASE + TPC_STRIDE * tpc
                if function.read(unit + TPC_TRAP) & 2:
                    warp = function.read(unit + MP_WARP_ERROR) & 0xFFFF
                    code = function.read(unit + MP_GLOBAL_ERROR)
                    name = WARP_ERRORS.get(warp, f"warp error {warp:#x}")
                    found = found or Fault(
                        WARP_FAULTS.get(warp, FaultKind.TRAP),
                        0,
                        f"GPC{gpc}/TPC{tpc} multiprocessor trap: {name} (global {code:#x})",
                    )
                    function.write(unit + MP_WARP_ERROR, 0)
                    function.write(unit + MP_GLOBAL_ERROR, code)
            function.write(base + GPC_TRAP, which << 16)
        function.write(Reg.PGRAPH_TRAP_GPC, gpcs)
        return found

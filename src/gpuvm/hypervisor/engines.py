"""The engines as one guest sees them: per-VM registers, the handshakes that its driver expects, and its
interrupt tree.

The guest's driver believes that it resets engines, uploads microcode, runs method lists and sets the clock.
The physical chip was brought up once; what the guest writes is kept here and answered so that its bring-up
succeeds. Offsets are those of BAR0.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.physical import PhysicalGpu

SIZE = 16 << 20

PMC_INTR_ENABLE = 0x000140
PMC_ENABLE = 0x000200
PMC_MASK = 0x000640
ENABLE_PFIFO = 1 << 8
ENABLE_PGRAPH = 1 << 12
LINE_PFIFO = 1 << 8
LINE_PGRAPH = 1 << 12
LINE_PTIMER = 1 << 20

PFIFO_INTR = 0x002100
PFIFO_INTR_ENABLE = 0x002140
PFIFO_SCHED = 0x00254C
PFIFO_FAULT_UNITS = 0x00259C
PFIFO_NONSTALL = 0x0025A8
PFIFO_NONSTALL_COUNT = 6
PFIFO_FAULTS = 0x002800
PFIFO_RUNLIST = 0x002A00
RUNLIST_TAKEN = 1 << 28
INTR_SCHED = 1 << 8
INTR_FAULT = 1 << 28
INTR_PBDMA = 1 << 29
INTR_RUNLIST = 1 << 30
INTR_NONSTALL = 1 << 31
INTR_COMPUTED = INTR_FAULT | INTR_PBDMA | INTR_RUNLIST | INTR_NONSTALL

PBDMA_INTR = 0x040108
PBDMA_STRIDE = 0x2000
PBDMA_COUNT = 3

PTIMER_LOW = 0x009400
PTIMER_HIGH = 0x009410
PTIMER_INTR = 0x009100
PTIMER_INTR_ENABLE = 0x009140

PMU_SEND_GET = 0x10A4B0
PMU_HANDSHAKE = ((0x10A4D0, 0x00800100), (0x10A4DC, 0x00800180))
"""Queue descriptors that the PMU's microcode publishes once it runs."""

PFIFO_ENGINE_STATE = 0x002640
PTIMER_ALARM = 0x009420
COPY_INTR = 0x104008
COPY_STRIDE = 0x1000
COPY_LINES = (1 << 5, 1 << 6)
GRAPH_INTR = 0x400100
GRAPH_INTR_ENABLE = 0x40013C
POWER_MODE = 0xF
"""Bits of 0x404170 that are kept; bit 4 says that the change is in progress."""

FECS_INTR = 0x409C18
FECS_DATA = 0x409500
FECS_SCRATCH = 0x409800
FECS_CURRENT = 0x409B00
FECS_NEXT = 0x409B04
FECS_READY = 1 << 31
FECS_UNLOAD = 0x100
START = 0x2

EVENT_LIMIT = 256
"""Events of one kind that wait to be shown; a VM's channels cause one at a time each."""

CONTEXT_SIZE = 0x1000
"""Bytes of a graphics context; the real image of the chip is saved by the aggregator's own microcode, not by
the guest's."""

FECS_REPLIES: dict[int, tuple[int, int, bool]] = {
    0x01: (FECS_SCRATCH, FECS_READY, True),  # bind a context
    0x03: (FECS_SCRATCH, 0x10, True),  # bind pointer
    0x09: (FECS_SCRATCH, 0x01, True),  # save the golden context
    0x10: (FECS_SCRATCH, CONTEXT_SIZE, False),  # context image size
    0x16: (FECS_SCRATCH, 0x200, False),  # zcull image size
    0x25: (FECS_SCRATCH, 0x200, False),  # performance counter image size
    0x30: (FECS_SCRATCH, CONTEXT_SIZE, False),  # register list size
    0x31: (FECS_SCRATCH, 1, False),  # register list bind
    0x32: (FECS_SCRATCH, 1, False),  # register list address
    0x38: (FECS_SCRATCH + 4, 1, False),  # pause
    0x39: (FECS_SCRATCH + 4, 1, False),  # resume
}
"""Command of the context-switch microcontroller -> (register, value, whether the bits are added to what is
there)."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something of a channel that the guest's driver has to see and acknowledge.

    Attributes
    ----------
    bits : int
        Bits of the status register.
    words : sequence of (int, int)
        Registers that describe it, and their values.
    done : callable
        Called when the driver has acknowledged it.
    """

    bits: int
    words: Sequence[tuple[int, int]]
    done: Callable[[], None]


class VirtualEngines:
    """Registers of one VM.

    Parameters
    ----------
    gpu : PhysicalGpu
        Where the facts about the chip are read.
    counters : Counters
        Those of the VM.
    interrupt : callable
        Told whether the VM's interrupt is asserted, at each change and when the guest rearms it.
    reset_engine : callable
        Told the bits of PMC.ENABLE that the guest took away.
    busy : callable
        Whether work of this VM is on the GPU.
    """

    def __init__(
        self,
        gpu: PhysicalGpu,
        counters: Counters,
        interrupt: Callable[[bool, bool], None],
        reset_engine: Callable[[int], None],
        busy: Callable[[], bool],
    ) -> None:
        self._gpu = gpu
        self._counters = counters
        self._interrupt = interrupt
        self._reset_engine = reset_engine
        self._busy = busy
        self.words = memoryview(mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)).cast("I")
        self._written = memoryview(mmap.mmap(-1, SIZE // 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self._subfifos = 0x7
        self._events: dict[int, deque[Event]] = {}
        self._unit_faults: dict[int, deque[tuple[tuple[int, int], ...]]] = {}
        self._alarm_from = 0
        self._asserted = False
        self._time_offset = 0
        self._partition_count = 1
        self._partition_mib = 0
        self.reset()

    def set_memory(self, mebibytes: int, controllers: int) -> None:
        """Report a share of video memory, in equal whole MiB over as many memory controllers as divide it."""
        count = next(n for n in range(max(controllers, 1), 0, -1) if mebibytes % n == 0)
        self._partition_count, self._partition_mib = count, mebibytes // count

    def reset(self) -> None:
        """Registers as after power-on and the VBIOS."""
        size = len(self.words)
        self.words = memoryview(mmap.mmap(-1, 4 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)).cast("I")
        self._written = memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        self.words[PMC_ENABLE >> 2] = 0xFFFFFFFF
        self._asserted = False
        self._time_offset = 0
        self._events.clear()
        self._unit_faults.clear()

    # Chip facts, private and overlaid words

    def read_chip(self, offset: int) -> int:
        self._counters.gpu_register_reads += 1
        return self._gpu.device.read(0, offset, 4)

    def read_private(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_private(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value

    def read_overlay(self, offset: int) -> int:
        if self._written[offset >> 2]:
            return self.words[offset >> 2]
        return self.read_chip(offset)

    def write_overlay(self, offset: int, value: int) -> None:
        self._written[offset >> 2] = 1
        self.words[offset >> 2] = value

    def read_idle(self, offset: int) -> int:
        return 0

    def write_idle(self, offset: int, value: int) -> None:
        """Status: a write means nothing."""

    def read_constant(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_constant(self, offset: int, value: int) -> None:
        """What the hardware reports: a write means nothing."""

    def read_acknowledge(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_acknowledge(self, offset: int, value: int) -> None:
        self.words[offset >> 2] &= ~value & 0xFFFFFFFF
        self.evaluate()

    # Events of channels: shown one at a time, the next when the driver has acknowledged the last

    def post(self, register: int, event: Event) -> None:
        """Show an event under a status register, behind those that wait there."""
        waiting = self._events.setdefault(register, deque())
        if len(waiting) >= EVENT_LIMIT:
            return
        waiting.append(event)
        if len(waiting) == 1:
            self._show(register)

    def _show(self, register: int) -> None:
        event = self._events[register][0]
        for offset, value in event.words:
            self.words[offset >> 2] = value
        self.words[register >> 2] |= event.bits
        self.evaluate()

    def _take(self, register: int, bits: int) -> None:
        """The driver acknowledged bits of a status register."""
        self.words[register >> 2] &= ~bits & 0xFFFFFFFF
        waiting = self._events.get(register)
        if waiting and not self.words[register >> 2] & waiting[0].bits:
            waiting.popleft().done()
            if waiting:
                self._show(register)
        self.evaluate()

    def _drop_events(self, registers: Iterable[int]) -> None:
        for register in registers:
            self.words[register >> 2] = 0
            for event in self._events.pop(register, ()):
                event.done()

    def read_event(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_event(self, offset: int, value: int) -> None:
        self._take(offset, value)

    def read_copy_clear(self, offset: int) -> int:
        return 0

    def write_copy_clear(self, offset: int, value: int) -> None:
        self._take(offset + 4, value)

    # Interrupt tree

    def evaluate(self, rearm: bool = False) -> None:
        """Roll the VM's events up into its interrupt pin."""
        words = self.words
        asserted = bool(words[PMC_INTR_ENABLE >> 2] & 1 and self._lines() & words[PMC_MASK >> 2])
        if asserted != self._asserted or rearm:
            self._asserted = asserted
            self._interrupt(asserted, rearm)

    def _lines(self) -> int:
        words = self.words
        lines = 0
        if self._pfifo() & words[PFIFO_INTR_ENABLE >> 2]:
            lines |= LINE_PFIFO
        if words[GRAPH_INTR >> 2] & words[GRAPH_INTR_ENABLE >> 2]:
            lines |= LINE_PGRAPH
        for line, status in zip(COPY_LINES, (COPY_INTR, COPY_INTR + COPY_STRIDE), strict=True):
            if words[status >> 2]:
                lines |= line
        if words[PTIMER_INTR >> 2] & words[PTIMER_INTR_ENABLE >> 2]:
            lines |= LINE_PTIMER
        return lines

    def _pfifo(self) -> int:
        words = self.words
        status = words[PFIFO_INTR >> 2] & ~INTR_COMPUTED
        if words[PFIFO_FAULT_UNITS >> 2]:
            status |= INTR_FAULT
        if self.read_pbdma_units(0):
            status |= INTR_PBDMA
        if words[PFIFO_RUNLIST >> 2]:
            status |= INTR_RUNLIST
        if self.read_nonstall_units(0):
            status |= INTR_NONSTALL
        return status

    def read_pmc_intr(self, offset: int) -> int:
        return 0 if offset & 4 else self._lines()

    def write_pmc_intr(self, offset: int, value: int) -> None:
        """Lines are cleared at their engines."""

    def read_pmc_line(self, offset: int) -> int:
        return int(self._asserted)

    def write_pmc_line(self, offset: int, value: int) -> None:
        """Read-only."""

    def read_pmc_intr_enable(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_pmc_intr_enable(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value & 3
        self.evaluate(rearm=True)

    def read_pmc_mask(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_pmc_mask(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        self.evaluate()

    def read_pfifo_intr(self, offset: int) -> int:
        return self._pfifo()

    def write_pfifo_intr(self, offset: int, value: int) -> None:
        if value & INTR_NONSTALL:
            for unit in range(PFIFO_NONSTALL_COUNT):
                self.words[(PFIFO_NONSTALL >> 2) + unit] = 0
        if value & INTR_SCHED:
            self.words[PFIFO_ENGINE_STATE >> 2] = 0
        self._take(PFIFO_INTR, value)

    def read_pfifo_intr_enable(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_pfifo_intr_enable(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        self.evaluate()

    def read_pbdma_units(self, offset: int) -> int:
        words = self.words
        return sum(1 << n for n in range(PBDMA_COUNT) if words[(PBDMA_INTR + n * PBDMA_STRIDE) >> 2])

    def write_pbdma_units(self, offset: int, value: int) -> None:
        """Units are cleared at their own registers."""

    def read_nonstall_units(self, offset: int) -> int:
        words = self.words
        return sum(1 << n for n in range(PFIFO_NONSTALL_COUNT) if words[(PFIFO_NONSTALL >> 2) + n])

    def write_nonstall_units(self, offset: int, value: int) -> None:
        for unit in range(PFIFO_NONSTALL_COUNT):
            if value >> unit & 1:
                self.words[(PFIFO_NONSTALL >> 2) + unit] = 0
        self.evaluate()

    def fault(self, unit: int, instance: int, low: int, high: int, status: int) -> None:
        """Report an MMU fault of one of this VM's channels; `instance` is the guest's address >> 12.

        A fault that comes before the driver cleared the last one of that unit waits behind it.
        """
        base = PFIFO_FAULTS + 0x10 * (unit & 31)
        words = tuple((base + 4 * n, word) for n, word in enumerate((instance, low, high, status)))
        waiting = self._unit_faults.setdefault(unit & 31, deque(maxlen=EVENT_LIMIT))
        waiting.append(words)
        if not self.words[PFIFO_FAULT_UNITS >> 2] >> (unit & 31) & 1:
            self._show_fault(unit & 31)
        self.evaluate()

    def _show_fault(self, unit: int) -> None:
        waiting = self._unit_faults.get(unit)
        if waiting:
            for offset, word in waiting.popleft():
                self.words[offset >> 2] = word
            self.words[PFIFO_FAULT_UNITS >> 2] |= 1 << unit

    def read_fault_units(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_fault_units(self, offset: int, value: int) -> None:
        self.words[offset >> 2] &= ~value & 0xFFFFFFFF
        for unit in range(32):
            if value >> unit & 1:
                self._show_fault(unit)
        self.evaluate()

    def playlist_done(self) -> None:
        """Report that the playlist was taken."""
        self.words[PFIFO_RUNLIST >> 2] |= RUNLIST_TAKEN
        self.evaluate()

    def nonstall(self, unit: int, value: int) -> None:
        """Report a non-stall event."""
        self.words[(PFIFO_NONSTALL >> 2) + unit % PFIFO_NONSTALL_COUNT] |= value
        self.evaluate()

    # PMC

    def read_pmc_enable(self, offset: int) -> int:
        return self.words[PMC_ENABLE >> 2]

    def write_pmc_enable(self, offset: int, value: int) -> None:
        down = self.words[PMC_ENABLE >> 2] & ~value
        self.words[PMC_ENABLE >> 2] = value
        if down & ENABLE_PFIFO:
            pbdmas = (PBDMA_INTR + n * PBDMA_STRIDE for n in range(PBDMA_COUNT))
            self._drop_events((PFIFO_INTR, *pbdmas))
            self._unit_faults.clear()
            self.words[PFIFO_FAULT_UNITS >> 2] = 0
            self.words[PFIFO_RUNLIST >> 2] = 0
            self.write_nonstall_units(0, 0xFFFFFFFF)
        if down & ENABLE_PGRAPH:
            self._drop_events((GRAPH_INTR,))
            for offset in (FECS_SCRATCH, FECS_SCRATCH + 4, FECS_CURRENT, FECS_NEXT):
                self.words[offset >> 2] = 0
        if down:
            self._reset_engine(down)
            self.evaluate()

    def read_pmc_subfifo(self, offset: int) -> int:
        return self.words[offset >> 2] & self._subfifos

    def write_pmc_subfifo(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value

    # PTIMER

    def _chip_time(self) -> int:
        high = self.read_chip(PTIMER_HIGH)
        low = self.read_chip(PTIMER_LOW)
        again = self.read_chip(PTIMER_HIGH)
        return again << 32 | (low if again == high else 0)

    def _now(self) -> int:
        return (self._chip_time() + self._time_offset) & 0xFFFFFFFFFFFFFFFF

    def read_time_low(self, offset: int) -> int:
        return self._now() & 0xFFFFFFE0

    def read_time_high(self, offset: int) -> int:
        return self._now() >> 32

    def write_time_low(self, offset: int, value: int) -> None:
        self._time_offset += (self._now() & ~0xFFFFFFFF | value) - self._now()

    def write_time_high(self, offset: int, value: int) -> None:
        self._time_offset += (value << 32) - (self._now() & ~0xFFFFFFFF)

    def read_timer_intr(self, offset: int) -> int:
        """The alarm is looked at when the register is: nothing waits for one on a GF100 without a VBIOS's
        tables."""
        words = self.words
        if words[PTIMER_INTR_ENABLE >> 2] & 1 and not words[offset >> 2] & 1:
            elapsed = (self._now() - self._alarm_from) & 0xFFFFFFFF
            words[offset >> 2] |= elapsed >= (words[PTIMER_ALARM >> 2] - self._alarm_from) & 0xFFFFFFFF
        return words[offset >> 2]

    def write_timer_intr(self, offset: int, value: int) -> None:
        self.write_acknowledge(offset, value)

    def read_timer_alarm(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_timer_alarm(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        self._alarm_from = self._now() & 0xFFFFFFFF

    # Video memory size

    def read_partitions(self, offset: int) -> int:
        return self._partition_count

    def write_partitions(self, offset: int, value: int) -> None:
        """Read-only."""

    def read_partition_size(self, offset: int) -> int:
        number = (offset >> 12) - 0x110
        return self._partition_mib if number < self._partition_count else 0

    def write_partition_size(self, offset: int, value: int) -> None:
        """Read-only."""

    # Microcontrollers

    def read_pmu_start(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_pmu_start(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        if value & START:
            for register, answer in PMU_HANDSHAKE:
                self.words[register >> 2] = answer

    def read_pmu_send(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_pmu_send(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        self.words[PMU_SEND_GET >> 2] = value

    def read_power_mode(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_power_mode(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value & POWER_MODE

    def read_fecs_intr_clear(self, offset: int) -> int:
        return 0

    def write_fecs_intr_clear(self, offset: int, value: int) -> None:
        self.words[FECS_INTR >> 2] &= ~value & 0xFFFFFFFF

    def read_fecs_start(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_fecs_start(self, offset: int, value: int) -> None:
        self.words[offset >> 2] = value
        if value & START:
            self.words[FECS_SCRATCH >> 2] |= FECS_READY
            self.words[(FECS_SCRATCH >> 2) + 1] = CONTEXT_SIZE

    def read_fecs_wake(self, offset: int) -> int:
        return 0

    def write_fecs_wake(self, offset: int, value: int) -> None:
        if value & FECS_UNLOAD:
            self.words[FECS_CURRENT >> 2] = self.words[FECS_NEXT >> 2]

    def read_fecs_command(self, offset: int) -> int:
        return self.words[offset >> 2]

    def write_fecs_command(self, offset: int, value: int) -> None:
        words = self.words
        words[offset >> 2] = value
        data = words[FECS_DATA >> 2]
        if value == 0x01:
            words[FECS_CURRENT >> 2] = words[FECS_NEXT >> 2] = data
        reply = FECS_REPLIES.get(value)
        if reply is not None:
            register, answer, add = reply
            words[register >> 2] = answer | (words[register >> 2] if add else 0)

    def read_fecs_set(self, offset: int) -> int:
        return 0

    def write_fecs_set(self, offset: int, value: int) -> None:
        self.words[(offset - 0x20) >> 2] |= value

    def read_fecs_clear(self, offset: int) -> int:
        return 0

    def write_fecs_clear(self, offset: int, value: int) -> None:
        self.words[(offset - 0x40) >> 2] &= ~value & 0xFFFFFFFF

    def read_graph_status(self, offset: int) -> int:
        return int(self._busy())

    def write_graph_status(self, offset: int, value: int) -> None:
        """Read-only."""

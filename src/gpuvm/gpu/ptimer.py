"""PTIMER: a 64-bit nanosecond counter that software may set. rnndb bus/ptimer.xml."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu import pmc
from gpuvm.gpu.engine import Engine
from gpuvm.registers.access import W1C
from gpuvm.registers.declare import Block, Register, Scratch

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

PTIMER = Block(
    "PTIMER",
    0x009000,
    0x1000,
    (
        Register(0x084, "MMIO_FAULT_ADDRESS"),
        Register(0x088, "MMIO_FAULT_DATA"),
        Register(0x100, "INTR", W1C, doc="bit 0: the alarm"),
        Register(0x140, "INTR_EN"),
        Register(0x200, "CLOCK_DIV", reset=1),
        Register(0x210, "CLOCK_MUL", reset=1),
        Register(0x220, "CLOCK_SOURCE"),
        Register(0x400, "TIME_LOW", doc="bits 5-31 of the time in ns"),
        Register(0x410, "TIME_HIGH"),
        Register(0x420, "ALARM", doc="value of TIME_LOW at which INTR is set"),
    ),
    (Scratch(0x000, 0x0FC, "fault latches of the register bus"),),
    doc="Timer",
)


class Ptimer(Engine):
    """Follows the host's monotonic clock, moved to where software put it."""

    BLOCKS: ClassVar = (PTIMER,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._offset = 0
        self._alarm_from = 0

    def now(self) -> int:
        """Time in ns, a multiple of 32."""
        return (time.monotonic_ns() + self._offset) & 0xFFFFFFFF_FFFFFFE0

    def _set(self, value: int) -> None:
        self._offset = value - time.monotonic_ns()

    def read_time_low(self) -> int:
        return self.now() & 0xFFFFFFE0

    def read_time_high(self) -> int:
        return self.now() >> 32

    def write_time_low(self, value: int) -> None:
        self._set(self.now() & ~0xFFFFFFFF | value & 0xFFFFFFE0)

    def write_time_high(self, value: int) -> None:
        self._set(value << 32 | self.now() & 0xFFFFFFFF)

    def write_alarm(self, value: int) -> None:
        self._alarm_from = self.now() & 0xFFFFFFFF

    def read_intr(self) -> int:
        self._check_alarm()
        return self.words[self.at("PTIMER", "INTR")]

    def _check_alarm(self) -> None:
        """Set the alarm's bit once the low word has passed it since it was set."""
        if not self.words[self.at("PTIMER", "INTR_EN")] & 1:
            return
        alarm = self.words[self.at("PTIMER", "ALARM")]
        elapsed = (self.now() - self._alarm_from) & 0xFFFFFFFF
        if elapsed >= (alarm - self._alarm_from) & 0xFFFFFFFF:
            self.words[self.at("PTIMER", "INTR")] |= 1
            self.gpu.pmc.line(pmc.INTR_PTIMER, True)

    def write_intr(self, value: int) -> None:
        if not self.words[self.at("PTIMER", "INTR")]:
            self.gpu.pmc.line(pmc.INTR_PTIMER, False)

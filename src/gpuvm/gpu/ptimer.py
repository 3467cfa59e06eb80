"""PTIMER: a 64-bit nanosecond counter that software may set. rnndb bus/ptimer.xml."""

from __future__ import annotations

import threading
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
        self._alarm: threading.Timer | None = None

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
        self._arm()

    def write_intr_en(self, value: int) -> None:
        self._update()
        self._arm()

    def write_intr(self, value: int) -> None:
        self._update()

    def _arm(self) -> None:
        """Wait for the alarm on a thread of its own, while its interrupt is enabled."""
        self.disarm()
        if not self.words[self.at("PTIMER", "INTR_EN")] & 1:
            return
        left = (self.words[self.at("PTIMER", "ALARM")] - self.now()) & 0xFFFFFFFF
        self._alarm = threading.Timer(left * 1e-9, self._expired)
        self._alarm.daemon = True
        self._alarm.start()

    def _expired(self) -> None:
        with self.gpu.locked():
            if self._alarm is threading.current_thread():
                self.words[self.at("PTIMER", "INTR")] |= 1
                self._update()

    def _update(self) -> None:
        pending = self.words[self.at("PTIMER", "INTR")] & self.words[self.at("PTIMER", "INTR_EN")]
        self.gpu.pmc.line(pmc.INTR_PTIMER, bool(pending))

    def disarm(self) -> None:
        """Drop the alarm that is waited for."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def reset(self) -> None:
        self.disarm()
        super().reset()

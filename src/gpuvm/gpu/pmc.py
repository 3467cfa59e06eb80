"""PMC: chip identity, engine enables, and the interrupt tree that every engine's line ends in. rnndb
bus/pmc.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.engine import Engine
from gpuvm.registers.access import RW, R
from gpuvm.registers.declare import Block, Field, Register, bit

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

GF100_ID = 0x0C0080A1

INTR_PCOPY0, INTR_PCOPY1, INTR_PFIFO, INTR_PGRAPH = 1 << 5, 1 << 6, 1 << 8, 1 << 12
INTR_PTIMER, INTR_PBUS, INTR_PIBUS = 1 << 20, 1 << 28, 1 << 30
"""Lines of the first interrupt leaf."""

ENABLE_PFIFO, ENABLE_PCOPY0, ENABLE_PCOPY1 = 1 << 8, 1 << 6, 1 << 7
ENABLE_PGRAPH, ENABLE_PDAEMON = 1 << 12, 1 << 13
"""Bits of the engine enable register."""

PMC = Block(
    "PMC",
    0x000000,
    0x1000,
    (
        Register(0x000, "ID", R, reset=GF100_ID, doc="chipset in bits 20-28, stepping below"),
        Register(0x004, "ENDIAN", R, doc="0: little-endian"),
        Register(0x100, "INTR_HOST", R, doc="which engines want the host, first leaf"),
        Register(0x104, "INTR_HOST_1", R, doc="second leaf; no engine of this model uses it"),
        Register(0x140, "INTR_EN_HOST", fields=(bit("HARDWARE", 0), bit("SOFTWARE", 1))),
        Register(0x144, "INTR_EN_HOST_1", fields=(bit("HARDWARE", 0), bit("SOFTWARE", 1))),
        Register(0x160, "INTR_LINE_HOST", R, doc="whether the function asserts its interrupt"),
        Register(
            0x200, "ENABLE", RW, reset=0xFFFFFFFF, doc="engines out of reset; all of them after the VBIOS ran"
        ),
        Register(0x204, "SUBFIFO_ENABLE", fields=(Field("SUBFIFOS", 0, 2),), reset=7),
        Register(0x260, "PGRAPH_CLOCK_GATE", RW),
        Register(0x640, "INTR_MASK_HOST", RW, doc="which lines reach the host, first leaf"),
        Register(0x644, "INTR_MASK_HOST_1", RW),
    ),
    doc="Master control",
)


class Pmc(Engine):
    """Rolls the engines' lines up into the function's interrupt and resets engines."""

    BLOCKS: ClassVar = (PMC,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._lines = 0
        self._enabled = 0xFFFFFFFF

    def place(self) -> None:
        super().place()
        self._mask = self.at("PMC", "INTR_MASK_HOST")
        self._master = self.at("PMC", "INTR_EN_HOST")
        self._enable = self.at("PMC", "ENABLE")

    @property
    def asserted(self) -> bool:
        """Whether the function's interrupt is pending and let through."""
        return bool(self._lines & self.words[self._mask]) and bool(self.words[self._master] & 1)

    def line(self, line: int, level: bool) -> None:
        """Set one engine's line; the device delivers the interrupt once its lock is free."""
        self._lines = self._lines | line if level else self._lines & ~line
        self.gpu.interrupt_changed()

    def enabled(self, bit: int) -> bool:
        """Whether an engine is out of reset."""
        return bool(self.words[self._enable] & bit)

    def read_intr_host(self) -> int:
        return self._lines

    def read_intr_line_host(self) -> int:
        return int(self.asserted)

    def write_intr_en_host(self, value: int) -> None:
        self.gpu.interrupt_changed(rearm=True)

    def write_intr_mask_host(self, value: int) -> None:
        self.gpu.interrupt_changed()

    def write_enable(self, value: int) -> None:
        down, self._enabled = self._enabled & ~value, value
        if down:
            self.gpu.reset_engines(down)

    def reset(self) -> None:
        super().reset()
        self._lines = 0
        self._enabled = 0xFFFFFFFF

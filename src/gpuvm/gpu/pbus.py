"""PBUS: the window onto VRAM, the instance blocks of the BARs, bus interrupts; and the flush that orders CPU
writes.

rnndb bus/pbus.xml.
"""

from __future__ import annotations

from typing import ClassVar

from gpuvm.gpu.engine import Engine
from gpuvm.registers.access import W1C, T
from gpuvm.registers.declare import Block, Field, Register, Scratch, bit

_INSTANCE = (Field("INST", 0, 27), Field("TARGET", 28, 29), bit("HALVE", 30), bit("ENABLE", 31))

PBUS = Block(
    "PBUS",
    0x001000,
    0x1000,
    (
        Register(0x100, "INTR", W1C),
        Register(0x140, "INTR_EN"),
        Register(
            0x700, "HOST_MEM", fields=(Field("BASE", 0, 23), Field("TARGET", 24, 25)), doc="PRAMIN base >> 16"
        ),
        Register(0x704, "BAR1_CHAN", fields=_INSTANCE, doc="instance block >> 12 of BAR1"),
        Register(0x710, "HOST_VM_UNK10"),
        Register(0x714, "BAR3_CHAN", fields=_INSTANCE, doc="instance block >> 12 of BAR3"),
        Register(0x718, "PEEPHOLE_CHAN", fields=_INSTANCE),
    ),
    (Scratch(0x000, 0xFFF, "debug switches, thermal and PLL controls of the bus unit"),),
    doc="Bus control",
)

PFLUSH = Block(
    "PFLUSH",
    0x070000,
    0x20,
    (
        Register(0x00, "FLUSH_VRAM", T, doc="a write flushes what the CPU wrote; done when it reads 0"),
        Register(0x04, "FLUSH_SYSTEM", T),
        Register(0x10, "INVALIDATE_LTC", T),
    ),
    doc="Write flush; every write has landed when it returns in this model",
)


class Pbus(Engine):
    """Tells the apertures where they look."""

    BLOCKS: ClassVar = (PBUS, PFLUSH)

    def write_host_mem(self, value: int) -> None:
        self.gpu.pramin.move(value)

    def write_bar1_chan(self, value: int) -> None:
        self.gpu.bar1.bind(value)

    def write_bar3_chan(self, value: int) -> None:
        self.gpu.bar3.bind(value)

    def reset(self) -> None:
        super().reset()
        self.gpu.pramin.move(0)
        self.gpu.bar1.bind(0)
        self.gpu.bar3.bind(0)

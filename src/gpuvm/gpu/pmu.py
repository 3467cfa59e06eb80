"""PDAEMON, the power management microcontroller (PMU): starts when told to and never sends a message. rnndb
pm/pdaemon.xml.
"""

from __future__ import annotations

from typing import ClassVar

from gpuvm.gpu.engine import Engine
from gpuvm.gpu.falcon import START_CPU, falcon
from gpuvm.registers.access import R, T
from gpuvm.registers.declare import Register

SEND_RING, RECEIVE_RING = 0x00800100, 0x00800180
"""Where the firmware puts its message rings: size in bits 16-31, data address below."""

PDAEMON = falcon(
    "PDAEMON",
    0x10A000,
    (
        Register(0x004, "INTR_CLEAR", T),
        Register(0x008, "INTR", R),
        Register(0x01C, "INTR_DISPATCH"),
        Register(0x4A0, "SEND_PUT"),
        Register(0x4B0, "SEND_GET"),
        Register(0x4C8, "RECEIVE_PUT"),
        Register(0x4CC, "RECEIVE_GET"),
        Register(0x4D0, "SEND_INFO"),
        Register(0x4DC, "RECEIVE_INFO"),
        Register(0x580, "MUTEX", doc="0 free; keeps the owner's token"),
    ),
    code_kib=32,
    data_kib=24,
    doc="Power management microcontroller",
)


class Pmu(Engine):
    """Answers the start of the firmware."""

    BLOCKS: ClassVar = (PDAEMON,)

    def write_uc_ctrl(self, value: int) -> None:
        if value & START_CPU:
            self.words[self.at("PDAEMON", "SEND_INFO")] = SEND_RING
            self.words[self.at("PDAEMON", "RECEIVE_INFO")] = RECEIVE_RING

    def write_send_put(self, value: int) -> None:
        """A message is taken as soon as it is there."""
        self.words[self.at("PDAEMON", "SEND_GET")] = value

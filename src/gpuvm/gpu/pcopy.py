"""PCOPY0 and PCOPY1: the copy engines' registers. Their copies are methods of class 0x90b5. rnndb
fifo/pcopy.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu import pmc
from gpuvm.gpu.channel import Channel
from gpuvm.gpu.engine import Engine
from gpuvm.gpu.falcon import falcon
from gpuvm.registers.access import R, T
from gpuvm.registers.declare import Register

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

INTR_HOST = 0x40
"""What the firmware raises when it refuses a method."""

ILLEGAL_MTHD, INVALID_BITFIELD = 1, 3

PCOPY = falcon(
    "PCOPY",
    0x104000,
    (
        Register(0x004, "INTR_CLEAR", T),
        Register(0x008, "INTR", R),
        Register(0x01C, "INTR_DISPATCH", reset=0xFFF3),
        Register(0x040, "SCRATCH0", doc="method and error of what was refused"),
        Register(0x044, "SCRATCH1", doc="its data"),
        Register(0x048, "FIFO_ENABLE"),
        Register(0x050, "CHANNEL_CUR", doc="instance block >> 12, valid in bit 30"),
        Register(0x054, "CHANNEL_NEXT"),
        Register(0x084, "SCRATCH3", doc="0 or 1: which engine this is"),
    ),
    count=2,
    stride=0x1000,
    doc="Copy engines",
)
LINES = (pmc.INTR_PCOPY0, pmc.INTR_PCOPY1)


class Pcopy(Engine):
    """Reports refused methods of the copy engines."""

    BLOCKS: ClassVar = (PCOPY,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._owner: list[list[Channel]] = [[], []]

    def refuse(
        self, channel: Channel, engine: int, subchannel: int, method: int, data: int, illegal: bool
    ) -> None:
        """Raise the host interrupt of engine 0 or 1; the channel waits for the acknowledgement."""
        with self.gpu.locked():
            channel.waiting = True
            self._owner[engine].append(channel)
            error = ILLEGAL_MTHD if illegal else INVALID_BITFIELD
            self.words[self.at("PCOPY", "SCRATCH0", engine)] = (method >> 2 | subchannel << 11) << 16 | error
            self.words[self.at("PCOPY", "SCRATCH1", engine)] = data
            self.words[self.at("PCOPY", "CHANNEL_CUR", engine)] = 1 << 30 | channel.instance >> 12
            self.words[self.at("PCOPY", "INTR", engine)] |= INTR_HOST
            self.gpu.pmc.line(LINES[engine], True)
        self.gpu.notify_error(channel)

    def reset(self) -> None:
        super().reset()
        for engine, line in enumerate(LINES):
            self.gpu.pmc.line(line, False)
            self._release(engine)

    def _release(self, engine: int) -> None:
        """Let the channels that wait for an acknowledgement go on."""
        waiting, self._owner[engine] = self._owner[engine], []
        for channel in waiting:
            channel.waiting = False
            self.gpu.runner.ring(channel.number)

    def write_intr_clear(self, index: int, value: int) -> None:
        at = self.at("PCOPY", "INTR", index)
        self.words[at] &= ~value & 0xFFFFFFFF
        if not self.words[at]:
            self.gpu.pmc.line(LINES[index], False)
            self._release(index)

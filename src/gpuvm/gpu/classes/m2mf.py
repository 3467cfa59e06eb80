"""Class 0x9039, memory to memory: linear and block-linear copies, and data that comes in the pushbuffer.

rnndb graph/gf100_m2mf.xml.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu import transfer
from gpuvm.gpu.classes.condition import Conditional
from gpuvm.gpu.classes.graph import COMMON
from gpuvm.gpu.classes.method import DataError, Method, MethodTable, Rejected
from gpuvm.gpu.classes.rectangle import Rectangle, copy_rectangle
from gpuvm.gpu.classes.tiling import Surface

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

M2MF = MethodTable(
    0x9039,
    "GF100_M2MF",
    (
        *COMMON,
        Method(0x0200, "UNK0200"),
        Method(0x0204, "BLOCKLINEAR_DIMENSIONS_IN"),
        Method(0x0208, "BLOCKLINEAR_PITCH_IN"),
        Method(0x020C, "BLOCKLINEAR_HEIGHT_IN"),
        Method(0x0210, "BLOCKLINEAR_DEPTH_IN"),
        Method(0x0214, "BLOCKLINEAR_POSITION_IN_Z"),
        Method(0x0220, "BLOCKLINEAR_DIMENSIONS_OUT"),
        Method(0x0224, "BLOCKLINEAR_PITCH_OUT"),
        Method(0x0228, "BLOCKLINEAR_HEIGHT_OUT"),
        Method(0x022C, "BLOCKLINEAR_DEPTH_OUT"),
        Method(0x0230, "BLOCKLINEAR_POSITION_OUT_Z"),
        Method(0x0238, "OFFSET_OUT_HIGH"),
        Method(0x023C, "OFFSET_OUT_LOW"),
        Method(0x0240, "UNK0240", count=15),
        Method(0x027C, "FIRMWARE", count=0x20),
        Method(0x02FC, "UNK02FC"),
        Method(0x0300, "EXEC", trigger=True),
        Method(0x0304, "DATA", trigger=True),
        Method(0x0308, "UNK308"),
        Method(0x030C, "OFFSET_IN_HIGH"),
        Method(0x0310, "OFFSET_IN_LOW"),
        Method(0x0314, "PITCH_IN"),
        Method(0x0318, "PITCH_OUT"),
        Method(0x031C, "LINE_LENGTH_IN"),
        Method(0x0320, "LINE_COUNT"),
        Method(0x0324, "UNK0324"),
        Method(0x0328, "UNK0328"),
        Method(0x032C, "QUERY_ADDRESS_HIGH"),
        Method(0x0330, "QUERY_ADDRESS_LOW"),
        Method(0x0334, "QUERY_SEQUENCE"),
        Method(0x0338, "COND_ADDRESS_HIGH"),
        Method(0x033C, "COND_ADDRESS_LOW"),
        Method(0x0340, "COND_MODE", trigger=True),
        Method(0x0344, "BLOCKLINEAR_POSITION_IN_X"),
        Method(0x0348, "BLOCKLINEAR_POSITION_IN_Y"),
        Method(0x034C, "BLOCKLINEAR_POSITION_OUT_X"),
        Method(0x0350, "BLOCKLINEAR_POSITION_OUT_Y"),
    ),
)

PUSH, LINEAR_IN, LINEAR_OUT, QUERY, QUERY_SHORT = 1 << 0, 1 << 4, 1 << 8, 3 << 12, 1 << 20
COPY_MAX, DATA_MAX = 1 << 31, 1 << 26
"""Most bytes of one copy and of one run of pushbuffer data, so that one method cannot keep the engine for
long.
"""


class M2mf(Conditional):
    """A memory-to-memory object."""

    TABLE: ClassVar = M2MF
    COND_ADDRESS: ClassVar = 0x338

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        self._data = bytearray()
        self._expected = 0

    def on_exec(self, value: int) -> None:
        state = self.state
        length, lines = state[0x31C >> 2], state[0x320 >> 2]
        if length * lines > (DATA_MAX if value & PUSH else COPY_MAX) or lines > 1 << 20:
            raise Rejected(DataError.INVALID_VALUE)
        self._expected = 0
        if value & PUSH:
            self._data.clear()
            self._expected = (length + 3 & ~3) * lines
            if self._expected == 0:
                self._finish(value)
            return
        if not self.passed:
            self._finish(value)
            return
        began = time.perf_counter_ns()
        source, target = self.address(0x30C), self.address(0x238)
        if value & LINEAR_IN and value & LINEAR_OUT:
            pitches = (_signed(state[0x314 >> 2]), _signed(state[0x318 >> 2]))
            transfer.take_up(
                self,
                lambda done: transfer.copy_lines(
                    self.gpu, self.channel, source, target, pitches, length, lines, done
                ),
            )
        else:
            copy_rectangle(self.gpu, self.channel, self._source(value), self._target(value), length, lines)
        self.gpu.counters.copy_ended(self.channel.number, began)
        self._finish(value)

    def _source(self, value: int) -> Rectangle:
        state, linear = self.state, value & LINEAR_IN
        return Rectangle(
            self.address(0x30C),
            _signed(state[0x314 >> 2]),
            None if linear else Surface(*state[0x204 >> 2 : (0x210 >> 2) + 1]),
            state[0x344 >> 2],
            state[0x348 >> 2],
            state[0x214 >> 2],
        )

    def _target(self, value: int) -> Rectangle:
        state, linear = self.state, value & LINEAR_OUT
        return Rectangle(
            self.address(0x238),
            _signed(state[0x318 >> 2]),
            None if linear else Surface(*state[0x220 >> 2 : (0x22C >> 2) + 1]),
            state[0x34C >> 2],
            state[0x350 >> 2],
            state[0x230 >> 2],
        )

    def on_data(self, value: int) -> None:
        self.burst_data(memoryview(value.to_bytes(4, "little")).cast("I"))

    def burst_data(self, words: memoryview) -> None:
        """Collect the words that EXEC announced; the last one starts the write."""
        if not self._expected:
            raise Rejected(DataError.INVALID_OPERATION)
        self._data += words.cast("B")
        if len(self._data) < self._expected:
            return
        value, length, lines = self.state[0x300 >> 2], self.state[0x31C >> 2], self.state[0x320 >> 2]
        data = memoryview(bytes(self._data[: self._expected]))
        self._data.clear()
        self._expected = 0
        stride = length + 3 & ~3
        self._target(value).write(
            self.gpu, self.channel.space, [data[at * stride : at * stride + length] for at in range(lines)]
        )
        self.gpu.counters.channels[self.channel.number].bytes_inline += length * lines
        self._finish(value)

    def _finish(self, value: int) -> None:
        """Write the query that EXEC asked for."""
        if not value & QUERY:
            return
        if value & QUERY & 1 << 13 or self.state[0x330 >> 2] or self.state[0x32C >> 2]:
            space, address = self.channel.space, self.address(0x32C)
            if not value & QUERY_SHORT:
                now = self.gpu.ptimer.now()
                space.write32(address + 12, now >> 32)
                space.write32(address + 8, now & 0xFFFFFFFF)
                space.write32(address + 4, 0)
            space.write32(address, self.state[0x334 >> 2])
            self.gpu.runner.memory_changed()


def _signed(word: int) -> int:
    return word - (1 << 32) if word & 1 << 31 else word

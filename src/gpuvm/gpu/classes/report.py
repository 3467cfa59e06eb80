"""Report semaphores and queries of the classes 0x9097 and 0x90c0 (QUERY_*). rnndb graph/gf100_3d.xml."""

from __future__ import annotations

from gpuvm.gpu.classes.method import ClassObject, Method

QUERY = (
    Method(0x1B00, "QUERY_ADDRESS_HIGH"),
    Method(0x1B04, "QUERY_ADDRESS_LOW"),
    Method(0x1B08, "QUERY_SEQUENCE"),
    Method(0x1B0C, "QUERY_GET", trigger=True),
)

MODE_WRITE, MODE_SYNC, MODE_COUNTER, MODE_WRITE_INTR = range(4)
FENCE, INTR, SHORT = 1 << 4, 1 << 20, 1 << 28
SELECT_ZERO, SELECT_SAMPLES = 0x00, 0x02
"""Counters that are 32 bits wide; the others, of primitives and shader invocations, have 64."""


def release(target: ClassObject, get: int) -> None:
    """Carry out QUERY_GET.

    A long report is a sequence and a 32-bit counter, or a 64-bit counter, and then the time; a short one is the
    sequence. Counters of the graphics pipeline are 0: nothing is drawn.
    """
    gpu, space, address = target.gpu, target.channel.space, target.address(0x1B00)
    mode, sequence = get & 3, target.state[0x1B08 >> 2]
    if mode == MODE_SYNC:
        return
    if get & SHORT:
        space.write32(address, sequence)
    else:
        wide = not get & FENCE and get >> 23 & 0x1F not in (SELECT_ZERO, SELECT_SAMPLES)
        time = gpu.ptimer.now()
        space.write32(address + 12, time >> 32)
        space.write32(address + 8, time & 0xFFFFFFFF)
        space.write32(address + 4, 0)
        space.write32(address, 0 if wide else sequence)
    gpu.runner.memory_changed()
    if mode == MODE_WRITE_INTR or get & INTR:
        gpu.pfifo.non_stall(0)

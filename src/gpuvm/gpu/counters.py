"""What the GPU counts, always: plain integers, for the cost model and for fairness between owners of
channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuvm.jit.launch import Statistics

RESIDENT_WARPS = 48
"""Warps that a multiprocessor holds at once (compute capability 2.0)."""


@dataclass(slots=True)
class Work:
    """Work done for one channel number since the GPU was made."""

    launches: int = 0
    blocks: int = 0
    warp_instructions: int = 0
    chained_instructions: int = 0
    """Those that must follow one another: of an average warp, times the rounds that the grid's warps take."""
    double_instructions: int = 0
    special_instructions: int = 0
    shared_accesses: int = 0
    global_loads: int = 0
    global_stores: int = 0
    global_transactions: int = 0
    atomics: int = 0
    barriers: int = 0
    copies: int = 0
    bytes_host_to_device: int = 0
    bytes_device_to_host: int = 0
    bytes_device_to_device: int = 0
    bytes_host_to_host: int = 0
    bytes_inline: int = 0
    compile_ns: int = 0
    executor_ns: int = 0
    """Wall time inside the executor."""
    launch_ns: int = 0
    """Wall time of launches, page-table work included."""
    copy_ns: int = 0
    engine_ns: int = 0
    """Wall time that channels had the engines, fetching and waiting for nothing."""
    switches: int = 0
    """Times that a channel was switched out with work left, by a kick or at its slice's end."""


CommandListener = Callable[[int, str, int, int, int], None]
"""Told each command that ended, on the engine thread: channel, kind ("L" a launch, "C" a copy), its wall time
in nanoseconds without translation, thread blocks, warps."""


@dataclass(slots=True)
class Counters:
    """Counters of one GPU.

    Attributes
    ----------
    channels : list of Work
        By channel number.
    reads, writes : int
        Accesses to BAR0 registers, BAR1, BAR3 and PRAMIN, a block counted as the accesses that it stands for.
    listener : callable, optional
        A `CommandListener`, while a trace is recorded.
    """

    channels: list[Work] = field(default_factory=lambda: [Work() for _ in range(128)])
    reads: int = 0
    writes: int = 0
    listener: CommandListener | None = None

    def launched(
        self, channel: int, statistics: Statistics, wall_ns: int, warps: int, multiprocessors: int
    ) -> None:
        """Add a launch of `warps` warps on a chip of `multiprocessors`."""
        work = self.channels[channel]
        work.launches += 1
        rounds = -(-warps // (multiprocessors * RESIDENT_WARPS))
        work.chained_instructions += statistics.warp_instructions * rounds // max(warps, 1)
        work.blocks += statistics.blocks
        work.warp_instructions += statistics.warp_instructions
        work.double_instructions += statistics.double_instructions
        work.special_instructions += statistics.special_instructions
        work.shared_accesses += statistics.shared_accesses
        work.global_loads += statistics.global_loads
        work.global_stores += statistics.global_stores
        work.global_transactions += statistics.global_transactions
        work.atomics += statistics.atomics
        work.barriers += statistics.barriers
        work.compile_ns += int(statistics.compile_s * 1e9)
        work.executor_ns += int(statistics.wall_s * 1e9)
        work.launch_ns += wall_ns
        if self.listener is not None:
            own = max(wall_ns - int(statistics.compile_s * 1e9), 0)
            self.listener(channel, "L", own, statistics.blocks, warps)

    def copy_ended(self, channel: int, began_ns: int) -> None:
        """Add a copy command that began at `began_ns` of the performance counter; `copied` has its bytes."""
        work = self.channels[channel]
        wall_ns = time.perf_counter_ns() - began_ns
        work.copies += 1
        work.copy_ns += wall_ns
        if self.listener is not None:
            self.listener(channel, "C", wall_ns, 0, 0)

    def copied(self, channel: int, size: int, from_device: bool, to_device: bool) -> None:
        """Add a copy's piece of `size` bytes."""
        work = self.channels[channel]
        if from_device:
            if to_device:
                work.bytes_device_to_device += size
            else:
                work.bytes_device_to_host += size
        elif to_device:
            work.bytes_host_to_device += size
        else:
            work.bytes_host_to_host += size

    def total(self) -> Work:
        """Sum over all channels."""
        result = Work()
        for work in self.channels:
            for name in Work.__slots__:
                setattr(result, name, getattr(result, name) + getattr(work, name))
        return result

"""A trace's stream as the simulator replays it: plain lists of integers, shared by all machines that run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuvm.gpu.counters import RESIDENT_WARPS
from gpuvm.lab.costs import SM_COUNT
from gpuvm.lab.traces import Entry, Stream

RESIDENT_BLOCKS = 8
"""Thread blocks that a multiprocessor holds at once (compute capability 2.0)."""

TIMES = ("device", "wall")


@dataclass(frozen=True, slots=True)
class Program:
    """What a machine repeats; times in nanoseconds.

    Attributes
    ----------
    gaps : list of int
        The machine's own time before each command.
    durations : list of int
        GPU time of each command, at least 1.
    grains : list of int
        Longest time from a request to stop until a block boundary of the command; its whole duration where
        it has none (copies).
    """

    name: str
    gaps: list[int]
    durations: list[int]
    grains: list[int]

    @property
    def demand(self) -> float:
        """Share of a GPU that one machine uses alone when it waits for each command."""
        busy, idle = sum(self.durations), sum(self.gaps)
        return busy / (busy + idle)

    def demand_with(self, depth: int) -> float:
        """The same with up to `depth` commands outstanding: the machine's own time hides behind the GPU's."""
        if depth == 1:
            return self.demand
        busy, idle = sum(self.durations), sum(self.gaps)
        return busy / max(busy, idle)


def compile_stream(stream: Stream, times: str = "device", resident: bool = False) -> Program | None:
    """A stream as a program; None if it has no commands.

    Parameters
    ----------
    times : str
        "device" replays the cost model's times, "wall" those of the machine that recorded.
    resident : bool
        Leave out what precedes the first command and follows the last: a program that keeps its context and
        repeats its work, instead of one that is started again and again.
    """
    if times not in TIMES:
        raise ValueError(f"times must be one of {', '.join(TIMES)}, got {times!r}")
    if not stream.entries:
        return None
    modelled = times == "device"
    gaps = [entry.gap_ns if modelled else entry.gap_wall_ns for entry in stream.entries]
    tail = stream.tail_ns if modelled else stream.tail_wall_ns
    gaps[0] = 0 if resident else gaps[0] + tail
    durations = [max(entry.device_ns if modelled else entry.wall_ns, 1) for entry in stream.entries]
    grains = [
        -(-duration // rounds(entry, modelled))
        for entry, duration in zip(stream.entries, durations, strict=True)
    ]
    return Program(stream.name, gaps, durations, grains)


def rounds(entry: Entry, modelled: bool) -> int:
    """Block boundaries at which a command can stop, its end included.

    The modelled card runs as many blocks at once as fit on its multiprocessors; the software GPU can stop
    after each.
    """
    if entry.kind != "L" or entry.blocks <= 1:
        return 1
    if not modelled:
        return entry.blocks
    warps = max(-(-entry.warps // entry.blocks), 1)
    together = SM_COUNT * max(min(RESIDENT_BLOCKS, RESIDENT_WARPS // warps), 1)
    return -(-entry.blocks // together)


def compile_all(streams: Sequence[Stream], times: str, resident: bool) -> list[Program]:
    """Every stream that has commands."""
    programs = (compile_stream(stream, times, resident) for stream in streams)
    return [program for program in programs if program is not None]

"""Launch traces: what programs asked of the GPU, command by command. `gpuvm bench --record` writes them,
`gpuvm simulate` replays them.

A trace is a text file of JSON lines. The first says what the file is; then each *stream*, one program's run
in one machine, has a line that describes it, a line for each command, in the order in which commands
completed, and a line that ends it:

    {"format": "gpuvm-trace", "version": 1, "machine": {…}}
    {"stream": 0, "vm": "vm0", "mode": "fv", "workload": "HS", "size": "paper"}
    [0, channel, "L", gap_ns, device_ns, gap_wall_ns, wall_ns, blocks, warps]
    [0, channel, "C", gap_ns, device_ns, gap_wall_ns, wall_ns, 0, 0]
    {"end": 0, "tail_ns": …, "tail_wall_ns": …}

Kind "L" is a launch of a grid and "C" a copy. Each time stands there twice, by the cost model and by the
clock: `device_ns` and `wall_ns` are the GPU's time for the command; `gap_ns` and `gap_wall_ns` are the
machine's own time from the completion of its command before (from the program's start, for the first) until
this one reaches the GPU. `tail_ns` is the time from the last completion to the program's end. `blocks` and
`warps` are the grid's thread blocks and warps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

FORMAT = "gpuvm-trace"
VERSION = 1
KINDS = ("L", "C")
MOST_NS = 1 << 60
"""Longest time that a field may hold: sums of many stay exact."""


class TraceError(ValueError):
    """A file is not a trace; the sentence says where and why."""


class Entry(NamedTuple):
    """One command; times in nanoseconds."""

    channel: int
    kind: str
    gap_ns: int
    device_ns: int
    gap_wall_ns: int
    wall_ns: int
    blocks: int
    warps: int


@dataclass(slots=True)
class Stream:
    """The commands of one program in one machine.

    Attributes
    ----------
    tail_ns, tail_wall_ns : int
        From the last completion to the program's end.
    """

    vm: str
    mode: str
    workload: str
    size: str
    entries: list[Entry] = field(default_factory=list)
    tail_ns: int = 0
    tail_wall_ns: int = 0

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.workload}/{self.mode}"


class _Head(msgspec.Struct, forbid_unknown_fields=True):
    format: str
    version: int
    machine: dict[str, Any]


class _Begin(msgspec.Struct, forbid_unknown_fields=True):
    stream: int
    vm: str
    mode: str
    workload: str
    size: str


class _End(msgspec.Struct, forbid_unknown_fields=True):
    end: int
    tail_ns: int
    tail_wall_ns: int


_Row = tuple[int, int, str, int, int, int, int, int, int]


def write(path: Path, streams: Iterable[Stream], machine: Mapping[str, Any]) -> None:
    """Write a trace.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    encode = msgspec.json.encode
    with path.open("wb") as out:
        out.write(encode(_Head(FORMAT, VERSION, dict(machine))) + b"\n")
        for number, stream in enumerate(streams):
            begin = _Begin(number, stream.vm, stream.mode, stream.workload, stream.size)
            out.write(encode(begin) + b"\n")
            for entry in stream.entries:
                out.write(encode((number, *entry)) + b"\n")
            out.write(encode(_End(number, stream.tail_ns, stream.tail_wall_ns)) + b"\n")


def read(path: Path) -> list[Stream]:
    """Read a trace's streams, in order.

    Raises
    ------
    TraceError
        If the file is no trace, is of another version, or is cut short.
    OSError
        If it cannot be read.
    """
    with path.open("rb") as lines:
        try:
            head = msgspec.json.decode(lines.readline(1 << 20), type=_Head)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TraceError(f"{path} must be a trace that gpuvm bench --record wrote") from None
        if head.format != FORMAT or head.version != VERSION:
            raise TraceError(
                f"{path} must be a {FORMAT} of version {VERSION}, got {head.format} {head.version}"
            )
        return _streams(path, lines)


def _streams(path: Path, lines: Iterable[bytes]) -> list[Stream]:
    rows = msgspec.json.Decoder(_Row)
    begins, ends = msgspec.json.Decoder(_Begin), msgspec.json.Decoder(_End)
    open_: dict[int, Stream] = {}
    streams: list[Stream] = []
    for number, line in enumerate(lines, 2):
        try:
            if line.startswith(b"["):
                row = rows.decode(line)
                entry = Entry(*row[1:])
                _check(entry)
                open_[row[0]].entries.append(entry)
            elif line.startswith(b'{"end"'):
                end = ends.decode(line)
                stream = open_.pop(end.end)
                if not (0 <= end.tail_ns < MOST_NS and 0 <= end.tail_wall_ns < MOST_NS):
                    raise ValueError("a time must not be negative")
                stream.tail_ns, stream.tail_wall_ns = end.tail_ns, end.tail_wall_ns
            elif line.strip():
                begin = begins.decode(line)
                stream = Stream(begin.vm, begin.mode, begin.workload, begin.size)
                open_[begin.stream] = stream
                streams.append(stream)
        except KeyError as error:
            raise TraceError(
                f"{path}, line {number}: stream {error} must begin before its commands"
            ) from None
        except (ValueError, UnicodeDecodeError) as error:
            raise TraceError(f"{path}, line {number}: {error}") from None
    if open_:
        raise TraceError(f"{path} must end every stream, but it is cut short")
    return streams


def _check(entry: Entry) -> None:
    if entry.kind not in KINDS:
        raise ValueError(f"the kind of a command must be L or C, got {entry.kind!r}")
    if not all(0 <= value < MOST_NS for value in (entry.channel, *entry[2:])):
        raise ValueError("times and counts must not be negative")


def summary(streams: Sequence[Stream]) -> str:
    """One sentence about a trace."""
    launches = sum(entry.kind == "L" for stream in streams for entry in stream.entries)
    total = sum(len(stream.entries) for stream in streams)
    return f"{len(streams)} programs, {launches} launches, {total - launches} copies"

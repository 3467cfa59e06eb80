"""Records launch traces of programs while they run: listens to the GPU's commands and to the runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from gpuvm.lab.clock import moved
from gpuvm.lab.costs import device_parts, device_seconds
from gpuvm.lab.runner import Guest, Job, Observer, Run
from gpuvm.lab.system import System
from gpuvm.lab.traces import Entry, Stream

COPY_EVENTS = (
    "copies",
    "bytes_host_to_device",
    "bytes_device_to_host",
    "bytes_device_to_device",
    "bytes_host_to_host",
)
"""What a copy itself takes; the rest that was counted since the command before is the machine's own time."""


class _Open:
    """A stream that is being recorded."""

    def __init__(self, guest: Guest, stream: Stream) -> None:
        self.guest = guest
        self.stream = stream
        self.counters: Mapping[str, float] = dict(guest.counters())
        self.began = time.perf_counter_ns()
        self.last = self.began
        self.modelled_ns = 0


class Recorder:
    """An `Observer` of runs that writes down their commands, and passes on what it is told.

    Attributes
    ----------
    streams : list of Stream
        One for each run that was verified, in the order in which they ended.
    """

    def __init__(self, observer: Observer | None = None) -> None:
        self.streams: list[Stream] = []
        self._observer = observer
        self._lock = threading.Lock()
        self._open: dict[int, _Open] = {}
        """By identity of the guest."""

    def attach(self, system: System) -> None:
        """Listen to a system's GPU."""
        owners = {channel: id(guest) for guest in system.guests for channel in system.channels(guest.name)}

        def ended(channel: int, kind: str, wall_ns: int, blocks: int, warps: int) -> None:
            with self._lock:
                open_ = self._open.get(owners.get(channel, -1))
                if open_ is not None:
                    self._add(open_, channel, kind, wall_ns, blocks, warps)

        system.gpu.counters.listener = ended

    def _add(self, open_: _Open, channel: int, kind: str, wall_ns: int, blocks: int, warps: int) -> None:
        now = time.perf_counter_ns()
        counters = dict(open_.guest.counters())
        events = moved(open_.counters, counters)
        if kind == "L":
            parts = device_parts(events)
            own, before = max(parts["issue"], parts["chain"], parts["dram"]), parts["cpu"] + parts["bus"]
        else:
            own = device_seconds({name: events.pop(name) for name in COPY_EVENTS if name in events})
            before = device_seconds(events)
        gap_ns, device_ns = round(before * 1e9), round(own * 1e9)
        gap_wall = max(now - wall_ns - open_.last, 0)
        open_.stream.entries.append(Entry(channel, kind, gap_ns, device_ns, gap_wall, wall_ns, blocks, warps))
        open_.modelled_ns += gap_ns + device_ns
        open_.counters, open_.last = counters, now

    def began(self, job: Job, /) -> None:
        stream = Stream(job.guest.name, job.guest.mode, job.workload.name, job.inputs.size)
        with self._lock:
            self._open[id(job.guest)] = _Open(job.guest, stream)
        if self._observer is not None:
            self._observer.began(job)

    def entered(self, job: Job, phase: str, /) -> None:
        if self._observer is not None:
            self._observer.entered(job, phase)

    def ended(self, job: Job, run: Run, /) -> None:
        with self._lock:
            open_ = self._open.pop(id(job.guest), None)
        if open_ is not None and run.verified:
            total = round(device_seconds(run.counters) * 1e9)
            open_.stream.tail_ns = max(total - open_.modelled_ns, 0)
            end = open_.began + round(run.wall_s * 1e9)
            open_.stream.tail_wall_ns = max(end - open_.last, 0)
            self.streams.append(open_.stream)
        if self._observer is not None:
            self._observer.ended(job, run)

"""Fairness of the schedulers, measured live: machines with short launches beside machines with long ones, through
their own drivers, on one GPU.

Short is the inner kernel of LUD (well under a millisecond), long a frame of heart wall (tens of milliseconds).
In a *closed* loop a guest waits for each launch, in an *open* one it keeps some queued. Who had the engines,
and when, is told by the GPU itself; a share is a machine's part of the engines' busy time in a window.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvm.hypervisor.full import FullGpu
from gpuvm.jit.executor import Executor
from gpuvm.lab.clock import PhaseClock
from gpuvm.lab.system import MIB, LabMachine, System
from gpuvm.schedulers import SAMPLE
from gpuvm.workloads import WORKLOADS
from gpuvm.workloads.program import check

CLOSED, OPEN = 1, 8
"""Launches that a guest keeps queued."""
KINDS = ("short", "long")
COUNTS = (2, 4, 8)

VRAM, MEMORY = 32 * MIB, 64 * MIB
WARM_UP_S, MEASURE_S, ALONE_S = 1.0, 3.0, 1.0
STEP = 50_000_000
"""Nanoseconds between two of the sliding windows."""

SWITCH_INTERVAL_S = 200e-6
"""The machines of the experiment are threads of one interpreter: how long one may keep the others off it."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Who shares the GPU.

    Attributes
    ----------
    kinds : tuple of str
        "short" or "long", by machine.
    depth : int
        Launches that each keeps queued; 1 waits for each.
    weights : tuple of int
        Of the machines; all 1 by default.
    """

    kinds: tuple[str, ...]
    depth: int
    weights: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        loop = "closed" if self.depth == CLOSED else f"open{self.depth}"
        return f"{len(self.kinds)} machines, {loop}"

    def weight(self, index: int) -> int:
        return self.weights[index] if self.weights else 1


MIXES = tuple(Mix(KINDS * (count // 2), depth) for depth in (CLOSED, OPEN) for count in COUNTS)
"""Half short, half long; 2, 4 and 8 machines; closed and open loop."""


@dataclass(slots=True)
class GuestResult:
    """What one machine got.

    Attributes
    ----------
    share : float
        Its part of the engines' busy time over the whole measurement.
    rate, alone : float
        Launches a second, and what it has alone under the same scheduler.
    latency_p50_s, latency_p99_s, latency_max_s : float
        From a launch's submission until its guest knows of its end.
    """

    kind: str
    weight: int
    share: float
    rate: float
    alone: float
    latency_p50_s: float
    latency_p99_s: float
    latency_max_s: float


@dataclass(slots=True)
class FairnessResult:
    """One mix under one scheduler.

    Attributes
    ----------
    error_worst, error_mean : float
        Relative error of a machine's share in windows of `window_s`, one after the other.
    error_sliding : float
        The worst over windows that begin at any time.
    jain : float
        Jain's index of the machines' engine time for each unit of weight.
    throughput : float
        Sum of the machines' rates, each relative to its own alone: 1 is what one machine alone gets done.
    use : float
        Part of the time in which the engines were busy.
    switches : int
        Times that a channel was switched out with work left.
    """

    scheduler: str
    mode: str
    mix: str
    depth: int
    window_s: float
    error_worst: float
    error_mean: float
    error_sliding: float
    jain: float
    throughput: float
    use: float
    switches: int
    guests: list[GuestResult] = field(default_factory=list)
    shares: list[list[float]] = field(default_factory=list)
    """By window, by machine."""


@dataclass(frozen=True, slots=True)
class Program:
    """A launch of a workload's: the program runs up to it, and repeats it for as long as is measured."""

    workload: str
    size: str
    parameters: dict[str, Any]
    launch: int
    """Which of its launches, from 1."""


PROGRAMS = {
    "short": Program("LUD", "paper", {}, 3),
    "long": Program("HW", "small", {"frames": 2, "inner": 1, "outer": 1}, 2),
}


class Phases(threading.Barrier):
    """What the guests of a run do together: all are ready, all measure, all end."""

    stop = False


class Guest(threading.Thread):
    """A guest's program in its machine."""

    def __init__(self, machine: LabMachine, kind: str, depth: int, phases: Phases) -> None:
        super().__init__(name=f"gpuvm-{machine.name}", daemon=True)
        self.kind = kind
        self._machine = machine
        self._depth = depth
        self._phases = phases
        self._count = 0
        self._program = PROGRAMS[kind]
        self.ended: list[int] = []
        self.took: list[int] = []
        """When launches ended and how long they took, in nanoseconds of `time.monotonic_ns`."""
        self.error: BaseException | None = None

    def run(self) -> None:
        program = self._program
        workload = WORKLOADS[program.workload]
        try:
            inputs = workload.inputs(program.size, **program.parameters)
            with self._machine.process() as cuda:
                workload.run(_Repeating(cuda, self._launched), inputs, PhaseClock(dict))
        except BaseException as error:
            self.error = error
            self._phases.stop = True
            self._phases.abort()

    def _launched(self, cuda: Any, arguments: tuple[Any, ...]) -> None:
        """Hears of each launch of the program."""
        self._count += 1
        if self._count != self._program.launch:
            return
        check(cuda.cuCtxSynchronize())
        self._phases.wait()
        if self._depth == CLOSED:
            self._closed(cuda, arguments)
        else:
            self._open(cuda, arguments)

    def _closed(self, cuda: Any, arguments: tuple[Any, ...]) -> None:
        while not self._phases.stop:
            began = time.monotonic_ns()
            check(cuda.cuLaunchKernel(*arguments))
            check(cuda.cuCtxSynchronize())
            self._note(began)

    def _open(self, cuda: Any, arguments: tuple[Any, ...]) -> None:
        """Keep launches queued; an event behind each tells of its end."""
        flags = cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING
        free = [check(cuda.cuEventCreate(flags)) for _ in range(self._depth)]
        queued: deque[tuple[int, Any]] = deque()
        while queued or not self._phases.stop:
            while free and not self._phases.stop:
                event = free.pop()
                queued.append((time.monotonic_ns(), event))
                check(cuda.cuLaunchKernel(*arguments))
                check(cuda.cuEventRecord(event, 0))
            began, event = queued.popleft()
            check(cuda.cuEventSynchronize(event))
            self._note(began)
            free.append(event)
        for event in free:
            check(cuda.cuEventDestroy(event))

    def _note(self, began: int) -> None:
        now = time.monotonic_ns()
        self.ended.append(now)
        self.took.append(now - began)


class _Repeating:
    """The driver API of a guest; tells of launches."""

    def __init__(self, cuda: Any, launched: Callable[[Any, tuple[Any, ...]], None]) -> None:
        self._cuda = cuda
        self._launched = launched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cuda, name)

    def cuLaunchKernel(self, *arguments: Any) -> Any:
        result = self._cuda.cuLaunchKernel(*arguments)
        if int(result[0]) == 0:
            self._launched(self._cuda, arguments)
        return result


class Bench:
    """Machines under one mode and one scheduler, and what is measured of them.

    Parameters
    ----------
    scheduler : str
        A name in `schedulers.NAMES`.
    mode : str
        A mode that shares the GPU.
    machines : int
        Most machines that a mix needs.
    executor : Executor, optional
        Shared, so that kernels are translated once.
    """

    def __init__(
        self, scheduler: str, mode: str = "fv", machines: int = 8, executor: Executor | None = None
    ) -> None:
        self.scheduler = scheduler
        self.mode = mode
        self._turns: list[tuple[int, int, int]] = []
        self._recording = False
        self._alone: dict[tuple[str, int], float] = {}
        self.system = System(mode, machines, scheduler=scheduler, vram=VRAM, memory=MEMORY, executor=executor)
        self._owner: dict[int, int] = {}
        aggregator = self.system.aggregator
        assert aggregator is not None
        for number, virtual in enumerate(aggregator.virtual_gpus()):
            assert isinstance(virtual, FullGpu)
            self._owner |= {channel.physical: number for channel in virtual.channels}
        self.system.gpu.on_turn(self._turn)

    def _turn(self, channel: int, began: int, ended: int) -> None:
        if self._recording:
            self._turns.append((self._owner[channel], began, ended))

    def close(self) -> None:
        """Take the machines down."""
        self.system.close()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def alone(self, kind: str, depth: int) -> float:
        """Launches a second of one machine that has the GPU for itself."""
        if (kind, depth) not in self._alone:
            guests, begin, end = self._measure(Mix((kind,), depth), 0.5, ALONE_S)
            self._alone[kind, depth] = _rate(guests[0], begin, end)
        return self._alone[kind, depth]

    def run(self, mix: Mix, seconds: float = MEASURE_S) -> FairnessResult:
        """Measure a mix.

        Raises
        ------
        Exception
            What a guest's program failed with.
        """
        alone = {kind: self.alone(kind, mix.depth) for kind in dict.fromkeys(mix.kinds)}
        self._set_weights(mix)
        switches = self._switches()
        guests, begin, end = self._measure(mix, WARM_UP_S, seconds)
        use = Timeline(self._turns, len(mix.kinds))
        weights = np.array([mix.weight(number) for number in range(len(guests))], float)
        entitled = weights / weights.sum()
        windows = [use.shares(at, at + SAMPLE) for at in range(begin, end - SAMPLE + 1, SAMPLE)]
        errors = np.abs(np.array(windows) / entitled - 1)
        sliding = [use.shares(at, at + SAMPLE) for at in range(begin, end - SAMPLE + 1, STEP)]
        whole = use.between(begin, end)
        each = whole / weights
        results = []
        for number, guest in enumerate(guests):
            took = [t for at, t in zip(guest.ended, guest.took, strict=True) if begin <= at < end] or [0]
            p50, p99 = np.percentile(took, (50, 99)) * 1e-9
            results.append(
                GuestResult(
                    guest.kind, mix.weight(number), float(whole[number] / whole.sum()), _rate(guest, begin, end),
                    alone[guest.kind], float(p50), float(p99), max(took) * 1e-9,
                )
            )  # fmt: skip
        return FairnessResult(
            scheduler=self.scheduler,
            mode=self.mode,
            mix=mix.name,
            depth=mix.depth,
            window_s=SAMPLE * 1e-9,
            error_worst=float(errors.max()),
            error_mean=float(errors.mean()),
            error_sliding=float(np.abs(np.array(sliding) / entitled - 1).max()),
            jain=float(each.sum() ** 2 / (len(each) * (each**2).sum())),
            throughput=sum(guest.rate / guest.alone for guest in results),
            use=float(whole.sum() / (end - begin)),
            switches=self._switches() - switches,
            guests=results,
            shares=[window.tolist() for window in windows],
        )

    def _set_weights(self, mix: Mix) -> None:
        aggregator = self.system.aggregator
        assert aggregator is not None
        for number, virtual in enumerate(aggregator.virtual_gpus()):
            if number < len(mix.kinds):
                aggregator.dispatcher.change(virtual.id, mix.weight(number), None)

    def _switches(self) -> int:
        return sum(work.switches for work in self.system.gpu.counters.channels)

    def _measure(self, mix: Mix, warm_up: float, seconds: float) -> tuple[list[Guest], int, int]:
        """Run a mix; returns its guests and the time of the measurement."""
        phases = Phases(len(mix.kinds) + 1)
        guests = [
            Guest(machine, kind, mix.depth, phases)
            for machine, kind in zip(self.system.guests, mix.kinds, strict=False)
        ]
        with _fine_switching():
            for guest in guests:
                guest.start()
            with suppress(threading.BrokenBarrierError):
                phases.wait()
                self._turns = []
                self._recording = True
                time.sleep(warm_up)
                begin = time.monotonic_ns()
                time.sleep(seconds)
                end = time.monotonic_ns()
            self._recording = False
            phases.stop = True
            for guest in guests:
                guest.join()
        for guest in guests:
            if guest.error is not None and not isinstance(guest.error, threading.BrokenBarrierError):
                raise guest.error
        return guests, begin, end


class Timeline:
    """Who had the engines when.

    Parameters
    ----------
    turns : sequence of (machine, began, ended)
        In order of time.
    machines : int
    """

    def __init__(self, turns: Sequence[tuple[int, int, int]], machines: int) -> None:
        self._times: list[Any] = []
        for machine in range(machines):
            own = np.array([(began, ended) for who, began, ended in turns if who == machine], np.int64)
            own = own.reshape(-1, 2)
            self._times.append(
                (own[:, 0], own[:, 1], np.concatenate(([0], np.cumsum(own[:, 1] - own[:, 0]))))
            )

    def between(self, begin: int, end: int) -> NDArray[np.float64]:
        """Nanoseconds of each machine between two times."""
        return np.array([self._until(each, end) - self._until(each, begin) for each in self._times], float)

    def shares(self, begin: int, end: int) -> NDArray[np.float64]:
        """Each machine's part of the busy time between two times."""
        use = self.between(begin, end)
        return use / max(float(use.sum()), 1.0)

    @staticmethod
    def _until(times: Any, when: int) -> float:
        began, ended, total = times
        count = int(np.searchsorted(ended, when, side="right"))
        partial = max(when - int(began[count]), 0) if count < len(began) else 0
        return float(total[count] + partial)


def _rate(guest: Guest, begin: int, end: int) -> float:
    """Launches a second; one that is over the edge counts with the part of it that is inside."""
    count = 0.0
    for at, took in zip(guest.ended, guest.took, strict=True):
        inside = min(at, end) - max(at - took, begin)
        if inside > 0:
            count += min(inside / took, 1.0)
    return count * 1e9 / (end - begin)


@contextmanager
def _fine_switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

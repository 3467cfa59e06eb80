"""One GPU in virtual time, fast: a heap of integers, the policy object that the live dispatcher drives, and
nothing else in the loop.

What happens at one instant happens in this order: the command on the GPU completes; machines submit, in order
of their numbers; the policy's period begins; the policy picks. `reference` does the same with SimPy, and the
tests hold the two equal.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from gpuvm.lab.simulation.fleet import Settings, Task, entitlements
from gpuvm.lab.simulation.program import Program
from gpuvm.lab.simulation.statistics import GpuResult, Latencies, merged
from gpuvm.schedulers import Command, Scheduler, Share, make_scheduler

Work: TypeAlias = tuple[int, int]
"""A command's GPU time, and how long at most until it can be stopped: nanoseconds."""

NEVER = 1 << 200
JITTER_CHUNK = 256


class Guests:
    """What the machines of one GPU do next: positions in their programs, and how much is outstanding.

    Both engines are built on it, so that they differ in nothing but how time passes.
    """

    def __init__(self, task: Task, programs: Sequence[Program], settings: Settings) -> None:
        rng = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(task.gpu,)))
        chosen = [programs[tenant.program] for tenant in task.tenants]
        self.count = len(chosen)
        self.gaps = [program.gaps for program in chosen]
        self.work: list[list[Work]] = [
            list(zip(program.durations, program.grains, strict=True)) for program in chosen
        ]
        self.lengths = [len(program.gaps) for program in chosen]
        self.depths = [tenant.depth for tenant in task.tenants]
        self.outstanding = [0] * self.count
        self.factors: list[Iterator[float]] | None = None
        if settings.jitter:
            self.factors = [
                _factors(settings.seed, task.gpu, tenant.vm, settings.jitter) for tenant in task.tenants
            ]
        self.positions = [int(rng.integers(length)) for length in self.lengths]
        """Each machine begins at a random command, with a random part of the gap before it left."""
        self.first = [
            int(rng.integers(gaps[at] + 1)) for gaps, at in zip(self.gaps, self.positions, strict=True)
        ]

    def gap(self, guest: int) -> int:
        """Time that a machine takes to prepare its next command."""
        gap = self.gaps[guest][self.positions[guest]]
        return gap if self.factors is None else int(gap * next(self.factors[guest]))


def _factors(seed: int, gpu: int, vm: int, jitter: float) -> Iterator[float]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(gpu, vm)))
    while True:
        yield from rng.uniform(1 - jitter, 1 + jitter, JITTER_CHUNK).tolist()


class Ledger:
    """What is written down while virtual time passes, for both engines."""

    def __init__(self, guests: int, window: int) -> None:
        self.used = [0] * guests
        self.launches = [0] * guests
        self.latencies = [Latencies() for _ in range(guests)]
        self.longest = [0] * guests
        self.longest_wait = [0] * guests
        self.switches = 0
        self.window = window
        self.rows: list[list[int]] = []
        self._before = [0] * guests

    def close_window(self, running: int, since: int) -> None:
        """End a window; machine `running` (-1: none) runs since `since`, not yet in `used`."""
        now = self.used.copy()
        if running >= 0:
            now[running] += max((len(self.rows) + 1) * self.window - since, 0)
        self.rows.append([value - before for value, before in zip(now, self._before, strict=True)])
        self._before = now
        for latencies in self.latencies:
            if len(latencies.pending) > Latencies.FLUSH:
                latencies.flush()

    def result(self, task: Task, programs: Sequence[Program]) -> GpuResult:
        """All of it as arrays."""
        places, counts = merged(self.latencies)
        middle = [latencies.percentiles(50, 99) for latencies in self.latencies]
        count = len(task.tenants)
        percentiles = np.array(middle, np.int64).reshape(count, 2)
        return GpuResult(
            gpu=task.gpu,
            vms=np.array([tenant.vm for tenant in task.tenants], np.int64),
            programs=np.array([tenant.program for tenant in task.tenants], np.int64),
            weights=np.array([tenant.weight for tenant in task.tenants], np.int64),
            entitled=np.array(entitlements(task, programs)),
            launches=np.array(self.launches, np.int64),
            used=np.array(self.used, np.int64),
            p50=percentiles[:, 0],
            p99=percentiles[:, 1],
            longest=np.array(self.longest, np.int64),
            longest_wait=np.array(self.longest_wait, np.int64),
            windows=np.array(self.rows, np.int64).reshape(len(self.rows), count),
            places=places,
            counts=counts,
            busy=sum(self.used),
            switches=self.switches,
        )


class ChannelTurns(Scheduler[Work]):
    """What the GPU itself does with commands that nobody schedules: its channels take turns, a command each."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: deque[int] = deque()
        self._listed: set[int] = set()

    def _ready(self, now: int, share: Share) -> None:
        if share.vm not in self._listed:
            self._listed.add(share.vm)
            self._waiting.append(share.vm)

    def _select(self, now: int) -> Share | None:
        while self._waiting:
            vm = self._waiting.popleft()
            self._listed.discard(vm)
            share: Share | None = self.shares.get(vm)
            if share is not None and share.queue:
                return share
        return None


def policy(settings: Settings, task: Task) -> Scheduler[Work]:
    """A policy object that knows the GPU's machines by their place on it."""
    scheduler: Scheduler[Work] = make_scheduler(settings.scheduler, **settings.parameters)
    if scheduler.concurrent:
        scheduler = ChannelTurns()
    for place, tenant in enumerate(task.tenants):
        scheduler.add(place, tenant.weight, tenant.cap)
    return scheduler


def stop_time(deadline: int | None, now: int, began: int, ends: int, grain: int) -> int:
    """When a command that runs since `began` and would end at `ends` leaves the GPU: at the first block
    boundary at or after its deadline, if that comes before its end."""
    if deadline is None or deadline >= ends:
        return ends
    return min(ends, began + -(-max(deadline - began, now - began, 1) // grain) * grain)


def simulate_gpu(task: Task, programs: Sequence[Program], settings: Settings) -> GpuResult:
    """Replay the machines' programs on one GPU until `settings.until`."""
    guests = Guests(task, programs, settings)
    ledger = Ledger(guests.count, settings.window)
    _run(guests, ledger, policy(settings, task), settings)
    return ledger.result(task, programs)


def _run(guests: Guests, ledger: Ledger, scheduler: Scheduler[Work], settings: Settings) -> None:
    """The loop. Events are integers: time times `slots`, plus the machine that submits then.

    It is one function over local names on purpose: ten million launches go through it.
    """
    push, pop = heapq.heappush, heapq.heappop
    enqueue, pick, complete, deadline = (
        scheduler.enqueue,
        scheduler.pick,
        scheduler.complete,
        scheduler.deadline,
    )
    preemptive = scheduler.preemptive
    slots = max(guests.count, 1)
    work, lengths, depths = guests.work, guests.lengths, guests.depths
    positions, outstanding, gap_of = guests.positions, guests.outstanding, guests.gap
    gaps = guests.gaps if guests.factors is None else None
    used, launches = ledger.used, ledger.launches
    pending = [latencies.pending for latencies in ledger.latencies]
    longest, longest_wait = ledger.longest, ledger.longest_wait
    period, switch = scheduler.period, settings.switch
    until, window = settings.until, settings.window
    window_end, next_period, wake = window, 0, NEVER
    arrivals = [first * slots + guest for guest, first in enumerate(guests.first)]
    heapq.heapify(arrivals)
    running: Command[Work] | None = None
    last = -1
    began, whole, stops = 0, NEVER, NEVER

    while True:
        # A machine that has nothing in `arrivals` waits for its own command, so something always comes.
        arrival = arrivals[0] // slots if arrivals else NEVER
        now = stops if stops <= arrival else arrival
        if wake < now:
            now = wake
        if now >= window_end or now >= until:
            while window_end <= until and window_end <= now:
                ledger.close_window(-1 if running is None else running.vm, began)
                window_end += window
            if now >= until:
                break
        if now == stops:
            assert running is not None
            guest = running.vm
            used[guest] += now - began
            if stops < whole:
                scheduler.preempt(now, running, now - began)
                ledger.switches += 1
            else:
                complete(now, running, now - began)
                launches[guest] += 1
                latency = now - running.submitted
                pending[guest].append(latency)
                if latency > longest[guest]:
                    longest[guest] = latency
                if outstanding[guest] == depths[guest]:
                    gap = gaps[guest][positions[guest]] if gaps is not None else gap_of(guest)
                    push(arrivals, (now + gap) * slots + guest)
                outstanding[guest] -= 1
            running, stops = None, NEVER
        elif arrival == now:
            guest = pop(arrivals) % slots
            position = positions[guest]
            enqueue(now, Command(guest, work[guest][position]))
            position += 1
            positions[guest] = position if position < lengths[guest] else 0
            outstanding[guest] += 1
            if outstanding[guest] < depths[guest]:
                push(arrivals, (now + gap_of(guest)) * slots + guest)
            if preemptive and running is not None:
                stops = stop_time(deadline(now), now, began, whole, running.payload[1])
        if running is not None or (arrivals and arrivals[0] < (now + 1) * slots):
            continue
        if period is not None and now >= next_period:
            scheduler.replenish(now)
            next_period = now + period
        running = pick(now)
        wake = NEVER
        if running is not None:
            guest = running.vm
            began = now
            if guest != last:
                began, last = now + switch, guest
            duration, grain = running.payload
            stops = whole = began + duration - running.used
            if preemptive:
                stops = stop_time(deadline(now), now, began, whole, grain)
            if not running.used and began - running.submitted > longest_wait[guest]:
                longest_wait[guest] = began - running.submitted
        elif scheduler.queued:
            due = scheduler.next_event_time(now)
            if due is None and period is not None:
                due = next_period
            if due is not None:
                wake = max(due, now + 1)
    if running is not None:
        used[running.vm] += max(until - began, 0)

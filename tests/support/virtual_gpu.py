"""A GPU in virtual time that a policy drives: what the scheduler tests run their VMs on.

A VM submits launches of a fixed length and, in closed loop, thinks between one's end and the next; in open
loop it keeps some queued. A launch can be switched out where one of its blocks ends.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from gpuvm.schedulers import Command, Scheduler

MS, US = 1_000_000, 1_000


@dataclass
class Guest:
    """One VM and its habit; times in nanoseconds."""

    length: int
    think: int = 0
    depth: int = 1
    """Launches kept queued; 1 is a closed loop."""
    block: int = 10 * US
    weight: int = 1
    cap: float | None = None
    begins: int = 0
    ends: int | None = None
    """When it stops submitting."""


@dataclass
class Trace:
    """What ran: (start, end, vm), and how long launches took from submission to end, by VM."""

    runs: list[tuple[int, int, int]] = field(default_factory=list)
    latencies: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    longest_wait: int = 0
    """Longest time from a launch's submission (or preemption) to its first (or next) block."""

    def use(self, begin: int, end: int) -> dict[int, int]:
        """Engine time of each VM between two times."""
        result: dict[int, int] = defaultdict(int)
        for start, stop, vm in self.runs:
            result[vm] += max(min(stop, end) - max(start, begin), 0)
        return result

    def shares(self, begin: int, end: int) -> dict[int, float]:
        use = self.use(begin, end)
        total = sum(use.values())
        return {vm: each / total for vm, each in use.items()}


def simulate(scheduler: Scheduler[Any], guests: list[Guest], duration: int, switch: int = 0) -> Trace:
    """Run guests (VM 0, 1, ...) on one GPU for a time; `switch` is what changing to another VM costs."""
    trace = Trace()
    left: dict[Command[Any], int] = {}
    events: list[tuple[int, int, int]] = []
    number = 0
    for vm, guest in enumerate(guests):
        scheduler.add(vm, guest.weight, guest.cap)
        for _ in range(guest.depth):
            heapq.heappush(events, (guest.begins, number, vm))
            number += 1
    now, last = 0, -1
    since: dict[Command[Any], int] = {}
    next_period = scheduler.period or 0

    def submit(until: int) -> None:
        """Let launches that are submitted up to a time come."""
        nonlocal next_period
        while True:
            due = events[0][0] if events else None
            if scheduler.period and next_period <= until and (due is None or next_period <= due):
                scheduler.replenish(next_period)
                next_period += scheduler.period
                continue
            if due is None or due > until:
                return
            _, _, vm = heapq.heappop(events)
            guest = guests[vm]
            if guest.ends is not None and due >= guest.ends:
                continue
            command: Command[Any] = Command(vm, None)
            left[command] = guest.length
            since[command] = due
            scheduler.enqueue(due, command)

    while now < duration:
        submit(now)
        command = scheduler.pick(now)
        if command is None:
            times = [each for each in (scheduler.next_event_time(now),) if each is not None]
            if events:
                times.append(events[0][0])
            if scheduler.period and scheduler.queued:
                times.append(next_period)
            if not times:
                break
            assert min(times) >= now, "a policy must not ask for what is past"
            now = max(min(times), now + 1)
            continue
        trace.longest_wait = max(trace.longest_wait, now - since[command])
        start = now
        if command.vm != last:
            now += switch
            last = command.vm
        begun = now
        block = guests[command.vm].block
        end = begun + left[command]
        while True:
            deadline = scheduler.deadline(now)
            stop = end
            if deadline is not None:
                # The block that runs at the deadline ends first.
                blocks = -(-max(deadline - begun, now - begun, 1) // block)
                stop = min(end, begun + blocks * block)
            coming = events[0][0] if events else None
            if coming is None or coming >= stop:
                submit(stop)
                now = stop
                break
            submit(coming)
            now = max(now, coming)
        trace.runs.append((begun, now, command.vm))
        left[command] -= now - begun
        assert now > start or left[command] == 0
        if left[command] > 0:
            since[command] = now
            scheduler.preempt(now, command, now - begun)
            continue
        del left[command]
        trace.latencies[command.vm].append(now - command.submitted)
        scheduler.complete(now, command, now - begun)
        heapq.heappush(events, (now + guests[command.vm].think, number, command.vm))
        number += 1
    return trace

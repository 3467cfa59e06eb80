"""One GPU in virtual time with SimPy, a process for each machine and one for the GPU: slow, and plain to read.
The fast engine must come to the same result; the tests compare the two.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import simpy

from gpuvm.lab.simulation.engine import Guests, Ledger, Work, policy, stop_time
from gpuvm.lab.simulation.fleet import Settings, Task
from gpuvm.lab.simulation.program import Program
from gpuvm.lab.simulation.statistics import GpuResult
from gpuvm.schedulers import Command

Steps = Generator[simpy.Event, Any, None]

WINDOW, COMPLETION, FIRST_GUEST = 2, 3, 4
"""Order of what happens at one instant; 0 and 1 are SimPy's own. The machines come in order of their numbers,
the policy last."""


class Reference:
    """The GPU, its machines and its policy as processes."""

    def __init__(self, task: Task, programs: Sequence[Program], settings: Settings) -> None:
        self.env = simpy.Environment(0)
        self.guests = Guests(task, programs, settings)
        self.ledger = Ledger(self.guests.count, settings.window)
        self.scheduler = policy(settings, task)
        self.settings = settings
        self.running: Command[Work] | None = None
        self.began = 0
        """When the command on the GPU began to run, its switch done."""
        self.last_vm = -1
        self.changed = self.env.event()
        """Tells the GPU, while it runs something, that its deadline may have changed."""
        self.work = self.env.event()
        """Wakes the GPU when something was submitted."""
        self.room = [self.env.event() for _ in range(self.guests.count)]
        """Wakes a machine that has all outstanding that it may."""
        for guest in range(self.guests.count):
            self.env.process(self.machine(guest))
        self.env.process(self.gpu())
        self.env.process(self.windows())

    def run(self) -> None:
        self.env.run(until=self.settings.until)
        if self.settings.until % self.settings.window == 0:
            self.close_window()
        if self.running is not None:
            self.ledger.used[self.running.vm] += max(self.settings.until - self.began, 0)

    def at(self, delay: int, priority: int) -> simpy.Event:
        """An event after a delay that takes its turn among others of that instant."""
        event = self.env.event()
        event._ok, event._value = True, None
        self.env.schedule(event, priority=priority, delay=delay)  # type: ignore[arg-type]
        return event

    def last(self) -> simpy.Event:
        """The end of this instant, when machines have submitted all that they submit in it."""
        return self.at(0, FIRST_GUEST + self.guests.count)

    def machine(self, guest: int) -> Steps:
        guests = self.guests
        gap = guests.first[guest]
        while True:
            yield self.at(gap, FIRST_GUEST + guest)
            position = guests.positions[guest]
            self.scheduler.enqueue(self.now, Command(guest, guests.work[guest][position]))
            guests.positions[guest] = (position + 1) % guests.lengths[guest]
            guests.outstanding[guest] += 1
            if not self.work.triggered:
                self.work.succeed()
            if self.scheduler.preemptive and self.running is not None and not self.changed.triggered:
                self.changed.succeed()
            if guests.outstanding[guest] == guests.depths[guest]:
                yield self.room[guest]
            gap = guests.gap(guest)

    def gpu(self) -> Steps:
        scheduler, ledger = self.scheduler, self.ledger
        next_period = 0
        yield self.work
        while True:
            yield self.last()
            now = self.now
            if scheduler.period is not None and now >= next_period:
                scheduler.replenish(now)
                next_period = now + scheduler.period
            command = scheduler.pick(now)
            if command is None:
                yield from self.idle(next_period)
                continue
            self.running = command
            self.began = now if command.vm == self.last_vm else now + self.settings.switch
            self.last_vm = command.vm
            if not command.used:
                wait = self.began - command.submitted
                ledger.longest_wait[command.vm] = max(ledger.longest_wait[command.vm], wait)
            yield from self.run_one(command)

    def run_one(self, command: Command[Work]) -> Steps:
        """Run a command to its end, or until its deadline has passed and a block ends."""
        duration, grain = command.payload
        whole = self.began + duration - command.used
        while True:
            deadline = self.scheduler.deadline(self.now) if self.scheduler.preemptive else None
            stop = stop_time(deadline, self.now, self.began, whole, grain)
            self.changed = self.env.event()
            over = self.at(stop - self.now, COMPLETION)
            yield simpy.AnyOf(self.env, [over, self.changed])
            if over.processed and self.now == stop:
                break
        elapsed = self.now - self.began
        self.ledger.used[command.vm] += elapsed
        self.running = None
        if stop < whole:
            self.scheduler.preempt(self.now, command, elapsed)
            self.ledger.switches += 1
        else:
            self.scheduler.complete(self.now, command, elapsed)
            self.completed(command)

    def idle(self, next_period: int) -> Steps:
        """Wait for a command, or for when the policy wants to be asked."""
        self.work = self.env.event()
        wake = [self.work]
        if self.scheduler.queued:
            due = self.scheduler.next_event_time(self.now)
            if due is None and self.scheduler.period is not None:
                due = next_period
            if due is not None:
                wake.append(self.at(max(due - self.now, 1), FIRST_GUEST + self.guests.count))
        yield simpy.AnyOf(self.env, wake)

    def completed(self, command: Command[Work]) -> None:
        guest, guests, ledger = command.vm, self.guests, self.ledger
        ledger.launches[guest] += 1
        latency = self.now - command.submitted
        ledger.latencies[guest].pending.append(latency)
        ledger.longest[guest] = max(ledger.longest[guest], latency)
        if guests.outstanding[guest] == guests.depths[guest]:
            self.room[guest].succeed()
            self.room[guest] = self.env.event()
        guests.outstanding[guest] -= 1

    def windows(self) -> Steps:
        while True:
            yield self.at(self.settings.window, WINDOW)
            self.close_window()

    def close_window(self) -> None:
        self.ledger.close_window(-1 if self.running is None else self.running.vm, self.began)

    @property
    def now(self) -> int:
        return int(self.env.now)


def simulate_gpu(task: Task, programs: Sequence[Program], settings: Settings) -> GpuResult:
    """Replay the machines' programs on one GPU until `settings.until`, as `engine.simulate_gpu` does."""
    reference = Reference(task, programs, settings)
    reference.run()
    return reference.ledger.result(task, programs)

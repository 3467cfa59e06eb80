"""FAIR: rounds of a fixed length in which every VM that wants the GPU gets its part of the engine's time,
by preemption at thread-block boundaries.

The GPU goes round the VMs, in an order that does not change. In each round a VM has a *budget* of engine time
in proportion to its weight; only its commands' own time on the GPU is charged to it. What it overdraws (a
thread block ends late) or leaves over (the next command would overdraw) is carried into its next round.

A round lasts a whole fraction of `window`. A schedule that repeats itself exactly in a window gives every VM
the same time in *every* stretch of that length, wherever it begins, however long the single turns are; so the
turns can be long enough to make switching cheap. Rounds keep step with the clock: one that took too long is
followed by a shorter one.

A VM that waits for each launch leaves the GPU idle between two. While it has its turn, and comes back within
`patience` as a rule, the GPU waits for it, so that it gets all of its budget and not only one command. Where
it takes longer, the others run meanwhile, and it takes the GPU back for the rest of its budget when it comes.
What it has not used by the round's end is forgotten: sleeping earns nothing.

`docs/schedulers.md` states the guarantees.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from gpuvm.schedulers.policy import MS, US, Command, Payload, Scheduler, Share

HELD_MAX = 4.0
"""Largest ratio of the time that a VM holds the GPU to its engine time that the planner assumes."""
PLANNED, PLANNED_LEAST, PLANNED_MOST = 0.82, 0.65, 0.9
"""Length of a round as a part of the longest that there may be: what is planned, and between what it may come to
lie before it is planned anew."""
GRACE = 100 * US
"""Nanoseconds by which a budget may be overdrawn, or left over, where that ends a command whole."""
DEBT_ROUNDS = 16
"""A debt of more rounds' budgets than this is forgiven: by then a watchdog should have acted."""


class FairShare(Share):
    """A VM's budget and habits."""

    __slots__ = (
        "budget",
        "closed",
        "held",
        "left_at",
        "length",
        "listed",
        "round",
        "thinking",
    )  # fmt: skip

    def __init__(self, vm: int, weight: int, cap: float | None) -> None:
        super().__init__(vm, weight, cap)
        self.budget = 0
        """Nanoseconds of engine time left in this round; between rounds, what is carried over."""
        self.round = 0
        """Round that the budget belongs to."""
        self.closed = 0
        """Round in which it has had all that it may, whatever is left of its budget."""
        self.listed = 0
        """Round in whose list of VMs it stands; 0 if in none."""
        self.held = 1.0
        """Time that it holds the GPU for each unit of engine time, smoothed."""
        self.thinking = 0
        """Time from a command's end to the next one where none was queued and the GPU waited, smoothed."""
        self.length = 0
        """Engine time of its commands, smoothed."""
        self.left_at = -1
        """When its last command ended with nothing queued; -1 if something is."""


class FairScheduler(Scheduler[Payload]):
    """Preemptive, weighted, work-conserving.

    Parameters
    ----------
    slice : int
        Nanoseconds that a VM of average weight may hold the GPU while others wait.
    window : int
        Nanoseconds over which shares are promised.
    patience : int
        Nanoseconds that the GPU waits for the next command of the VM whose turn it is.
    quantum : int
        Nanoseconds that a VM runs at least before one that comes back may take the GPU from it; also the
        smallest budget for which a turn is given.

    Attributes
    ----------
    round : int
        Rounds so far.
    """

    preemptive: ClassVar[bool] = True
    weighted: ClassVar[bool] = True
    share_type: ClassVar[type[Share]] = FairShare

    def __init__(
        self,
        slice: int = 12_500 * US,
        window: int = 500 * MS,
        patience: int = 2 * MS,
        quantum: int = 1 * MS,
    ) -> None:
        super().__init__()
        if not 0 < quantum <= slice <= window:
            raise ValueError(
                "a fair scheduler needs 0 < quantum <= slice <= window, "
                f"got {quantum}, {slice} and {window} nanoseconds"
            )
        if patience < 0:
            raise ValueError(f"a scheduler's patience must be 0 ns or more, got {patience}")
        self.slice = slice
        self.window = window
        self.patience = patience
        self.quantum = quantum
        self.round = 1
        self._this: deque[int] = deque()
        """VMs that wait for their turn in this round. The order is that of the turns before, so that no VM
        waits longer than a round."""
        self._late: deque[int] = deque()
        """VMs that come late in this round, or back for the rest of their budget: they go before the others."""
        self._next: deque[int] = deque()
        self._rounds = 1
        """Rounds in a window."""
        self._unit = float(slice)
        """Engine time in this round for each unit of weight."""
        self._hold = slice
        """Longest that a VM of weight 1 may hold the GPU in a turn of this round."""
        self._round_end = 0
        self._wants: set[int] = set()
        """VMs that may run and have something queued."""
        self._alone_since = 0
        """When the last of the others, beside the VM whose turn it is, had nothing more queued."""
        self._turn: FairShare | None = None
        self._turn_began = 0
        self._turn_used = 0
        self._turn_end = 0
        """When the present turn is planned to end; 0 if its budget alone decides."""
        self._turn_late = False
        """Whether the present turn is that of a VM that came late."""
        self._planned = 0
        """When the last planned turn of this round was to end."""
        self._until = 0
        """Until when the GPU waits for the VM whose turn it is."""

    # VMs

    def remove(self, vm: int) -> list[Command[Payload]]:
        if self._turn is not None and self._turn.vm == vm:
            self._turn = None
        return super().remove(vm)

    # What the base tells

    def _came(self, now: int, share: FairShare) -> None:
        if share.left_at >= 0:
            # How long it thinks while others run says little: they keep its machine busy, too.
            thought = now - share.left_at
            if share is self._turn or thought <= self.patience:
                share.thinking += (thought - share.thinking) // 4
            share.left_at = -1

    def _ready(self, now: int, share: FairShare) -> None:
        if share is self._turn:
            self._wants.add(share.vm)
            return
        if share.vm not in self._wants:
            if not self._others() and now - self._alone_since > self.slice:
                self._fresh(now)
            self._wants.add(share.vm)
        self._list(share)

    def _unready(self, share: FairShare) -> None:
        self._wants.discard(share.vm)

    def _others(self) -> int:
        """VMs that want the GPU beside the one whose turn it is."""
        return len(self._wants) - (self._turn is not None and self._turn.vm in self._wants)

    def _fresh(self, now: int) -> None:
        """A VM comes after one that had the GPU for itself: what that one ran so far was free."""
        turn = self._turn
        if turn is None:
            return
        self._new_round(now, turn)
        turn.budget = 0
        self._grant(turn)
        self._begin(now, turn)
        if self.running is not None and self.running.vm == turn.vm:
            turn.budget += now - self.running.started

    def _list(self, share: FairShare, preempted: bool = False) -> None:
        """Let a VM wait for its turn: in this round if it has not had all of it, else in the next."""
        had = share.round == self.round
        used_up = share.budget <= int(self._unit * share.weight) // 8 + self._grace(share)
        if share.closed == self.round or (had and used_up):
            if share.listed <= self.round:
                self._list_next(share)
        elif share.listed != self.round:
            share.listed = self.round
            if preempted:
                self._this.appendleft(share.vm)
            else:
                self._late.append(share.vm)

    def _charge(self, now: int, share: FairShare, elapsed: int) -> None:
        share.budget -= elapsed
        if share is self._turn:
            self._turn_used += elapsed

    def _ended(self, now: int, share: FairShare, command: Command[Payload]) -> None:
        share.length += (command.used - share.length) // 4 if share.length else command.used
        if not share.queue:
            share.left_at = now
            self._until = now + (self.patience if share.thinking <= self.patience else 0)

    # Whose turn

    def _select(self, now: int) -> FairShare | None:
        turn = self._turn
        if turn is not None:
            if turn.vm in self._wants:
                if not self._others() and not self._lasts(now, turn):
                    # Alone, it needs no turns.
                    self._new_round(now, turn)
                    self._grant(turn)
                    self._begin(now, turn)
                    return turn
                if not self._gives_way(now) and self._lasts(now, turn):
                    return turn
            elif turn.left_at >= 0 and now < self._until and self._lasts(now, turn):
                return None
            elif turn.left_at >= 0 and self._until > turn.left_at and now >= self._until:
                turn.thinking += (4 * self.patience - turn.thinking) // 4
            self._end_turn(now, turn)
        if not self._wants:
            return None
        share, planned, late = self._next_share(now)
        self._begin(now, share, planned, late)
        return share

    def _gives_way(self, now: int) -> bool:
        """Whether a VM that came late may take the GPU now. Late ones do not take it from each other."""
        ran = now - self._turn_began
        return not self._turn_late and ran >= self.quantum and self._front(self._late) is not None

    def _lasts(self, now: int, share: FairShare) -> bool:
        """Whether the present turn goes on."""
        return now + self._grace(share) < self._last_end(now, share, share.budget)

    def _last_end(self, now: int, share: FairShare, budget: int) -> int:
        """When the present turn ends at the latest, if the VM has so much budget at `now` and uses the GPU
        from now on: at the planned time, moved so far as is needed to keep what is carried over small, and
        no later than the VM may hold the GPU."""
        ends = now + budget
        if self._turn_end:
            slack = int(self._unit * share.weight) // 8
            ends = max(min(self._turn_end, ends + slack), ends - slack)
        return min(ends, self._latest(share))

    def _latest(self, share: FairShare) -> int:
        """When the present turn ends whatever is left of the budget."""
        latest = self._turn_began + self._hold * share.weight
        if self._turn_end:
            latest = min(latest, self._turn_end + int(self._unit * share.weight) // 4)
        return latest

    def _next_share(self, now: int) -> tuple[FairShare, bool, bool]:
        """The next VM that wants the GPU and has enough budget, whether this is its planned turn, and whether
        it came late. There is one that wants it."""
        while True:
            while (share := self._front(self._late) or self._front(self._this)) is not None:
                late = share is self._front(self._late)
                (self._late if late else self._this).popleft()
                share.listed = 0
                least = min(self.quantum, self._unit * share.weight / 2)
                if share.round == self.round:
                    return share, False, late
                if self._grant(share) >= least:
                    return share, not late, late
                self._list_next(share)
            self._new_round(now, None)

    def _list_next(self, share: FairShare) -> None:
        share.listed = self.round + 1
        self._next.append(share.vm)

    def _grant(self, share: FairShare) -> int:
        """Give a VM its budget of this round."""
        unit = int(self._unit * share.weight)
        # What is left over is carried only from one round to the next, and not from a pause.
        carried = share.budget if share.budget < 0 or share.round == self.round - 1 else 0
        carried = max(min(carried, unit // 2), -DEBT_ROUNDS * unit)
        # One for which it was no use to wait is tried again after a while.
        share.thinking -= share.thinking // 16
        share.round = self.round
        share.budget = carried + unit
        return share.budget

    def _grace(self, share: FairShare) -> int:
        """How much of a budget may be overdrawn, or left over, so as not to cut a short command in two."""
        return min(share.length // 2, GRACE)

    def _begin(self, now: int, share: FairShare, planned: bool = True, late: bool = False) -> None:
        self._turn = share
        self._turn_began = now
        self._turn_used = 0
        self._turn_late = late
        self._turn_end = 0
        if planned:
            self._planned += int(share.budget * share.held)
            self._turn_end = self._planned

    def _end_turn(self, now: int, share: FairShare) -> None:
        unit = int(self._unit * share.weight)
        if 2 * self._turn_used > unit:
            ratio = min(max((now - self._turn_began) / self._turn_used, 1.0), HELD_MAX)
            share.held += (ratio - share.held) / 4
        self._turn = None
        self._alone_since = now
        if now >= self._latest(share):
            # It held the GPU for as long as it may: its round is over. What is left is carried over, unless it
            # hardly used the GPU at all.
            if 2 * HELD_MAX * self._turn_used < unit:
                share.budget = min(share.budget, 0)
            share.closed = self.round
            if share.listed <= self.round:
                self._list_next(share)
        elif share.vm in self._wants:
            self._list(share, preempted=True)
        elif share.left_at >= 0 and share.thinking <= self.patience and share.listed <= self.round:
            # It is only between two commands: the next round is planned with it.
            self._list_next(share)

    def _front(self, waiting: deque[int]) -> FairShare | None:
        """The first VM of a list of this round that wants the GPU; it stays there."""
        while waiting:
            share: FairShare | None = self.shares.get(waiting[0])
            if share is not None and share.listed == self.round:
                if share.vm in self._wants:
                    return share
                share.listed = 0
            waiting.popleft()
        return None

    # Rounds

    def _new_round(self, now: int, alone: FairShare | None) -> None:
        """Begin a round with those that wait for it."""
        self.round += 1
        self._this, self._late, self._next = deque(dict.fromkeys(self._next)), deque(), deque()
        weights, held, carried, count, most = 0, 0.0, 0.0, 0, 1.0
        for vm in self._this:
            share = self.shares.get(vm)
            if share is not None and share.listed == self.round:
                weights += share.weight
                held += share.weight * share.held
                carried += share.budget * share.held
                most = max(most, share.held)
                count += 1
        if alone is not None or not count:
            count, weights, carried = 1, 1 if alone is None else alone.weight, 0.0
            held = float(weights)
        self._hold = count * self.slice // weights
        unit_most = self._hold / most
        length = max(self._length(int(min(count * self.slice, unit_most * held))), count * self.quantum)
        start = self._round_end if -length // 2 < self._round_end - now < length // 8 else now
        self._round_end = start + length
        self._planned = now
        unit = (self._round_end - now - carried) / held
        self._unit = min(max(unit, length / held / 2), unit_most)

    def _length(self, longest: int) -> int:
        """The length of a round: a whole fraction of the window, near the longest that there may be. It stays
        what it was where it can, because windows across a change are not exact."""
        if not PLANNED_LEAST * longest <= self.window // self._rounds <= PLANNED_MOST * longest:
            self._rounds = -(-self.window // int(longest * PLANNED))
        return self.window // self._rounds

    # Preemption

    def _slice_end(self, now: int, share: FairShare, command: Command[Payload]) -> int | None:
        if share is not self._turn or not self._others():
            return None
        ends = self._last_end(command.started, share, share.budget) + self._grace(share)
        if not self._turn_late and self._front(self._late) is not None:
            ends = min(ends, max(self._turn_began + self.quantum, now))
        return ends

    def next_event_time(self, now: int) -> int | None:
        due = super().next_event_time(now)
        turn = self._turn
        if turn is not None and self._wants and turn.vm not in self._wants and self.running is None:
            until = max(min(self._until, self._latest(turn)), now)
            return until if due is None else min(due, until)
        return due

"""The phase clock: wall time and counted events of a program, by the phases of the GPUvm papers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from gpuvm.workloads.base import PHASES


@dataclass(slots=True)
class Phase:
    """What was measured in one phase: wall seconds, and how far each counter moved."""

    wall_s: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)


class PhaseClock:
    """Given to a workload, which says what it is doing: `with clock.phase("htod"): ...`.

    A phase may be entered again and its times add up; phases do not nest.

    Parameters
    ----------
    read : callable
        Returns the counters of the machine that the workload runs in; they only grow.
    entered : callable, optional
        Told the name of each phase as it begins.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, float]], entered: Callable[[str], None] | None = None
    ) -> None:
        self._read = read
        self._entered = entered
        self._current = ""
        self.phases: dict[str, Phase] = {name: Phase() for name in PHASES}

    @contextmanager
    def phase(self, name: str, /) -> Iterator[None]:
        """Count what happens inside under `name`.

        Raises
        ------
        ValueError
            If `name` is not one of `PHASES`, or another phase is open.
        """
        if name not in self.phases:
            raise ValueError(f"a phase must be one of {', '.join(PHASES)}, got {name!r}")
        if self._current:
            raise ValueError(f"phase {name!r} must not begin inside phase {self._current!r}")
        self._current = name
        if self._entered is not None:
            self._entered(name)
        before = self._read()
        start = time.perf_counter()
        try:
            yield
        finally:
            phase = self.phases[name]
            phase.wall_s += time.perf_counter() - start
            add(phase.counters, moved(before, self._read()))
            self._current = ""


def moved(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """How far each counter moved; those that did not are left out."""
    return {
        name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)
    }


def add(total: dict[str, float], more: Mapping[str, float]) -> None:
    """Add `more` to `total` in place."""
    for name, value in more.items():
        total[name] = total.get(name, 0) + value

"""What experiments are given: what to run, where results go, and the runs that they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gpuvm.jit.executor import Executor
from gpuvm.lab.reproduce.sweep import Choice, Sweep, run_sweep

Say = Callable[[str], None]


@dataclass(slots=True)
class Context:
    """One call of `gpuvm reproduce`.

    Attributes
    ----------
    folder : Path
        Where results go.
    choice : Choice
        Modes, workloads and size.
    observer : callable
        Makes an observer of runs, a context manager, for a `Choice`.
    say : callable
        Is told what is being done, a line at a time.
    force : bool
        Measure again what is there.
    """

    folder: Path
    choice: Choice
    observer: Callable[[Choice], Any]
    say: Say
    force: bool = False
    _sweeps: dict[Choice, Sweep] = field(default_factory=dict)

    @property
    def small(self) -> bool:
        return self.choice.size == "small"

    def sweep(self, **changes: Any) -> Sweep:
        """All workloads in all modes, run at the first call; `changes` replace parts of the choice."""
        choice = replace(self.choice, **changes)
        if choice not in self._sweeps:
            path = self.folder / f"runs-{choice.size}.jsonl"
            if changes and self.choice.size != choice.size:
                self.say(f"runs at {choice.size} size: {', '.join(choice.modes)}")
            fresh = self.force and not any(each.size == choice.size for each in self._sweeps)
            self._sweeps[choice] = run_sweep(path, choice, self.observer, force=fresh)
        return self._sweeps[choice]

    def shared_modes(self) -> list[str]:
        """The modes under which machines share the GPU."""
        from gpuvm.lab.modes import MODES

        return [mode for mode in self.choice.modes if MODES[mode].shared]

    def executor(self) -> Executor:
        """A new one; whoever asks closes it."""
        return Executor()

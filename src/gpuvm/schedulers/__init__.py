"""Scheduling policies of the virtual GPUs, by name: `make_scheduler("fair")`."""

from __future__ import annotations

from typing import Any

from gpuvm.schedulers.band import BandScheduler
from gpuvm.schedulers.credit import CreditScheduler
from gpuvm.schedulers.fair import FairScheduler
from gpuvm.schedulers.fifo import DirectScheduler, FifoScheduler
from gpuvm.schedulers.policy import MS, US, Command, Scheduler, Share

SCHEDULERS: dict[str, type[Scheduler[Any]]] = {
    "direct": DirectScheduler,
    "fifo": FifoScheduler,
    "credit": CreditScheduler,
    "band": BandScheduler,
    "fair": FairScheduler,
}
"""Every policy by the name that the command line takes."""

PRESETS: dict[str, tuple[str, dict[str, int]]] = {
    "credit-2015": ("credit", {"period": 30 * MS}),
    "credit-2013": ("credit", {"period": 500 * MS}),
    "credit-50us": ("credit", {"period": 50 * US}),
    "band-2015": ("band", {"period": 30 * MS, "wait": 500 * US}),
    "band-2013": ("band", {"period": 500 * MS, "wait": 500 * US}),
}
"""Published parameters by name: (policy, parameters). `credit-50us` is what the public code really does: a
constructor lost its unit, and the period became 50 microseconds."""

NAMES = (*SCHEDULERS, *PRESETS)
"""Everything that `make_scheduler` takes."""

SAMPLE = 500 * MS
"""Nanoseconds over which the published work, and this one, take a share."""


def make_scheduler(name: str, **parameters: int) -> Scheduler[Any]:
    """Make a policy.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    **parameters
        Of the policy's class, in nanoseconds; they override a preset's.

    Raises
    ------
    ValueError
        If there is no such policy or it has no such parameter.
    """
    preset = PRESETS.get(name)
    policy, given = (name, parameters) if preset is None else (preset[0], preset[1] | parameters)
    kind = SCHEDULERS.get(policy)
    if kind is None:
        raise ValueError(f"the scheduler must be one of {', '.join(NAMES)}, got {name!r}")
    try:
        return kind(**given)
    except TypeError:
        names = ", ".join(parameters)
        raise ValueError(f"the scheduler {name} must be given its own parameters only, got {names}") from None


__all__ = [
    "NAMES",
    "PRESETS",
    "SAMPLE",
    "SCHEDULERS",
    "BandScheduler",
    "Command",
    "CreditScheduler",
    "DirectScheduler",
    "FairScheduler",
    "FifoScheduler",
    "Scheduler",
    "Share",
    "make_scheduler",
]

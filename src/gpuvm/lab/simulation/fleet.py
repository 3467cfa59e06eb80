"""Which machines there are and on which GPU each stands: decided once, before virtual time begins, so that
every GPU is a task of its own."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gpuvm.lab.simulation.program import Program

PLACEMENTS = ("static", "least-loaded")


@dataclass(frozen=True, slots=True)
class Tenant:
    """One virtual machine of the fleet.

    Attributes
    ----------
    vm : int
        Its number.
    program : int
        Index of what it repeats.
    depth : int
        Commands that it keeps outstanding: 1 waits for each (closed loop), more queue ahead (open loop).
    cap : float or None
        Largest part of a GPU's time that it may have.
    """

    vm: int
    program: int
    weight: int = 1
    depth: int = 1
    cap: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for every GPU; times in nanoseconds.

    Attributes
    ----------
    scheduler : str
        A name in `schedulers.NAMES`.
    parameters : mapping
        The policy's own, by name.
    until : int
        When virtual time ends.
    window : int
        Length of the windows over which shares are taken.
    switch : int
        Time that the GPU takes to change from one machine's channel to another's.
    jitter : float
        Each machine's own times vary by up to this fraction, at random.
    """

    scheduler: str
    until: int
    seed: int = 0
    window: int = 500_000_000
    switch: int = 0
    jitter: float = 0.0
    parameters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """One GPU and its machines, in order of their numbers."""

    gpu: int
    tenants: tuple[Tenant, ...]


def make_tenants(
    count: int,
    programs: int,
    weights: Sequence[int] = (1,),
    depths: Sequence[int] = (1,),
    caps: Sequence[float | None] = (None,),
) -> list[Tenant]:
    """`count` machines that take programs, weights, depths and caps in turn."""
    return [
        Tenant(vm, vm % programs, weights[vm % len(weights)], depths[vm % len(depths)], caps[vm % len(caps)])
        for vm in range(count)
    ]


def place(
    tenants: Sequence[Tenant], gpus: int, programs: Sequence[Program], placement: str = "static"
) -> list[Task]:
    """Put machines on GPUs.

    Parameters
    ----------
    placement : str
        "static": machines in runs of equal length, one after the other. "least-loaded": in order, each on the
        GPU that is asked for least so far, where a machine asks for the share that it would use alone.

    Raises
    ------
    ValueError
        If there is no such placement.
    """
    if placement not in PLACEMENTS:
        raise ValueError(f"the placement must be one of {', '.join(PLACEMENTS)}, got {placement!r}")
    hosts: list[list[Tenant]] = [[] for _ in range(gpus)]
    if placement == "static":
        for tenant in tenants:
            hosts[tenant.vm * gpus // len(tenants)].append(tenant)
    else:
        loads = [(0.0, gpu) for gpu in range(gpus)]
        for tenant in tenants:
            load, gpu = loads[0]
            hosts[gpu].append(tenant)
            heapq.heapreplace(loads, (load + programs[tenant.program].demand_with(tenant.depth), gpu))
    return [Task(gpu, tuple(host)) for gpu, host in enumerate(hosts)]


def entitlements(task: Task, programs: Sequence[Program]) -> list[float]:
    """Share of the GPU that each machine ought to get: weighted max-min fairness.

    A machine that would use less alone, or may use less, gets that; the others share the rest by weight.
    """
    demands = [
        min(programs[tenant.program].demand_with(tenant.depth), tenant.cap or 1.0) for tenant in task.tenants
    ]
    shares = [0.0] * len(demands)
    order = sorted(range(len(demands)), key=lambda at: (demands[at] / task.tenants[at].weight, at))
    left, weight = 1.0, sum(tenant.weight for tenant in task.tenants)
    for at in order:
        tenant = task.tenants[at]
        shares[at] = min(demands[at], left * tenant.weight / weight)
        left -= shares[at]
        weight -= tenant.weight
    return shares

"""Counted events of a machine as one flat mapping, the same names in every mode: what the cost model prices
and what reports carry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from gpuvm.gpu.counters import Counters as GpuCounters
from gpuvm.gpu.counters import Work

_WORK = tuple(field.name for field in fields(Work))


def work_events(counters: GpuCounters, channels: Iterable[int]) -> dict[str, float]:
    """GPU work of some channel numbers, summed: launches, instructions, transactions, bytes by direction.

    Parameters
    ----------
    channels : iterable of int
        Numbers on the physical GPU.
    """
    works = [counters.channels[number] for number in channels]
    return {name: sum(getattr(work, name) for work in works) for name in _WORK}

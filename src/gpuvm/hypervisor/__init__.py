"""The hypervisor: one physical GPU, any number of virtual ones. See `docs/hypervisor.md`."""

from __future__ import annotations

from gpuvm.hypervisor.aggregator import MODES, Aggregator
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import ExclusiveError, HypervisorError, OutOfResourcesError, UnknownModeError
from gpuvm.hypervisor.virtual import VirtualGpu

__all__ = [
    "MODES",
    "Aggregator",
    "Counters",
    "ExclusiveError",
    "HypervisorError",
    "OutOfResourcesError",
    "UnknownModeError",
    "VirtualGpu",
]

"""Scheduling policies of the virtual GPUs, by name."""

from __future__ import annotations

from typing import Any

from gpuvm.schedulers.fifo import DirectScheduler, FifoScheduler
from gpuvm.schedulers.policy import Command, Scheduler, Share

SCHEDULERS: dict[str, type[Scheduler[Any]]] = {"direct": DirectScheduler, "fifo": FifoScheduler}
"""Every policy by the name that the command line takes."""

__all__ = ["SCHEDULERS", "Command", "DirectScheduler", "FifoScheduler", "Scheduler", "Share"]

"""Errors of the hypervisor's own interface. A guest never causes one: what it does wrong is counted and
answered in its registers."""

from __future__ import annotations


class HypervisorError(Exception):
    """Something that the owner of the hypervisor asked for cannot be done."""


class OutOfResourcesError(HypervisorError):
    """Video memory, channels, BAR space or bus windows for one more virtual GPU are not free."""


class UnknownModeError(HypervisorError):
    """A virtualization technique that does not exist."""


class ExclusiveError(HypervisorError):
    """Pass-through needs the GPU for itself, and others are there (or the other way round)."""

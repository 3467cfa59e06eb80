"""The ways to give a machine the GPU, by the names that the command line and reports use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mode:
    """One way.

    Attributes
    ----------
    shared : bool
        Several machines can have the GPU at once; otherwise exactly one has it.
    hypervisor : bool
        A hypervisor owns the GPU.
    text : str
        What it is, for help texts.
    """

    name: str
    shared: bool
    hypervisor: bool
    text: str


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("native", False, False, "the driver on the GPU itself, no hypervisor"),
        Mode("passthrough", False, True, "one machine has the GPU to itself"),
        Mode("fv-naive", True, True, "full virtualization as the original's, without its optimizations"),
        Mode("fv-bar3", True, True, "the original with BAR3's pages mapped into the machine"),
        Mode("fv-lazy", True, True, "the original with shadows that follow when they are used"),
        Mode("fv-optimized", True, True, "the original's best: both"),
        Mode("fv", True, True, "full virtualization: shadows follow single writes, apertures are mapped"),
        Mode("pv-naive", True, True, "a driver that knows the hypervisor, one call for a page-table entry"),
        Mode("pv-multicall", True, True, "a driver that knows the hypervisor, entries in batches"),
        Mode("pv-drm", True, True, "a split driver: buffers, channels and submissions are forwarded"),
    )
}
"""Every mode by its name, the baseline first."""

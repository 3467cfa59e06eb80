"""The techniques of para-virtualization, each a small class over the call device: see docs/para.md."""

from __future__ import annotations

from gpuvm.hypervisor.full import FullGpu
from gpuvm.hypervisor.para.device import ParaGpu
from gpuvm.hypervisor.para.split import SplitGpu
from gpuvm.paravirt.abi import MULTICALL


class MulticallGpu(ParaGpu):
    """Page-table entries in batches, and BAR3 mapped into the machine: none of its pages holds a table."""

    mode = "pv-multicall"
    direct = (3,)
    operations = MULTICALL


PARA_TECHNIQUES: tuple[type[FullGpu], ...] = (ParaGpu, MulticallGpu, SplitGpu)
"""All of them, the dearest first."""

"""The benchmark programs of the GPUvm papers: kernel, input, reference answer."""

from __future__ import annotations

from gpuvm.workloads.backprop import BackPropagation
from gpuvm.workloads.base import PHASES, SEED, SIZES, Clock, Inputs, Workload, WorkloadError
from gpuvm.workloads.basic import Loop, Nop
from gpuvm.workloads.bfs import Bfs
from gpuvm.workloads.copy import Copy, PinnedCopy
from gpuvm.workloads.heartwall import HeartWall
from gpuvm.workloads.hotspot import Hotspot
from gpuvm.workloads.lud import Lud
from gpuvm.workloads.matrix import Fmadd, Fmmul, Madd, Mmul
from gpuvm.workloads.nn import NearestNeighbours
from gpuvm.workloads.nw import NeedlemanWunsch
from gpuvm.workloads.program import CudaError
from gpuvm.workloads.srad import Srad
from gpuvm.workloads.srad2 import Srad2
from gpuvm.workloads.verdict import Verdict

WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Nop(),
        Loop(),
        Madd(),
        Mmul(),
        Fmadd(),
        Fmmul(),
        Copy(),
        PinnedCopy(),
        BackPropagation(),
        Bfs(),
        HeartWall(),
        Hotspot(),
        Lud(),
        NearestNeighbours(),
        NeedlemanWunsch(),
        Srad(),
        Srad2(),
    )
}
"""Every workload by its name in the papers, in the papers' order."""

__all__ = [
    "PHASES",
    "SEED",
    "SIZES",
    "WORKLOADS",
    "Clock",
    "CudaError",
    "Inputs",
    "Verdict",
    "Workload",
    "WorkloadError",
]

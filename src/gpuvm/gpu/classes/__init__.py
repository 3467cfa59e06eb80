"""Object classes: what a channel binds to its subchannels, one class a file, methods declared as data."""

from gpuvm.gpu.classes.compute import Compute
from gpuvm.gpu.classes.copy import Copy, Copy1
from gpuvm.gpu.classes.m2mf import M2mf
from gpuvm.gpu.classes.method import ClassObject
from gpuvm.gpu.classes.threed import ThreeD
from gpuvm.gpu.classes.twod import TwoD

_COPY_ALIASES = (0x90B5, 0x90B8)

BY_ENGINE: dict[tuple[int, int], type[ClassObject]] = {
    **{(0, each.TABLE.number): each for each in (Compute, M2mf, TwoD, ThreeD)},
    **{(4, number): Copy for number in _COPY_ALIASES},
    **{(5, number): Copy1 for number in _COPY_ALIASES},
}
"""Class of an object by (FIFO engine, class number), as the data of method 0 names them."""

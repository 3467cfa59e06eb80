"""Classes 0x902d (2D) and 0x9097 (3D): bound and their state kept; what they would draw is not carried out
yet.

Queries and constant buffers of the 3D class work: drivers fence with them.
"""

from __future__ import annotations

from typing import ClassVar

from gpuvm.gpu.classes.compute import CONSTANT_BUFFER, QUERY, release, upload_constants
from gpuvm.gpu.classes.method import COMMON, ClassObject, MethodTable

TWOD = MethodTable(0x902D, "GF100_2D", COMMON, keep_all=True)
THREED = MethodTable(0x9097, "GF100_3D", (*COMMON, *QUERY, *CONSTANT_BUFFER), keep_all=True)


class TwoD(ClassObject):
    """A 2D object."""

    TABLE: ClassVar = TWOD


class ThreeD(ClassObject):
    """A 3D object."""

    TABLE: ClassVar = THREED

    def on_query_get(self, value: int) -> None:
        release(self, value)

    def on_cb_data(self, index: int, value: int) -> None:
        upload_constants(self, memoryview(value.to_bytes(4, "little")).cast("I"))

    def burst_cb_data(self, words: memoryview) -> None:
        upload_constants(self, words)

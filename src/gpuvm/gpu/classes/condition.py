"""Conditional execution: COND_MODE compares a pair of reports in memory, and what is drawn or launched until the
next one depends on it. rnndb g80_cond_mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.classes.graph import GraphObject
from gpuvm.gpu.classes.method import DataError, Rejected

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

NEVER, ALWAYS, RESULT_NON_ZERO, EQUAL, NOT_EQUAL = range(5)


class Conditional(GraphObject):
    """An object with COND_ADDRESS and COND_MODE.

    Attributes
    ----------
    passed : bool
        Whether drawing, blits and launches are carried out.
    """

    COND_ADDRESS: ClassVar[int]

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        self.passed = True

    def on_cond_mode(self, mode: int) -> None:
        """Compare: a report is its sequence and its value, the second one lies 16 bytes behind."""
        if mode in (NEVER, ALWAYS):
            self.passed = mode == ALWAYS
            return
        if mode > NOT_EQUAL:
            raise Rejected(DataError.INVALID_ENUM)
        space, address = self.channel.space, self.address(self.COND_ADDRESS)
        first = space.read32(address), space.read32(address + 4)
        if mode == RESULT_NON_ZERO:
            self.passed = any(first)
            return
        second = space.read32(address + 16), space.read32(address + 20)
        self.passed = (first == second) == (mode == EQUAL)

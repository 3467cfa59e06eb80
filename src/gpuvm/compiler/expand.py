"""PTX that needs control flow of its own (division, atomics by loops) becomes calls of the compiler's PTX library."""

from __future__ import annotations

from gpuvm.compiler.flow import Body
from gpuvm.compiler.layout import Layout


class Expander:
    """Rewrites bodies in place; adds library functions to the module as they are needed."""

    def __init__(self, layout: Layout, bodies: dict[str, Body]) -> None:
        self.layout = layout
        self.bodies = bodies

    def run(self) -> None:
        return

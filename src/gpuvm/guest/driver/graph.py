"""PGRAPH bring-up: units, context-control handshake, the golden context that every channel's context starts
from.

The sequence is nouveau's for a chip whose context-control microcode the driver itself loads. Real
context-control microcode is not part of this project: the image sent here is a program that halts, which is
all that the software GPU and a virtual GPU look at; the list of context methods is the part that compute
needs.
"""

from __future__ import annotations

from gpuvm.guest.driver.function import Function
from gpuvm.guest.driver.hardware import (
    CHIPSET_GF100,
    ENABLE_PGRAPH,
    GPC_STRIDE,
    GPC_TPC_COUNT,
    MP_GLOBAL_ERROR_EN,
    MP_WARP_ERROR_EN,
    TPC_BASE,
    TPC_STRIDE,
    TPC_TRAP_EN,
    Reg,
)
from gpuvm.guest.driver.instance import Instance

HALT = (0x0000_02F8,)
"""Falcon `exit`, padded."""

UNIT_TRAPS = (0x404000, 0x404600, 0x408030, 0x40601C, 0x404490, 0x406018, 0x405840)
"""Trap control of the dispatch, M2MF, and front-end units; 0xc0000000 enables reporting."""

ICMD = (
    (0x001000, 0x00000004), (0x0000A9, 0x0000FFFF), (0x000038, 0x0FAC6881), (0x00003D, 0x00000001),
    (0x0000E8, 0x00000400), (0x0000E9, 0x00000300), (0x000078, 0x00000042), (0x00004E, 0x00000080),
)  # fmt: skip
"""Front-end state of a fresh context."""

COMPUTE_DEFAULTS = (
    (0x75C, 0x00000000), (0x790, 0x00000000), (0x794, 0x00000000), (0x798, 0x00000000),
    (0x79C, 0x00000000), (0x7A0, 0x00000000), (0x77C, 0x00000000), (0x204, 0x00000000),
    (0x208, 0x00000000), (0x20C, 0x00000000), (0x24C, 0x00000000), (0xD94, 0x00000000),
)  # fmt: skip
M2MF_DEFAULTS = (
    (0x30C, 0),
    (0x310, 0),
    (0x314, 0),
    (0x318, 0),
    (0x31C, 0),
    (0x320, 0),
    (0x238, 0),
    (0x23C, 0),
)


class Graph:
    """PGRAPH.

    Attributes
    ----------
    shape : list of int
        Multiprocessors (TPCs) of each GPC.
    context_size : int
        Bytes of a channel's graphics context.
    golden : bytes
        The context image that new channels start from.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self.context_size = 0
        self.golden = b""
        function.mask(Reg.PMC_ENABLE, ENABLE_PGRAPH, 0)
        function.mask(Reg.PMC_ENABLE, 0, ENABLE_PGRAPH)
        gpcs = function.read(Reg.FECS_GPC_COUNT) & 0x1F
        self.shape = [
            function.read(Reg.GPC0 + GPC_STRIDE * gpc + GPC_TPC_COUNT) & 0x1F for gpc in range(gpcs)
        ]

    @property
    def multiprocessors(self) -> int:
        return sum(self.shape)

    def start(self) -> None:
        """Enable the units and their traps, then start context control."""
        function = self._function
        write = function.write
        write(Reg.PGRAPH_FIFO_CONTROL, 0x00010001)
        write(Reg.PGRAPH_INTR, 0xFFFFFFFF)
        write(Reg.PGRAPH_INTR_EN, 0xFFFFFFFF)
        for unit in UNIT_TRAPS:
            write(unit, 0xC0000000)
        write(Reg.FECS_INTR_EN, 0x000F0000)
        for gpc, tpcs in enumerate(self.shape):
            for tpc in range(tpcs):
                unit = Reg.GPC0 + GPC_STRIDE * gpc + TPC_BASE + TPC_STRIDE * tpc
                write(unit + TPC_TRAP_EN, 0xFFFFFFFF)
                write(unit + MP_WARP_ERROR_EN, 0x001FFFFE)
                write(unit + MP_GLOBAL_ERROR_EN, 0x0000000F)
        write(Reg.PGRAPH_TRAP, 0xFFFFFFFF)
        write(Reg.PGRAPH_TRAP_EN, 0xFFFFFFFF)
        unit260 = function.mask(Reg.PMC_UNIT260, 1, 0)
        self._load(Reg.FECS_DATA_CONTROL, Reg.FECS_CODE_CONTROL)
        self._load(Reg.GPCCS_DATA_CONTROL, Reg.GPCCS_CODE_CONTROL)
        write(Reg.PMC_UNIT260, unit260 | 1)
        write(Reg.FECS_SCRATCH0, CHIPSET_GF100)
        write(Reg.FECS_BLOCK_ON_FIFO, 0)
        write(Reg.FECS_CPU_CONTROL, 2)
        function.wait(Reg.FECS_SCRATCH0, 0x80000000, 0x80000000, "context control start")
        self.context_size = -(-(function.read(Reg.FECS_SCRATCH1) & 0xFFFFFF) // 0x1000) * 0x1000

    def make_golden(self, block: Instance, context: Instance) -> None:
        """Run the context methods on a channel that is not on the playlist and keep the saved image."""
        function = self._function
        write = function.write
        write(Reg.FECS_SCRATCH0_CLEAR, 0x80000000)
        write(Reg.FECS_COMMAND_DATA, 0x80000000 | block.address >> 12)
        write(Reg.FECS_COMMAND, 1)
        function.wait(Reg.FECS_SCRATCH0, 0x80000000, 0x80000000, "context bind")
        for address, data in ICMD:
            write(Reg.PGRAPH_ICMD_DATA, data)
            write(Reg.PGRAPH_ICMD_ADDRESS, address)
        for class_, methods in ((0x90C0, COMPUTE_DEFAULTS), (0x9039, M2MF_DEFAULTS)):
            for method, data in methods:
                write(Reg.MTHD_DATA, data)
                write(Reg.MTHD_CALL, 0x80000000 | method << 14 | class_)
        function.wait(Reg.PGRAPH_STATUS, 1, 0, "PGRAPH idle")
        function.mask(Reg.FECS_NEXT, 0x80000000, 0)
        write(Reg.FECS_WAKE, 0x100)
        function.wait(Reg.FECS_CURRENT, 0x80000000, 0, "context save")
        self.golden = context.read(0, self.context_size)

    def _load(self, data: int, code: int) -> None:
        write = self._function.write
        write(data, 0x01000000)
        write(data + 4, 0)
        write(code, 0x01000000)
        for index, word in enumerate(HALT):
            if index & 0x3F == 0:
                write(code + 8, index >> 6)
            write(code + 4, word)

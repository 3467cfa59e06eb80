"""The falcon microcontrollers as a driver sees them: upload ports, capabilities, start. Their firmware is not
run; each engine answers the handshakes that its firmware would. rnndb falcon.xml.
"""

from __future__ import annotations

from gpuvm.registers.access import R
from gpuvm.registers.declare import Block, Register, Scratch

START_CPU = 0x2

_VERSION = 3
_CODE_BLOCKS, _DATA_BLOCKS = 0x20, 0x10


def falcon(name: str, base: int, extra: tuple[Register, ...] = (), *, count: int = 1, stride: int = 0,
           size: int = 0x1000, code_kib: int = 16, data_kib: int = 4, doc: str = "") -> Block:  # fmt: skip
    """Declare a falcon's block.

    Parameters
    ----------
    code_kib, data_kib : int
        Sizes that its capability register reports.
    """
    capabilities = code_kib * 4 | (data_kib * 4) << 9
    standard = (
        Register(0x000, "INTR_SET"),
        Register(0x04C, "BUSY", R, doc="0: idle"),
        Register(0x100, "UC_CTRL", doc="2 starts the microcontroller"),
        Register(0x108, "UC_CAPS", R, reset=capabilities),
        Register(0x10C, "XFER_CTRL", R, doc="memory scrubbing is never in progress"),
        Register(0x12C, "UC_CAPS2", R, reset=_VERSION),
        Register(0x180, "CODE_INDEX"),
        Register(0x184, "CODE"),
        Register(0x188, "CODE_VIRT_ADDR"),
        Register(0x1C0, "DATA_INDEX"),
        Register(0x1C4, "DATA"),
    )
    taken = {each.offset for each in extra}
    registers = (*extra, *(each for each in standard if each.offset not in taken))
    return Block(name, base, size, registers, (Scratch(0, size - 4, "firmware state"),), count, stride, doc)

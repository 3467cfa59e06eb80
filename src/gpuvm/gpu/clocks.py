"""Clock tree: dividers and PLLs as a driver reads them back, set to the fastest performance level. Software may
write them; nothing here runs by them.

rnndb pm/gf100_pclock.xml. A PLL gives reference * N / M / P; an engine takes its own PLL, or a divider of the
common one.
"""

from __future__ import annotations

from gpuvm.gpu.profile import Level
from gpuvm.registers.declare import Block, Register, Scratch

CRYSTAL_KHZ = 27_000
COMMON_KHZ = CRYSTAL_KHZ * 60
"""The common PLL."""

DIVIDED = 1 << 31
SOURCE_COMMON = 3
PLL_ON = 1
CORE, ROP, HUB7, HUB6, HUB1, COPY, POWER, VIDEO = 0x0, 0x1, 0x2, 0x7, 0x8, 0x9, 0xC, 0xE
"""Clock numbers; 0 to 7 have a PLL."""


def coefficients(khz: int, reference: int = CRYSTAL_KHZ) -> int:
    """Return the PLL setting (P, N and M from bit 16, 8 and 0) whose frequency is nearest to `khz`."""
    best = min(
        (abs(reference * n // m - khz), m, n)
        for m in range(1, 17)
        for n in (max(1, min(255, round(khz * m / reference))),)
    )
    return 1 << 16 | best[2] << 8 | best[1]


def divider(khz: int) -> int:
    """Return the divider setting (in half steps, less 2) of the common PLL nearest to `khz`."""
    return max(0, min(63, round(2 * COMMON_KHZ / khz) - 2))


def blocks(level: Level) -> tuple[Block, ...]:
    """Declare the clock registers of a card that runs at `level`."""
    plls = {CORE: 2 * level.core_mhz, ROP: 2 * level.core_mhz, HUB7: level.hub_mhz}
    registers = [
        Register(0x100, "SELECT", reset=sum(1 << number for number in plls), doc="clocks that take their PLL")
    ]
    for number, mhz in plls.items():
        registers += [
            Register(0x20 * number, f"PLL{number}_CTRL", reset=PLL_ON),
            Register(0x20 * number + 4, f"PLL{number}_COEF", reset=coefficients(1000 * mhz)),
        ]
    for number in (HUB6, HUB1, COPY, POWER, VIDEO):
        registers += [
            Register(0x160 + 4 * number, f"CLK{number}_SOURCE", reset=SOURCE_COMMON),
            Register(
                0x250 + 4 * number, f"CLK{number}_DIVIDER", reset=DIVIDED | divider(1000 * level.hub_mhz)
            ),
        ]
    registers += [
        Register(0x390, "MEMORY_PLL_STATUS", reset=0x00020002, doc="locked"),
        Register(0x3F0, "MEMORY_SELECT", reset=2, doc="bit 1: the memory's PLL"),
    ]
    memory = (
        Register(0x00, "MPLL_CTRL", reset=PLL_ON),
        Register(0x04, "MPLL_COEF", reset=coefficients(1000 * level.memory_mhz)),
        Register(0x20, "MPLL_REFERENCE_CTRL", reset=PLL_ON),
        Register(0x24, "MPLL_REFERENCE_COEF", reset=coefficients(CRYSTAL_KHZ)),
    )
    return (
        Block(
            "PCLOCK", 0x137000, 0x1000, tuple(registers), (Scratch(0, 0xFFC, "other dividers"),), doc="Clocks"
        ),
        Block(
            "PMPLL",
            0x132000,
            0x1000,
            memory,
            (Scratch(0, 0xFFC, "other memory clock controls"),),
            doc="Memory clock",
        ),
    )

"""What does not compute: straps, fuses, unit counts, clocks, GPIO, register bus. Told to drivers, otherwise
inert.

rnndb bus/punits.xml, bus/pfuse.xml, bus/pibus.xml, io/pnvio.xml, pm/gf100_pclock.xml.
"""

from __future__ import annotations

from typing import ClassVar

from gpuvm.gpu.clocks import COMMON_KHZ, CRYSTAL_KHZ, PLL_ON, blocks, coefficients
from gpuvm.gpu.engine import Engine
from gpuvm.gpu.vbios.card import VOLTAGE_BASE_UV, VOLTAGE_LINES, VOLTAGE_STEP_UV
from gpuvm.registers.access import W1C, R, T
from gpuvm.registers.declare import Block, Field, Register, Scratch, bit

CRYSTAL_27_MHZ = 0x00400000
POSTED = 0x2
NO_DISPLAY, NO_VIDEO, NO_COPY = 0x1, 0x6, 0x300
"""Bits of HW_MISC_DISABLE."""

TEMPERATURE_C = 55
FAN_RPM, FAN_DUTY, FAN_DIVIDER = 1800, 20, 54
"""What the sensors and the fan's modulator say: 25 kHz, 37 %."""

GPIO_OUTPUT, GPIO_DRIVE, GPIO_INPUT = 0x11111111, 0x22222222, 0x44444444
"""Bits of eight lines: what is driven, whether it is, and what is read."""

PSTRAPS = Block(
    "PSTRAPS",
    0x101000,
    0x1000,
    (Register(0x000, "STRAPS0_PRIMARY", reset=CRYSTAL_27_MHZ, doc="bits 6 and 22: reference clock"),),
    (Scratch(0x004, 0xFFC, "secondary straps"),),
    doc="Straps",
)

PNVIO = Block(
    "PNVIO",
    0x00D000,
    0x3000,
    (
        Register(0x1104, "GPIO_LOW", count=2, doc="lines 0 to 15, a nibble each: output, drives, input"),
        Register(0x1114, "PWM0_DIVIDER", reset=FAN_DIVIDER, doc="of the crystal / 20"),
        Register(0x1118, "PWM0_DUTY", fields=(Field("DUTY", 0, 30), bit("TRIGGER", 31, T)), reset=FAN_DUTY),
        Register(0x1280, "GPIO_HIGH", count=2, doc="lines 16 to 31"),
        Register(0x128C, "GPIO_SPECIAL_1", reset=1, doc="bit 0: line 16 is the output of modulator 0"),
        Register(0x1720, "TACH_CTRL", doc="bit 0 on, line in bits 16-20"),
        Register(0x1728, "TACH_COUNT", R, reset=FAN_RPM * 2 // 60, doc="half turns in the last second"),
        Register(0x1800, "SPPLL0_CTRL", reset=PLL_ON),
        Register(0x1804, "SPPLL0_COEF", reset=coefficients(COMMON_KHZ, CRYSTAL_KHZ)),
    ),
    (Scratch(0, 0x2FFC, "GPIO and I2C lines, nothing attached"),),
    doc="GPIO, fan and common clock",
)

PTHERM = Block(
    "PTHERM",
    0x020000,
    0x1000,
    (
        Register(0x100, "INTR", W1C),
        Register(0x400, "TEMP", R, reset=TEMPERATURE_C, doc="degrees Celsius"),
    ),
    (Scratch(0, 0xFFC, "alarm thresholds, never reached"),),
    doc="Temperature",
)

INERT = (
    Block("PPCI_MISC", 0x08A000, 0x1000, scratch=(Scratch(0, 0xFFC, "bus link controls"),)),
    Block("PXBAR", 0x13C000, 0x4000, scratch=(Scratch(0, 0x3FFC, "crossbar clock gating"),)),
    Block("PCOUNTER", 0x1B0000, 0x10000, scratch=(Scratch(0, 0xFFFC, "performance counters, all zero"),)),
    Block(
        "PPCOUNTER",
        0x180000,
        0x30000,
        scratch=(Scratch(0, 0x2FFFC, "performance counters of clusters, all zero"),),
    ),
    Block("PDISPLAY", 0x610000, 0x10000, scratch=(Scratch(0, 0xFFFC, "display, no output attached"),)),
    Block("VGA", 0x601000, 0x1000, scratch=(Scratch(0, 0xFFC, "VGA ports"),)),
    Block("PVLD", 0x084000, 0x1000, scratch=(Scratch(0, 0xFFC, "video engine, disabled"),)),
    Block("PPDEC", 0x085000, 0x1000, scratch=(Scratch(0, 0xFFC, "video engine, disabled"),)),
    Block("PPPP", 0x086000, 0x1000, scratch=(Scratch(0, 0xFFC, "video engine, disabled"),)),
)


class Board(Engine):
    """Reports the product's units and keeps what is written to the rest."""

    def blocks(self) -> tuple[Block, ...]:
        profile, partitions = self.gpu.profile, self.gpu.partitions
        absent = NO_DISPLAY | NO_VIDEO | (0 if profile.copy_engines else NO_COPY)
        fuses = Block(
            "PFUSE",
            0x021000,
            0x1000,
            (
                Register(0x2A8, "TEMP_SENSOR", R, reset=1, doc="the die's sensor is calibrated"),
                Register(0x2CC, "SPEEDO", R, reset=profile.speedo, doc="leakage class of the die"),
            ),
            (Scratch(0, 0xFFC, "other fuses, none blown"),),
            doc="Fuses",
        )
        units = Block(
            "PUNITS",
            0x022400,
            0x400,
            (
                Register(0x00C, "UNK00C", reset=POSTED, doc="bit 1: the VBIOS has initialised the card"),
                Register(0x030, "DESIGN_GPC_COUNT", R, reset=profile.max_gpcs),
                Register(0x034, "DESIGN_TPC_PER_GPC_COUNT", R, reset=profile.max_tpcs),
                Register(0x038, "DESIGN_PART_COUNT", R, reset=partitions),
                Register(0x100, "HW_MISC_DISABLE", reset=absent, doc="engines that are fused off"),
                Register(0x154, "HW_MC_DISABLE_MASK", R, reset=0),
            ),
            (Scratch(0x000, 0x3FC, "disable masks"),),
            doc="Unit counts",
        )
        ring = Block(
            "PIBUS",
            0x120000,
            0x10000,
            (
                Register(0x1C4C, "MASTER_COMMAND", doc="acknowledgements; taken at once"),
                Register(0x1C58, "MASTER_INTR", R),
                Register(0x1C5C, "MASTER_INTR_1", R),
                Register(0x1C70, "MASTER_HUB_COUNT", R, reset=1),
                Register(0x1C74, "MASTER_ROP_COUNT", R, reset=partitions),
                Register(0x1C78, "MASTER_GPC_COUNT", R, reset=len(profile.tpcs)),
            ),
            (Scratch(0x0000, 0xFFFC, "ring stations: timeouts and clocks"),),
            doc="Register bus ring",
        )
        return (PSTRAPS, PNVIO, PTHERM, fuses, units, ring, *blocks(profile.levels[-1]), *INERT)

    BLOCKS: ClassVar = (PSTRAPS,)

    def read_gpio_low(self, index: int) -> int:
        return self._lines("GPIO_LOW", index)

    def read_gpio_high(self, index: int) -> int:
        return self._lines("GPIO_HIGH", index)

    def _lines(self, register: str, index: int) -> int:
        """A line that is driven reads as it is driven, any other 0: nothing is attached."""
        word = self.words[self.at("PNVIO", register, index)] & ~GPIO_INPUT
        return word | (word & GPIO_OUTPUT & (word & GPIO_DRIVE) >> 1) << 2

    def _drive(self, line: int, high: int) -> None:
        register = "GPIO_LOW" if line < 16 else "GPIO_HIGH"
        self.words[self.at("PNVIO", register, line >> 3 & 1)] |= (2 | high) << 4 * (line & 7)

    def reset(self) -> None:
        """Registers as the VBIOS leaves them: the regulator's lines give the voltage of the fastest level."""
        super().reset()
        self.power_on()

    def power_on(self) -> None:
        """Drive the voltage that the card runs at."""
        vid = (self.gpu.profile.levels[-1].microvolts - VOLTAGE_BASE_UV) // VOLTAGE_STEP_UV
        for position, line in enumerate(VOLTAGE_LINES):
            self._drive(line, vid >> position & 1)

    def read_master_command(self) -> int:
        return 0

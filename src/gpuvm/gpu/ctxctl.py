"""PGRAPH's context control: the hub (FECS) and cluster (GPCCS) microcontrollers, as handshakes. rnndb
gf100_pgraph/ctxctl.xml.

A context's content lives in the channel's objects, so the image that the driver saves and copies stays zero.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.engine import Engine
from gpuvm.gpu.falcon import START_CPU, falcon
from gpuvm.registers.access import RW, W1C, R, T
from gpuvm.registers.declare import Block, Register

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

CONTEXT_SIZE = 0x1000
"""Bytes of a context image; real hardware needs some 200 KiB, which a driver would only copy."""

READY = 1 << 31
CHANNEL_VALID = 1 << 31

CTXCTL = falcon(
    "PGRAPH_CTXCTL",
    0x409000,
    (
        Register(0x500, "WRCMD_DATA"),
        Register(0x504, "WRCMD_CMD", doc="a command to the firmware, data first"),
        Register(0x604, "UNITS", R, doc="clusters in bits 0-4, ROPs in bits 16-20"),
        Register(0x614, "RED_SWITCH"),
        Register(0x800, "CC_SCRATCH", RW, count=8, doc="what firmware answers"),
        Register(0x820, "CC_SCRATCH_SET", T, count=8),
        Register(0x840, "CC_SCRATCH_CLEAR", T, count=8),
        Register(0xB00, "CURRENT_CTX", doc="instance block >> 12, valid in bit 31"),
        Register(0xB04, "NEW_CTX"),
        Register(0xC18, "INTR_UP_STATUS", W1C),
        Register(0xC1C, "INTR_UP_SET"),
        Register(0xC20, "INTR_UP_CLEAR", T),
        Register(0xC24, "INTR_UP_ENABLE"),
    ),
    doc="Hub context control (FECS)",
)
GPCCS = falcon("GPC_CTXCTL", 0x41A000, doc="Cluster context control (GPCCS), broadcast")

_ANSWERS = {0x10: CONTEXT_SIZE, 0x16: CONTEXT_SIZE, 0x25: CONTEXT_SIZE, 0x30: CONTEXT_SIZE, 0x31: 1, 0x32: 1}
"""Firmware commands that only ask: what CC_SCRATCH[0] becomes."""

COMMAND_SET_CHANNEL, COMMAND_BIND, COMMAND_SAVE = 0x01, 0x03, 0x09
COMMAND_PAUSE, COMMAND_RESUME = 0x38, 0x39


class Ctxctl(Engine):
    """Answers for the firmware of FECS and GPCCS."""

    BLOCKS: ClassVar[tuple[Block, ...]] = (CTXCTL,)

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        profile = gpu.profile
        self._units = len(profile.tpcs) | gpu.partitions << 16

    def place(self) -> None:
        super().place()
        self._scratch = self.at("PGRAPH_CTXCTL", "CC_SCRATCH")
        self._current = self.at("PGRAPH_CTXCTL", "CURRENT_CTX")

    def read_units(self) -> int:
        return self._units

    def write_uc_ctrl(self, value: int) -> None:
        if value & START_CPU:
            self.words[self._scratch] |= READY | 1
            self.words[self._scratch + 1] = CONTEXT_SIZE

    def write_cc_scratch_set(self, index: int, value: int) -> None:
        self.words[self._scratch + index] |= value

    def write_cc_scratch_clear(self, index: int, value: int) -> None:
        self.words[self._scratch + index] &= ~value & 0xFFFFFFFF

    def write_intr_up_clear(self, value: int) -> None:
        self.words[self.at("PGRAPH_CTXCTL", "INTR_UP_STATUS")] &= ~value & 0xFFFFFFFF

    def write_intr_set(self, value: int) -> None:
        """A context switch request by hand: the next channel, or none, becomes current."""
        following = self.words[self.at("PGRAPH_CTXCTL", "NEW_CTX")]
        self.words[self._current] = following if following & CHANNEL_VALID else 0

    def write_wrcmd_cmd(self, command: int) -> None:
        words, scratch = self.words, self._scratch
        data = words[self.at("PGRAPH_CTXCTL", "WRCMD_DATA")]
        if command == COMMAND_SET_CHANNEL:
            words[self._current] = data
            words[self.at("PGRAPH_CTXCTL", "NEW_CTX")] = data
            words[scratch] |= READY
        elif command == COMMAND_BIND:
            words[self._current] = data
            words[scratch] |= 0x10
        elif command == COMMAND_SAVE:
            words[scratch] |= 0x1
        elif command in (COMMAND_PAUSE, COMMAND_RESUME):
            words[scratch + 1] = 1
        elif command in _ANSWERS:
            words[scratch] = _ANSWERS[command]

    def show_channel(self, instance: int) -> None:
        """Make a channel the current one, for a driver that looks up whose exception it reads."""
        self.words[self._current] = CHANNEL_VALID | instance >> 12


class Gpccs(Engine):
    """Keeps what is uploaded to the clusters' microcontrollers; the hub starts them."""

    BLOCKS: ClassVar[tuple[Block, ...]] = (GPCCS,)

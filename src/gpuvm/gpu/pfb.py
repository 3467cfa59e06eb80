"""Memory controllers as a driver sizes them: PFFB with the MMU's flush, PBFB partitions, PMFB level-2 cache
slices.

rnndb memory/gf100_pffb.xml, gf100_pbfb.xml, gf100_pmfb.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.gpu.engine import Engine
from gpuvm.registers.access import R
from gpuvm.registers.declare import Block, Field, Register, Scratch, bit

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

PFFB = Block(
    "PFFB",
    0x100000,
    0x1000,
    (
        Register(0x800, "PART_CONFIG", R, doc="level-2 caches in use"),
        Register(
            0xC80,
            "VM_CFG",
            fields=(
                bit("LARGE_64K", 0),
                Field("UNK1", 1, 14),
                bit("FLUSH_QUEUED", 15, R),
                Field("FREE_SLOTS", 16, 23, R),
            ),
            reset=0x00FF8000,
            doc="flush queue: never full, each flush done at once",
        ),
        Register(0xCB4, "VM_TLB_FLUSH_PAGE"),
        Register(
            0xCB8, "VM_TLB_FLUSH_VSPACE", doc="page directory >> 12 from bit 4 on, aperture in bits 0-1"
        ),
        Register(
            0xCBC,
            "VM_TLB_FLUSH_TRIGGER",
            doc="bit 31; bit 0 all pages, bit 1 all directories, bit 2 hub only",
        ),
    ),
    (Scratch(0x000, 0xFFC, "arbitration, sysmem flush page, clock gating"),),
    doc="Front of the memory controllers",
)


def partitions(count: int, mebibytes: int) -> Block:
    """Declare `count` memory partitions of `mebibytes` MiB each."""
    return Block(
        "PBFB",
        0x110000,
        0x1000,
        (Register(0x20C, "MEM_AMOUNT", R, reset=mebibytes, doc="MiB behind this partition"),),
        (Scratch(0x000, 0xFFC, "memory timings"),),
        count=count,
        stride=0x1000,
        doc="Memory partitions",
    )


PMFB_UNITS = Block(
    "PMFB", 0x140000, 0x20000, scratch=(Scratch(0, 0x1FFFC, "level-2 cache slices, one by one; idle"),)
)


class Pfb(Engine):
    """Reports the size of VRAM and passes TLB flushes on."""

    def __init__(self, gpu: Gf100) -> None:
        super().__init__(gpu)
        self._count = gpu.partitions
        self._mebibytes = (gpu.vram.size >> 20) // self._count

    BLOCKS: ClassVar = (PFFB, PMFB_UNITS)

    def blocks(self) -> tuple[Block, ...]:
        broadcast = Block(
            "PBFB_BROADCAST",
            0x10F000,
            0x1000,
            (Register(0x20C, "MEM_AMOUNT", R, reset=self._mebibytes),),
            (Scratch(0x000, 0xFFC, "memory timings, all partitions at once"),),
        )
        slices = Block(
            "PMFB_BROADCAST",
            0x17E000,
            0x2000,
            (
                Register(0x8C8, "COMP_TRIGGER"),
                Register(0x8CC, "COMP_CLEAR_TAG_START"),
                Register(0x8D0, "COMP_CLEAR_TAG_END"),
                Register(0x8D4, "COMP_TAGMEM_BASE"),
                Register(0x8D8, "COMP_PART_COUNT"),
                Register(0x8DC, "CONFIG", R, reset=self.gpu.profile.slices << 28, doc="slices in bits 28-31"),
            ),
            (Scratch(0x000, 0x1FFC, "level-2 cache, all slices at once"),),
        )
        return (*self.BLOCKS, partitions(self._count, self._mebibytes), broadcast, slices)

    def read_part_config(self) -> int:
        return self._count

    def write_vm_tlb_flush_trigger(self, value: int) -> None:
        if value & 1 << 31:
            self.gpu.mmu.flush(self.words[self.at("PFFB", "VM_TLB_FLUSH_VSPACE")], value)

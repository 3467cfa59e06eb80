"""What every engine of the chip has in common: its blocks of registers, access to them by name, reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from gpuvm.registers.declare import Block

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100


class Engine:
    """One engine; a subclass declares `BLOCKS` and handles the registers that do something.

    Notes
    -----
    Methods `read_<register>` and `write_<register>` become the handlers of registers (see
    `RegisterFile.place`). They run with the device's lock held and never execute channel work.
    """

    BLOCKS: ClassVar[tuple[Block, ...]] = ()

    def __init__(self, gpu: Gf100) -> None:
        self.gpu = gpu
        self.registers = gpu.registers
        self.words = gpu.registers.words

    def blocks(self) -> tuple[Block, ...]:
        """Return the blocks to place; an engine whose layout depends on the product overrides this."""
        return self.BLOCKS

    def place(self) -> None:
        """Place this engine's blocks in the register map."""
        for block in self.blocks():
            self.registers.place(block, self)

    def at(self, block: str, register: str, index: int = 0) -> int:
        """Return a register's index in `words`."""
        return self.registers.offset(block, register, index) >> 2

    def reset(self) -> None:
        """Bring the engine's registers back to their reset values."""
        for block in self.blocks():
            self.registers.reset(block)

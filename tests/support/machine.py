"""A little GPU memory to run kernels in: an address space with code, constants, data and read-only pages."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from gpuvm.isa.assembler import assemble
from gpuvm.isa.encoder import encode
from gpuvm.isa.instruction import Instruction
from gpuvm.jit.launch import ConstantBank, Launch
from gpuvm.jit.space import AddressSpace
from gpuvm.pci.memory import MemoryRegion

CODE = 0x4000_0000
CODE_SIZE = 1 << 18
CONSTANT = 0x10_0000_0000
"""Buffers of c[0] to c[17], one a page."""
NEAR = 0x2000_0000
"""Data that 32-bit addresses reach, too."""
FAR = 0x5_0000_0000
"""Data past 4 GiB."""
DATA_SIZE = 1 << 20
ROM = 0x7_0000_0000
"""Read-only pages."""
NOWHERE = 0x9_0000_0000
"""Never mapped."""


class Memory:
    """Code, constants and data of one test, mapped where the constants above say."""

    def __init__(self) -> None:
        self.region = MemoryRegion(CODE_SIZE + 18 * 4096 + 2 * DATA_SIZE + 4096, "gpuvm-test")
        self.space = AddressSpace()
        self.places: dict[int, int] = {}
        offset = 0
        for va, size, writable in (
            (CODE, CODE_SIZE, False),
            (CONSTANT, 18 * 4096, True),
            (NEAR, DATA_SIZE, True),
            (FAR, DATA_SIZE, True),
            (ROM, 4096, False),
        ):
            self.space.map(va, size, self.region.fd, offset, writable)
            self.places[va] = offset
            offset += size

    def close(self) -> None:
        self.space.close()
        self.region.close()

    def put(self, va: int, data: bytes) -> None:
        """Write bytes, read-only pages included."""
        base = max(b for b in self.places if b <= va)
        self.region.write(self.places[base] + va - base, data)

    def code(self, source: str | bytes | Iterable[Instruction], at: int = 0) -> int:
        """Put code at an offset of the segment; return its length."""
        if isinstance(source, str):
            raw = assemble(source, at)
        elif isinstance(source, bytes):
            raw = source
        else:
            raw = b""
            for ins in source:
                raw += encode(ins, at + len(raw))
        assert at + len(raw) <= CODE_SIZE
        self.put(CODE + at, raw)
        return len(raw)

    def constants(self, values: Sequence[int], bank: int = 0, offset: int = 0) -> None:
        """32-bit words of a bank."""
        self.put(CONSTANT + bank * 4096 + offset, struct.pack(f"<{len(values)}I", *values))

    def words(self, va: int, count: int) -> np.ndarray:
        """A copy of data as uint32."""
        return np.frombuffer(self.space.read(va, 4 * count), np.uint32)

    def snapshot(self) -> bytes:
        """All data, to compare or to put back."""
        start = self.places[NEAR]
        return self.region.read(start, 2 * DATA_SIZE)

    def restore(self, data: bytes) -> None:
        self.region.write(self.places[NEAR], data)

    def launch(
        self, block: tuple[int, int, int] = (32, 1, 1), grid: tuple[int, int, int] = (1, 1, 1), **more: object
    ) -> Launch:
        banks = tuple(ConstantBank(CONSTANT + n * 4096, 4096) for n in range(18))
        settings: dict[str, object] = {"constants": banks, "registers": 63, **more}
        return Launch(self.space, CODE, 0, grid, block, **settings)  # type: ignore[arg-type]


__all__ = ["CODE", "CODE_SIZE", "CONSTANT", "DATA_SIZE", "FAR", "NEAR", "NOWHERE", "ROM", "Memory"]

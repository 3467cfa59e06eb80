"""Runs hand-made kernels on the executor, by either translator, and on the interpreter that judges them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from judge import Block, Memory

from gpuvm.isa.assembler import assemble
from gpuvm.jit.executor import Executor, StopFlag
from gpuvm.jit.launch import ConstantBank, Launch, Outcome
from gpuvm.jit.space import AddressSpace
from gpuvm.jit.translate import Plan
from gpuvm.pci.memory import MemoryRegion

Words = npt.NDArray[np.uint32]
BASE = 0x10000000
CODE = 0x0
CONSTANTS = 0x40000
DATA = 0x100000
SIZE = 0x400000
PLANS = {
    "structured": Plan(lanes=32),
    "general": Plan(general=True),
    "threads": Plan(lanes=1),
    "default": Plan(),
}
TRANSLATORS = ("structured", "general")


class Rig:
    """4 MiB of GPU memory at BASE: code at its start, data from DATA on."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.memory = MemoryRegion(SIZE, "jit-test")
        self.space = AddressSpace()
        self.space.map(BASE, SIZE, self.memory.fd, 0, True)

    def close(self) -> None:
        self.space.close()
        self.memory.close()

    def bank0(self, block: tuple[int, int, int], grid: tuple[int, int, int], parameters: bytes) -> bytes:
        return struct.pack("<8I", 0xFE000000, 0xFF000000, *block, *grid) + parameters

    def launch(
        self, code: str | bytes, *, block: Any = 32, grid: Any = 1, parameters: bytes = b"", translator: str = "structured",
        stop: StopFlag | None = None, banks: dict[int, bytes] | None = None, **more: Any,
    ) -> Outcome:  # fmt: skip
        b = (*((block,) if isinstance(block, int) else block), 1, 1)[:3]
        g = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
        raw = assemble(code) if isinstance(code, str) else code
        self.memory.bytes[CODE : CODE + 0x20000] = 0
        self.memory.write(CODE, raw)
        all_banks = {0: self.bank0(b, g, parameters), **(banks or {})}
        bound: list[ConstantBank | None] = [None] * 18
        for number, contents in all_banks.items():
            at = CONSTANTS + 0x2000 * number
            self.memory.write(at, contents.ljust(256, b"\0"))
            bound[number] = ConstantBank(BASE + at, max(len(contents), 1))
        launch = Launch(self.space, BASE + CODE, 0, g, b, constants=tuple(bound), **more)
        self.executor.translator.plan = PLANS[translator]
        try:
            return self.executor.run(launch, stop)
        finally:
            self.executor.translator.plan = Plan()

    def put(self, offset: int, data: Any) -> int:
        """Write data at DATA + offset; its GPU address."""
        raw = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
        self.memory.write(DATA + offset, raw)
        return BASE + DATA + offset

    def words(self, offset: int, count: int) -> Words:
        return np.frombuffer(self.memory.read(DATA + offset, 4 * count), np.uint32).copy()

    def judge(
        self, code: str | bytes, size: int, *, block: Any = 32, grid: Any = 1, parameters: bytes = b"",
        banks: dict[int, bytes] | None = None, shared: int = 0, local: int = 0,
    ) -> bytes:  # fmt: skip
        """What the interpreter makes of the first `size` bytes of data."""
        b = (*((block,) if isinstance(block, int) else block), 1, 1)[:3]
        g = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
        raw = assemble(code) if isinstance(code, str) else code
        data = bytearray(self.memory.read(DATA, size))
        constants = {0: self.bank0(b, g, parameters), **(banks or {})}
        for z in range(g[2]):
            for y in range(g[1]):
                for x in range(g[0]):
                    Block(raw, Memory(BASE + DATA, data), constants, b, (x, y, z), shared, local).run()
        return bytes(data)

    def agree(self, code: str | bytes, size: int, *, translators: Any = TRANSLATORS, **how: Any) -> None:
        """Both translators must do to memory what the interpreter does."""
        before = self.memory.read(DATA, size)
        shared, local = how.pop("shared", 0), how.pop("local", 0)
        same: Callable[[Words], Words] = how.pop("same", lambda words: words)
        explain: Callable[[int], str] = how.pop("explain", lambda word: f"byte {4 * word:#x}")
        expected = np.frombuffer(self.judge(code, size, shared=shared, local=local, **how), np.uint32)
        for translator in translators:
            self.memory.write(DATA, before)
            outcome = self.launch(
                code, translator=translator, shared_size=shared, local_positive=local, stack_size=2048, **how
            )
            assert outcome.error is None, (translator, outcome.error)
            got = np.frombuffer(self.memory.read(DATA, size), np.uint32)
            wrong = np.flatnonzero(same(got) != same(expected))
            assert wrong.size == 0, f"{translator}: {wrong.size} words differ, first: " + "; ".join(
                f"{explain(int(n))}: {got[n]:#x} instead of {expected[n]:#x}" for n in wrong[:4]
            )
        self.memory.write(DATA, before)

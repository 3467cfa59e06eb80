"""Runs cubins for the tests: a memory, a loader and the executor (or the interpreter that judges it)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from gpuvm.compiler import compile_ptx, cubin
from gpuvm.jit.launch import ConstantBank, Launch, Outcome
from gpuvm.jit.space import AddressSpace
from gpuvm.pci.memory import MemoryRegion

BASE = 0x10000000
STACK_TOP = 0x01000000 - 0x3C0
SHARED_WINDOW, LOCAL_WINDOW = 0xFE000000, 0xFF000000


class Device:
    """One address space with 64 MiB in it. Use as a context manager."""

    def __init__(self, executor: Any, size: int = 64 << 20) -> None:
        self.executor = executor
        self.memory = MemoryRegion(size, "compiler-test")
        self.space = AddressSpace()
        self.space.map(BASE, self.memory.size, self.memory.fd, 0, True)
        self.next = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.space.close()
        self.memory.close()

    def reset(self) -> None:
        """Forget all allocations."""
        self.memory.bytes[: self.next] = 0
        self.next = 0

    def allocate(self, size: int, align: int = 256) -> int:
        self.next = -(-self.next // align) * align
        at = self.next
        self.next += max(size, 1)
        assert self.next <= self.memory.size
        return BASE + at

    def upload(self, data: Any) -> int:
        raw = np.ascontiguousarray(data).tobytes() if isinstance(data, np.ndarray) else bytes(data)
        at = self.allocate(len(raw))
        self.memory.write(at - BASE, raw)
        return at

    def download(self, address: int, dtype: Any, count: int) -> Any:
        size = np.dtype(dtype).itemsize * count
        return np.frombuffer(self.memory.read(address - BASE, size), dtype=dtype).copy()

    def load(self, source: str | bytes, **options: Any) -> Module:
        data = (
            source
            if isinstance(source, bytes) and source[:4] == b"\x7fELF"
            else compile_ptx(source, **options).cubin
        )
        return Module(self, cubin.read(data))


class Module:
    def __init__(self, device: Device, program: cubin.Cubin) -> None:
        self.device = device
        self.program = program
        self.address: dict[str, int] = {}
        for name, d in program.data.items():
            self.address[name] = device.allocate(d.size)
            if d.contents is not None:
                device.memory.write(self.address[name] - BASE, d.contents)
        for bank, contents in program.constants.items():
            self.address[f".nv.constant{bank}"] = device.upload(contents)
        self.code: dict[str, int] = {}
        for kernel in program.kernels.values():
            self.code[kernel.name] = self.address[kernel.section] = device.upload(kernel.code)
        for r in program.relocations:
            value = self.address[r.target] + r.addend
            if r.target.startswith(".text."):
                value = r.addend
            at = self.address[r.section] + r.offset - BASE
            device.memory.write(at, (value >> r.shift).to_bytes(16, "little")[: r.size])

    def variable(self, name: str) -> int:
        v = self.program.variables[name]
        return self.address[v.section] + v.offset

    def launch(
        self, name: str, grid: Any, block: Any, *values: Any, dynamic_shared: int = 0, run: Any = None
    ) -> Outcome:
        """Launch with parameters: int (by size of the slot), float, NumPy scalars or bytes."""
        k = self.program.kernels[name]
        g = (*((grid,) if isinstance(grid, int) else grid), 1, 1)[:3]
        b = (*((block,) if isinstance(block, int) else block), 1, 1)[:3]
        area = bytearray(0x20 + k.parameter_size)
        struct.pack_into("<8I", area, 0, SHARED_WINDOW, LOCAL_WINDOW, *b, *g)
        assert len(values) == len(k.parameters), (values, k.parameters)
        for v, (offset, size) in zip(values, k.parameters, strict=True):
            if isinstance(v, np.generic):
                raw = v.tobytes()
            elif isinstance(v, bytes):
                raw = v
            elif isinstance(v, float):
                raw = struct.pack("<f" if size == 4 else "<d", v)
            else:
                raw = (int(v) & (1 << 8 * size) - 1).to_bytes(size, "little")
            assert len(raw) == size
            area[0x20 + offset : 0x20 + offset + size] = raw
        mark = self.device.next
        banks: list[ConstantBank | None] = [None] * 18
        banks[0] = ConstantBank(self.device.upload(bytes(area)), len(area))
        one = bytearray(0x104)
        struct.pack_into("<I", one, 0x100, STACK_TOP)
        banks[1] = ConstantBank(self.device.upload(bytes(one)), len(one))
        for bank, contents in self.program.constants.items():
            banks[bank] = ConstantBank(self.address[f".nv.constant{bank}"], len(contents))
        for bank, contents in k.constants.items():
            banks[bank] = ConstantBank(self.device.upload(contents), len(contents))
        launch = Launch(
            self.device.space, self.code[name], 0, g, b,
            registers=max(k.registers, 2), shared_size=k.shared_size + dynamic_shared,
            local_positive=k.local_positive + 15 & ~15,
            local_negative=(k.local_negative + 0x3C0 + 15 & ~15) if k.local_negative else 0,
            stack_size=4096, barriers=k.barriers, constants=tuple(banks),
            shared_window=SHARED_WINDOW, local_window=LOCAL_WINDOW,
        )  # fmt: skip
        outcome: Outcome = (run or self.device.executor.run)(launch)
        self.device.next = mark
        return outcome

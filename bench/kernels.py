"""Kernel speed: this project's executor against PoCL on the same cores, at paper size, warm, interleaved.

    python bench/kernels.py [WORKLOAD ...] [--repeat N] [--size paper|small] [--no-peer] [--json FILE]

The programs run unchanged on a driver that launches their cubins straight on the executor (no GPU, no guest),
and
as their OpenCL twins on PoCL. A run's time is the sum over its kernel launches; printed are medians and
ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import statistics
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from gpuvm.compiler import compile_ptx, cubin
from gpuvm.jit.executor import Executor
from gpuvm.jit.launch import ConstantBank, Launch
from gpuvm.jit.space import AddressSpace
from gpuvm.pci.memory import MemoryRegion
from gpuvm.workloads import WORKLOADS

BASE = 0x1_0000_0000
STACK_TOP = 0x01000000 - 0x3C0
TWINS = ("MMUL", "FMMUL", "HS", "SRAD2", "NN", "LUD", "BFS")
SIZES = {"c_void_p": 8, "c_int": 4, "c_uint": 4, "c_float": 4}


class DirectDriver:
    """The driver calls that a workload makes, answered by the compiler and the executor alone."""

    def __init__(self, executor: Executor, size: int = 1 << 30) -> None:
        self.executor = executor
        self.memory = MemoryRegion(size, "bench")
        self.space = AddressSpace()
        self.space.map(BASE, self.memory.size, self.memory.fd, 0, True)
        self.next = 1 << 16
        self.kernel_s: list[tuple[str, float]] = []
        self.compile_s = 0.0
        self.instructions = 0
        self._modules: dict[bytes, Any] = {}

    def clear(self) -> None:
        self.kernel_s.clear()
        self.compile_s = 0.0
        self.instructions = 0

    def _place(self, data: bytes) -> int:
        at = self._take(len(data))
        self.memory.write(at - BASE, data)
        return at

    def _take(self, size: int) -> int:
        at = self.next
        self.next += (size + 0x1FF) & ~0xFF
        if self.next > self.memory.size:
            raise MemoryError("the bench's memory is used up")
        return BASE + at

    def cuInit(self, flags: int) -> tuple[int]:
        return (0,)

    def cuDeviceGet(self, ordinal: int) -> tuple[int, int]:
        return 0, ordinal

    def cuCtxCreate(self, flags: int, device: int) -> tuple[int, object]:
        self.mark = self.next
        return 0, self

    def cuCtxDestroy(self, context: object) -> tuple[int]:
        self.next = self.mark
        return (0,)

    def cuCtxSynchronize(self) -> tuple[int]:
        return (0,)

    def cuModuleLoadData(self, image: bytes) -> tuple[int, Any]:
        if image not in self._modules:
            self._modules[image] = cubin.read(compile_ptx(image.rstrip(b"\0")).cubin)
        program = self._modules[image]
        address: dict[str, int] = {}
        for name, d in program.data.items():
            address[name] = self._take(d.size)
            self.memory.zero(address[name] - BASE, d.size)
            if d.contents is not None:
                self.memory.write(address[name] - BASE, d.contents)
        for bank, contents in program.constants.items():
            address[f".nv.constant{bank}"] = self._place(contents)
        for kernel in program.kernels.values():
            address[kernel.section] = self._place(kernel.code)
        for r in program.relocations:
            value = (r.addend if r.target.startswith(".text.") else address[r.target] + r.addend) >> r.shift
            self.memory.write(address[r.section] + r.offset - BASE, value.to_bytes(16, "little")[: r.size])
        return 0, (program, address)

    def cuModuleUnload(self, module: Any) -> tuple[int]:
        return (0,)

    def cuModuleGetFunction(self, module: Any, name: bytes) -> tuple[int, Any]:
        return 0, (*module, module[0].kernels[name.decode()])

    def cuModuleGetGlobal(self, module: Any, name: bytes) -> tuple[int, int, int]:
        program, address = module
        variable = program.variables[name.decode()]
        return 0, address[variable.section] + variable.offset, variable.size

    def cuMemAlloc(self, size: int) -> tuple[int, int]:
        return 0, self._take(size)

    def cuMemFree(self, address: int) -> tuple[int]:
        return (0,)

    def cuMemcpyHtoD(self, target: int, source: int, size: int) -> tuple[int]:
        ctypes.memmove(self.memory.address + target - BASE, source, size)
        return (0,)

    def cuMemcpyDtoH(self, target: int, source: int, size: int) -> tuple[int]:
        ctypes.memmove(target, self.memory.address + source - BASE, size)
        return (0,)

    def cuMemcpyDtoD(self, target: int, source: int, size: int) -> tuple[int]:
        ctypes.memmove(self.memory.address + target - BASE, self.memory.address + source - BASE, size)
        return (0,)

    def cuMemsetD8(self, target: int, value: int, size: int) -> tuple[int]:
        self.memory.bytes[target - BASE : target - BASE + size] = value
        return (0,)

    def cuMemsetD32(self, target: int, value: int, count: int) -> tuple[int]:
        self.memory.words[(target - BASE) // 4 : (target - BASE) // 4 + count] = value
        return (0,)

    def cuLaunchKernel(self, function: Any, *rest: Any) -> tuple[int]:
        program, address, k = function
        gx, gy, gz, bx, by, bz, dynamic, _, (values, types), _ = rest
        area = bytearray(0x20 + k.parameter_size)
        struct.pack_into("<8I", area, 0, 0xFE000000, 0xFF000000, bx, by, bz, gx, gy, gz)
        for value, kind, (offset, size) in zip(values, types, k.parameters, strict=True):
            code = {ctypes.c_float: "<f", ctypes.c_double: "<d"}.get(kind)
            if code:
                struct.pack_into(code, area, 0x20 + offset, value)
            else:
                raw = (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")
                area[0x20 + offset : 0x20 + offset + size] = raw
        mark = self.next
        banks: list[ConstantBank | None] = [None] * 18
        banks[0] = ConstantBank(self._place(bytes(area)), len(area))
        one = bytearray(0x104)
        struct.pack_into("<I", one, 0x100, STACK_TOP)
        banks[1] = ConstantBank(self._place(bytes(one)), len(one))
        for bank, contents in program.constants.items():
            banks[bank] = ConstantBank(address[f".nv.constant{bank}"], len(contents))
        for bank, contents in k.constants.items():
            banks[bank] = ConstantBank(self._place(contents), len(contents))
        launch = Launch(
            self.space, address[k.section], k.offset, (gx, gy, gz), (bx, by, bz), registers=max(k.registers, 2),
            shared_size=k.shared_size + dynamic, local_positive=k.local_positive + 15 & ~15,
            local_negative=(k.local_negative + 0x3C0 + 15 & ~15) if k.local_negative else 0,
            stack_size=2048, barriers=16, constants=tuple(banks),
        )  # fmt: skip
        outcome = self.executor.run(launch)
        # PoCL's profiling events count from a kernel's start to its end: so does this.
        self.kernel_s.append((k.name, outcome.statistics.native_s))
        self.compile_s += outcome.statistics.compile_s
        self.instructions += outcome.statistics.warp_instructions
        self.next = mark
        if outcome.error is not None:
            raise RuntimeError(f"{k.name}: {outcome.error}")
        return (0,)


class NoClock:
    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(TWINS))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--size", default="paper")
    parser.add_argument("--no-peer", action="store_true", help="only this project's executor")
    parser.add_argument("--kernels", action="store_true", help="also the time of each kernel")
    parser.add_argument(
        "--least", action="store_true", help="least times instead of medians (on a busy machine)"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    peer = None
    if not options.no_peer:
        sys.path.insert(0, str(Path(__file__).parent))
        from pocl import Peer

        peer = Peer()
        print(f"peer: {peer.device}", file=sys.stderr)
    executor = Executor(options.threads)
    driver = DirectDriver(executor)
    rows: list[dict[str, Any]] = []
    print(f"{'workload':8} {'verified':>8} {'compile s':>9} {'ours ms':>9} {'PoCL ms':>9} {'ratio':>6}")
    for name in options.workloads:
        workload = WORKLOADS[name]
        inputs = workload.inputs(options.size)
        driver.clear()
        outputs = workload.run(driver, inputs, NoClock())
        verdict = workload.check(inputs, outputs)
        compile_s = driver.compile_s
        ours: list[float] = []
        theirs: list[float] = []
        if peer:
            peer.seconds(name, options.size, 1)
        per_kernel: dict[str, list[float]] = {}
        for _ in range(options.repeat):
            driver.clear()
            workload.run(driver, inputs, NoClock())
            ours.append(sum(seconds for _, seconds in driver.kernel_s))
            for kernel, seconds in driver.kernel_s:
                per_kernel.setdefault(kernel, []).append(seconds)
            if peer:
                theirs += peer.seconds(name, options.size, 1)
        middle = min if options.least else statistics.median
        mine = middle(ours)
        other = middle(theirs) if theirs else math.nan
        row = {
            "workload": name, "verified": verdict.ok, "compile_s": compile_s, "ms": mine * 1e3, "pocl_ms": other * 1e3,
            "ratio": mine / other, "launches": len(driver.kernel_s),
            "warp_instructions": driver.instructions,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:8} {verdict.ok!s:>8} {compile_s:9.2f} {mine * 1e3:9.2f} {other * 1e3:9.2f} {mine / other:6.2f}",
            flush=True,
        )
        if options.kernels:
            for kernel, seconds_list in per_kernel.items():
                each = middle(seconds_list) * 1e6
                print(f"    {kernel:40} {len(seconds_list) // options.repeat:6} x {each:10.1f} us")
    ratios = [row["ratio"] for row in rows if not math.isnan(row["ratio"])]
    if ratios:
        print(f"geometric mean {statistics.geometric_mean(ratios):.2f}, worst {max(ratios):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"device": peer.device if peer else None, "rows": rows}, indent=1))
    if peer:
        peer.close()
    executor.close()


if __name__ == "__main__":
    main()


__all__ = ["DirectDriver", "np"]

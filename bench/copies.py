"""Copy speed: 256 MiB through driver, channel and GPU against a NumPy copy, interleaved in one run.

    python bench/copies.py [--mode native] [--repeat N]

Pageable memory is staged through the machine's RAM; pinned memory is copied from where it is. "first" is the first
copy into fresh video memory, whose pages the host must still make (NumPy's: into a fresh array); the rest is warm.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable

import numpy as np

from gpuvm.lab.modes import MODES
from gpuvm.lab.system import System
from gpuvm.workloads.program import check

SIZE = 256 << 20


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="Copies through the virtual GPU against a NumPy copy.")
    parser.add_argument("--mode", default="native", choices=sorted(MODES))
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    data = np.random.default_rng(1).integers(0, 1 << 64, SIZE // 8, dtype=np.uint64).view(np.uint8)
    back = np.zeros_like(data)
    with System(options.mode) as system, system.guests[0].process() as cu:
        check(cu.cuInit(0))
        check(cu.cuCtxCreate(0, 0))
        buffer = check(cu.cuMemAlloc(SIZE))
        pinned = check(cu.cuMemAllocHost(SIZE))
        host = np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(int(pinned)))
        host[:] = data
        works: dict[str, Callable[[], object]] = {
            "NumPy": lambda: np.copyto(back, data),
            "HtoD": lambda: (cu.cuMemcpyHtoD(buffer, data.ctypes.data, SIZE), cu.cuCtxSynchronize()),
            "DtoH": lambda: cu.cuMemcpyDtoH(back.ctypes.data, buffer, SIZE),
            "HtoD pinned": lambda: (cu.cuMemcpyHtoD(buffer, pinned, SIZE), cu.cuCtxSynchronize()),
            "DtoH pinned": lambda: cu.cuMemcpyDtoH(pinned, buffer, SIZE),
        }
        first = {"NumPy": seconds(lambda: data.copy()), "HtoD": seconds(works["HtoD"])}
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(options.repeat):
            for name, work in works.items():
                times[name].append(seconds(work))
        if not np.array_equal(back, data):
            raise SystemExit("the copy must come back as it went, but it did not")
        base = statistics.median(times["NumPy"])
        print(f"{'copy':12} {'GB/s':>7} {'of NumPy':>9}")
        for name, measured in times.items():
            median = statistics.median(measured)
            print(f"{name:12} {SIZE / median / 1e9:7.2f} {base / median:8.2f}x")
        for name, once in first.items():
            print(f"{name + ' first':12} {SIZE / once / 1e9:7.2f} {first['NumPy'] / once:8.2f}x")
        del host
        check(cu.cuMemFreeHost(pinned))


if __name__ == "__main__":
    main()

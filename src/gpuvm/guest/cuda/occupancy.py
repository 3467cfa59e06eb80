"""How many blocks of a kernel a multiprocessor of compute capability 2.0 holds: registers, shared memory,
warps, blocks."""

from __future__ import annotations

from dataclasses import dataclass

from gpuvm.guest.cuda import attributes as device

REGISTER_UNIT = 64
"""A warp's registers are allocated in units of 64."""
WARP_UNIT = 2
"""Warps are allocated in pairs."""
SHARED_UNIT = 128


@dataclass(frozen=True, slots=True)
class Need:
    """What a kernel takes: registers a thread, bytes of shared memory a block, and its own bound on block
    size."""

    registers: int
    shared: int
    max_threads: int = device.MAX_THREADS_PER_BLOCK
    shared_capacity: int = device.SHARED_PER_BLOCK


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def max_threads(registers: int) -> int:
    """Largest block that the register file holds."""
    per_warp = _up(max(registers, 1) * device.WARP, REGISTER_UNIT)
    warps = device.REGISTERS // per_warp // WARP_UNIT * WARP_UNIT
    return min(warps * device.WARP, device.MAX_THREADS_PER_BLOCK)


def active_blocks(need: Need, threads: int, dynamic: int = 0) -> int:
    """Blocks of `threads` threads and `dynamic` more bytes of shared memory that run at once."""
    if threads <= 0 or threads > min(need.max_threads, device.MAX_THREADS_PER_BLOCK):
        return 0
    shared = _up(need.shared + dynamic, SHARED_UNIT)
    if shared > device.SHARED_PER_BLOCK:
        return 0
    warps = _up(-(-threads // device.WARP), WARP_UNIT)
    per_warp = _up(max(need.registers, 1) * device.WARP, REGISTER_UNIT)
    by_registers = device.REGISTERS // per_warp // WARP_UNIT * WARP_UNIT // warps
    by_warps = device.WARPS_PER_MULTIPROCESSOR // warps
    by_shared = need.shared_capacity // shared if shared else device.BLOCKS_PER_MULTIPROCESSOR
    return min(by_registers, by_warps, by_shared, device.BLOCKS_PER_MULTIPROCESSOR)


def best_block(need: Need, dynamic: int, limit: int) -> tuple[int, int]:
    """Return (active blocks, threads) with the most threads active on a multiprocessor, the largest block of
    equals."""
    top = min(need.max_threads, device.MAX_THREADS_PER_BLOCK, limit or device.MAX_THREADS_PER_BLOCK)
    best = (0, 0)
    for threads in range(_up(top, device.WARP), 0, -device.WARP):
        size = min(threads, top)
        blocks = active_blocks(need, size, dynamic)
        if blocks * size > best[0] * best[1]:
            best = (blocks, size)
    return best

"""Occupancy by the rules of compute capability 2.0, against NVIDIA's published calculator."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvm.guest.cuda.occupancy import Need, active_blocks, best_block, max_threads


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "blocks"),
    [
        (20, 0, 256, 6),  # warps: 48 / 8
        (21, 0, 192, 7),
        (32, 0, 256, 4),  # registers: 32768 / 1024 a warp = 32 warps
        (63, 0, 256, 2),
        (63, 0, 512, 1),
        (63, 0, 544, 0),
        (10, 0, 32, 8),  # blocks
        (10, 0, 1024, 1),
        (16, 12 << 10, 64, 4),  # shared memory
        (16, 24577, 64, 1),
        (16, (48 << 10) + 1, 64, 0),
        (16, 0, 1056, 0),
    ],
)
def test_active_blocks(registers: int, shared: int, threads: int, blocks: int) -> None:
    assert active_blocks(Need(registers, shared), threads) == blocks


def test_a_kernel_with_many_registers_runs_smaller_blocks() -> None:
    assert [max_threads(n) for n in (16, 32, 40, 63)] == [1024, 1024, 768, 512]


@given(st.integers(1, 63), st.integers(0, 48 << 10), st.integers(1, 1024))
def test_the_best_block_is_not_beaten(registers: int, shared: int, threads: int) -> None:
    need = Need(registers, shared)
    blocks, size = best_block(need, 0, 0)
    assert blocks * size >= active_blocks(need, threads // 32 * 32) * (threads // 32 * 32)
    assert blocks == active_blocks(need, size)

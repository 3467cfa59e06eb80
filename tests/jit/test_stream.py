"""Copies past the caches move the bytes that memmove would have moved, and no others."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvm.jit import stream

SPARE = 256


@pytest.mark.parametrize(
    "size", [0, 1, stream.LEAST - 1, stream.LEAST, stream.LEAST + 1, 3 * stream.LEAST + 77]
)
@pytest.mark.parametrize(("to", "source"), [(0, 0), (3, 5), (64, 1), (1, 64)])
def test_bytes_arrive_where_they_should(size: int, to: int, source: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size + SPARE, dtype=np.uint8)
    target = np.full(size + SPARE, 0xEE, np.uint8)
    stream.copy(target.ctypes.data + to, data.ctypes.data + source, size)
    assert np.array_equal(target[to : to + size], data[source : source + size])
    assert (target[:to] == 0xEE).all()
    assert (target[to + size :] == 0xEE).all()


@pytest.mark.parametrize("step", [1, 64, 4096, -1, -64, -4096])
def test_overlapping_ranges_are_copied_as_if_through_a_buffer(step: int) -> None:
    size = stream.LEAST + 1000
    data = np.random.default_rng(1).integers(0, 256, size + 2 * 4096, dtype=np.uint8)
    want = data.copy()
    want[4096 + step : 4096 + step + size] = data[4096 : 4096 + size]
    stream.copy(data.ctypes.data + 4096 + step, data.ctypes.data + 4096, size)
    assert np.array_equal(data, want)

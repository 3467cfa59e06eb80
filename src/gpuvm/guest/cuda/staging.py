"""Moving pageable memory: page-locked RAM that the CPU copies into and the GPU copies out of, and back.

The pieces stay in the CPU's last cache between the two copies; the second one, to where the bytes are going, passes
the caches by. Several pieces are under way at a time: one thread copies in while another copies out. They are
large enough that handing a piece over costs little beside copying it. Uploads and downloads have a ring each, so
neither waits for the other.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from gpuvm.guest.driver.context import GpuContext
from gpuvm.guest.driver.host import HostBuffer
from gpuvm.guest.driver.ring import Ring
from gpuvm.jit import stream

RING = 16 << 20
PIECES = 4
"""Pieces that a ring holds."""
LEAST_PIECE = 512 << 10
"""A copy is cut into as many pieces as the ring holds, but not smaller than this."""
MINIMUM_RING = 64 << 10
DEPTH = PIECES - 1
"""Pieces of a download under way. They and what is skipped at the ring's end fit the
ring, so a piece is not handed out again before the CPU has emptied it."""


class _Pinned:
    """One ring, made at first use."""

    def __init__(self, gpu: GpuContext) -> None:
        driver = gpu.driver
        size = RING
        # A machine with little RAM left gets a smaller ring, not an error.
        while size > MINIMUM_RING and driver.machine.pages.free_bytes < 8 * size:
            size //= 2
        with driver.lock:
            self.buffer = HostBuffer(driver.machine, size)
            try:
                gpu.space.map_host(self.buffer)
            except Exception:
                self.buffer.free()
                raise
        self._channel = gpu.channel
        self._ring = Ring(size, gpu.channel.finished, gpu.channel.wait)
        self.piece = size // PIECES

    def cut(self, size: int) -> int:
        """Return the bytes of a piece of a copy of `size` bytes."""
        return min(self.piece, max(LEAST_PIECE, -(-size // PIECES // 4096) * 4096))

    def reserve(self, size: int) -> int:
        """Return the address of `size` bytes that the channel's next submission uses (its lock is held)."""
        return self.buffer.address + self._ring.reserve(size, self._channel.submitted + 1, 256)


class Staging:
    """The staging memory of one context."""

    def __init__(self, gpu: GpuContext) -> None:
        self._gpu = gpu
        self._up: _Pinned | None = None
        self._down: _Pinned | None = None
        self._making = threading.Lock()
        self._downloading = threading.Lock()

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """To be held from `reserve` to the submission that uses the bytes."""
        return self._gpu.channel.lock

    @property
    def piece(self) -> int:
        """Most bytes that `reserve` is good for."""
        return self._upload_ring().piece

    def reserve(self, size: int) -> int:
        """Return the address (host and GPU) of `size` bytes for the next submission to read."""
        return self._upload_ring().reserve(size)

    def upload(self, source: int, size: int, copy: Callable[[int, int, int], int]) -> None:
        """Copy pageable memory through the ring.

        Parameters
        ----------
        source : int
            Host address.
        copy : callable
            `copy(offset, staged, length)` submits the GPU's part and returns its sequence number.
        """
        ring = self._upload_ring()
        piece = ring.cut(size)
        done = 0
        while done < size:
            length = min(piece, size - done)
            with self.lock:
                staged = ring.reserve(length)
                ctypes.memmove(staged, source + done, length)
                self._gpu.driver.bytes_staged += length
                copy(done, staged, length)
            done += length

    def download(
        self,
        destination: int,
        size: int,
        copy: Callable[[int, int, int], int],
        wait: Callable[[int], None],
    ) -> None:
        """Copy to pageable memory through the ring; returns when all of it is there."""
        with self._making:
            if self._down is None:
                self._down = _Pinned(self._gpu)
        ring = self._down
        piece = ring.cut(size)
        done = 0
        under_way: deque[tuple[int, int, int, int]] = deque()
        with self._downloading:
            while done < size or under_way:
                while done < size and len(under_way) < DEPTH:
                    length = min(piece, size - done)
                    with self.lock:
                        staged = ring.reserve(length)
                        self._gpu.driver.bytes_staged += length
                        under_way.append((copy(done, staged, length), done, staged, length))
                    done += length
                sequence, offset, staged, length = under_way.popleft()
                wait(sequence)
                stream.copy(destination + offset, staged, length)

    def close(self) -> None:
        """Free the rings (the context's address space is gone by then)."""
        for ring in (self._up, self._down):
            if ring is not None:
                ring.buffer.free()
        self._up = self._down = None

    def _upload_ring(self) -> _Pinned:
        if self._up is None:
            with self._making:
                if self._up is None:
                    self._up = _Pinned(self._gpu)
        return self._up

"""A ring of bytes that the CPU fills and the GPU drains: room goes out in order and comes back in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Ring:
    """Byte ring whose pieces are retired by sequence numbers.

    Parameters
    ----------
    size : int
        Bytes.
    finished, wait : callable
        Whether a sequence number has passed; wait until it has.
    pieces : int
        Most pieces outstanding at a time.
    """

    def __init__(
        self,
        size: int,
        finished: Callable[[int], bool],
        wait: Callable[[int], None],
        pieces: int = 1 << 30,
    ) -> None:
        self.size = size
        self._finished = finished
        self._wait = wait
        self._pieces = pieces
        self._outstanding: deque[tuple[int, int]] = deque()
        self._used = 0
        self._head = 0

    def reserve(self, size: int, sequence: int, align: int = 4) -> int:
        """Return the offset of `size` contiguous bytes that submission `sequence` (not yet made) will use.

        Raises
        ------
        ValueError
            If the ring is smaller than that.
        ChannelFault
            If the GPU stopped the channel while room was waited for.
        """
        if size > self.size:
            raise ValueError(f"a piece must fit the ring of {self.size} bytes, got {size}")
        start = -(-self._head // align) * align
        taken = size + start - self._head
        if start + size > self.size:
            taken = size + self.size - self._head
            start = 0
        outstanding = self._outstanding
        while outstanding and self._finished(outstanding[0][0]):
            self._used -= outstanding.popleft()[1]
        while outstanding and (self._used + taken > self.size or len(outstanding) >= self._pieces):
            self._wait(outstanding[0][0])
            self._used -= outstanding.popleft()[1]
        self._head = start + size
        self._used += taken
        outstanding.append((sequence, taken))
        return start

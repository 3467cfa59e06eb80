"""A first-fit allocator of address ranges: RAM pages, VRAM, GPU virtual addresses and BAR windows are all
handed out by it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort


class OutOfSpace(Exception):
    """No free range is large enough.

    Attributes
    ----------
    size, free : int
        Bytes asked for, and bytes free in total (perhaps in pieces).
    """

    def __init__(self, what: str, size: int, free: int) -> None:
        super().__init__(f"{what} must have a free range of {size} bytes; {free} bytes are free in all")
        self.size = size
        self.free = free


class RangeAllocator:
    """Free ranges of [base, base + size), kept sorted and merged.

    Parameters
    ----------
    base, size : int
        The range handed out.
    granule : int
        Sizes are rounded up to it; every address handed out is a multiple of it.
    name : str
        What the range is, for errors.
    """

    def __init__(self, base: int, size: int, granule: int, name: str) -> None:
        self.base = base
        self.size = size
        self.granule = granule
        self.name = name
        self.free_bytes = size
        self._starts: list[int] = [base] if size else []
        self._sizes: dict[int, int] = {base: size} if size else {}

    @property
    def used_bytes(self) -> int:
        return self.size - self.free_bytes

    def allocate(self, size: int, align: int = 0) -> int:
        """Return the address of a free range of `size` bytes, a multiple of `align`.

        Raises
        ------
        OutOfSpace
            If no free range is large enough.
        """
        granule = self.granule
        align = max(align, granule)
        size = max(-(-size // granule) * granule, granule)
        for start in self._starts:
            length = self._sizes[start]
            at = -(-start // align) * align
            if at + size <= start + length:
                self._take(start, length, at, size)
                return at
        raise OutOfSpace(self.name, size, self.free_bytes)

    def largest(self, align: int = 0) -> int:
        """Bytes of the largest aligned range that `allocate` would give now."""
        align = max(align, self.granule)
        best = 0
        for start, length in self._sizes.items():
            at = -(-start // align) * align
            best = max(best, start + length - at)
        return best

    def reserve(self, at: int, size: int) -> None:
        """Take exactly [at, at + size).

        Raises
        ------
        OutOfSpace
            If any of it is taken.
        """
        where = bisect_right(self._starts, at) - 1
        if where >= 0:
            start = self._starts[where]
            length = self._sizes[start]
            if at + size <= start + length:
                self._take(start, length, at, size)
                return
        raise OutOfSpace(self.name, size, self.free_bytes)

    def free(self, at: int, size: int) -> None:
        """Give [at, at + size) back; `size` is what was asked for."""
        granule = self.granule
        size = max(-(-size // granule) * granule, granule)
        self.free_bytes += size
        where = bisect_left(self._starts, at)
        if where < len(self._starts) and self._starts[where] == at + size:
            after = self._starts.pop(where)
            size += self._sizes.pop(after)
        if where > 0:
            before = self._starts[where - 1]
            if before + self._sizes[before] == at:
                self._sizes[before] += size
                return
        insort(self._starts, at)
        self._sizes[at] = size

    def _take(self, start: int, length: int, at: int, size: int) -> None:
        self.free_bytes -= size
        if at == start:
            self._starts.remove(start)
            del self._sizes[start]
        else:
            self._sizes[start] = at - start
        rest = start + length - at - size
        if rest:
            insort(self._starts, at + size)
            self._sizes[at + size] = rest

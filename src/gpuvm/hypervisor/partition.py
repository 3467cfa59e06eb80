"""Ranges of a resource handed out at run time: video memory, channels, BAR space and bus windows of the
virtual GPUs."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from gpuvm.hypervisor.errors import OutOfResourcesError


@dataclass(frozen=True, slots=True)
class Range:
    """Units `base` to `base + size - 1` of a resource."""

    base: int
    size: int

    @property
    def end(self) -> int:
        return self.base + self.size


class RangeAllocator:
    """First-fit allocator of `[base, base + size)`; freed ranges are merged with free neighbours.

    May be used from several threads: the shadows of all VMs come out of one.

    Parameters
    ----------
    what : str
        Name of the resource and its unit, for the error message ("bytes of video memory").
    """

    def __init__(self, what: str, base: int, size: int) -> None:
        self.what = what
        self._free: list[Range] = [Range(base, size)] if size else []
        self._used: dict[int, Range] = {}
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        """Units not handed out."""
        return sum(r.size for r in self._free)

    @property
    def used(self) -> int:
        """Units handed out."""
        return sum(r.size for r in self._used.values())

    @property
    def largest(self) -> int:
        """Size of the largest free range."""
        return max((r.size for r in self._free), default=0)

    def allocate(self, size: int, alignment: int = 1) -> Range:
        """Take the lowest free range of `size` units whose base is a multiple of `alignment`.

        Raises
        ------
        OutOfResourcesError
            If there is none.
        """
        if size <= 0:
            raise ValueError(f"a range of {self.what} must hold at least one unit, got {size}")
        with self._lock:
            for index, hole in enumerate(self._free):
                base = -(-hole.base // alignment) * alignment
                if base + size > hole.end:
                    continue
                parts = [Range(hole.base, base - hole.base), Range(base + size, hole.end - base - size)]
                self._free[index : index + 1] = [part for part in parts if part.size]
                taken = Range(base, size)
                self._used[base] = taken
                return taken
        raise OutOfResourcesError(
            f"{size} {self.what} must be free in one piece, but the largest free piece has {self.largest} "
            f"(of {self.free} free); ask for less or destroy another virtual GPU"
        )

    def release(self, taken: Range) -> None:
        """Give a range back."""
        with self._lock:
            if self._used.get(taken.base) != taken:
                raise ValueError(f"{taken} of {self.what} must have been handed out and not released before")
            del self._used[taken.base]
            merged: list[Range] = []
            for hole in sorted([*self._free, taken], key=lambda r: r.base):
                if merged and merged[-1].end == hole.base:
                    merged[-1] = Range(merged[-1].base, merged[-1].size + hole.size)
                else:
                    merged.append(hole)
            self._free = merged

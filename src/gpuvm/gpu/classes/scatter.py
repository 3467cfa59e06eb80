"""Elements of a GPU address space at many addresses at once: how surfaces that are not linear are read and
written. Only the bytes of the elements are touched, so that their neighbours may change meanwhile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gpuvm.gpu.paging import MmuFault
from gpuvm.gpu.translations import Run, Translations

if TYPE_CHECKING:
    from gpuvm.gpu.device import Gf100

Addresses = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

_PAGE_SHIFT = 12


class Elements:
    """Elements of `size` bytes at GPU virtual `addresses`.

    Parameters
    ----------
    write : bool
        Whether they are to be written.

    Raises
    ------
    MmuFault
        If one lies in a page that is not there, or may not be written.
    """

    def __init__(self, space: Translations, addresses: Addresses, size: int, write: bool) -> None:
        self._shape = (*addresses.shape, size)
        flat = addresses.reshape(-1)
        self._unit = size
        if flat.size and np.bitwise_or.reduce(flat) % size:
            flat = (flat[:, None] + np.arange(size)).reshape(-1)
            self._unit = 1
        self._flat = flat
        self._order: npt.NDArray[np.intp] | None = None
        self._runs: list[tuple[int, Run]] = _runs(space, flat, self._unit, write) if flat.size else []
        if len(self._runs) > 1:
            self._order = np.argsort(flat, kind="stable")

    def _pieces(self) -> list[tuple[npt.NDArray[np.intp] | slice, npt.NDArray[np.void], Addresses]]:
        """Which elements lie in which memory: their numbers, the memory as units, and where in it."""
        kind, unit = np.dtype(f"V{self._unit}"), self._unit
        pieces: list[tuple[npt.NDArray[np.intp] | slice, npt.NDArray[np.void], Addresses]] = []
        ordered = self._flat if self._order is None else self._flat[self._order]
        for start, (region, offset, length) in self._runs:
            memory = np.frombuffer(region.view, kind, length // unit, offset)
            if self._order is None:
                pieces.append((slice(None), memory, (self._flat - start) // unit))
                continue
            first, last = np.searchsorted(ordered, (start, start + length))
            pieces.append((self._order[first:last], memory, (ordered[first:last] - start) // unit))
        return pieces

    def read(self) -> Bytes:
        """Return the elements: the shape of the addresses and an axis of bytes."""
        result = np.empty(self._flat.size, f"V{self._unit}")
        for chosen, memory, places in self._pieces():
            result[chosen] = memory[places]
        return result.view(np.uint8).reshape(self._shape)

    def write(self, gpu: Gf100, data: Bytes) -> None:
        """Replace the elements by `data`, of the shape that `read` returns."""
        units = np.ascontiguousarray(data).reshape(-1).view(f"V{self._unit}")
        for chosen, memory, places in self._pieces():
            memory[places] = units[chosen]
        for _, (region, offset, length) in self._runs:
            gpu.memory.wrote(region, offset, length)


def _runs(space: Translations, flat: Addresses, unit: int, write: bool) -> list[tuple[int, Run]]:
    """Return the memory behind the range of the addresses, or, if that has holes, behind the pages that count."""
    low, high = int(flat.min()), int(flat.max()) + unit
    if low < 0:
        low, high = 0, 1 << 63
    try:
        return _placed(low, space.runs(low, high - low, write))
    except MmuFault:
        pages = np.unique(np.concatenate((flat, flat + (unit - 1))) >> _PAGE_SHIFT)
        breaks = np.flatnonzero(np.diff(pages) != 1) + 1
        result: list[tuple[int, Run]] = []
        for part in np.split(pages, breaks):
            first = max(low, int(part[0]) << _PAGE_SHIFT)
            last = min(high, int(part[-1]) + 1 << _PAGE_SHIFT)
            result += _placed(first, space.runs(first, last - first, write))
        return result


def _placed(start: int, runs: list[Run]) -> list[tuple[int, Run]]:
    placed = []
    for run in runs:
        placed.append((start, run))
        start += run[2]
    return placed

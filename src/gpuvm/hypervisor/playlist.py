"""The one playlist that the physical GPU runs: the lists of all VMs merged, with physical channel ids, from
a double buffer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gpuvm.hypervisor.partition import RangeAllocator
from gpuvm.hypervisor.physical import (
    BUSY_BIT,
    PFIFO_PLAYLIST,
    PFIFO_PLAYLIST_COUNT,
    PFIFO_PLAYLIST_STATUS,
    PhysicalGpu,
)
from gpuvm.pci.memory import PAGE

ENTRY_KIND = 4
"""Word 1 of a playlist entry of a GF100."""

ENGINE = 0x01F00000
"""The fixed bits of the length register."""


class Playlist:
    """Channels that may run, by VM."""

    def __init__(self, gpu: PhysicalGpu, memory: RangeAllocator) -> None:
        self._gpu = gpu
        self._buffers = (memory.allocate(PAGE, PAGE).base, memory.allocate(PAGE, PAGE).base)
        self._next = 0
        self._lists: dict[int, tuple[int, ...]] = {}

    def set(self, vm: int, channels: Sequence[int]) -> int:
        """Replace the channels of one VM (physical ids, in its order) and submit the merged list.

        Returns
        -------
        int
            Entries of the merged list.
        """
        unique = tuple(dict.fromkeys(channels))
        if unique:
            self._lists[vm] = unique
        else:
            self._lists.pop(vm, None)
        merged = [channel for _, members in sorted(self._lists.items()) for channel in members]
        address = self._buffers[self._next]
        self._next ^= 1
        entries = np.zeros((len(merged), 2), np.uint32)
        entries[:, 0] = merged
        entries[:, 1] = ENTRY_KIND
        self._gpu.vram.write(address, entries.tobytes())
        self._gpu.write(PFIFO_PLAYLIST, address >> 12)
        self._gpu.write(PFIFO_PLAYLIST_COUNT, ENGINE | len(merged))
        self._gpu.wait(PFIFO_PLAYLIST_STATUS, BUSY_BIT, 0)
        return len(merged)

    def runs(self, channel: int) -> bool:
        """Whether a physical channel is on the list."""
        return any(channel in members for members in self._lists.values())

"""The MMU: the address spaces in use, shared by everything that uses the same page directory, and TLB
flushes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from gpuvm.gpu import paging
from gpuvm.gpu.paging import Root
from gpuvm.gpu.physical import PhysicalMemory
from gpuvm.gpu.translations import Budget, Translations
from gpuvm.jit.space import AddressSpace

FLUSH_ALL_DIRECTORIES = 0x2
"""Bit of the flush trigger 0x100cbc: every page directory, not just the one in 0x100cb8."""


class Mmu:
    """Hands out `Translations`, one for each page directory in use."""

    def __init__(self, memory: PhysicalMemory, new_space: Callable[[], AddressSpace] = AddressSpace) -> None:
        self.memory = memory
        self._new_space = new_space
        self._budget = Budget()
        self._budget.reclaim = self._reclaim
        self._spaces: dict[Root, Translations] = {}
        memory.on_watch = self._watched
        self._lock = threading.Lock()
        self.flushes = 0

    def acquire(self, target: int, instance: int) -> Translations:
        """Return the translations of an instance block's page directory; give them back with `release`."""
        root = paging.root(self.memory, target, instance)
        with self._lock:
            space = self._spaces.get(root)
            if space is None:
                space = self._spaces[root] = Translations(self.memory, root, self._budget, self._new_space)
            space.users += 1
            return space

    def release(self, space: Translations) -> None:
        """Say that one user of these translations is gone; the last one closes them."""
        with self._lock:
            space.users -= 1
            if space.users > 0:
                return
            self._spaces.pop(space.root, None)
        space.close()

    def flush(self, directory: int, trigger: int) -> None:
        """Flush the TLBs.

        Parameters
        ----------
        directory : int
            Value of 0x100cb8: page directory >> 12 from bit 4 on, aperture in bits 0-1.
        trigger : int
            Value written to 0x100cbc.
        """
        self.flushes += 1
        target, address = directory & 3, (directory >> 4) << 12
        with self._lock:
            spaces = list(self._spaces.values())
        for space in spaces:
            same = space.root.directory == address and space.root.target == target
            if same or trigger & FLUSH_ALL_DIRECTORIES:
                space.flush()

    def _watched(self) -> None:
        for space in list(self._spaces.values()):
            space.forget_pages()

    def _reclaim(self, keep: Translations) -> None:
        """Empty the spaces that no launch uses now, to make room for `keep`."""
        for space in list(self._spaces.values()):
            if space is not keep and not space.busy:
                space.close()

    def close(self) -> None:
        with self._lock:
            spaces, self._spaces = list(self._spaces.values()), {}
        for space in spaces:
            space.close()

"""Shadow channels: for each channel of a guest, the instance block that the GPU is really given.

The shadow holds the guest's words with every physical address in them translated and checked: the page
directory becomes the shadow directory, USERD must be the guest's own memory, engine contexts must be virtual
addresses.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from gpuvm.hypervisor.address import GuestMemory
from gpuvm.hypervisor.counters import Counters
from gpuvm.hypervisor.errors import OutOfResourcesError
from gpuvm.hypervisor.shadow import GuestSpace, ShadowPool
from gpuvm.pci.memory import PAGE

RAMFC_END = 0x200
RAMFC_USERD = 0x08
RAMFC_GP_GET = 0x14
RAMFC_RING_SIZE = 0x4C
RING_SIZE_MAX = 24
"""Log2 of the most entries that a GPFIFO has."""

USERD_GP_PUT = 0x8C
DIRECTORY = 0x200
LIMIT = 0x208
CONTEXTS = range(0x210, 0x300, 0x10)
"""Where an instance block holds the addresses of engine contexts: low word, high word."""

BLOCK_END = 0x300
"""Nothing behind is read by a GF100: those words stay zero in the shadow."""

CONTEXT_VIRTUAL = 0x4
CONTEXT_TARGET = 0x7
TARGET = 0x3
LOW_BITS = 0xFFF
USERD_BYTES = 0x200
ADDRESS_LIMIT = (1 << 40) - 1


class Spaces:
    """The shadow address spaces of one guest, one for each page directory (and limit) in use.

    Parameters
    ----------
    make : callable
        `make(directory, limit)` makes the empty shadow of a guest's page directory.
    """

    def __init__(self, make: Callable[[int, int], GuestSpace], counters: Counters) -> None:
        self._make = make
        self._counters = counters
        self._spaces: dict[tuple[int, int], GuestSpace] = {}

    def acquire(self, directory: int, limit: int) -> GuestSpace | None:
        """Return the space of a guest's page directory, shadowed afresh; None if no memory for it is left."""
        space = self._spaces.get((directory, limit))
        if space is None:
            try:
                space = self._make(directory, limit)
            except OutOfResourcesError:
                self._counters.denied_addresses += 1
                return None
            self._spaces[directory, limit] = space
        space.users += 1
        space.synchronize(self._counters)
        return space

    def release(self, space: GuestSpace) -> None:
        """Give a space back; the last one frees it."""
        space.users -= 1
        if space.users == 0:
            del self._spaces[space.directory, space.limit]
            space.close()

    def at(self, directory: int) -> list[GuestSpace]:
        """The spaces that shadow a guest's page directory."""
        return [space for (at, _), space in self._spaces.items() if at == directory]

    def all(self) -> list[GuestSpace]:
        return list(self._spaces.values())


class ShadowChannel:
    """One channel of a guest.

    Parameters
    ----------
    number, physical : int
        Channel id in the guest and on the GPU.
    flush : callable
        Called with the card address of a shadow page directory whose cached translations must go.

    Attributes
    ----------
    instance : int or None
        Guest VRAM address of the bound instance block.
    shadow : int
        Card address of the shadow instance block, 0 if none is bound.
    """

    def __init__(
        self,
        number: int,
        physical: int,
        memory: GuestMemory,
        pool: ShadowPool,
        spaces: Spaces,
        counters: Counters,
        flush: Callable[[int], None],
    ) -> None:
        self.number = number
        self.physical = physical
        self.instance: int | None = None
        self.shadow = 0
        self._kept: list[GuestSpace] = []
        """Spaces that the bound block named before."""
        self.space: GuestSpace | None = None
        self.started = False
        """Whether the guest lets the channel run."""
        self.held = False
        """Whether an event of this channel waits for the guest's acknowledgement."""
        self._memory = memory
        self._pool = pool
        self._spaces = spaces
        self._counters = counters
        self._flush = flush

    def bind(self, instance: int) -> bool:
        """Shadow the instance block at a guest VRAM address; False if the guest may not have it."""
        if self._memory.vram_address(instance, PAGE) is None:
            self._counters.denied_addresses += 1
            return False
        try:
            self.shadow = self._pool.allocate(PAGE)
        except OutOfResourcesError:
            self._counters.denied_addresses += 1
            return False
        self.instance = instance
        self._counters.channel_binds += 1
        self.reflect(0, BLOCK_END)
        return True

    def withhold(self) -> int | None:
        """Take back what GP_PUT in the poll area submits beyond where the block stands, so that binding runs
        nothing.

        Returns
        -------
        int or None
            The GP_PUT to submit in the VM's turn, None if nothing is.
        """
        view = self._pool.vram.view
        (userd,) = struct.unpack_from("<Q", view, self.shadow + RAMFC_USERD)
        (submitted,) = struct.unpack_from("<I", view, userd + USERD_GP_PUT)
        (size,) = struct.unpack_from("<I", view, self.shadow + RAMFC_RING_SIZE)
        (fetched,) = struct.unpack_from("<I", view, self.shadow + RAMFC_GP_GET)
        fetched %= 1 << min(size >> 16 & 0x1F, RING_SIZE_MAX)
        if submitted == fetched:
            return None
        struct.pack_into("<I", view, userd + USERD_GP_PUT, fetched)
        return int(submitted)

    def unbind(self) -> None:
        """Free the shadow; the GPU must not use the channel any more."""
        if self.instance is None:
            return
        self._set_space(None)
        for space in self._kept:
            self._spaces.release(space)
        self._kept.clear()
        self._pool.release(self.shadow)
        self.shadow = 0
        self.instance = None
        self.started = False
        self.held = False

    def reflect(self, first: int, end: int) -> None:
        """Carry bytes `first` to `end` of the guest's block over into the shadow."""
        if self.instance is None or first >= BLOCK_END:
            return
        guest = self._memory.base + self.instance
        view = self._pool.vram.view
        first &= ~3
        end = min(-(-end // 4) * 4, BLOCK_END)
        self._counters.shadow_reads += (end - first) >> 2
        self._counters.shadow_writes += (end - first) >> 2
        ramfc = min(end, RAMFC_END)
        if first < ramfc:
            view[self.shadow + first : self.shadow + ramfc] = view[guest + first : guest + ramfc]
            if first < RAMFC_USERD + 8 and end > RAMFC_USERD:
                self._translate_userd(view, guest)
        if first < CONTEXTS.start and end > DIRECTORY:
            self._translate_space(view, guest)
        for at in CONTEXTS:
            if first < at + 8 and end > at:
                low, high = struct.unpack_from("<II", view, guest + at)
                if low & CONTEXT_TARGET != CONTEXT_VIRTUAL:
                    self._counters.denied_addresses += bool(low | high)
                    low = high = 0
                struct.pack_into("<II", view, self.shadow + at, low, high)

    def _translate_userd(self, view: memoryview, guest: int) -> None:
        (word,) = struct.unpack_from("<Q", view, guest + RAMFC_USERD)
        address = word & ADDRESS_LIMIT & ~(USERD_BYTES - 1)
        physical = self._memory.vram_address(address, USERD_BYTES)
        if word & TARGET or physical is None:
            # The channel stays without a poll area of its own: one that reads 0 and is nobody's.
            self._counters.denied_addresses += 1
            physical = self.shadow + PAGE - USERD_BYTES
        struct.pack_into("<Q", view, self.shadow + RAMFC_USERD, physical)

    def _translate_space(self, view: memoryview, guest: int) -> None:
        word, limit = struct.unpack_from("<QQ", view, guest + DIRECTORY)
        directory, limit = word & ADDRESS_LIMIT & ~LOW_BITS, min(limit, ADDRESS_LIMIT)
        space = self.space
        if word & TARGET:
            self._counters.denied_addresses += 1
            directory = 0
        if not directory:
            self._set_space(None)
        elif space is None or (space.directory, space.limit) != (directory, limit):
            self._set_space(self._spaces.acquire(directory, limit))
        space = self.space
        shadow = (space.address, space.limit) if space is not None else (self._pool.empty, 0)
        struct.pack_into("<QQ", view, self.shadow + DIRECTORY, *shadow)

    def _set_space(self, space: GuestSpace | None) -> None:
        old, self.space = self.space, space
        if space is not None:
            self._flush(space.address)
        if old is None:
            return
        self._flush(old.address)
        if old in self._kept:
            self._spaces.release(old)
        else:
            # The GPU read the directory when the channel was bound and walks it until it is unbound.
            self._kept.append(old)

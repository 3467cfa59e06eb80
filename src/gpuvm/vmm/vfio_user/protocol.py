"""vfio-user's numbers: commands, flags, indices and the sizes both sides agree on.

Sources: the vfio-user specification (QEMU, docs/interop/vfio-user.rst), linux/vfio.h, QEMU 11.1 as a client.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAJOR, MINOR = 0, 0
"""Version spoken. QEMU asks for 0.0 and refuses a server that answers with a greater minor."""

PAGE = 4096
HEADER_SIZE = 16
DEFAULT_MAX_FDS = 1
"""Descriptors in a message of a peer that names no `max_msg_fds`."""

DEFAULT_MAX_TRANSFER = 1 << 20
"""Bytes of data in a message of a peer that names no `max_data_xfer_size`."""


class Command(enum.IntEnum):
    """What a message asks for."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    DIRTY_PAGES = 14
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


TYPE_MASK, TYPE_COMMAND, TYPE_REPLY = 0xF, 0, 1
NO_REPLY, ERROR = 0x10, 0x20
"""Bits of a header's flags."""


class DeviceFlags(enum.IntFlag):
    RESET = 1 << 0
    PCI = 1 << 1


class RegionIndex(enum.IntEnum):
    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class RegionFlags(enum.IntFlag):
    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


CAP_SPARSE_MMAP = 1
"""Capability of a region: which areas of it may be mapped."""


class IrqIndex(enum.IntEnum):
    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class IrqFlags(enum.IntFlag):
    EVENTFD = 1 << 0
    MASKABLE = 1 << 1
    AUTOMASKED = 1 << 2
    NORESIZE = 1 << 3


class IrqSet(enum.IntFlag):
    """One kind of data and one action."""

    DATA_NONE = 1 << 0
    DATA_BOOL = 1 << 1
    DATA_EVENTFD = 1 << 2
    ACTION_MASK = 1 << 3
    ACTION_UNMASK = 1 << 4
    ACTION_TRIGGER = 1 << 5


class DmaFlags(enum.IntFlag):
    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    FILE_IO = 1 << 3


class UnmapFlags(enum.IntFlag):
    GET_DIRTY_BITMAP = 1 << 0
    ALL = 1 << 1


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client can make a server hold.

    Attributes
    ----------
    max_transfer : int
        Bytes of data in one message.
    max_fds : int
        Descriptors in one message.
    max_maps : int
        DMA maps at a time; one that comes with a descriptor costs the server two.
    max_map_bytes : int
        Bytes of one DMA map.
    max_held : int
        Commands set aside while a reply to the server's own DMA message is awaited.
    dma_timeout_s : float
        How long the reply to a DMA message may take. After the first that is late, DMA by message fails at
        once until the client connects again: a slow client costs a device's thread this time once.
    sealed : bool
        Map only memory that cannot shrink (a memfd with F_SEAL_SHRINK, as QEMU's memory-backend-memfd makes):
        a client that truncates mapped memory ends the server with SIGBUS.
    """

    max_transfer: int = 1 << 20
    max_fds: int = 16
    max_maps: int = 256
    max_map_bytes: int = 1 << 43
    max_held: int = 1024
    dma_timeout_s: float = 1.0
    sealed: bool = True

    @property
    def max_message(self) -> int:
        """Bytes of the longest message: a header, the longest record before data, the data."""
        return HEADER_SIZE + 48 + self.max_transfer

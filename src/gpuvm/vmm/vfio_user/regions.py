"""A device's regions: what a client may read, write and map, by index."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpuvm.vmm.vfio_user.protocol import CAP_SPARSE_MMAP, PAGE, RegionFlags
from gpuvm.vmm.vfio_user.records import (
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_CAP,
    RegionInfo,
    SparseArea,
    SparseCap,
)


@dataclass(frozen=True, slots=True)
class Region:
    """One region.

    Attributes
    ----------
    size : int
        Bytes; 0: the device has no such region.
    read, write : callable
        (offset, size) -> value and (offset, size, value): one access of 1, 2, 4 or 8 bytes inside the region,
        little-endian.
    read_block, write_block : callable
        (offset, length) -> bytes and (offset, data): any other size.
    write_run : callable or None
        (offset, data, size): accesses of `size` bytes each, one behind the other. Only for memory that may merge
        writes, as a prefetchable BAR may; None: each write comes by itself.
    flags : RegionFlags
        READ and WRITE; the rest follows from `fd`.
    fd : int
        Backing that a client may map; -1: none. A client maps a region once, so what moves cannot be behind a
        mapping; and QEMU 11.1 stops posting writes to all regions once it can map one.
    fd_offset : int
        Where in `fd` the region starts.
    areas : tuple of (offset, size)
        The parts of the region that may be mapped, whole pages; empty: all of it.
    """

    size: int
    read: Callable[[int, int], int]
    write: Callable[[int, int, int], None]
    read_block: Callable[[int, int], bytes]
    write_block: Callable[[int, bytes], None]
    flags: RegionFlags = RegionFlags.READ | RegionFlags.WRITE
    fd: int = -1
    fd_offset: int = 0
    areas: tuple[tuple[int, int], ...] = ()
    write_run: Callable[[int, bytes, int], None] | None = None

    def __post_init__(self) -> None:
        for offset, size in self.areas:
            if offset % PAGE or size % PAGE or size <= 0 or offset + size > self.size:
                raise ValueError(
                    f"a mappable area must be whole pages inside the region of {self.size:#x} bytes, "
                    f"got {size:#x} bytes at {offset:#x}"
                )
        if self.areas and self.fd < 0:
            raise ValueError("a region with mappable areas must have a file descriptor behind them")


def _nothing(*_: object) -> int:
    return 0


ABSENT = Region(0, _nothing, lambda *_: None, lambda *_: b"", lambda *_: None, RegionFlags(0))
"""A region that the device does not have."""


def memory_region(memory: bytearray | memoryview, writable: bool = True) -> Region:
    """A region that is plain memory of the server."""
    view = memoryview(memory).cast("B")
    words = view[: len(view) & ~3].cast("I")

    def read(offset: int, size: int) -> int:
        if size == 4 and not offset & 3:
            word: int = words[offset >> 2]
            return word
        return int.from_bytes(view[offset : offset + size], "little")

    def write(offset: int, size: int, value: int) -> None:
        view[offset : offset + size] = value.to_bytes(size, "little")

    def write_block(offset: int, data: bytes) -> None:
        view[offset : offset + len(data)] = data

    return Region(
        len(view),
        read,
        write,
        lambda offset, length: bytes(view[offset : offset + length]),
        write_block,
        RegionFlags.READ | (RegionFlags.WRITE if writable else RegionFlags(0)),
    )


def describe(region: Region, index: int, room: int) -> tuple[bytes, bool]:
    """The reply to DEVICE_GET_REGION_INFO and whether the descriptor goes with it.

    Parameters
    ----------
    room : int
        Bytes that the client has for the reply. If they are too few it gets the record alone, which says how
        many it takes; flags and `cap_offset` are there already, as QEMU wants them.
    """
    flags = region.flags
    caps = b""
    if region.size and region.fd >= 0:
        flags |= RegionFlags.MMAP
        if region.areas:
            flags |= RegionFlags.CAPS
            caps = SPARSE_CAP.pack(SparseCap(CAP_SPARSE_MMAP, 1, 0, len(region.areas), 0)) + b"".join(
                SPARSE_AREA.pack(SparseArea(*area)) for area in region.areas
            )
    needed = REGION_INFO.size + len(caps)
    info = REGION_INFO.pack(
        RegionInfo(
            needed,
            flags,
            index,
            REGION_INFO.size if caps else 0,
            region.size,
            region.fd_offset if region.fd >= 0 else 0,
        )
    )
    if room < needed:
        return info, False
    return info + caps, region.fd >= 0 and region.size > 0

"""The bus addresses that a client lets the device reach: by mapped memory, a file, or messages to it."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import threading
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gpuvm.vmm.vfio_user.errors import DmaFault, InvalidRequest, RequestError
from gpuvm.vmm.vfio_user.protocol import PAGE, DmaFlags, Limits, UnmapFlags
from gpuvm.vmm.vfio_user.records import DMA_MAP, DMA_UNMAP
from gpuvm.vmm.vfio_user.records import DmaMap as DmaMapRecord

_KNOWN = DmaFlags.READ | DmaFlags.WRITE | DmaFlags.MMAP | DmaFlags.FILE_IO
_BOTH = DmaFlags.READ | DmaFlags.WRITE
_TOP = 1 << 64


class Memory(Protocol):
    """How the bytes of one DMA map are reached. Offsets are inside the map and checked."""

    def read(self, offset: int, size: int) -> bytes: ...

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def release(self) -> None:
        """The map is gone: give back what it took, as soon as nobody uses it."""


class Messenger(Protocol):
    """Who carries DMA messages to the client."""

    def dma_read(self, address: int, size: int) -> bytes: ...

    def dma_write(self, address: int, data: bytes | memoryview) -> None: ...


class MappedMemory:
    """A map that the server has mapped too."""

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset)
        os.close(fd)

    def read(self, offset: int, size: int) -> bytes:
        return self._map[offset : offset + size]

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._map[offset : offset + len(data)] = bytes(data)

    def release(self) -> None:
        """Nothing to do: the mapping goes with its last user."""


class FileMemory:
    """A map that is read and written as a file: FILE_IO, or one way only."""

    def __init__(self, fd: int, offset: int) -> None:
        self._fd = fd
        self._offset = offset

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, self._offset + offset).ljust(size, b"\0")

    def write(self, offset: int, data: bytes | memoryview) -> None:
        os.pwrite(self._fd, data, self._offset + offset)

    def release(self) -> None:
        """Nothing to do: the descriptor goes with its last user."""

    def __del__(self) -> None:
        os.close(self._fd)


class MessageMemory:
    """A map without a descriptor: each access is a message to the client."""

    def __init__(self, messenger: Messenger, base: int) -> None:
        self._messenger = messenger
        self._base = base

    def read(self, offset: int, size: int) -> bytes:
        return self._messenger.dma_read(self._base + offset, size)

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._messenger.dma_write(self._base + offset, data)

    def release(self) -> None:
        """Nothing to do."""


MapMemory = Callable[[int, int, int], Memory]
"""(fd, size, offset) -> memory that owns `fd` from now on; raises OSError or ValueError and owns nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class DmaMap:
    """One map.

    Attributes
    ----------
    address, size : int
        Bus addresses, bytes.
    flags : DmaFlags
        READ and WRITE: what the device may do.
    memory : Memory
    shared : bool
        Whether `memory` came from the table's `map_memory`.
    file : tuple
        What was mapped: device, inode and offset of the file; empty without a file.
    """

    address: int
    size: int
    flags: DmaFlags
    memory: Memory
    shared: bool
    file: tuple[int, ...]


class DmaTable:
    """All maps of one device; changed by the thread that serves the client, read by any.

    Parameters
    ----------
    limits : Limits
    map_memory : callable
        Makes the memory of a map that both sides may read and write; by default a plain mapping.
    mapped, unmapped : callable, optional
        Told about each map after it was made and before it goes.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        map_memory: MapMemory = MappedMemory,
        mapped: Callable[[DmaMap], None] = lambda _: None,
        unmapped: Callable[[DmaMap], None] = lambda _: None,
    ) -> None:
        self.limits = limits or Limits()
        self._map_memory = map_memory
        self._mapped = mapped
        self._unmapped = unmapped
        self._bases: list[int] = []
        self._maps: list[DmaMap] = []
        self._lock = threading.Lock()

    @property
    def maps(self) -> tuple[DmaMap, ...]:
        """All maps by address."""
        return tuple(self._maps)

    # The client's side

    def map(self, data: memoryview, fds: list[int], messenger: Messenger) -> None:
        """Do DMA_MAP; a descriptor that is kept is taken out of `fds`. Repeating a map is no error.

        Raises
        ------
        RequestError
            If the request makes no sense or a limit is reached; nothing has changed then.
        """
        request = DMA_MAP.unpack(data)
        self._check(request, len(fds))
        with self._lock:
            file = self._examine(request, fds[0]) if fds else ()
            where = bisect_right(self._bases, request.address)
            for other in self._maps[max(where - 1, 0) : where + 1]:
                if (
                    other.address < request.address + request.size
                    and request.address < other.address + other.size
                ):
                    same = (other.address, other.size, other.flags, other.file) == (
                        request.address,
                        request.size,
                        DmaFlags(request.flags),
                        file,
                    )
                    if same:
                        return
                    raise InvalidRequest(
                        f"a DMA map must not overlap another; there is one at {other.address:#x}"
                    )
            if len(self._maps) >= self.limits.max_maps:
                raise InvalidRequest(f"a client may have {self.limits.max_maps} DMA maps")
            made = self._make(request, fds, file, messenger)
            self._bases, self._maps = (
                [*self._bases[:where], made.address, *self._bases[where:]],
                [*self._maps[:where], made, *self._maps[where:]],
            )
            self._mapped(made)

    def unmap(self, data: memoryview) -> bytes:
        """Do DMA_UNMAP and return the reply.

        Raises
        ------
        RequestError
            ENOENT if there is no such map; only whole maps go.
        """
        request = DMA_UNMAP.unpack(data)
        if not DMA_UNMAP.size <= request.argsz <= self.limits.max_transfer:
            raise InvalidRequest(
                f"argsz must be {DMA_UNMAP.size} to {self.limits.max_transfer}, got {request.argsz}"
            )
        if request.flags == UnmapFlags.ALL:
            if request.address or request.size:
                raise InvalidRequest("to unmap all, address and size must be 0")
            self.clear()
        elif request.flags:
            raise InvalidRequest(
                f"unmapping takes no flags but ALL (writes are not logged), got {request.flags:#x}"
            )
        else:
            with self._lock:
                found = self.find(request.address)
                if found is None or (found.address, found.size) != (request.address, request.size):
                    raise RequestError(
                        errno.ENOENT, f"no DMA map is {request.size:#x} bytes at {request.address:#x}"
                    )
                self._remove(found)
        return DMA_UNMAP.pack(request)

    def clear(self) -> None:
        """Unmap all: the client has gone, or asks for it."""
        with self._lock:
            for each in self._maps:
                self._remove(each)

    def _remove(self, gone: DmaMap) -> None:
        where = self._bases.index(gone.address)
        self._unmapped(gone)
        self._bases, self._maps = (
            self._bases[:where] + self._bases[where + 1 :],
            self._maps[:where] + self._maps[where + 1 :],
        )
        gone.memory.release()

    def _check(self, request: DmaMapRecord, fds: int) -> None:
        flags = DmaFlags(request.flags & _KNOWN)
        if request.argsz < DMA_MAP.size:
            raise InvalidRequest(f"argsz must be at least {DMA_MAP.size}, got {request.argsz}")
        if request.flags & ~int(_KNOWN) or not flags & _BOTH or DmaFlags.MMAP | DmaFlags.FILE_IO in flags:
            raise InvalidRequest(f"a DMA map must be readable or writable, one way; flags {request.flags:#x}")
        if fds > 1 or (flags & (DmaFlags.MMAP | DmaFlags.FILE_IO) and not fds):
            raise InvalidRequest(f"a DMA map with flags {request.flags:#x} came with {fds} descriptors")
        if request.size > self.limits.max_map_bytes:
            raise RequestError(errno.ENOSPC, f"a DMA map may have {self.limits.max_map_bytes:#x} bytes")
        if not request.size or request.address % PAGE or request.size % PAGE:
            raise InvalidRequest(
                f"a DMA map must be whole pages, got {request.size:#x} at {request.address:#x}"
            )
        if request.address + request.size > _TOP or request.offset >= 1 << 63:
            raise InvalidRequest("a DMA map must end below 2**64")
        if fds and request.offset % PAGE:
            raise InvalidRequest(f"the offset in a file must be a whole page, got {request.offset:#x}")

    def _examine(self, request: DmaMapRecord, fd: int) -> tuple[int, ...]:
        try:
            about = os.fstat(fd)
        except OSError as error:
            raise RequestError(error.errno or errno.EBADF, "the descriptor must be usable") from error
        if not stat.S_ISREG(about.st_mode) or about.st_size < request.offset + request.size:
            end = request.offset + request.size
            raise InvalidRequest(f"the memory behind a DMA map must be a file of at least {end:#x} bytes")
        if self.limits.sealed and not _cannot_shrink(fd):
            raise RequestError(
                errno.EPERM,
                "shared memory must be a memfd that cannot shrink (F_SEAL_SHRINK), as QEMU's "
                "memory-backend-memfd makes; or allow other memory with Limits(sealed=False)",
            )
        return about.st_dev, about.st_ino, request.offset

    def _make(
        self, request: DmaMapRecord, fds: list[int], file: tuple[int, ...], messenger: Messenger
    ) -> DmaMap:
        flags = DmaFlags(request.flags)
        memory: Memory
        shared = False
        if not fds:
            memory = MessageMemory(messenger, request.address)
        elif flags & DmaFlags.FILE_IO or flags & _BOTH != _BOTH:
            memory = FileMemory(fds.pop(), request.offset)
        else:
            try:
                memory = self._map_memory(fds[0], request.size, request.offset)
            except (OSError, ValueError, OverflowError) as error:
                number = getattr(error, "errno", None) or errno.EINVAL
                raise RequestError(number, "the memory behind a DMA map must be mappable") from error
            fds.pop()
            shared = True
        return DmaMap(request.address, request.size, flags, memory, shared, file)

    # The device's side

    def find(self, address: int) -> DmaMap | None:
        """The map that holds a bus address."""
        bases, maps = self._bases, self._maps
        where = bisect_right(bases, address) - 1
        if 0 <= where < len(maps):
            found = maps[where]
            if found.address <= address < found.address + found.size:
                return found
        return None

    def read(self, address: int, size: int) -> bytes:
        """Read by DMA.

        Raises
        ------
        DmaFault
            If not all of it is mapped for reading, or the client does not answer.
        """
        parts = []
        while size > 0:
            found = self._reach(address, DmaFlags.READ)
            length = min(size, found.address + found.size - address)
            try:
                parts.append(found.memory.read(address - found.address, length))
            except OSError as error:
                raise DmaFault(address, f"reading it failed ({error.strerror})") from error
            address += length
            size -= length
        return b"".join(parts)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write by DMA.

        Raises
        ------
        DmaFault
            If not all of it is mapped for writing, or the client does not answer.
        """
        view = memoryview(data).cast("B")
        while len(view):
            found = self._reach(address, DmaFlags.WRITE)
            length = min(len(view), found.address + found.size - address)
            try:
                found.memory.write(address - found.address, view[:length])
            except OSError as error:
                raise DmaFault(address, f"writing it failed ({error.strerror})") from error
            address += length
            view = view[length:]

    def _reach(self, address: int, way: DmaFlags) -> DmaMap:
        found = self.find(address)
        if found is None:
            raise DmaFault(address, "no DMA map is there")
        if not found.flags & way:
            raise DmaFault(address, f"its map is not for {'reading' if way is DmaFlags.READ else 'writing'}")
        return found


def _cannot_shrink(fd: int) -> bool:
    """Whether a file keeps its size; a memfd that may still be sealed is sealed here."""
    try:
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return True
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    except OSError:
        return False
    return True

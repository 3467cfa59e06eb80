"""A vfio-user client: everything a virtual machine monitor asks of a device that a server hands out."""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gpuvm.vmm.vfio_user.capabilities import Capabilities, decode
from gpuvm.vmm.vfio_user.channel import Channel, HeaderFields, close_all, message
from gpuvm.vmm.vfio_user.dma import Memory
from gpuvm.vmm.vfio_user.errors import Disconnected, ProtocolError, RemoteError, RequestError
from gpuvm.vmm.vfio_user.protocol import (
    CAP_SPARSE_MMAP,
    ERROR,
    MAJOR,
    MINOR,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    Command,
    DmaFlags,
    IrqIndex,
    IrqSet,
    Limits,
    RegionFlags,
    UnmapFlags,
)
from gpuvm.vmm.vfio_user.records import (
    DEVICE_INFO,
    DMA_ACCESS,
    DMA_MAP,
    DMA_UNMAP,
    HEADER,
    IRQ_INFO,
    IRQ_SET,
    REGION_ACCESS,
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_CAP,
    VERSION,
    WRITE_COUNT,
    WRITE_ENTRY,
    DeviceInfo,
    DmaAccess,
    DmaMap,
    DmaUnmap,
    IrqInfo,
    RegionAccess,
    RegionInfo,
    SparseArea,
    Version,
    WriteCount,
    WriteEntry,
)
from gpuvm.vmm.vfio_user.records import IrqSet as IrqSetRecord

_VALUES = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
_ACCESS = struct.Struct(HEADER.struct.format + REGION_ACCESS.struct.format[1:])
_WRITES = {size: struct.Struct(_ACCESS.format + code.format[1:]) for size, code in _VALUES.items()}
_READ, _WRITE = Command.REGION_READ.value, Command.REGION_WRITE.value
_TIMEVAL = struct.Struct("ll")
_POLL_S = 0.05
MOST_WRITES = 200
"""Writes in one message; as QEMU."""


@dataclass(frozen=True, slots=True)
class RegionDetails:
    """What a server says of a region.

    Attributes
    ----------
    info : RegionInfo
    areas : tuple of SparseArea
        What of it may be mapped, if not all.
    fd : int
        What to map, the caller's to close; -1: nothing.
    """

    info: RegionInfo
    areas: tuple[SparseArea, ...]
    fd: int


class Client:
    """A connection to a server. Methods may be called from any thread; each waits for the server.

    Parameters
    ----------
    where : str, Path or socket.socket
        The server's socket, or a connected one (taken over).
    limits : Limits
        What this side takes.
    timeout_s : float
        The longest a reply may take; after that the connection is closed.

    Raises
    ------
    OSError
        If nobody listens there.
    RemoteError
        If the server refuses (EBUSY: it has a client).
    Disconnected, ProtocolError
        From here on from every method.
    """

    def __init__(
        self, where: str | Path | socket.socket, *, limits: Limits | None = None, timeout_s: float = 5.0
    ) -> None:
        self.limits = limits or Limits()
        self.timeout_s = timeout_s
        if isinstance(where, socket.socket):
            sock = where
        else:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(os.fspath(where))
            except OSError:
                sock.close()
                raise
        span = _TIMEVAL.pack(int(timeout_s), int(timeout_s % 1 * 1e6))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
        self._channel = Channel(sock, self.limits.max_message, self.limits.max_fds)
        self._lock = threading.Lock()
        self._id = 0
        self._out = bytearray(_ACCESS.size + 8)
        self._views = {size: memoryview(self._out)[: _ACCESS.size + size] for size in (0, *_VALUES)}
        self._served: dict[int, tuple[int, DmaFlags, Memory]] = {}
        self._serving: threading.Thread | None = None
        self._closed = False
        try:
            self.server = self._negotiate()
        except BaseException:
            self.close()
            raise

    # Exchange

    def _negotiate(self) -> Capabilities:
        limits = self.limits
        ours = Capabilities(limits.max_fds, limits.max_transfer, limits.max_maps, write_multiple=True)
        data = self.request(Command.VERSION, VERSION.pack(Version(MAJOR, MINOR)) + ours.encode())
        try:
            version = VERSION.unpack(data)
            theirs = decode(data[VERSION.size :])
        except RequestError as error:
            raise ProtocolError(f"the server's VERSION must make sense: {error}") from None
        if version.major != MAJOR or version.minor > MINOR:
            raise ProtocolError(
                f"the server must speak version {MAJOR}.{MINOR}, it speaks {version.major}.{version.minor}"
            )
        return theirs

    def request(
        self, command: Command, payload: bytes = b"", fds: Sequence[int] = (), posted: bool = False
    ) -> bytes:
        """Send any command and return the payload of the reply (empty if `posted`).

        Raises
        ------
        RemoteError
            If the server refused.
        """
        data, got = self._request(command, payload, fds, posted)
        close_all(got)
        return data

    def _request(
        self, command: Command, payload: bytes, fds: Sequence[int] = (), posted: bool = False
    ) -> tuple[bytes, list[int]]:
        with self._lock:
            ident = self._next()
            flags = TYPE_COMMAND | (NO_REPLY if posted else 0)
            self._channel.send(message(ident, command, flags, (payload,)), fds)
            if posted:
                return b"", []
            self._receive(ident, command)
            channel = self._channel
            got, channel.fds = channel.fds, []
            return bytes(channel.body[: channel.length]), got

    def _next(self) -> int:
        if self._closed:
            raise Disconnected("the client is closed")
        self._id = ident = self._id + 1 & 0xFFFF
        return ident

    def _receive(self, ident: int, command: int) -> None:
        """Wait for the reply to a command; the server's DMA messages are answered meanwhile."""
        receive = self._channel.receive
        while True:
            try:
                header = receive()
            except BlockingIOError:
                raise self._lose(
                    Disconnected(f"the server did not answer within {self.timeout_s} s")
                ) from None
            except OSError as error:
                raise self._lose(Disconnected("the server closed the connection")) from error
            got, what, _, flags, error_number = header
            if flags & TYPE_MASK == TYPE_REPLY:
                if got != ident or what != command or self._channel.oversized:
                    raise self._lose(ProtocolError(f"a reply to message {ident} was due, one to {got} came"))
                if flags & ERROR:
                    raise RemoteError(Command(command).name, error_number)
                return
            self._answer(header)

    def _lose(self, error: Disconnected | ProtocolError) -> Disconnected | ProtocolError:
        self._channel.shut_down()
        return error

    # Questions

    def device_info(self) -> DeviceInfo:
        request = DeviceInfo(DEVICE_INFO.size, 0, 0, 0)
        return DEVICE_INFO.unpack(self.request(Command.DEVICE_GET_INFO, DEVICE_INFO.pack(request)))

    def region_info(self, index: int) -> RegionDetails:
        """Ask about a region; twice if the first answer says that it has more to tell."""
        room = REGION_INFO.size
        for _ in range(2):
            request = REGION_INFO.pack(RegionInfo(room, 0, index, 0, 0, 0))
            data, fds = self._request(
                Command.DEVICE_GET_REGION_INFO, request.ljust(min(room, self.limits.max_transfer), b"\0")
            )
            info = REGION_INFO.unpack(data)
            if info.argsz <= room:
                break
            close_all(fds)
            room = info.argsz
        fd = fds.pop(0) if fds else -1
        close_all(fds)
        return RegionDetails(info, _areas(info, data), fd)

    def irq_info(self, index: IrqIndex) -> IrqInfo:
        request = IRQ_INFO.pack(IrqInfo(IRQ_INFO.size, 0, index, 0))
        return IRQ_INFO.unpack(self.request(Command.DEVICE_GET_IRQ_INFO, request))

    # Regions

    def read(self, region: int, offset: int, size: int) -> int:
        """Read 1, 2, 4 or 8 bytes, little-endian."""
        unpack = _VALUES[size].unpack_from
        with self._lock:
            ident = self._next()
            _ACCESS.pack_into(self._out, 0, ident, _READ, _ACCESS.size, TYPE_COMMAND, 0, offset, region, size)
            self._channel.send(self._views[0])
            self._receive(ident, _READ)
            if self._channel.length != REGION_ACCESS.size + size:
                raise self._lose(ProtocolError(f"a read of {size} bytes must be answered with as many"))
            value: int = unpack(self._channel.body, REGION_ACCESS.size)[0]
            return value

    def write(self, region: int, offset: int, size: int, value: int, posted: bool = False) -> None:
        """Write 1, 2, 4 or 8 bytes, little-endian; `posted`: without a reply, errors stay unknown."""
        with self._lock:
            ident = self._next()
            flags = NO_REPLY if posted else 0
            _WRITES[size].pack_into(
                self._out, 0, ident, _WRITE, _ACCESS.size + size, flags, 0, offset, region, size, value
            )
            self._channel.send(self._views[size])
            if not posted:
                self._receive(ident, _WRITE)

    def read_block(self, region: int, offset: int, length: int) -> bytes:
        """Read any number of bytes."""
        parts = []
        while length > 0:
            size = min(length, self.server.max_transfer, self.limits.max_transfer)
            data = self.request(Command.REGION_READ, REGION_ACCESS.pack(RegionAccess(offset, region, size)))
            if len(data) != REGION_ACCESS.size + size:
                raise self._lose(ProtocolError(f"a read of {size} bytes must be answered with as many"))
            parts.append(data[REGION_ACCESS.size :])
            offset += size
            length -= size
        return b"".join(parts)

    def write_block(self, region: int, offset: int, data: bytes, posted: bool = False) -> None:
        """Write any number of bytes."""
        most = self.server.max_transfer
        for at in range(0, len(data), most):
            piece = data[at : at + most]
            access = REGION_ACCESS.pack(RegionAccess(offset + at, region, len(piece)))
            self.request(Command.REGION_WRITE, access + piece, posted=posted)

    def write_multi(self, writes: Iterable[tuple[int, int, int, int]], posted: bool = True) -> None:
        """Write many: (region, offset, size, value) each; in one message a hundred or two if the server takes
        that.
        """
        if not self.server.write_multiple:
            for region, offset, size, value in writes:
                self.write(region, offset, size, value, posted)
            return
        pack = WRITE_ENTRY.pack
        entries = [pack(WriteEntry(offset, region, size, value)) for region, offset, size, value in writes]
        for at in range(0, len(entries), MOST_WRITES):
            some = entries[at : at + MOST_WRITES]
            payload = WRITE_COUNT.pack(WriteCount(len(some))) + b"".join(some)
            self.request(Command.REGION_WRITE_MULTI, payload, posted=posted)

    def reset(self) -> None:
        """Function-level reset."""
        self.request(Command.DEVICE_RESET)

    # Interrupts

    def listen(self, index: IrqIndex, fds: Sequence[int], start: int = 0) -> None:
        """Have vectors from `start` on signal these eventfds (which stay the caller's)."""
        most = max(self.server.max_fds, 1)
        for at in range(0, len(fds), most):
            some = fds[at : at + most]
            self._set_irqs(IrqSet.ACTION_TRIGGER | IrqSet.DATA_EVENTFD, index, start + at, len(some), some)

    def ignore(self, index: IrqIndex) -> None:
        """Have no vector of an index signal any more."""
        self._set_irqs(IrqSet.ACTION_TRIGGER | IrqSet.DATA_NONE, index, 0, 0)

    def mask(self, index: IrqIndex, start: int = 0, count: int = 1) -> None:
        self._set_irqs(IrqSet.ACTION_MASK | IrqSet.DATA_NONE, index, start, count)

    def unmask(self, index: IrqIndex, start: int = 0, count: int = 1) -> None:
        self._set_irqs(IrqSet.ACTION_UNMASK | IrqSet.DATA_NONE, index, start, count)

    def trigger(self, index: IrqIndex, start: int = 0, count: int = 1) -> None:
        """Have the server signal vectors, as a test."""
        self._set_irqs(IrqSet.ACTION_TRIGGER | IrqSet.DATA_NONE, index, start, count)

    def _set_irqs(
        self, flags: IrqSet, index: IrqIndex, start: int, count: int, fds: Sequence[int] = ()
    ) -> None:
        record = IRQ_SET.pack(IrqSetRecord(IRQ_SET.size, flags, index, start, count))
        self.request(Command.DEVICE_SET_IRQS, record, fds)

    # DMA

    def dma_map(
        self,
        address: int,
        size: int,
        *,
        fd: int = -1,
        offset: int = 0,
        flags: DmaFlags = DmaFlags.READ | DmaFlags.WRITE,
        memory: Memory | None = None,
    ) -> None:
        """Let the device reach memory at a bus address: a file that it maps itself (`fd` stays the caller's),
        or `memory`, which this client reads and writes for it, message by message.
        """
        if (fd < 0) == (memory is None):
            raise ValueError("a DMA map takes either a file descriptor or a memory")
        if memory is not None:
            self._served[address] = (size, flags, memory)
            self._serve()
        record = DMA_MAP.pack(DmaMap(DMA_MAP.size, flags, offset, address, size))
        try:
            self.request(Command.DMA_MAP, record, (fd,) if fd >= 0 else ())
        except RemoteError:
            self._served.pop(address, None)
            raise

    def dma_unmap(self, address: int, size: int) -> None:
        """Take a map away; when this returns, the server has let go of it."""
        self.request(Command.DMA_UNMAP, DMA_UNMAP.pack(DmaUnmap(DMA_UNMAP.size, 0, address, size)))
        self._served.pop(address, None)

    def dma_unmap_all(self) -> None:
        self.request(Command.DMA_UNMAP, DMA_UNMAP.pack(DmaUnmap(DMA_UNMAP.size, UnmapFlags.ALL, 0, 0)))
        self._served.clear()

    def _answer(self, header: HeaderFields) -> None:
        """Do what the server asks: DMA."""
        ident, command, _, flags, _ = header
        channel = self._channel
        try:
            if (
                flags != TYPE_COMMAND
                or command not in (Command.DMA_READ, Command.DMA_WRITE)
                or channel.oversized
            ):
                raise RequestError(errno.EINVAL, "a server may send DMA_READ and DMA_WRITE")
            data = channel.body[: channel.length]
            access = DMA_ACCESS.unpack(data)
            given = data[DMA_ACCESS.size :]
            way = DmaFlags.READ if command == Command.DMA_READ else DmaFlags.WRITE
            memory, offset = self._find(access, way)
            record = DMA_ACCESS.pack(access)
            if command == Command.DMA_READ:
                if access.count > self.limits.max_transfer or len(given):
                    raise RequestError(errno.EINVAL, "a DMA read must fit a message")
                record += memory.read(offset, access.count)
            else:
                if access.count != len(given):
                    raise RequestError(errno.EINVAL, "a DMA write must bring its bytes")
                memory.write(offset, bytes(given))
        except RequestError as error:
            channel.refuse(ident, command, error.errno)
        else:
            channel.reply(ident, command, record)

    def _find(self, access: DmaAccess, way: DmaFlags) -> tuple[Memory, int]:
        bases = sorted(self._served)
        where = bisect_right(bases, access.address) - 1
        if where >= 0:
            size, flags, memory = self._served[bases[where]]
            offset = access.address - bases[where]
            if offset + access.count <= size and flags & way:
                return memory, offset
        raise RequestError(errno.EFAULT, "the memory must be mapped")

    def _serve(self) -> None:
        """From now on answer the server's DMA messages also while no request is under way."""
        if self._serving is None:
            self._serving = threading.Thread(target=self._serve_dma, name="vfio-user DMA", daemon=True)
            self._serving.start()

    def _serve_dma(self) -> None:
        try:
            while not self._closed:
                if not self._channel.readable(_POLL_S):
                    continue
                with self._lock:
                    # Whoever held the lock may have received it.
                    if not self._closed and self._channel.readable(0):
                        self._answer(self._channel.receive())
        except (Disconnected, OSError, ValueError):
            pass

    # The end

    def close(self) -> None:
        """Close the connection; the server lets go of memory and interrupts."""
        self._closed = True
        self._channel.shut_down()
        with self._lock:
            pass
        if self._serving is not None and self._serving is not threading.current_thread():
            self._serving.join()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _areas(info: RegionInfo, data: bytes) -> tuple[SparseArea, ...]:
    """The areas of the sparse-mmap capability in a reply."""
    at = info.cap_offset if info.flags & RegionFlags.CAPS else 0
    seen = 0
    while REGION_INFO.size <= at <= len(data) - SPARSE_CAP.size and seen < len(data):
        cap = SPARSE_CAP.unpack(data, at)
        if cap.id == CAP_SPARSE_MMAP:
            first = at + SPARSE_CAP.size
            count = min(cap.areas, (len(data) - first) // SPARSE_AREA.size)
            return tuple(SPARSE_AREA.unpack(data, first + SPARSE_AREA.size * each) for each in range(count))
        at, seen = cap.next, seen + SPARSE_CAP.size
    return ()


__all__ = ["Client", "RegionDetails"]

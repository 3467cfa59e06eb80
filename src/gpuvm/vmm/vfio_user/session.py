"""One client's session with one device: messages in, replies out, in order; its states have names.

    NEGOTIATING --VERSION--> RUNNING --the client goes, or the server stops--> CLOSED

The thread that calls `run` serves the client. While another thread waits for the reply to a DMA message it
may take over receiving (`_await`); commands that it meets are held and served in their order.
"""

from __future__ import annotations

import enum
import errno
import logging
import os
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuvm.vmm.vfio_user.capabilities import Capabilities, decode
from gpuvm.vmm.vfio_user.channel import CTRUNC, Channel, HeaderFields, TooSlow, close_all, message
from gpuvm.vmm.vfio_user.dma import DmaTable
from gpuvm.vmm.vfio_user.errors import Disconnected, DmaFault, InvalidRequest, RequestError
from gpuvm.vmm.vfio_user.interrupts import Interrupts
from gpuvm.vmm.vfio_user.protocol import (
    ERROR,
    HEADER_SIZE,
    MAJOR,
    MINOR,
    NO_REPLY,
    TYPE_COMMAND,
    TYPE_MASK,
    TYPE_REPLY,
    Command,
    DeviceFlags,
    IrqIndex,
    Limits,
    RegionFlags,
    RegionIndex,
)
from gpuvm.vmm.vfio_user.records import (
    DEVICE_INFO,
    DMA_ACCESS,
    HEADER,
    MESSAGES,
    REGION_ACCESS,
    REGION_INFO,
    REGION_IO_FDS,
    VERSION,
    WRITE_COUNT,
    WRITE_ENTRY,
    DeviceInfo,
    DmaAccess,
    RegionIoFds,
    Version,
)
from gpuvm.vmm.vfio_user.regions import ABSENT, Region, describe

log = logging.getLogger(__name__)

_POLL_S = 0.001
"""How often a thread that waits for a DMA reply looks whether it has to receive itself."""

_VALUES = {1: struct.Struct("<B"), 2: struct.Struct("<H"), 4: struct.Struct("<I"), 8: struct.Struct("<Q")}
_MASKS = {size: (1 << 8 * size) - 1 for size in _VALUES}
_ACCESS_END = HEADER_SIZE + REGION_ACCESS.size
_ACCESS = struct.Struct(HEADER.struct.format + REGION_ACCESS.struct.format[1:])
_READ_REPLY = {
    size: struct.Struct(HEADER.struct.format + REGION_ACCESS.struct.format[1:] + code.format[1:])
    for size, code in _VALUES.items()
}
_READ, _WRITE, _MULTI = (
    Command.REGION_READ.value,
    Command.REGION_WRITE.value,
    Command.REGION_WRITE_MULTI.value,
)

MOST_WRITES = 1 << 16
"""Writes in one REGION_WRITE_MULTI; QEMU packs up to 200."""


_RUN = 4
"""Writes one behind the other from which on handing them over together costs less."""


class State(enum.Enum):
    """Where a session stands."""

    NEGOTIATING = "waits for VERSION"
    RUNNING = "serves the device"
    CLOSED = "is over"


@dataclass(slots=True)
class Endpoint:
    """What a server hands to its clients, one after another: a device in the protocol's terms.

    Attributes
    ----------
    regions : sequence of Region
        By `RegionIndex`; those that miss at the end are absent.
    interrupts : Interrupts
    dma : DmaTable
        What the client at the moment lets the device reach.
    reset : callable
        Do a function-level reset.
    gone : callable
        A client has gone; called on the thread that served it while the device still reaches its memory.
    """

    regions: Sequence[Region]
    interrupts: Interrupts = field(default_factory=lambda: Interrupts({}))
    dma: DmaTable = field(default_factory=DmaTable)
    reset: Callable[[], None] = lambda: None
    gone: Callable[[], None] = lambda: None
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if len(self.regions) > len(RegionIndex):
            raise ValueError(f"a device has at most {len(RegionIndex)} regions, got {len(self.regions)}")
        self.regions = (*self.regions, *[ABSENT] * (len(RegionIndex) - len(self.regions)))


@dataclass(slots=True)
class Counters:
    """What a session did."""

    reads: int = 0
    writes: int = 0
    posted: int = 0
    """Messages that wanted no reply."""
    errors: int = 0
    """Requests refused."""
    dma_messages: int = 0


class _Waiter:
    """A thread that waits for the reply to a DMA message."""

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.data = b""
        self.error = 0


Held = tuple[HeaderFields, bytes, list[int], bool, bool]
Handler = Callable[[memoryview, list[int]], tuple[bytes, Sequence[int]]]


class Session:
    """Serve one client.

    Parameters
    ----------
    sock : socket.socket
        A connected Unix stream socket; taken over.
    endpoint : Endpoint
    write_multiple : bool
        Whether to offer several writes in one message to a client that asks for it. QEMU before 11.0 asks and
        then sends wrong flags.
    """

    def __init__(self, sock: socket.socket, endpoint: Endpoint, write_multiple: bool = True) -> None:
        self.endpoint = endpoint
        self.limits = endpoint.limits
        self.state = State.NEGOTIATING
        self.peer = Capabilities()
        self.counters = Counters()
        self._write_multiple = write_multiple
        self._channel = Channel(sock, self.limits.max_message, self.limits.max_fds, _ACCESS_END)
        self._receiving = threading.Lock()
        self._held: deque[Held] = deque()
        self._held_bytes = 0
        self._waiters: dict[int, _Waiter] = {}
        self._waiting = threading.Lock()
        self._next_id = 0
        self._dma_lost = ""
        """Why DMA by message fails at once."""
        self._told = False
        self._ended = False
        self._handlers: dict[int, Handler] = {
            Command.VERSION: self._version,
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_REGION_IO_FDS: self._region_io_fds,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.DEVICE_RESET: self._reset,
            Command.REGION_WRITE_MULTI: self._write_multi,
        }

    # Life

    def run(self) -> None:
        """Serve until the client goes or `stop` is called; raises nothing."""
        try:
            self._serve()
        except (Disconnected, OSError):
            pass
        except Exception:
            log.exception("a vfio-user session failed and was closed")
        finally:
            self._end()

    def stop(self) -> None:
        """End the session from another thread; `run` returns once the access it is in is done."""
        self._channel.shut_down()

    def _end(self) -> None:
        self.state = State.CLOSED
        self._dma_lost = "the client has gone"
        self._channel.shut_down()
        with self._waiting:
            for waiter in self._waiters.values():
                waiter.error = errno.ENOTCONN
                waiter.done.set()
        endpoint = self.endpoint
        for release in (endpoint.interrupts.disarm, endpoint.gone, endpoint.dma.clear):
            try:
                release()
            except Exception:
                log.exception("a device failed to let its client go")
        with self._receiving, self._channel.sending:
            self._ended = True
            self._channel.close()
        for held in self._held:
            close_all(held[2])
        self._held.clear()

    # The loop

    def _serve(self) -> None:
        channel, receiving, held = self._channel, self._receiving, self._held
        first, sending, buffer, send = channel.first, channel.sending, channel.buffer, channel.send_some
        counters = self.counters
        unpack = _ACCESS.unpack_from
        out = bytearray(_ACCESS_END + 8)
        reads, writes = self._ways(out)
        values = {size: codec.unpack_from for size, codec in _VALUES.items()}
        pack_written, written = _ACCESS.pack_into, memoryview(out)[:_ACCESS_END]
        live, read = False, False

        while True:
            # What a driver does all day, without a call more than it takes; all else is copied out of the
            # channel, because a thread that waits for a DMA reply may receive as soon as the lock is free.
            with receiving:
                way = None
                if held:
                    other = self._next_held()
                elif channel.slow or not live:
                    other = self._copy(channel.receive())
                else:
                    got = first()
                    if got[0] == _ACCESS_END and not got[1] and not got[2] & CTRUNC:
                        ident, command, size, flags, _, offset, index, count = unpack(buffer)
                        if size == _ACCESS_END:
                            if command == _READ and not flags:
                                way, read = reads.get((index, count)), True
                        elif command == _WRITE and not flags & ~NO_REPLY and size == _ACCESS_END + count:
                            way, read = writes.get((index, count)), False
                    if way is None or offset + count > way[0]:
                        way = None
                        other = self._copy(channel.finish(*got))
                    elif not read:
                        # The value comes behind what the first read took.
                        header = channel.finish(*got)
                        value = values[count](buffer, _ACCESS_END)[0]
                        if channel.fds:
                            way, other = None, self._copy(header)
            if way is None:
                self._dispatch(*other)
                live = self.state is State.RUNNING
            elif read:
                counters.reads += 1
                try:
                    way[2](
                        out,
                        0,
                        ident,
                        _READ,
                        size + count,
                        TYPE_REPLY,
                        0,
                        offset,
                        index,
                        count,
                        way[1](offset, count),
                    )
                except Exception:
                    self._device_failed(ident, command, flags)
                    continue
                with sending:
                    send(way[3])
            else:
                counters.writes += 1
                try:
                    way[1](offset, count, value)
                except Exception:
                    self._device_failed(ident, command, flags)
                    continue
                if flags:
                    counters.posted += 1
                    continue
                pack_written(out, 0, ident, _WRITE, _ACCESS_END, TYPE_REPLY, 0, offset, index, count)
                with sending:
                    send(written)

    def _ways(self, out: bytearray) -> tuple[dict[tuple[int, int], Any], dict[tuple[int, int], Any]]:
        """What a read and a write of a size in a region take: by (region, size), the region's end, its
        function, and for a read what packs the reply and the bytes to send."""
        view = memoryview(out)
        reads: dict[tuple[int, int], Any] = {}
        writes: dict[tuple[int, int], Any] = {}
        for index, region in enumerate(self.endpoint.regions):
            for size, codec in _READ_REPLY.items():
                if region.size and region.flags & RegionFlags.READ:
                    reads[index, size] = region.size, region.read, codec.pack_into, view[: _ACCESS_END + size]
                if region.size and region.flags & RegionFlags.WRITE:
                    writes[index, size] = region.size, region.write
        return reads, writes

    def _copy(self, header: HeaderFields) -> Held:
        """Take the message that was received last out of the channel."""
        channel = self._channel
        fds, channel.fds = channel.fds, []
        return header, bytes(channel.body[: channel.length]), fds, channel.cut, channel.oversized

    def _next_held(self) -> Held:
        held = self._held.popleft()
        self._held_bytes -= len(held[1])
        return held

    def _dispatch(
        self, header: HeaderFields, payload: bytes, fds: list[int], cut: bool, oversized: bool
    ) -> None:
        """Answer one message; the descriptors that nobody took are closed."""
        ident, command, size, flags, error = header
        data = memoryview(payload)
        try:
            if flags & TYPE_MASK == TYPE_REPLY and self._deliver(ident, command, flags, error, data):
                return
            self._check(command, size, flags, fds, cut, oversized)
            answer, with_fds = self._handlers[command](data, fds)
        except RequestError as refused:
            close_all(fds)
            self._refuse(ident, command, flags, refused)
        except Exception:
            close_all(fds)
            self._device_failed(ident, command, flags)
        else:
            close_all(fds)
            if flags & NO_REPLY:
                self.counters.posted += 1
            else:
                self._channel.reply(ident, command, answer, with_fds)
        finally:
            close_all(fds)

    def _check(self, command: int, size: int, flags: int, fds: list[int], cut: bool, oversized: bool) -> None:
        if flags & TYPE_MASK != TYPE_COMMAND:
            raise InvalidRequest("a message must be a command, or the reply to one that was sent")
        if flags & ~NO_REPLY:
            raise InvalidRequest(f"a command may have the flag NO_REPLY, got flags {flags:#x}")
        if size < HEADER_SIZE:
            raise InvalidRequest(f"a message has at least its header's {HEADER_SIZE} bytes, got {size}")
        if oversized:
            raise InvalidRequest(f"a message may have {self.limits.max_message} bytes, got {size}")
        if cut:
            raise InvalidRequest(f"a message may carry {self.limits.max_fds} descriptors")
        known = MESSAGES.get(command)
        if known is None or known.sender != "client":
            raise InvalidRequest(f"a client's command must be a known one, got {command}")
        if (command == Command.VERSION) is not (self.state is State.NEGOTIATING):
            raise InvalidRequest(f"{known.command.name} must not come while the session {self.state.value}")
        if not known.served:
            raise RequestError(errno.ENOTSUP, f"{known.command.name} is not supported")
        if fds and known.fds != "request":
            raise InvalidRequest(f"{known.command.name} carries no descriptors, {len(fds)} came")

    def _refuse(self, ident: int, command: int, flags: int, refused: RequestError) -> None:
        self.counters.errors += 1
        if not self._told:
            self._told = True
            log.warning("a vfio-user client's request was refused (more are only counted): %s", refused)
        if not flags & NO_REPLY:
            self._channel.refuse(ident, command, refused.errno)

    def _device_failed(self, ident: int, command: int, flags: int) -> None:
        """The device raised, which it must not: the client gets EIO, the session goes on."""
        self.counters.errors += 1
        if self.counters.errors == 1 or not self._told:
            self._told = True
            log.exception("a device failed in command %s of a vfio-user client", command)
        if not flags & NO_REPLY:
            self._channel.refuse(ident, command, errno.EIO)

    # Commands

    def _version(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        request = VERSION.unpack(data)
        if request.major != MAJOR:
            raise InvalidRequest(f"the major version must be {MAJOR}, got {request.major}")
        self.peer = decode(bytes(data[VERSION.size :]))
        limits = self.limits
        ours = Capabilities(
            limits.max_fds,
            limits.max_transfer,
            limits.max_maps,
            self._write_multiple and self.peer.write_multiple,
        )
        self.state = State.RUNNING
        return VERSION.pack(Version(MAJOR, MINOR)) + ours.encode(), ()

    def _dma_map(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        self.endpoint.dma.map(data, fds, self)
        return b"", ()

    def _dma_unmap(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        return self.endpoint.dma.unmap(data), ()

    def _device_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        request = DEVICE_INFO.unpack(data)
        _check_room(request.argsz, DEVICE_INFO.size)
        flags = DeviceFlags.PCI | DeviceFlags.RESET
        return DEVICE_INFO.pack(DeviceInfo(DEVICE_INFO.size, flags, len(RegionIndex), len(IrqIndex))), ()

    def _region_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        request = REGION_INFO.unpack(data)
        _check_room(request.argsz, REGION_INFO.size)
        region = self._region(request.index)
        payload, with_fd = describe(region, request.index, request.argsz)
        return payload, (region.fd,) if with_fd else ()

    def _region_io_fds(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        request = REGION_IO_FDS.unpack(data)
        _check_room(request.argsz, REGION_IO_FDS.size)
        region = self._region(request.index)
        if request.argsz > self.limits.max_transfer or request.flags or request.count:
            raise InvalidRequest("argsz must fit a message, flags and count must be 0")
        if not region.size:
            raise InvalidRequest(f"region {request.index} must exist")
        return REGION_IO_FDS.pack(RegionIoFds(REGION_IO_FDS.size, 0, request.index, 0)), ()

    def _irq_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        return self.endpoint.interrupts.info(data), ()

    def _set_irqs(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        self.endpoint.interrupts.set(data, fds)
        return b"", ()

    def _region_read(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        access = REGION_ACCESS.unpack(data)
        region = self._reach(access.region, access.offset, access.count, RegionFlags.READ)
        if access.count > self.peer.max_transfer:
            raise InvalidRequest(
                f"a client that takes {self.peer.max_transfer} bytes must not read {access.count}"
            )
        self.counters.reads += 1
        if access.count in _VALUES:
            got = region.read(access.offset, access.count).to_bytes(access.count, "little")
        else:
            got = region.read_block(access.offset, access.count) if access.count else b""
        return REGION_ACCESS.pack(access) + got, ()

    def _region_write(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        access = REGION_ACCESS.unpack(data)
        region = self._reach(access.region, access.offset, access.count, RegionFlags.WRITE)
        given = data[REGION_ACCESS.size :]
        if len(given) != access.count:
            raise InvalidRequest(f"a write of {access.count} bytes must bring them, {len(given)} came")
        self.counters.writes += 1
        if access.count in _VALUES:
            region.write(access.offset, access.count, int.from_bytes(given, "little"))
        elif access.count:
            region.write_block(access.offset, bytes(given))
        return REGION_ACCESS.pack(access), ()

    def _write_multi(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        count = WRITE_COUNT.unpack(data).count
        entries = data[WRITE_COUNT.size :]
        if count > MOST_WRITES or len(entries) != count * WRITE_ENTRY.size:
            raise InvalidRequest(
                f"{count} writes must take {WRITE_ENTRY.size} bytes each, {len(entries)} came"
            )
        regions, most = self.endpoint.regions, len(self.endpoint.regions)
        writes = list(WRITE_ENTRY.struct.iter_unpack(entries))
        done = 0
        while done < count:
            offset, index, size, value = writes[done]
            mask = _MASKS.get(size)
            region = regions[index] if index < most else ABSENT
            if mask is None or offset + size > region.size or not region.flags & RegionFlags.WRITE:
                raise InvalidRequest(f"write {done} must be 1, 2, 4 or 8 bytes inside a writable region")
            end = done + 1
            if region.write_run is not None and size >= 4 and not offset % size:
                behind = offset + size
                while (
                    end < count and writes[end][:3] == (behind, index, size) and behind + size <= region.size
                ):
                    behind += size
                    end += 1
            if end - done < _RUN or region.write_run is None:
                region.write(offset, size, value & mask)
                done += 1
            else:
                code = _VALUES[size].format[1:]
                values = [write[3] & mask for write in writes[done:end]]
                region.write_run(offset, struct.pack(f"<{end - done}{code}", *values), size)
                done = end
        self.counters.writes += done
        return b"", ()

    def _reset(self, data: memoryview, fds: list[int]) -> tuple[bytes, Sequence[int]]:
        if len(data):
            raise InvalidRequest(f"DEVICE_RESET has no payload, {len(data)} bytes came")
        self.endpoint.reset()
        return b"", ()

    def _region(self, index: int) -> Region:
        if index >= len(self.endpoint.regions):
            raise InvalidRequest(f"a region index must be below {len(self.endpoint.regions)}, got {index}")
        return self.endpoint.regions[index]

    def _reach(self, index: int, offset: int, count: int, way: RegionFlags) -> Region:
        region = self._region(index)
        if count > self.limits.max_transfer:
            raise InvalidRequest(f"an access may have {self.limits.max_transfer} bytes, got {count}")
        if offset + count > region.size or not region.flags & way:
            raise InvalidRequest(
                f"{count} bytes at {offset:#x} must lie in region {index} of {region.size:#x} bytes, and "
                f"that must allow {way.name}"
            )
        return region

    # DMA by message

    def dma_read(self, address: int, size: int) -> bytes:
        """Ask the client for memory; from any thread, this session's included.

        Raises
        ------
        DmaFault
            If the client refuses, takes too long or has gone.
        """
        parts = []
        while size > 0:
            length = min(size, self.peer.max_transfer, self.limits.max_transfer)
            access = DMA_ACCESS.pack(DmaAccess(address, length))
            got = self._ask(Command.DMA_READ, address, access)
            if len(got) != DMA_ACCESS.size + length or got[: DMA_ACCESS.size] != access:
                raise self._lose(address, "the client's reply was of another size or place")
            parts.append(got[DMA_ACCESS.size :])
            address += length
            size -= length
        return b"".join(parts)

    def dma_write(self, address: int, data: bytes | memoryview) -> None:
        """Give the client memory to write; from any thread, this session's included.

        Raises
        ------
        DmaFault
            If the client refuses, takes too long or has gone.
        """
        most = min(self.peer.max_transfer, self.limits.max_transfer)
        for at in range(0, len(data), most):
            piece = bytes(data[at : at + most])
            access = DMA_ACCESS.pack(DmaAccess(address + at, len(piece)))
            self._ask(Command.DMA_WRITE, address + at, access, piece)

    def _lose(self, address: int, reason: str) -> DmaFault:
        if not self._dma_lost:
            log.warning("DMA by message is given up for a vfio-user client: %s", reason)
        self._dma_lost = self._dma_lost or reason
        return DmaFault(address, reason)

    def _ask(self, command: Command, address: int, *parts: bytes) -> bytes:
        if self._dma_lost:
            raise DmaFault(address, self._dma_lost)
        deadline = time.monotonic() + self.limits.dma_timeout_s
        waiter = _Waiter()
        with self._waiting:
            while self._next_id in self._waiters:
                self._next_id = self._next_id + 1 & 0xFFFF
            ident, self._next_id = self._next_id, self._next_id + 1 & 0xFFFF
            self._waiters[ident] = waiter
        self.counters.dma_messages += 1
        try:
            if self._ended:
                raise Disconnected
            self._channel.send_by(message(ident, command, TYPE_COMMAND, parts), deadline)
            self._await(waiter, deadline)
        except TooSlow:
            raise self._lose(
                address, f"the client did not answer within {self.limits.dma_timeout_s} s"
            ) from None
        except (Disconnected, OSError, ValueError):
            raise self._lose(address, "the client has gone") from None
        finally:
            with self._waiting:
                del self._waiters[ident]
        if waiter.error:
            raise DmaFault(address, f"the client refused ({os.strerror(waiter.error)})")
        return waiter.data

    def _await(self, waiter: _Waiter, deadline: float) -> None:
        """Wait for a reply; receive oneself when the serving thread does not (it is in a device, or here)."""
        while not waiter.done.is_set():
            if time.monotonic() > deadline:
                raise TooSlow
            if not self._receiving.acquire(blocking=False):
                waiter.done.wait(_POLL_S)
                continue
            try:
                while not waiter.done.is_set():
                    if self._ended:
                        raise Disconnected
                    self._hold(self._channel.receive(deadline))
            finally:
                self._receiving.release()

    def _hold(self, header: HeaderFields) -> None:
        """Deliver a reply; put anything else behind what is held."""
        channel = self._channel
        data = channel.body[: channel.length]
        ident, command, _, flags, error = header
        if flags & TYPE_MASK == TYPE_REPLY and self._deliver(ident, command, flags, error, data):
            return
        if (
            len(self._held) >= self.limits.max_held
            or self._held_bytes + len(data) > 4 * self.limits.max_message
        ):
            channel.shut_down()
            raise Disconnected("the client sends on and on instead of answering")
        self._held.append(self._copy(header))
        self._held_bytes += len(data)

    def _deliver(self, ident: int, command: int, flags: int, error: int, data: memoryview) -> bool:
        """Hand a reply to who waits for it; one that came too late is dropped."""
        if command not in (Command.DMA_READ, Command.DMA_WRITE):
            return False
        with self._waiting:
            waiter = self._waiters.get(ident)
            if waiter is None:
                return bool(self._dma_lost)
            waiter.error = (error or errno.EIO) if flags & ERROR else 0
            waiter.data = bytes(data)
            waiter.done.set()
        return True


def _check_room(argsz: int, size: int) -> None:
    if argsz < size:
        raise InvalidRequest(f"argsz must be at least {size}, got {argsz}")


__all__ = ["Counters", "Endpoint", "Session", "State"]

"""Bare messages on a socket, good and bad ones, and a device that notes what is done to it."""

from __future__ import annotations

import array
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuvm.pci.config import ConfigSpace
from gpuvm.pci.device import Bar, InterruptSink
from gpuvm.pci.memory import PAGE, BusMemory
from gpuvm.vmm.vfio_user.protocol import Command

HEADER = struct.Struct("<HHIII")
COMMAND, REPLY, NO_REPLY, ERROR = 0, 1, 0x10, 0x20


class Wire:
    """A client made of bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(10)
        self.ident = 0

    @classmethod
    def to(cls, path: Path, negotiate: bool = True, caps: bytes = b"{}") -> Wire:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(path))
        wire = cls(sock)
        if negotiate:
            wire.ask(Command.VERSION, struct.pack("<HH", 0, 0) + caps + b"\0")
        return wire

    def send(
        self,
        command: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        flags: int = COMMAND,
        size: int | None = None,
    ) -> int:
        """Send a message, with a lie about its size if wanted; return its id."""
        self.ident = self.ident + 1 & 0xFFFF
        head = HEADER.pack(self.ident, command, 16 + len(payload) if size is None else size, flags, 0)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.sock.sendmsg([head + payload], rights)
        if sent < 16 + len(payload):
            self.sock.sendall((head + payload)[sent:])
        return self.ident

    def receive(self) -> tuple[int, int, int, int, bytes, list[int]]:
        """Return id, command, flags, error, payload and descriptors of the next message."""
        head, fds, _, _ = socket.recv_fds(self.sock, 16, 16)
        head += self.exactly(16 - len(head))
        ident, command, size, flags, error = HEADER.unpack(head)
        return ident, command, flags, error, self.exactly(size - 16), list(fds)

    def exactly(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self.sock.recv(size - len(parts))
            if not part:
                raise ConnectionError("the server closed the connection")
            parts += part
        return parts

    def exchange(
        self, command: int, payload: bytes = b"", fds: Sequence[int] = (), **lies: int
    ) -> tuple[int, bytes, list[int]]:
        """Send a message and return errno, payload and descriptors of its reply."""
        ident = self.send(command, payload, fds, **lies)
        got, what, flags, error, data, given = self.receive()
        assert (got, what) == (ident, command)
        assert flags == (REPLY | ERROR if error else REPLY)
        assert not (error and data)
        return error, data, given

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """Send a message that must succeed."""
        error, data, given = self.exchange(command, payload, fds)
        assert error == 0, os.strerror(error)
        assert not given
        return data

    def errno(self, command: int, payload: bytes = b"", fds: Sequence[int] = (), **lies: int) -> int:
        """Send a message and return the error number of the reply."""
        return self.exchange(command, payload, fds, **lies)[0]

    def alive(self) -> bool:
        """Whether the session still serves, in order."""
        return len(self.ask(Command.DEVICE_GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))) == 16

    def read(self, region: int, offset: int, size: int) -> int:
        data = self.ask(Command.REGION_READ, struct.pack("<QII", offset, region, size))
        assert data[:16] == struct.pack("<QII", offset, region, size)
        return int.from_bytes(data[16:], "little")

    def write(self, region: int, offset: int, data: bytes) -> None:
        access = struct.pack("<QII", offset, region, len(data))
        assert self.ask(Command.REGION_WRITE, access + data) == access

    def close(self) -> None:
        self.sock.close()


class Card:
    """A PCI function of two BARs of memory with all kinds of interrupt; it notes what happens."""

    def __init__(self) -> None:
        self.bars: Sequence[Bar] = (Bar(0, 0x2000), Bar(2, 0x10000, is_64bit=True, prefetchable=True))
        self.config = ConfigSpace(vendor=0x1AF4, device=0x1234, class_code=0xFF0000, bars=self.bars)
        self.memory = {0: bytearray(0x2000), 2: bytearray(0x10000)}
        self.log: list[tuple[object, ...]] = []
        self.bus = BusMemory()
        self.pin: InterruptSink | None = None
        self.on_write: Callable[[int, int, int], None] = lambda bar, offset, value: None

    def connect(self, memory: BusMemory, interrupts: InterruptSink) -> None:
        self.bus, self.pin = memory, interrupts

    def config_read(self, offset: int, size: int) -> int:
        return self.config.read(offset, size)

    def config_write(self, offset: int, size: int, value: int) -> None:
        self.config.write(offset, size, value)

    def read(self, bar: int, offset: int, size: int) -> int:
        self.log.append(("read", bar, offset, size))
        return int.from_bytes(self.memory[bar][offset : offset + size], "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        self.log.append(("write", bar, offset, size, value))
        self.memory[bar][offset : offset + size] = value.to_bytes(size, "little")
        self.on_write(bar, offset, value)

    def read_block(self, bar: int, offset: int, length: int, width: int = 4) -> bytes:
        self.log.append(("read_block", bar, offset, length))
        return bytes(self.memory[bar][offset : offset + length])

    def write_block(self, bar: int, offset: int, data: bytes, width: int = 4) -> None:
        self.log.append(("write_block", bar, offset, len(data)))
        self.memory[bar][offset : offset + len(data)] = data

    def reset(self) -> None:
        self.log.append(("reset",))
        self.config.reset()

    def close(self) -> None:
        self.log.append(("close",))


def memfd(pages: int, sealed: bool = True) -> int:
    """Make a file as QEMU's memory-backend-memfd does, or one that may shrink."""
    fd = os.memfd_create("test", os.MFD_CLOEXEC | (os.MFD_ALLOW_SEALING if sealed else 0))
    os.ftruncate(fd, pages * PAGE)
    return fd


def eventually(condition: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def open_fds() -> int:
    """Descriptors that this process has."""
    return len(os.listdir("/proc/self/fd"))

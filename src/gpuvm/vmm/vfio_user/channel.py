"""Messages on a stream socket: the first bytes of one with that message's descriptors, then the rest of it.

Descriptors belong to one message. The kernel hands them over with the first byte of what they were sent with
and ends a read behind that piece; so the first read of a message takes no more than the shortest message has
(a header), or than messages mostly have. In the second case it may reach into the next message behind a
shorter one, but then any descriptors are the next one's: had they been the shorter one's, the read would have
ended with it.
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial

from gpuvm.vmm.vfio_user.errors import Disconnected
from gpuvm.vmm.vfio_user.protocol import ERROR, HEADER_SIZE, TYPE_REPLY
from gpuvm.vmm.vfio_user.records import HEADER

HeaderFields = tuple[int, int, int, int, int]

_INT = struct.calcsize("i")
_DRAIN = 1 << 16
_CLOEXEC, CTRUNC = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
"""As plain numbers: an enum's operators are Python, and one is in every access."""

_unpack_header = HEADER.struct.unpack_from
_pack_header = HEADER.struct.pack


class TooSlow(Exception):
    """A deadline passed; what was received so far is kept for the next call."""


class Channel:
    """One end of a connection. One thread receives at a time; any may send.

    Parameters
    ----------
    sock : socket.socket
        A connected, blocking Unix stream socket; taken over.
    max_message : int
        Bytes of the longest message that is taken in; the payload of a longer one is thrown away.
    max_fds : int
        Descriptors taken with one message.
    first : int
        Bytes that the first read of a message may take.

    Attributes
    ----------
    buffer : bytearray
        Holds the message received last.
    body : memoryview
        Its payload, `length` bytes.
    fds : list[int]
        That message's descriptors; whoever takes one out owns it.
    cut : bool
        Whether it came with more descriptors than `max_fds` or than the process may have (all closed).
    oversized : bool
        Whether it was longer than `max_message`.
    """

    def __init__(self, sock: socket.socket, max_message: int, max_fds: int, first: int = HEADER_SIZE) -> None:
        self._sock = sock
        self.buffer = bytearray(max(max_message, first))
        view = memoryview(self.buffer)
        self.body = view[HEADER_SIZE:]
        self._view = view
        self._first = first
        self._first_buffers = [view[:first]]
        self._rest = view[first:]
        self._most = max_message
        self._ancillary = socket.CMSG_SPACE(max_fds * _INT)
        self.length = 0
        self.fds: list[int] = []
        self.cut = False
        self.oversized = False
        self.slow = False
        """Whether any of the next four is set."""
        self._got = 0
        """Bytes received of a message that is not all there."""
        self._drain = 0
        """Bytes of an oversized message still to be thrown away."""
        self._ahead = b""
        """Bytes of the next message."""
        self._ahead_fds: list[int] = []
        self._ahead_cut = False
        self.first = partial(sock.recvmsg_into, self._first_buffers, self._ancillary, _CLOEXEC)
        """Receive the first bytes of a message, of which nothing is there (`slow` is False): for a receiver
        that knows what it mostly gets, and that gives everything else to `finish`."""
        self._recvmsg_into = sock.recvmsg_into
        self._recv_into = sock.recv_into
        self._send = sock.send
        self.sendall = sock.sendall
        """Send bytes while holding `sending`."""
        self.sending = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    # Receiving

    def receive(self, deadline: float | None = None) -> HeaderFields:
        """Wait for a message and return its header; payload and descriptors are in `body` and `fds`.

        Parameters
        ----------
        deadline : float, optional
            By `time.monotonic`.

        Raises
        ------
        Disconnected
            If the peer has gone.
        TooSlow
            If the deadline passed first.
        """
        if self.slow or deadline is not None:
            return self._receive_slowly(deadline)
        return self.finish(*self.first())

    def finish(
        self, count: int, ancillary: list[tuple[int, int, bytes]], flags: int, _: object
    ) -> HeaderFields:
        """Go on from what `first` returned to a whole message."""
        if self.fds or self.cut:
            self._forget_fds()
        if ancillary or flags & CTRUNC:
            self._take_fds(ancillary, flags)
        if count >= HEADER_SIZE:
            header = _unpack_header(self.buffer)
            size = header[2]
            if size == count:
                self.oversized, self.length = False, size - HEADER_SIZE
                return header
            if count == self._first < size <= self._most:
                taken = self._recv_into(self._rest, size - count)
                if taken == size - count:
                    self.oversized, self.length = False, size - HEADER_SIZE
                    return header
                if not taken:
                    raise Disconnected("the peer closed the connection within a message")
                count += taken
        elif not count:
            raise Disconnected("the peer closed the connection")
        self._got, self.slow = count, True
        return self._receive_slowly(None)

    def _receive_slowly(self, deadline: float | None) -> HeaderFields:
        self.slow = True
        while self._drain:
            self._wait(deadline)
            scrap = self._sock.recv(min(self._drain, _DRAIN))
            if not scrap:
                raise Disconnected("the peer closed the connection within a message")
            self._drain -= len(scrap)
        if not self._got:
            self._forget_fds()
            self._got, self._ahead, ahead = len(self._ahead), b"", self._ahead
            self.buffer[: self._got] = ahead
            self.fds, self._ahead_fds = self._ahead_fds, self.fds
            self.cut, self._ahead_cut = self._ahead_cut, False
        while self._got < HEADER_SIZE:
            self._wait(deadline)
            count, ancillary, flags, _ = self._recvmsg_into(
                [self._view[self._got : HEADER_SIZE]], self._ancillary, _CLOEXEC
            )
            if ancillary or flags & CTRUNC:
                self._take_fds(ancillary, flags)
            if not count:
                raise Disconnected("the peer closed the connection")
            self._got += count
        header = _unpack_header(self.buffer)
        size = max(header[2], HEADER_SIZE)
        self.oversized = size > self._most
        if self.oversized:
            self.length, self._drain, self._got = 0, size - self._got, 0
            return header
        while self._got < size:
            self._wait(deadline)
            count = self._recv_into(self._view[self._got :], size - self._got)
            if not count:
                raise Disconnected("the peer closed the connection within a message")
            self._got += count
        self.length = size - HEADER_SIZE
        if self._got > size:
            self._ahead = bytes(self._view[size : self._got])
            self.fds, self._ahead_fds = self._ahead_fds, self.fds
            self.cut, self._ahead_cut = False, self.cut
        self._got = 0
        self.slow = bool(self._ahead)
        return header

    def _wait(self, deadline: float | None) -> None:
        if deadline is not None and not self.readable(deadline - time.monotonic()):
            raise TooSlow

    def readable(self, timeout_s: float) -> bool:
        """Whether there is something to receive, or the peer has gone, within the time."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(max(timeout_s, 0) * 1000))

    def _take_fds(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _INT])
                self.fds.extend(fds)
        if flags & CTRUNC:
            self._forget_fds()
            self.cut = True

    def _forget_fds(self) -> None:
        close_all(self.fds)
        self.cut = False

    # Sending

    def send(self, data: bytes | bytearray | memoryview, fds: Sequence[int] = ()) -> None:
        """Send a whole message.

        Raises
        ------
        Disconnected
            If the peer has gone.
        """
        try:
            with self.sending:
                if not fds:
                    self.sendall(data)
                    return
                sent = socket.send_fds(self._sock, [data], list(fds))
                if sent < len(data):
                    self.sendall(memoryview(data)[sent:])
        except OSError as error:
            raise Disconnected("the peer closed the connection") from error

    def send_some(self, data: memoryview) -> None:
        """Send a short message while holding `sending`."""
        sent = self._send(data)
        if sent < len(data):
            self.sendall(data[sent:])

    def send_by(self, data: bytes, deadline: float) -> None:
        """Send a whole message, from a thread that must not hang on the peer.

        Raises
        ------
        TooSlow
            If the deadline passed first. When part of the message had been sent, the connection is shut down.
        Disconnected
            If the peer has gone.
        """
        if not self.sending.acquire(timeout=max(deadline - time.monotonic(), 0)):
            raise TooSlow
        try:
            view, done = memoryview(data), 0
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            while done < len(view):
                if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
                    if done:
                        self.shut_down()
                    raise TooSlow
                with contextlib.suppress(BlockingIOError):
                    done += self._sock.send(view[done:], socket.MSG_DONTWAIT)
        except OSError as error:
            raise Disconnected("the peer closed the connection") from error
        finally:
            self.sending.release()

    def reply(self, ident: int, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Answer a command."""
        self.send(_pack_header(ident, command, HEADER_SIZE + len(payload), TYPE_REPLY, 0) + payload, fds)

    def refuse(self, ident: int, command: int, number: int) -> None:
        """Answer a command with a Linux error number."""
        self.send(_pack_header(ident, command, HEADER_SIZE, TYPE_REPLY | ERROR, number or errno.EINVAL))

    # The end

    def shut_down(self) -> None:
        """End the connection; threads that wait in it find out. The socket stays open until `close`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took."""
        if not self._closed:
            self._closed = True
            self._forget_fds()
            close_all(self._ahead_fds)
            self._sock.close()


def close_all(fds: list[int]) -> None:
    """Close descriptors and empty the list."""
    while fds:
        with contextlib.suppress(OSError):
            os.close(fds.pop())


def message(ident: int, command: int, flags: int, parts: Iterable[bytes]) -> bytes:
    """Bytes of a message: its header and its payload in parts."""
    payload = b"".join(parts)
    return _pack_header(ident, command, HEADER_SIZE + len(payload), flags, 0) + payload

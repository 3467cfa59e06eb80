"""A Unix socket that hands one device to one client after another."""

from __future__ import annotations

import errno
import logging
import socket
import threading
import time
from pathlib import Path
from types import TracebackType

from gpuvm.vmm.vfio_user.channel import Channel
from gpuvm.vmm.vfio_user.errors import VfioUserError
from gpuvm.vmm.vfio_user.listener import Listener
from gpuvm.vmm.vfio_user.protocol import HEADER_SIZE
from gpuvm.vmm.vfio_user.session import Endpoint, Session, State

log = logging.getLogger(__name__)

_GRACE_S = 1.0
"""How long a new client waits for the one before to be gone; the end of a killed one is seen at once."""

_RELEASE_S = 10.0
"""How long it waits for the device to be through with the one before, which is gone."""

_BUSY_S = 1.0
"""How long a client that is turned away may take to say its first word."""

_RETRY_S = 0.1


class Server:
    """Listen on a socket; a thread accepts, one more serves the client that is there.

    The device keeps its state from client to client; DMA maps and interrupts end with the client that set
    them. A second client at the same time is answered EBUSY.

    Parameters
    ----------
    endpoint : Endpoint
    path : str or Path
        Of the socket, made with mode 0600. A socket that nobody listens on any more is replaced.
    write_multiple : bool
        See `Session`.

    Raises
    ------
    OSError
        If the socket cannot be made, EADDRINUSE if a server listens there.
    """

    def __init__(self, endpoint: Endpoint, path: str | Path, *, write_multiple: bool = True) -> None:
        self.endpoint = endpoint
        self.path = Path(path)
        self._write_multiple = write_multiple
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._serving: threading.Thread | None = None
        self._closed = False
        self.clients = 0
        """Clients served, the present one included."""
        self._listener = Listener(self.path)
        self._accepting = threading.Thread(
            target=self._accept, name=f"vfio-user {self.path.name}", daemon=True
        )
        self._accepting.start()

    @property
    def session(self) -> Session | None:
        """The present client's session."""
        session = self._session
        return None if session is None or session.state is State.CLOSED else session

    @property
    def busy(self) -> bool:
        """Whether a client is served, or has gone and the device is not through with it."""
        thread = self._serving
        return thread is not None and thread.is_alive()

    def disconnect(self) -> None:
        """End the present client's session, if there is one; others may connect."""
        session, thread = self._session, self._serving
        if session is not None and thread is not None:
            session.stop()
            if thread is not threading.current_thread():
                thread.join()

    def close(self) -> None:
        """Stop listening, end the session, remove the socket. The device is its owner's to close."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._listener.shut_down()
        self._accepting.join()
        self.disconnect()
        self._listener.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._listener.socket.accept()
            except OSError as error:
                if self._closed or error.errno in (errno.EINVAL, errno.EBADF):
                    return
                time.sleep(_RETRY_S)  # out of descriptors, most likely
                continue
            try:
                self._admit(sock)
            except Exception:
                log.exception("a vfio-user client could not be admitted")
                sock.close()

    def _admit(self, sock: socket.socket) -> None:
        if not self._free():
            _turn_away(sock)
            return
        session = Session(sock, self.endpoint, self._write_multiple)
        thread = threading.Thread(
            target=self._serve, args=(session,), name=f"vfio-user {self.path.name} client", daemon=True
        )
        self.clients += 1
        self._session, self._serving = session, thread
        thread.start()

    def _free(self) -> bool:
        """Wait until the client before is gone and the device through with it."""
        before, session = self._serving, self._session
        begin = time.monotonic()
        while before is not None and before.is_alive() and not self._closed:
            releasing = session is None or session.state is State.CLOSED
            if time.monotonic() - begin > (_RELEASE_S if releasing else _GRACE_S):
                return False
            before.join(_RETRY_S)
        return not self._closed

    def _serve(self, session: Session) -> None:
        session.run()
        if self._session is session:
            self._session = None


def _turn_away(sock: socket.socket) -> None:
    sock.settimeout(_BUSY_S)
    channel = Channel(sock, HEADER_SIZE, 1)
    try:
        ident, command, *_ = channel.receive()
        channel.refuse(ident, command, errno.EBUSY)
    except (VfioUserError, OSError):
        pass
    finally:
        channel.close()

"""The control socket: the daemon's side, a thread a connection, and the client's side."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import structlog

from gpuvm.hypervisor import HypervisorError
from gpuvm.vmm.daemon.errors import DaemonError
from gpuvm.vmm.daemon.protocol import (
    MAX_LINE,
    Request,
    decode_answer,
    decode_request,
    encode_error,
    encode_result,
)
from gpuvm.vmm.vfio_user.listener import Listener

log = structlog.get_logger(__name__)

MAX_CLIENTS = 16
_CHUNK = 1 << 12
_RETRY_S = 0.1
_SEND_S = 5.0

T = TypeVar("T")


class ControlServer:
    """Listen on the control socket.

    Parameters
    ----------
    path : str
    handle : callable
        Does a request and returns what to answer; `DaemonError` and `HypervisorError` are answered as errors.

    Raises
    ------
    DaemonError
        If the socket cannot be made, or a daemon listens there.
    """

    def __init__(self, path: str, handle: Callable[[Request], Any]) -> None:
        self._handle = handle
        self._closing = False
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        try:
            self._listener = Listener(Path(path))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                reason = "a daemon that runs has it; stop that one or choose another path"
            else:
                reason = error.strerror or str(error)
            raise DaemonError(f"the control socket {path} must be free: {reason}") from None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Answer from now on."""
        self._thread = threading.Thread(target=self._accept, name="gpuvm control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish the requests that are being done, then end all connections and remove the socket."""
        self._closing = True
        self._listener.shut_down()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            clients = dict(self._clients)
        for sock in clients:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RD)
        for thread in clients.values():
            if thread is not threading.current_thread():
                thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing:
            try:
                sock, _ = self._listener.socket.accept()
            except OSError as error:
                if self._closing or error.errno in (errno.EINVAL, errno.EBADF):
                    return
                time.sleep(_RETRY_S)
                continue
            with self._lock:
                if len(self._clients) >= MAX_CLIENTS:
                    with contextlib.suppress(OSError):
                        sock.send(
                            encode_error(f"at most {MAX_CLIENTS} may be connected to the daemon at a time")
                        )
                    sock.close()
                    continue
                thread = threading.Thread(
                    target=self._serve, args=(sock,), name="gpuvm control client", daemon=True
                )
                self._clients[sock] = thread
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        pending = b""
        try:
            sock.settimeout(None)
            while not self._closing:
                line, end, rest = pending.partition(b"\n")
                if end:
                    pending = rest
                    if line.strip():
                        sock.settimeout(_SEND_S)
                        sock.sendall(self._answer(line))
                        sock.settimeout(None)
                    continue
                if len(pending) > MAX_LINE:
                    sock.sendall(encode_error(f"a request must be a line of at most {MAX_LINE} bytes"))
                    return
                more = sock.recv(_CHUNK)
                if not more:
                    return
                pending += more
        except OSError:
            pass
        finally:
            with self._lock:
                self._clients.pop(sock, None)
            sock.close()

    def _answer(self, line: bytes) -> bytes:
        try:
            request = decode_request(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return encode_error(f"a request must be a JSON object of the protocol: {error}")
        try:
            return encode_result(self._handle(request))
        except (DaemonError, HypervisorError) as error:
            return encode_error(str(error))
        except Exception:
            log.exception("a control request failed", request=type(request).__name__)
            return encode_error("the daemon failed at this request; its log says why")


class ControlClient:
    """Talk to a daemon.

    Raises
    ------
    DaemonError
        From every method, if there is no daemon, it does not answer, or it says no.
    """

    def __init__(self, path: str, timeout_s: float = 30.0) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._timeout_s = timeout_s
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            reason = error.strerror or str(error)
            raise DaemonError(
                f"a daemon must listen on {path} ({reason}); start one with gpuvm serve, or name its socket with "
                "--socket"
            ) from None
        self._pending = b""

    def ask(self, request: Request, kind: type[T]) -> T:
        """Send a request and return its result as a `kind`."""
        try:
            self._socket.sendall(msgspec.json.encode(request) + b"\n")
            while b"\n" not in self._pending:
                more = self._socket.recv(1 << 16)
                if not more:
                    raise DaemonError(f"the daemon on {self.path} must answer, and closed the connection")
                self._pending += more
        except TimeoutError:
            raise DaemonError(
                f"the daemon on {self.path} must answer within {self._timeout_s:g} s, and did not"
            ) from None
        except OSError as error:
            raise DaemonError(f"the daemon on {self.path} must answer: {error.strerror}") from None
        line, _, self._pending = self._pending.partition(b"\n")
        try:
            answer = decode_answer(line)
            if answer.error is not None:
                raise DaemonError(answer.error)
            return msgspec.json.decode(answer.result, type=kind)
        except msgspec.DecodeError as error:
            raise DaemonError(f"the daemon on {self.path} must answer in the protocol: {error}") from None

    def closed(self, timeout_s: float = 0.2) -> bool:
        """Wait a moment for the daemon to close the connection."""
        ready, _, _ = select.select([self._socket], [], [], timeout_s)
        try:
            return bool(ready) and not self._socket.recv(1)
        except OSError:
            return True

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

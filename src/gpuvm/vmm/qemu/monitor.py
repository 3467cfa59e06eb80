"""QEMU's machine protocol (QMP): one command at a time over a connected socket; events are passed over."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from typing import Any

from gpuvm.vmm.errors import QemuError

_TIMEOUT_S = 30


class Monitor:
    """The client's side.

    Parameters
    ----------
    sock : socket
        Connected; closed with this object.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.settimeout(_TIMEOUT_S)
        self._lines = sock.makefile("rb")
        self._lock = threading.Lock()
        self._ready = False

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Run a command; what it returns.

        Raises
        ------
        QemuError
            If QEMU refuses it, or is gone.
        """
        with self._lock:
            try:
                if not self._ready:
                    self._read()  # the greeting
                    self._ask("qmp_capabilities", {})
                    self._ready = True
                return self._ask(command, arguments or {})
            except (OSError, ValueError) as error:
                raise QemuError(f"QEMU's monitor must answer {command}, but: {error}") from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
            self._sock.close()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        if not line:
            raise OSError("it is gone")
        got: dict[str, Any] = json.loads(line)
        return got

    def _ask(self, command: str, arguments: Mapping[str, Any]) -> Any:
        self._sock.sendall(json.dumps({"execute": command, "arguments": dict(arguments)}).encode() + b"\n")
        while True:
            got = self._read()
            if "return" in got:
                return got["return"]
            if "error" in got:
                raise QemuError(f"QEMU refuses {command}: {got['error'].get('desc', 'without a reason')}")

"""Frames between a guest's agent and the host, over one virtio-serial port: who says what, and how it is cut.

Both sides use this file. A frame is a kind, the job that it belongs to and a payload.
"""

from __future__ import annotations

import enum
import struct

HEADER = struct.Struct("<BxHII")
"""Kind, a check word, job, payload's bytes."""

CHECK = 0x4D56
LARGEST = 1 << 20
"""Most bytes of a payload."""

PORT = "org.gpuvm.agent"
"""Name of the virtio-serial port."""


class Kind(enum.IntEnum):
    """What a frame is; JSON payloads are marked."""

    # host to guest
    RUN = 1  # JSON: {"command": str or [str], "env": {}, "cwd": str}
    INPUT = 2  # bytes of the job's standard input; empty: its end
    SIGNAL = 3  # JSON: number
    PUT = 4  # JSON: {"path": str, "mode": int}; then DATA
    GET = 5  # JSON: {"path": str}
    LOAD = 6  # JSON: {"module": str, "options": str}
    POWER = 7  # JSON: "off", "reboot", "crash"
    # both ways
    DATA = 8  # bytes of a file; empty: its end
    # guest to host
    HELLO = 16  # JSON: {"kernel": str, "uptime": float, "boot": str}
    LOADED = 17  # JSON: {"status": int, "error": str, "before": float, "after": float, "nodes": [str]}
    STDOUT = 18
    STDERR = 19
    EXIT = 20  # JSON: {"status": int}
    DONE = 21  # JSON: {"error": str}
    KERNEL = 22  # a record of /dev/kmsg as it is


class FrameError(Exception):
    """The other side sends what is no frame."""


class Splitter:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[tuple[Kind, int, bytes]]:
        """Take bytes; the frames (kind, job, payload) that are whole now.

        Raises
        ------
        FrameError
            If they are no frames.
        """
        self._rest += data
        found = []
        at = 0
        while len(self._rest) - at >= HEADER.size:
            kind, check, job, size = HEADER.unpack_from(self._rest, at)
            if check != CHECK or size > LARGEST or kind not in _KINDS:
                raise FrameError(f"a frame must begin with its header, got kind {kind}, {size} bytes")
            if len(self._rest) - at - HEADER.size < size:
                break
            at += HEADER.size
            found.append((Kind(kind), job, bytes(self._rest[at : at + size])))
            at += size
        del self._rest[:at]
        return found


def frame(kind: Kind, job: int, payload: bytes = b"") -> bytes:
    """The bytes of a frame."""
    return HEADER.pack(kind, CHECK, job, len(payload)) + payload


_KINDS = frozenset(Kind)

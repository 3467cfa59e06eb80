"""The JSON of capabilities that both sides of a VERSION exchange send."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from gpuvm.vmm.vfio_user.errors import InvalidRequest
from gpuvm.vmm.vfio_user.protocol import DEFAULT_MAX_FDS, DEFAULT_MAX_TRANSFER, PAGE

MAX_JSON = 16384
"""Bytes of JSON that are looked at."""

MOST_FDS = 1024
"""More descriptors in one message than any kernel passes (SCM_MAX_FD is 253)."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What one side can take.

    Attributes
    ----------
    max_fds : int
        Descriptors in one message.
    max_transfer : int
        Bytes of data in one message.
    max_maps : int
        DMA maps at a time.
    write_multiple : bool
        Whether several writes may share one message.
    """

    max_fds: int = DEFAULT_MAX_FDS
    max_transfer: int = DEFAULT_MAX_TRANSFER
    max_maps: int = 65535
    write_multiple: bool = False

    def encode(self) -> bytes:
        """NUL-terminated JSON."""
        offered: dict[str, Any] = {
            "max_msg_fds": self.max_fds,
            "max_data_xfer_size": self.max_transfer,
            "max_dma_maps": self.max_maps,
            "pgsizes": PAGE,
        }
        if self.write_multiple:
            offered["write_multiple"] = True
        return json.dumps({"capabilities": offered}).encode() + b"\0"


def decode(data: bytes) -> Capabilities:
    """Read the JSON of a peer; nothing at all and unknown members are fine.

    Raises
    ------
    InvalidRequest
        If it is not NUL-terminated JSON of objects, or a known member has a value that makes no sense.
    """
    if not data:
        return Capabilities()
    if len(data) > MAX_JSON:
        raise InvalidRequest(f"the capabilities may take {MAX_JSON} bytes, {len(data)} came")
    if not data.endswith(b"\0"):
        raise InvalidRequest("the JSON of the capabilities must end in a NUL byte")
    try:
        top = json.loads(data[:-1].decode())
    except (ValueError, RecursionError):
        raise InvalidRequest("the capabilities must be JSON") from None
    offered = _object(top, "the JSON of a VERSION message").get("capabilities", {})
    _object(offered, "'capabilities'")
    migration = _object(offered.get("migration", {}), "'migration'")
    page = _integer(migration, "pgsize", PAGE, PAGE, 1 << 63)
    if page & page - 1:
        raise InvalidRequest(f"'pgsize' must be a power of two, got {page}")
    twin = _object(offered.get("twin_socket", {}), "'twin_socket'")
    _boolean(twin, "supported")
    return Capabilities(
        _integer(offered, "max_msg_fds", DEFAULT_MAX_FDS, 0, MOST_FDS),
        _integer(offered, "max_data_xfer_size", DEFAULT_MAX_TRANSFER, 8, 1 << 32),
        _integer(offered, "max_dma_maps", 65535, 0, 1 << 32),
        _boolean(offered, "write_multiple"),
    )


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{what} must be a JSON object")
    return value


def _integer(values: dict[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = values.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(f"{name!r} must be an integer from {least} to {most}")
    return value


def _boolean(values: dict[str, Any], name: str) -> bool:
    value = values.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name!r} must be true or false")
    return value

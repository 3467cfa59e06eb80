"""What can go wrong between a client and a server, by who can do something about it."""

from __future__ import annotations

import errno
import os


class VfioUserError(Exception):
    """Any failure of this package."""


class RequestError(VfioUserError):
    """A request that cannot be met; the peer gets `errno` in an error reply and the session goes on.

    Attributes
    ----------
    errno : int
        Linux error number.
    """

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = number


class InvalidRequest(RequestError):
    """A request whose fields make no sense (EINVAL)."""

    def __init__(self, sentence: str) -> None:
        super().__init__(errno.EINVAL, sentence)


class RemoteError(VfioUserError):
    """The peer answered a request with an error.

    Attributes
    ----------
    errno : int
        Linux error number.
    """

    def __init__(self, command: str, number: int) -> None:
        super().__init__(
            f"the server must accept {command}; it answered {errno.errorcode.get(number, number)} "
            f"({os.strerror(number)})"
        )
        self.errno = number


class ProtocolError(VfioUserError):
    """The peer does not speak the protocol; the connection is of no further use."""


class Disconnected(VfioUserError):
    """The connection is gone."""


class DmaFault(VfioUserError):
    """A bus address that the client does not let the device reach that way.

    Attributes
    ----------
    address : int
        The first such bus address.
    """

    def __init__(self, address: int, reason: str) -> None:
        super().__init__(f"bus address {address:#x} must be reachable by DMA; {reason}")
        self.address = address

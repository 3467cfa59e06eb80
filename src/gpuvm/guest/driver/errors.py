"""What can go wrong in the kernel driver, in kinds that a layer above can tell apart."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class DriverError(Exception):
    """The driver cannot do what was asked."""


class NoDevice(DriverError):
    """The machine has no GPU that this driver knows."""


class OutOfMemory(DriverError):
    """VRAM, RAM, address space or channels are used up."""


class DeviceTimeout(DriverError):
    """The device did not answer within the driver's patience."""


class FaultKind(enum.Enum):
    """Why the GPU stopped a channel."""

    ILLEGAL_ADDRESS = enum.auto()
    READ_ONLY_ADDRESS = enum.auto()
    MISALIGNED_ADDRESS = enum.auto()
    OUT_OF_RANGE_ADDRESS = enum.auto()
    INVALID_ADDRESS_SPACE = enum.auto()
    ILLEGAL_INSTRUCTION = enum.auto()
    INVALID_PC = enum.auto()
    STACK = enum.auto()
    TIMEOUT = enum.auto()
    BAD_METHOD = enum.auto()
    TRAP = enum.auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """One decoded channel fault.

    Attributes
    ----------
    address : int
        GPU virtual address of the access, 0 if the fault has none.
    detail : str
        One sentence for people.
    """

    kind: FaultKind
    address: int
    detail: str


class ChannelFault(DriverError):
    """The channel was stopped by a GPU fault and was torn down.

    Attributes
    ----------
    fault : Fault
    """

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.detail)
        self.fault = fault

"""The protocol's records, declared once: fields and sizes here, codecs generated from them, and one table
that says which records a message is made of.

A record is little-endian fields without padding. `Codec` turns its annotations into a precompiled
`struct.Struct`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

from gpuvm.vmm.vfio_user.errors import InvalidRequest
from gpuvm.vmm.vfio_user.protocol import Command

U16 = Annotated[int, "H"]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q"]


@dataclass(frozen=True, slots=True)
class Header:
    """Before every message; `size` counts it."""

    id: U16
    command: U16
    size: U32
    flags: U32
    error: U32


@dataclass(frozen=True, slots=True)
class Version:
    """Then NUL-terminated JSON, or nothing."""

    major: U16
    minor: U16


@dataclass(frozen=True, slots=True)
class DmaMap:
    argsz: U32
    flags: U32
    offset: U64
    address: U64
    size: U64


@dataclass(frozen=True, slots=True)
class DmaUnmap:
    argsz: U32
    flags: U32
    address: U64
    size: U64


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Behind DmaUnmap when dirty pages are asked for; then `size` bytes."""

    page_size: U64
    size: U64


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    argsz: U32
    flags: U32
    regions: U32
    irqs: U32


@dataclass(frozen=True, slots=True)
class RegionInfo:
    argsz: U32
    flags: U32
    index: U32
    cap_offset: U32
    size: U64
    offset: U64


@dataclass(frozen=True, slots=True)
class SparseCap:
    """linux/vfio.h vfio_region_info_cap_sparse_mmap; then `areas` of SparseArea."""

    id: U16
    version: U16
    next: U32
    areas: U32
    reserved: U32


@dataclass(frozen=True, slots=True)
class SparseArea:
    offset: U64
    size: U64


@dataclass(frozen=True, slots=True)
class RegionIoFds:
    argsz: U32
    flags: U32
    index: U32
    count: U32


@dataclass(frozen=True, slots=True)
class IrqInfo:
    argsz: U32
    flags: U32
    index: U32
    count: U32


@dataclass(frozen=True, slots=True)
class IrqSet:
    """Then `count` bytes if the flags say DATA_BOOL."""

    argsz: U32
    flags: U32
    index: U32
    start: U32
    count: U32


@dataclass(frozen=True, slots=True)
class RegionAccess:
    """Then `count` bytes in a write and in the reply to a read."""

    offset: U64
    region: U32
    count: U32


@dataclass(frozen=True, slots=True)
class DmaAccess:
    """Then `count` bytes in a write and in the reply to a read."""

    address: U64
    count: U64


@dataclass(frozen=True, slots=True)
class WriteCount:
    """Then `count` of WriteEntry."""

    count: U64


@dataclass(frozen=True, slots=True)
class WriteEntry:
    """One write of up to 8 bytes; `data` holds them from its low end."""

    offset: U64
    region: U32
    count: U32
    data: U64


@dataclass(frozen=True, slots=True)
class DeviceFeature:
    """Then the feature's own data."""

    argsz: U32
    flags: U32


R = TypeVar("R")


class Codec(Generic[R]):
    """Packs and unpacks one kind of record.

    Attributes
    ----------
    size : int
        Bytes.
    """

    def __init__(self, record: type[R]) -> None:
        hints = get_type_hints(record, include_extras=True)
        self.record = record
        self.fields: tuple[tuple[str, str], ...] = tuple(
            (name, hint.__metadata__[0]) for name, hint in hints.items()
        )
        self.struct = struct.Struct("<" + "".join(code for _, code in self.fields))
        self.size = self.struct.size

    @property
    def name(self) -> str:
        return self.record.__name__

    def pack(self, record: R) -> bytes:
        """Bytes of a record."""
        return self.struct.pack(*[getattr(record, name) for name, _ in self.fields])

    def unpack(self, data: bytes | bytearray | memoryview, offset: int = 0) -> R:
        """The record at `offset`.

        Raises
        ------
        InvalidRequest
            If the data ends before the record does.
        """
        if len(data) - offset < self.size:
            there = max(len(data) - offset, 0)
            raise InvalidRequest(f"{self.name} takes {self.size} bytes at {offset}, {there} are there")
        return self.record(*self.struct.unpack_from(data, offset))


HEADER = Codec(Header)
VERSION = Codec(Version)
DMA_MAP = Codec(DmaMap)
DMA_UNMAP = Codec(DmaUnmap)
BITMAP = Codec(Bitmap)
DEVICE_INFO = Codec(DeviceInfo)
REGION_INFO = Codec(RegionInfo)
SPARSE_CAP = Codec(SparseCap)
SPARSE_AREA = Codec(SparseArea)
REGION_IO_FDS = Codec(RegionIoFds)
IRQ_INFO = Codec(IrqInfo)
IRQ_SET = Codec(IrqSet)
REGION_ACCESS = Codec(RegionAccess)
DMA_ACCESS = Codec(DmaAccess)
WRITE_COUNT = Codec(WriteCount)
WRITE_ENTRY = Codec(WriteEntry)
DEVICE_FEATURE = Codec(DeviceFeature)

CODECS: tuple[Codec[Any], ...] = (
    HEADER,
    VERSION,
    DMA_MAP,
    DMA_UNMAP,
    BITMAP,
    DEVICE_INFO,
    REGION_INFO,
    SPARSE_CAP,
    SPARSE_AREA,
    REGION_IO_FDS,
    IRQ_INFO,
    IRQ_SET,
    REGION_ACCESS,
    DMA_ACCESS,
    WRITE_COUNT,
    WRITE_ENTRY,
    DEVICE_FEATURE,
)


@dataclass(frozen=True, slots=True)
class Message:
    """What one command is made of.

    Attributes
    ----------
    command : Command
    request, reply : Codec or None
        The record behind the header; None: none.
    request_tail, reply_tail : str
        What follows the record: data, JSON, capabilities; empty: nothing.
    fds : str
        Whose descriptors it may carry: "request", "reply" or neither.
    sender : str
        "client" or "server".
    served : bool
        Whether this server does it; a command that is known and not served is answered ENOTSUP.
    """

    command: Command
    request: Codec[Any] | None = None
    reply: Codec[Any] | None = None
    request_tail: str = ""
    reply_tail: str = ""
    fds: str = ""
    sender: str = "client"
    served: bool = True


MESSAGES: dict[int, Message] = {
    message.command.value: message
    for message in (
        Message(Command.VERSION, VERSION, VERSION, "JSON", "JSON"),
        Message(Command.DMA_MAP, DMA_MAP, None, fds="request"),
        Message(Command.DMA_UNMAP, DMA_UNMAP, DMA_UNMAP, "bitmap"),
        Message(Command.DEVICE_GET_INFO, DEVICE_INFO, DEVICE_INFO),
        Message(
            Command.DEVICE_GET_REGION_INFO,
            REGION_INFO,
            REGION_INFO,
            "room",
            "capabilities",
            fds="reply",
        ),
        Message(Command.DEVICE_GET_REGION_IO_FDS, REGION_IO_FDS, REGION_IO_FDS, "room"),
        Message(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO, IRQ_INFO),
        Message(Command.DEVICE_SET_IRQS, IRQ_SET, None, "booleans", fds="request"),
        Message(Command.REGION_READ, REGION_ACCESS, REGION_ACCESS, "", "data"),
        Message(Command.REGION_WRITE, REGION_ACCESS, REGION_ACCESS, "data"),
        Message(Command.DMA_READ, DMA_ACCESS, DMA_ACCESS, "", "data", sender="server"),
        Message(Command.DMA_WRITE, DMA_ACCESS, DMA_ACCESS, "data", sender="server"),
        Message(Command.DEVICE_RESET),
        Message(Command.DIRTY_PAGES, served=False),
        Message(Command.REGION_WRITE_MULTI, WRITE_COUNT, None, "entries"),
        Message(Command.DEVICE_FEATURE, DEVICE_FEATURE, DEVICE_FEATURE, "data", "data", served=False),
        Message(Command.MIG_DATA_READ, served=False),
        Message(Command.MIG_DATA_WRITE, served=False),
    )
}

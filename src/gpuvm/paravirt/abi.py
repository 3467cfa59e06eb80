"""The call device of a para-virtual GPU and its operations, declared once.

The device is one more BAR of the virtual GPU: it names a call area in the guest's RAM, 64 slots of 4 KiB, and
has a register whose write performs the call in a slot. A slot holds the operation in word 0 and its arguments
from byte 8 on; the hypervisor puts the result into word 0, and what the operation returns at byte 8.

The original's device was BAR4; here register 4 of the config space is the upper half of the 64-bit BAR3, so
it is BAR5.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

CALL_BAR = 5
CALL_BAR_SIZE = 0x1000
SIGNATURE = 0x4D565047
"""What the first register reads: "GPVM"."""
VERSION = 1
SLOTS = 64
SLOT_SIZE = 0x1000
AREA_SIZE = SLOTS * SLOT_SIZE
ARGUMENTS = 8
"""Byte of a slot where arguments, and afterwards results, begin."""
SG_ENTRIES = 128
"""Most entries of one scatter-gather call."""
BATCH_LIMIT = 64
"""Most operations of one batch."""
RUN_LIMIT = 240
"""Most runs of one HOST_MAP."""
SPACE_LIMIT = 1 << 16
BUFFER_LIMIT = 1 << 16
"""Numbers of address spaces and buffers are below these."""


class Register(IntEnum):
    """32-bit registers of the call device."""

    SIGNATURE = 0x00
    VERSION = 0x04
    OPERATIONS_LOW = 0x08
    """Bit n: operation n is offered."""
    OPERATIONS_HIGH = 0x0C
    AREA_LOW = 0x10
    """Bus address of the call area, a multiple of 4 KiB."""
    AREA_HIGH = 0x14
    SLOTS = 0x18
    CALL = 0x1C
    """A write of n performs the call in slot n."""
    SHARED_LOW = 0x20
    """Bus address of the shared page of a split driver, a multiple of 4 KiB."""
    SHARED_HIGH = 0x24
    KICK = 0x28
    """A write of n says that channel n has new work, for when the shared page asks for it."""
    WAITS = 0x2C
    """1 while a thread of a split driver sleeps until work is done: completion interrupts are wanted."""


class Shared(IntEnum):
    """Words of the shared page of a split driver. Each word has one writer."""

    PUT = 0
    """Guest: GP_PUT of channel n at word n."""
    ACTIVE = 128
    """Hypervisor: not 0 at word 128 + n while it will look at PUT of channel n again without a kick."""
    COMPLETIONS = 256
    """Hypervisor: grows before each completion interrupt."""
    FAULTS = 257
    """Hypervisor: grows before each interrupt that the registers of BAR0 explain."""


SHARED_SIZE = 0x1000
CHANNEL_LIMIT = 128


class Result(IntEnum):
    """What word 0 of a slot says after the call. Nothing has been changed if it is not OK."""

    OK = 0
    UNKNOWN_OPERATION = 1
    BAD_ARGUMENT = 2
    BAD_ID = 3
    BAD_ADDRESS = 4
    NO_MEMORY = 5
    BUSY = 6


RESULT_TEXT = {
    Result.OK: "done",
    Result.UNKNOWN_OPERATION: "this virtual GPU does not offer the operation",
    Result.BAD_ARGUMENT: "a number is out of its range",
    Result.BAD_ID: "no such object of this virtual machine, or one of another kind",
    Result.BAD_ADDRESS: "an entry names memory that is not the virtual machine's own",
    Result.NO_MEMORY: "the quota of page-table memory is used up",
    Result.BUSY: "the object is still in use",
}


class Kind(IntEnum):
    """What MEM_ALLOC makes."""

    DIRECTORY = 0
    BIG_TABLE = 1
    SMALL_TABLE = 2


class Target(IntEnum):
    """Whose page directory SET_PGD sets."""

    CHANNEL = 0
    BAR1 = 1
    BAR3 = 3


class Op(IntEnum):
    """Operations, by the number in word 0 of a slot."""

    SET_PGD = 1
    MAP_PGT = 2
    MAP = 3
    VM_FLUSH = 4
    MEM_ALLOC = 5
    MEM_FREE = 6
    BAR3_PGT = 7
    MAP_BATCH = 8
    MAP_SG_BATCH = 9
    UNMAP_BATCH = 10
    MAP_PGT_BATCH = 11
    BATCH = 16
    INFO = 17
    SPACE_NEW = 18
    SPACE_FREE = 19
    BUFFER_NEW = 20
    BUFFER_FREE = 21
    BUFFER_MAP = 22
    HOST_MAP = 23
    UNMAP = 24
    CHANNEL_NEW = 25
    CHANNEL_FREE = 26


@dataclass(frozen=True, slots=True)
class Field:
    """One argument or result: its name, "u32" or "u64", what it means."""

    name: str
    type: str
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of the table.

    Attributes
    ----------
    arguments : tuple of Field
        In the slot from byte 8 on, packed, little-endian.
    results : tuple of Field
        Likewise, after the call.
    array : str
        What follows the arguments as `count` 64-bit (or pairs of 64-bit) words, "" for nothing.
    array_words : int
        64-bit words of one element.
    """

    op: Op
    text: str
    arguments: tuple[Field, ...]
    results: tuple[Field, ...] = ()
    array: str = ""
    array_words: int = 0


_CODES = {"u32": "I", "u64": "Q"}


def _struct(fields: tuple[Field, ...]) -> struct.Struct:
    return struct.Struct("<" + "".join(_CODES[field.type] for field in fields))


_PAD = Field("pad", "u32", "0")
_SPACE = Field("space", "u32", f"number of an address space, chosen by the guest, below {SPACE_LIMIT}")
_BUFFER = Field("buffer", "u32", f"number of a buffer, chosen by the guest, below {BUFFER_LIMIT}")
_CHANNEL = Field("channel", "u32", "number of a channel")
_READ_ONLY = Field("read_only", "u32", "1: the GPU may not write")
_DIRECTORY = Field("directory", "u64", "id of a page directory")
_TABLE = Field("table", "u64", "id of a table")
_FIRST = Field("first", "u32", "index of the first entry")
_COUNT = Field("count", "u32", "entries")
_INDEX = Field("index", "u32", "entry of the directory: 128 MiB of address space each")
_BIG = Field("big", "u64", "id of its big-page table, 0 for none")
_SMALL = Field("small", "u64", "id of its small-page table, 0 for none")

OPERATIONS: dict[Op, Operation] = {
    row.op: row
    for row in (
        Operation(
            Op.SET_PGD,
            "set the page directory of a channel, of BAR1 or of BAR3",
            (
                Field("target", "u32", "0 a channel, 1 BAR1, 3 BAR3"),
                Field("channel", "u32", "number of the channel, 0 for a BAR"),
                Field("directory", "u64", "id of a page directory, 0 for none"),
            ),
        ),
        Operation(
            Op.MAP_PGT,
            "set a directory entry",
            (_DIRECTORY, _INDEX, _PAD, _BIG, _SMALL),
        ),
        Operation(
            Op.MAP,
            "set one entry of a table",
            (
                _TABLE,
                Field("index", "u32", "index of the entry"),
                _PAD,
                Field("entry", "u64", "the entry as the hardware has it, with the guest's address"),
            ),
        ),
        Operation(
            Op.VM_FLUSH,
            "make the GPU forget what it cached of an address space",
            (_DIRECTORY,),
        ),
        Operation(
            Op.MEM_ALLOC,
            "make a directory or table; the hypervisor owns its memory",
            (Field("kind", "u32", "0 directory, 1 table of 128 KiB pages, 2 table of 4 KiB pages"),),
            (Field("id", "u64", "its id, meaningful to this virtual machine only"),),
        ),
        Operation(
            Op.MEM_FREE,
            "free a directory that nothing has set, or a table that no directory names",
            (Field("id", "u64", "what MEM_ALLOC returned"),),
        ),
        Operation(
            Op.BAR3_PGT,
            "give BAR3 a small-page table without a directory of the guest's",
            (Field("table", "u64", "id of a small-page table, 0 for none"),),
        ),
        Operation(
            Op.MAP_BATCH,
            "set entries that follow each other in memory: each names the next page",
            (_TABLE, _FIRST, _COUNT, Field("entry", "u64", "the first entry")),
        ),
        Operation(
            Op.MAP_SG_BATCH,
            f"set entries that are scattered in memory, at most {SG_ENTRIES} a call",
            (_TABLE, _FIRST, _COUNT),
            array="entries",
            array_words=1,
        ),
        Operation(
            Op.UNMAP_BATCH,
            "clear entries",
            (_TABLE, _FIRST, _COUNT),
        ),
        Operation(
            Op.MAP_PGT_BATCH,
            f"set directory entries that follow each other, at most {SG_ENTRIES} a call",
            (_DIRECTORY, _FIRST, _COUNT),
            array="pairs of the ids of the big-page and the small-page table",
            array_words=2,
        ),
        Operation(
            Op.BATCH,
            "perform several operations in order, up to the first that fails; its result is the call's",
            (Field("count", "u32", f"operations, at most {BATCH_LIMIT}"), _PAD),
            (Field("done", "u32", "operations that succeeded"),),
            array="records: operation and bytes of its arguments (32 bits each), the arguments padded to 8 bytes",
        ),
        Operation(
            Op.INFO,
            "what the virtual GPU is",
            (),
            (
                Field("memory", "u64", "bytes of video memory"),
                Field("context", "u32", "bytes of a graphics context"),
                Field("copy_engine", "u32", "1 if there is a copy engine"),
                Field("subfifos", "u32", "PBDMA units"),
                Field("clusters", "u32", "GPCs"),
                Field("shape", "u64", "multiprocessors of each GPC, 4 bits each"),
                Field("channels", "u32", "channels: numbers below this"),
            ),
        ),
        Operation(Op.SPACE_NEW, "make an address space", (_SPACE,)),
        Operation(Op.SPACE_FREE, "free an address space that no channel has, and its mappings", (_SPACE,)),
        Operation(
            Op.BUFFER_NEW,
            "allocate video memory",
            (_BUFFER, Field("pages", "u32", "pages of 128 KiB")),
        ),
        Operation(Op.BUFFER_FREE, "free video memory that is mapped nowhere", (_BUFFER,)),
        Operation(
            Op.BUFFER_MAP,
            "map a buffer with 128 KiB pages",
            (_SPACE, _BUFFER, Field("address", "u64", "GPU virtual address"), _READ_ONLY, _PAD),
        ),
        Operation(
            Op.HOST_MAP,
            "map the virtual machine's own memory with 4 KiB pages",
            (_SPACE, _COUNT, Field("address", "u64", "GPU virtual address"), _READ_ONLY, _PAD),
            array="runs: bus address, bytes",
            array_words=2,
        ),
        Operation(
            Op.UNMAP,
            "take away mappings; every one that the range touches must lie in it",
            (_SPACE, _PAD, Field("address", "u64", "GPU virtual address"), Field("size", "u64", "bytes")),
        ),
        Operation(
            Op.CHANNEL_NEW,
            "make a channel and let it run",
            (
                _CHANNEL,
                _SPACE,
                Field("ring", "u64", "GPU virtual address of the GPFIFO"),
                Field("order", "u32", "log2 of the GPFIFO's entries"),
                _PAD,
                Field("context", "u64", "GPU virtual address of memory for the graphics context"),
            ),
        ),
        Operation(
            Op.CHANNEL_FREE,
            "take a channel off the GPU and free it",
            (_CHANNEL, Field("kill", "u32", "0: BUSY while an engine runs it; 1: end its work")),
        ),
    )
}
"""Every operation by its number."""

ARGUMENT_LAYOUTS = {op: _struct(row.arguments) for op, row in OPERATIONS.items()}
RESULT_LAYOUTS = {op: _struct(row.results) for op, row in OPERATIONS.items()}

NAIVE = frozenset(
    (Op.SET_PGD, Op.MAP_PGT, Op.MAP, Op.VM_FLUSH, Op.MEM_ALLOC, Op.MEM_FREE, Op.BAR3_PGT)
)
"""One entry a call."""
MULTICALL = NAIVE | {Op.MAP_BATCH, Op.MAP_SG_BATCH, Op.UNMAP_BATCH, Op.MAP_PGT_BATCH}
"""Entries in batches."""
SPLIT = frozenset(op for op in Op if op >= Op.BATCH)
"""A split driver: buffers, address spaces and channels are the hypervisor's."""

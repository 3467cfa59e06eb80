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
            (_DIRECTORY, _INDEX, Field("pad", "u32", "0"), _BIG, _SMALL),
        ),
        Operation(
            Op.MAP,
            "set one entry of a table",
            (
                _TABLE,
                Field("index", "u32", "index of the entry"),
                Field("pad", "u32", "0"),
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

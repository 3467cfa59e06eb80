"""Pushbuffer words: Fermi method headers, and the methods this driver sends, by class."""

from __future__ import annotations

from collections.abc import Iterable

SUBCHANNEL_COMPUTE, SUBCHANNEL_M2MF, SUBCHANNEL_COPY = 1, 2, 4
CLASS_COMPUTE, CLASS_M2MF, CLASS_COPY0 = 0x90C0, 0x9039, 0x90B5
ENGINE_COPY0 = 4 << 16

INCREMENT, NON_INCREMENT, IMMEDIATE, INCREMENT_ONCE = 1 << 29, 3 << 29, 4 << 29, 5 << 29
MAX_COUNT = 0x1FFF


class Host:
    """Methods below 0x100: PFIFO's own."""

    OBJECT = 0x00
    SEMAPHORE_ADDRESS_HIGH = 0x10
    SEMAPHORE_SEQUENCE = 0x18
    SEMAPHORE_TRIGGER = 0x1C
    NON_STALL_INTERRUPT = 0x20

    ACQUIRE_EQUAL, RELEASE, ACQUIRE_GEQUAL = 1, 2, 4
    ACQUIRE_SWITCH = 1 << 12
    RELEASE_SHORT = 1 << 24


class M2mf:
    """Class 0x9039."""

    OFFSET_OUT_HIGH = 0x238
    EXEC = 0x300
    DATA = 0x304
    OFFSET_IN_HIGH = 0x30C
    PITCH_IN = 0x314
    LINE_LENGTH_IN = 0x31C

    EXEC_LINEAR = 0x100110
    EXEC_PUSH_LINEAR = 0x100111


class Copy:
    """Class 0x90b5."""

    EXEC = 0x300
    SRC_ADDRESS_HIGH = 0x30C
    X_COUNT = 0x324

    EXEC_LINEAR = 0x110


class Compute:
    """Class 0x90c0."""

    NOP = 0x100
    SERIALIZE = 0x110
    LOCAL_POS_ALLOC = 0x204
    SHARED_BASE = 0x214
    MEM_BARRIER = 0x21C
    GRIDDIM_YX = 0x238
    SHARED_SIZE = 0x24C
    THREADS_ALLOC = 0x250
    BARRIER_ALLOC = 0x254
    UNK29C_BEGIN = 0x29C
    UNK2A0 = 0x2A0
    CP_GPR_ALLOC = 0x2C0
    GLOBAL_BASE_ENABLE = 0x2C4
    GLOBAL_BASE = 0x2C8
    CACHE_SPLIT = 0x308
    UNK360 = 0x360
    LAUNCH = 0x368
    UNK36C = 0x36C
    BLOCKDIM_YX = 0x3AC
    CP_START_ID = 0x3B4
    MP_LIMIT = 0x758
    LOCAL_BASE = 0x77C
    GRIDID = 0x780
    TEMP_ADDRESS_HIGH = 0x790
    UNKA04_END = 0xA04
    UNKA08 = 0xA08
    CALL_LIMIT_LOG = 0xD64
    CODE_ADDRESS_HIGH = 0x1608
    CB_BIND = 0x1694
    FLUSH = 0x1698
    QUERY_ADDRESS_HIGH = 0x1B00
    CB_SIZE = 0x2380
    CB_POS = 0x238C
    CB_DATA = 0x2390

    FLUSH_CODE, FLUSH_GLOBAL, FLUSH_CONSTANTS = 0x0001, 0x0110, 0x1000
    LAUNCH_TRIGGER = 0x1000


def increment(subchannel: int, method: int, *data: int) -> list[int]:
    """Words that send `data` to consecutive methods."""
    return [INCREMENT | len(data) << 16 | subchannel << 13 | method >> 2, *data]


def repeat(subchannel: int, method: int, data: Iterable[int]) -> list[int]:
    """Words that send all of `data` to one method, in as many headers as it takes."""
    words = list(data)
    out: list[int] = []
    for at in range(0, len(words), MAX_COUNT):
        piece = words[at : at + MAX_COUNT]
        out.append(NON_INCREMENT | len(piece) << 16 | subchannel << 13 | method >> 2)
        out += piece
    return out


def immediate(subchannel: int, method: int, value: int) -> int:
    """One word that sends a value of up to 13 bits."""
    return IMMEDIATE | value << 16 | subchannel << 13 | method >> 2


def semaphore(address: int, payload: int, trigger: int) -> list[int]:
    """Host semaphore operation at a GPU virtual address."""
    return [
        INCREMENT | 4 << 16 | Host.SEMAPHORE_ADDRESS_HIGH >> 2,
        address >> 32,
        address & 0xFFFFFFFF,
        payload & 0xFFFFFFFF,
        trigger,
    ]

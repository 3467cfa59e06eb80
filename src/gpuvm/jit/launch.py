"""What the GPU asks of the executor: one grid launch, and what came of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from gpuvm.jit.space import AddressSpace


class ErrorKind(enum.Enum):
    """Why a launch stopped; PGRAPH turns it into the GPU's own error."""

    ILLEGAL_INSTRUCTION = enum.auto()
    UNMAPPED = enum.auto()
    READ_ONLY = enum.auto()
    MISALIGNED = enum.auto()
    OUT_OF_RANGE_REGISTER = enum.auto()
    SHARED_RANGE = enum.auto()
    LOCAL_RANGE = enum.auto()
    STACK = enum.auto()
    TRAP = enum.auto()
    BAD_LAUNCH = enum.auto()
    STOPPED = enum.auto()


@dataclass(frozen=True, slots=True)
class ExecutionError:
    """The first error of a launch.

    Attributes
    ----------
    pc : int
        Code offset of the instruction (relative to the launch's `code_base`), -1 if not known.
    address : int
        GPU virtual address of the access for UNMAPPED, READ_ONLY and MISALIGNED, else 0.
    """

    kind: ErrorKind
    pc: int = -1
    address: int = 0
    write: bool = False
    message: str = ""


@dataclass(slots=True)
class Statistics:
    """Counted events of one launch (the cost model's input). Warp-level counts: an instruction of a warp
    counts once.
    """

    blocks: int = 0
    warp_instructions: int = 0
    double_instructions: int = 0
    special_instructions: int = 0
    shared_accesses: int = 0
    global_loads: int = 0
    global_stores: int = 0
    global_transactions: int = 0
    """128-byte segments touched; exact or the documented estimate of the executor."""
    atomics: int = 0
    barriers: int = 0
    compile_s: float = 0.0
    wall_s: float = 0.0
    native_s: float = 0.0
    """The part of `wall_s` spent in translated code."""


@dataclass(frozen=True, slots=True)
class ConstantBank:
    """One bound constant buffer: a GPU virtual address range, size in bytes (reads past it give 0)."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Launch:
    """One grid of thread blocks, as the compute class launches it.

    Attributes
    ----------
    space : AddressSpace
        The channel's address space; code, constants, local and global memory are all reached through it.
    code_base, entry : int
        GPU virtual address of the code segment and the byte offset of the first instruction in it.
    grid, block : tuple of int
        x, y, z counts of blocks and threads.
    registers : int
        General registers a thread may use (1 to 63); use of a higher one is OUT_OF_RANGE_REGISTER.
    shared_size : int
        Bytes of shared memory a block has (0 to 48 KiB).
    local_positive, local_negative : int
        Bytes of local memory a thread has from address 0 up, and from 2**24 down (where stacks live). The
        executor owns its backing.
    stack_size : int
        Bytes of the reconvergence/call stack a warp has.
    barriers : int
        Named barriers a block may use (0 to 16).
    constants : tuple of ConstantBank or None
        Banks c[0] to c[17].
    shared_window, local_window : int
        GPU virtual addresses at which generic accesses reach shared and local memory (16 MiB each).
    """

    space: AddressSpace
    code_base: int
    entry: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    registers: int = 63
    shared_size: int = 0
    local_positive: int = 0
    local_negative: int = 0
    stack_size: int = 0
    barriers: int = 16
    constants: tuple[ConstantBank | None, ...] = ()
    shared_window: int = 0xFE000000
    local_window: int = 0xFF000000
    first_block: int = 0
    """Block to begin with (x fastest): a stopped launch goes on at its outcome's `blocks_done`."""


@dataclass(slots=True)
class Outcome:
    """What came of a launch: `error` is None when every block ran to its end."""

    error: ExecutionError | None = None
    statistics: Statistics = field(default_factory=Statistics)
    blocks_done: int = 0
    """Blocks 0 .. blocks_done - 1 (x fastest) are complete: where a stopped launch may resume."""
    parked: object | None = None
    """What `Executor.resume` takes, if threads wait in the middle of their blocks; `error` is STOPPED then,
    and the statistics come with the end."""

"""The memory that translated code and its runtime share: byte offsets in a worker's context and in a job.

A context belongs to one thread for one launch; a job is what all threads of a launch share.
"""

from __future__ import annotations

# Context (one per worker thread). Offsets in bytes; pointers and counts are 64-bit unless said otherwise.
SAVED_SP = 0
JOB = 8
ALIAS = 16
SHARED = 24
SHARED_SIZE = 32
LOCAL = 40
LOCAL_POSITIVE = 48
LOCAL_NEGATIVE = 56
CONSTANTS = 64
"""Pointer to a table of (pointer, size) of the snapshots of c[0]..c[17]."""
COUNTERS = 72
STATES = 80
BARRIERS = 88
"""Pointer to 16 barriers of BARRIER_SIZE bytes."""
ERROR_KIND = 96
"""i32, an ErrorKind's value; 0 = none, -1 = host fault to be classified."""
ERROR_PC = 100
"""i32."""
ERROR_ADDRESS = 104
ERROR_WRITE = 112
"""i32."""
ERROR_SIGNAL = 116
"""i32."""
ERROR_IP = 120
"""Host instruction pointer of a fault."""
BLOCK_X = 128
BLOCK_Y = 132
BLOCK_Z = 136
WORKER = 140
"""i32, number of this worker: what SR_VIRTID/SMID show."""
SCRATCH = 144
"""Pointer to 64 KiB for calls to outlined helpers."""
BLOCKS_RUN = 152
PREVIOUS = 160
"""Context that this thread ran before (nested use by another executor)."""
SHARED_WINDOW = 168
LOCAL_WINDOW = 176
SHARED_LOCKS = 184
"""Pointer to a byte for each shared word: 1 while locked by LDSLK."""
GLOBAL_LOCKS = 192
"""Pointer to 4096 bytes shared by all workers of a launch: locks of LDLK, by address."""
RAISE = 200
"""Address of gpuvm_raise."""
LOCAL_STRIDE = 208
"""Bytes of local memory of one warp group."""
CONTEXT_SIZE = 256

SCRATCH_SIZE = 1 << 14
SCRATCH_ADDRESS, SCRATCH_DATA, SCRATCH_RESULT, SCRATCH_DUMMY = 0, 1024, 3072, 8192
"""In the scratch area: lane addresses (i64), data and result words ([word][64] i32), 64 bytes nobody
reads."""

# Job (one per launch, shared).
JOB_NEXT = 0
"""First block that no worker has claimed (atomic)."""
JOB_END = 8
JOB_CHUNK = 16
JOB_STOP = 24
"""Pointer to the stop word: one of STOP_*."""
JOB_FAILED = 32
"""i32, set when a worker met an error: the others stop."""
JOB_GRID_X = 40
JOB_GRID_Y = 44
JOB_GRID_Z = 48
JOB_ID = 52
JOB_FUNCTION = 64
JOB_CONTEXTS = 72
"""Pointer to an array of context pointers, one per worker."""
JOB_POOL = 80
"""Pointer to the pool whose threads run the job, where they may be parked; null where they may not."""
JOB_SIZE = 128

BARRIER_SIZE = 32
"""A barrier: i32 arrived warps, i32 expected (0 = all), i32 generation, i32 popc, i32 and, i32 or, 2 x i32
unused."""

STOP_NONE, STOP_BLOCK, STOP_NOW, STOP_PARK = 0, 1, 2, 3
"""Run; leave before the next block; leave at once, for good; leave before the next block, or wait at the next
loop back-edge until the word changes."""
PARK_MARK = 0x50470B0F
"""The four bytes at which a thread parks: UD2, then two that no compiler puts behind it."""

# State of a warp group (used when it must be left and resumed, and by the general translator).
STATE_STATUS = 0
"""i32: 0 may run, 1 waits at a barrier, 2 ended."""
STATE_RESUME = 4
"""i32: where to go on; 0 = from the start."""
STATE_BARRIER = 8
STATE_COUNT = 12
"""i32 threads that the barrier waits for, 0 = all of the block."""
STATE_POPC, STATE_AND, STATE_OR = 16, 20, 24
"""i32: what the group contributes to BAR.RED; then what it gets."""
STATE_STACK = 80
"""Pointer to the group's reconvergence stack."""
STATE_ACTIVE = 64
STATE_PC = 72
STATE_SP = 76
STATE_PREDS = 128
STATE_FLAGS = 192
STATE_REGS = 256
"""63 registers of 4 bytes a lane, then the reconvergence stack."""
STACK_ENTRY = 16
"""i32 kind, i32 target, i64 mask."""
KIND_DIV, KIND_SSY, KIND_PBK, KIND_PCNT, KIND_RET, KIND_LONGJMP = range(6)


def state_stack(lanes: int) -> int:
    """Offset of the reconvergence stack in a group's state."""
    return STATE_REGS + 63 * 4 * lanes


def state_size(lanes: int, entries: int) -> int:
    """Bytes of a group's state, a multiple of 64."""
    return -(-(state_stack(lanes) + entries * STACK_ENTRY) // 64) * 64

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
CONTEXT_SIZE = 256

# Job (one per launch, shared).
JOB_NEXT = 0
"""First block that no worker has claimed (atomic)."""
JOB_END = 8
JOB_CHUNK = 16
JOB_STOP = 24
"""Pointer to the stop word: 0 run, 1 stop at the next block, 2 stop now."""
JOB_FAILED = 32
"""i32, set when a worker met an error: the others stop."""
JOB_GRID_X = 40
JOB_GRID_Y = 44
JOB_GRID_Z = 48
JOB_ID = 52
JOB_FUNCTION = 64
JOB_CONTEXTS = 72
"""Pointer to an array of context pointers, one per worker."""
JOB_SIZE = 128

BARRIER_SIZE = 32
"""A barrier: i32 arrived warps, i32 expected (0 = all), i32 generation, i32 popc, i32 and, i32 or, 2 x i32 unused."""

STOP_NONE, STOP_BLOCK, STOP_NOW = 0, 1, 2

"""Copies of large blocks of host memory that leave the caches alone: non-temporal stores.

The C library's memmove does this too, but only from sizes on that no piece of a pipelined copy has; below them it
reads each line of the target before it overwrites it, and drives what the next stage wants out of the cache.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

from gpuvm.jit.native import Library, libc_address, target

LEAST = 1 << 20
"""Bytes from which on it pays."""

LINE = 64
_UNROLL = 4

_kept: list[Library] = []


def _ir() -> str:
    machine = target()
    vector, step = f"<{LINE // 4} x i32>", LINE * _UNROLL
    body = []
    for at in range(_UNROLL):
        body.append(f"  %f{at} = getelementptr i8, ptr %f, i64 {at * LINE}")
        body.append(f"  %v{at} = load {vector}, ptr %f{at}, align 1")
    for at in range(_UNROLL):
        body.append(f"  %t{at} = getelementptr i8, ptr %t, i64 {at * LINE}")
        body.append(f"  store {vector} %v{at}, ptr %t{at}, align {LINE}, !nontemporal !0")
    loop = "\n".join(body)
    return f"""{machine.header()}
declare ptr @memcpy(ptr, ptr, i64)

define void @stream(ptr %to, ptr %from, i64 %size) {machine.attributes(clears=True)} {{
entry:
  %at = ptrtoint ptr %to to i64
  %negative = sub i64 0, %at
  %head = and i64 %negative, {LINE - 1}
  %ignored = call ptr @memcpy(ptr %to, ptr %from, i64 %head)
  %first = getelementptr i8, ptr %to, i64 %head
  %source = getelementptr i8, ptr %from, i64 %head
  %rest = sub i64 %size, %head
  %whole = and i64 %rest, {-step}
  br label %next
next:
  %done = phi i64 [ 0, %entry ], [ %more, %loop ]
  %end = icmp eq i64 %done, %whole
  br i1 %end, label %out, label %loop
loop:
  %f = getelementptr i8, ptr %source, i64 %done
  %t = getelementptr i8, ptr %first, i64 %done
{loop}
  %more = add i64 %done, {step}
  br label %next
out:
  fence seq_cst
  %last = getelementptr i8, ptr %first, i64 %whole
  %behind = getelementptr i8, ptr %source, i64 %whole
  %tail = sub i64 %rest, %whole
  %ignored2 = call ptr @memcpy(ptr %last, ptr %behind, i64 %tail)
  ret void
}}
!0 = !{{i32 1}}
"""


@functools.cache
def _function() -> Callable[[int, int, int], None]:
    machine = target()
    library = machine.load(machine.compile(_ir()), ["stream"], {"memcpy": libc_address("memcpy")})
    _kept.append(library)
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    made: Callable[[int, int, int], None] = signature(library["stream"])
    return made


def copy(to: int, source: int, size: int) -> None:
    """Copy `size` bytes between host addresses, without the interpreter lock; overlapping ranges as memmove
    does.
    """
    if size < LEAST or (to < source + size and source < to + size):
        ctypes.memmove(to, source, size)
    else:
        _function()(to, source, size)

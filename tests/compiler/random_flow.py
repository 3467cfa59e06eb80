"""Random control-flow graphs as PTX, irreducible ones included, and their meaning in Python."""

from __future__ import annotations

import random
from typing import Any

from ptx_text import HEADER

M32 = 0xFFFFFFFF
Step = tuple[str, int, int, int]
Blocks = list[tuple[list[Step], tuple[Any, ...]]]
TEXT = {
    "add": "add.u32 %v{r}, %v{s}, {k};",
    "xor": "xor.b32 %v{r}, %v{s}, {k};",
    "mad": "mad.lo.u32 %v{r}, %v{s}, 5, {k};",
    "shr": "shr.u32 %v{r}, %v{s}, {k};",
    "sum": "add.u32 %v{r}, %v{s}, %v{k};",
}


def make(rng: random.Random, count: int) -> Blocks:
    """Blocks of arithmetic on four variables, each ending in a branch to anywhere."""
    blocks: Blocks = []
    for _ in range(count):
        steps: list[Step] = []
        for _ in range(rng.randrange(4)):
            op = rng.choice(sorted(TEXT))
            k = {"shr": rng.randrange(1, 5), "sum": rng.randrange(4)}.get(op, rng.randrange(1, 1000))
            steps.append((op, rng.randrange(4), rng.randrange(4), k))
        choice = rng.random()
        if choice < 0.7:
            end: tuple[Any, ...] = (
                "branch", rng.randrange(4), rng.choice((1, 2, 3, 4, 8)), rng.randrange(count),
                rng.randrange(count),
            )  # fmt: skip
        elif choice < 0.85:
            end = ("jump", rng.randrange(count))
        elif choice < 0.93:
            end = ("switch", rng.randrange(4), [rng.randrange(count) for _ in range(4)])
        else:
            end = ("exit",)
        blocks.append((steps, end))
    return blocks


def meaning(blocks: Blocks, start: list[int], fuel: int) -> list[int]:
    """The variables at the end, and a digest of the way."""
    v, at, way = list(start), 0, 0
    while fuel:
        fuel -= 1
        way = way * 31 + at + 1 & M32
        steps, end = blocks[at]
        for op, r, s, k in steps:
            v[r] = {
                "add": v[s] + k, "xor": v[s] ^ k, "mad": v[s] * 5 + k, "shr": v[s] >> k,
                "sum": v[s] + v[k & 3],
            }[op] & M32  # fmt: skip
        if end[0] == "branch":
            at = end[3] if v[end[1]] & end[2] == 0 else end[4]
        elif end[0] == "jump":
            at = end[1]
        elif end[0] == "switch":
            at = end[2][v[end[1]] & 3]
        else:
            break
    return [*v, way]


def ptx(blocks: Blocks, fuel: int) -> str:
    """Kernel k(in: 4 words a thread, out: 5 words a thread)."""
    out = [
        HEADER + ".visible .entry k (.param .u64 p0, .param .u64 p1) {",
        ".reg .b32 %v<4>, %way, %fuel, %t, %i; .reg .b64 %x<4>; .reg .pred %p, %q;",
        "mov.u32 %i, %tid.x; mul.wide.u32 %x2, %i, 16; ld.param.u64 %x0, [p0]; add.u64 %x2, %x2, %x0;",
        f"ld.global.v4.u32 {{%v0, %v1, %v2, %v3}}, [%x2]; mov.u32 %way, 0; mov.u32 %fuel, {fuel};",
    ]
    for n, (steps, end) in enumerate(blocks):
        out.append(f"B{n}: setp.eq.u32 %q, %fuel, 0; @%q bra END; sub.u32 %fuel, %fuel, 1;")
        out.append(f"mad.lo.u32 %way, %way, 31, {n + 1};")
        out.extend(TEXT[op].format(r=r, s=s, k=k) for op, r, s, k in steps)
        if end[0] == "branch":
            out.append(
                f"and.b32 %t, %v{end[1]}, {end[2]}; setp.eq.u32 %p, %t, 0; @%p bra B{end[3]}; bra B{end[4]};"
            )
        elif end[0] == "jump":
            out.append(f"bra B{end[1]};")
        elif end[0] == "switch":
            names = ", ".join(f"B{x}" for x in end[2])
            out.append(f"T{n}: .branchtargets {names}; and.b32 %t, %v{end[1]}, 3; brx.idx %t, T{n};")
        else:
            out.append("bra END;")
    stores = " ".join(f"st.global.u32 [%x1+{4 * k}], %v{k};" for k in range(4))
    out.append(f"END: ld.param.u64 %x1, [p1]; mul.wide.u32 %x3, %i, 20; add.u64 %x1, %x1, %x3; {stores}")
    out.append("st.global.u32 [%x1+16], %way; ret; }")
    return "\n".join(out)

"""Small PTX kernels for the tests: one operation, each thread its own element."""

from __future__ import annotations

from collections.abc import Sequence

HEADER = ".version 8.0\n.target sm_50\n.address_size 64\n"
SIZE = {"8": 1, "16": 2, "32": 4, "64": 8, "pred": 1}


def size_of(kind: str) -> int:
    return SIZE[kind.lstrip("bsuf")]


def elementwise(name: str, body: str, result: str, operands: Sequence[str], extra: str = "") -> str:
    """A kernel that loads %a0, %a1, ... by type, runs `body` (which sets %d) and stores %d.

    Parameters are the result's address, then the operands' addresses.
    """
    params = ", ".join(f".param .u64 p{k}" for k in range(len(operands) + 1))
    lines = [
        f".visible .entry {name} ({params})",
        "{",
        ".reg .b64 %x<16>;",
        ".reg .b32 %i<8>;",
        ".reg .pred %p<8>;",
    ]
    lines.append(
        "mov.u32 %i0, %tid.x; mov.u32 %i1, %ctaid.x; mov.u32 %i2, %ntid.x; mad.lo.u32 %i0, %i1, %i2, %i0;"
    )
    for k, kind in enumerate(operands):
        register = "b16" if kind.endswith("8") else f"b{kind[1:]}"
        lines.append(f".reg .{register} %a{k};")
        lines.append(
            f"ld.param.u64 %x0, [p{k + 1}]; mul.wide.u32 %x1, %i0, {size_of(kind)}; add.u64 %x0, %x0, %x1;"
        )
        lines.append(f"ld.global.{kind} %a{k}, [%x0];")
    register = "b16" if result.endswith("8") else f"b{result[1:]}"
    lines.append(f".reg .{register} %d;")
    lines.append(extra)
    lines.append(body)
    lines.append(f"ld.param.u64 %x0, [p0]; mul.wide.u32 %x1, %i0, {size_of(result)}; add.u64 %x0, %x0, %x1;")
    lines.append(f"st.global.{result} [%x0], %d;")
    lines.append("ret;\n}")
    return "\n".join(lines)

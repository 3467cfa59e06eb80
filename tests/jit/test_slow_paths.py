"""What is in registers is still there after an access that takes the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from rig import BASE, DATA, Rig

COUNT = 14
"""Values that are held in vector registers across the accesses: nearly all that AVX2 has."""


def kernel(access: list[str]) -> str:
    lines = ["S2R R0, SR_TID.X;", "MOV32I R1, 0x9e3779b9;", "IMUL R1, R0, R1;", "LOP.AND R2, R0, 0x15;"]
    lines += ["SHL R3, R2, 0x2;", "MOV32I R4, 0xfe000000;", "IADD R4, R4, R3;", "ISETP.NE.AND P0, PT, R2, RZ, PT;"]
    for n in range(COUNT):
        lines += [f"IADD R{10 + n}, R1, {hex(n + 1)};", f"IMUL R{10 + n}, R{10 + n}, R{10 + n};"]
    lines += access
    lines += [f"MOV32I R5, {hex(BASE + DATA)};", "ISCADD R5, R0, R5, 0x2;"]
    for n in range(COUNT):
        lines += [f"ST [R5+{hex(128 * n)}], R{10 + n};"]
    return "\n".join([*lines, f"ST [R5+{hex(128 * COUNT)}], R6;", "EXIT;"])


ACCESSES = {
    "shared window": ["ST [R4], R3;", "LD R6, [R4];"],
    "shared window, some lanes": ["MOV R6, R1;", "@P0 ST [R4], R3;", "@P0 LD R6, [R4];"],
    "one address, many values": ["MOV32I R7, 0x40;", "STS [R7], R3;", "LDS R6, [R7];"],
    "index that wraps": ["SHL R7, R0, 0x2;", "IADD R7, R7, -0x40;", "ISETP.LT.AND P1, PT, R0, 0x10, PT;",
                         "MOV R6, R1;", "@!P1 STS [R7], R3;", "@!P1 LDS R6, [R7];"],
}  # fmt: skip


@pytest.mark.parametrize("access", ACCESSES)
def test_registers_outlive_a_slow_access(rig: Rig, access: str) -> None:
    rig.put(0, np.zeros(32 * (COUNT + 1), np.uint32))
    rig.agree(kernel(ACCESSES[access]), 128 * (COUNT + 1), shared=0x400)

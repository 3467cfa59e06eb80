"""Kernels that run thread by thread: the same programs, one lane at a time."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from rig import Rig

CODE = """
    S2R R0, SR_TID.X;
    S2R R1, SR_CTAID.X;
    IMAD R0, R1, c[0x0][0x8], R0;
    ISCADD R2, R0, c[0x0][0x20], 0x3;
    LD R3, [R2];
    LD R4, [R2+0x4];
    MOV R5, RZ;
    LOP.AND R6, R3, 0x1f;
    SSY out;
head:
    LOP.AND R7, R4, 0x3f;
    ISCADD R8, R7, c[0x0][0x24], 0x2;
    LD R9, [R8];
    ISETP.NE.AND P0, PT, R9, RZ, PT;
    @P0 ST [R8+0x400], R9;
    @!P0 ST.U8 [R8+0x800], R0;
    IADD R5, R5, R9;
    IADD R4, R4, 0xd;
    IADD R6, R6, -0x1;
    ISETP.GT.AND P1, PT, R6, RZ, PT;
    @P1 BRA head;
    NOP.S;
out:
    ST [R2+0x4], R5;
    EXIT;
"""


@pytest.mark.parametrize("translator", ["threads", "default", "structured"])
def test_gathers_scatters_and_guards_under_divergence(rig: Rig, translator: str) -> None:
    rng = np.random.default_rng(3)
    data = rng.integers(0, 1 << 32, (192, 2), dtype=np.uint32)
    table = np.zeros(1024, np.uint32)
    table[:64] = rng.integers(0, 2, 64) * np.arange(64)
    base = rig.put(0, data)
    lookup = rig.put(4096, table)
    before = (data.copy(), table.copy())
    outcome = rig.launch(CODE, block=64, grid=3, parameters=struct.pack("<II", base, lookup), translator=translator)
    assert outcome.error is None
    sums = np.zeros(192, np.uint32)
    for thread, (count, start) in enumerate(before[0]):
        for step in range(max(int(count) & 31, 1)):
            sums[thread] += before[1][(int(start) + 13 * step) & 63]
    assert (rig.words(0, 384).reshape(192, 2)[:, 1] == sums).all()
    after = rig.words(4096, 1024)
    used = after[256:320]
    assert (np.where(used != 0, used == before[1][:64], True)).all()
    assert used.any()

"""Names of the special registers that S2R reads, by number (envytools and Mesa give the numbers)."""

from __future__ import annotations

SPECIAL_REGISTERS: dict[int, str] = {
    0x00: "SR_LANEID",
    0x02: "SR_VIRTCFG",
    0x03: "SR_VIRTID",
    **{0x04 + i: f"SR_PM{i}" for i in range(8)},
    0x10: "SR_PRIM_TYPE",
    0x11: "SR_INVOCATION_ID",
    0x12: "SR_Y_DIRECTION",
    0x13: "SR_THREAD_KILL",
    0x20: "SR_TID",
    0x21: "SR_TID.X",
    0x22: "SR_TID.Y",
    0x23: "SR_TID.Z",
    0x24: "SR_CTA_PARAM",
    0x25: "SR_CTAID.X",
    0x26: "SR_CTAID.Y",
    0x27: "SR_CTAID.Z",
    0x28: "SR_NTID",
    0x29: "SR_NTID.X",
    0x2A: "SR_NTID.Y",
    0x2B: "SR_NTID.Z",
    0x2C: "SR_GRID_PARAM",
    0x2D: "SR_NCTAID.X",
    0x2E: "SR_NCTAID.Y",
    0x2F: "SR_NCTAID.Z",
    0x30: "SR_SWINLO",
    0x31: "SR_SWINSZ",
    0x32: "SR_SMEMSZ",
    0x33: "SR_SMEMBANKS",
    0x34: "SR_LWINLO",
    0x35: "SR_LWINSZ",
    0x36: "SR_LMEMLOSZ",
    0x37: "SR_LMEMHIOFF",
    0x38: "SR_EQMASK",
    0x39: "SR_LTMASK",
    0x3A: "SR_LEMASK",
    0x3B: "SR_GTMASK",
    0x3C: "SR_GEMASK",
    0x40: "SR_GLOBALERRORSTATUS",
    0x42: "SR_WARPERRORSTATUS",
    0x50: "SR_CLOCKLO",
    0x51: "SR_CLOCKHI",
}
"""Number -> name. A number without an entry has no known meaning and is spelled SR<number>."""

SPECIAL_NUMBERS: dict[str, int] = {name: number for number, name in SPECIAL_REGISTERS.items()}


def special_name(number: int) -> str:
    """Name of special register `number` (0 to 255)."""
    return SPECIAL_REGISTERS.get(number) or f"SR{number}"


def special_number(name: str) -> int | None:
    """Number of the special register `name`, None if there is no such register."""
    found = SPECIAL_NUMBERS.get(name)
    if found is None and name.startswith("SR") and name[2:].isdecimal() and int(name[2:]) < 256:
        found = int(name[2:])
    return found

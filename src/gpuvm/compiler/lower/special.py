"""Special registers of PTX: what a thread can ask about itself, its block, its grid and the clock."""

from __future__ import annotations

from gpuvm.compiler.build import Pair
from gpuvm.compiler.errors import unsupported
from gpuvm.compiler.lower.core import Lowering
from gpuvm.compiler.mir import CB, ZERO, Imm, Src

# name -> special register of the chip
_REGISTERS = {
    "%tid.x": "SR_TID.X",
    "%tid.y": "SR_TID.Y",
    "%tid.z": "SR_TID.Z",
    "%ctaid.x": "SR_CTAID.X",
    "%ctaid.y": "SR_CTAID.Y",
    "%ctaid.z": "SR_CTAID.Z",
    "%laneid": "SR_LANEID",
    "%lanemask_eq": "SR_EQMASK",
    "%lanemask_lt": "SR_LTMASK",
    "%lanemask_le": "SR_LEMASK",
    "%lanemask_gt": "SR_GTMASK",
    "%lanemask_ge": "SR_GEMASK",
    **{f"%pm{k}": f"SR_PM{k}" for k in range(8)},
}
# name -> word of c[0x0] that the driver fills
_CONSTANTS = {
    "%ntid.x": 0x08,
    "%ntid.y": 0x0C,
    "%ntid.z": 0x10,
    "%nctaid.x": 0x14,
    "%nctaid.y": 0x18,
    "%nctaid.z": 0x1C,
}
_VOLATILE = {
    "%clock": "SR_CLOCKLO",
    "%clock_hi": "SR_CLOCKHI",
    "%globaltimer_lo": "SR_CLOCKLO",
    "%globaltimer_hi": "SR_CLOCKHI",
}
_WARP_VIRTUAL = {"%warpid": (8, 6), "%smid": (20, 9)}
"""name -> (bit, bits) of SR_VIRTID."""
_FIXED = {
    "%tid.w": 0,
    "%ctaid.w": 0,
    "%ntid.w": 0,
    "%nctaid.w": 0,
    "WARP_SZ": 32,
    "%gridid": 0,
    "%nsmid": 16,
    "%nwarpid": 48,
    "%is_explicit_cluster": 0,
}


def read(low: Lowering, name: str, kind: str) -> Pair | None:
    """Words of a special register, None if the name is none."""
    b = low.builder
    if name in _REGISTERS:
        return b.one("S2R", [], {"special": _REGISTERS[name]}), ZERO
    if name in _CONSTANTS:
        return CB(0, _CONSTANTS[name]), ZERO
    if name in _FIXED:
        return Imm(_FIXED[name]), ZERO
    if name in _VOLATILE:
        return _clock(low, _VOLATILE[name]), ZERO
    if name in _WARP_VIRTUAL:
        at, bits = _WARP_VIRTUAL[name]
        if name == "%warpid":
            return b.shr(linear_thread(low), Imm(5)), ZERO
        return b.bfe(b.one("S2R", [], {"special": "SR_VIRTID"}), at, bits), ZERO
    if name in ("%clock64", "%globaltimer"):
        return _clock64(low)
    if name == "%dynamic_smem_size":
        total = b.one("S2R", [], {"special": "SR_SMEMSZ"})
        low.used_dynamic = True
        return b.isub(total, Imm(low.dynamic_shared)), ZERO
    if name == "%total_smem_size":
        return b.one("S2R", [], {"special": "SR_SMEMSZ"}), ZERO
    if name.startswith("%envreg"):
        return Imm(0), ZERO
    if name.startswith(("%cluster", "%nclusterid", "%reserved_smem", "%current_graph", "%aggr_smem")):
        raise unsupported(name, low.line, "the register belongs to later chips")
    return None


def linear_thread(low: Lowering) -> Src:
    """Number of the thread in its block, x fastest."""
    b = low.builder
    x, y, z = (b.one("S2R", [], {"special": f"SR_TID.{c}"}) for c in "XYZ")
    return b.imad(b.imad(z, CB(0, 0x0C), y), CB(0, 0x08), x)


def _clock(low: Lowering, register: str) -> Src:
    return low.builder.one("CLOCK", [], {"special": register})


def _clock64(low: Lowering) -> Pair:
    """High, low, high again: if the high word moved, the low word counts as 0."""
    b = low.builder
    first = _clock(low, "SR_CLOCKHI")
    lo = _clock(low, "SR_CLOCKLO")
    second = _clock(low, "SR_CLOCKHI")
    same = b.compare("EQ", first, second, False)
    return b.select(same, lo, ZERO), second

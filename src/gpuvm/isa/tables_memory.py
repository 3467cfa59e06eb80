"""Rows of loads, stores, atomics, reductions, cache control and fences (long words)."""

from __future__ import annotations

from gpuvm.isa.fields import Bits, Field, MemField, Mod, PredField, RegField, at, choice, fixed
from gpuvm.isa.rows import SRC1, SRC3, Row, op, rd

_OPCODE = 0xF800000000000007
_NARROW = 0xFC00000000000007
_WIDE = 1 << 58
SIZES = {"U8": 1, "S8": 1, "U16": 1, "S16": 1, "32": 1, "64": 2, "128": 4}
"""Size modifier -> registers it fills; the order is the code in bits 5 to 7."""


def _sized() -> list[tuple[int, Mod, int]]:
    return [(code << 5, fixed("size", name, "32"), count) for code, (name, count) in enumerate(SIZES.items())]


def _address_sizes() -> list[tuple[int, Mod, int]]:
    """Bit 58: addresses of 32 or 64 bits."""
    return [(0, fixed("e", False), 1), (_WIDE, fixed("e", True, False, text="E"), 2)]


def _generic(count: int) -> MemField:
    return MemField("generic", SRC1, at(26, 32), base_count=count)


def _loads_and_stores() -> list[Row]:
    rows: list[Row] = []
    load_cache = choice("cache", at(8, 2), "CA CG CS CV", show=False)
    # A local line is used by its own thread only, so "streaming" is "last use" there (cuobjdump's name).
    local_cache = choice("cache", at(8, 2), "CA CG LU CV", show=False)
    store_cache = choice("cache", at(8, 2), "WB CG CS WT", show=False)
    shared, local = (MemField(space, SRC1, at(26, 24)) for space in ("shared", "local"))
    const = MemField("const", SRC1, at(26, 16), bank=at(42, 5))
    for code, size, count in _sized():
        narrow = 0xFC000000000000E7
        own = 0xFD000000000000E7
        data = rd(count)
        for wide, e, base in _address_sizes():
            opcode = 0xF8000000000000E7 | _WIDE
            address = _generic(base)
            rows += op(
                "LD", 0x8000000000000005 | code | wide, opcode, [data], [address], [e, load_cache, size]
            )
            rows += op("LDU", 0x8800000000000005 | code | wide, opcode, [data], [address], [e, size])
            rows += op(
                "ST", 0x9000000000000005 | code | wide, opcode, [], [address, data], [e, store_cache, size]
            )
        lock = PredField(Bits((8, 2), (58, 1)))
        rows += op("LDLK", 0xA000000000000005 | code, 0xF8000000000000E7, [lock, data], [_generic(1)], [size])
        rows += op("LDL", 0xC000000000000005 | code, own, [data], [local], [local_cache, size])
        rows += op("LDS", 0xC100000000000005 | code, own, [data], [shared], [size])
        rows += op("LDSLK", 0xC400000000000005 | code, narrow, [PredField(50), data], [shared], [size])
        rows += op("STL", 0xC800000000000005 | code, own, [], [local, data], [store_cache, size])
        rows += op("STS", 0xC900000000000005 | code, own, [], [shared, data], [size])
        rows += op("STSUL", 0xCC00000000000005 | code, narrow, [], [shared, data], [size])
        rows += op("STUL", 0xE800000000000005 | code, narrow, [], [_generic(1), data], [size])
        rows += op("LDC", 0x1400000000000006 | code, narrow, [data], [const], [size])
    return rows


def _atomics() -> list[Row]:
    """ATOM returns the old value and has a 20-bit offset, RED returns nothing and has 32 bits of offset."""
    rows: list[Row] = []
    integer = choice("op", at(5, 3), "ADD MIN MAX INC DEC AND OR XOR")
    signed = choice("op", at(5, 3), "ADD MIN MAX")
    add = fixed("op", "ADD", "ADD", show=True)

    def typed(name: str) -> Mod:
        texts = {"U32": "", "F32": "F32.FTZ.RN"}
        return fixed("type", name, "U32", text=texts.get(name, name))

    plain, all_codes = 0x3 << 8, 0x1F << 5
    kinds = [
        ("U32", integer, 0x50, 0x10, 0, plain, 1),
        ("U64", add, 0x50, 0x10, 0x200, all_codes, 2),
        ("S32", signed, 0x58, 0x18, 0x200, plain, 1),
        ("F32", add, 0x68, 0x28, 0x200, all_codes, 1),
    ]
    no_third = 0x3F << SRC3
    for wide, e, base in _address_sizes():
        near = MemField("generic", SRC1, Bits((26, 17), (55, 3)), base_count=base)
        for name, operation, atom, red, bits, codes, count in kinds:
            rows += op(
                "ATOM",
                atom << 56 | 0x007E000000000005 | bits | wide,
                _OPCODE | codes | no_third | _WIDE,
                [RegField(43, count)],
                [near, rd(count)],
                [e, operation, typed(name)],
            )
            rows += op(
                "RED",
                red << 56 | 5 | bits | wide,
                _OPCODE | codes | _WIDE,
                [],
                [_generic(base), rd(count)],
                [e, operation, typed(name)],
            )
        for name, bits, count in (("U32", 0, 1), ("U64", 0x200, 2)):
            exchange: list[Field] = [near, rd(count)]
            rows += op(
                "ATOM",
                0x507E000000000105 | bits | wide,
                _OPCODE | all_codes | no_third | _WIDE,
                [RegField(43, count)],
                exchange,
                [e, fixed("op", "EXCH", "ADD", show=True), typed(name)],
            )
            rows += op(
                "ATOM",
                0x5000000000000125 | bits | wide,
                _OPCODE | all_codes | _WIDE,
                [RegField(43, count)],
                [*exchange, RegField(SRC3, count)],
                [e, fixed("op", "CAS", "ADD", show=True), typed(name)],
            )
    return rows


def _control() -> list[Row]:
    rows: list[Row] = []
    operation = choice("op", at(5, 5), "QRY1 PF1 PF1_5 PF2 WB IV IVALL RS")
    which = choice("cache", at(26, 2), "~ U C I", show=False)
    for wide, e, base in _address_sizes():
        address = MemField("generic", SRC1, at(28, 30), unit=4, base_count=base)
        rows += op(
            "CCTL", 0x9800000000000005 | wide, _OPCODE | _WIDE, [rd()], [address], [e, which, operation]
        )
    rows += op(
        "CCTLL", 0xD000000000000005, _NARROW, [rd()], [MemField("local", SRC1, at(26, 24))], [operation]
    )
    rows += op("MEMBAR", 0xE000000000000005, _NARROW, [], [], [choice("level", at(5, 2), "CTA GL SYS")])
    return rows


ROWS: list[Row] = [*_loads_and_stores(), *_atomics(), *_control()]

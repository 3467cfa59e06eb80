"""Rows of texture, surface, attribute and dual-load operations: decoded, not executed."""

from __future__ import annotations

from gpuvm.isa.fields import (
    Bits,
    CountedField,
    FixedField,
    ImmField,
    MemField,
    Mod,
    PredField,
    RegField,
    at,
    choice,
    fixed,
    flag,
)
from gpuvm.isa.instruction import RZ, Reg
from gpuvm.isa.rows import DST, SRC1, SRC2, SRC3, Form, Row, form_b, op, ra, rd, sat, short
from gpuvm.isa.tables_memory import SIZES

_TEXTURE = 0xF000000000000007
_MEMORY = 0xFC00000000000007
_CHANNELS = "RGBA"
_CHANNEL_SETS = tuple("".join(c for i, c in enumerate(_CHANNELS) if code >> i & 1) for code in range(16))


def _channels(low: int, name: str = "mask") -> Mod:
    return Mod(name, at(low, 4), _CHANNEL_SETS, _CHANNELS, texts={s: s or "NONE" for s in _CHANNEL_SETS})


def _by_flags(*bits: int) -> tuple[Bits, tuple[int, ...]]:
    """A register run with one register for each flag that is set."""
    return Bits(*((bit, 1) for bit in bits)), tuple(code.bit_count() for code in range(1 << len(bits)))


def _texture() -> list[Row]:
    mode = choice("mode", at(7, 2), "~ T P", show=False)
    live, ndv = flag("live", 9), flag("ndv", 45)
    aoffi = flag("aoffi", 54)
    indirect = flag("ind", 50)
    shadow = flag("dc", 56)
    shape = choice("dim", at(51, 3), "1D ARRAY_1D 2D ARRAY_2D 3D - CUBE ARRAY_CUBE")
    mask = _channels(46)
    dst = CountedField(DST, at(46, 4), tuple(code.bit_count() for code in range(16)))
    texture, sampler = ImmField(at(32, 8)), ImmField(at(40, 5))
    shapes: dict[int, int] = {0: 1, 1: 2, 2: 2, 3: 3, 4: 3, 6: 3, 7: 4}

    def coordinates(code: int) -> int | None:
        """Registers of the coordinates; code = indirect bit, shape above it.

        An array's layer and an indirect texture share a register.
        """
        size = shapes.get(code >> 1)
        if size is None:
            return None
        array = (code >> 1) in (1, 3, 7)
        return size + (1 if code & 1 and not array else 0)

    plain = CountedField(SRC1, at(50, 4), tuple(coordinates(code) for code in range(16)))

    def with_offset(reach: int, allowed: tuple[int, ...], width: int) -> CountedField:
        """Coordinates with the offsets packed in one more register when bit 54 is set."""
        counts: list[int | None] = []
        for code in range(1 << width):
            base = coordinates(code & 15)
            high = code >> 4
            counts.append(
                None if base is None or code >> 1 & 7 not in allowed or high > reach else base + high
            )
        return CountedField(SRC1, at(50, width), tuple(counts))

    lod = choice("lod", at(57, 3), "~ LZ LB LL - - LBA LLA", show=False)
    units = [texture, sampler]
    return [
        *op(
            "TEX",
            0x8000000000000006,
            _TEXTURE,
            [dst],
            [plain, CountedField(SRC2, *_by_flags(54, 56, 58)), *units],
            [mode, lod, shadow, aoffi, ndv, live, indirect, shape, mask],
        ),
        *op(
            "TLD",
            0x9000000000000006,
            _TEXTURE,
            [dst],
            [plain, CountedField(SRC2, *_by_flags(54, 55, 57)), *units],
            [
                mode,
                choice("lod", at(57), "LZ LL"),
                flag("cl", 56),
                flag("ms", 55),
                aoffi,
                live,
                indirect,
                shape,
                mask,
            ],
        ),
        *op(
            "TLD4",
            0xA000000000000006,
            _TEXTURE,
            [dst],
            [
                with_offset(1, (2, 3), 5),
                CountedField(SRC2, at(54, 3), (0, 1, 2, None, 1, 2, 3, None)),
                *units,
            ],
            [
                mode,
                choice("channel", at(5, 2), "R G B A"),
                shadow,
                choice("offsets", at(54, 2), "~ AOFFI PTP", show=False),
                ndv,
                live,
                indirect,
                shape,
                mask,
            ],
        ),
        *op(
            "TMML",
            0xB000000000000006,
            _TEXTURE,
            [dst],
            [plain, *units],
            [mode, ndv, live, indirect, shape, mask],
        ),
        *op(
            "TXQ",
            0xC000000000000006,
            _TEXTURE,
            [dst],
            [RegField(SRC1), RegField(SRC2), *units],
            [
                mode,
                choice(
                    "query",
                    at(54, 6),
                    "DIMENSION TEXTURE_TYPE SAMPLE_POS - - - - - FILTER LOD WRAP BORDER_COLOR",
                ),
                live,
                indirect,
                mask,
            ],
        ),
        *op(
            "TEXCSAA",
            0xD000000000000006,
            _TEXTURE,
            [dst],
            [RegField(SRC1, 3), *units],
            [mode, ndv, live, mask],
        ),
        *op(
            "TXD",
            0xE000000000000006,
            _TEXTURE,
            [dst],
            [with_offset(1, (0, 1, 2, 3), 6), CountedField(SRC2, at(52, 2), (2, 4, None, None)), *units],
            [mode, aoffi, live, indirect, shape, mask],
        ),
    ]


def _surfaces() -> list[Row]:
    rows: list[Row] = []
    clamp = choice("clamp", at(47, 2), "IGN NEAR TRAP")
    shape = choice("dim", at(44, 2), "1D 2D 3D E2D")
    load_cache = choice("cache", at(8, 2), "CA CG CS CV", show=False)
    store_cache = choice("cache", at(8, 2), "WB CG CS WT", show=False)
    surface = [
        Form(0, 1 << 46, (MemField("image", SRC2, None),)),
        Form(1 << 46, 1 << 46, (ImmField(at(26, 3)),)),
    ]
    place = CountedField(SRC1, at(44, 2), (1, 2, 3, 3))
    formatted = 0xF << SRC3
    for code, (name, count) in enumerate(SIZES.items()):
        size = fixed("size", name, "32")
        narrow = _MEMORY | 0xE0
        rows += op(
            "SULD",
            0xD400000000000005 | code << 5,
            narrow | formatted,
            [rd(count)],
            [surface, place],
            [fixed("fmt", "B", show=True), load_cache, size, clamp, shape],
        )
        rows += op(
            "SUST",
            0xDC00000000000005 | code << 5,
            narrow | formatted,
            [],
            [surface, place, rd(count)],
            [fixed("fmt", "B", show=True), store_cache, size, clamp, shape],
        )
        rows += op(
            "SULEA",
            0xF000000000000005 | code << 5,
            narrow,
            [PredField(54), rd(2)],
            [surface, place],
            [fixed("fmt", "B", show=True), size, clamp, shape],
        )
    channels = Mod(
        "mask", at(SRC3, 4), (None, *_CHANNEL_SETS[1:]), _CHANNELS, texts={s: s for s in _CHANNEL_SETS if s}
    )
    data = CountedField(DST, at(SRC3, 4), (None, *(code.bit_count() for code in range(1, 16))))
    rows += op(
        "SUST",
        0xDC00000000000005,
        _MEMORY,
        [],
        [surface, place, data],
        [fixed("fmt", "P", "B", show=True), store_cache, channels, clamp, shape],
    )
    rows += op(
        "SURED",
        0xD800400100000005,
        _MEMORY | 1 << 46 | 1 << 32,
        [],
        [ImmField(at(26, 3)), CountedField(SRC1, at(44, 2), (1, 2, 3, 4)), rd()],
        [
            choice("op", at(5, 4), "ADD MIN MAX INC DEC AND OR XOR"),
            clamp,
            choice("coords", at(44, 2), "1 2 3 4"),
        ],
    )
    rows += op(
        "SUQ",
        0xE400000000000005,
        _MEMORY,
        [rd()],
        [surface],
        [choice("query", at(5, 3), "RANK PIXFMT SMPLSZ DIM RGBA BLKSZ")],
    )
    return rows


def _attributes() -> list[Row]:
    attribute = MemField("attribute", SRC1, at(32, 10), signed=False)
    rows = [
        *op(
            "IPA",
            0xC000000000000000,
            0xF800000000000007,
            [rd()],
            [attribute, RegField(SRC2), RegField(SRC3)],
            [
                choice("mode", at(6, 2), "PASS MUL FLAT SC"),
                choice("at", at(8, 2), "~ CENTROID OFFSET", show=False),
                sat(5),
            ],
        ),
        *op("VILD", 0x0000000000000006, _MEMORY, [rd()], [MemField("patch", SRC1, at(26, 16))]),
        *op(
            "PIXLD",
            0x1000000000000006,
            _MEMORY,
            [rd(), PredField(53)],
            [MemField("pixel", SRC1, at(26, 8))],
            [choice("query", at(5, 3), "COUNT COVMASK COVERED OFFSET CENTROID_OFFSET MY_INDEX")],
        ),
        *op(
            "OUT",
            0x1C00000000000006,
            _MEMORY,
            [rd()],
            [ra(), form_b("int")],
            [flag("emit", 5), flag("cut", 6)],
        ),
    ]
    patch, out, odd = flag("patch", 8), flag("out", 9), flag("u57", 57)
    near = {
        low: MemField("attribute", -1, Bits((8, 2), (low, 6)), unit=4, signed=False) for low in (SRC1, SRC2)
    }
    for code, bits in enumerate(("32", "64", "96", "128")):
        size = fixed("size", bits, "32")
        rows += op(
            "ALD",
            0x0400000000000006 | code << 5,
            _MEMORY | 0x60,
            [rd(code + 1)],
            [attribute, RegField(SRC2)],
            [patch, out, odd, size],
        )
        rows += op(
            "AST",
            0x0800000000000006 | code << 5,
            _MEMORY | 0x60,
            [],
            [attribute, RegField(SRC2, code + 1), RegField(SRC3)],
            [patch, odd, size],
        )
        rows += short("ALD", 0x29 | code << 6, 0xFF, [rd(code + 1)], [near[SRC1], RegField(SRC2)], [size])
        rows += short("AST", 0x39 | code << 6, 0xFF, [], [near[SRC1], RegField(SRC2, code + 1), rd()], [size])
    rows += short(
        "IPA",
        0x09,
        0x7F,
        [rd()],
        [near[SRC2], RegField(SRC1), FixedField(Reg(RZ))],
        [choice("mode", at(7), "MUL SC", "PASS")],
    )
    return rows


def _dual_loads() -> list[Row]:
    """A load and a load-uniform in one word; bits 53 to 57 are one code for both sizes."""
    rows: list[Row] = []
    small = ("U8", "S8", "U16", "S16", "32")
    pairs = [(first, second) for first in small for second in small]
    pairs += [
        ("32", "64"),
        ("32", "128"),
        *(("64", size) for size in ("32", "64", "128")),
        ("128", "32"),
        ("128", "64"),
    ]
    scale = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "32": 4, "64": 8, "128": 16}
    wide = ((0, 1), (1, 2))

    def address(space: str, low: int, bits: Bits, size: str, base: int = 1) -> MemField:
        return MemField(space, low, bits, unit=scale[size], base_count=base)

    def extended(name: str, on: int) -> Mod:
        return fixed(name, True, False, text="E") if on else fixed(name, False)

    far = Bits((5, 5), (38, 5))
    for code, (first, second) in enumerate(pairs):
        dst = [RegField(32, SIZES[first]), rd(SIZES[second])]
        sizes = [fixed("size", first, "32", show=True), fixed("ldu_size", second, "32", show=True)]
        for e2, base2 in wide:
            uniform = address("generic", SRC2, far, second, base2)
            selected = code << 53 | e2 << 58
            rows += op(
                "LDS_LDU",
                0xA800000000000005 | selected,
                0xFFE0000000000007,
                dst,
                [address("shared", SRC1, at(43, 10), first), uniform],
                [sizes[0], extended("ldu_e", e2), sizes[1]],
            )
            for e1, base1 in wide:
                rows += op(
                    "LD_LDU",
                    0xB000000000000005 | selected | e1 << 59,
                    0xFFE0000000000007,
                    dst,
                    [address("generic", SRC1, at(43, 10), first, base1), uniform],
                    [extended("e", e1), sizes[0], extended("ldu_e", e2), sizes[1]],
                )
    return rows


ROWS: list[Row] = [*_texture(), *_surfaces(), *_attributes(), *_dual_loads()]

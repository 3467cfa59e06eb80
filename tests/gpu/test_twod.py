"""The 2D class: fills, blits and images from the pushbuffer, on linear and block-linear surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from gpuvm.gpu.classes.formats import FORMATS
from gpuvm.gpu.classes.tiling import Surface

A, B = 0x2000_0000, 0x2400_0000
SIZE = 0x40000
BGRA8, RGBA8, B5G6R5, R8, RGBA32F, RGBA16, R32U, A2BGR = 0xCF, 0xD5, 0xE8, 0xF3, 0xC0, 0xC6, 0xE4, 0xD1


class Side:
    """A surface in memory that a test can look into."""

    def __init__(self, rig, at, physical, width, height, size, mode=None, format_=BGRA8):
        self.rig, self.at, self.physical, self.format = rig, at, physical, format_
        self.width, self.height, self.size, self.mode = width, height, size, mode
        self.pitch = -(-width * size // 64) * 64

    def methods(self, push, base):
        linear = self.mode is None
        return push.method(
            3,
            base,
            self.format,
            int(linear),
            self.mode or 0,
            1,
            0,
            self.pitch,
            self.width,
            self.height,
            0,
            self.at,
        )

    def _places(self):
        if self.mode is None:
            return np.arange(self.height)[:, None] * self.pitch + np.arange(self.width * self.size)[None, :]
        layout = Surface(self.mode, self.width * self.size, self.height, 1)
        return np.array([layout.offsets(0, self.width * self.size, y, 0) for y in range(self.height)])

    def load(self, pixels):
        memory = np.frombuffer(self.rig.gpu.vram.read(self.physical, SIZE), np.uint8).copy()
        memory[self._places()] = pixels.reshape(self.height, -1).view(np.uint8)
        self.rig.gpu.vram.write(self.physical, memory.tobytes())

    def look(self, kind=np.uint32):
        memory = np.frombuffer(self.rig.gpu.vram.read(self.physical, SIZE), np.uint8)
        return np.ascontiguousarray(memory[self._places()]).view(kind)


@pytest.fixture
def channel(rig):
    made = rig.channel()
    made.a, made.b = rig.take(SIZE), rig.take(SIZE)
    made.tables.map(A, made.a, SIZE)
    made.tables.map(B, made.b, SIZE)
    return made


def begin(push, target, source=None, operation=3):
    push = target.methods(push().method(3, 0, 0x902D), 0x200)
    if source is not None:
        push = source.methods(push, 0x230)
    return push.method(3, 0x290, 0).method(3, 0x2AC, operation)


def rectangle(push, x0, y0, x1, y1, colour, format_=BGRA8):
    return push.method(3, 0x580, 4, format_, colour).method(3, 0x600, x0, y0, x1, y1)


def fixed(value):
    whole = int(value * (1 << 32))
    return whole & 0xFFFFFFFF, whole >> 32 & 0xFFFFFFFF


def blit(push, x, y, width, height, source_x=0.0, source_y=0.0, du=1.0, dv=1.0, control=0):
    return (
        push.method(3, 0x88C, control)
        .method(3, 0x8B0, x, y, width, height)
        .method(3, 0x8C0, *fixed(du), *fixed(dv), *fixed(source_x), *fixed(source_y))
    )


modes = pytest.mark.parametrize("mode", [None, 0x00, 0x10, 0x20], ids=["linear", "8", "16", "32 lines"])


@modes
def test_a_rectangle_is_filled_and_nothing_else(rig, push, channel, mode):
    side = Side(rig, A, channel.a, 100, 50, 4, mode)
    channel.run(rectangle(begin(push, side), 7, 3, 60, 41, 0x11223344))
    expected = np.zeros((50, 100), np.uint32)
    expected[3:41, 7:60] = 0x11223344
    assert np.array_equal(side.look(), expected)


def test_the_clip_rectangle_and_the_surface_limit_a_fill(rig, push, channel):
    side = Side(rig, A, channel.a, 64, 32, 4, 0x10)
    pushed = begin(push, side).method(3, 0x280, 10, 5, 20, 6, 1)
    channel.run(rectangle(pushed, -5 & 0xFFFFFFFF, -5 & 0xFFFFFFFF, 1000, 1000, 9))
    expected = np.zeros((32, 64), np.uint32)
    expected[5:11, 10:30] = 9
    assert np.array_equal(side.look(), expected)
    channel.run(rectangle(begin(push, side), 60, 30, 70, 40, 5))
    expected[30:, 60:] = 5
    assert np.array_equal(side.look(), expected)


def test_a_fill_converts_its_colour(rig, push, channel):
    side = Side(rig, A, channel.a, 16, 4, 2, None, B5G6R5)
    channel.run(rectangle(begin(push, side), 0, 0, 16, 4, 0xFFFF00FF))
    assert set(side.look(np.uint16).reshape(-1).tolist()) == {0xF81F}


def test_points_come_in_halves_too(rig, push, channel):
    side = Side(rig, A, channel.a, 32, 8, 4)
    channel.run(begin(push, side).method(3, 0x580, 4, BGRA8, 3).same(3, 0x5E0, 1 << 16 | 2, 4 << 16 | 9))
    expected = np.zeros((8, 32), np.uint32)
    expected[1:4, 2:9] = 3
    assert np.array_equal(side.look(), expected)


@modes
@pytest.mark.parametrize("source_mode", [None, 0x10])
def test_a_copy_between_all_layouts(rig, push, channel, mode, source_mode):
    pixels = np.random.default_rng(1).integers(0, 1 << 32, (40, 70), np.uint32)
    source, target = Side(rig, A, channel.a, 70, 40, 4, source_mode), Side(rig, B, channel.b, 90, 45, 4, mode)
    source.load(pixels)
    channel.run(blit(begin(push, target, source), 11, 4, 50, 30, 9, 6))
    expected = np.zeros((45, 90), np.uint32)
    expected[4:34, 11:61] = pixels[6:36, 9:59]
    assert np.array_equal(target.look(), expected)


@pytest.mark.parametrize(("format_", "size"), [(R8, 1), (B5G6R5, 2), (RGBA16, 8), (RGBA32F, 16)])
def test_copies_of_every_pixel_size_keep_all_bits(rig, push, channel, format_, size):
    pixels = np.random.default_rng(size).integers(0, 256, (20, 30 * size), np.uint8)
    source = Side(rig, A, channel.a, 30, 20, size, 0x10, format_)
    target = Side(rig, B, channel.b, 30, 20, size, None, format_)
    source.load(pixels)
    channel.run(blit(begin(push, target, source), 0, 0, 30, 20))
    assert np.array_equal(target.look(np.uint8), pixels)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 5), (-3, 0), (0, -5)])
def test_a_copy_within_a_surface_may_overlap(rig, push, channel, dx, dy):
    """A scroll: the result is as if the source had been set aside first."""
    pixels = np.random.default_rng(2).integers(0, 1 << 32, (600, 64), np.uint32)
    side = Side(rig, A, channel.a, 64, 600, 4)
    side.load(pixels)
    x, y = 10 + max(dx, 0), 10 + max(dy, 0)
    channel.run(blit(begin(push, side, side), x, y, 40, 560, x - dx, y - dy))
    expected = pixels.copy()
    expected[y : y + 560, x : x + 40] = pixels[y - dy : y - dy + 560, x - dx : x - dx + 40]
    assert np.array_equal(side.look(), expected)


def test_scaling_takes_the_pixel_under_each_centre(rig, push, channel):
    pixels = np.arange(16 * 16, dtype=np.uint32).reshape(16, 16)
    source, target = Side(rig, A, channel.a, 16, 16, 4), Side(rig, B, channel.b, 48, 8, 4, 0x10)
    source.load(pixels)
    channel.run(blit(begin(push, target, source), 0, 0, 48, 8, du=1 / 3, dv=2.0))
    expected = pixels[(np.arange(8) * 2 + 1)[:, None], (np.arange(48) // 3)[None, :]]
    assert np.array_equal(target.look(), expected)


def test_a_mirrored_blit(rig, push, channel):
    pixels = np.arange(64, dtype=np.uint32).reshape(4, 16)
    source, target = Side(rig, A, channel.a, 16, 4, 4), Side(rig, B, channel.b, 16, 4, 4)
    source.load(pixels)
    channel.run(blit(begin(push, target, source), 0, 0, 16, 4, source_x=16, du=-1.0))
    assert np.array_equal(target.look(), pixels[:, ::-1])


def test_bilinear_filtering_blends_neighbours(rig, push, channel):
    ramp = np.zeros((2, 4), np.uint32)
    ramp[:] = [0x00, 0x40, 0x80, 0xC0]
    source, target = Side(rig, A, channel.a, 4, 2, 4), Side(rig, B, channel.b, 8, 2, 4)
    source.load(ramp)
    channel.run(blit(begin(push, target, source), 0, 0, 8, 2, du=0.5, control=0x10))
    got = target.look()[0] & 0xFF
    assert np.abs(got.astype(int) - np.array([0, 0x10, 0x30, 0x50, 0x70, 0x90, 0xB0, 0xC0])).max() <= 1


def test_a_blit_converts_formats(rig, push, channel):
    pixels = np.array([[0xFF0000FF, 0x80FF8000]], np.uint32)
    source = Side(rig, A, channel.a, 2, 1, 4, None, RGBA8)
    target = Side(rig, B, channel.b, 2, 1, 4, None, BGRA8)
    source.load(pixels)
    channel.run(blit(begin(push, target, source), 0, 0, 2, 1))
    assert target.look().tolist() == [[0xFFFF0000, 0x800080FF]]


@pytest.mark.parametrize(("rop", "expected"), [
    (0xCC, lambda d, s: s), (0x66, lambda d, s: d ^ s), (0x88, lambda d, s: d & s), (0xEE, lambda d, s: d | s),
    (0x55, lambda d, s: ~d), (0x00, lambda d, s: d * 0), (0xFF, lambda d, s: d | 0xFFFFFFFF),
    (0x22, lambda d, s: d & ~s),
])  # fmt: skip
def test_raster_operations(rig, push, channel, rop, expected):
    """Bit 0 of a table's index is what is there, bit 1 the source: 0xCC is a copy, as everywhere."""
    random = np.random.default_rng(3)
    old, new = (random.integers(0, 1 << 32, (8, 16), np.uint32) for _ in range(2))
    source, target = Side(rig, A, channel.a, 16, 8, 4), Side(rig, B, channel.b, 16, 8, 4, 0x10)
    source.load(new)
    target.load(old)
    channel.run(blit(begin(push, target, source, operation=4).method(3, 0x2A0, rop), 0, 0, 16, 8))
    assert np.array_equal(target.look(), expected(old, new).astype(np.uint32))


def test_a_pattern_of_eight_by_eight(rig, push, channel):
    """PATCOPY: an opaque two-colour pattern, least significant bit first."""
    side = Side(rig, A, channel.a, 16, 16, 4)
    bitmap = 0x8040201008040201
    pushed = begin(push, side, operation=4).method(3, 0x2A0, 0xF0).method(3, 0x2B0, 0, 0)
    pushed.method(3, 0x2E8, 2, 1, 0x111111, 0x222222, bitmap & 0xFFFFFFFF, bitmap >> 32)
    channel.run(rectangle(pushed, 0, 0, 16, 16, 0))
    expected = np.where(np.arange(16)[:, None] % 8 == np.arange(16)[None, :] % 8, 0x222222, 0x111111)
    assert np.array_equal(side.look(), expected)


def test_the_colour_key_is_left_out(rig, push, channel):
    source, target = Side(rig, A, channel.a, 4, 1, 4), Side(rig, B, channel.b, 4, 1, 4)
    source.load(np.array([[1, 2, 3, 2]], np.uint32))
    target.load(np.array([[9, 9, 9, 9]], np.uint32))
    channel.run(blit(begin(push, target, source).method(3, 0x294, 6, 2, 1), 0, 0, 4, 1))
    assert target.look().tolist() == [[1, 9, 3, 9]]


def test_blending_by_a_constant(rig, push, channel):
    source, target = Side(rig, A, channel.a, 1, 1, 4), Side(rig, B, channel.b, 1, 1, 4)
    source.load(np.array([[0xFFFF0000]], np.uint32))
    target.load(np.array([[0xFF0000FF]], np.uint32))
    channel.run(blit(begin(push, target, source, operation=2).method(3, 0x2A4, 128 << 23), 0, 0, 1, 1))
    value = int(target.look()[0, 0])
    assert abs((value >> 16 & 0xFF) - 128) <= 1
    assert abs((value & 0xFF) - 127) <= 1


def sifc(push, width, height, x, y, dx=1, dy=1):
    return push.method(3, 0x838, width, height, 0, dx, 0, dy, 0, x, 0, y)


def test_an_image_from_the_pushbuffer(rig, push, channel):
    target = Side(rig, B, channel.b, 32, 16, 4, 0x10)
    pixels = np.random.default_rng(4).integers(0, 1 << 32, (5, 6), np.uint32)
    pushed = begin(push, target).method(3, 0x800, 0, BGRA8)
    channel.run(sifc(pushed, 6, 5, 3, 2).same(3, 0x860, *pixels.reshape(-1).tolist()))
    expected = np.zeros((16, 32), np.uint32)
    expected[2:7, 3:9] = pixels
    assert np.array_equal(target.look(), expected)


def test_a_bitmap_from_the_pushbuffer_is_how_text_is_drawn(rig, push, channel):
    target = Side(rig, B, channel.b, 16, 4, 4)
    target.load(np.full((4, 16), 7, np.uint32))
    rows = [0b10110001, 0b01000010, 0b11111111]
    pushed = begin(push, target).method(3, 0x800, 1, BGRA8, 0, 0, 2, 0xAA, 0xBB).method(3, 0x81C, 1)
    channel.run(sifc(pushed, 8, 3, 4, 1).same(3, 0x860, *rows))
    expected = np.full((4, 16), 7, np.uint32)
    for y, row in enumerate(rows):
        for x in range(8):
            expected[1 + y, 4 + x] = 0xBB if row >> 7 - x & 1 else 0xAA
    assert np.array_equal(target.look(), expected)


def test_lines_and_triangles(rig, push, channel):
    side = Side(rig, A, channel.a, 16, 16, 4)
    channel.run(begin(push, side).method(3, 0x580, 1, BGRA8, 1).method(3, 0x600, 2, 3, 9, 3))
    expected = np.zeros((16, 16), np.uint32)
    expected[3, 2:9] = 1
    assert np.array_equal(side.look(), expected)
    channel.run(begin(push, side).method(3, 0x580, 3, BGRA8, 2).method(3, 0x600, 0, 8, 8, 8, 0, 16))
    for y in range(8):
        expected[8 + y, : 7 - y] = 2  # centres on the long edge belong to the next triangle
    assert np.array_equal(side.look(), expected)


@pytest.mark.parametrize(("method", "value", "code"), [(0x200, 0x77, 5), (0x208, 0x3, 4), (0x2AC, 9, 5)])
def test_what_no_surface_can_be_is_a_data_error(rig, push, channel, method, value, code):
    side = Side(rig, A, channel.a, 16, 16, 4, 0)
    channel.submit(rectangle(begin(push, side).method(3, method, value), 0, 0, 8, 8, 1))
    rig.until(lambda: rig.rd(0x400100) & 0x100000, "DATA_ERROR")
    assert rig.rd(0x400110) == code
    assert not side.look().any()


def test_a_surface_that_is_not_there_is_a_fault(rig, push, channel):
    side = Side(rig, 0x5000_0000, channel.a, 64, 64, 4, 0)
    channel.submit(rectangle(begin(push, side), 0, 0, 8, 8, 1))
    rig.until(lambda: rig.rd(0x259C) & 1, "a fault")
    assert rig.rd(0x2804) == 0x5000_0000
    assert rig.rd(0x280C) & 0x80, "a write"


@pytest.mark.parametrize("number", sorted(FORMATS))
def test_colours_survive_packing(number):
    """What a format can hold comes back; all pixel values of unsigned formats do."""
    kind = FORMATS[number]
    pixels = np.random.default_rng(number).integers(0, 256, (64, kind.size), np.uint8)
    if kind.kind == "FLOAT":
        pixels = kind.pack(np.abs(np.random.default_rng(number).normal(size=(64, 4))))
    again = kind.pack(kind.unpack(pixels))
    wide = kind.kind in ("SNORM",)
    colours, back = kind.unpack(pixels), kind.unpack(again)
    assert np.allclose(colours, back, atol=1e-12)
    if not wide and all(each.channel >= 0 for each in kind.components):
        assert np.array_equal(again, pixels)


@pytest.mark.parametrize(("number", "bits", "colour"), [
    (0xD5, 0x04030201, (1, 2, 3, 4)), (0xCF, 0x04010203, (1, 2, 3, 4)), (0xD1, 0xC0000001, (1, 0, 0, 3)),
    (0xE8, 0xF800, (31, 0, 0, 1)), (0xE9, 0x8001, (0, 0, 1, 1)),
])  # fmt: skip
def test_where_the_components_lie(number, bits, colour):
    kind = FORMATS[number]
    raw = np.frombuffer(bits.to_bytes(kind.size, "little"), np.uint8)
    scales = [1.0, 1.0, 1.0, 1.0]
    for each in kind.components:
        scales[each.channel] = (1 << each.bits) - 1
    assert np.allclose(kind.unpack(raw) * scales, colour)

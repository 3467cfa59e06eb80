"""Class 0x902d, 2D: fills, blits with scaling and conversion, and images that come in the pushbuffer. rnndb
graph/g80_2d.xml.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from gpuvm.gpu.classes import raster
from gpuvm.gpu.classes.canvas import Canvas, Pixels, bands
from gpuvm.gpu.classes.condition import Conditional
from gpuvm.gpu.classes.formats import FORMATS, Format
from gpuvm.gpu.classes.graph import COMMON
from gpuvm.gpu.classes.method import DataError, Method, MethodTable, Rejected
from gpuvm.gpu.classes.operation import Operation
from gpuvm.gpu.classes.tiling import Surface

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100


def _surface(base: int, name: str) -> tuple[Method, ...]:
    names = ("FORMAT", "LINEAR", "BLOCK_DIMENSIONS", "DEPTH", "LAYER", "PITCH", "WIDTH", "HEIGHT",
             "ADDRESS_HIGH", "ADDRESS_LOW")  # fmt: skip
    return tuple(Method(base + 4 * at, f"{name}_{each}") for at, each in enumerate(names))


TWOD = MethodTable(
    0x902D,
    "GF100_2D",
    (
        *COMMON,
        *_surface(0x0200, "DST"),
        Method(0x0228, "UNK228", count=2),
        *_surface(0x0230, "SRC"),
        Method(0x0258, "UNK258", count=2),
        Method(0x0260, "SINGLE_GPC"),
        Method(0x0264, "COND_ADDRESS_HIGH"),
        Method(0x0268, "COND_ADDRESS_LOW"),
        Method(0x026C, "COND_MODE", trigger=True),
        Method(0x0270, "UNK0270", count=4),
        Method(0x0280, "CLIP_X"),
        Method(0x0284, "CLIP_Y"),
        Method(0x0288, "CLIP_W"),
        Method(0x028C, "CLIP_H"),
        Method(0x0290, "CLIP_ENABLE"),
        Method(0x0294, "COLOR_KEY_FORMAT"),
        Method(0x0298, "COLOR_KEY"),
        Method(0x029C, "COLOR_KEY_ENABLE"),
        Method(0x02A0, "ROP"),
        Method(0x02A4, "BETA1"),
        Method(0x02A8, "BETA4"),
        Method(0x02AC, "OPERATION"),
        Method(0x02B0, "PATTERN_OFFSET"),
        Method(0x02B4, "PATTERN_SELECT"),
        Method(0x02B8, "SET_DST_COLOR_RENDER_TO_ZETA_SURFACE"),
        Method(0x02BC, "UNK02BC", count=8),
        Method(0x02DC, "UNK2DC", count=3),
        Method(0x02E8, "PATTERN_COLOR_FORMAT"),
        Method(0x02EC, "PATTERN_BITMAP_FORMAT"),
        Method(0x02F0, "PATTERN_BITMAP_COLOR", count=2),
        Method(0x02F8, "PATTERN_BITMAP", count=2),
        Method(0x0300, "PATTERN_X8R8G8B8", count=64),
        Method(0x0400, "PATTERN_R5G6B5", count=32),
        Method(0x0480, "PATTERN_X1R5G5B5", count=32),
        Method(0x0500, "PATTERN_Y8", count=16),
        Method(0x0540, "DRAW_COLOR_LONG", count=4),
        Method(0x0580, "DRAW_SHAPE"),
        Method(0x0584, "DRAW_COLOR_FORMAT"),
        Method(0x0588, "DRAW_COLOR"),
        Method(0x058C, "UNK58C"),
        Method(0x05E0, "DRAW_POINT16", trigger=True),
        Method(0x0600, "DRAW_POINT32_X", count=64, stride=8),
        Method(0x0604, "DRAW_POINT32_Y", trigger=True, count=64, stride=8),
        Method(0x0800, "SIFC_BITMAP_ENABLE"),
        Method(0x0804, "SIFC_FORMAT"),
        Method(0x0808, "SIFC_BITMAP_FORMAT"),
        Method(0x080C, "SIFC_BITMAP_LSB_FIRST"),
        Method(0x0810, "SIFC_BITMAP_LINE_PACK_MODE"),
        Method(0x0814, "SIFC_BITMAP_COLOR_BIT0"),
        Method(0x0818, "SIFC_BITMAP_COLOR_BIT1"),
        Method(0x081C, "SIFC_BITMAP_WRITE_BIT0_ENABLE"),
        Method(0x0838, "SIFC_WIDTH"),
        Method(0x083C, "SIFC_HEIGHT"),
        Method(0x0840, "SIFC_DX_DU_FRACT"),
        Method(0x0844, "SIFC_DX_DU_INT"),
        Method(0x0848, "SIFC_DY_DV_FRACT"),
        Method(0x084C, "SIFC_DY_DV_INT"),
        Method(0x0850, "SIFC_DST_X_FRACT"),
        Method(0x0854, "SIFC_DST_X_INT"),
        Method(0x0858, "SIFC_DST_Y_FRACT"),
        Method(0x085C, "SIFC_DST_Y_INT", trigger=True),
        Method(0x0860, "SIFC_DATA", trigger=True),
        Method(0x0870, "UNK0870"),
        Method(0x0880, "UNK0880"),
        Method(0x0884, "SET_PIXELS_FROM_MEMORY_CORRAL_SIZE"),
        Method(0x0888, "SET_PIXELS_FROM_MEMORY_SAFE_OVERLAP"),
        Method(0x088C, "BLIT_CONTROL"),
        Method(0x08B0, "BLIT_DST_X"),
        Method(0x08B4, "BLIT_DST_Y"),
        Method(0x08B8, "BLIT_DST_W"),
        Method(0x08BC, "BLIT_DST_H"),
        Method(0x08C0, "BLIT_DU_DX_FRACT"),
        Method(0x08C4, "BLIT_DU_DX_INT"),
        Method(0x08C8, "BLIT_DV_DY_FRACT"),
        Method(0x08CC, "BLIT_DV_DY_INT"),
        Method(0x08D0, "BLIT_SRC_X_FRACT"),
        Method(0x08D4, "BLIT_SRC_X_INT"),
        Method(0x08D8, "BLIT_SRC_Y_FRACT"),
        Method(0x08DC, "BLIT_SRC_Y_INT", trigger=True),
        Method(0x08E0, "FIRMWARE", count=0x20),
    ),
)

ORIGIN_CORNER, BILINEAR = 1 << 0, 1 << 4
BITMAP_COLOURS = (0xE8, 0xF8, 0xCF, 0xF3)
"""Formats of the colours of bitmaps and patterns, by PATTERN_COLOR_FORMAT."""

SIFC_DATA_MAX = 1 << 26
_ONE = 1 << 32


@dataclass(frozen=True, slots=True)
class Incoming:
    """An image that comes in the pushbuffer: its format (None: a bitmap) and the bytes of a line."""

    format: Format | None
    width: int
    height: int
    stride: int

    @property
    def size(self) -> int:
        """Bytes of the whole image, in words."""
        return self.stride * self.height + 3 & ~3


class TwoD(Conditional):
    """A 2D object."""

    TABLE: ClassVar = TWOD
    COND_ADDRESS: ClassVar = 0x264

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        self.state[0x2AC >> 2] = 3  # SRCCOPY
        self._points: list[tuple[int, int]] = []
        self._incoming: Incoming | None = None
        self._data = bytearray()

    # Surfaces

    def _format(self, method: int) -> Format:
        found = FORMATS.get(self.state[method >> 2])
        if found is None:
            raise Rejected(DataError.INVALID_ENUM)
        return found

    def _canvas(self, base: int, kind: Format) -> Canvas:
        state, at = self.state, base >> 2
        _, linear, mode, depth, layer, pitch, width, height = state[at : at + 8]
        layout = None if linear & 1 else Surface(mode, width * kind.size, height, depth)
        canvas = Canvas(
            self.gpu, self.channel, self.address(base + 0x20), width, height, kind.size, pitch, layout,
            0 if linear & 1 else layer,
        )  # fmt: skip
        canvas.check()
        return canvas

    def _window(self, canvas: Canvas, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """Clip a rectangle by the surface and the clip rectangle: left, top, right, bottom."""
        left, top, right, bottom = canvas.clip(x, y, width, height)
        if self.state[0x290 >> 2] & 1:
            clip_x, clip_y, clip_w, clip_h = (_signed(each) for each in self.state[0x280 >> 2 : 0x290 >> 2])
            left, top = max(left, clip_x), max(top, clip_y)
            right, bottom = min(right, clip_x + clip_w), min(bottom, clip_y + clip_h)
        return left, top, right, bottom

    def _operation(self, kind: Format) -> Operation:
        return Operation(self.state, kind)

    def _put(
        self, operation: Operation, target: Canvas, x: int, y: int, pixels: Pixels, colours: Format,
        mask: npt.NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        """Combine source pixels of format `colours` with what is there; `mask` says which ones count."""
        keyed = operation.key(pixels, colours)
        if keyed is not None:
            mask = keyed if mask is None else mask & keyed
        if operation.plain and mask is None:
            target.write(x, y, operation.convert(pixels, colours))
            return
        height, width = pixels.shape[:2]
        old = target.read(x, y, width, height)
        new = operation.combine(old, pixels, colours, x, y)
        target.write(x, y, new if mask is None else np.where(mask[..., None], new, old))

    # Shapes of one colour

    def on_draw_point16(self, value: int) -> None:
        self._point(_signed16(value & 0xFFFF), _signed16(value >> 16))

    def on_draw_point32_y(self, index: int, value: int) -> None:
        if index == 0:
            self._points.clear()
        self._point(_signed(self.state[0x600 + 8 * index >> 2]), _signed(value))

    def _point(self, x: int, y: int) -> None:
        shape = self.state[0x580 >> 2]
        self._points.append((x, y))
        if len(self._points) < raster.POINTS.get(shape, 1):
            return
        points = self._points[:]
        del self._points[: -1 if shape == raster.LINE_STRIP else None]
        if shape not in raster.POINTS:
            raise Rejected(DataError.INVALID_ENUM)
        if self.passed:
            self._draw(shape, points)

    def _draw(self, shape: int, points: list[tuple[int, int]]) -> None:
        kind, colours = self._format(0x200), self._format(0x584)
        target, operation = self._canvas(0x200, kind), self._operation(kind)
        size = min(colours.size, 4)
        source = self.state[0x588 >> 2].to_bytes(4, "little")[:size].ljust(colours.size, b"\0")
        left, top, width, height = raster.bounds(shape, points)
        left, top, right, bottom = self._window(target, left, top, width, height)
        if right <= left or bottom <= top:
            return
        value = np.frombuffer(source, np.uint8)
        for first, lines in bands(self.gpu, self.channel, right - left, bottom - top):
            mask = raster.cover(shape, points, left, top + first, right - left, lines)
            pixels = np.broadcast_to(value, (lines, right - left, colours.size))
            self._put(operation, target, left, top + first, pixels, colours, mask)

    # Blits

    def on_blit_src_y_int(self, value: int) -> None:
        if not self.passed:
            return
        began = time.perf_counter_ns()
        state = self.state
        from_kind, kind = self._format(0x230), self._format(0x200)
        source, target = self._canvas(0x230, from_kind), self._canvas(0x200, kind)
        x, y, width, height = (_signed(each) for each in state[0x8B0 >> 2 : 0x8C0 >> 2])
        left, top, right, bottom = self._window(target, x, y, width, height)
        if right <= left or bottom <= top or source.width == 0 or source.height == 0:
            return
        du, dv, u, v = (_fixed(state[at >> 2], state[(at >> 2) + 1]) for at in (0x8C0, 0x8C8, 0x8D0, 0x8D8))
        half = 0 if state[0x88C >> 2] & ORIGIN_CORNER else 1
        # Positions of the first pixel's centre, in 1 / 2**32 of a source pixel.
        u += du * (left - x) + half * du // 2
        columns = _steps(u, du, right - left)
        operation = self._operation(kind)
        upwards = top - y >= 0 and y > v >> 32
        for first, lines in bands(self.gpu, self.channel, right - left, bottom - top, upwards):
            rows = _steps(v + dv * (top + first - y) + half * dv // 2, dv, lines)
            if state[0x88C >> 2] & BILINEAR and (du != _ONE or dv != _ONE):
                pixels = _bilinear(source, from_kind, columns, rows, half)
                self._put(operation, target, left, top + first, kind.pack(pixels), kind)
            else:
                pixels_raw = source.sample((columns >> 32)[None, :], (rows >> 32)[:, None])
                self._put(operation, target, left, top + first, pixels_raw, from_kind)
        work = self.gpu.counters.channels[self.channel.number]
        work.copies += 1
        work.copy_ns += time.perf_counter_ns() - began

    # Images in the pushbuffer

    def on_sifc_dst_y_int(self, value: int) -> None:
        """The last parameter: data follows."""
        state = self.state
        width, height = state[0x838 >> 2], state[0x83C >> 2]
        if width > 0x10000 or height > 0x10000:
            raise Rejected(DataError.INVALID_VALUE)
        kind: Format | None = None
        if state[0x800 >> 2] & 1:
            if state[0x808 >> 2] != 0:
                raise Rejected(DataError.INVALID_ENUM)
            stride = {0: 0, 1: -(-width // 8), 2: -(-width // 32) * 4}.get(state[0x810 >> 2], 0)
            if not stride:
                # Lines follow each other bit by bit.
                width, height, stride = width * height, 1, -(-width * height // 8)
        else:
            kind = self._format(0x804)
            stride = width * kind.size + 3 & ~3
        image = Incoming(kind, width, height, stride)
        if image.size > SIFC_DATA_MAX:
            raise Rejected(DataError.INVALID_VALUE)
        self._data.clear()
        self._incoming = image if image.size else None

    def on_sifc_data(self, value: int) -> None:
        self.burst_sifc_data(memoryview(value.to_bytes(4, "little")).cast("I"))

    def burst_sifc_data(self, words: memoryview) -> None:
        """Collect the image; the last word draws it."""
        image = self._incoming
        if image is None:
            raise Rejected(DataError.INVALID_OPERATION)
        self._data += words.cast("B")
        if len(self._data) < image.size:
            return
        self._incoming = None
        data = np.frombuffer(bytes(self._data[: image.size]), np.uint8)
        self._data.clear()
        if self.passed:
            self._image(image, data)
        self.gpu.counters.channels[self.channel.number].bytes_inline += image.size

    def _image(self, image: Incoming, data: Pixels) -> None:
        state = self.state
        mask: npt.NDArray[np.bool_] | None = None
        lines = data[: image.stride * image.height].reshape(image.height, image.stride)
        if image.format is None:
            colours, pixels, mask = self._bitmap(lines, image.width, state[0x838 >> 2], state[0x83C >> 2])
        else:
            colours = image.format
            pixels = lines[:, : image.width * colours.size].reshape(image.height, image.width, colours.size)
        kind = self._format(0x200)
        target, operation = self._canvas(0x200, kind), self._operation(kind)
        dx, dy, x, y = (_fixed(state[at >> 2], state[(at >> 2) + 1]) for at in (0x840, 0x848, 0x850, 0x858))
        if dx <= 0 or dy <= 0:
            raise Rejected(DataError.INVALID_VALUE)
        height, width = pixels.shape[:2]
        x_end, y_end = x + dx * width, y + dy * height
        left, top, right, bottom = self._window(
            target, x >> 32, y >> 32, (x_end >> 32) - (x >> 32), (y_end >> 32) - (y >> 32)
        )
        if right <= left or bottom <= top:
            return
        columns = np.array([min(((at << 32) - x) // dx, width - 1) for at in range(left, right)]).clip(0)
        rows = np.array([min(((at << 32) - y) // dy, height - 1) for at in range(top, bottom)]).clip(0)
        chosen = pixels[rows[:, None], columns[None, :]]
        covered = None if mask is None else mask[rows[:, None], columns[None, :]]
        self._put(operation, target, left, top, chosen, colours, covered)

    def _bitmap(
        self, lines: Pixels, bits: int, width: int, height: int
    ) -> tuple[Format, Pixels, npt.NDArray[np.bool_] | None]:
        """Expand a bitmap: format, pixels, and which are drawn (None: all)."""
        order = "little" if self.state[0x80C >> 2] & 1 else "big"
        ones = np.unpackbits(lines, axis=1, count=bits, bitorder=order).reshape(height, width).astype(bool)  # type: ignore[call-overload]
        colours = self._format(0x804)
        pair = np.array([list(self.state[at >> 2].to_bytes(4, "little")) for at in (0x814, 0x818)], np.uint8)
        padded = np.zeros((2, max(4, colours.size)), np.uint8)
        padded[:, :4] = pair
        pixels = padded[ones.astype(np.intp)][..., : colours.size]
        return colours, pixels, None if self.state[0x81C >> 2] & 1 else ones


def _bilinear(
    source: Canvas, kind: Format, columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], half: int
) -> npt.NDArray[np.float64]:
    """Blend the four pixels around each position."""
    shift = half * (_ONE >> 1)
    u, v = columns - shift, rows - shift
    left, top = u >> 32, v >> 32
    across = ((u & (_ONE - 1)) / _ONE)[None, :, None]
    down = ((v & (_ONE - 1)) / _ONE)[:, None, None]
    corners = [
        kind.unpack(source.sample((left + right)[None, :], (top + below)[:, None]))
        for below in (0, 1)
        for right in (0, 1)
    ]
    upper = corners[0] * (1 - across) + corners[1] * across
    lower = corners[2] * (1 - across) + corners[3] * across
    blended: npt.NDArray[np.float64] = upper * (1 - down) + lower * down
    return blended


def _steps(start: int, step: int, count: int) -> npt.NDArray[np.int64]:
    """Positions from `start` on, kept to what 64 bits hold."""
    limit = 1 << 62
    if abs(start) + abs(step) * count >= limit:
        return np.array([max(-limit, min(limit, start + step * at)) for at in range(count)], np.int64)
    return start + step * np.arange(count, dtype=np.int64)


def _fixed(fraction: int, integer: int) -> int:
    return _signed(integer) << 32 | fraction


def _signed(word: int) -> int:
    return word - (1 << 32) if word & 1 << 31 else word


def _signed16(half: int) -> int:
    return half - (1 << 16) if half & 1 << 15 else half

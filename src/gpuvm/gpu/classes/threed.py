"""Class 0x9097, 3D: macros, constant buffers, reports and clears of render targets. Draws keep their state; what
they would draw is not carried out. rnndb graph/gf100_3d.xml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from gpuvm.gpu.classes.canvas import Canvas, bands
from gpuvm.gpu.classes.compute import CONSTANT_BUFFER, upload_constants
from gpuvm.gpu.classes.condition import Conditional
from gpuvm.gpu.classes.formats import FORMATS
from gpuvm.gpu.classes.graph import COMMON
from gpuvm.gpu.classes.method import DataError, Method, MethodTable, Rejected
from gpuvm.gpu.classes.report import QUERY, release
from gpuvm.gpu.classes.tiling import Surface

if TYPE_CHECKING:
    from gpuvm.gpu.channel import Channel
    from gpuvm.gpu.device import Gf100

RENDER_TARGETS = 8
_TARGET = ("ADDRESS_HIGH", "ADDRESS_LOW", "HORIZ", "VERT", "FORMAT", "BLOCK_DIMENSIONS", "ARRAY_MODE", "LAYER_STRIDE",
           "BASE_LAYER")  # fmt: skip

THREED = MethodTable(
    0x9097,
    "GF100_3D",
    (
        *COMMON,
        *QUERY,
        *CONSTANT_BUFFER,
        *(
            Method(0x0800 + 4 * at, f"RT_{name}", count=RENDER_TARGETS, stride=0x40)
            for at, name in enumerate(_TARGET)
        ),
        Method(0x0C00, "VIEWPORT_HORIZ", count=16, stride=16),
        Method(0x0C04, "VIEWPORT_VERT", count=16, stride=16),
        Method(0x0D80, "CLEAR_COLOR", count=4),
        Method(0x0D90, "CLEAR_DEPTH"),
        Method(0x0DA0, "CLEAR_STENCIL"),
        Method(0x0E00, "SCISSOR_ENABLE", count=16, stride=16),
        Method(0x0E04, "SCISSOR_HORIZ", count=16, stride=16),
        Method(0x0E08, "SCISSOR_VERT", count=16, stride=16),
        Method(0x0FE0, "ZETA_ADDRESS_HIGH"),
        Method(0x0FE4, "ZETA_ADDRESS_LOW"),
        Method(0x0FE8, "ZETA_FORMAT"),
        Method(0x0FEC, "ZETA_BLOCK_DIMENSIONS"),
        Method(0x0FF0, "ZETA_LAYER_STRIDE"),
        Method(0x0FF4, "SCREEN_SCISSOR_HORIZ"),
        Method(0x0FF8, "SCREEN_SCISSOR_VERT"),
        Method(0x10F8, "CLEAR_FLAGS"),
        Method(0x121C, "RT_CONTROL"),
        Method(0x1228, "ZETA_HORIZ"),
        Method(0x122C, "ZETA_VERT"),
        Method(0x1230, "ZETA_ARRAY_MODE"),
        Method(0x139C, "STENCIL_FRONT_MASK"),
        Method(0x1538, "ZETA_ENABLE"),
        Method(0x1550, "COND_ADDRESS_HIGH"),
        Method(0x1554, "COND_ADDRESS_LOW"),
        Method(0x1558, "COND_MODE", trigger=True),
        Method(0x15D0, "MULTISAMPLE_MODE"),
        Method(0x179C, "ZETA_BASE_LAYER"),
        Method(0x19D0, "CLEAR_BUFFERS", trigger=True),
    ),
    keep_all=True,
)

ZETA_FORMATS = {
    # number: (bytes, bit and width of depth, bit of stencil or None)
    0x0A: (4, 0, 32, None),
    0x13: (2, 0, 16, None),
    0x14: (4, 8, 24, 0),
    0x15: (4, 0, 24, None),
    0x16: (4, 0, 24, 24),
    0x18: (4, 0, 24, None),
    0x19: (8, 0, 32, 32),
    0x1D: (8, 0, 24, 32),
    0x1E: (8, 0, 32, None),
    0x1F: (8, 0, 32, 32),
}
"""G80_ZETA_FORMAT; 32 bits of depth are a float."""

SAMPLES = {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (2, 1), 4: (1, 0), 5: (2, 1), 6: (0, 0), 8: (1, 1), 9: (1, 1),
           10: (2, 1), 11: (2, 1)}  # fmt: skip
"""Log2 of samples across and down, by MULTISAMPLE_MODE."""

CLEAR_Z, CLEAR_S = 1 << 0, 1 << 1
FLAG_STENCIL_MASK, FLAG_SCISSOR, FLAG_VIEWPORT = 1 << 0, 1 << 8, 1 << 12
LINEAR, VOLUME = 1 << 12, 1 << 16
SCREEN_MAX = 0x4000


class ThreeD(Conditional):
    """A 3D object."""

    TABLE: ClassVar = THREED
    COND_ADDRESS: ClassVar = 0x1550

    def __init__(self, gpu: Gf100, channel: Channel) -> None:
        super().__init__(gpu, channel)
        for method in (0xFF4, 0xFF8):
            self.state[method >> 2] = SCREEN_MAX << 16

    def on_query_get(self, value: int) -> None:
        release(self, value)

    def on_cb_data(self, index: int, value: int) -> None:
        upload_constants(self, memoryview(value.to_bytes(4, "little")).cast("I"))

    def burst_cb_data(self, words: memoryview) -> None:
        upload_constants(self, words)

    # Clears

    def on_clear_buffers(self, value: int) -> None:
        if not self.passed:
            return
        layer = value >> 10 & 0x7FF
        if value >> 2 & 0xF:
            self._clear_colour(value >> 6 & 0xF, value >> 2 & 0xF, layer)
        if value & (CLEAR_Z | CLEAR_S) and self.state[0x1538 >> 2] & 1:
            self._clear_zeta(value & CLEAR_Z, value & CLEAR_S, layer)

    def _window(self, width: int, height: int) -> tuple[int, int, int, int]:
        """What a clear covers: left, top, right, bottom, in samples."""
        state, flags = self.state, self.state[0x10F8 >> 2]
        screen_x, screen_y = state[0xFF4 >> 2], state[0xFF8 >> 2]
        left, top = screen_x & 0xFFFF, screen_y & 0xFFFF
        right, bottom = left + (screen_x >> 16), top + (screen_y >> 16)
        if flags & FLAG_SCISSOR and state[0xE00 >> 2] & 1:
            across, down = state[0xE04 >> 2], state[0xE08 >> 2]
            left, top = max(left, across & 0xFFFF), max(top, down & 0xFFFF)
            right, bottom = min(right, across >> 16), min(bottom, down >> 16)
        if flags & FLAG_VIEWPORT:
            across, down = state[0xC00 >> 2], state[0xC04 >> 2]
            left, top = max(left, across & 0xFFFF), max(top, down & 0xFFFF)
            right = min(right, (across & 0xFFFF) + (across >> 16))
            bottom = min(bottom, (down & 0xFFFF) + (down >> 16))
        ms_x, ms_y = SAMPLES.get(state[0x15D0 >> 2] & 0xF, (0, 0))
        return left << ms_x, top << ms_y, min(right << ms_x, width), min(bottom << ms_y, height)

    def _canvas(
        self, address: int, size: int, horizontal: int, vertical: int, mode: int, array: int, stride: int, layer: int
    ) -> Canvas:  # fmt: skip
        """Return one layer of a render target."""
        if mode & LINEAR:
            width = horizontal // size
            canvas = Canvas(self.gpu, self.channel, address, width, vertical, size, horizontal, None)
        elif array & VOLUME:
            layout = Surface(mode & 0xFFF, horizontal * size, vertical, array & 0xFFFF)
            canvas = Canvas(self.gpu, self.channel, address, horizontal, vertical, size, 0, layout, layer)
        else:
            layout = Surface(mode & 0xFFF, horizontal * size, vertical, 1)
            start = address + 4 * stride * layer
            canvas = Canvas(self.gpu, self.channel, start, horizontal, vertical, size, 0, layout)
        canvas.check()
        return canvas

    def _clear_colour(self, index: int, channels: int, layer: int) -> None:
        control = self.state[0x121C >> 2]
        target = control >> 4 + 3 * index & 7 if index < min(control & 0xF, RENDER_TARGETS) else index & 7
        base = 0x800 + 0x40 * target
        at = base >> 2
        horizontal, vertical, number, mode, array, stride, first = self.state[at + 2 : at + 9]
        if number == 0:
            return
        kind = FORMATS.get(number)
        if kind is None:
            raise Rejected(DataError.INVALID_ENUM)
        canvas = self._canvas(
            self.address(base), kind.size, horizontal, vertical, mode, array, stride, first + layer
        )
        value = kind.pack_words(self.state[0xD80 >> 2 : 0xD90 >> 2])
        mask = sum(
            (1 << each.bits) - 1 << each.low
            for each in kind.components
            if each.channel < 0 or channels >> each.channel & 1
        )
        self._fill(canvas, value, mask)

    def _clear_zeta(self, depth: int, stencil: int, layer: int) -> None:
        state = self.state
        found = ZETA_FORMATS.get(state[0xFE8 >> 2])
        if found is None:
            raise Rejected(DataError.INVALID_ENUM)
        size, low, bits, stencil_low = found
        value = mask = 0
        if depth:
            word = state[0xD90 >> 2]
            if bits < 32:
                given = float(np.array([word], np.uint32).view(np.float32)[0])
                word = round(min(max(given, 0.0), 1.0) * ((1 << bits) - 1)) if given == given else 0
            value, mask = word << low, (1 << bits) - 1 << low
        if stencil and stencil_low is not None:
            kept = state[0x139C >> 2] & 0xFF if state[0x10F8 >> 2] & FLAG_STENCIL_MASK else 0xFF
            value |= (state[0xDA0 >> 2] & 0xFF) << stencil_low
            mask |= kept << stencil_low
        if not mask:
            return
        canvas = self._canvas(
            self.address(0xFE0), size, state[0x1228 >> 2], state[0x122C >> 2], state[0xFEC >> 2],
            state[0x1230 >> 2], state[0xFF0 >> 2], state[0x179C >> 2] + layer,
        )  # fmt: skip
        self._fill(canvas, value.to_bytes(size, "little"), mask)

    def _fill(self, canvas: Canvas, value: bytes, mask: int) -> None:
        """Set the bits in `mask` of all pixels that the clear covers."""
        left, top, right, bottom = self._window(canvas.width, canvas.height)
        if right <= left or bottom <= top:
            return
        if mask == (1 << 8 * canvas.size) - 1:
            canvas.fill(left, top, right - left, bottom - top, value)
            return
        bits = np.frombuffer(mask.to_bytes(canvas.size, "little"), np.uint8)
        new = np.frombuffer(value, np.uint8) & bits
        for first, lines in bands(self.gpu, self.channel, right - left, bottom - top):
            old = canvas.read(left, top + first, right - left, lines)
            canvas.write(left, top + first, old & ~bits | new)

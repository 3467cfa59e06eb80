"""Colour formats of surfaces: where the components of a pixel lie, and conversions. rnndb g80_defs.xml
(G80_SURFACE_FORMAT).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Colours = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Component:
    """`bits` bits from bit `low` of a pixel; channel 0 to 3 is R, G, B, A, -1 is not used."""

    channel: int
    low: int
    bits: int


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes
    ----------
    kind : str
        UNORM, SNORM, SRGB, UINT, SINT or FLOAT.
    size : int
        Bytes of a pixel.
    """

    number: int
    name: str
    kind: str
    size: int
    components: tuple[Component, ...]

    @property
    def has_alpha(self) -> bool:
        return any(each.channel == 3 for each in self.components)

    def unpack(self, pixels: Pixels) -> Colours:
        """Return R, G, B, A of pixels [..., size]; what a format lacks is 0, or 1 for A."""
        colours = np.zeros((*pixels.shape[:-1], 4))
        colours[..., 3] = 1
        for each in self.components:
            if each.channel >= 0:
                colours[..., each.channel] = self._value(_bits(pixels, each), each)
        return colours

    def _value(self, raw: npt.NDArray[np.uint64], each: Component) -> Colours:
        top = (1 << each.bits) - 1
        if self.kind == "FLOAT":
            return _to_float(raw, each.bits)
        if self.kind in ("SNORM", "SINT"):
            sign = raw >> np.uint64(each.bits - 1) & np.uint64(1)
            signed = raw.astype(np.int64) - (sign.astype(np.int64) << each.bits)
            return signed.astype(float) if self.kind == "SINT" else np.maximum(signed / (top >> 1), -1.0)
        if self.kind == "UINT":
            return raw.astype(float)
        value = raw / top
        if self.kind == "SRGB" and each.channel < 3:
            value = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
        return value

    def pack(self, colours: Colours) -> Pixels:
        """Return pixels [..., size] of colours [..., 4]."""
        words = np.zeros((*colours.shape[:-1], 2), np.uint64)
        for each in self.components:
            if each.channel < 0:
                continue
            raw = self._raw(colours[..., each.channel], each) & np.uint64((1 << each.bits) - 1)
            words[..., each.low >> 6] |= raw << np.uint64(each.low & 63)
        return np.ascontiguousarray(words).view(np.uint8)[..., : self.size]

    def _raw(self, value: Colours, each: Component) -> npt.NDArray[np.uint64]:
        top = (1 << each.bits) - 1
        if self.kind == "FLOAT":
            return _from_float(value, each.bits)
        value = np.nan_to_num(value, nan=0.0, posinf=2.0**63, neginf=-(2.0**63))
        if self.kind in ("SINT", "SNORM"):
            half = top >> 1
            scaled = value if self.kind == "SINT" else np.clip(value, -1, 1) * half
            return np.rint(np.clip(scaled, -half - 1, half)).astype(np.int64).view(np.uint64)
        if self.kind == "UINT":
            return np.rint(np.clip(value, 0, top)).astype(np.uint64)
        value = np.clip(value, 0, 1)
        if self.kind == "SRGB" and each.channel < 3:
            value = np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)
        return np.rint(value * top).astype(np.uint64)

    def pack_words(self, words: Sequence[int]) -> bytes:
        """Return one pixel of four 32-bit words as clear colours are given: floats, or integers of integer
        formats.
        """
        if self.kind in ("UINT", "SINT"):
            value = 0
            for each in self.components:
                if each.channel >= 0:
                    value |= (_clamped(words[each.channel], each.bits, self.kind)) << each.low
            return value.to_bytes(self.size, "little")
        floats = np.array(words, np.uint32).view(np.float32).astype(float)
        if self.kind == "FLOAT" and self.components[0].bits == 32:
            value = sum(words[each.channel] << each.low for each in self.components if each.channel >= 0)
            return value.to_bytes(self.size, "little")
        return self.pack(floats).tobytes()


def _clamped(word: int, bits: int, kind: str) -> int:
    top = (1 << bits) - 1
    if kind == "UINT":
        return min(word, top)
    signed = word - (1 << 32) if word >> 31 else word
    return max(-(top >> 1) - 1, min(top >> 1, signed)) & top


def _bits(pixels: Pixels, each: Component) -> npt.NDArray[np.uint64]:
    """Return the raw bits of a component, uint64[...]."""
    padded = np.zeros((*pixels.shape[:-1], 16), np.uint8)
    padded[..., : pixels.shape[-1]] = pixels
    words = padded.view(np.uint64)[..., each.low >> 6]
    return words >> np.uint64(each.low & 63) & np.uint64((1 << each.bits) - 1)


def _to_float(raw: npt.NDArray[np.uint64], bits: int) -> Colours:
    if bits == 32:
        return raw.astype(np.uint32).view(np.float32).astype(float)
    if bits == 16:
        return raw.astype(np.uint16).view(np.float16).astype(float)
    # 11 and 10 bits: an unsigned half with the mantissa cut short.
    return (raw.astype(np.uint16) << np.uint16(15 - bits)).view(np.float16).astype(float)


def _from_float(value: Colours, bits: int) -> npt.NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        if bits == 32:
            return value.astype(np.float32).view(np.uint32).astype(np.uint64)
        if bits == 16:
            return value.astype(np.float16).view(np.uint16).astype(np.uint64)
        half = np.where(np.isnan(value), np.nan, np.clip(value, 0, None)).astype(np.float16).view(np.uint16)
    return (half >> np.uint16(15 - bits)).astype(np.uint64)


_NAMES = {
    0xC0: "RGBA32_FLOAT", 0xC1: "RGBA32_SINT", 0xC2: "RGBA32_UINT", 0xC3: "RGBX32_FLOAT", 0xC4: "RGBX32_SINT",
    0xC5: "RGBX32_UINT", 0xC6: "RGBA16_UNORM", 0xC7: "RGBA16_SNORM", 0xC8: "RGBA16_SINT", 0xC9: "RGBA16_UINT",
    0xCA: "RGBA16_FLOAT", 0xCB: "RG32_FLOAT", 0xCC: "RG32_SINT", 0xCD: "RG32_UINT", 0xCE: "RGBX16_FLOAT",
    0xCF: "BGRA8_UNORM", 0xD0: "BGRA8_SRGB", 0xD1: "RGB10A2_UNORM", 0xD2: "RGB10A2_UINT", 0xD5: "RGBA8_UNORM",
    0xD6: "RGBA8_SRGB", 0xD7: "RGBA8_SNORM", 0xD8: "RGBA8_SINT", 0xD9: "RGBA8_UINT", 0xDA: "RG16_UNORM",
    0xDB: "RG16_SNORM", 0xDC: "RG16_SINT", 0xDD: "RG16_UINT", 0xDE: "RG16_FLOAT", 0xDF: "BGR10A2_UNORM",
    0xE0: "R11G11B10_FLOAT", 0xE3: "R32_SINT", 0xE4: "R32_UINT", 0xE5: "R32_FLOAT", 0xE6: "BGRX8_UNORM",
    0xE7: "BGRX8_SRGB", 0xE8: "B5G6R5_UNORM", 0xE9: "BGR5A1_UNORM", 0xEA: "RG8_UNORM", 0xEB: "RG8_SNORM",
    0xEC: "RG8_SINT", 0xED: "RG8_UINT", 0xEE: "R16_UNORM", 0xEF: "R16_SNORM", 0xF0: "R16_SINT", 0xF1: "R16_UINT",
    0xF2: "R16_FLOAT", 0xF3: "R8_UNORM", 0xF4: "R8_SNORM", 0xF5: "R8_SINT", 0xF6: "R8_UINT", 0xF7: "A8_UNORM",
    0xF8: "BGR5X1_UNORM", 0xF9: "RGBX8_UNORM", 0xFA: "RGBX8_SRGB", 0xFB: "BGR5X1_UNORM", 0xFC: "BGR5X1_UNORM",
    0xFD: "BGRX8_UNORM", 0xFE: "BGRX8_UNORM", 0xFF: "R32_UINT",
}  # fmt: skip
"""Names read from the lowest bit up."""


def _parse(number: int, name: str) -> Format:
    layout, kind = name.split("_")
    components: list[Component] = []
    low = 0
    for letters, width in re.findall(r"([RGBAX]+)(\d+)", layout):
        for letter in letters:
            components.append(Component("RGBA".find(letter), low, int(width)))
            low += int(width)
    return Format(number, name, kind, low // 8, tuple(components))


FORMATS: dict[int, Format] = {number: _parse(number, name) for number, name in _NAMES.items()}

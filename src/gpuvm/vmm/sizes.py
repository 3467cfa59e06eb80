"""Sizes as people write them: `256M`, `1G`, `65536`, `512MiB`."""

from __future__ import annotations

_FACTORS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes of a size; K, M, G and T are powers of 1024.

    Raises
    ------
    ValueError
        If it is none, or 0.
    """
    number = text.strip().upper().removesuffix("IB").removesuffix("B")
    factor = _FACTORS.get(number[-1:], 1)
    digits = number[:-1] if factor > 1 else number
    if not digits.isdecimal() or not digits.isascii() or int(digits) == 0:
        raise ValueError(f"a size such as 256M or 1G, got {text!r}")
    return int(digits) * factor


def format_size(size: int) -> str:
    """The shortest exact way to write a size; rounded to one decimal where there is none."""
    for letter in ("T", "G", "M", "K"):
        factor = _FACTORS[letter]
        if size >= factor:
            return f"{size // factor}{letter}" if size % factor == 0 else f"{size / factor:.1f}{letter}"
    return str(size)

"""Copy and fill commands as pushbuffer words: memory-to-memory (M2MF, class 0x9039) and the copy engine
(0x90b5)."""

from __future__ import annotations

from gpuvm.guest.driver.push import SUBCHANNEL_COPY, SUBCHANNEL_M2MF, Copy, M2mf, increment

LINE = 0x20000
"""Bytes of a line of a linear copy."""
MAX_LINES = 2047
"""Lines of one M2MF command."""
COPY_LINE, COPY_MAX_LINES = 0x8000, 0x1000
"""The same for the copy engine, whose counts have 16 and 13 bits."""


def m2mf_rectangle(
    destination: int, source: int, width: int, height: int, destination_pitch: int, source_pitch: int
) -> list[int]:
    """Copy `height` lines of `width` bytes; addresses are GPU virtual, pitches bytes. A source pitch of 0
    repeats one line."""
    words: list[int] = []
    sub = SUBCHANNEL_M2MF
    while height > 0:
        lines = min(height, MAX_LINES)
        words += increment(sub, M2mf.OFFSET_OUT_HIGH, destination >> 32, destination & 0xFFFFFFFF)
        words += increment(
            sub,
            M2mf.OFFSET_IN_HIGH,
            source >> 32,
            source & 0xFFFFFFFF,
            source_pitch,
            destination_pitch,
            width,
            lines,
        )
        words += increment(sub, M2mf.EXEC, M2mf.EXEC_LINEAR)
        destination += destination_pitch * lines
        source += source_pitch * lines
        height -= lines
    return words


def m2mf_linear(destination: int, source: int, size: int) -> list[int]:
    """Copy `size` bytes."""
    words: list[int] = []
    whole = size // LINE
    if whole:
        words = m2mf_rectangle(destination, source, LINE, whole, LINE, LINE)
        destination += whole * LINE
        source += whole * LINE
        size -= whole * LINE
    if size:
        words += m2mf_rectangle(destination, source, size, 1, size, size)
    return words


def copy_rectangle(
    destination: int, source: int, width: int, height: int, destination_pitch: int, source_pitch: int
) -> list[int]:
    """The same as `m2mf_rectangle` by the copy engine."""
    words = increment(
        SUBCHANNEL_COPY,
        Copy.SRC_ADDRESS_HIGH,
        source >> 32,
        source & 0xFFFFFFFF,
        destination >> 32,
        destination & 0xFFFFFFFF,
        source_pitch,
        destination_pitch,
    )
    words += increment(SUBCHANNEL_COPY, Copy.X_COUNT, width, height)
    words += increment(SUBCHANNEL_COPY, Copy.EXEC, Copy.EXEC_LINEAR)
    return words


def copy_linear(destination: int, source: int, size: int) -> list[int]:
    """The same as `m2mf_linear` by the copy engine."""
    words: list[int] = []
    done = 0
    while size - done >= COPY_LINE:
        lines = min((size - done) // COPY_LINE, COPY_MAX_LINES)
        words += copy_rectangle(destination + done, source + done, COPY_LINE, lines, COPY_LINE, COPY_LINE)
        done += lines * COPY_LINE
    if size > done:
        rest = size - done
        words += copy_rectangle(destination + done, source + done, rest, 1, rest, rest)
    return words

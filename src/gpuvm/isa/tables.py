"""All rows of the GF100 instruction set in one place, completed and indexed for decoder and encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from gpuvm.isa import (
    tables_control,
    tables_float,
    tables_graphics,
    tables_integer,
    tables_memory,
    tables_short,
    tables_video,
)
from gpuvm.isa.fields import Mod
from gpuvm.isa.rows import Row

_NO_MODS: dict[str, Mod] = {}


def _complete(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Give every row of an operation all of its modifiers, in the order of the row that declares most.

    A form without a field for one has it fixed at its default, so that a reader never asks whether it is
    there.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.name, []).append(row)
    done: list[Row] = []
    for group in groups.values():
        known: dict[str, Mod] = {}
        for row in sorted(group, key=lambda r: -len(r.mods)):
            for mod in row.mods:
                known.setdefault(mod.name, mod)
        for row in group:
            own = {mod.name: mod for mod in row.mods}
            mods = tuple(
                own.get(name) or Mod(name, None, (mod.default,), mod.default, mod.place, mod.texts)
                for name, mod in known.items()
            )
            done.append(replace(row, mods=mods, cache={}))
    return tuple(done)


ROWS: tuple[Row, ...] = _complete(
    [
        *tables_float.ROWS,
        *tables_integer.ROWS,
        *tables_memory.ROWS,
        *tables_control.ROWS,
        *tables_short.ROWS,
        *tables_video.ROWS,
        *tables_graphics.ROWS,
    ]
)
"""Every form of every operation."""

LONG_KEY = (0xF, 58)
SHORT_MASK = 0x1F


def long_key(word: int) -> int:
    """Bucket of a long word: class and opcode, which most rows fix."""
    return (word & 0xF) << 6 | word >> 58


def _buckets() -> tuple[list[tuple[tuple[int, int, Row], ...]], list[tuple[tuple[int, int, Row], ...]]]:
    """Rows by key, those that fix more bits first: a special case stands before the general form."""
    long: list[list[tuple[int, int, Row]]] = [[] for _ in range(1 << 10)]
    four: list[list[tuple[int, int, Row]]] = [[] for _ in range(1 << 5)]
    for row in sorted(ROWS, key=lambda r: -r.mask.bit_count()):
        entry = (row.mask, row.match, row)
        if row.size == 8:
            mask, match = long_key(row.mask), long_key(row.match)
            for key in range(1 << 10):
                if key & mask == match:
                    long[key].append(entry)
        else:
            for key in range(1 << 5):
                if key & row.mask & SHORT_MASK == row.match & SHORT_MASK:
                    four[key].append(entry)
    return [tuple(bucket) for bucket in long], [tuple(bucket) for bucket in four]


LONG, SHORT = _buckets()

BY_NAME: dict[str, tuple[Row, ...]] = {}
for _row in ROWS:
    BY_NAME[_row.name] = (*BY_NAME.get(_row.name, ()), _row)


def find(word: int, size: int) -> Row | None:
    """The row that explains every bit of `word`, None if there is none."""
    for mask, match, row in LONG[long_key(word)] if size == 8 else SHORT[word & SHORT_MASK]:
        if word & mask == match:
            return row
    return None

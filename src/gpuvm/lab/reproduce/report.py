"""What an experiment comes to: tables, figures and sentences, and the files that they are written to."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Cell = str | int | float | None


@dataclass(slots=True)
class Table:
    """Rows under heads. `name` becomes part of the CSV file's name; "" is the experiment's main table.

    Attributes
    ----------
    folded : bool
        Whether the page shows it only when asked: long ones.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""
    folded: bool = False

    def csv(self) -> str:
        """The table with full precision."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.heads)
        writer.writerows([["" if cell is None else cell for cell in row] for row in self.rows])
        return out.getvalue()


@dataclass(slots=True)
class Picture:
    """A figure as SVG text."""

    title: str
    svg: str
    name: str = ""


@dataclass(slots=True)
class Report:
    """One experiment's outcome.

    Attributes
    ----------
    notes : list of str
        Sentences, the most important first: what was found, and how it stands to what was published.
    """

    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)

    def save(self, folder: Path, name: str) -> list[Path]:
        """Write tables and figures as `name[-part].csv` and `.svg`; returns the files."""
        written = []
        for table in self.tables:
            path = folder / f"{part(name, table.name)}.csv"
            path.write_text(table.csv(), encoding="utf-8")
            written.append(path)
        for figure in self.figures:
            path = folder / f"{part(name, figure.name)}.svg"
            path.write_text(figure.svg, encoding="utf-8")
            written.append(path)
        return written


def part(name: str, more: str) -> str:
    return f"{name}-{more}" if more else name


def shown(cell: Cell) -> str:
    """A cell as the page shows it: three or four digits."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) or (float(cell).is_integer() and abs(cell) >= 1000):
        return f"{cell:,.0f}"
    size = abs(cell)
    if size >= 1000:
        return f"{cell:,.0f}"
    if size >= 100:
        return f"{cell:.0f}"
    if size >= 10:
        return f"{cell:.1f}"
    if size >= 0.01 or size == 0:
        return f"{cell:.2f}" if size >= 1 else f"{cell:.3g}"
    return f"{cell:.2g}"


def geometric(values: Sequence[float]) -> float:
    """The geometric mean of positive values."""
    import math

    return math.exp(math.fsum(math.log(value) for value in values) / len(values))


def arithmetic(values: Sequence[float]) -> float:
    return sum(values) / len(values)


Data = dict[str, Any]
"""What an experiment measured, as it stands in its JSON file."""

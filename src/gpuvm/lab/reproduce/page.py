"""The page of a reproduction: one HTML file that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gpuvm.lab.reproduce.report import Report, shown


@dataclass(frozen=True, slots=True)
class Section:
    """One experiment on the page."""

    number: int
    name: str
    title: str
    document: dict[str, Any]
    report: Report


def write_page(path: Path, sections: Sequence[Section]) -> None:
    """Write the page; figures and tables are inside it."""
    environment = Environment(
        loader=PackageLoader("gpuvm.lab.reproduce", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    environment.tests["figure"] = lambda cell: cell is None or not isinstance(cell, str)
    text = environment.get_template("page.html").render(sections=sections)
    path.write_text(text, encoding="utf-8")

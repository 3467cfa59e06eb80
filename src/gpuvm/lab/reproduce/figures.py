"""The figures: few kinds, drawn alike, as SVG text that is the same for the same data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLORS = {
    "native": "#52514e",
    "passthrough": "#8f8d86",
    "fv-naive": "#b3261e",
    "fv-bar3": "#e06c3a",
    "fv-lazy": "#d99a00",
    "fv-optimized": "#8c6d1f",
    "fv": "#1764c0",
    "pv-naive": "#7a3fa8",
    "pv-multicall": "#b06fd6",
    "pv-drm": "#12806a",
}
"""A mode has one color in all figures: the original's ways warm, ours blue, para-virtual purple and green."""
SERIES = ("#1764c0", "#d99a00", "#12806a", "#b3261e", "#7a3fa8", "#52514e")
MARKERS = "oos^vDPXhd*"

_STYLE: Any = {
    "svg.hashsalt": "gpuvm",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e3df",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def color(name: str, place: int) -> str:
    return COLORS.get(name, SERIES[place % len(SERIES)])


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.2)


def dots(
    rows: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    xlabel: str,
    marks: Mapping[str, float] | None = None,
) -> str:
    """A row of dots for each name, one dot for each series, on a logarithmic axis; `marks` are labelled
    vertical lines."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8, 0.6 + 0.27 * len(rows)))
        axes = figure.add_subplot()
        for place, (name, values) in enumerate(series.items()):
            points = [(value, row) for row, value in enumerate(values) if value]
            axes.plot(
                [value for value, _ in points],
                [row for _, row in points],
                linestyle="none",
                marker=MARKERS[place % len(MARKERS)],
                markersize=5,
                color=color(name, place),
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=name,
            )
        for text, value in (marks or {}).items():
            axes.axvline(value, color="#52514e", linewidth=0.8, linestyle=(0, (4, 3)))
            axes.text(value, -0.9, text, fontsize=7, ha="center", color="#52514e")
        axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -1.2)
        axes.set_xlabel(xlabel)
        _legend(axes)
    return _svg(figure)


def stacks(
    rows: Sequence[str],
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    log: bool = False,
) -> str:
    """A horizontal bar for each row, divided by series; with `log`, bars side by side instead."""
    with mpl.rc_context(_STYLE):
        bars = len(series) if log else 1
        figure = Figure(figsize=(8, 0.8 + (0.11 * bars + 0.2) * len(rows)))
        axes = figure.add_subplot()
        left = [0.0] * len(rows)
        for place, (name, values) in enumerate(series.items()):
            shade = color(name, place)
            if log:
                height = 0.8 / bars
                at = [row - 0.4 + (place + 0.5) * height for row in range(len(rows))]
                axes.barh(at, list(values), height=height * 0.9, color=shade, label=name)
            else:
                axes.barh(
                    range(len(rows)), list(values), left=left, height=0.7, color=shade, label=name,
                    edgecolor="white", linewidth=0.8,
                )  # fmt: skip
                left = [base + value for base, value in zip(left, values, strict=True)]
        if log:
            axes.set_xscale("log")
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(xlabel)
        _legend(axes)
    return _svg(figure)


def lines(x: Sequence[float], series: Mapping[str, Sequence[float | None]], xlabel: str, ylabel: str) -> str:
    """A line for each series over a few points."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.5, 3.4))
        axes = figure.add_subplot()
        for place, (name, values) in enumerate(series.items()):
            points = [(at, value) for at, value in zip(x, values, strict=True) if value is not None]
            axes.plot(
                [at for at, _ in points],
                [value for _, value in points],
                marker=MARKERS[place % len(MARKERS)],
                markersize=5,
                color=color(name, place),
                label=name,
            )
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(x), [f"{at:g}" for at in x])
        axes.set_ylim(bottom=0)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        _legend(axes)
    return _svg(figure)

"""The published figures, read from `published.toml`, and how ours are set beside them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from gpuvm.lab.costs import COSTS

FACTOR = 2.0
"""A figure of the cost model that is further than this from the published one is explained."""


@cache
def published() -> dict[str, Any]:
    """The whole file."""
    text = files("gpuvm.lab.reproduce").joinpath("published.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def cause(counters: Mapping[str, float], most: int = 3) -> str:
    """Where device time goes, by counted events: "87 % traps_bar3_write (45,000 x 14.2 us)", the largest
    first."""
    seconds = {
        cost.event: (counters.get(cost.event, 0) * cost.seconds, cost.seconds)
        for cost in COSTS
        if counters.get(cost.event, 0)
    }
    total = sum(part for part, _ in seconds.values())
    ranked = sorted(seconds.items(), key=lambda item: -item[1][0])[:most]
    return ", ".join(
        f"{part / total:.0%} {event} ({counters[event]:,.0f} x {span(each)})"
        for event, (part, each) in ranked
        if total
    )


def span(seconds: float) -> str:
    """A time in its natural unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-12:.3g} ps"


def beyond(ours: float, theirs: float) -> bool:
    """Whether two positive figures are more than `FACTOR` apart."""
    return not 1 / FACTOR <= ours / theirs <= FACTOR

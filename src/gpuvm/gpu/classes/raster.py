"""Shapes of the 2D engine's DRAW methods: how many points each takes, and which pixels it covers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SHAPE_POINTS, LINES, LINE_STRIP, TRIANGLES, RECTANGLES = range(5)
POINTS = {SHAPE_POINTS: 1, LINES: 2, LINE_STRIP: 2, TRIANGLES: 3, RECTANGLES: 2}
"""Points of one shape; a strip keeps its last one."""

Corners = list[tuple[int, int]]


def bounds(shape: int, points: Corners) -> tuple[int, int, int, int]:
    """Return a shape's rectangle: left, top, width, height. A rectangle's far corner is not in it."""
    across, down = [x for x, _ in points], [y for _, y in points]
    extra = 0 if shape == RECTANGLES else 1
    return min(across), min(down), max(across) - min(across) + extra, max(down) - min(down) + extra


def cover(
    shape: int, points: Corners, x: int, y: int, width: int, height: int
) -> npt.NDArray[np.bool_] | None:
    """Return which pixels of the rectangle at (x, y) a shape covers, bool[height, width]; None: all."""
    if shape in (RECTANGLES, SHAPE_POINTS):
        return None
    columns, rows = np.arange(x, x + width)[None, :], np.arange(y, y + height)[:, None]
    if shape == TRIANGLES:
        return _triangle(points, columns, rows)
    return _line(points, columns, rows)


def _line(
    points: Corners, columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """One pixel in each column or row along the longer side, the nearest to the line; the last is left out."""
    (x0, y0), (x1, y1) = points
    across, down = x1 - x0, y1 - y0
    if abs(across) >= abs(down):
        steps, other, start, slope, away = columns - x0, rows, y0, down, across
    else:
        steps, other, start, slope, away = rows - y0, columns, x0, across, down
    if away == 0:
        return np.zeros((rows.shape[0], columns.shape[1]), bool)
    if away < 0:
        steps, slope, away = -steps, slope, -away
    on = (2 * steps * slope + away) // (2 * away) + start == other
    covered: npt.NDArray[np.bool_] = on & (steps >= 0) & (steps < away)
    return covered


def _triangle(
    points: Corners, columns: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Pixels whose centre is inside; of those on an edge, the ones on the top or the left."""
    doubled = [(2 * x, 2 * y) for x, y in points]
    (ax, ay), (bx, by), (cx, cy) = doubled
    if (bx - ax) * (cy - ay) - (by - ay) * (cx - ax) < 0:
        doubled.reverse()
    inside = np.ones((rows.shape[0], columns.shape[1]), bool)
    for (x0, y0), (x1, y1) in zip(doubled, doubled[1:] + doubled[:1], strict=True):
        side = (x1 - x0) * (2 * rows + 1 - y0) - (y1 - y0) * (2 * columns + 1 - x0)
        top_left = y1 < y0 or (y1 == y0 and x1 > x0)
        inside &= side >= (0 if top_left else 1)
    return inside

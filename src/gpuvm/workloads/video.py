"""The video that HW tracks: a synthetic beating heart; and where Rodinia's program starts in its own."""

from __future__ import annotations

import numpy as np

from gpuvm.workloads.base import Array

# Row and column of the wall points in the first frame of Rodinia's test.avi, counted from 1.
RODINIA_INNER = np.array(
    [
        (369, 408), (400, 406), (429, 397), (452, 383), (476, 354), (486, 322), (479, 294), (458, 270),
        (433, 250), (404, 237), (374, 235), (346, 241), (318, 254), (294, 273), (277, 300), (269, 328),
        (275, 356), (287, 383), (311, 401), (339, 411),
    ],
    dtype=np.int32,
)  # fmt: skip
RODINIA_OUTER = np.array(
    [
        (390, 457), (419, 454), (448, 446), (474, 431), (501, 411), (519, 388), (535, 361), (542, 331),
        (543, 301), (538, 273), (528, 243), (511, 218), (491, 196), (466, 178), (438, 166), (406, 157),
        (376, 155), (347, 165), (318, 177), (291, 197), (275, 218), (259, 248), (256, 276), (252, 304),
        (252, 333), (257, 361), (266, 391), (283, 415), (305, 434), (331, 448), (360, 455),
    ],
    dtype=np.int32,
)  # fmt: skip

INNER_RADIUS = 0.18
OUTER_RADIUS = 0.26
"""Radii of the walls at rest, as parts of the frame's shorter side."""
CONTRACTION = 0.06
"""Greatest part by which the radii shrink."""
BEAT = 20
"""Frames of one heart beat."""


def contraction(frame: int) -> float:
    """The part by which the heart is smaller than in frame 0."""
    return CONTRACTION * 0.5 * (1.0 - float(np.cos(2.0 * np.pi * frame / BEAT)))


def beating_heart(
    shape: tuple[int, int], frames: int, inner: int, outer: int, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Two bright walls around a dark cavity, in speckle that moves with the tissue.

    Returns
    -------
    frames : float32 array of shape (frames, rows, columns)
        Whole numbers 0 to 255.
    inner, outer : int32 arrays of shape (points, 2)
        Row and column, counted from 1, of points evenly spaced on the walls in frame 0.
    """
    rows, columns = shape
    side = min(shape)
    centre = (rows / 2, columns / 2)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    radius = np.hypot(y - centre[0], x - centre[1]) / side
    walls = sum(np.exp(-(((radius - wall) / 0.03) ** 2)) for wall in (INNER_RADIUS, OUTER_RADIUS))
    brightness = 40.0 + 60.0 * (radius > INNER_RADIUS) + 90.0 * walls
    speckle = rng.rayleigh(0.8, shape)
    # Speckle has a grain of about three pixels.
    for axis in (0, 1):
        speckle = (np.roll(speckle, 1, axis) + speckle + np.roll(speckle, -1, axis)) / 3
    tissue = brightness * speckle

    images = np.empty((frames, rows, columns), np.float32)
    for number in range(frames):
        scale = 1.0 / (1.0 - contraction(number))
        from_rows = np.clip((np.arange(rows) - centre[0]) * scale + centre[0], 0, rows - 1.001)
        from_columns = np.clip((np.arange(columns) - centre[1]) * scale + centre[1], 0, columns - 1.001)
        images[number] = np.clip(np.rint(_sample(tissue, from_rows, from_columns)), 0, 255)
    return images, _ring(centre, INNER_RADIUS * side, inner), _ring(centre, OUTER_RADIUS * side, outer)


def _sample(image: Array, rows: Array, columns: Array) -> Array:
    """Bilinear samples at the crossings of fractional rows and columns."""
    for axis, at in enumerate((rows, columns)):
        low = at.astype(np.int64)
        part = (at - low).reshape((-1, 1) if axis == 0 else (1, -1))
        image = image.take(low, axis) * (1.0 - part) + image.take(low + 1, axis) * part
    return image


def _ring(centre: tuple[float, float], radius: float, count: int) -> Array:
    angle = 2.0 * np.pi * np.arange(count) / count
    points = np.stack((centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle)), axis=1)
    return np.rint(points + 1.0).astype(np.int32)

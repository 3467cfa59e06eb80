"""Template tracking by normalised cross-correlation in float64: the reference of HW.

The convolution goes through the Fourier transform and the window sums through two-dimensional cumulative
sums, so nothing but the definition is shared with the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gpuvm.workloads.base import Array

REACH = 25
SEARCH = 40
MOVE = 10
ALPHA = 0.87
UPDATE_PERIOD = 10
"""Every so many frames a point's template and search area are renewed."""
TEMPLATE = 2 * REACH + 1
AREA = 2 * SEARCH + 1
CONVOLUTION = TEMPLATE + AREA - 1
CENTRE = REACH + SEARCH
"""Offset at which template and area coincide."""
FOURIER = 135
"""At least CONVOLUTION, and of small factors."""


@dataclass(frozen=True)
class Track:
    """Where points went.

    Attributes
    ----------
    positions : int32 array of shape (points, frames, 2)
        Best row and column, counted from 1 as Rodinia does.
    loss : float64 array of shape (points, frames)
        By how much the correlation at the position given is below that of the best one (0 without given
        positions, infinity where the given one is out of reach).
    """

    positions: Array
    loss: Array


def follow(frames: Array, points: Array, given: Array | None = None) -> Track:
    """Track points through frames.

    Parameters
    ----------
    frames : array of shape (frames, rows, columns)
    points : int array of shape (points, 2)
        Row and column in the first frame, counted from 1.
    given : int array of shape (points, frames, 2), optional
        A track to judge: each step starts from the given position of the frame before, not from the best.
    """
    count = len(points)
    positions = np.empty((count, len(frames), 2), np.int32)
    loss = np.zeros((count, len(frames)))
    base = points.astype(np.int64)
    last = base.copy()
    templates = _cut(frames[0], base, REACH)
    for number, frame in enumerate(frames):
        if number == 0:
            best = base
        else:
            correlation = np.abs(_correlate(templates, _cut(frame, base, SEARCH)))
            best = base - CENTRE + _best(correlation, last - base + CENTRE)
        positions[:, number] = best
        if given is None:
            last = best.astype(np.int64)
        else:
            chosen = given[:, number]
            if number == 0:
                loss[:, 0] = np.where((chosen == best).all(axis=1), 0.0, np.inf)
            else:
                offset = last - base + CENTRE
                loss[:, number] = _loss(correlation, best - base + CENTRE, chosen - base + CENTRE, offset)
            last = chosen.copy()
        if number and number % UPDATE_PERIOD == 0:
            base = last.copy()
            templates = ALPHA * templates + (1.0 - ALPHA) * _cut(frame, base, REACH)
    return Track(positions, loss)


def _cut(frame: Array, points: Array, reach: int) -> Array:
    """The squares around points, (points, side, side); beyond the frame's edge lies the edge pixel."""
    span = np.arange(-reach - 1, reach)
    rows = np.clip(points[:, :1] + span, 0, frame.shape[0] - 1)
    columns = np.clip(points[:, 1:] + span, 0, frame.shape[1] - 1)
    cut: Array = frame[rows[:, :, None], columns[:, None, :]].astype(np.float64)
    return cut


def _correlate(templates: Array, areas: Array) -> Array:
    """Normalised cross-correlation of each template with its area at every offset, (points, 131, 131)."""
    shape = (FOURIER, FOURIER)
    spectrum = np.fft.rfft2(templates[:, ::-1, ::-1], shape) * np.fft.rfft2(areas, shape)
    convolution = np.fft.irfft2(spectrum, shape)[:, :CONVOLUTION, :CONVOLUTION]
    size = TEMPLATE * TEMPLATE
    sums, squares = _window_sums(areas), _window_sums(areas * areas)
    mean = templates.mean(axis=(1, 2), keepdims=True)
    norm = np.sqrt(size - 1) * templates.std(axis=(1, 2), keepdims=True)
    spread = np.sqrt(np.maximum(squares - sums * sums / size, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        result: Array = (convolution - sums * mean) / (spread * norm)
    return result


def _window_sums(areas: Array) -> Array:
    """Sum of the area under the template at every offset."""
    total = np.zeros((len(areas), AREA + 2 * TEMPLATE - 1, AREA + 2 * TEMPLATE - 1))
    inner = slice(TEMPLATE, TEMPLATE + AREA)
    total[:, inner, inner] = areas
    total = total.cumsum(axis=1).cumsum(axis=2)
    high, low = slice(TEMPLATE, TEMPLATE + CONVOLUTION), slice(0, CONVOLUTION)
    sums: Array = total[:, high, high] - total[:, high, low] - total[:, low, high] + total[:, low, low]
    return sums


def _allowed(offset: Array) -> tuple[slice, slice]:
    """Rows and columns of the offsets that a point at `offset` may move to."""
    row, column = (
        slice(max(int(at) - MOVE // 2, 0), max(min(int(at) + MOVE // 2, CONVOLUTION), 0)) for at in offset
    )
    return row, column


def _best(correlation: Array, offsets: Array) -> Array:
    """The offset of the largest correlation each point may move to, (points, 2); (0, 0) if there is none."""
    best = np.zeros((len(correlation), 2), np.int64)
    for point, offset in enumerate(offsets):
        rows, columns = _allowed(offset)
        window = np.nan_to_num(correlation[point, rows, columns], nan=0.0, posinf=0.0)
        if window.size and window.max() > 0:
            row, column = np.unravel_index(np.argmax(window), window.shape)
            best[point] = rows.start + row, columns.start + column
    return best


def _loss(correlation: Array, best: Array, chosen: Array, offsets: Array) -> Array:
    """How much worse the chosen offsets are than the best; infinity for one that is not allowed."""
    loss = np.full(len(best), np.inf)
    for point, offset in enumerate(offsets):
        rows, columns = _allowed(offset)
        row, column = chosen[point]
        if (chosen[point] == best[point]).all():
            loss[point] = 0.0
        elif rows.start <= row < rows.stop and columns.start <= column < columns.stop:
            loss[point] = correlation[point, *best[point]] - correlation[point, row, column]
    return loss

"""The diffusion step that SRAD and SRAD2 share, in float64 NumPy: the reference and the statistics."""

from __future__ import annotations

import numpy as np

from gpuvm.workloads.base import Array

STRIP = 1 << 15
"""Pixels that are worked on at a time."""


def speckle_of(region: Array) -> float:
    """Squared coefficient of variation of a region: its variance over its squared mean."""
    mean = float(region.mean(dtype=np.float64))
    square = float(np.square(region, dtype=np.float64).mean())
    return (square - mean * mean) / (mean * mean)


def diffuse(image: Array, speckle: float, rate: float) -> Array:
    """One iteration of anisotropic diffusion.

    Parameters
    ----------
    image : float64 array of shape (rows, columns)
        Beyond its edge lies the edge pixel itself.
    speckle : float
        Squared coefficient of variation of a homogeneous region.
    rate : float
        Time step, Rodinia's lambda.
    """
    rows, columns = image.shape
    result = np.empty_like(image)
    # By strips that stay in the cache; a strip needs one row above it and two below.
    height = max(1, STRIP // columns)
    for first in range(0, rows, height):
        last = min(first + height, rows)
        top, bottom = max(first - 1, 0), min(last + 2, rows)
        result[first:last] = _diffused(image[top:bottom], speckle, rate)[first - top : last - top]
    return result


def _diffused(image: Array, speckle: float, rate: float) -> Array:
    # Differences to the next pixel down and to the right; those up and to the left are the same, moved and
    # negated.
    down = np.zeros_like(image)
    np.subtract(image[1:], image[:-1], out=down[:-1])
    right = np.zeros_like(image)
    np.subtract(image[:, 1:], image[:, :-1], out=right[:, :-1])

    squares = down * down
    work = right * right
    laplacian = down + right
    gradient = squares + work
    gradient[1:] += squares[:-1]
    gradient[:, 1:] += work[:, :-1]
    laplacian[1:] -= down[:-1]
    laplacian[:, 1:] -= right[:, :-1]

    # c = 1 / (1 + (q - q0) / (q0 (1 + q0))), with q from gradient and laplacian over the pixel.
    np.divide(laplacian, image, out=laplacian)
    np.multiply(image, image, out=work)
    np.divide(gradient, work, out=gradient)
    gradient *= 0.5
    np.multiply(laplacian, laplacian, out=work)
    work *= 1 / 16
    gradient -= work
    laplacian *= 0.25
    laplacian += 1.0
    laplacian *= laplacian
    gradient /= laplacian
    gradient -= speckle
    gradient /= speckle * (1.0 + speckle)
    gradient += 1.0
    c = np.divide(1.0, gradient, out=gradient)
    np.clip(c, 0.0, 1.0, out=c)

    # Flow through the lower and right edge of a pixel takes the coefficient of the pixel beyond, flow
    # through the upper and left one the pixel's own: c_south d_south + c_east d_east + c (d_north +
    # d_west).
    np.multiply(down[:-1], c[1:], out=down[:-1])
    np.multiply(right[:, :-1], c[:, 1:], out=right[:, :-1])
    down *= 0.25 * rate
    right *= 0.25 * rate
    result: Array = image + down
    result += right
    result[1:] -= down[:-1]
    result[:, 1:] -= right[:, :-1]
    return result

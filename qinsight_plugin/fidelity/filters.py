"""The Gaussian window that the measures share, in numpy alone."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Plane: TypeAlias = "npt.NDArray[np.float32]"

RADIUS, SIGMA = 5, 1.5
_HALF = np.exp(-0.5 * (np.arange(RADIUS + 1) / SIGMA) ** 2)
KERNEL = (_HALF / (2 * _HALF[1:].sum() + _HALF[0])).astype(np.float32)
"""Weights at 0, 1, ... `RADIUS` from the middle; 11 taps, as in the papers of SSIM."""


def blur_rows(plane: Plane) -> Plane:
    """Convolve along the last axis; 2 * `RADIUS` samples shorter than what came in."""
    width = plane.shape[-1] - 2 * RADIUS
    out: Plane = KERNEL[0] * plane[..., RADIUS : RADIUS + width]
    scratch = np.empty_like(out)
    for offset in range(1, RADIUS + 1):
        left = plane[..., RADIUS - offset : RADIUS - offset + width]
        right = plane[..., RADIUS + offset : RADIUS + offset + width]
        np.add(left, right, out=scratch)
        scratch *= KERNEL[offset]
        out += scratch
    return out


def blur_columns(plane: Plane) -> Plane:
    """Convolve along the axis before the last; 2 * `RADIUS` samples shorter than what came in."""
    height = plane.shape[-2] - 2 * RADIUS
    out: Plane = KERNEL[0] * plane[..., RADIUS : RADIUS + height, :]
    scratch = np.empty_like(out)
    for offset in range(1, RADIUS + 1):
        above = plane[..., RADIUS - offset : RADIUS - offset + height, :]
        below = plane[..., RADIUS + offset : RADIUS + offset + height, :]
        np.add(above, below, out=scratch)
        scratch *= KERNEL[offset]
        out += scratch
    return out


def halve(planes: Plane) -> Plane:
    """Average 2 x 2 blocks of the last two axes; an odd row or column at the end is left out."""
    height, width = (side // 2 * 2 for side in planes.shape[-2:])
    even = planes[..., :height, :width]
    summed = even[..., ::2, :] + even[..., 1::2, :]
    out: Plane = np.float32(0.25) * (summed[..., ::2] + summed[..., 1::2])
    return out

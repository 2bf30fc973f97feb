"""Structural similarity of luma at one scale (Wang, Bovik, Sheikh and Simoncelli, IEEE TIP 2004)
and at several (Wang, Simoncelli and Bovik, Asilomar 2003).

Luma is ITU-R BT.601's. A picture whose short side is under 176 pixels has fewer than five scales,
whose weights are scaled to sum to 1: a window of 11 pixels fits into each.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qinsight_plugin.fidelity.filters import RADIUS, Plane, blur_columns, blur_rows, halve
from qinsight_plugin.records import Pixels

MIN_SIDE = 2 * RADIUS + 1

MULTI_SCALE = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SINGLE_SCALE = (1.0,)

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


class MsSsim:
    """Measures pictures against one reference, which is looked at only once.

    Args:
        reference: uint8 [H, W, 3], sRGB; both sides at least `MIN_SIDE`.
        weights: of the scales, the finest first; `SINGLE_SCALE` makes it SSIM.
    """

    def __init__(self, reference: Pixels, weights: tuple[float, ...] = MULTI_SCALE) -> None:
        self._weights = weights
        self._scales = []
        for plane in pyramid(reference, len(weights)):
            mean = blur(plane)
            self._scales.append((plane, mean, blur(plane * plane) - mean * mean))

    def score(self, pixels: Pixels) -> float:
        """0 to 1 (equal) for uint8 [H, W, 3] of the reference's shape."""
        total, last = 1.0, len(self._scales) - 1
        weights = np.array(self._weights[: last + 1])
        weights /= weights.sum()
        scales = zip(self._scales, pyramid(pixels, len(weights)), strict=True)
        for scale, ((plane, mean, variance), other) in enumerate(scales):
            other_mean = blur(other)
            other_variance = blur(other * other) - other_mean * other_mean
            covariance = blur(plane * other) - mean * other_mean
            likeness = (2 * covariance + _C2) / (variance + other_variance + _C2)
            if scale == last:
                light = 2 * mean * other_mean + _C1
                likeness *= light / (mean * mean + other_mean * other_mean + _C1)
            # A negative mean has no real power; it counts as no likeness at all.
            total *= max(float(likeness.mean(dtype=np.float64)), 0.0) ** weights[scale]
        return float(total)


def pyramid(pixels: Pixels, scales: int) -> Iterator[Plane]:
    """Luma, float32 from 0 to 255, and each time half the size."""
    plane: Plane = pixels.astype(np.float32) @ _LUMA
    for _ in range(scales):
        yield plane
        plane = halve(plane)
        if min(plane.shape) < MIN_SIDE:
            return


def blur(plane: Plane) -> Plane:
    return blur_rows(blur_columns(plane))

"""Pictures that are all but the same: resized, recompressed, or shot twice.

Two steps: a perceptual hash (the signs of the lowest frequencies of a 32 x 32 picture, 64 bits, as
in pHash: Zauner 2010) finds candidates among many, and the pictures' correlation confirms them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import PIL.Image

from qinsight_plugin.feedback.comparisons import components

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

SIDE = 32
BITS_APART = 10
"""Of 64: what recompression, resizing and small edits change, at most."""

LEAST_CORRELATION = 0.97
_BLOCK = 512


def thumbnail(pixels: Pixels) -> npt.NDArray[np.float64]:
    """[32, 32]: luma, averaged."""
    small = PIL.Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), PIL.Image.Resampling.BOX)
    return np.asarray(small, np.float64)


def perceptual_hash(luma: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """[8]: 64 bits of a [32, 32] picture."""
    from scipy.fft import dctn

    low = dctn(luma, norm="ortho")[:8, :8].ravel()
    return np.packbits(low > np.median(low[1:]))


def near_duplicates(thumbnails: Sequence[npt.NDArray[np.float64]]) -> list[list[int]]:
    """Groups of two or more pictures that look alike, by index; no picture is in two."""
    if not thumbnails:
        return []
    hashes = np.array([perceptual_hash(one) for one in thumbnails])
    flat = np.array([one.ravel() - one.mean() for one in thumbnails])
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    ones = np.array([value.bit_count() for value in range(256)], np.uint8)
    alike: list[tuple[int, int]] = []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        apart = ones[block[:, None] ^ hashes[None]].sum(2)
        for row, column in np.argwhere(apart <= BITS_APART):
            first, second = int(start + row), int(column)
            if first < second and flat[first] @ flat[second] >= LEAST_CORRELATION:
                alike.append((first, second))
    return [sorted(group) for group in components(len(hashes), alike) if len(group) > 1]

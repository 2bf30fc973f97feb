"""SSIMULACRA2: 100 for equal pictures, 90 visually lossless, 70 high, 50 medium, 30 low quality.

By Jon Sneyers (github.com/cloudinary/ssimulacra2, version 2.1), whose trained weights these are.
Differences between the blurred values of both pictures, in a perceptual colour space at six
scales, are averaged by two norms, weighted and summed. The edges are as in the Python package of
the same name: nothing left and right of the picture, its mirror image above and below. Tests
compare with that package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qinsight_plugin.fidelity.filters import RADIUS, Plane, blur_columns, blur_rows
from qinsight_plugin.fidelity.weights import WEIGHTS
from qinsight_plugin.records import Pixels
from qinsight_plugin.srgb import LINEAR

MIN_SIDE = 8
SCALES = 6

_C2 = 0.0009
_BIAS = 0.0037930732552754493
_OPSIN = np.array(
    [
        [0.30, 0.622, 0.078],
        [0.23, 0.692, 0.078],
        [0.24342268924547819, 0.20476744424496821, 0.5518098665095536],
    ],
    np.float32,
)
_LIGHT = LINEAR.astype(np.float32)


class _Scale(NamedTuple):
    """Of one picture at one scale, [3, h, w] each."""

    values: Plane
    mean: Plane
    square: Plane  # blurred


class Ssimulacra2:
    """Measures pictures against one reference, which is looked at only once.

    Args:
        reference: uint8 [H, W, 3], sRGB; both sides at least `MIN_SIDE`.
    """

    def __init__(self, reference: Pixels) -> None:
        self._scales = [described(values) for values in pyramid(reference)]

    def score(self, pixels: Pixels) -> float:
        """At most 100, for uint8 [H, W, 3] of the reference's shape; negative where it is awful."""
        scales = zip(self._scales, pyramid(pixels), strict=True)
        features = np.array([difference(a, described(b)) for a, b in scales])
        # features: [scales, 3 channels, 2 norms, 3 kinds]; the weights go by channel first.
        ordered = features.transpose(1, 0, 2, 3).reshape(-1)
        total = float(WEIGHTS[: ordered.size] @ ordered) * 0.9562382616834844
        total = (
            2.326765642916932 * total
            - 0.020884521182843837 * total**2
            + 6.248496625763138e-05 * total**3
        )
        return 100.0 - 10.0 * float(max(total, 0.0) ** 0.6276336467831387)


def pyramid(pixels: Pixels) -> Iterator[Plane]:
    """float32 [3, h, w] in a positive form of XYB, each time half the size."""
    linear: Plane = _LIGHT[pixels.transpose(2, 0, 1)]
    for _ in range(SCALES):
        if min(linear.shape[1:]) < MIN_SIDE:
            return
        yield opponent(linear)
        linear = halve_whole(linear)


def opponent(linear: Plane) -> Plane:
    """Linear RGB -> XYB, moved and scaled to be positive."""
    mixed = np.tensordot(_OPSIN, linear, 1) + np.float32(_BIAS)
    root = np.cbrt(mixed, out=mixed) - np.float32(np.cbrt(_BIAS))
    lightness = 0.5 * (root[0] + root[1])
    redness = 0.5 * (root[0] - root[1])
    out: Plane = np.stack([redness * 14 + 0.42, lightness + 0.01, root[2] - lightness + 0.55])
    return out


def halve_whole(planes: Plane) -> Plane:
    """Average 2 x 2 blocks; of an odd row or column at the end, what there is."""
    height, width = planes.shape[1:]
    even = np.pad(planes, ((0, 0), (0, height % 2), (0, width % 2)), "edge")
    summed = even[:, ::2] + even[:, 1::2]
    out: Plane = np.float32(0.25) * (summed[..., ::2] + summed[..., 1::2])
    return out


def described(values: Plane) -> _Scale:
    return _Scale(values, blur(values), blur(values * values))


def blur(planes: Plane) -> Plane:
    rows = np.pad(planes, ((0, 0), (0, 0), (RADIUS, RADIUS)))
    columns = np.pad(blur_rows(rows), ((0, 0), (RADIUS, RADIUS), (0, 0)), "symmetric")
    return blur_columns(columns)


def difference(a: _Scale, b: _Scale) -> npt.NDArray[np.float64]:
    """[3 channels, 2 norms, 3 kinds]: structure lost, edges gained, edges lost."""
    covariance = blur(a.values * b.values) - a.mean * b.mean
    variances = (a.square - a.mean * a.mean) + (b.square - b.mean * b.mean)
    light = 1 - (a.mean - b.mean) ** 2
    lost = np.maximum(1 - light * (2 * covariance + _C2) / (variances + _C2), 0)
    edges = (1 + np.abs(b.values - b.mean)) / (1 + np.abs(a.values - a.mean)) - 1
    kinds = (lost, np.maximum(edges, 0), np.maximum(-edges, 0))
    return np.stack([norms(kind) for kind in kinds], axis=-1)


def norms(planes: Plane) -> npt.NDArray[np.float64]:
    """[3, 2]: the mean, and the fourth root of the mean fourth power."""
    squares = planes * planes
    fourth = np.mean(squares * squares, axis=(1, 2), dtype=np.float64)
    return np.stack([planes.mean(axis=(1, 2), dtype=np.float64), fourth**0.25], axis=-1)

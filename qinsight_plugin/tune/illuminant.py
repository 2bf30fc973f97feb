"""The colour of the light, as far as three estimators agree on it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.records import Pixels
from qinsight_plugin.tune.bounds import blocks

_FULL = 0.95
"""Light above which a channel may be clipped, and tells nothing."""


def cast(pixels: Pixels) -> npt.NDArray[np.float64]:
    """log(red / green), log(blue / green) of the light, [2]; 0 where the estimators disagree.

    Grey world (Buchsbaum 1980), shades of grey with p 6 (Finlayson and Trezzi 2004) and grey edge
    with p 5 (van de Weijer et al. 2007). A scene with a colour of its own fools each, but seldom
    all three: of each ratio the least is taken, and nothing where the signs differ.

    Args:
        pixels: uint8 [H, W, 3], sRGB, both sides at least 16.
    """
    light = blocks(pixels, 4)
    told = light.max(-1) < _FULL
    if not told.any():
        return np.zeros(2)
    gradient = require(
        "scipy.ndimage", package="scipy", extra="tune", purpose="finding a cast"
    ).gaussian_gradient_magnitude
    edges = np.stack([gradient(light[..., channel], 1) for channel in range(3)], -1)
    means = (light[told].mean(0), norm(light[told], 6), norm(edges[told], 5))
    if min(float(mean.min()) for mean in means) <= 0:  # a channel without any light
        return np.zeros(2)
    ratios = np.array([np.log(mean[[0, 2]] / mean[1]) for mean in means])
    agreed = (np.sign(ratios) == np.sign(ratios[0])).all(0)
    least: npt.NDArray[np.float64] = np.sign(ratios[0]) * np.abs(ratios).min(0) * agreed
    return least


def norm(values: npt.NDArray[np.float64], p: float) -> npt.NDArray[np.float64]:
    """The Minkowski mean over rows."""
    mean: npt.NDArray[np.float64] = (values**p).mean(0) ** (1 / p)
    return mean

"""sRGB's transfer function, IEC 61966-2-1: levels of a picture to linear light, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_LEVELS = np.arange(256) / 255
LINEAR: npt.NDArray[np.float64] = np.where(
    _LEVELS <= 0.04045, _LEVELS / 12.92, ((_LEVELS + 0.055) / 1.055) ** 2.4
)
"""[256]: the light of each 8-bit level, 0 to 1."""


def encoded(light: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Linear light to levels, both from 0 to 1; float of the same shape and type."""
    levels: npt.NDArray[Any] = np.where(
        light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055
    )
    return levels

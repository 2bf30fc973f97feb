"""Small edits of a finished picture, each with one strength; 0 leaves the picture as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from qinsight_plugin._imports import require
from qinsight_plugin.records import Pixels
from qinsight_plugin.srgb import LINEAR
from qinsight_plugin.tune import isp
from qinsight_plugin.tune.illuminant import cast
from qinsight_plugin.tune.raw import Plane

_LEVELS = np.arange(256) / 255
_LIGHT = LINEAR.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Edit:
    """
    Attributes:
        name, unit: what it is called, and what its strength is.
        strengths: those that are tried; the bounds of the edit are the first and the last.
        apply: uint8 [H, W, 3] and a strength -> the same size.
    """

    name: str
    unit: str
    strengths: Sequence[float]
    apply: Callable[[Pixels, float], Pixels]


def white_balance(pixels: Pixels, strength: float) -> Pixels:
    """Take that share of the light's colour away, without a change of luma's mean."""
    red, blue = np.exp(-strength * cast(pixels))
    gains = np.array([red, 1, blue])
    gains /= gains @ np.array([0.2126, 0.7152, 0.0722])
    return developed(_LIGHT[pixels] * gains.astype(np.float32))


def exposure(pixels: Pixels, stops: float) -> Pixels:
    table = developed(_LIGHT * np.float32(2**stops))
    edited: Pixels = table[pixels]
    return edited


def contrast(pixels: Pixels, more: float) -> Pixels:
    """Levels spread from their mean by the factor 1 + `more`."""
    middle = float(pixels.mean()) / 255
    spread = middle + (1 + more) * (_LEVELS - middle)
    edited: Pixels = isp.to_pixels(spread.astype(np.float32))[pixels]
    return edited


def saturation(pixels: Pixels, more: float) -> Pixels:
    """Colours moved away from their luma by the factor 1 + `more`."""
    levels = (pixels / 255).astype(np.float32)
    luma = (levels @ isp.LUMA)[..., None]
    return isp.to_pixels(luma + (1 + np.float32(more)) * (levels - luma))


def denoise(pixels: Pixels, strength: float) -> Pixels:
    """Non-local means (Buades et al. 2011), by OpenCV; the strength is its h, in 8-bit levels."""
    if strength == 0:
        return pixels
    cv2 = require("cv2", package="opencv-python", extra="opencv", purpose="removing noise")
    edited: Pixels = cv2.fastNlMeansDenoisingColored(pixels, None, strength, strength, 5, 13)
    return edited


def sharpen(pixels: Pixels, amount: float) -> Pixels:
    return isp.to_pixels(isp.sharpen((pixels / 255).astype(np.float32), amount, 1.0))


def developed(light: Plane) -> Pixels:
    return isp.to_pixels(isp.tone_curve(light, 0))


EDITS = (
    Edit("white balance", "of the cast", (0.5, 0.75, 1.0), white_balance),
    Edit("exposure", "stops", (-1.0, -0.5, 0.5, 1.0, 1.5), exposure),
    Edit("contrast", "of the spread", (-0.2, 0.2, 0.4, 0.6, 0.9), contrast),
    Edit("saturation", "of the colour", (-0.2, 0.2), saturation),
    Edit("denoise", "levels", (3.0, 5.0, 7.0), denoise),
    Edit("sharpen", "", (0.3, 0.6), sharpen),
)
"""In the order in which they are applied."""


def apply_all(pixels: Pixels, strengths: dict[str, float]) -> Pixels:
    """Edits by name, in the order of `EDITS`; the others are left out."""
    for edit in EDITS:
        if strengths.get(edit.name):
            pixels = edit.apply(pixels, strengths[edit.name])
    return pixels

"""A small reference ISP: what a camera does between its sensor and its JPEG encoder.

black level -> white balance -> demosaic -> denoise -> CCM -> tone curve -> sharpen

Each step is one function of float pictures, [H, W, 3] in linear light until the tone curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from qinsight_plugin._imports import require
from qinsight_plugin.records import Pixels
from qinsight_plugin.srgb import encoded
from qinsight_plugin.tune.raw import Matrix, Plane, Raw
from qinsight_plugin.tune.space import Number, Space

SPACE = Space(
    {
        "exposure": Number(-1.5, 1.5, default=0.0),
        "red": Number(0.8, 1.25, default=1.0),
        "blue": Number(0.8, 1.25, default=1.0),
        "denoise": Number(0.0, 1.0, default=0.0),
        "denoise_colour": Number(0.0, 4.0, default=0.0),
        "saturation": Number(0.5, 1.6, default=1.0),
        "contrast": Number(-0.5, 0.5, default=0.0),
        "sharpen": Number(0.0, 2.0, default=0.3),
        "sharpen_radius": Number(0.5, 2.0, default=1.0),
    }
)
"""Its parameters: exposure in stops; factors on the camera's gains of red and blue; strength of
the denoising of luma, and sigma in pixels of that of colour; factor of saturation; contrast, of
which 0 is a straight line; amount and sigma in pixels of the unsharp mask."""

LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)  # ITU-R BT.709

# Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned
# color images" (ICASSP 2004), figure 2; eighths.
_GREEN = np.array(
    [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
)
_ALONG = np.array(
    [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
)
_ACROSS = np.array(
    [
        [0, 0, -1.5, 0, 0],
        [0, 2, 0, 2, 0],
        [-1.5, 0, 6, 0, -1.5],
        [0, 2, 0, 2, 0],
        [0, 0, -1.5, 0, 0],
    ]
)


def render(params: Mapping[str, Any], raw: Raw) -> Pixels:
    """Develop a raw picture: uint8 [H, W, 3], sRGB.

    Args:
        params: names of `SPACE` and their values; of those left out the default.
    """
    params = {**SPACE.defaults, **params}
    light = (raw.mosaic - raw.black) / (raw.white - raw.black)
    red, green, blue = raw.gains
    balanced = white_balance(light, (red * params["red"], green, blue * params["blue"]))
    colours = demosaic(balanced)
    colours = denoise(colours, params["denoise"], params["denoise_colour"])
    colours = correct_colours(colours, raw.matrix, params["saturation"])
    levels = tone_curve(colours * 2 ** params["exposure"], params["contrast"])
    return to_pixels(sharpen(levels, params["sharpen"], params["sharpen_radius"]))


def white_balance(mosaic: Plane, gains: tuple[float, float, float]) -> Plane:
    """An RGGB mosaic, each colour times its gain; clipped where the least gain clips, so that
    white stays white."""
    tile = np.array([[gains[0], gains[1]], [gains[1], gains[2]]], np.float32)
    factors = np.tile(tile, (mosaic.shape[0] // 2, mosaic.shape[1] // 2))
    balanced: Plane = np.clip(mosaic * factors, None, min(gains))
    return balanced


def demosaic(mosaic: Plane) -> Plane:
    """[H, W] RGGB -> [H, W, 3], by gradient-corrected linear interpolation."""
    filters = (_GREEN, _ALONG, _ALONG.T, _ACROSS)
    green, along, down, across = (
        _ndimage().correlate(mosaic, (kernel / 8).astype(np.float32), mode="mirror")
        for kernel in filters
    )
    colours: Plane = np.stack([mosaic] * 3, -1)
    colours[::2, ::2, 1], colours[::2, ::2, 2] = green[::2, ::2], across[::2, ::2]
    colours[1::2, 1::2, 1], colours[1::2, 1::2, 0] = green[1::2, 1::2], across[1::2, 1::2]
    colours[::2, 1::2, 0], colours[::2, 1::2, 2] = along[::2, 1::2], down[::2, 1::2]
    colours[1::2, ::2, 2], colours[1::2, ::2, 0] = along[1::2, ::2], down[1::2, ::2]
    return colours


def denoise(colours: Plane, strength: float, colour_sigma: float) -> Plane:
    """Luma by a guided filter, what differs from luma by a Gaussian.

    In square roots of light, where shot noise is even (Anscombe 1948).
    """
    if strength == 0 and colour_sigma == 0:
        return colours
    roots = np.sqrt(np.maximum(colours, 0))
    luma = roots @ LUMA
    difference = roots - luma[..., None]
    if colour_sigma > 0:
        difference = _ndimage().gaussian_filter(difference, (colour_sigma, colour_sigma, 0))
    smooth = guided(luma, 0.1 * strength)
    cleaned: Plane = np.maximum(smooth[..., None] + difference, 0) ** 2
    return cleaned


def guided(plane: Plane, tolerance: float, side: int = 5) -> Plane:
    """He, Sun and Tang, "Guided Image Filtering" (ECCV 2010), a picture guided by itself: what
    varies by less than `tolerance` is smoothed, what varies by more is an edge."""
    if tolerance == 0:
        return plane
    mean = _ndimage().uniform_filter(plane, side)
    variance = np.maximum(_ndimage().uniform_filter(plane * plane, side) - mean * mean, 0)
    slope = variance / (variance + tolerance**2)
    level = _ndimage().uniform_filter(mean * (1 - slope), side)
    smooth: Plane = _ndimage().uniform_filter(slope, side) * plane + level
    return smooth


def correct_colours(colours: Plane, matrix: Matrix, saturation: float) -> Plane:
    corrected = colours @ matrix.T.astype(np.float32)
    luma = (corrected @ LUMA)[..., None]
    saturated: Plane = luma + saturation * (corrected - luma)
    return saturated


def tone_curve(light: Plane, contrast: float) -> Plane:
    """Linear light to sRGB's levels from 0 to 1, then contrast about the middle."""
    levels = encoded(np.clip(light, 0, 1))
    # A cubic with slope 1 + contrast in the middle; it keeps black, grey and white in place.
    curved: Plane = levels + contrast * (levels - 0.5) * (1 - (2 * levels - 1) ** 2)
    return curved


def sharpen(levels: Plane, amount: float, radius: float) -> Plane:
    """An unsharp mask on luma."""
    if amount == 0:
        return levels
    luma = levels @ LUMA
    detail = luma - _ndimage().gaussian_filter(luma, radius)
    sharp: Plane = levels + amount * detail[..., None]
    return sharp


def to_pixels(levels: Plane) -> Pixels:
    pixels: Pixels = np.rint(255 * np.clip(levels, 0, 1)).astype(np.uint8)
    return pixels


def _ndimage() -> ModuleType:
    return require("scipy.ndimage", package="scipy", extra="tune", purpose="the reference ISP")

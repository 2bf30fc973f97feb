"""A picture under its quality map: what is good stays as it is, what is bad glows."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from qinsight_plugin.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from qinsight_plugin.records import Pixels, QualityMap

# From good to bad. Lightness rises all the way, so the order shows with any kind of colour vision.
_RAMP = (
    (38, 30, 84),
    (96, 38, 128),
    (170, 52, 116),
    (228, 96, 72),
    (250, 160, 50),
    (252, 226, 110),
)

_TINT = 0.6  # of the colour, over the picture in grey
_DIM = 0.7  # of the grey's brightness, lest a white sky drown the colour


def overlay(pixels: Pixels, quality_map: QualityMap, low: float = 1.0, high: float = 5.0) -> Pixels:
    """Show a quality map on its picture, over a legend.

    The worse a place, the more it turns grey under a colour, from violet over red to bright yellow;
    at `high` it stays as it is, bit for bit. Values beyond the scale count as its ends.

    Args:
        pixels: uint8 [H, W, 3], sRGB.
        quality_map: float32 [h, w], spread over the whole picture; interpolated between the centres
            of its cells.
        low, high: the bad and the good end of the scale; `low` is the larger number for a scorer
            that gives lower numbers to better pictures.

    Returns:
        uint8 [H + L, W, 3]: the picture in its own size, and L rows of legend under it.

    Raises:
        ConfigError: an array is of another kind, or the ends of the scale are equal or not finite.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        raise ConfigError(
            f"cannot overlay {pixels.dtype} {list(pixels.shape)}; pass uint8 [H, W, 3]"
        )
    if quality_map.ndim != 2 or not quality_map.size or not np.isfinite(quality_map).all():
        raise ConfigError(
            f"cannot show a quality map of shape {list(quality_map.shape)}; it must be [h, w], "
            "h and w from 1 up, and finite"
        )
    if not np.isfinite(high - low) or low == high:
        raise ConfigError(f"no scale runs from {low:g} to {high:g}; pass two different finite ends")
    picture = Image.fromarray(pixels)
    badness = np.clip((high - np.asarray(quality_map, np.float32)) / (high - low), 0, 1)
    shown = _tinted(picture, _mask(badness, picture.size))
    return np.concatenate([np.asarray(shown), np.asarray(_legend(picture.width, low, high))])


def _mask(badness: QualityMap, size: tuple[int, int]) -> PILImage:
    """Badness from 0 to 1 as an 8-bit picture of (width, height). Bilinear: it cannot overshoot."""
    cells = Image.fromarray(255 * badness)
    smooth = np.asarray(cells.resize(size, Image.Resampling.BILINEAR))
    return Image.fromarray(np.rint(smooth).astype(np.uint8))


def _tinted(picture: PILImage, mask: PILImage) -> PILImage:
    colour = Image.merge("RGB", [mask.point(channel) for channel in _ramp()])
    grey = picture.convert("L").point([round(_DIM * level) for level in range(256)])
    return Image.composite(Image.blend(grey.convert("RGB"), colour, _TINT), picture, mask)


@lru_cache(maxsize=1)
def _ramp() -> list[list[int]]:
    """The 256 levels of red, green and blue."""
    levels = np.linspace(0, len(_RAMP) - 1, 256)
    ramp = [np.interp(levels, range(len(_RAMP)), channel) for channel in zip(*_RAMP, strict=True)]
    return [[round(v) for v in channel] for channel in ramp]


@lru_cache(maxsize=16)  # a loop draws it again and again
def _legend(width: int, low: float, high: float) -> PILImage:
    """What each number looks like on a mid-grey, with the numbers under it, on black."""
    font = ImageFont.load_default()
    bar, text = 8, 16
    legend = Image.new("RGB", (width, bar + text))
    scale = _mask(np.linspace(1, 0, width, dtype=np.float32)[np.newaxis], (width, bar))
    legend.paste(_tinted(Image.new("RGB", scale.size, "gray"), scale))
    pen = ImageDraw.Draw(legend)
    ticks = 5 if width >= 160 else 2  # as many as have room
    for number, x in zip(np.linspace(low, high, ticks), np.linspace(0, width, ticks), strict=True):
        anchor = "l" if x == 0 else "r" if x == width else "m"
        pen.text((x, bar + text / 2), f"{number:g}", "white", font, anchor=f"{anchor}m")
    return legend

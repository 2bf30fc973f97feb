"""Ladders of synthetic distortions with known order, after KADIS-700K's recipe.

Lin, Hosu and Saupe, "DeepFL-IQA: Weak Supervision for Deep IQA Feature Learning", 2020. The order
inside a ladder is a weak label: it is sure, but no person rated it, so it trains ranking only.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Pixels: TypeAlias = npt.NDArray[np.uint8]
Distort: TypeAlias = Callable[[Pixels, float, np.random.Generator], Pixels]


def gaussian_blur(pixels: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def resampling_blur(pixels: Pixels, factor: float, _: np.random.Generator) -> Pixels:
    """Shrink by `factor` and enlarge again, as a thumbnail shown too big."""
    image = Image.fromarray(pixels)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    shrunk = image.resize(small, Image.Resampling.BICUBIC)
    return np.asarray(shrunk.resize(image.size, Image.Resampling.BICUBIC))


def colour_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return to_uint8(pixels + rng.normal(0.0, sigma, pixels.shape))


def luminance_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    return to_uint8(pixels + rng.normal(0.0, sigma, (*pixels.shape[:2], 1)))


def jpeg(pixels: Pixels, quality_factor: float, _: np.random.Generator) -> Pixels:
    return encoded(pixels, "JPEG", quality_factor)


def webp(pixels: Pixels, quality_factor: float, _: np.random.Generator) -> Pixels:
    return encoded(pixels, "WEBP", quality_factor)


def encoded(pixels: Pixels, codec: str, quality_factor: float) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec, quality=round(quality_factor))
    return np.asarray(Image.open(buffer).convert("RGB"))


def darken_by_gain(pixels: Pixels, gain: float, _: np.random.Generator) -> Pixels:
    return to_uint8(pixels * gain)


def darken_by_gamma(pixels: Pixels, gamma: float, _: np.random.Generator) -> Pixels:
    return to_uint8(255.0 * (pixels / 255.0) ** gamma)


def to_uint8(values: npt.NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


LADDERS: dict[str, tuple[tuple[Distort, tuple[float, ...]], ...]] = {
    "blur": (
        (gaussian_blur, (0.6, 1.1, 1.8, 3.0, 5.0)),
        (resampling_blur, (1.5, 2.1, 3.0, 4.5, 7.0)),
    ),
    "noise": (
        (colour_noise, (4.0, 9.0, 17.0, 28.0, 45.0)),
        (luminance_noise, (4.0, 9.0, 17.0, 28.0, 45.0)),
    ),
    "compression": (
        (jpeg, (60.0, 38.0, 22.0, 12.0, 6.0)),
        (webp, (60.0, 35.0, 17.0, 7.0, 1.0)),
    ),
    "darken": (
        (darken_by_gain, (0.78, 0.58, 0.42, 0.28, 0.16)),
        (darken_by_gamma, (1.35, 1.8, 2.4, 3.3, 4.8)),
    ),
}
"""Distortion class -> its variants, each with five settings from slight to catastrophic."""


def ladder(pixels: Pixels, rng: np.random.Generator) -> tuple[str, list[Pixels]]:
    """The class drawn, and six pictures: the untouched one and its five levels, best first.

    Settings are drawn between neighbouring levels, so that training sees the whole range.
    """
    name = str(rng.choice(list(LADDERS)))
    variants = LADDERS[name]
    distort, settings = variants[rng.integers(len(variants))]
    shift = rng.uniform(0.0, 0.8)
    moved = [a + shift * (b - a) for a, b in pairwise(settings)]
    return name, [pixels, *(distort(pixels, value, rng) for value in (*moved, settings[-1]))]

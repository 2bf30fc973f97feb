"""Synthetic distortions of pristine pictures, with their classes and severities.

After KADIS-700K (Lin, Hosu and Saupe, "DeepFL-IQA: Weak Supervision for Deep IQA Feature
Learning", 2020), in the words of `DISTORTIONS` and `SEVERITIES`: severity 1 is slight, 5 is
catastrophic, 0 is none, and values between are meant. That a distortion is there, and that more of
it is worse, is sure; that two variants at one severity look equally bad was judged by no panel.
Pictures should be good photographs: in a flat or black one, a distortion may change nothing.

Every function is a fixed function of its arguments and the state of its generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Pixels
from qinsight_plugin.student import codecs, effects

Severities: TypeAlias = npt.NDArray[np.float32]
Distort: TypeAlias = Callable[[Pixels, float, np.random.Generator], Pixels]

WORST = len(SEVERITIES)
MIN_SIDE = 32


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to distort.

    Attributes:
        name: unique among all variants.
        distort: takes uint8 [H, W, 3], a setting and a generator; gives the same shape.
        neutral: the setting that changes nothing, or as little as an encoder can.
        settings: at severities 1 to 5.
    """

    name: str
    distort: Distort
    neutral: float
    settings: tuple[float, float, float, float, float]

    def setting(self, severity: float) -> float:
        """The setting at a severity from 0 to 5, linear between the stated ones.

        Raises:
            ConfigError: for a severity outside that range.
        """
        if not 0 <= severity <= WORST:
            raise ConfigError(f"severity {severity} of {self.name} is outside 0 to {WORST}")
        return float(np.interp(severity, range(WORST + 1), (self.neutral, *self.settings)))

    def apply(self, pixels: Pixels, severity: float, rng: np.random.Generator) -> Pixels:
        """uint8 [H, W, 3] at a severity from 0 to 5; at 0 the picture as it is.

        Raises:
            ConfigError: for a severity outside that range, or a codec that Pillow lacks.
        """
        setting = self.setting(severity)
        return self.distort(pixels, setting, rng) if severity > 0 else pixels


VARIANTS: dict[str, tuple[Variant, ...]] = {
    # class, then of each variant: name, function, neutral, settings at severities 1 to 5
    "noise": (
        Variant("colour", effects.colour_noise, 0, (4, 9, 17, 28, 45)),
        Variant("luminance", effects.luminance_noise, 0, (4, 9, 17, 28, 45)),
        Variant("chroma", effects.chroma_noise, 0, (6, 12, 21, 33, 50)),
        Variant("impulse", effects.impulse_noise, 0, (0.001, 0.005, 0.015, 0.04, 0.1)),
        Variant("speckle", effects.speckle_noise, 0, (0.035, 0.08, 0.15, 0.26, 0.45)),
        Variant("sensor", effects.sensor_noise, 0, (0.025, 0.05, 0.09, 0.15, 0.24)),
        Variant("grain", effects.grain_noise, 0, (3.5, 7, 13, 21, 33)),
    ),
    "compression": (
        Variant("JPEG 4:2:0", codecs.jpeg_420, 100, (60, 38, 22, 12, 6)),
        Variant("JPEG 4:4:4", codecs.jpeg_444, 100, (60, 38, 22, 12, 6)),
        Variant("JPEG twice", codecs.double_jpeg, 100, (62, 39, 22, 12, 6)),
        Variant("JPEG, shrunk", codecs.shrunk_jpeg, 100, (80, 62, 40, 24, 10)),
        Variant("WebP", codecs.webp, 100, (60, 35, 17, 7, 1)),
        Variant("AVIF", codecs.avif, 100, (52, 40, 28, 15, 2)),
        Variant("JPEG 2000", codecs.jpeg_2000, 1, (18, 30, 50, 90, 180)),
    ),
    "blur": (
        Variant("gaussian", effects.gaussian_blur, 0, (0.6, 1.1, 1.8, 3, 5)),
        Variant("resampling", effects.resampling_blur, 1, (1.5, 2.1, 3, 4.5, 7)),
        Variant("defocus", effects.defocus_blur, 0.5, (1.2, 2.2, 3.6, 6, 10)),
        Variant("motion", effects.motion_blur, 1, (3, 5.5, 9, 15, 25)),
    ),
    "darken": (
        Variant("gain", effects.darken_by_gain, 1, (0.78, 0.58, 0.42, 0.28, 0.16)),
        Variant("gamma", effects.darken_by_gamma, 1, (1.35, 1.8, 2.4, 3.3, 4.8)),
        Variant("exposure", effects.underexpose, 0, (0.8, 1.7, 2.7, 3.9, 5.4)),
        Variant("low light", effects.low_light, 0, (0.8, 1.7, 2.7, 3.9, 5.4)),
        Variant("murk", effects.murk, 1, (0.75, 0.54, 0.37, 0.22, 0.1)),
    ),
}
"""Distortion class -> its variants, whose settings are meant to look equally severe."""


@dataclass(frozen=True, slots=True, eq=False)
class Applied:
    """A picture and what was done to it.

    Attributes:
        pixels: uint8 [H, W, 3].
        severities: float32 [4], 0 to 5, of the classes in the order of `DISTORTIONS`; 0 is absent.
    """

    pixels: Pixels
    severities: Severities


@dataclass(frozen=True, slots=True, eq=False)
class Ladder:
    """One variant in rising severity.

    Attributes:
        distortion: a class of `DISTORTIONS`.
        variant: which of the class's variants.
        rungs: the untouched picture and five worse ones, best first.
    """

    distortion: str
    variant: Variant
    rungs: tuple[Applied, ...]


def graded_ladder(pixels: Pixels, rng: np.random.Generator, without: Sequence[bool] = ()) -> Ladder:
    """Five severities of one variant drawn at random, one apart, and the picture as it is.

    Each rung has the same noise, angle or shift as the one above, only more of it. The topmost
    severity is drawn from above 0.5 to 1, so that training sees more than the five stated settings.

    Args:
        pixels: uint8 [H, W, 3], sides of at least 32.
        without: per class of `DISTORTIONS`, whether it is left out of the draw.
    """
    allowed = [n for n, out in zip_longest(DISTORTIONS, without, fillvalue=False) if not out]
    name, variant = _draw_variant(rng, str(rng.choice(allowed)))
    less, seed = rng.uniform(0, 0.5), int(rng.integers(2**63))
    severities = (0, *(level - less for level in range(1, WORST + 1)))
    rungs = (
        Applied(variant.apply(pixels, s, np.random.default_rng(seed)), _labels({name: s}))
        for s in severities
    )
    return Ladder(name, variant, tuple(rungs))


def spoil(
    pixels: Pixels, rng: np.random.Generator, worst: float = 3.0
) -> tuple[Pixels, Severities]:
    """One distortion, of a severity up to `worst`; up to "obvious", others still show on top."""
    name, variant = _draw_variant(rng)
    severity = rng.uniform(0.6, worst)
    return variant.apply(pixels, severity, rng), _labels({name: severity})


def harmless(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Changes that nobody would call a distortion, each as likely as not.

    Mirrored; cropped to 0.8 or more of each side; reduced to 0.6 or more, antialiased; 5 % brighter
    or darker at most; saved as JPEG of quality 92 to 98. No side falls under 32 by it.

    Args:
        pixels: uint8 [H, W, 3], sides of at least 32.
    """
    steps = (_mirrored, _cropped, _reduced, _brightened, _saved_well)
    for step, wanted in zip(steps, rng.random(len(steps)) < 0.5, strict=True):
        if wanted:
            pixels = step(pixels, rng)
    return pixels


def _mirrored(pixels: Pixels, _: np.random.Generator) -> Pixels:
    return np.ascontiguousarray(pixels[:, ::-1])


def _cropped(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = (max(MIN_SIDE, round(side * rng.uniform(0.8, 1))) for side in pixels.shape[:2])
    top = rng.integers(pixels.shape[0] - height + 1)
    left = rng.integers(pixels.shape[1] - width + 1)
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def _reduced(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    factor = max(rng.uniform(0.6, 1), MIN_SIDE / min(height, width))
    size = (math.ceil(width * factor), math.ceil(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def _brightened(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return effects.to_uint8(rng.uniform(0.95, 1.05) * effects.LEVELS)[pixels]


def _saved_well(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    return codecs.jpeg_420(pixels, rng.uniform(92, 98), rng)


def _draw_variant(rng: np.random.Generator, name: str | None = None) -> tuple[str, Variant]:
    name = name or DISTORTIONS[rng.integers(len(DISTORTIONS))]
    variants = VARIANTS[name]
    return name, variants[rng.integers(len(variants))]


def _labels(severities: dict[str, float]) -> Severities:
    return np.array([severities.get(name, 0) for name in DISTORTIONS], np.float32)

"""How far the look of a picture may go: what keeps an optimiser from hacking the score.

A picture's traits are measured and compared with those of the same scene at the default setting.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Pixels
from qinsight_plugin.srgb import LINEAR

_TO_XYZ = np.array(  # IEC 61966-2-1, over the D65 white
    [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
) / np.array([[0.9505], [1.0], [1.089]])


@dataclass(frozen=True, slots=True)
class Traits:
    """What a picture looks like, in a few numbers.

    Attributes:
        lightness, contrast: mean and standard deviation of CIE L*, 0 to 100.
        a, b: mean CIE a* and b*: the cast, or what colour the scene has on the whole.
        chroma: mean CIE C*.
            All of these of the means of blocks of 8x8 pixels.
        clipped: share of the pixels with a channel at 0 or 255.
        noise: standard deviation that white noise would have, in 8-bit levels of luma, by
            Immerkær's mask ("Fast Noise Variance Estimation", CVIU 64, 1996). Sharpening and
            texture raise it too.
    """

    lightness: float
    contrast: float
    a: float
    b: float
    chroma: float
    clipped: float
    noise: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """The farthest that a scene may be taken from its look at the default setting. None: any.

    Attributes:
        lightness, contrast: differences of `Traits`, both ways.
        colour: distance of the mean a*, b*.
        chroma: difference, both ways.
        clipped: share of pixels clipped in addition.
        noise: factor on the noise.
    """

    lightness: float | None = 12.0
    contrast: float | None = 3.0
    colour: float | None = 6.0
    chroma: float | None = 5.0
    clipped: float | None = 0.02
    noise: float | None = 1.1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            limit = getattr(self, field.name)
            least = 1 if field.name == "noise" else 0
            if limit is not None and not (math.isfinite(limit) and limit > least):
                raise ConfigError(f"bound {field.name} must be a number above {least}, not {limit}")

    def used(self, default: Traits, now: Traits) -> dict[str, float]:
        """Each bound's name and how much of it is used: 1 is as far as it goes."""
        far = {
            "lightness": abs(now.lightness - default.lightness),
            "contrast": abs(now.contrast - default.contrast),
            "colour": math.hypot(now.a - default.a, now.b - default.b),
            "chroma": abs(now.chroma - default.chroma),
            "clipped": max(0.0, now.clipped - default.clipped),
        }
        used = {
            name: distance / limit
            for name, distance in far.items()
            if (limit := getattr(self, name)) is not None
        }
        if self.noise is not None:
            more = max(now.noise, 0.1) / max(default.noise, 0.1)
            used["noise"] = max(0.0, math.log(more)) / math.log(self.noise)
        return used

    def excess(self, default: Traits, now: Traits) -> float:
        """By how much the bounds are overstepped, in their own widths, summed; 0 within them."""
        return sum(max(0.0, used - 1) for used in self.used(default, now).values())

    def strain(self, default: Traits, now: Traits) -> float:
        """How hard the bounds are leant on: the squares of what is used of each, summed, up to 1
        each. Without a cost on it, a look drifts to wherever noise in the score leads."""
        return sum(min(used, 1.0) ** 2 for used in self.used(default, now).values())


UNBOUNDED = Bounds(None, None, None, None, None, None)


def traits(pixels: Pixels) -> Traits:
    """Measure a picture, uint8 [H, W, 3], both sides at least 8."""
    lab = to_lab(blocks(pixels))
    lightness, a, b = (float(plane.mean()) for plane in lab)
    extremes = (pixels == 0) | (pixels == 255)
    return Traits(
        lightness,
        float(lab[0].std()),
        a,
        b,
        float(np.hypot(lab[1], lab[2]).mean()),
        float(extremes.any(-1).mean()),
        noise_of(pixels),
    )


def blocks(pixels: Pixels, side: int = 8) -> npt.NDArray[np.float64]:
    """Linear light, [H // side, W // side, 3], each the mean of a square: without the noise, which
    would count as chroma and contrast."""
    height, width = (length // side for length in pixels.shape[:2])
    light = LINEAR[pixels[: height * side, : width * side]]
    means: npt.NDArray[np.float64] = light.reshape(height, side, width, side, 3).mean((1, 3))
    return means


def to_lab(light: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear sRGB [H, W, 3] -> [3, H, W], CIE L*, a*, b* under D65 (CIE 15)."""
    xyz = light @ _TO_XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def noise_of(pixels: Pixels) -> float:
    """Immerkær's estimate on luma (ITU-R BT.601)."""
    luma = pixels @ np.array([0.299, 0.587, 0.114], np.float32)
    rows = luma[:-2] - 2 * luma[1:-1] + luma[2:]
    mask = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(math.sqrt(math.pi / 2) / 6 * np.abs(mask).mean())

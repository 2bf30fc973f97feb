"""Blur, noise and darkening as arithmetic on pixels.

Every function takes uint8 sRGB [H, W, 3], one setting, and a generator, and returns uint8 of the
same shape. Those that draw at random draw the same whatever the setting: from equal generators, a
larger setting gives more of the same distortion.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from qinsight_plugin.records import Pixels

Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

LEVELS = np.arange(256, dtype=np.float32)
SMOOTH_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.HAMMING,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
)


def to_uint8(values: npt.NDArray[np.floating]) -> Pixels:
    """Rounded and clipped to 0..255."""
    pixels: Pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return pixels


def to_linear(values: Floats) -> Floats:
    """sRGB 0..255 to linear light 0..1, IEC 61966-2-1."""
    v = values / 255
    light: Floats = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    return light


def from_linear(light: Floats) -> Floats:
    """Linear light, clipped to 0..1, to sRGB 0..255."""
    light = np.clip(light, 0, 1)
    v: Floats = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return 255 * v


# Blur


def gaussian_blur(pixels: Pixels, sigma: float, _: Rng) -> Pixels:
    """Standard deviation in pixels."""
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def resampling_blur(pixels: Pixels, factor: float, rng: Rng) -> Pixels:
    """Shrunk by `factor` and enlarged again, as a thumbnail shown too big."""
    down, up = (SMOOTH_FILTERS[i] for i in rng.integers(len(SMOOTH_FILTERS), size=2))
    image = Image.fromarray(pixels)
    small = (max(1, round(image.width / factor)), max(1, round(image.height / factor)))
    return np.asarray(image.resize(small, down).resize(image.size, up))


def defocus_blur(pixels: Pixels, radius: float, _: Rng) -> Pixels:
    """A lens out of focus: a disc of that radius in pixels."""
    return convolve(pixels, disc(radius))


def motion_blur(pixels: Pixels, length: float, rng: Rng) -> Pixels:
    """A straight movement of `length` pixels, at a random angle."""
    return convolve(pixels, line(length, rng.uniform(0, math.pi)))


def disc(radius: float) -> Floats:
    """Kernel of sum 1: a disc with a soft edge; a single pixel at radius 0.5."""
    y, x = _offsets(math.ceil(radius))
    return _normalised(np.clip(radius + 0.5 - np.hypot(y, x), 0, 1))


def line(length: float, angle: float) -> Floats:
    """Kernel of sum 1: a line one pixel wide; a single pixel at length 1.

    Args:
        angle: in radians, from the direction of the rows.
    """
    half = (length - 1) / 2
    y, x = _offsets(math.ceil(half) + 1)
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    beyond = np.maximum(np.abs(along) - half, 0)
    return _normalised(np.maximum(1 - np.hypot(across, beyond), 0))


def convolve(pixels: Pixels, kernel: Floats) -> Pixels:
    """Convolution with a square kernel of odd side; the border's pixels repeat beyond it."""
    margin = len(kernel) // 2
    height, width = pixels.shape[:2]
    # Transforms of lengths without large prime factors are several times faster.
    tall, wide = (math.ceil((side + 2 * margin) / 32) * 32 for side in (height, width))
    below, right = tall - height - margin, wide - width - margin
    around = np.pad(pixels, ((margin, below), (margin, right), (0, 0)), "edge")
    planes = np.ascontiguousarray(around.transpose(2, 0, 1), np.float32)
    spectrum = np.fft.rfft2(planes) * np.fft.rfft2(kernel, (tall, wide))
    blurred = np.fft.irfft2(spectrum, (tall, wide)).transpose(1, 2, 0)
    return to_uint8(blurred[2 * margin :, 2 * margin :][:height, :width])


def _offsets(reach: int) -> tuple[Floats, Floats]:
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    return steps[:, None], steps[None]


def _normalised(kernel: Floats) -> Floats:
    normalised: Floats = kernel / kernel.sum()
    return normalised


# Noise


def colour_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Gaussian, independent in every channel; sigma in grey levels."""
    return to_uint8(pixels + sigma * _normal(rng, pixels.shape))


def luminance_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Gaussian, the same in all three channels; sigma in grey levels."""
    return to_uint8(pixels + sigma * _normal(rng, (*pixels.shape[:2], 1)))


def chroma_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Gaussian in Cb and Cr of ITU-R BT.601, coarser than a pixel; sigma in grey levels."""
    blue, red = np.moveaxis(sigma * _smooth_normal(rng, (*pixels.shape[:2], 2)), -1, 0)
    return to_uint8(
        pixels + np.stack([1.402 * red, -0.344136 * blue - 0.714136 * red, 1.772 * blue], axis=-1)
    )


def impulse_noise(pixels: Pixels, density: float, rng: Rng) -> Pixels:
    """Salt and pepper: a share `density` of the pixels is black or white."""
    chance = rng.random((*pixels.shape[:2], 1), dtype=np.float32)
    peppered = np.where(chance < density / 2, np.uint8(0), pixels)
    return np.where(chance >= 1 - density / 2, np.uint8(255), peppered)


def speckle_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Multiplicative Gaussian; sigma as a share of the pixel's value."""
    return to_uint8(pixels * (1 + sigma * _normal(rng, pixels.shape)))


def sensor_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Poisson-Gaussian in linear light, smoothed as by a camera's own denoising.

    The variance grows linearly with light (Foi et al., "Practical Poissonian-Gaussian noise
    modeling and fitting for single-image raw-data", 2008), from 1 % of what it is at white.

    Args:
        sigma: standard deviation at white, as a share of white.
    """
    light = to_linear(LEVELS)[pixels]
    deviation = sigma * np.sqrt(0.99 * light + 0.01)
    return to_uint8(from_linear(light + deviation * _smooth_normal(rng, pixels.shape)))


def grain_noise(pixels: Pixels, sigma: float, rng: Rng) -> Pixels:
    """Film grain: grey, coarser than a pixel, strongest at mid-grey, where its deviation is sigma
    grey levels, absent in black and white."""
    weight = 2 * np.sqrt(LEVELS / 255 * (1 - LEVELS / 255))
    grain = sigma * _smooth_normal(rng, (*pixels.shape[:2], 1))
    return to_uint8(pixels + weight[pixels] * grain)


def _normal(rng: Rng, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape, np.float32)


def _smooth_normal(rng: Rng, shape: tuple[int, ...]) -> Floats:
    """Of deviation 1, smoothed along both sides by 1 2 1, whose squares sum to 6 / 16."""
    height, width, channels = shape
    field = _normal(rng, (height + 2, width + 2, channels))
    rows = field[:-2] + 2 * field[1:-1] + field[2:]
    both: Floats = (rows[:, :-2] + 2 * rows[:, 1:-1] + rows[:, 2:]) / 6
    return both


# Darkening


def darken_by_gain(pixels: Pixels, gain: float, _: Rng) -> Pixels:
    """sRGB values times `gain`."""
    return to_uint8(gain * LEVELS)[pixels]


def darken_by_gamma(pixels: Pixels, gamma: float, _: Rng) -> Pixels:
    """sRGB values, as shares of white, to the power `gamma`."""
    return to_uint8(255 * (LEVELS / 255) ** gamma)[pixels]


def underexpose(pixels: Pixels, stops: float, _: Rng) -> Pixels:
    """Light halved `stops` times."""
    return to_uint8(from_linear(to_linear(LEVELS) / 2**stops))[pixels]


def low_light(pixels: Pixels, stops: float, rng: Rng) -> Pixels:
    """Underexposed, with noise of up to 2 grey levels, which is under slight for noise."""
    dark = from_linear(to_linear(LEVELS) / 2**stops)[pixels]
    return to_uint8(dark + np.float32(min(stops / 2, 2)) * _normal(rng, pixels.shape))


def murk(pixels: Pixels, contrast: float, _: Rng) -> Pixels:
    """Contrast lowered towards a dark grey of 24, as through smoked glass."""
    return to_uint8(24 + contrast * (LEVELS - 24))[pixels]

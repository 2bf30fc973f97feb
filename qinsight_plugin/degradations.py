"""Degradations to measure scorers with, of known class and level.

They share no code with `student.distort`, which students are trained on: noise and gamma are
scikit-image's, JPEG is OpenCV's, blurs are kernels laid out here, and the transform coder is
written from the standard. WebP, AVIF and JPEG 2000 come from Pillow, the only encoder at hand.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, features

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError

if TYPE_CHECKING:
    from types import ModuleType

    from qinsight_plugin.records import Pixels

Plane: TypeAlias = npt.NDArray[np.float64]
Degrade: TypeAlias = "Callable[[Pixels, float, np.random.Generator], Pixels]"

LEVELS = (1, 2, 3, 4, 5)
"""As `records.SEVERITIES`, counted from slight to catastrophic."""

PACKAGES = {"cv2": "opencv-python-headless", "scipy": "scipy", "skimage": "scikit-image"}
"""What degrades, beside numpy and Pillow: module -> distribution."""

LUMINANCE_TABLE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""Quantisation steps, ITU-T T.81 table K.1, by vertical and horizontal frequency."""

YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)
"""R'G'B' -> Y, Cb, Cr about zero, ITU-T T.871 (JFIF)."""

MIDDLE = np.array([128, 0, 0])
"""What the transform coder takes from Y, Cb and Cr, ITU-T T.81 A.3.1."""


def gaussian_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """`sigma` in 8-bit levels, each channel on its own."""
    return random_noise(pixels, rng, mode="gaussian", var=(sigma / 255) ** 2)


def speckle_noise(pixels: Pixels, sigma: float, rng: np.random.Generator) -> Pixels:
    """Noise in proportion to the level; `sigma` is that proportion."""
    return random_noise(pixels, rng, mode="speckle", var=sigma**2)


def impulse_noise(pixels: Pixels, amount: float, rng: np.random.Generator) -> Pixels:
    """Salt and pepper on a share `amount` of the samples."""
    return random_noise(pixels, rng, mode="s&p", amount=amount)


def random_noise(pixels: Pixels, rng: np.random.Generator, **settings: str | float) -> Pixels:
    return to_pixels(255 * library("skimage.util").random_noise(pixels, rng=rng, **settings))


def shot_noise(pixels: Pixels, photons: float, rng: np.random.Generator) -> Pixels:
    """Poisson noise of a sensor that collects `photons` where the picture is white."""
    return to_pixels(rng.poisson(pixels / 255 * photons) * (255 / photons))


def gaussian_blur(pixels: Pixels, sigma: float, _: np.random.Generator) -> Pixels:
    blur = library("scipy.ndimage").gaussian_filter
    return to_pixels(blur(pixels.astype(float), (sigma, sigma, 0)))


def defocus_blur(pixels: Pixels, radius: float, _: np.random.Generator) -> Pixels:
    """The picture of a point is a disc of `radius` pixels."""
    y, x = grid(radius)
    inside = x**2 + y**2 <= radius**2
    return spread(pixels, kernel(y[inside], x[inside]))


def box_blur(pixels: Pixels, side: float, _: np.random.Generator) -> Pixels:
    """The mean over squares of `side` pixels."""
    return spread(pixels, kernel(*grid(side / 2)))


def motion_blur(pixels: Pixels, length: float, rng: np.random.Generator) -> Pixels:
    """A straight track of `length` pixels in a direction drawn at random."""
    angle = rng.uniform(0, np.pi)
    track = np.linspace(-length / 2, length / 2, 4001)
    return spread(pixels, kernel(track * np.sin(angle), track * np.cos(angle)))


def grid(reach: float) -> tuple[Plane, Plane]:
    """Points that fill the square from -reach to reach evenly, as y and x."""
    points = 400
    axis = ((np.arange(points) + 0.5) / points * 2 - 1) * reach
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return y, x


def kernel(y: Plane, x: Plane) -> Plane:
    """The share of the points in each pixel, [k, k] with k odd; pixel 0, 0 is its centre."""
    reach = int(np.ceil(max(np.abs(y).max(), np.abs(x).max()) - 0.5))
    edges = np.arange(-reach - 0.5, reach + 1)
    counts, _, _ = np.histogram2d(np.ravel(y), np.ravel(x), bins=(edges, edges))
    weights: Plane = counts / counts.sum()
    return weights


def spread(pixels: Pixels, weights: Plane) -> Pixels:
    """Convolve each channel, the picture mirrored at its borders; `weights` is [k, k], k odd."""
    reach = len(weights) // 2
    padded = np.pad(pixels.astype(float), ((reach, reach), (reach, reach), (0, 0)), "symmetric")
    convolve = library("scipy.signal").oaconvolve
    return to_pixels(convolve(padded, weights[..., None], mode="valid", axes=(0, 1)))


def jpeg(pixels: Pixels, quality_factor: float, _: np.random.Generator) -> Pixels:
    """By OpenCV, on the usual scale of quality factors."""
    cv2 = library("cv2")
    _, data = cv2.imencode(
        ".jpg", pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, round(quality_factor))
    )
    decoded: Pixels = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(decoded)


def webp(pixels: Pixels, quality_factor: float, _: np.random.Generator) -> Pixels:
    return encoded(pixels, "WEBP", round(quality_factor))


def avif(pixels: Pixels, quality_factor: float, _: np.random.Generator) -> Pixels:
    return encoded(pixels, "AVIF", round(quality_factor))


def jpeg2000(pixels: Pixels, psnr: float, _: np.random.Generator) -> Pixels:
    """The irreversible wavelet, to a PSNR in dB."""
    return saved(pixels, "JPEG2000", irreversible=True, quality_mode="dB", quality_layers=[psnr])


def transform_coding(pixels: Pixels, scale: float, _: np.random.Generator) -> Pixels:
    """JPEG's lossy steps: `LUMINANCE_TABLE` times `scale` on the 8x8 DCT of Y, Cb and Cr alike."""
    fft = library("scipy.fft")
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 8), (0, -width % 8), (0, 0)), "edge")
    rows, columns = padded.shape[0] // 8, padded.shape[1] // 8
    levels = padded @ YCBCR.T - MIDDLE
    blocks = levels.reshape(rows, 8, columns, 8, 3)
    steps = (LUMINANCE_TABLE * scale)[:, None, :, None]
    coefficients = np.rint(fft.dctn(blocks, axes=(1, 3), norm="ortho") / steps) * steps
    blocks = fft.idctn(coefficients, axes=(1, 3), norm="ortho")
    restored = (blocks.reshape(levels.shape) + MIDDLE) @ np.linalg.inv(YCBCR).T
    return to_pixels(restored[:height, :width])


def encoded(pixels: Pixels, codec: str, quality_factor: int) -> Pixels:
    """A picture after Pillow's encoder and decoder.

    Args:
        pixels: uint8 [H, W, 3].
        codec: "JPEG", "WEBP" or "AVIF".
        quality_factor: 0 (worst) to 100; each codec has a scale of its own.

    Raises:
        ConfigError: this Pillow was built without the codec.
    """
    return saved(pixels, codec, quality=quality_factor)


def saved(pixels: Pixels, codec: str, **settings: object) -> Pixels:
    feature = {"JPEG": "jpg", "JPEG2000": "jpg_2000"}.get(codec, codec.lower())
    if not features.check(feature):
        raise ConfigError(f"this Pillow was built without {codec}: install its wheel from PyPI")
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, codec, **settings)
    return np.asarray(Image.open(buffer).convert("RGB"))


def gain(pixels: Pixels, factor: float, _: np.random.Generator) -> Pixels:
    """Levels as they are stored, times `factor`."""
    return to_pixels(255 * library("skimage.exposure").adjust_gamma(pixels / 255, 1, factor))


def gamma(pixels: Pixels, exponent: float, _: np.random.Generator) -> Pixels:
    return to_pixels(255 * library("skimage.exposure").adjust_gamma(pixels / 255, exponent))


def underexposure(pixels: Pixels, stops: float, _: np.random.Generator) -> Pixels:
    """Light divided by 2 ** stops: levels are made linear and back, IEC 61966-2-1 (sRGB)."""
    levels = pixels / 255
    light = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    light /= 2**stops
    darker = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return to_pixels(255 * darker)


def library(module: str) -> ModuleType:
    """A module of `PACKAGES`.

    Raises:
        MissingExtraError, BrokenExtraError: it is not installed, or does not load.
    """
    package = PACKAGES[module.partition(".")[0]]
    return require(module, package=package, extra="distortions", purpose="degrading pictures")


def to_pixels(levels: npt.NDArray[np.floating]) -> Pixels:
    pixels: Pixels = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return pixels


# A level looks as bad whichever variant made it. The first variant of each class has the settings
# of the training ladders; so have gamma and WebP. The others are set to the first one's SSIM, the
# mean over the central 256x256 pixels of skimage's astronaut, chelsea and coffee (luma, Gaussian
# window; of motion, over directions too), without regard to training. A test measures them:
#
#   level              1      2      3      4      5
#   gaussian noise   0.957  0.837  0.647  0.467  0.310
#   jpeg             0.937  0.913  0.876  0.820  0.727
#   webp             0.945  0.918  0.878  0.840  0.787   (its scale ends there)
#   gaussian blur    0.967  0.877  0.778  0.669  0.571
#   gain             0.953  0.806  0.608  0.396  0.212
#   gamma            0.936  0.792  0.623  0.445  0.284
DEGRADATIONS: dict[str, dict[str, tuple[Degrade, tuple[float, float, float, float, float]]]] = {
    "noise": {
        "gaussian": (gaussian_noise, (4, 9, 17, 28, 45)),
        "shot": (shot_noise, (1660, 307, 77, 26, 9.4)),
        "speckle": (speckle_noise, (0.031, 0.077, 0.167, 0.308, 0.567)),
        "impulse": (impulse_noise, (0.0021, 0.0083, 0.023, 0.049, 0.099)),
    },
    "compression": {
        "jpeg": (jpeg, (60, 38, 22, 12, 6)),
        "dct": (transform_coding, (0.8, 1.316, 2.273, 4.167, 8.333)),  # JPEG's at those factors
        "jpeg2000": (jpeg2000, (34.1, 32.4, 30.8, 28.8, 26)),
        "avif": (avif, (50, 43, 33, 19, 0)),
        "webp": (webp, (60, 35, 17, 7, 1)),
    },
    "blur": {
        "gaussian": (gaussian_blur, (0.6, 1.1, 1.8, 3, 5)),
        "defocus": (defocus_blur, (0.87, 1.83, 2.95, 4.8, 7.8)),
        "box": (box_blur, (1.5, 3.25, 5.2, 8.5, 13.8)),
        "motion": (motion_blur, (2.15, 4.8, 8.3, 14.7, 26.2)),
    },
    "darken": {
        "gain": (gain, (0.78, 0.58, 0.42, 0.28, 0.16)),
        "underexposure": (underexposure, (0.74, 1.6, 2.5, 3.55, 4.85)),
        "gamma": (gamma, (1.35, 1.8, 2.4, 3.3, 4.8)),
    },
}
"""Distortion class -> variant -> what makes it, and its settings at `LEVELS`."""


def degrade(
    pixels: Pixels, distortion: str, variant: str, level: int, rng: np.random.Generator
) -> Pixels:
    """A picture with one distortion, of the same size.

    Args:
        pixels: uint8 [H, W, 3].
        distortion, variant: keys of `DEGRADATIONS`.
        level: one of `LEVELS`.
        rng: draws noise, and the direction of motion.

    Raises:
        ConfigError: there is no such degradation, or this Pillow lacks the codec.
        MissingExtraError, BrokenExtraError: see `library`.
    """
    try:
        function, settings = DEGRADATIONS[distortion][variant]
        setting = settings[LEVELS.index(level)]
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"no degradation {distortion}/{variant} at level {level}: choose from DEGRADATIONS, "
            "levels 1 to 5"
        ) from error
    return function(pixels, setting, rng)

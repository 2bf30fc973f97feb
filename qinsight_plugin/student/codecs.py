"""Compression as a distortion: what remains of a picture after real lossy encoders.

The encoders are Pillow's. Progressive JPEG is left out: it decodes to the pixels of baseline JPEG.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Pixels

JPEG_2000_HEADER = 300
"""Bytes of a file that hold no picture: not allowed for, they would leave small pictures grey."""


def encode(pixels: Pixels, codec: str, **options: Any) -> bytes:
    """The file that Pillow writes.

    Args:
        pixels: uint8 [H, W, 3].
        codec: Pillow's name of the format ("JPEG", "WEBP", "AVIF", "JPEG2000").
        options: what `PIL.Image.Image.save` takes for that format.

    Raises:
        ConfigError: when this build of Pillow lacks the encoder.
    """
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, codec, **options)
    except (KeyError, OSError) as error:
        raise ConfigError(
            f"this Pillow cannot write {codec} ({error}): install its wheel from PyPI, which can"
        ) from error
    return buffer.getvalue()


def reencode(pixels: Pixels, codec: str, **options: Any) -> Pixels:
    """uint8 [H, W, 3] through `encode` and back."""
    with Image.open(io.BytesIO(encode(pixels, codec, **options))) as image:
        return np.asarray(image.convert("RGB"))


def jpeg_420(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return reencode(pixels, "JPEG", quality=round(quality), subsampling="4:2:0")


def jpeg_444(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return reencode(pixels, "JPEG", quality=round(quality), subsampling="4:4:4")


def double_jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    """A JPEG cropped and saved again, better: the seams of its blocks are off the new grid."""
    top, left = rng.integers(3, 6, 2)
    once = jpeg_420(np.pad(pixels, ((top, 0), (left, 0), (0, 0)), "edge"), quality, rng)
    return jpeg_420(np.ascontiguousarray(once[top:, left:]), (quality + 100) / 2, rng)


def shrunk_jpeg(pixels: Pixels, quality: float, rng: np.random.Generator) -> Pixels:
    """A small JPEG enlarged again, as by a platform: the lower its quality, the more it shrinks."""
    factor = 1 + rng.uniform(0.5, 1.0) * (1 - quality / 100)
    height, width = pixels.shape[:2]
    small = (round(width / factor), round(height / factor))
    shrunk = Image.fromarray(pixels).resize(small, Image.Resampling.LANCZOS)
    compressed = Image.fromarray(jpeg_420(np.asarray(shrunk), quality, rng))
    return np.asarray(compressed.resize((width, height), Image.Resampling.BICUBIC))


def webp(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    return reencode(pixels, "WEBP", quality=round(quality))


def avif(pixels: Pixels, quality: float, _: np.random.Generator) -> Pixels:
    """At speed 9, a quarter of the time of speed 8; by one thread, since callers have threads."""
    return reencode(pixels, "AVIF", quality=round(quality), speed=9, max_threads=1)


def jpeg_2000(pixels: Pixels, ratio: float, _: np.random.Generator) -> Pixels:
    """Compressed `ratio` times by the irreversible 9/7 wavelet."""
    layer = pixels.size / (pixels.size / ratio + JPEG_2000_HEADER)
    return reencode(
        pixels, "JPEG2000", quality_mode="rates", quality_layers=[layer], irreversible=True
    )

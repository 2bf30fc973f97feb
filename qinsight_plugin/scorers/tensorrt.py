"""TensorRT under ONNX Runtime: shapes that an engine is built for, and where engines are kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from qinsight_plugin.errors import ConfigError, ImageTooLargeError
from qinsight_plugin.records import Image

MAX_BATCH = 16
LONGEST_SIDE = 1280
"""In pixels. Memory is planned for the largest batch of squares of this side: what covered every
strip of `max_pixels` would not fit into any GPU."""

LIKELY_SHAPE = (1, 576, 768)
"""Batch, height and width that an engine is tuned for: a camera's picture after halving."""


def profile(min_side: int) -> dict[str, str]:
    """The shapes of `image`, batch x height x width x 3, in ONNX Runtime's notation."""
    shapes = {
        "min": (1, min_side, min_side),
        "opt": LIKELY_SHAPE,
        "max": (MAX_BATCH, LONGEST_SIDE, LONGEST_SIDE),
    }
    return {
        f"trt_profile_{bound}_shapes": "image:" + "x".join(map(str, (*shape, 3)))
        for bound, shape in shapes.items()
    }


def provider_options(digest: str, min_side: int) -> dict[str, str]:
    """Options of ONNX Runtime's TensorRT provider for one model file.

    An engine serves one model and one profile, and ONNX Runtime may take an old one for new shapes:
    each pair has a folder of its own. Timings of kernels serve all.

    Args:
        digest: SHA-256 of the model file, as hexadecimal digits.
        min_side: shortest side of a picture, in pixels.

    Raises:
        ConfigError: the folder for engines cannot be made.
    """
    shapes = profile(min_side)
    shapes_digest = hashlib.sha256("".join(shapes.values()).encode()).hexdigest()
    name = f"{digest[:16]}-{shapes_digest[:8]}"
    engines = cache_folder() / name
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make {engines} for TensorRT engines: {error.strerror}; set XDG_CACHE_HOME to "
            "a folder that can be written to"
        ) from error
    return {
        **shapes,
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_engine_cache_prefix": name,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache_folder()),
    }


def cache_folder() -> Path:
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "qinsight" / "tensorrt"


def require_float(model: bytes, weights: Path) -> None:
    """Refuse a file with integers: TensorRT takes zero points of 0 only, this package's are not.

    Raises:
        ConfigError: it is one.
    """
    if b"QuantizeLinear" in model:  # an operator's name is stored as it is
        raise ConfigError(
            f"{weights} is an int8 file, and TensorRT refuses its zero points: give it the fp16 or "
            "the float32 file of the same student"
        )


def require_shape(image: Image) -> None:
    """Raises:
    ImageTooLargeError: a side is longer than engines are built for.
    """
    if max(image.pixels.shape[:2]) > LONGEST_SIDE:
        raise ImageTooLargeError(
            f"{image.source} is {image.width}x{image.height}; the student's TensorRT engine takes "
            f"sides up to {LONGEST_SIDE} pixels after halving; choose device cuda or cpu for it"
        )

"""What a sensor sees: raw pictures, made from photographs or read from a camera's files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ImageDecodeError, ImageNotFoundError, ImageUnsupportedError
from qinsight_plugin.records import Pixels
from qinsight_plugin.srgb import LINEAR

Plane: TypeAlias = npt.NDArray[np.float32]
Matrix: TypeAlias = npt.NDArray[np.float64]

RAW_SUFFIXES = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2"})

SENSOR = np.array([[1.7, -0.5, -0.2], [-0.25, 1.55, -0.3], [0.0, -0.6, 1.6]])
"""From a sensor's colours, white-balanced, to linear sRGB: a typical matrix; rows sum to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Raw:
    """A picture as the sensor gives it.

    Attributes:
        mosaic: float32 [H, W], H and W even; rows of R G R G ... and G B G B ...
        black, white: the levels of no light and of a full well.
        gains: of red, green and blue: what makes grey grey, as the camera believes.
        matrix: [3, 3], from the sensor's balanced colours to linear sRGB.
        name: what to call it.
    """

    mosaic: Plane
    black: float
    white: float
    gains: tuple[float, float, float]
    matrix: Matrix
    name: str


@dataclass(frozen=True, slots=True)
class Shot:
    """How a synthetic raw picture was taken.

    Attributes:
        stops: of light: -1 is half of what the photograph shows.
        gains: the illuminant's true gains of red and blue.
        belief: the camera's guess of these, as factors on the truth.
        photons: electrons in a full well: fewer make more shot noise.
        read: standard deviation of the read noise, in electrons.
    """

    stops: float = 0.0
    gains: tuple[float, float] = (2.0, 1.7)
    belief: tuple[float, float] = (1.0, 1.0)
    photons: float = 2000.0
    read: float = 4.0


def photographed(
    pixels: Pixels, shot: Shot, rng: np.random.Generator, name: str = "<array>"
) -> Raw:
    """A photograph, uint8 [H, W, 3], as a sensor would have seen its scene.

    The steps of an ISP, backwards, after Brooks et al., "Unprocessing Images for Learned Raw
    Denoising" (CVPR 2019): linear light, the sensor's colours, the illuminant, the mosaic, photons;
    then noise, 12 bits and a black level. An odd row or column is cut off.
    """
    height, width = (side - side % 2 for side in pixels.shape[:2])
    light = LINEAR[pixels[:height, :width]]
    sensed = np.maximum(light @ np.linalg.inv(SENSOR).T, 0)
    red, blue = shot.gains
    sensed = sensed / (red, 1, blue) * 2**shot.stops
    electrons = rng.poisson(mosaic_of(sensed) * shot.photons)
    measured = electrons + rng.normal(0, shot.read, electrons.shape)
    black, white = 256.0, 4095.0
    counts = np.rint(black + measured / shot.photons * (white - black)).clip(0, white)
    gains = (red * shot.belief[0], 1.0, blue * shot.belief[1])
    return Raw(counts.astype(np.float32), black, white, gains, SENSOR, name)


def mosaic_of(colours: Matrix) -> Matrix:
    """[H, W, 3] -> [H, W], the colour that each pixel of an RGGB sensor sees."""
    mosaic: Matrix = colours[..., 1].copy()
    mosaic[::2, ::2] = colours[::2, ::2, 0]
    mosaic[1::2, 1::2] = colours[1::2, 1::2, 2]
    return mosaic


def read_raw(path: Path) -> Raw:
    """A camera's raw file, by rawpy (LibRaw), turned as the sensor lay.

    Raises:
        ImageNotFoundError, ImageDecodeError: there is none, or none that LibRaw reads.
        ImageUnsupportedError: its sensor has no 2x2 pattern of red, green and blue.
        MissingExtraError: rawpy is not installed.
    """
    rawpy = require("rawpy", package="rawpy", extra="raw", purpose="reading raw files")
    if not path.is_file():
        raise ImageNotFoundError(f"{path} does not exist: check the path")
    try:
        with rawpy.imread(str(path)) as file:
            return from_libraw(file, path)
    except rawpy.LibRawError as error:
        reason = error.args[0] if error.args else error
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise ImageDecodeError(f"{path} is no raw file that can be read: {text}") from error


def from_libraw(file: Any, path: Path) -> Raw:
    pattern = np.asarray(file.raw_pattern)
    if pattern.shape != (2, 2) or file.color_desc != b"RGBG":
        raise ImageUnsupportedError(f"{path} has no 2x2 Bayer pattern: convert it to DNG first")
    visible = np.asarray(file.raw_image_visible, np.float32)
    down, right = np.argwhere(pattern == 0)[0]  # where the first red pixel lies
    mosaic = visible[down:, right:]
    height, width = (side - side % 2 for side in mosaic.shape)
    gains = np.asarray(file.camera_whitebalance[:3], float)
    if not (gains > 0).all():
        gains = np.asarray(file.daylight_whitebalance[:3], float)
    to_camera = np.asarray(file.rgb_xyz_matrix[:3], float)
    red, green, blue = (gains / gains[1]).tolist()
    return Raw(
        np.ascontiguousarray(mosaic[:height, :width]),
        float(np.mean(file.black_level_per_channel)),
        float(file.white_level),
        (red, green, blue),
        camera_to_srgb(to_camera),
        str(path),
    )


def camera_to_srgb(xyz_to_camera: Matrix) -> Matrix:
    """The matrix for balanced colours, as dcraw makes it: white stays white.

    `xyz_to_camera` is all zeros where LibRaw does not know the camera; then sRGB is assumed.
    """
    if not xyz_to_camera.any():
        return np.eye(3)
    to_xyz = np.array(  # IEC 61966-2-1
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    to_camera = xyz_to_camera @ to_xyz
    inverse: Matrix = np.linalg.inv(to_camera / to_camera.sum(1, keepdims=True))
    return inverse


def open_raw(path: Path) -> Raw:
    """A raw file as it is; of a photograph, what a sensor in poor light would have seen: 800
    electrons in a full well, noise drawn by the file's name.

    Raises:
        ImageError: it cannot be read.
    """
    from qinsight_plugin.decode import decode

    if path.suffix.lower() in RAW_SUFFIXES:
        return read_raw(path)
    rng = np.random.default_rng(list(path.name.encode()))
    shot = Shot(photons=800, read=5)
    return photographed(decode(path, max_pixels=300_000).pixels, shot, rng, str(path))

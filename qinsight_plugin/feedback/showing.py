"""A picture file -> what a browser shows: the file itself, or, where it cannot, a PNG of it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

from qinsight_plugin._imports import require
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ImageError, ImageNotFoundError, ImageUnreadableError

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels, Source

HEIC_SUFFIXES = frozenset({".heic", ".heif"})

_NATIVE = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "AVIF": "image/avif"}
_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA"})


@dataclass(frozen=True, slots=True)
class Served:
    """Bytes of a picture, and their media type."""

    data: bytes
    media_type: str


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        ImageNotFoundError, ImageUnreadableError: it cannot be read.
    """
    return hashlib.sha256(read(path)).hexdigest()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{path} does not exist: check the path") from error
    except OSError as error:
        raise ImageUnreadableError(f"{path} cannot be read: {error.strerror}") from error


def serve(path: Path) -> Served:
    """What is sent to the browser: the file's own bytes wherever browsers show them as they are.

    What moves, has more than 8 bits, is in CMYK or in another format is decoded, as it is for
    scoring, and sent as PNG: nothing is lost on the way.

    Raises:
        ImageError: it is no picture that can be shown.
        MissingExtraError: HEIC, and pillow-heif is not installed.
    """
    data = read(path)
    kind = native_type(data, path)
    return Served(data, kind) if kind else as_png(pixels_of(path))


def native_type(data: bytes, path: Path) -> str | None:
    """The media type of a file that browsers show as it is, else None."""
    if path.suffix.lower() in HEIC_SUFFIXES:
        return None
    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            if getattr(picture, "is_animated", False) or picture.mode not in _MODES:
                return None
            return _NATIVE.get(picture.format or "")
    except Exception:  # Pillow raises all kinds over bad bytes; decoding will say what it is
        return None


def pixels_of(path: Path, max_pixels: int | None = None) -> Pixels:
    """uint8 [H, W, 3], sRGB, upright; see `serve` for what is raised."""
    return decode(_openable(path), max_pixels=max_pixels).pixels


def as_png(pixels: Pixels) -> Served:
    """Lossless, quickly rather than small: it goes over a local network once."""
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return Served(buffer.getvalue(), "image/png")


def _openable(path: Path) -> Source:
    if path.suffix.lower() not in HEIC_SUFFIXES:
        return path
    heif = require("pillow_heif", package="pillow-heif", extra="codecs", purpose="showing HEIC")
    try:
        picture: PIL.Image.Image = heif.open_heif(io.BytesIO(read(path))).to_pillow()
    except ImageError:
        raise
    except Exception as error:  # libheif's own
        raise ImageUnreadableError(
            f"{path} is no HEIC picture that can be read: {error}"
        ) from error
    return picture

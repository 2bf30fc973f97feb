"""Any source -> Image. The containers are opened in `containers`, the pixels made in `pixels`.

numpy and Pillow are imported when first needed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeAlias

from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
)
from qinsight_plugin.records import Image

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from qinsight_plugin.records import Source

Plan: TypeAlias = Callable[[int, int], int]

DEFAULT_LIMIT = 100_000_000
"""Pixels. What has more is refused, unless the caller says otherwise."""

_EXIF_ORIENTATION = 0x0112
_LONGEST_TEXT = 120


def reduction_for(width: int, height: int, max_pixels: int | None, min_side: int = 1) -> int:
    """By how much to shrink a picture: 1, 2, 4, ...

    Args:
        width, height: of the picture, in pixels.
        max_pixels: what ceil(width / k) * ceil(height / k) is to be at most. None: anything.
        min_side: the shorter side does not fall below this; the picture may then stay too large.

    Returns:
        k, the smallest power of two that does it.

    Raises:
        ConfigError: a number is below 1.
    """
    if min(width, height, min_side, 1 if max_pixels is None else max_pixels) < 1:
        raise ConfigError(
            f"width {width}, height {height}, max_pixels {max_pixels} and min_side {min_side} "
            "must each be 1 or more"
        )
    reduction = 1
    if max_pixels is None:
        return reduction
    while -(-width // reduction) * -(-height // reduction) > max_pixels:
        if -(-min(width, height) // (2 * reduction)) < min_side:
            break
        reduction *= 2
    return reduction


def decode(
    source: Source,
    *,
    max_pixels: int | None = None,
    min_side: int = 1,
    background: tuple[int, int, int] = (255, 255, 255),
    limit: int = DEFAULT_LIMIT,
) -> Image:
    """Decode a picture to upright 8-bit sRGB, shrunk by a power of two where that is asked for.

    Args:
        source: a path; bytes; a binary file object, read from where it stands to its end and left
            open; an array as `pixels.from_array` takes it; a PIL image, which is not changed; or
            an `Image`, which is returned, shrunk further where `max_pixels` asks for it.
        max_pixels, min_side: see `reduction_for`.
        background: RGB levels, 0 to 255, seen through what is transparent.
        limit: the most pixels, unreduced, that are decoded; the header tells.

    Raises:
        ImageNotFoundError, ImageUnreadableError: the file cannot be opened or read.
        ImageUnsupportedError: it is in a format outside `containers.ALLOWED`.
        ImageTooLargeError: it has more pixels than `limit`.
        ImageDecodeError: it is not a picture, or a truncated or corrupt one.
        ConfigError: another argument is out of range.
    """
    from qinsight_plugin import pixels
    from qinsight_plugin.containers import quiet_pillow

    if len(background) != 3 or any(level not in range(256) for level in background):
        raise ConfigError(f"background {background} is not three levels from 0 to 255")
    if isinstance(source, Image):
        return _shrink(source, reduction_for(source.width, source.height, max_pixels, min_side))
    name = name_of(source)
    shown = _shown(name)

    def plan(width: int, height: int) -> int:
        if width * height > limit:
            raise ImageTooLargeError(
                f"{shown} has {width} x {height} pixels, over the limit of {limit:,}: "
                "shrink it or raise the limit"
            )
        return reduction_for(width, height, max_pixels, min_side)

    with _image_errors(shown), quiet_pillow():
        # `picture` is bound anew at each step, so that the last copy of the pixels is let go.
        picture, (width, height), reduction, drafted, notes = _load(source, shown, plan)
        container = picture.format or ""
        orientation = _orientation(picture, notes)
        picture, colour_notes = pixels.to_srgb(picture, background, shown)
        picture = pixels.turn(picture, orientation)
        if reduction > drafted:
            picture = picture.reduce(reduction // drafted)
        array = pixels.to_array(picture)
    if orientation in (5, 6, 7, 8):
        width, height = height, width
    return Image(array, name, width, height, reduction, container, (*notes, *colour_notes))


def _shrink(image: Image, reduction: int) -> Image:
    if reduction <= image.reduction:
        return image
    from PIL.Image import fromarray

    from qinsight_plugin.pixels import to_array

    smaller = fromarray(image.pixels).reduce(reduction // image.reduction)
    return replace(image, pixels=to_array(smaller), reduction=reduction)


class _Loaded(NamedTuple):
    """A Pillow image with its pixels read, as stored: not yet turned, or coloured."""

    picture: PILImage
    size: tuple[int, int]  # before any reduction
    reduction: int  # as planned
    drafted: int  # what the container's own decoder has done of it
    notes: list[str]


def _load(source: Any, name: str, plan: Plan) -> _Loaded:
    import numpy as np
    from PIL.Image import Image as PILImage

    from qinsight_plugin.pixels import from_array

    if isinstance(source, np.ndarray):
        source = from_array(source, name)
    if isinstance(source, PILImage):
        if not all(source.size):
            raise ImageDecodeError(f"{name} has no pixels: {source.width} x {source.height}")
        reduction = plan(*source.size)
        source.load()
        return _Loaded(source, source.size, reduction, 1, [])
    with _stream(source, name) as stream:
        return _load_container(stream, name, plan)


def _load_container(stream: IO[bytes], name: str, plan: Plan) -> _Loaded:
    from qinsight_plugin.containers import draft, frame_count, open_container

    picture = open_container(stream, name)
    size = picture.size
    reduction = plan(*size)
    notes = []
    if getattr(picture, "is_animated", False):
        notes.append(f"frame 1 of {frame_count(picture)}")
        picture = open_container(stream, name)
    drafted = draft(picture, reduction)
    picture.load()
    return _Loaded(picture, size, reduction, drafted, notes)


def _orientation(picture: PILImage, notes: list[str]) -> int:
    try:
        value = picture.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # Pillow's EXIF reader raises all kinds; the pixels are good
        notes.append("EXIF data unreadable, taken as upright")
        return 1
    return value if isinstance(value, int) else 1


@contextmanager
def _stream(source: Any, name: str) -> Iterator[IO[bytes]]:
    """A seekable stream of the source's bytes. A file opened here is closed, others are not."""
    if isinstance(source, (str, os.PathLike)):
        try:
            file = open(source, "rb")  # noqa: PTH123, SIM115 (Path("") is "."; closed below)
        except FileNotFoundError as error:
            raise ImageNotFoundError(f"{name} does not exist: check the path") from error
        except (OSError, ValueError) as error:
            raise ImageUnreadableError(f"{name} cannot be opened: {_line(error)}") from error
        with file:
            yield file if file.seekable() else io.BytesIO(file.read())
    elif isinstance(source, (bytes, bytearray, memoryview)):
        yield io.BytesIO(source)
    else:
        yield io.BytesIO(_read(source, name))


def _read(file: Any, name: str) -> bytes:
    data: object = None
    if not isinstance(file, io.TextIOBase):
        try:
            data = file.read()
        except Exception as error:  # a caller's file object may raise anything
            raise ImageUnreadableError(f"{name} cannot be read: {_line(error)}") from error
    if not isinstance(data, bytes):
        raise ImageDecodeError(f"{name} does not give bytes: open it in binary mode, 'rb'")
    return data


@contextmanager
def _image_errors(name: str) -> Iterator[None]:
    """Whatever a decoder raises over bytes that it did not expect becomes an `ImageError`."""
    from PIL.Image import DecompressionBombError

    try:
        yield
    except ImageError:
        raise
    except DecompressionBombError as error:
        raise ImageTooLargeError(f"{name} is too large: {_line(error)}") from error
    except MemoryError as error:  # no word against the picture's bytes
        raise ImageTooLargeError(
            f"{name} does not fit into the memory there is: shrink it or allow more"
        ) from error
    except Exception as error:
        raise ImageDecodeError(f"{name} is truncated or corrupt: {_line(error)}") from error


def name_of(source: object) -> str:
    """What to call a source in a report.

    Raises:
        ImageDecodeError: it is nothing that `decode` takes.
    """
    import numpy as np
    from PIL.Image import Image as PILImage

    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, PILImage):
        return "<image>"
    if not hasattr(source, "read"):
        raise ImageDecodeError(
            f"a {type(source).__name__} is not a picture: give a path, bytes, a binary file "
            "object, an ndarray or a PIL image"
        )
    name = getattr(source, "name", None)
    return name if isinstance(name, str) and name else "<stream>"


def _shown(name: str) -> str:
    """A name for a message; of a long one, the end matters most."""
    plain = _printable(name) or "''"
    return plain if len(plain) <= _LONGEST_TEXT else f"{plain[:20]}...{plain[23 - _LONGEST_TEXT :]}"


def _line(error: Exception) -> str:
    """An exception's text on one line, not too long, without the file name that it may repeat."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    return _printable(" ".join(text.split()))[:_LONGEST_TEXT] or type(error).__name__


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)

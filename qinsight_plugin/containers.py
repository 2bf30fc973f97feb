"""Pillow's readers, on our terms: an allow-list, no process-wide limit, no warnings, JPEG drafts.

`name` is what to call a picture in an error. What Pillow raises over bad bytes is left as it is.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from types import ModuleType
from typing import IO, Any

import PIL.Image
from PIL.ImageFile import ImageFile

from qinsight_plugin.errors import ImageDecodeError, ImageUnsupportedError

_PLUGINS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "WEBP": "WebPImagePlugin",
    "GIF": "GifImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "AVIF": "AvifImagePlugin",
    "PPM": "PpmImagePlugin",
}
ALLOWED = tuple(_PLUGINS)
"""Containers that are decoded, as Pillow names them. JPEG brings MPO with it."""

_ACCEPTED = f"accepted are {', '.join(ALLOWED)}"
_UNKNOWN_TO_PILLOW = {
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL ": "JPEG XL",
}
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_TIFF_NEW_SUBFILE_TYPE = 254

_quiet: ContextVar[bool] = ContextVar("_quiet", default=False)


def open_container(stream: IO[bytes], name: str) -> ImageFile:
    """The first picture in a seekable stream: its header read, its pixels not.

    Not `PIL.Image.open`, which applies `PIL.Image.MAX_IMAGE_PIXELS`, a limit that belongs to the
    whole process: the caller looks at `size` before it calls `load`.

    Raises:
        ImageUnsupportedError: the format is known, but not in `ALLOWED`.
        ImageDecodeError: the stream is empty, or in no known format.
    """
    stream.seek(0)
    prefix = stream.read(16)
    if not prefix:
        raise ImageDecodeError(f"{name} is empty: give a picture")
    stream.seek(0)
    picture = _factory(prefix, name)(stream, "")
    if getattr(picture, "tag_v2", {}).get(_TIFF_NEW_SUBFILE_TYPE, 0) & 1:
        raise ImageUnsupportedError(
            f"{name} begins with a mere thumbnail, as camera raw files do: develop it first"
        )
    _scale_transparency(picture)
    return picture


def frame_count(picture: Any) -> str:
    """How many frames there are, in words. Open the container anew after this: it moves on."""
    try:
        return str(picture.n_frames)
    except Exception:  # the first frame may be good where a later one is beyond Pillow
        return "several"


def draft(picture: ImageFile, reduction: int) -> int:
    """Have the JPEG decoder do all but the last octave of a reduction; returns what it will do.

    Its scaling is not a box average. Over 12 pictures of 12 megapixels (smooth and noisy, 4:2:0
    and 4:4:4), against a full decode that is then box-averaged, one thread:

        reduction | drafted by all of it | by half of it      | not drafted
                2 | 0.33 levels, 41 ms   | 0, 64 ms           | 0, 64 ms
                4 | 0.39 levels, 37 ms   | 0.24 levels, 45 ms | 0, 68 ms
                8 | 0.38 levels, 32 ms   | 0.25 levels, 38 ms | 0, 64 ms

    It sharpens too, which a quality score sees: drafted by all, the mean Laplacian comes out up to
    9 % too high. So the last octave stays a box average: a fifth more time at 4 and 8.
    """
    half = reduction // 2
    if half < 2:
        return 1
    width, height = picture.size
    drafted = picture.draft(None, (max(1, width // half), max(1, height // half)))
    return 1 if drafted is None else round(width / drafted[1][2])


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """No warnings from Pillow in this thread or task, while this lasts."""
    _openers()
    token = _quiet.set(True)
    try:
        yield
    finally:
        _quiet.reset(token)


class _ContextualWarnings(ModuleType):
    """What Pillow's modules get to see as `warnings`: itself, but mute inside `quiet_pillow`.

    Pillow warns of odd metadata and of large sizes. Filters would silence that, but they belong to
    the whole process: `warnings.catch_warnings` in one thread undoes what another one set.
    """

    def __getattr__(self, attribute: str) -> Any:
        return getattr(warnings, attribute)

    @staticmethod
    def warn(message: Any, category: Any = None, stacklevel: int = 1, **more: Any) -> None:
        if not _quiet.get():
            warnings.warn(message, category, stacklevel + 1, **more)


@functools.cache
def _openers() -> dict[str, tuple[Callable[..., ImageFile], Callable[[bytes], bool | str] | None]]:
    """Format -> (factory, accept), from Pillow; puts our stand-in for `warnings` in its place."""
    stand_in = _ContextualWarnings("warnings")
    plugins = [import_module(f"PIL.{plugin}") for plugin in _PLUGINS.values()]
    for module in (PIL.Image, *plugins):
        if vars(module).get("warnings") is warnings:
            vars(module)["warnings"] = stand_in
    return {container: PIL.Image.OPEN[container] for container in ALLOWED}


def _factory(prefix: bytes, name: str) -> Callable[..., ImageFile]:
    for container, (factory, accept) in _openers().items():
        answer = accept is not None and accept(prefix)
        if isinstance(answer, str):
            raise ImageUnsupportedError(f"{name} is in the format {container}: {answer}")
        if answer:
            return factory
    if foreign := _foreign_format(prefix):
        raise ImageUnsupportedError(f"{name} is in the format {foreign}: {_ACCEPTED}")
    raise ImageDecodeError(f"{name} is not a picture of any known format: {_ACCEPTED}")


def _foreign_format(prefix: bytes) -> str:
    """The name of a format that is not accepted; "" where it is not known."""
    if prefix[4:8] == b"ftyp" and prefix[8:12] in _HEIC_BRANDS:
        return "HEIC"
    for signature, container in _UNKNOWN_TO_PILLOW.items():
        if prefix.startswith(signature):
            return container
    PIL.Image.init()
    for container, (_, accept) in PIL.Image.OPEN.items():
        with suppress(Exception):  # some expect a longer prefix
            if accept is not None and accept(prefix) is True:
                return container
    return ""


def _scale_transparency(picture: ImageFile) -> None:
    """Pillow spreads a PNG's samples over 8 bits, but leaves its transparent colour as it was."""
    rawmode = picture.tile[0][3] if picture.tile else ""
    value = picture.info.get("transparency")
    if isinstance(value, int) and rawmode in ("L;2", "L;4"):
        picture.info["transparency"] = value * {"L;2": 85, "L;4": 17}[rawmode]
    elif isinstance(value, tuple) and rawmode == "RGB;16B":
        picture.info["transparency"] = tuple(sample >> 8 for sample in value)

"""Any source -> a picture to compress: upright, opaque or with alpha, and what goes with it."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from qinsight_plugin.compression.depth import beyond_eight_bits
from qinsight_plugin.decode import DEFAULT_LIMIT, decode, name_of
from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
    ImageUnsupportedError,
    one_line,
)
from qinsight_plugin.records import EncoderSpec, Image

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from qinsight_plugin.records import Source

Metadata: TypeAlias = Literal["keep", "strip"]
Profile: TypeAlias = Literal["keep", "srgb"]

_UPRIGHT = 0x0112
_METADATA = ("exif", "xmp")
_SPACE = slice(16, 20)  # in an ICC profile, what its colours are: b"RGB ", b"GRAY", b"CMYK", ...


@dataclasses.dataclass(frozen=True, eq=False)
class Original:
    """A picture as encoders take it.

    Attributes:
        name: what to call it.
        picture: upright, in mode L, RGB, LA or RGBA, 8 bits; its `info` holds what is to be kept of
            "icc_profile", "exif" and "xmp".
        data: the file that it came from; None for arrays and PIL images.
        suffix: of that file, "" where there is none.
        notes: what had to be decided.
    """

    name: str
    picture: PILImage
    data: bytes | None
    suffix: str
    notes: tuple[str, ...] = ()

    @property
    def has_alpha(self) -> bool:
        return self.picture.mode in ("LA", "RGBA")

    def for_encoder(self, spec: EncoderSpec) -> PILImage:
        """The picture as that encoder can hold it.

        Raises:
            ImageUnsupportedError: it has transparency and the encoder keeps none.
        """
        if self.has_alpha and "alpha" not in spec.keeps:
            raise ImageUnsupportedError(
                f"{self.name} has transparent parts, which {spec.name} cannot keep: choose another "
                "format, or flatten it first"
            )
        picture = self.picture
        if "icc" not in spec.keeps and "icc_profile" in picture.info:
            picture = in_srgb(picture, self.name)
        if picture.mode == "LA":
            picture = with_info(picture.convert("RGBA"), picture.info)
        dropped = [key for key in _METADATA if key not in spec.keeps]
        return with_info(picture, picture.info, dropped) if dropped else picture


def open_original(
    source: Source, *, metadata: Metadata = "keep", profile: Profile = "keep"
) -> Original:
    """Read a source, and refuse what 8 bits of one frame would crush.

    Args:
        source: as for `decode.decode`, except an `Image`, which has lost what is to be kept.
        metadata: whether EXIF and XMP go with the picture.
        profile: whether its ICC profile does, or the colours are converted to sRGB instead.

    Raises:
        ImageError: it cannot be read, or is animated, HDR or deeper than 8 bits.
        ConfigError: an unknown choice.
    """
    from PIL.Image import Image as PILImage

    from qinsight_plugin.containers import quiet_pillow

    if metadata not in ("keep", "strip") or profile not in ("keep", "srgb"):
        raise ConfigError(f"metadata is keep or strip, not {metadata!r}; profile keep or srgb")
    name = name_of(source)
    with quiet_pillow(), whole(name):
        if isinstance(source, PILImage):
            data, picture = None, checked(source.copy(), b"", name)
        elif hasattr(source, "shape"):
            data, picture = None, from_pixels(source, name)
        else:
            data = read_all(source, name)
            picture = opened(data, name)
        info = dict(picture.info)
        turned, notes = upright(picture, name)
        kept: dict[str, Any] = kept_metadata(picture, info) if metadata == "keep" else {}
        space = (info.get("icc_profile") or b"")[_SPACE]
        is_gray = turned.mode in ("L", "LA")
        if space == (b"GRAY" if is_gray else b"RGB "):
            kept["icc_profile"] = info["icc_profile"]
        turned = with_info(turned, kept)
        # A profile of gray is of no use in the many formats that have three channels only.
        if "icc_profile" in kept and (profile == "srgb" or is_gray):
            turned = in_srgb(turned, name)
    suffix = Path(name).suffix if isinstance(source, (str, os.PathLike)) else ""
    return Original(name, turned, data, suffix, tuple(notes))


def read_all(source: Any, name: str) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            return Path(source).read_bytes()
        data = source.read()
    except FileNotFoundError as error:
        raise ImageNotFoundError(f"{name} does not exist: check the path") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageUnreadableError(f"{name} cannot be read: {reason}") from error
    if not isinstance(data, bytes):
        raise ImageDecodeError(f"{name} does not give bytes: open it in binary mode, 'rb'")
    return data


def opened(data: bytes, name: str) -> PILImage:
    from qinsight_plugin.containers import open_container

    return checked(open_container(io.BytesIO(data), name), data, name)


@contextmanager
def whole(name: str) -> Iterator[None]:
    """Whatever Pillow raises over bad bytes, in pixels or metadata, becomes an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:
        line = one_line(error) or type(error).__name__  # an assertion has no words
        raise ImageDecodeError(f"{name} is truncated or corrupt: {line}") from error


def checked(picture: PILImage, data: bytes, name: str) -> PILImage:
    """The picture, its pixels read, if it is one that can be kept right."""
    if picture.width * picture.height > DEFAULT_LIMIT:
        raise ImageTooLargeError(
            f"{name} has {picture.width} x {picture.height} pixels, over the limit of "
            f"{DEFAULT_LIMIT:,}: shrink it first"
        )
    if lost := beyond_eight_bits(picture, data):
        raise ImageUnsupportedError(
            f"{name} is not compressed: {lost}, which would be lost; convert it to one 8-bit "
            "picture first"
        )
    picture.load()
    return picture


def from_pixels(array: Any, name: str) -> PILImage:
    from qinsight_plugin.pixels import from_array

    if array.dtype.kind not in "bu" or array.dtype.itemsize > 1:
        raise ImageUnsupportedError(
            f"{name} has samples of type {array.dtype}, which 8 bits cannot hold: round them to "
            "uint8 first"
        )
    return from_array(array, name)


def upright(picture: PILImage, name: str) -> tuple[PILImage, list[str]]:
    """Turned as EXIF asks, in mode L, LA, RGB or RGBA; and what had to be decided."""
    from PIL import ImageOps

    notes = []
    if picture.mode == "CMYK":
        image = decode(picture)
        notes.append("CMYK converted to sRGB")
        return fresh(image), notes
    gray = picture.mode in ("1", "L", "LA", "La")
    alpha = picture.has_transparency_data
    mode = ("LA" if alpha else "L") if gray else ("RGBA" if alpha else "RGB")
    orientation = picture.getexif().get(_UPRIGHT, 1)
    plain = picture if picture.mode == mode else picture.convert(mode)
    if orientation in range(2, 9):
        plain = ImageOps.exif_transpose(plain)
        notes.append("turned upright")
    if alpha and plain.getchannel("A").getextrema() == (255, 255):
        plain = plain.convert("L" if gray else "RGB")
    return plain, notes


def fresh(image: Image) -> PILImage:
    from PIL.Image import fromarray

    return fromarray(image.pixels)


def kept_metadata(picture: PILImage, info: Mapping[Any, Any]) -> dict[str, bytes]:
    """EXIF, as of an upright picture, and XMP."""
    kept = {}
    exif = picture.getexif()
    exif.pop(_UPRIGHT, None)
    if len(exif):
        kept["exif"] = exif.tobytes()
    xmp = info.get("xmp") or info.get("XML:com.adobe.xmp")
    if xmp:
        kept["xmp"] = xmp.encode() if isinstance(xmp, str) else xmp
    return kept


def in_srgb(picture: PILImage, name: str) -> PILImage:
    """The colours converted, the profile dropped, alpha as it was."""
    from qinsight_plugin.pixels import to_srgb

    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    mode = "L" if picture.mode in ("L", "LA") else "RGB"
    opaque = with_info(picture.convert(mode), picture.info)
    colours = to_srgb(opaque, (255, 255, 255), name)[0].convert(mode)
    if alpha is not None:
        colours.putalpha(alpha)
    return with_info(colours, picture.info, ("icc_profile",))


def with_info(picture: PILImage, info: dict[Any, Any], without: Iterable[str] = ()) -> PILImage:
    """A picture of its own with the same pixels, and only that in its `info`."""
    copy = picture.copy()
    copy.info = {key: value for key, value in info.items() if key not in set(without)}
    return copy

"""Pixels to pixels: sample depths, alpha, colour profiles, orientation. Knows no files.

Between the functions a picture is a Pillow image in mode "L" or "RGB"; `to_array` ends the way.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageCms

from qinsight_plugin.errors import ImageDecodeError

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

ACCEPTED_ARRAYS = (
    "accepted are [H, W], [H, W, 1], [H, W, 3] (RGB) and [H, W, 4] (RGBA) of bool, uint8, uint16, "
    "or float16/32/64 from 0 to 1"
)
_DTYPES = frozenset({"b1", "u1", "u2", "f2", "f4", "f8"})
_STRIP = 1 << 17

_DEEP_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N", "F"})
_GRAY_MODES = frozenset({"1", "L", "LA", "La"})
_ALPHA_MODES = _GRAY_MODES | {"P", "PA", "RGB", "RGBA", "RGBa"}
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK", "LAB": "Lab"}

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def from_array(array: npt.NDArray[Any], name: str) -> Image.Image:
    """A Pillow image of an array, in mode "L", "RGB" or "RGBA"; the array is copied.

    Args:
        array: [H, W], [H, W, 1], [H, W, 3] RGB or [H, W, 4] RGBA; see `to_levels` for its values.
        name: what to call it in an error.

    Raises:
        ImageDecodeError: the shape, the type or a value is not one of these.
    """
    kind = f"{name} of shape {list(array.shape)} and type {array.dtype}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageDecodeError(f"{kind} is not a picture: {ACCEPTED_ARRAYS}")
    if array.size == 0:
        raise ImageDecodeError(f"{kind} is empty: {ACCEPTED_ARRAYS}")
    if array.dtype.str[1:] not in _DTYPES:
        raise ImageDecodeError(f"{kind} has samples of the wrong type: {ACCEPTED_ARRAYS}")
    levels = to_levels(array, name)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2:] == (1,) else levels)


def to_levels(samples: npt.NDArray[Any], name: str) -> Pixels:
    """Samples of any accepted depth as 8-bit levels, of the same shape.

    bool gives 0 and 255; uint16 is divided by 257, floats from 0 to 1 are multiplied by 255; both
    are rounded to the nearest level. uint8 is returned as it is.

    Raises:
        ImageDecodeError: a float is NaN, infinite or outside 0..1.
    """
    if samples.dtype == np.uint8:
        return samples
    levels = np.empty(samples.shape, np.uint8)
    for rows in _strips(*samples.shape[:2]):
        levels[rows] = _strip_levels(samples[rows], name)
    return levels


def _strip_levels(strip: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    if strip.dtype.kind == "b":
        return np.where(strip, 255, 0)
    if strip.dtype.kind == "u":
        wide: npt.NDArray[np.uint32] = strip.astype(np.uint32)
        return (wide + 128) // 257
    # Written so that NaN, which compares false with everything, is refused as well.
    if not (strip.min() >= 0 and strip.max() <= 1):
        raise ImageDecodeError(f"{name} has float samples outside 0..1, or NaN: scale them to 0..1")
    return np.rint(strip.astype(np.float64) * 255)


def _strips(height: int, width: int) -> Iterator[slice]:
    """Rows, `_STRIP` pixels at a time, so that intermediate copies stay small and in the cache."""
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        yield slice(top, min(top + step, height))


def to_srgb(
    picture: Image.Image, background: tuple[int, int, int], name: str
) -> tuple[Image.Image, list[str]]:
    """A picture of any mode as opaque sRGB; the picture itself is left as it is.

    Gray deeper than 8 bits is scaled as in `to_levels`; mode "I" holds 16-bit values. (Deep colour
    is cut to its upper 8 bits by Pillow's own readers, before it gets here.)

    Args:
        picture: loaded; its `info` may hold "icc_profile" and "transparency".
        background: RGB levels, 0 to 255, seen through what is transparent.
        name: what to call the picture in an error.

    Returns:
        The picture in mode "L" or "RGB", perhaps the very one given; notes on what was decided.

    Raises:
        ImageDecodeError: samples outside the range of their kind.
    """
    notes = []
    profile = picture.info.get("icc_profile")
    colours, alpha = _split_alpha(picture, name)
    if profile:
        colours, trouble = _apply_profile(colours, profile)
        if trouble:
            notes.append(f"ICC profile not applied ({trouble})")
    if colours.mode == "CMYK":
        notes.append("CMYK converted without a profile")
    if colours.mode not in ("L", "RGB"):
        colours = colours.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] != 255:
        notes.append("alpha over #{:02x}{:02x}{:02x}".format(*background))
        if colours.mode == "L":
            colours = colours.convert("RGB")
        # In place: `_split_alpha` made these colours, nobody else holds them.
        colours.paste(background, mask=ImageChops.invert(alpha))
    return colours, notes


def _split_alpha(picture: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """The colours, in a mode that a profile can speak of, and the alpha channel if there is one."""
    if picture.mode in _DEEP_MODES:
        return _split_deep_gray(picture, name)
    if picture.mode in _ALPHA_MODES and picture.has_transparency_data:
        if picture.mode == "P":
            picture = picture.copy()  # convert() writes the alpha into the palette it reads
        colour_mode, whole_mode = ("L", "LA") if picture.mode in _GRAY_MODES else ("RGB", "RGBA")
        whole = picture if picture.mode == whole_mode else picture.convert(whole_mode)
        return whole.convert(colour_mode), whole.getchannel("A")
    if picture.mode in _PROFILE_SPACES:
        return picture, None
    return picture.convert("L" if picture.mode == "1" else "RGB"), None


def _split_deep_gray(picture: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    samples: npt.NDArray[Any] = np.asarray(picture)
    if picture.mode == "I":
        if samples.min() < 0 or samples.max() > 65535:
            raise ImageDecodeError(f"{name} has integer samples outside 0..65535: scale them to it")
        samples = samples.astype(np.uint16)
    colours = Image.fromarray(to_levels(samples, name))
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return colours, None
    return colours, Image.fromarray(to_levels(samples != transparent, name))


def _apply_profile(colours: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    """The colours in sRGB, in mode "RGB", and ""; or as they were, and why."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space != _PROFILE_SPACES[colours.mode]:
            return colours, f"it is for {space}, the pixels are {colours.mode}"
        srgb = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, srgb, colours.mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return colours, "it is unreadable"
    if colours.mode == "RGB" and _moves_nothing(transform):
        return colours, ""
    return transform.apply(colours), ""


def _moves_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour of a 17 x 17 x 17 lattice moves by more than a level.

    So it is with the sRGB profile that most cameras embed. To apply it would take 200 ms for 12
    megapixels, five times as long as decoding them, to change a few dark colours by one level.
    """
    steps = np.linspace(0, 255, 17).astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    moved = transform.apply(Image.fromarray(lattice))
    return bool(np.abs(np.asarray(moved, np.int16) - lattice).max() <= 1)


def turn(picture: Image.Image, orientation: int) -> Image.Image:
    """A picture stored with an EXIF orientation (tag 0x0112, 1 to 8), as it is to be seen."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def to_array(picture: Image.Image) -> Pixels:
    """The pixels of a picture of mode "L" or "RGB": uint8 [H, W, 3], C-contiguous, a copy."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    for rows in _strips(height, width):
        strip = np.asarray(picture.crop((0, rows.start, width, rows.stop)))
        pixels[rows] = strip.reshape(rows.stop - rows.start, width, -1)
    return pixels

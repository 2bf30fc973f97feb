"""Any source -> Image. Expected pixels are made here, or follow a format's rules, or Pillow's."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import skimage
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ImageCms, ImageOps
from skimage import data

from qinsight_plugin.containers import ALLOWED
from qinsight_plugin.decode import DEFAULT_LIMIT, decode, reduction_for
from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    ImageError,
    ImageNotFoundError,
    ImageTooLargeError,
    ImageUnreadableError,
    ImageUnsupportedError,
)
from qinsight_plugin.records import Image

CAT = data.chelsea()[40:161, 60:243]
TINY = CAT[30:54:2, 30:62:2]
LOSSLESS = ("PNG", "BMP", "TIFF", "PPM", "WEBP")
SKIMAGE_DATA = Path(skimage.__file__).parent / "data"


def encoded(picture: Any, container: str, **options: Any) -> bytes:
    if not isinstance(picture, PIL.Image.Image):
        picture = PIL.Image.fromarray(picture)
    if container == "WEBP":
        options.setdefault("lossless", True)
    stream = io.BytesIO()
    picture.save(stream, container, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b""
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    rest = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + before + rest


def over(colours: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int]) -> np.ndarray:
    """Alpha compositing of 8-bit levels, rounded to the nearest."""
    weight = alpha[..., None] / 255
    return np.rint(colours * weight + np.array(background) * (1 - weight)).astype(np.uint8)


def one_line(error: BaseException) -> bool:
    return str(error).isprintable() and 0 < len(str(error)) < 400


# --- what every kind of source gives ------------------------------------------------------------


@pytest.mark.parametrize("container", LOSSLESS)
def test_a_lossless_container_gives_back_its_pixels(container: str) -> None:
    image = decode(encoded(CAT, container))
    assert np.array_equal(image.pixels, CAT)
    assert (image.width, image.height, image.reduction) == (183, 121, 1)
    assert (image.format, image.source, image.notes) == (container, "<bytes>", ())


@pytest.mark.parametrize("container", ["JPEG", "GIF", "AVIF"])
def test_a_lossy_container_gives_what_pillow_decodes(container: str) -> None:
    body = encoded(CAT, container)
    expected = np.asarray(PIL.Image.open(io.BytesIO(body)).convert("RGB"))
    assert np.array_equal(decode(body).pixels, expected)


@pytest.mark.parametrize("max_pixels", [None, 5000, 400])
def test_all_kinds_of_source_give_the_same_pixels(tmp_path: Path, max_pixels: int | None) -> None:
    body = encoded(CAT, "PNG")
    path = tmp_path / "cat.png"
    path.write_bytes(body)
    sources = {
        str(path): str(path),
        "path": path,
        "<bytes>": body,
        "bytearray": bytearray(body),
        "memoryview": memoryview(body),
        "<stream>": io.BytesIO(body),
        "<array>": CAT,
        "<image>": PIL.Image.fromarray(CAT),
        "opened": PIL.Image.open(path),
    }
    for name, source in sources.items():
        image = decode(source, max_pixels=max_pixels)
        assert np.array_equal(image.pixels, decode(CAT, max_pixels=max_pixels).pixels), name
        assert image.pixels.flags.c_contiguous
        assert image.pixels.dtype == np.uint8
        assert (image.width, image.height) == (183, 121)
        if name.startswith(("<", "/")):
            assert image.source == name


def test_the_pixels_are_a_copy_of_an_array() -> None:
    array = CAT.copy()
    image = decode(array)
    array[:] = 0
    assert np.array_equal(image.pixels, CAT)


def test_a_decoded_image_is_returned_and_shrunk_further_where_asked() -> None:
    image = decode(CAT, max_pixels=6000)
    assert image.reduction == 2
    assert decode(image) is image
    assert decode(image, max_pixels=6000) is image
    smaller = decode(image, max_pixels=1000)
    expected = PIL.Image.fromarray(CAT).reduce(2).reduce(4)
    assert np.array_equal(smaller.pixels, np.asarray(expected))
    assert (smaller.reduction, smaller.width, smaller.height) == (8, 183, 121)


def test_a_file_object_is_read_from_where_it_stands_and_left_open(tmp_path: Path) -> None:
    path = tmp_path / "two.bin"
    path.write_bytes(b"prefix" + encoded(CAT, "PNG"))
    with path.open("rb") as file:
        file.seek(6)
        image = decode(file)
        assert not file.closed
    assert np.array_equal(image.pixels, CAT)
    assert image.source == str(path)


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="names a pipe by its descriptor")
def test_a_path_that_cannot_seek_is_read() -> None:
    reading, writing = os.pipe()
    body = encoded(TINY, "PNG")

    def fill() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(body)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        assert np.array_equal(decode(f"/dev/fd/{reading}").pixels, TINY)
    finally:
        thread.join()
        os.close(reading)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
@pytest.mark.parametrize("container", [*ALLOWED, "animated GIF", "animated TIFF"])
def test_no_file_stays_open(tmp_path: Path, container: str) -> None:
    path = tmp_path / "picture"
    kind = container.removeprefix("animated ")
    path.write_bytes(encoded(TINY, kind, **(two_frames() if kind != container else {})))
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = [decode(path)]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError):
        decode(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert kept


def test_threads_do_not_disturb_each_other() -> None:
    bodies = [encoded(np.roll(CAT, shift, 0), "PNG") for shift in range(8)]
    results: dict[int, np.ndarray] = {}

    def work(index: int) -> None:
        for _ in range(3):
            results[index] = decode(bodies[index]).pixels

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(results[shift], np.roll(CAT, shift, 0)) for shift in range(8))


def test_importing_loads_neither_numpy_nor_pillow() -> None:
    code = "import sys, qinsight_plugin.decode; sys.exit(bool({'numpy', 'PIL'} & {*sys.modules}))"
    root = Path(__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


# --- orientation --------------------------------------------------------------------------------

STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
"""How an upright picture is stored under each orientation (Exif 2.32, tag 0x0112)."""


def exif(orientation: int) -> bytes:
    tags = PIL.Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


@pytest.mark.parametrize("container", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("max_pixels", [None, 2000])
def test_all_orientations_give_the_same_pixels(
    container: str, orientation: int, max_pixels: int | None
) -> None:
    stored = np.ascontiguousarray(STORED[orientation](CAT))
    image = decode(
        encoded(stored, container, exif=exif(orientation)), max_pixels=max_pixels, min_side=2
    )
    assert np.array_equal(image.pixels, decode(CAT, max_pixels=max_pixels).pixels)
    assert (image.width, image.height) == (183, 121)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_is_what_pillow_turns(orientation: int) -> None:
    stored = np.ascontiguousarray(STORED[orientation](CAT))
    body = encoded(stored, "JPEG", exif=exif(orientation))
    expected = ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(body)))
    assert np.array_equal(decode(body).pixels, np.asarray(expected))
    small = decode(body, max_pixels=2000)
    assert small.pixels.shape == (31, 46, 3)
    assert (small.width, small.height, small.reduction) == (183, 121, 4)


def test_a_pil_image_is_turned_by_its_exif_data() -> None:
    stored = PIL.Image.open(io.BytesIO(encoded(STORED[6](CAT).copy(), "PNG", exif=exif(6))))
    assert np.array_equal(decode(stored).pixels, CAT)


def test_an_impossible_orientation_is_ignored() -> None:
    assert np.array_equal(decode(encoded(CAT, "PNG", exif=exif(77))).pixels, CAT)


def test_unreadable_exif_data_is_noted() -> None:
    image = decode(encoded(CAT, "PNG", exif=b"Exif\0\0nonsense, not a directory"))
    assert np.array_equal(image.pixels, CAT)
    assert image.notes == ("EXIF data unreadable, taken as upright",)


# --- arrays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gray", "gray1", "rgb", "strided"])
def test_uint8_arrays_of_every_shape_are_taken_as_they_are(kind: str) -> None:
    arrays = {"gray": CAT[..., 0], "gray1": CAT[..., :1], "rgb": CAT, "strided": CAT[::-1, ::2]}
    array = arrays[kind]
    expected = array if array.ndim == 3 else array[..., None]
    assert np.array_equal(decode(array).pixels, np.broadcast_to(expected, (*array.shape[:2], 3)))


def test_an_rgba_array_is_laid_over_the_background() -> None:
    alpha = np.linspace(0, 255, CAT[..., 0].size).astype(np.uint8).reshape(CAT.shape[:2])
    image = decode(np.dstack([CAT, alpha]), background=(10, 200, 90))
    assert np.array_equal(image.pixels, over(CAT, alpha, (10, 200, 90)))
    assert image.notes == ("alpha over #0ac85a",)


def test_every_uint16_value_goes_to_the_nearest_level() -> None:
    values = np.arange(65536, dtype=np.uint16)
    expected = (2 * values.astype(np.int64) + 257) // 514
    for dtype in ("<u2", ">u2"):
        levels = decode(values.reshape(256, 256).astype(dtype)).pixels[..., 0]
        assert np.array_equal(levels.ravel(), expected)


def test_a_boolean_array_is_black_and_white() -> None:
    mask = CAT[..., 0] > 128
    assert np.array_equal(decode(mask).pixels[..., 1], np.where(mask, 255, 0))


@settings(deadline=None)
@given(st.sampled_from(["f2", "<f4", ">f4", "f8"]), st.lists(st.floats(0, 1), min_size=1))
def test_a_float_goes_to_the_nearest_level(dtype: str, values: list[float]) -> None:
    array = np.array([values]).astype(dtype)
    levels = decode(array).pixels[..., 2]
    assert (np.abs(levels - 255 * array.astype(np.longdouble)) <= 0.5).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1e-6, 1.001])
def test_a_float_outside_0_to_1_is_refused(bad: float) -> None:
    array = np.full((400, 400, 3), 0.5)
    array[399, 7, 1] = bad
    with pytest.raises(ImageDecodeError, match=r"outside 0\.\.1"):
        decode(array)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), np.int8),
        np.zeros((4, 4), np.uint32),
        np.zeros((4, 4), complex),
        np.full((4, 4), "x"),
        np.full((4, 4), None),
        np.zeros(4, np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((3, 4, 4, 3), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 0), np.float32),
        np.array(3, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_of_another_kind_is_refused_and_told_what_is_accepted(array: np.ndarray) -> None:
    with pytest.raises(ImageDecodeError, match="accepted are") as caught:
        decode(array)
    assert one_line(caught.value)


# --- modes and depths ---------------------------------------------------------------------------

SIXTEEN = np.arange(65536, dtype=np.uint16).reshape(256, 256)
SIXTEEN_AS_LEVELS = ((2 * SIXTEEN.astype(np.int64) + 257) // 514).astype(np.uint8)


def sixteen_bit_files() -> dict[str, bytes]:
    little, big = PIL.Image.fromarray(SIXTEEN), PIL.Image.fromarray(SIXTEEN.astype(">u2"))
    pgm = b"P5 256 256 65535\n" + SIXTEEN.astype(">u2").tobytes()
    return {
        "PNG": encoded(little, "PNG"),
        "TIFF": encoded(little, "TIFF"),
        "TIFF, big-endian": encoded(big, "TIFF"),
        "TIFF, LZW": encoded(little, "TIFF", compression="tiff_lzw"),
        "PGM": pgm,
        "TIFF, 32 bits": encoded(PIL.Image.fromarray(SIXTEEN.astype(np.int32)), "TIFF"),
    }


@pytest.mark.parametrize("kind", sixteen_bit_files())
def test_16_bit_gray_is_scaled_and_not_saturated(kind: str) -> None:
    image = decode(sixteen_bit_files()[kind])
    assert np.array_equal(image.pixels, np.dstack([SIXTEEN_AS_LEVELS] * 3))


@pytest.mark.parametrize("bad", [-1, 65536])
def test_integer_samples_beyond_16_bits_are_refused(bad: int) -> None:
    with pytest.raises(ImageDecodeError, match=r"outside 0\.\.65535"):
        decode(PIL.Image.fromarray(np.array([[0, bad]], np.int32)))


def test_float_files_from_0_to_1_are_scaled_and_others_refused() -> None:
    ramp = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    expected = np.dstack([np.arange(256).reshape(16, 16)] * 3)
    assert np.array_equal(decode(encoded(ramp, "TIFF")).pixels, expected)
    pfm = b"Pf\n16 16\n-1.0\n" + ramp[::-1].tobytes()
    assert np.array_equal(decode(pfm).pixels, expected)
    with pytest.raises(ImageDecodeError, match=r"outside 0\.\.1"):
        decode(encoded(ramp * 2, "TIFF"))


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "LA", "RGBA", "PA"]
)
def test_every_opaque_pil_mode_is_what_pillow_converts(mode: str) -> None:
    rgb = PIL.Image.fromarray(CAT)
    if mode == "PA":
        rgb = rgb.convert("P")
    if mode == "LAB":
        lab = ImageCms.createProfile("LAB")
        srgb = ImageCms.createProfile("sRGB")
        picture = ImageCms.applyTransform(rgb, ImageCms.buildTransform(srgb, lab, "RGB", "LAB"))
        assert picture is not None
        del picture.info["icc_profile"]
    else:
        picture = rgb.convert(mode)
    before = (picture.mode, picture.size, picture.tobytes(), dict(picture.info))
    image = decode(picture)
    assert np.array_equal(image.pixels, np.asarray(picture.convert("RGB")))
    assert (picture.mode, picture.size, picture.tobytes(), dict(picture.info)) == before
    assert image.notes == (("CMYK converted without a profile",) if mode == "CMYK" else ())
    assert image.format == ""


@pytest.mark.parametrize("container", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_is_ink_under_ink(container: str) -> None:
    inks = np.stack(np.meshgrid([0, 64, 255], [0, 128, 255], [0, 255], [0, 100, 255]), -1)
    inks = inks.reshape(9, 6, 4).repeat(16, 0).repeat(16, 1).astype(np.uint8)
    picture = PIL.Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
    options = {"quality": 100, "subsampling": 0} if container == "JPEG" else {}
    image = decode(encoded(picture, container, **options))
    white = 255 - inks.astype(float)
    expected = white[..., :3] * white[..., 3:] / 255
    assert np.abs(image.pixels - expected).max() <= (4 if container == "JPEG" else 1)
    assert image.notes == ("CMYK converted without a profile",)


# --- alpha --------------------------------------------------------------------------------------

ALPHA = np.linspace(0, 255, TINY[..., 0].size).astype(np.uint8).reshape(TINY.shape[:2])


@pytest.mark.parametrize("container", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("background", [(255, 255, 255), (0, 0, 0), (255, 0, 128)])
def test_rgba_is_laid_over_the_background(container: str, background: tuple[int, int, int]) -> None:
    exact = {"exact": True} if container == "WEBP" else {}
    image = decode(encoded(np.dstack([TINY, ALPHA]), container, **exact), background=background)
    assert np.array_equal(image.pixels, over(TINY, ALPHA, background))
    assert image.notes == ("alpha over #{:02x}{:02x}{:02x}".format(*background),)


def test_gray_with_alpha_is_laid_over_a_coloured_background() -> None:
    picture = PIL.Image.merge("LA", [PIL.Image.fromarray(TINY[..., 0]), PIL.Image.fromarray(ALPHA)])
    gray = np.dstack([TINY[..., 0]] * 3)
    image = decode(encoded(picture, "PNG"), background=(1, 2, 3))
    assert np.array_equal(image.pixels, over(gray, ALPHA, (1, 2, 3)))


@pytest.mark.parametrize(("mode", "whole"), [("RGBa", "RGBA"), ("La", "LA")])
def test_premultiplied_alpha_is_undone_first(mode: str, whole: str) -> None:
    straight = PIL.Image.fromarray(np.dstack([TINY, ALPHA])).convert(whole)
    premultiplied = straight.convert(mode)
    assert np.array_equal(decode(premultiplied).pixels, decode(premultiplied.convert(whole)).pixels)
    assert np.abs(decode(premultiplied).pixels.astype(int) - decode(straight).pixels).max() <= 1


@pytest.mark.parametrize("container", ["PNG", "WEBP"])
def test_opaque_alpha_leaves_no_note(container: str) -> None:
    opaque = np.dstack([TINY, np.full_like(ALPHA, 255)])
    image = decode(encoded(opaque, container))
    assert np.array_equal(image.pixels, TINY)
    assert image.notes == ()


@pytest.mark.parametrize("several", [True, False])
def test_palette_transparency_is_laid_over_the_background(several: bool) -> None:
    picture = PIL.Image.fromarray((np.arange(16, dtype=np.uint8) % 4).reshape(4, 4)).convert("P")
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0], [90, 90, 200]], np.uint8)
    picture.putpalette(palette.tobytes())
    alpha = np.array([0, 128, 255, 30] if several else [255, 255, 0, 255], np.uint8)
    transparency: bytes | int = alpha.tobytes() if several else 2
    index = np.asarray(picture)
    expected = over(palette[index], alpha[index], (40, 50, 60))
    body = encoded(picture, "PNG", transparency=transparency)
    assert np.array_equal(decode(body, background=(40, 50, 60)).pixels, expected)
    picture.info["transparency"] = transparency
    before = (picture.getpalette("RGBA"), picture.tobytes(), dict(picture.info))
    assert np.array_equal(decode(picture, background=(40, 50, 60)).pixels, expected)
    assert (picture.getpalette("RGBA"), picture.tobytes(), dict(picture.info)) == before


def test_a_transparent_gif_is_laid_over_the_background() -> None:
    picture = PIL.Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8)).convert("P")
    picture.putpalette([9, 9, 9, 50, 60, 70, 1, 2, 3, 4, 5, 6])
    image = decode(encoded(picture, "GIF", transparency=1), background=(7, 8, 9))
    expected = [[[9, 9, 9], [7, 8, 9]], [[1, 2, 3], [4, 5, 6]]]
    assert image.pixels.tolist() == expected


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        (1, 0, [0b01000000], "0001", [0, 9]),
        (2, 0, [0b00110000], "0003", [0, 9]),
        (4, 0, [0x1F], "000f", [17, 9]),
        (8, 0, [1, 255], "00ff", [1, 9]),
        (16, 0, [0xFF, 0xFE, 0xFF, 0xFF], "ffff", [255, 9]),
        (8, 2, [1, 1, 1, 255, 255, 255], "00ff00ff00ff", [1, 9]),
        (16, 2, [1] * 6 + [254] * 6, "fefefefefefe", [1, 9]),
        (16, 2, [1] * 6 + [254] * 6, "01fe01fe01fe", [9, 254]),
    ],
)
def test_a_transparent_colour_in_a_png_is_found_at_every_depth(
    depth: int, colour: int, row: list[int], transparent: str, expected: list[int]
) -> None:
    trns = chunk(b"tRNS", bytes.fromhex(transparent))
    image = decode(png(2, 1, depth, colour, bytes([0, *row]), trns), background=(9, 9, 9))
    assert image.pixels[0, :, 0].tolist() == expected
    assert image.notes == ("alpha over #090909",)


@pytest.mark.parametrize("background", [(256, 0, 0), (-1, 0, 0), (0, 0), (0.5, 0, 0)])
def test_a_background_that_is_no_colour_is_refused(background: Any) -> None:
    with pytest.raises(ConfigError, match="background"):
        decode(CAT, background=background)


# --- colour profiles ----------------------------------------------------------------------------

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped(profile: bytes) -> bytes:
    """The profile of a device whose red is green and whose green is red (ICC.1 tag table)."""
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    table = bytearray(profile)
    table[red : red + 4], table[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(table)


@pytest.mark.parametrize("container", ["PNG", "TIFF", "WEBP"])
def test_an_embedded_profile_is_converted_to_srgb(container: str) -> None:
    image = decode(encoded(CAT, container, icc_profile=swapped(SRGB)))
    assert np.abs(image.pixels.astype(int) - CAT[..., [1, 0, 2]]).max() <= 1
    assert image.notes == ()


@pytest.mark.parametrize("name", ["rocket.jpg", "color.png", "page.png"])
def test_profiles_of_real_files_are_applied_as_littlecms_does(name: str) -> None:
    """Adobe RGB in a JPEG, a display's profile in a PNG, dot gain in a gray PNG."""
    with PIL.Image.open(SKIMAGE_DATA / name) as opened:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
        srgb = ImageCms.createProfile("sRGB")
        expected = ImageCms.profileToProfile(opened, profile, srgb, outputMode="RGB")
        untouched = np.asarray(opened.convert("RGB"))
    image = decode(SKIMAGE_DATA / name)
    assert np.array_equal(image.pixels, np.asarray(expected))
    assert not np.array_equal(image.pixels, untouched)
    assert image.notes == ()


def test_an_srgb_profile_changes_nothing() -> None:
    assert np.array_equal(decode(encoded(CAT, "PNG", icc_profile=SRGB)).pixels, CAT)
    with PIL.Image.open(SKIMAGE_DATA / "astronaut.png") as opened:
        assert "sRGB" in ImageCms.getProfileDescription(
            ImageCms.ImageCmsProfile(io.BytesIO(opened.info["icc_profile"]))
        )
        assert np.array_equal(decode(opened).pixels, np.asarray(opened))


def test_a_profile_leaves_alpha_alone() -> None:
    body = encoded(np.dstack([TINY, ALPHA]), "PNG", icc_profile=swapped(SRGB))
    expected = over(TINY[..., [1, 0, 2]], ALPHA, (255, 255, 255))
    assert np.abs(decode(body).pixels.astype(int) - expected).max() <= 1


def test_an_unreadable_profile_is_noted_and_the_pixels_kept() -> None:
    image = decode(encoded(CAT, "PNG", icc_profile=b"not a profile"))
    assert np.array_equal(image.pixels, CAT)
    assert image.notes == ("ICC profile not applied (it is unreadable)",)


def test_a_profile_for_other_colours_is_noted_and_the_pixels_kept() -> None:
    image = decode(encoded(CAT[..., 0], "PNG", icc_profile=SRGB))
    assert np.array_equal(image.pixels[..., 1], CAT[..., 0])
    assert image.notes == ("ICC profile not applied (it is for RGB, the pixels are L)",)


# --- frames -------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", ["GIF", "WEBP", "PNG", "AVIF", "TIFF", "MPO"])
def test_the_first_of_several_frames_is_taken_and_noted(container: str) -> None:
    frames = [PIL.Image.fromarray(np.roll(TINY, 5 * step, 1)) for step in range(3)]
    body = encoded(frames[0], container, save_all=True, append_images=frames[1:])
    image = decode(body)
    first = PIL.Image.open(io.BytesIO(body)).convert("RGB")
    assert np.array_equal(image.pixels, np.asarray(first))
    assert image.notes == ("frame 1 of 3",)
    assert image.format == container


def test_a_later_page_that_pillow_cannot_read_does_not_matter() -> None:
    body = bytearray(
        encoded(TINY, "TIFF", save_all=True, append_images=[PIL.Image.new("L", (9, 9))])
    )
    bits_per_sample = struct.pack("<HHLHH", 258, 3, 1, 8, 0)
    assert body.count(bits_per_sample) == 1
    body = body.replace(bits_per_sample, struct.pack("<HHLHH", 258, 3, 1, 5, 0))
    image = decode(bytes(body))
    assert np.array_equal(image.pixels, TINY)
    assert image.notes == ("frame 1 of several",)


def test_the_frame_that_a_pil_image_stands_at_is_taken() -> None:
    frames = [PIL.Image.fromarray(np.roll(TINY, 5 * step, 1)) for step in range(3)]
    body = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    opened = PIL.Image.open(io.BytesIO(body))
    opened.seek(2)
    assert np.array_equal(decode(opened).pixels, np.asarray(frames[2]))


def test_the_thumbnail_of_a_camera_raw_file_is_not_taken_for_the_picture() -> None:
    body = encoded(TINY, "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageUnsupportedError, match="thumbnail"):
        decode(body)


# --- shrinking ----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 30_000), st.integers(1, 30_000), st.integers(1, 10**9), st.integers(1, 3000))
def test_the_reduction_is_the_smallest_that_fits_and_respects_the_shorter_side(
    width: int, height: int, max_pixels: int, min_side: int
) -> None:
    def fits(factor: int) -> bool:
        return -(-width // factor) * -(-height // factor) <= max_pixels

    def respects(factor: int) -> bool:
        return -(-min(width, height) // factor) >= min_side

    reduction = reduction_for(width, height, max_pixels, min_side)
    assert reduction.bit_count() == 1
    assert reduction == 1 or (respects(reduction) and not fits(reduction // 2))
    assert fits(reduction) or not respects(2 * reduction)
    assert reduction_for(height, width, max_pixels, min_side) == reduction


def test_some_reductions_by_hand() -> None:
    assert reduction_for(4000, 3000, None) == 1
    assert reduction_for(4000, 3000, 12_000_000) == 1
    assert reduction_for(4000, 3000, 11_999_999) == 2
    assert reduction_for(4000, 3000, 1 << 20) == 4
    assert reduction_for(4000, 3000, 1 << 20, min_side=1000) == 2
    assert reduction_for(1, 10_000, 1) == 16384


@pytest.mark.parametrize("numbers", [(0, 1, 1, 1), (1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int, int]) -> None:
    with pytest.raises(ConfigError):
        reduction_for(*numbers)


@pytest.mark.parametrize(("max_pixels", "reduction"), [(10_000, 2), (2000, 4), (400, 8)])
def test_shrinking_is_a_box_average(max_pixels: int, reduction: int) -> None:
    image = decode(CAT, max_pixels=max_pixels)
    assert image.reduction == reduction
    rows, columns = (side // reduction for side in CAT.shape[:2])
    blocks = CAT[: rows * reduction, : columns * reduction].astype(float)
    means = blocks.reshape(rows, reduction, columns, reduction, 3).mean(axis=(1, 3))
    assert np.abs(image.pixels[:rows, :columns] - means).max() <= 0.51
    assert image.pixels.shape == (-(-121 // reduction), -(-183 // reduction), 3)


@pytest.mark.parametrize(("max_pixels", "tolerance"), [(60_000, 0), (20_000, 0.5), (5000, 0.5)])
def test_a_jpeg_shrinks_to_nearly_the_box_average_of_its_pixels(
    max_pixels: int, tolerance: float
) -> None:
    coffee = data.coffee()
    body = encoded(coffee, "JPEG", quality=90)
    shrunk = decode(body, max_pixels=max_pixels)
    exact = decode(decode(body).pixels, max_pixels=max_pixels)
    assert shrunk.reduction == exact.reduction > 1
    assert (shrunk.width, shrunk.height) == (exact.width, exact.height)
    assert np.abs(shrunk.pixels.astype(int) - exact.pixels).mean() <= tolerance


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (2, 1001), (1001, 5), (17, 23)])
@pytest.mark.parametrize("max_pixels", [1, 7, 100])
def test_a_jpeg_of_any_shape_shrinks_to_the_planned_size(
    size: tuple[int, int], max_pixels: int
) -> None:
    image = decode(encoded(PIL.Image.new("RGB", size, "teal"), "JPEG"), max_pixels=max_pixels)
    reduction = reduction_for(*size, max_pixels)
    assert image.reduction == reduction
    assert image.pixels.shape == (-(-size[1] // reduction), -(-size[0] // reduction), 3)
    assert (image.width, image.height) == size


def test_a_lazily_opened_pil_jpeg_keeps_its_size() -> None:
    opened = PIL.Image.open(io.BytesIO(encoded(CAT, "JPEG")))
    decode(opened, max_pixels=500)
    assert opened.size == (183, 121)


# --- limits -------------------------------------------------------------------------------------


def header_only_png(width: int, height: int) -> bytes:
    whole = png(width, height, 1, 0, b"")
    return whole[: whole.index(b"IDAT") + 4]


def test_the_limit_is_applied_to_the_header_before_the_pixels_are_decoded() -> None:
    with pytest.raises(ImageTooLargeError, match="10100 x 10000") as caught:
        decode(header_only_png(10100, 10000))
    assert one_line(caught.value)
    with pytest.raises(ImageDecodeError, match="truncated"):
        decode(header_only_png(10000, 10000))
    assert DEFAULT_LIMIT == 10000 * 10000


@pytest.mark.parametrize(("container", "height"), [("PNG", 9000), ("PNG", 10000), ("TIFF", 9000)])
def test_pictures_up_to_the_limit_decode_without_a_warning(container: str, height: int) -> None:
    options = {"compression": "group4"} if container == "TIFF" else {}
    body = encoded(PIL.Image.new("1", (10000, height), 1), container, **options)
    filters, pillow_limit = list(warnings.filters), PIL.Image.MAX_IMAGE_PIXELS
    assert pillow_limit is not None
    assert 10000 * height > pillow_limit
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = decode(body, max_pixels=100_000)
    assert caught == []
    assert (image.width, image.height, image.reduction) == (10000, height, 32)
    assert (image.pixels == 255).all()
    assert (list(warnings.filters), PIL.Image.MAX_IMAGE_PIXELS) == (filters, pillow_limit)


@pytest.mark.parametrize("source", [CAT, PIL.Image.fromarray(CAT), encoded(CAT, "JPEG")])
def test_the_limit_is_the_callers_for_every_kind_of_source(source: Any) -> None:
    assert decode(source, limit=183 * 121).width == 183
    with pytest.raises(ImageTooLargeError):
        decode(source, limit=183 * 121 - 1)


def test_a_gif_whose_frame_is_larger_than_its_screen_is_refused_by_the_frame() -> None:
    body = bytearray(encoded(PIL.Image.fromarray(TINY), "GIF"))
    frame = body.index(b"," + bytes(4) + struct.pack("<HH", *TINY.shape[1::-1]))
    for width, height, expected in [
        (60000, 60000, ImageTooLargeError),
        (10000, 9000, ImageDecodeError),  # Pillow would warn of this one, and hold it in memory
    ]:
        body[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(expected):
                decode(bytes(body))
        assert caught == []


@pytest.mark.parametrize("kind", [b"zTXt", b"iCCP"])
def test_a_compressed_chunk_that_swells_is_refused(kind: bytes) -> None:
    bomb = chunk(kind, b"name\0\0" + zlib.compress(bytes(3 << 20)))
    with pytest.raises(ImageDecodeError) as caught:
        decode(png(2, 1, 8, 0, b"\0\1\2", bomb))
    assert one_line(caught.value)


# --- what is refused, and how -------------------------------------------------------------------


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError, match=r"absent\.png does not exist"):
        decode(tmp_path / "absent.png")
    with pytest.raises(FileNotFoundError):
        decode("")


def test_a_directory_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadableError, match="directory") as caught:
        decode(tmp_path)
    assert str(caught.value).count(str(tmp_path)) == 1


def test_a_file_without_permission_cannot_be_read(own: Path) -> None:
    path = own / "secret.png"
    path.write_bytes(encoded(TINY, "PNG"))
    path.chmod(0)
    with pytest.raises(ImageUnreadableError, match="denied"):
        decode(path)


def test_a_name_that_no_file_can_have_cannot_be_read() -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(ImageError) as caught:
            decode(name)
        assert one_line(caught.value)


@pytest.mark.parametrize("source", [b"", bytearray(), memoryview(b""), io.BytesIO()])
def test_no_bytes_are_an_empty_picture(source: Any) -> None:
    with pytest.raises(ImageDecodeError, match="is empty"):
        decode(source)


def test_a_file_object_in_text_mode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(TINY, "PNG"))
    with path.open() as file, pytest.raises(ImageDecodeError, match="'rb'"):
        decode(file)  # type: ignore[arg-type]
    with pytest.raises(ImageDecodeError, match="'rb'"):
        decode(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_file_object_that_fails_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(TINY, "PNG"))
    with path.open("rb") as file:
        pass
    with pytest.raises(ImageUnreadableError, match="closed file"):
        decode(file)


@pytest.mark.parametrize("source", [None, 5, 1.5, [1, 2], object()])
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(ImageDecodeError, match="give a path"):
        decode(source)


def test_a_closed_pil_image_is_refused() -> None:
    opened = PIL.Image.open(io.BytesIO(encoded(TINY, "PNG")))
    opened.close()
    with pytest.raises(ImageDecodeError):
        decode(opened)


@pytest.mark.parametrize("container", ["ICO", "JPEG2000", "PCX", "EPS", "DDS", "SGI"])
def test_a_format_outside_the_allow_list_is_named_beside_those_inside(container: str) -> None:
    body = encoded(PIL.Image.new("RGB", (32, 32)), container)
    allowed = "accepted are JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, PPM"
    with pytest.raises(ImageUnsupportedError, match=f"format {container}: {allowed}") as caught:
        decode(body)
    assert one_line(caught.value)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a\xfa\x7f\x01\x90\x08\x06", "JPEG XL"),
        (b"8BPS\0\1" + bytes(20), "PSD"),
    ],
)
def test_a_foreign_format_is_named(start: bytes, named: str) -> None:
    with pytest.raises(ImageUnsupportedError, match=f"format {named}: accepted are"):
        decode(start)


@pytest.mark.parametrize("start", [b"<!doctype html>", b"hello\nworld", b"\0", b"BMW", b"P", b"P6"])
def test_what_is_no_picture_is_refused(start: bytes) -> None:
    with pytest.raises(ImageDecodeError) as caught:
        decode(start)
    assert one_line(caught.value)


def test_a_message_names_a_strange_file_on_one_short_line(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 50)
    directory.mkdir()
    path = directory / "new\nline\x1b[31m.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(ImageDecodeError, match=r"\.\.\..*new\?line\?\[31m\.png is not") as caught:
        decode(path)
    assert one_line(caught.value)


# --- broken files -------------------------------------------------------------------------------


def broken_jpeg_exif() -> bytes:
    """A directory that promises five entries and holds one."""
    directory = b"II*\0" + struct.pack("<LHHHLL", 8, 5, 0x0112, 3, 1, 6)
    return encoded(TINY, "JPEG", exif=b"Exif\0\0" + directory)


def two_frames() -> dict[str, Any]:
    return {"save_all": True, "append_images": [PIL.Image.fromarray(TINY[::-1])]}


def samples() -> dict[str, bytes]:
    rgba = np.dstack([TINY, ALPHA])
    return {
        "JPEG": encoded(TINY, "JPEG", exif=exif(6), icc_profile=swapped(SRGB)),
        "JPEG, progressive": encoded(TINY, "JPEG", progressive=True),
        "JPEG, CMYK": encoded(PIL.Image.fromarray(TINY).convert("CMYK"), "JPEG"),
        "JPEG, bad EXIF": broken_jpeg_exif(),
        "MPO": encoded(TINY, "MPO", **two_frames()),
        "PNG": encoded(TINY, "PNG", exif=exif(3), icc_profile=swapped(SRGB)),
        "PNG, palette": encoded(
            PIL.Image.fromarray(TINY).convert("P"), "PNG", transparency=bytes(range(200))
        ),
        "PNG, 16 bits": encoded(SIXTEEN[::32, ::16].copy(), "PNG"),
        "APNG": encoded(TINY, "PNG", **two_frames()),
        "WEBP": encoded(rgba, "WEBP", exif=exif(5)),
        "WEBP, lossy": encoded(TINY, "WEBP", lossless=False),
        "WEBP, animated": encoded(TINY, "WEBP", **two_frames()),
        "GIF": encoded(TINY, "GIF"),
        "GIF, animated": encoded(TINY, "GIF", **two_frames()),
        "BMP": encoded(TINY, "BMP"),
        "BMP, palette": encoded(PIL.Image.fromarray(TINY).convert("P"), "BMP"),
        "TIFF": encoded(TINY, "TIFF", exif=exif(8), icc_profile=swapped(SRGB)),
        "TIFF, LZW": encoded(rgba, "TIFF", compression="tiff_lzw"),
        "TIFF, JPEG": encoded(TINY, "TIFF", compression="jpeg"),
        "TIFF, pages": encoded(TINY, "TIFF", **two_frames()),
        "TIFF, float": encoded(np.float32(TINY[..., 0] / 255), "TIFF"),
        "AVIF": encoded(TINY, "AVIF", exif=exif(6), speed=10),
        "AVIF, animated": encoded(TINY, "AVIF", speed=10, **two_frames()),
        "PPM": encoded(TINY, "PPM"),
        "PGM, 16 bits": b"P5 16 12 4000\n" + bytes(2 * 16 * 12),
        "PPM, plain": b"P3 2 2 255\n 1 2 3  4 5 6  7 8 9  10 11 12\n",
    }


SAMPLES = samples()


def image_or_error(body: bytes) -> Image | None:
    """The image, or None for an orderly refusal. Anything else fails the test that calls this."""
    image, refusal = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            image = decode(body, limit=1_000_000)
        except ImageError as error:
            refusal = error
    assert [str(warning.message) for warning in caught] == []
    if image is None:
        assert refusal is not None
        assert one_line(refusal)
    else:
        assert image.pixels.shape == (image.height, image.width, 3)
        assert image.pixels.dtype == np.uint8
    return image


def test_a_want_of_memory_is_not_the_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PIL.JpegImagePlugin.JpegImageFile, "load", load)
    with pytest.raises(ImageTooLargeError, match="<bytes> does not fit into the memory there is"):
        decode(SAMPLES["JPEG"])


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ImageDecodeError, match="<image> has no pixels: 0 x 4"):
        decode(PIL.Image.new("RGB", (0, 4)))


def test_the_samples_cover_every_allowed_format() -> None:
    formats = {image.format for body in SAMPLES.values() if (image := image_or_error(body))}
    assert formats == {*ALLOWED, "MPO"}


@pytest.mark.parametrize("kind", sorted(SAMPLES.keys() - {"PPM, plain"}))  # ends in any digit
def test_a_truncated_file_is_refused_or_whole(kind: str) -> None:
    """Whole: where all that is missing is a trailer, or a later frame."""
    body = SAMPLES[kind]
    whole = decode(body).pixels
    for length in {*range(0, len(body), 1 + len(body) // 60), *range(len(body) - 8, len(body))}:
        image = image_or_error(body[:length])
        assert image is None or np.array_equal(image.pixels, whole), length
        assert image is None or length > len(body) // 3


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(kind=st.sampled_from(sorted(SAMPLES)), edits=st.data())
def test_a_mutated_file_gives_an_image_or_an_image_error(kind: str, edits: st.DataObject) -> None:
    body = bytearray(SAMPLES[kind])
    edit = st.tuples(st.integers(0, min(len(body), 400) - 1), st.integers(0, 255))
    for position, value in edits.draw(st.lists(edit, min_size=1, max_size=6)):
        body[position] = value
    image_or_error(bytes(body))


MAGICS = (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"P6 ")


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MAGICS), st.binary(max_size=200))
def test_arbitrary_bytes_give_an_image_or_an_image_error(magic: bytes, rest: bytes) -> None:
    image_or_error(magic + rest)


def test_bad_metadata_does_not_warn_here_but_still_does_elsewhere() -> None:
    body = broken_jpeg_exif()
    with pytest.warns(UserWarning, match="EXIF"):
        PIL.Image.open(io.BytesIO(body)).getexif()
    image = image_or_error(body)
    assert image is not None
    with pytest.warns(UserWarning, match="EXIF") as caught:
        PIL.Image.open(io.BytesIO(body)).getexif()
    assert caught[0].filename.endswith("TiffImagePlugin.py")

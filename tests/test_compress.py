"""Compressing pictures: what a result keeps to, what goes with it, what is refused."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pillow_heif
import pytest
import skimage.data
import skimage.metrics
import skimage.util
from PIL import Image as PILImage
from PIL import ImageCms, features

import qinsight_plugin
from qinsight_plugin.compression import study
from qinsight_plugin.compression.depth import beyond_eight_bits, box_depth
from qinsight_plugin.compression.judge import Criteria, Judge
from qinsight_plugin.compression.original import open_original
from qinsight_plugin.compression.picture import Compressor, compress, load_encoder
from qinsight_plugin.compression.presets import PRESETS, Preset, find_preset, with_floors
from qinsight_plugin.compression.priors import Priors, load_priors
from qinsight_plugin.compression.still import Still, smallest
from qinsight_plugin.decode import decode
from qinsight_plugin.encoders import stills
from qinsight_plugin.errors import (
    ConfigError,
    EncoderError,
    EncoderMissingError,
    FloorUnreachedError,
    ImageDecodeError,
    ImageNotFoundError,
    ImageUnsupportedError,
    MissingExtraError,
)
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.records import Image, Score, ScorerSpec
from qinsight_plugin.search.probes import ProbeCache

from .conftest import ROOT, Pixels, Run

FORMATS = ("jpeg", "webp", "avif", "jxl", "heic")
HEIC = pytest.param("heic", marks=pytest.mark.slow)  # x265 takes its time
MOST = ("jpeg", "webp", "avif", "jxl", HEIC)


@pytest.fixture(scope="module")
def small() -> Pixels:
    """A photograph of odd width and height: 4:2:0 has half a sample too few for it."""
    pixels: Pixels = np.ascontiguousarray(skimage.data.astronaut()[:201, 100:275])
    return pixels


def png(pixels: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def opened(data: bytes, name: str) -> PILImage.Image:
    _, _, encoder = load_encoder(name, default_host())
    return encoder.decode(data)


@pytest.mark.parametrize("name", MOST)
def test_the_lowest_quality_factor_that_meets_every_criterion(small: Pixels, name: str) -> None:
    """By brute force, from the search's answer downwards."""
    preset = dataclasses.replace(PRESETS["high"], max_drop=None, min_source=1.0)
    result = compress(png(small), preset=preset, formats=[name])
    assert result.certificate == "optimal"
    assert result.quality_factor is not None
    decoded = opened(result.data, name)
    assert decoded.size == (175, 201)
    criteria = Criteria(preset)
    judge = Judge(criteria, open_original(png(small)))
    assert all(value >= criterion.least for criterion, value in judge.values(decoded))
    spec, encoder = load_encoder(name, default_host())[1:]
    below = encoder.encode(PILImage.fromarray(small), result.quality_factor - 1)
    worse = judge.values(encoder.decode(below))
    assert any(value < criterion.least for criterion, value in worse)
    assert result.quality_factor in spec.quality_factors


def test_the_best_of_several_formats_is_the_smallest(small: Pixels) -> None:
    result = compress(small, formats=("jpeg", "webp", "avif"))
    sizes = {pick.encoder: len(pick.data) for pick in result.picks}
    assert sizes.keys() == {"jpeg", "webp", "avif"}
    assert len(result.data) == min(sizes.values())
    assert sizes[result.format] == len(result.data)
    assert result.saved is None  # an array has no file to be smaller than
    assert result.score_before is not None
    assert result.score_after is not None


def test_presets_are_ordered(small: Pixels) -> None:
    sizes = [len(compress(small, preset=name, formats=["jpeg"]).data) for name in PRESETS]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


@functools.cache
def display_p3() -> bytes:
    """An RGB profile that is not sRGB's: its red and blue are exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = data.find(b"rXYZ"), data.find(b"bXYZ")
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


def tagged(pixels: Pixels) -> bytes:
    exif = PILImage.Exif()
    exif[0x010E] = "a description"
    exif[0x0112] = 6  # to be turned by a quarter
    return png(pixels, exif=exif.tobytes(), icc_profile=display_p3())


@pytest.mark.parametrize("name", ["jpeg", "webp", "avif", HEIC])
def test_metadata_and_profile_are_kept_and_the_picture_is_turned(small: Pixels, name: str) -> None:
    picture = opened(compress(tagged(small), formats=[name]).data, name)
    assert picture.size == (201, 175)
    exif = picture.getexif()
    assert exif.get(0x010E) == "a description"
    assert exif.get(0x0112, 1) == 1
    assert picture.info["icc_profile"] == display_p3()


@pytest.mark.parametrize("name", MOST)
def test_metadata_is_stripped_and_colours_converted_when_asked(small: Pixels, name: str) -> None:
    result = compress(tagged(small), formats=[name], metadata="strip", profile="srgb")
    picture = opened(result.data, name)
    assert not dict(picture.getexif())
    if name != "jxl":  # which says sRGB in its own way, and Pillow's plugin as a profile
        assert not picture.info.get("icc_profile")
    shown = np.asarray(picture.convert("RGB"), np.float64).mean((0, 1))
    turned = np.rot90(small, -1).mean((0, 1))
    # Exchanged primaries: red is shown as blue was.
    assert abs(shown - turned[::-1]).max() < abs(shown - turned).max()


def test_a_format_without_profiles_gets_srgb(small: Pixels) -> None:
    """JPEG XL's package writes none: the colours are converted, and look the same."""
    result = compress(tagged(small), formats=["jxl"])
    shown = np.asarray(opened(result.data, "jxl").convert("RGB"), np.float64)
    expected = np.asarray(opened(compress(tagged(small), formats=["webp"], profile="srgb").data,
                                 "webp").convert("RGB"), np.float64)  # fmt: skip
    assert np.abs(shown.mean((0, 1)) - expected.mean((0, 1))).max() < 2


def of_space(space: bytes) -> bytes:
    """A profile whose header says that its colours are of that kind."""
    return display_p3()[:16] + space + display_p3()[20:]


@pytest.mark.parametrize(
    ("mode", "container", "space"),
    [("CMYK", "JPEG", b"CMYK"), ("L", "PNG", b"RGB "), ("RGB", "PNG", b"GRAY")],
)
def test_no_profile_goes_with_colours_that_it_does_not_speak_of(
    small: Pixels, mode: str, container: str, space: bytes
) -> None:
    buffer = io.BytesIO()
    picture = PILImage.fromarray(small).convert(mode)
    picture.save(buffer, container, icc_profile=of_space(space))
    assert "icc_profile" not in open_original(buffer.getvalue()).picture.info


def gray_profile() -> bytes:
    """Of a linear scale of gray, so that what forgets it looks far too dark."""
    curve = b"curv" + bytes(8)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"text" + bytes(4) + b"none\0\0\0\0"
    words = b"desc" + bytes(4) + struct.pack(">I", 5) + b"gray\0" + bytes(79)
    tags = {b"desc": words, b"wtpt": white, b"cprt": text, b"kTRC": curve}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + white[8:]
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("alpha", [False, True])
def test_gray_with_a_profile_looks_the_same_in_every_format(small: Pixels, alpha: bool) -> None:
    gray = small[..., 1]
    pixels = np.dstack([gray, np.full_like(gray, 254)]) if alpha else gray
    source = png(pixels, icc_profile=gray_profile())
    expected = decode(source).pixels.mean()
    assert expected > gray.mean() + 20  # the profile says something
    for name in ("jpeg", "webp", "avif")[alpha:]:
        done = compress(source, formats=[name], preset="low")
        assert not done.kept
        assert abs(decode(done.data).pixels.mean() - expected) < 2, name


def test_one_format_that_fails_does_not_cost_the_others(small: Pixels) -> None:
    exif = PILImage.Exif()
    exif[0x010E] = "long" * 20_000
    source = png(small, exif=exif.tobytes())
    done = compress(source, formats=["jpeg", "webp"])  # JPEG holds 64 KiB of it
    assert done.format == "webp"
    assert any("EXIF data is too long" in note for note in done.notes)
    with pytest.raises(EncoderError, match="EXIF data is too long"):
        compress(source, formats=["jpeg"])


def test_what_breaks_pillow_late_is_an_error_of_the_picture(small: Pixels) -> None:
    """A palette picture whose header has no palette opens, and loads."""
    buffer = io.BytesIO()
    PILImage.fromarray(small).quantize(16).save(buffer, "PNG")
    data = buffer.getvalue()
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4], "big")
    with pytest.raises(ImageDecodeError, match=r"is truncated or corrupt: \w"):
        open_original(data[:start] + data[start + 12 + length :])


@pytest.mark.parametrize("name", MOST[1:])
def test_transparency_is_kept(small: Pixels, name: str) -> None:
    alpha = np.tile(np.linspace(0, 255, small.shape[1]).astype(np.uint8), (small.shape[0], 1))
    result = compress(png(np.dstack([small, alpha])), formats=[name])
    kept = opened(result.data, name)
    assert kept.mode == "RGBA"
    assert np.abs(np.asarray(kept)[..., 3].astype(int) - alpha).mean() < 3


def test_transparency_that_a_format_cannot_keep_is_refused(small: Pixels) -> None:
    alpha = np.full(small.shape[:2], 128, np.uint8)
    clear = png(np.dstack([small, alpha]))
    with pytest.raises(ImageUnsupportedError, match="transparent parts, which jpeg cannot keep"):
        compress(clear, formats=["jpeg"])
    both = compress(clear, formats=["jpeg", "webp"])
    assert both.format == "webp"
    assert any("jpeg cannot keep" in note for note in both.notes)
    opaque = png(np.dstack([small, np.full(small.shape[:2], 255, np.uint8)]))
    assert compress(opaque, formats=["jpeg"]).format == "jpeg"


def test_gray_stays_gray(small: Pixels) -> None:
    assert opened(compress(png(small[..., 0]), formats=["jpeg"]).data, "jpeg").mode == "L"


def animated(small: Pixels, container: str) -> bytes:
    buffer = io.BytesIO()
    frames = [PILImage.fromarray(small), PILImage.fromarray(255 - small)]
    frames[0].save(buffer, container, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def deep_png(small: Pixels) -> bytes:
    buffer = io.BytesIO()
    PILImage.fromarray(small[..., 0].astype(np.uint16) * 257).save(buffer, "PNG")
    return buffer.getvalue()


def deep_colour_png(small: Pixels) -> bytes:
    """Pillow reads it as 8 bits a sample, and says nothing."""
    import cv2

    done, data = cv2.imencode(".png", small.astype(np.uint16) * 257)
    assert done
    return bytes(data)


def hdr_png(small: Pixels) -> bytes:
    """A cICP chunk that says BT.2100 PQ."""
    import struct
    import zlib

    data = png(small)
    chunk = b"cICP" + bytes([9, 16, 0, 1])
    return (
        data[:33] + struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]
    )


def deep_tiff(small: Pixels) -> bytes:
    import cv2

    done, data = cv2.imencode(".tiff", small.astype(np.uint16) * 257)
    assert done
    return bytes(data)


def deep_ppm(small: Pixels) -> bytes:
    samples = (small.astype(">u2") * 257).tobytes()
    return b"P6\n# by hand\n%d %d\n65535\n" % (small.shape[1], small.shape[0]) + samples


def gain_mapped(small: Pixels) -> bytes:
    buffer = io.BytesIO()
    xmp = b'<x:xmpmeta xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/"/>'
    PILImage.fromarray(small).save(buffer, "JPEG", xmp=xmp)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda p: animated(p, "GIF"), "animated, 2 frames"),
        (lambda p: animated(p, "WEBP"), "animated, 2 frames"),
        (lambda p: animated(p, "PNG"), "animated, 2 frames"),
        (deep_png, "16 bits a sample"),
        (deep_colour_png, "16 bits a sample"),
        (deep_tiff, "16 bits a sample"),
        (deep_ppm, "largest value is 65535"),
        (gain_mapped, "HDR picture with a gain map"),
        (hdr_png, "HDR \\(PQ\\)"),
    ],
)
def test_what_eight_bits_of_a_frame_would_crush_is_refused(
    small: Pixels, make: Callable[[Pixels], bytes], why: str
) -> None:
    with pytest.raises(ImageUnsupportedError, match=why):
        compress(make(small), formats=["webp"])


def test_a_deep_array_is_refused(small: Pixels) -> None:
    for array in (small.astype(np.uint16), small / 255.0):
        with pytest.raises(ImageUnsupportedError, match="8 bits cannot hold"):
            compress(array, formats=["webp"])


def test_ten_bits_of_a_heif_file_are_seen(small: Pixels) -> None:
    """AVIF and HEIC share their boxes; pillow-heif writes the 10-bit ones."""
    buffer = io.BytesIO()
    deep = small.astype(np.uint16) * 257
    pillow_heif.encode("RGB;16", deep.shape[1::-1], deep.tobytes(), buffer, quality=90)
    assert "1" in box_depth(buffer.getvalue())
    assert box_depth(b"\x00\x00\x00\x01meta" * 3) == ""
    assert beyond_eight_bits(PILImage.fromarray(small), b"") == ""


@pytest.mark.parametrize("kind", ["noise", "blur", "jpeg"])
def test_a_damaged_source_is_not_damaged_more(small: Pixels, kind: str) -> None:
    """A no-reference score alone would be delighted with less noise: SSIM stays at 0.90 or more."""
    if kind == "noise":
        source = skimage.util.img_as_ubyte(skimage.util.random_noise(small, var=0.01, rng=0))
    elif kind == "blur":
        source = skimage.util.img_as_ubyte(skimage.filters.gaussian(small, 2, channel_axis=-1))
    else:
        buffer = io.BytesIO()
        PILImage.fromarray(small).save(buffer, "JPEG", quality=30)
        source = np.asarray(PILImage.open(buffer))
    preset = dataclasses.replace(PRESETS["medium"], min_source=1.0)  # else it is left alone
    result = compress(source, preset=preset, formats=["avif"])
    decoded = np.asarray(opened(result.data, "avif").convert("RGB"))
    luma = np.array([0.299, 0.587, 0.114])
    likeness = skimage.metrics.structural_similarity(
        source @ luma, decoded @ luma, data_range=255, gaussian_weights=True,
        sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert likeness > 0.895


def test_a_poor_source_is_passed_through(small: Pixels) -> None:
    awful = io.BytesIO()
    PILImage.fromarray(small).save(awful, "JPEG", quality=3)
    result = compress(awful.getvalue(), formats=["webp"])
    assert result.data == awful.getvalue()
    assert result.kept.startswith("it scores 1.")
    assert (result.format, result.probes, result.saved) == ("", 0, 0)


def test_the_original_is_kept_where_nothing_is_smaller(small: Pixels) -> None:
    tight = io.BytesIO()
    PILImage.fromarray(small).save(tight, "AVIF", quality=55)
    preset = dataclasses.replace(PRESETS["visually-lossless"], min_source=1.0)
    result = compress(tight.getvalue(), preset=preset, formats=["jpeg"])
    assert result.data == tight.getvalue()
    assert "is not smaller" in result.kept or "no format reaches" in result.kept
    told = compress(tight.getvalue(), preset=preset, formats=["jpeg"], metadata="strip")
    assert told.data == tight.getvalue()
    assert told.kept.endswith("with all of its metadata")  # nobody is to think it stripped


def test_what_is_too_small_to_be_judged_is_kept(small: Pixels) -> None:
    icon = png(small[:16, :16])
    result = compress(icon)
    assert result.data == icon
    assert "too small to be judged" in result.kept


def test_a_floor_that_no_setting_reaches_says_the_best_reached(small: Pixels) -> None:
    preset = Preset({"ssimulacra2": 99.9}, min_source=1.0)
    with pytest.raises(FloorUnreachedError, match=r"best reached is ssimulacra2 9\d.*asked: 99.9"):
        compress(small, preset=preset, formats=["jpeg"])
    kept = compress(png(small), preset=preset, formats=["jpeg"])
    assert kept.kept == "no format reaches the floors"
    assert any("best reached" in note for note in kept.notes)


def test_another_scorer_may_drive(small: Pixels) -> None:
    preset = with_floors(PRESETS["high"], {"ms-ssim": 0.98}, "ms-ssim")
    assert next(iter(preset.floors)) == "ms-ssim"
    result = compress(small, preset=preset, formats=["webp"])
    assert result.values["ms-ssim"] >= 0.98
    assert result.values["ssimulacra2"] >= 70


def test_a_veto_raises_the_quality(small: Pixels) -> None:
    low = Preset({"ssimulacra2": 30.0}, min_source=1.0)
    strict = dataclasses.replace(low, max_drop=0.05)
    free, held = (compress(small, preset=p, formats=["jpeg"]) for p in (low, strict))
    assert free.quality_factor is not None
    assert held.quality_factor is not None
    assert held.quality_factor > free.quality_factor
    assert held.score_before is not None
    assert held.score_after is not None
    assert held.score_before - held.score_after <= 0.05


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: find_preset("best"), "no preset is named 'best'"),
        (lambda: find_preset(Preset({})), "needs a full-reference floor"),
        (lambda: find_preset(Preset({"ssim": float("nan")})), "no number to reach"),
        (lambda: find_preset(Preset({"ssim": 0.9}, max_drop=-1)), "must each be 0 or more"),
        (lambda: find_preset(Preset({"ssim": 0.9}, tolerance=-1)), "must each be 0 or more"),
        (lambda: Criteria(Preset({"student": 3.0})), "cannot be a floor"),
        (lambda: with_floors(PRESETS["low"], {}, "ssim"), "cannot drive"),
        (lambda: Compressor(formats=()), "no format"),
        (lambda: Compressor(formats=("gif",)), "no encoder of images is named 'gif'"),
        (lambda: Compressor(formats=("x264",)), "no encoder of images is named 'x264'"),
        (lambda: Compressor(formats=("avif?sped=3",)), "no setting 'sped'"),
        (lambda: Compressor(formats=("jpeg?subsampling=411",)), "subsampling is auto"),
    ],
)
def test_nonsense_is_refused(make: Callable[[], object], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ImageNotFoundError, match=r"gone\.png does not exist"):
        compress("gone.png")


def test_an_encoder_that_this_build_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(EncoderMissingError, match=r"no AVIF encoder: install Pillow 11\.3"):
        stills.load_avif({})
    monkeypatch.setitem(__import__("sys").modules, "pillow_jxl", None)
    with pytest.raises(MissingExtraError, match=r"pillow-jxl-plugin.*\[codecs\]"):
        stills.load_jxl({})


def test_an_encoder_that_fails_says_on_what() -> None:
    too_wide = PILImage.new("RGB", (20_000, 1))
    with pytest.raises(EncoderError, match="WEBP encoder failed on 20000x1 pixels"):
        stills.load_webp({}).encode(too_wide, 50)


def test_probes_are_remembered_by_all_that_they_depend_on(small: Pixels, tmp_path: Path) -> None:
    cache = ProbeCache(tmp_path / "probes.db")
    source = png(small)
    first = Compressor("high", ("webp",), cache=cache).compress(source)
    again = Compressor("high", ("webp",), cache=ProbeCache(tmp_path / "probes.db"))
    second = again.compress(source)
    assert second.data == first.data
    assert (first.probes > 1, second.probes) == (True, 1)  # the final file is made and measured
    other = Compressor("high", ("webp?method=6",), cache=cache).compress(source)
    assert other.probes > 1
    changed = Compressor("high", ("webp",), cache=cache).compress(png(255 - small))
    assert changed.probes > 1


def test_a_memory_that_lies_is_found_out(small: Pixels) -> None:
    """Remembered values steer; only measured ones decide."""

    class Liar(ProbeCache):
        def get(self, key: str) -> float | None:
            return 100.0

    result = Compressor(
        Preset({"ssimulacra2": 60.0}, min_source=1.0), ("jpeg",), cache=Liar()
    ).compress(small)
    assert result.values["ssimulacra2"] >= 60


def test_a_file_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "not.db"
    path.write_text("something else entirely, and long enough to be looked at" * 20)
    with pytest.raises(ConfigError, match="cache of probes"):
        ProbeCache(path)


def test_the_shipped_priors_load_and_save_probes() -> None:
    """Over pictures: on a single one a search without them may be lucky."""
    priors = load_priors()
    assert priors.corpus
    for name in FORMATS:
        assert priors.curve(name, "ssimulacra2") is not None
        assert priors.curve(name, "ms-ssim") is not None
    assert priors.curve("avif?speed=8", "ssimulacra2") is priors.curve("avif", "ssimulacra2")
    preset = Preset({"ssimulacra2": 70.0}, min_source=1.0)
    pictures = (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut())
    counts = {}
    for label, known in (("with", priors), ("without", Priors())):
        compressor = Compressor(preset, ("jpeg", "webp"), priors=known)
        counts[label] = sum(compressor.compress(p[:256, :256]).probes for p in pictures)
    assert counts["with"] < counts["without"]


def test_priors_learn_from_runs_and_survive_being_written(small: Pixels, tmp_path: Path) -> None:
    priors = load_priors()
    before = priors.curve("jpeg", "ssimulacra2")
    priors.learn("jpeg", "ssimulacra2", {50: 20.0, 60: 25.0})
    priors.learn("jpeg", "lpips", {50: 0.1})  # nothing is known of it: nothing is made up
    priors.save(tmp_path / "own.json")
    after = load_priors(tmp_path / "own.json").curve("jpeg", "ssimulacra2")
    assert before is not None
    assert after is not None
    assert after.count == before.count + 1
    assert (tmp_path / "own.json").stat().st_mode & 0o044
    (tmp_path / "own.json").write_text('{"curves": {}}')
    with pytest.raises(ConfigError, match="no prior curves"):
        load_priors(tmp_path / "own.json")


def test_priors_are_learnt_where_the_encoder_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its settings begin above the first of those that are looked at."""
    spec = SimpleNamespace(quality_factors=range(10, 101))
    still = SimpleNamespace(name="late", spec=spec)
    subject = SimpleNamespace(still=still, value=lambda _, factor: factor / 200)
    monkeypatch.setattr(study, "subjects", lambda *_: [(Path(f"{k}.png"), [subject]) for k in "ab"])
    curve = study.learn([], ["late"], ProbeCache(None), "two").curve("late", "ssimulacra2")
    assert curve is not None
    assert curve.knots.tolist() == [16, 24, 32, 40, 48, 56, 64, 72, 80, 86, 89, 90, 94, 97, 99]
    assert curve.mean == pytest.approx(curve.knots / 200)


def test_an_encoder_that_changes_the_size_is_found_out(small: Pixels) -> None:
    _, spec, encoder = load_encoder("jpeg", default_host())

    class Cropping:
        version = "1"

        def encode(self, picture: PILImage.Image, quality_factor: int) -> bytes:
            return encoder.encode(picture.crop((0, 0, 10, 10)), quality_factor)

        decode = staticmethod(encoder.decode)

    criteria = Criteria(Preset({"ssim": 0.5}, min_source=1.0))
    original = open_original(small)
    still = Still(original, spec, "jpeg", Cropping(), Judge(criteria, original))
    with pytest.raises(EncoderError, match="10x10 pixels of the 175x201"):
        smallest(still, criteria.all, 0.0, Priors())


def test_a_third_partys_encoder_and_scorer_drive_the_search(small: Pixels) -> None:
    """The plugin package's encoder, with a scorer whose lower numbers are better."""
    from tests.plugin_package import qinsight_sample

    class Error:
        """Root of the mean squared error, in levels."""

        def __init__(self) -> None:
            self.spec: ScorerSpec = rmse

        def score(
            self, images: Sequence[Image], references: Sequence[Image] | None = None
        ) -> list[Score]:
            pairs = zip(images, references or (), strict=True)
            away = [i.pixels.astype(float) - r.pixels for i, r in pairs]
            return [Score(float(np.sqrt(np.square(d).mean()))) for d in away]

    rmse = ScorerSpec(
        "rmse", lambda _: Error(), "levels", kind="FR", range=(0, 255), higher_is_better=False
    )

    class Plugin:
        @staticmethod
        @qinsight_plugin.hookimpl
        def qinsight_register_scorers(register: Callable[[ScorerSpec], None]) -> None:
            register(rmse)

    host = PluginHost(discover=False)
    host.add(qinsight_sample, "sample", "tests")
    host.add(Plugin, "rmse", "tests")
    preset = Preset({"rmse": 6.0}, min_source=1.0)
    result = Compressor(preset, ("posterise",), host=host).compress(small)
    assert result.values["rmse"] <= 6
    assert result.certificate == "optimal"
    assert result.quality_factor is not None
    fewer = PILImage.fromarray(small).quantize(result.quality_factor - 1).convert("RGB")
    assert np.sqrt(np.square(np.asarray(fewer, float) - small).mean()) > 6
    assert result.suffix == ".png"
    with pytest.raises(FloorUnreachedError, match="best reached is rmse"):
        Compressor(Preset({"rmse": 0.0}, min_source=1.0), ("posterise",), host=host).compress(small)


def test_the_public_function_is_the_same(small: Pixels) -> None:
    result = qinsight_plugin.compress(small, preset="low", formats=["jpeg"])
    assert result.data.startswith(b"\xff\xd8")


def test_the_readme_says_what_the_presets_are() -> None:
    rows = [
        "| preset | SSIMULACRA2 | MS-SSIM | SSIM | score falls by at most |",
        "|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        floors = [preset.floors.get(s, "-") for s in ("ssimulacra2", "ms-ssim", "ssim")]
        shown = [f"{f:g}" if isinstance(f, float) else f for f in (*floors, preset.max_drop)]
        rows.append(f"| `{name}` | {' | '.join(map(str, shown))} |")
    page = ROOT / "qinsight_plugin" / "compression" / "README.md"
    assert "\n".join(rows) in page.read_text("utf-8")


def test_encoders_are_listed_with_the_plugins(qinsight: Run) -> None:
    done = qinsight("plugins", "--json")
    listed = {encoder["name"]: encoder["media"] for encoder in json.loads(done.stdout)["encoders"]}
    assert {name for name, media in listed.items() if media == "image"} >= set(FORMATS)
    assert {"x264", "x265", "svt-av1"} <= listed.keys()
    assert "  svt-av1      video: AV1 by SVT-AV1" in qinsight("plugins").stdout

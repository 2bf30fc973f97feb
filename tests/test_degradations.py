"""The yardstick's degradations, against the libraries and standards that they follow."""

from __future__ import annotations

import io
import sys
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage
import skimage.color
import skimage.data
import skimage.exposure
import skimage.filters
import skimage.util
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin, features
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from qinsight_plugin import degradations as d
from qinsight_plugin.errors import ConfigError, MissingExtraError
from qinsight_plugin.records import DISTORTIONS, SEVERITIES

from .conftest import Pixels

VARIANTS = [(name, variant) for name, variants in d.DEGRADATIONS.items() for variant in variants]
STATED_BY_TRAINING = {("compression", "webp"), ("darken", "gamma")}
"""Variants whose settings are those of the training ladders, not set to an SSIM."""

SSIM = {
    "noise": (0.957, 0.837, 0.647, 0.467, 0.310),
    "compression": (0.937, 0.913, 0.876, 0.820, 0.727),
    "blur": (0.967, 0.877, 0.778, 0.669, 0.571),
    "darken": (0.953, 0.806, 0.608, 0.396, 0.212),
}
"""As the comment on the table of degradations states it."""


def draw(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def centre(pixels: Pixels, side: int) -> Pixels:
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    names = ("astronaut", "chelsea", "coffee")
    return [centre(getattr(skimage.data, name)(), 256) for name in names]


@pytest.fixture(scope="module")
def small(pictures: list[Pixels]) -> Pixels:
    return centre(pictures[0], 96)


def levels_apart(a: Pixels, b: Pixels) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def ssim(a: Pixels, b: Pixels) -> float:
    """On luma, with the Gaussian window of Wang et al. 2004."""
    luma = (a @ d.YCBCR[0], b @ d.YCBCR[0])
    return float(
        structural_similarity(
            *luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
    )


def test_there_is_a_table_entry_for_each_class_and_severity() -> None:
    assert set(d.DEGRADATIONS) == set(DISTORTIONS)
    assert list(d.LEVELS) == [SEVERITIES.index(severity) + 1 for severity in SEVERITIES]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_each_level_is_further_from_the_picture_and_as_far_as_stated(
    pictures: list[Pixels], name: str, variant: str
) -> None:
    degraded = [
        [d.degrade(p, name, variant, level, draw(i)) for level in d.LEVELS]
        for i, p in enumerate(pictures)
    ]
    for picture, levels in zip(pictures, degraded, strict=True):
        distances = [peak_signal_noise_ratio(picture, made, data_range=255) for made in levels]
        assert all(mild > severe for mild, severe in pairwise(distances))
    if (name, variant) not in STATED_BY_TRAINING:
        measured = [
            np.mean([ssim(p, made[k]) for p, made in zip(pictures, degraded, strict=True)])
            for k in range(5)
        ]
        # The direction of motion is drawn, and three draws are few.
        tolerance = 0.05 if variant == "motion" else 0.01
        assert measured == pytest.approx(SSIM[name], abs=tolerance)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
@pytest.mark.parametrize("shape", [(33, 47), (8, 70)])
def test_a_degraded_picture_has_the_same_shape_and_type_and_the_source_is_left_alone(
    small: Pixels, name: str, variant: str, shape: tuple[int, int]
) -> None:
    pixels = small[: shape[0], : shape[1]]
    before = pixels.copy()
    made = d.degrade(pixels, name, variant, 5, draw())
    assert made.shape == pixels.shape
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_a_degradation_is_repeated_by_its_seed(small: Pixels, name: str, variant: str) -> None:
    first, second = (d.degrade(small, name, variant, 3, draw(7)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("sigma", [4, 17])
def test_gaussian_noise_has_the_stated_deviation(sigma: float) -> None:
    gray = np.full((200, 200, 3), 128, np.uint8)
    noise = d.gaussian_noise(gray, sigma, draw()).astype(float) - 128
    assert noise.std() == pytest.approx(np.hypot(sigma, 12**-0.5), rel=0.01)  # and rounding's
    assert noise.mean() == pytest.approx(0, abs=0.2)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.03


@pytest.mark.parametrize("level", [40, 160])
def test_shot_noise_has_a_variance_in_proportion_to_the_level(level: int) -> None:
    gray = np.full((200, 200, 3), level, np.uint8)
    noisy = d.shot_noise(gray, 77, draw()).astype(float)
    assert noisy.mean() == pytest.approx(level, rel=0.01)
    assert noisy.var() == pytest.approx(level * 255 / 77, rel=0.05)


@pytest.mark.parametrize("level", [40, 160])
def test_speckle_has_a_deviation_in_proportion_to_the_level(level: int) -> None:
    gray = np.full((200, 200, 3), level, np.uint8)
    noisy = d.speckle_noise(gray, 0.15, draw()).astype(float)
    assert noisy.std() == pytest.approx(0.15 * level, rel=0.02)


def test_impulses_are_black_or_white_and_as_many_as_stated() -> None:
    gray = np.full((300, 300, 3), 128, np.uint8)
    noisy = d.impulse_noise(gray, 0.05, draw())
    assert set(np.unique(noisy)) == {0, 128, 255}
    assert np.mean(noisy == 0) == pytest.approx(0.025, rel=0.1)
    assert np.mean(noisy == 255) == pytest.approx(0.025, rel=0.1)


def test_gaussian_blur_is_that_of_skimage(small: Pixels) -> None:
    expected = skimage.filters.gaussian(small, 1.8, mode="reflect", channel_axis=-1)
    assert levels_apart(d.gaussian_blur(small, 1.8, draw()), d.to_pixels(255 * expected)) <= 1


@pytest.mark.parametrize("side", [3, 9])
def test_box_blur_of_odd_side_is_scipy_s_uniform_filter(small: Pixels, side: int) -> None:
    expected = scipy.ndimage.uniform_filter(small.astype(float), (side, side, 0))
    assert levels_apart(d.box_blur(small, side, draw()), d.to_pixels(expected)) <= 1


def test_a_kernel_is_spread_as_scipy_convolves(small: Pixels) -> None:
    weights = draw().random((7, 7))
    weights /= weights.sum()
    expected = scipy.ndimage.convolve(small.astype(float), weights[..., None], mode="reflect")
    assert levels_apart(d.spread(small, weights), d.to_pixels(expected)) <= 1


@given(st.floats(0.3, 12))
def test_the_kernel_of_a_square_is_the_area_in_each_pixel(side: float) -> None:
    weights = d.kernel(*d.grid(side / 2))
    pixel = np.arange(len(weights)) - len(weights) // 2
    overlap = np.minimum(pixel + 0.5, side / 2) - np.maximum(pixel - 0.5, -side / 2)
    share = np.clip(overlap, 0, None) / side
    np.testing.assert_allclose(weights, np.outer(share, share), atol=0.01)


@pytest.mark.parametrize("radius", [0.87, 2.95, 7.8])
def test_a_point_out_of_focus_is_a_disc(radius: float) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    y, x = np.mgrid[-20:21, -20:21]
    disc = d.defocus_blur(point, radius, draw())[..., 0].astype(float)
    assert disc[np.hypot(y, x) > radius + 0.75].max() == 0
    inner = disc[np.hypot(y, x) < radius - 0.75]
    assert inner == pytest.approx(255 / (np.pi * radius**2), abs=1)


@pytest.mark.parametrize("seed", range(4))
def test_a_moved_point_is_a_line_of_the_stated_length(seed: int) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    track = d.motion_blur(point, 14.7, draw(seed))[..., 0].astype(float)
    y, x = np.mgrid[-20:21, -20:21]
    spread = np.cov(np.stack((y, x)).reshape(2, -1), fweights=track.ravel().astype(int))
    across, along = np.linalg.eigvalsh(spread)
    assert along == pytest.approx(14.7**2 / 12, rel=0.1)
    assert across < 0.35


def test_motion_goes_in_many_directions(small: Pixels) -> None:
    made = {d.motion_blur(small, 9, draw(seed)).tobytes() for seed in range(5)}
    assert len(made) == 5


@pytest.mark.parametrize("size", [(96, 96), (45, 91)])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_transform_coder_is_libjpeg_with_the_same_tables(
    small: Pixels, scale: int, size: tuple[int, int]
) -> None:
    pixels = np.ascontiguousarray(small[: size[0], : size[1]])
    table = (d.LUMINANCE_TABLE * scale).ravel().tolist()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", qtables=[table, table], subsampling=0)
    expected = np.asarray(Image.open(buffer))
    made = d.transform_coding(pixels, scale, draw())
    difference = np.abs(made.astype(int) - expected)
    # libjpeg rounds Y, Cb and Cr to levels, and so now and then a coefficient to its neighbour.
    assert difference.mean() < 0.8
    assert np.abs(pixels.astype(int) - expected).mean() > 5 * difference.mean()


def test_the_quantisation_table_is_that_of_libjpeg() -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=50)  # the factor that means the table
    picture = Image.open(buffer)
    assert isinstance(picture, JpegImagePlugin.JpegImageFile)
    assert picture.quantization[0] == d.LUMINANCE_TABLE.ravel().tolist()


def test_opencv_s_jpeg_is_what_its_file_says(small: Pixels) -> None:
    """Colours are in the right order, and the factor is on the usual scale."""
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, "JPEG", quality=60)
    expected = np.asarray(Image.open(buffer))
    made = d.jpeg(small, 60, draw())
    assert np.abs(made.astype(int) - expected).mean() < 1


def test_jpeg_2000_reaches_the_stated_psnr(pictures: list[Pixels]) -> None:
    for picture in pictures:
        made = d.jpeg2000(picture, 30, draw())
        assert peak_signal_noise_ratio(picture, made, data_range=255) == pytest.approx(30, abs=1)


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "AVIF"])
def test_an_encoded_picture_is_what_its_file_decodes_to(small: Pixels, codec: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(small).save(buffer, codec, quality=30)
    expected = np.asarray(Image.open(buffer).convert("RGB"))
    np.testing.assert_array_equal(d.encoded(small, codec, 30), expected)


@pytest.mark.parametrize("exponent", [1.35, 4.8])
def test_gamma_is_a_power_of_the_level(small: Pixels, exponent: float) -> None:
    expected = skimage.exposure.adjust_gamma(skimage.util.img_as_float(small), exponent)
    made = d.gamma(small, exponent, draw())
    assert levels_apart(made, skimage.util.img_as_ubyte(expected)) == 0


def test_gain_scales_the_levels() -> None:
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
    made = d.gain(ramp, 0.42, draw())
    np.testing.assert_allclose(made, 0.42 * ramp.astype(float), atol=0.5 + 1e-9)


def test_a_stop_halves_the_light() -> None:
    """Light is the Y of CIE XYZ, by skimage's own conversion from sRGB."""
    levels = np.array([60, 120, 188, 255], np.uint8)
    gray = np.repeat(levels[None, :, None], 3, axis=2)
    light = [
        skimage.color.rgb2xyz(picture)[..., 1]
        for picture in (gray, d.underexposure(gray, 1, draw()))
    ]
    np.testing.assert_allclose(light[1], light[0] / 2, rtol=0.02)
    assert levels_apart(d.underexposure(gray, 0, draw()), gray) == 0


@pytest.mark.parametrize(
    ("name", "variant", "level"),
    [("noise", "none", 1), ("snow", "gaussian", 1), ("noise", "gaussian", 0), ("blur", "box", 6)],
)
def test_an_unknown_degradation_is_refused(
    small: Pixels, name: str, variant: str, level: int
) -> None:
    with pytest.raises(ConfigError, match=f"no degradation {name}/{variant} at level {level}"):
        d.degrade(small, name, variant, level, draw())


def test_a_pillow_without_the_codec_is_named(
    small: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "check", lambda feature: feature != "avif")
    with pytest.raises(ConfigError, match="Pillow was built without AVIF"):
        d.encoded(small, "AVIF", 50)


@pytest.mark.parametrize("module", ["cv2", "scipy.ndimage", "skimage.util"])
def test_a_missing_library_is_named_with_its_extra(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    top_level = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, top_level, None)
    with pytest.raises(
        MissingExtraError, match=r"pip install 'qinsight-plugin\[distortions\]'"
    ) as caught:
        d.library(module)
    assert caught.value.name == d.PACKAGES[top_level]

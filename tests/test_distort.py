"""Synthetic distortions: each against its definition, as scipy, skimage, Pillow or a standard has
it, and the labels against what was done."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import scipy.ndimage
import skimage.color
import skimage.data
import skimage.exposure
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage
from PIL.JpegImagePlugin import JpegImageFile
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.student import codecs, effects
from qinsight_plugin.student.distort import (
    VARIANTS,
    Variant,
    graded_ladder,
    harmless,
    spoil,
)

from .conftest import Pixels

BY_NAME = {v.name: v for variants in VARIANTS.values() for v in variants}
each_variant = pytest.mark.parametrize("variant", BY_NAME.values(), ids=list(BY_NAME))

severities = st.floats(0, 5)
seeds = st.integers(0, 10_000)
sides = st.integers(32, 80)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def flat(level: int, side: int = 256) -> Pixels:
    return np.full((side, side, 3), level, np.uint8)


def textured(height: int, width: int, seed: int, *, grey: bool = False) -> Pixels:
    """Random pixels; `grey` ones have three equal channels."""
    drawn = rng(seed).integers(0, 256, (height, width, 1 if grey else 3), np.uint8)
    pixels: Pixels = np.broadcast_to(drawn, (height, width, 3)).copy()
    return pixels


def light(level: npt.NDArray[np.floating] | float) -> npt.NDArray[np.float64]:
    """IEC 61966-2-1, for levels above 10."""
    return ((np.asarray(level, np.float64) / 255 + 0.055) / 1.055) ** 2.4


@pytest.fixture(scope="module")
def photographs(astronaut: Pixels) -> list[Pixels]:
    return [astronaut[:256, 100:356], skimage.data.chelsea()[20:220, 100:340]]


# What every variant does


def test_the_classes_are_those_of_the_records() -> None:
    assert tuple(VARIANTS) == DISTORTIONS
    assert len(BY_NAME) == sum(map(len, VARIANTS.values())), "a name is used twice"


@each_variant
def test_fidelity_falls_as_severity_rises(variant: Variant, photographs: list[Pixels]) -> None:
    for photograph in photographs:
        fidelity = [
            peak_signal_noise_ratio(photograph, variant.apply(photograph, severity, rng()))
            for severity in (0.5, 1, 2, 3, 4, 5)
        ]
        assert all(milder > worse + 0.3 for milder, worse in pairwise(fidelity)), fidelity


@each_variant
def test_severity_zero_is_the_picture_itself(variant: Variant, astronaut: Pixels) -> None:
    assert (variant.apply(astronaut, 0, rng()) == astronaut).all()


@each_variant
def test_next_to_severity_zero_next_to_nothing_changes(
    variant: Variant, photographs: list[Pixels]
) -> None:
    """Encoders at their best still subsample chroma, hence 30 dB, a squared error of 65."""
    distorted = variant.apply(photographs[0], 1e-3, rng())
    assert mean_squared_error(photographs[0], distorted) < 65


@each_variant
def test_settings_are_as_stated_at_whole_severities_and_linear_between(variant: Variant) -> None:
    assert [variant.setting(level) for level in range(1, 6)] == list(variant.settings)
    points = (variant.neutral, *variant.settings)
    for level, (a, b) in enumerate(pairwise(points)):
        assert variant.setting(level + 0.25) == pytest.approx(0.75 * a + 0.25 * b)


@pytest.mark.parametrize("severity", [-0.1, 5.01, math.nan])
def test_a_severity_outside_the_scale_is_refused(severity: float) -> None:
    with pytest.raises(ConfigError, match=r"severity .* of gaussian is outside 0 to 5"):
        BY_NAME["gaussian"].apply(flat(9), severity, rng())


@given(st.sampled_from(list(BY_NAME)), sides, sides, severities, seeds, st.booleans())
def test_any_picture_keeps_its_shape_and_a_seed_its_result(
    name: str, height: int, width: int, severity: float, seed: int, grey: bool
) -> None:
    pixels = textured(height, width, seed, grey=grey)
    before = pixels.copy()
    first, second = (BY_NAME[name].apply(pixels, severity, rng(seed)) for _ in range(2))
    assert first.shape == pixels.shape
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert (pixels == before).all()


def test_neither_scipy_nor_torch_is_needed() -> None:
    script = (
        "import sys, qinsight_plugin.student.distort; print(*{'scipy', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.strip() == b""


# Noise


@pytest.mark.parametrize("severity", [1, 2.5, 4])
def test_colour_noise_has_the_stated_deviation_in_every_channel(severity: float) -> None:
    variant = BY_NAME["colour"]
    noise = variant.apply(flat(128), severity, rng()).astype(float) - 128
    assert noise.std((0, 1)) == pytest.approx(variant.setting(severity), rel=0.02)
    assert np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1] == pytest.approx(
        0, abs=0.02
    )


def test_colour_noise_on_a_photograph_is_what_an_estimator_finds() -> None:
    """Immerkær, "Fast noise variance estimation", 1996: a mask that no smooth surface answers."""
    smooth = scipy.ndimage.gaussian_filter(skimage.data.chelsea(), (8, 8, 0))
    noisy = BY_NAME["colour"].apply(smooth, 3, rng()).astype(float)
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])[..., None]
    answer = np.abs(scipy.ndimage.convolve(noisy, mask)).mean()
    assert math.sqrt(math.pi / 2) / 6 * answer == pytest.approx(17, rel=0.03)


def test_luminance_noise_leaves_grey_grey() -> None:
    noisy = BY_NAME["luminance"].apply(flat(128), 3, rng())
    assert (noisy == noisy[..., :1]).all()
    assert noisy.std() == pytest.approx(17, rel=0.02)


def test_chroma_noise_is_in_cb_and_cr_alone() -> None:
    noisy = BY_NAME["chroma"].apply(flat(128), 2, rng())
    y, cb, cr = np.moveaxis(skimage.color.rgb2ycbcr(noisy), -1, 0)
    assert y.std() < 0.5
    assert [cb.std(), cr.std()] == pytest.approx([12 * 224 / 255] * 2, rel=0.03)


def test_impulse_noise_is_black_and_white_in_the_stated_share_and_nothing_else() -> None:
    noisy = BY_NAME["impulse"].apply(flat(128, 512), 5, rng())
    assert {*np.unique(noisy)} == {0, 128, 255}
    assert (noisy == noisy[..., :1]).all()
    assert [(noisy == 0).mean(), (noisy == 255).mean()] == pytest.approx([0.05, 0.05], rel=0.03)


@pytest.mark.parametrize("level", [40, 120])
def test_speckle_grows_with_the_picture(level: int) -> None:
    noisy = BY_NAME["speckle"].apply(flat(level), 3, rng())
    assert noisy.std() == pytest.approx(0.15 * level, rel=0.03)


@pytest.mark.parametrize("level", [60, 128, 200])
def test_variance_of_sensor_noise_is_linear_in_light(level: int) -> None:
    noisy = light(BY_NAME["sensor"].apply(flat(level), 1, rng()).astype(float))
    assert noisy.std() == pytest.approx(0.025 * math.sqrt(0.99 * light(level) + 0.01), rel=0.04)
    assert noisy.mean() == pytest.approx(float(light(level)), rel=0.01)


def test_grain_is_coarse_and_spares_black_and_white() -> None:
    """Noise smoothed by 1 2 1 correlates with its neighbour by 4 / 6, with the next by 1 / 6."""
    grain = BY_NAME["grain"].apply(flat(128), 3, rng()).astype(float)[..., 0] - 128
    assert grain.std() == pytest.approx(13, rel=0.03)
    neighbours = [
        np.corrcoef(grain[:, :-lag].ravel(), grain[:, lag:].ravel())[0, 1] for lag in (1, 2, 3)
    ]
    assert neighbours == pytest.approx([4 / 6, 1 / 6, 0], abs=0.03)
    for level in (0, 255):
        assert (BY_NAME["grain"].apply(flat(level), 5, rng()) == level).all()


# Blur


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gaussian_blur_is_scipys(severity: float, astronaut: Pixels) -> None:
    """Pillow's is made of boxes: where scipy moves a pixel by d, it is off by less than d / 3."""
    variant = BY_NAME["gaussian"]
    sigma = variant.setting(severity)
    wanted = scipy.ndimage.gaussian_filter(
        astronaut.astype(float), (sigma, sigma, 0), mode="nearest"
    )
    error = np.abs(variant.apply(astronaut, severity, rng()) - wanted).mean()
    assert error < np.abs(wanted - astronaut).mean() / 3
    assert error < 0.7


@given(sides, sides, st.integers(0, 6), seeds)
def test_convolution_is_scipys(height: int, width: int, reach: int, seed: int) -> None:
    pixels = textured(height, width, seed)
    kernel = rng(seed).random((2 * reach + 1, 2 * reach + 1), np.float32)
    kernel /= kernel.sum()
    wanted = scipy.ndimage.convolve(pixels.astype(float), kernel[..., None], mode="nearest")
    assert np.abs(effects.convolve(pixels, kernel) - wanted).max() < 0.51


@given(st.floats(0.5, 12))
def test_a_disc_sums_to_one_and_has_the_moments_of_a_disc(radius: float) -> None:
    kernel = effects.disc(radius)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel == kernel.T).all()
    assert (kernel == kernel[::-1]).all()
    steps = np.arange(len(kernel)) - len(kernel) // 2
    if radius > 3:
        # Mean over edges from radius - 0.5 to radius + 0.5; a hard edge's is radius**2 / 4.
        variance = (kernel.sum(0) * steps**2).sum()
        soft = (radius**4 + radius**2 / 2 + 1 / 80) / (4 * radius**2 + 1 / 3)
        assert variance == pytest.approx(soft, rel=0.05)


@given(st.floats(1, 25), st.floats(0, math.pi))
def test_a_line_sums_to_one_and_has_its_length_and_direction(length: float, angle: float) -> None:
    kernel = effects.line(length, angle)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel == pytest.approx(kernel[::-1, ::-1], abs=1e-6)
    steps = np.arange(len(kernel)) - len(kernel) // 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    if length > 8:
        assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, rel=0.1)
    assert (kernel * across**2).sum() < 0.25


def test_no_blur_is_one_pixel() -> None:
    for kernel in (effects.disc(0.5), effects.line(1, 0.7)):
        assert kernel.max() == 1
        assert np.count_nonzero(kernel) == 1


# Compression


def annex_k(quality: int) -> list[list[int]]:
    """The luminance and chrominance tables of ITU-T T.81, scaled as the IJG's software does."""
    luminance = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
        14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
        49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
    chrominance = (
        """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99
        47 66 99 99 99 99 99 99"""
        + " 99" * 32
    )
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return [
        [min(max((int(entry) * scale + 50) // 100, 1), 255) for entry in table.split()]
        for table in (luminance, chrominance)
    ]


@pytest.mark.parametrize("chroma", ["4:2:0", "4:4:4"])
@pytest.mark.parametrize("severity", [0.5, 1, 2, 3, 4, 5])
def test_jpeg_quantises_by_the_tables_of_its_quality(
    chroma: str, severity: float, astronaut: Pixels
) -> None:
    variant = BY_NAME[f"JPEG {chroma}"]
    buffer = io.BytesIO()
    tables = annex_k(round(variant.setting(severity)))
    PILImage.fromarray(astronaut).save(buffer, "JPEG", qtables=tables, subsampling=chroma)
    assert (variant.apply(astronaut, severity, rng()) == np.asarray(PILImage.open(buffer))).all()


def test_the_quality_of_an_encoded_file_can_be_read_back(astronaut: Pixels) -> None:
    for quality in (60, 38, 22, 12, 6):
        data = codecs.encode(astronaut, "JPEG", quality=quality)
        with PILImage.open(io.BytesIO(data)) as image:
            assert isinstance(image, JpegImageFile)
            assert image.quantization == dict(enumerate(annex_k(quality)))


@pytest.mark.parametrize("codec", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_encoders_write_the_format_they_are_asked_for(codec: str, astronaut: Pixels) -> None:
    with PILImage.open(io.BytesIO(codecs.encode(astronaut, codec))) as image:
        assert image.format == codec


def test_progressive_jpeg_would_be_the_same_distortion(astronaut: Pixels) -> None:
    baseline, progressive = (
        codecs.reencode(astronaut, "JPEG", quality=20, progressive=wanted)
        for wanted in (False, True)
    )
    assert (baseline == progressive).all()


@pytest.mark.parametrize("seed", range(3))
def test_jpeg_twice_shows_the_seams_of_two_grids(seed: int, astronaut: Pixels) -> None:
    """Where 8x8 blocks meet, columns differ more: at multiples of 8, and 3 to 5 before them."""

    def seams(name: str) -> set[int]:
        distorted = BY_NAME[name].apply(astronaut, 5, rng(seed)).astype(float)
        steps = np.abs(np.diff(distorted, axis=1)).mean((0, 2))
        step_before = {8 - column: steps[column - 1 :: 8].mean() for column in range(1, 9)}
        usual = np.median(list(step_before.values()))
        return {before for before, step in step_before.items() if step > 1.15 * usual}

    assert seams("JPEG 4:2:0") == {0}
    assert seams("JPEG twice") in ({0, 3}, {0, 4}, {0, 5})


@pytest.mark.parametrize("name", [v.name for v in VARIANTS["compression"]])
def test_the_smallest_pictures_survive_compression(name: str, astronaut: Pixels) -> None:
    """A file's header must not eat what a wavelet coder may spend."""
    small = np.asarray(PILImage.fromarray(astronaut).resize((32, 32)))
    assert BY_NAME[name].apply(small, 2, rng()).std() > 0.6 * small.std()


def test_an_encoder_that_pillow_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    PILImage.init()
    monkeypatch.delitem(PILImage.SAVE, "AVIF")
    with pytest.raises(ConfigError, match=r"this Pillow cannot write AVIF .* wheel from PyPI"):
        BY_NAME["AVIF"].apply(flat(9), 3, rng())


# Darkening


@given(st.integers(0, 255), severities)
def test_gain_is_exact_on_flat_fields(level: int, severity: float) -> None:
    variant = BY_NAME["gain"]
    (dark,) = np.unique(variant.apply(flat(level, 32), severity, rng()))
    assert abs(int(dark) - level * variant.setting(severity)) < 0.5 + 1e-4


@pytest.mark.parametrize("severity", [1, 2, 3, 4, 5])
def test_gamma_is_skimages(severity: float, astronaut: Pixels) -> None:
    variant = BY_NAME["gamma"]
    wanted = skimage.exposure.adjust_gamma(astronaut / 255, variant.setting(severity)) * 255
    assert np.abs(variant.apply(astronaut, severity, rng()) - wanted).max() < 0.51


@pytest.mark.parametrize("level", [255, 180])
@pytest.mark.parametrize("severity", [1, 2, 3])
def test_exposure_halves_light_with_every_stop(level: int, severity: float) -> None:
    variant = BY_NAME["exposure"]
    (dark,) = np.unique(variant.apply(flat(level, 32), severity, rng()))
    stops = math.log2(light(level) / light(float(dark)))
    assert stops == pytest.approx(variant.setting(severity), abs=0.04)


@pytest.mark.parametrize("severity", [1, 3, 5])
def test_noise_of_low_light_stays_under_slight_noise(severity: float) -> None:
    dark = BY_NAME["low light"].apply(flat(230), severity, rng())
    (exposed,) = np.unique(BY_NAME["exposure"].apply(flat(230), severity, rng()))
    assert dark.mean() == pytest.approx(float(exposed), abs=0.5)
    assert 0.2 < dark.std() < BY_NAME["colour"].settings[0]


def test_murk_lowers_contrast_and_leaves_its_dark_grey() -> None:
    ends = np.array([[[0] * 3, [24] * 3, [255] * 3]], np.uint8)
    black, kept, white = BY_NAME["murk"].apply(ends, 5, rng())[0, :, 0]
    assert (black, kept, white) == (round(24 * 0.9), 24, round(24 + 0.1 * 231))


# Drawing at random


@given(seeds)
def test_a_ladder_is_one_variant_one_severity_apart_from_untouched(seed: int) -> None:
    pixels = textured(40, 50, 1)
    graded = graded_ladder(pixels, rng(seed))
    labels = np.array([rung.severities for rung in graded.rungs])
    column = DISTORTIONS.index(graded.distortion)
    assert graded.variant in VARIANTS[graded.distortion]
    assert (np.delete(labels, column, axis=1) == 0).all()
    assert labels[0, column] == 0
    assert 0.5 < labels[1, column] <= 1
    assert np.diff(labels[1:, column]) == pytest.approx(1, abs=1e-5)
    assert (graded.rungs[0].pixels == pixels).all()

    again = graded_ladder(pixels, rng(seed))
    for rung, same in zip(graded.rungs, again.rungs, strict=True):
        assert (rung.pixels == same.pixels).all()


@given(seeds)
def test_a_ladder_leaves_out_the_classes_that_it_is_told_to(seed: int) -> None:
    without = [name != "blur" for name in DISTORTIONS]
    assert graded_ladder(textured(40, 50, 1), rng(seed), without).distortion == "blur"


@given(seeds)
def test_a_spoilt_picture_has_one_distortion_of_up_to_obvious(seed: int) -> None:
    pixels = textured(40, 50, 1)
    spoilt, severities = spoil(pixels, rng(seed))
    assert spoilt.shape == pixels.shape
    assert np.count_nonzero(severities) == 1
    assert 0.6 <= severities.max() <= 3


@pytest.mark.parametrize("seed", range(12))
def test_fidelity_falls_along_ladders(seed: int, photographs: list[Pixels]) -> None:
    graded = graded_ladder(photographs[0], rng(seed))
    fidelity = [peak_signal_noise_ratio(photographs[0], rung.pixels) for rung in graded.rungs[1:]]
    assert fidelity == sorted(fidelity, reverse=True), graded.variant.name


def test_the_rungs_of_a_ladder_share_their_noise() -> None:
    """On grey, noise of one rung is that of another, larger."""
    compared = 0
    for seed in range(30):
        graded = graded_ladder(flat(128, 64), rng(seed))
        if graded.distortion == "noise" and graded.variant.name != "impulse":
            milder, worse = (graded.rungs[i].pixels.astype(float).ravel() for i in (2, 4))
            assert np.corrcoef(milder, worse)[0, 1] > 0.9, graded.variant.name
            compared += 1
    assert compared > 3


@given(sides, sides, st.integers(0, 255), seeds)
def test_harmless_changes_are_small(height: int, width: int, level: int, seed: int) -> None:
    field = np.full((height, width, 3), level, np.uint8)
    changed = harmless(field, rng(seed)).astype(int)
    assert np.abs(changed - level).max() <= 0.05 * level + 2
    for side, before in zip(changed.shape[:2], (height, width), strict=True):
        assert max(32, math.floor(0.8 * 0.6 * before)) <= side <= before


def test_harmless_changes_hurt_less_than_any_slight_distortion(photographs: list[Pixels]) -> None:
    """Of those that keep the geometry: brightness apart, none is worse than JPEG at 92."""
    photograph, compared = photographs[0], 0
    floor = peak_signal_noise_ratio(
        photograph, codecs.reencode(photograph, "JPEG", quality=92, subsampling="4:2:0")
    )
    for seed in range(40):
        changed = harmless(photograph, rng(seed)).astype(float)
        if changed.shape == photograph.shape:
            unmirrored = min(
                (changed, changed[:, ::-1]), key=lambda p: float(np.abs(p - photograph).mean())
            )
            gain = (unmirrored * photograph).sum() / (photograph.astype(float) ** 2).sum()
            assert 0.94 < gain < 1.06
            error = unmirrored - np.minimum(gain * photograph, 255)
            assert 10 * math.log10(255**2 / max((error**2).mean(), 1e-9)) > floor - 1
            compared += 1
    assert compared > 5

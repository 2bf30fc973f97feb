"""The reference ISP, the traits of a picture and its bounds, against other people's code."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import skimage.color
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError, ImageDecodeError, ImageNotFoundError
from qinsight_plugin.tune import isp
from qinsight_plugin.tune.bounds import UNBOUNDED, Bounds, Traits, blocks, noise_of, to_lab, traits
from qinsight_plugin.tune.raw import Shot, camera_to_srgb, mosaic_of, photographed, read_raw

from .conftest import Pixels

PLAIN = {**isp.SPACE.defaults, "sharpen": 0.0}
NO_NOISE = Shot(photons=1e7, read=0)


def psnr(a: Pixels, b: Pixels) -> float:
    value: float = skimage.metrics.peak_signal_noise_ratio(a, b)
    return value


def test_a_photograph_without_noise_comes_back(astronaut: Pixels) -> None:
    raw = photographed(astronaut, NO_NOISE, np.random.default_rng(0))
    assert psnr(astronaut, isp.render(PLAIN, raw)) > 29  # what demosaicing loses


def test_what_the_camera_gets_wrong_its_parameters_put_right(astronaut: Pixels) -> None:
    shot = dataclasses.replace(NO_NOISE, stops=-1, belief=(1.2, 0.85))
    raw = photographed(astronaut, shot, np.random.default_rng(0))
    right = {**PLAIN, "exposure": 1.0, "red": 1 / 1.2, "blue": 1 / 0.85}
    assert psnr(astronaut, isp.render(PLAIN, raw)) < 20
    assert psnr(astronaut, isp.render(right, raw)) > 28.5


def test_denoising_takes_noise_away(astronaut: Pixels) -> None:
    raw = photographed(astronaut, Shot(photons=500), np.random.default_rng(0))
    cleaned = isp.render({**PLAIN, "denoise": 0.5, "denoise_colour": 1.5}, raw)
    assert psnr(astronaut, cleaned) > psnr(astronaut, isp.render(PLAIN, raw)) + 3


def test_demosaicing_agrees_with_opencv_on_flat_colours_and_beats_its_bilinear_one(
    astronaut: Pixels,
) -> None:
    cv2 = pytest.importorskip("cv2")
    mosaic = mosaic_of(astronaut.astype(float)).astype(np.float32)
    ours = np.clip(isp.demosaic(mosaic), 0, 255).astype(np.uint8)
    # OpenCV names the pattern by its second row: its BG is RGGB.
    theirs = cv2.cvtColor(mosaic.astype(np.uint8), cv2.COLOR_BayerBG2RGB)
    assert psnr(theirs, ours) > 25
    assert psnr(astronaut, ours) > psnr(astronaut, theirs)


@given(st.floats(0.05, 1), st.floats(0.05, 1), st.floats(0.05, 1))
def test_demosaicing_keeps_a_flat_colour(red: float, green: float, blue: float) -> None:
    flat = np.broadcast_to(np.array([red, green, blue]), (8, 8, 3))
    colours = isp.demosaic(mosaic_of(flat).astype(np.float32))
    assert colours == pytest.approx(flat, abs=1e-5)


def test_the_tone_curve_is_that_of_srgb(astronaut: Pixels) -> None:
    """scikit-image's is inside its conversion from XYZ."""
    light = np.random.default_rng(0).uniform(0, 1, (64, 3))
    to_xyz = skimage.color.rgb2xyz(isp.tone_curve(light.astype(np.float32), 0)[None])[0]
    matrix = skimage.color.colorconv.xyz_from_rgb
    assert to_xyz == pytest.approx(light @ matrix.T, abs=1e-4)


@settings(max_examples=25)
@given(st.floats(-0.5, 0.5))
def test_contrast_keeps_order_black_grey_and_white(contrast: float) -> None:
    light = np.linspace(0, 1, 512, dtype=np.float32)
    levels = isp.tone_curve(light, contrast)
    assert (np.diff(levels) >= 0).all()
    assert levels[[0, -1]] == pytest.approx([0, 1], abs=1e-5)


def test_lab_is_that_of_scikit_image(astronaut: Pixels) -> None:
    ours = to_lab(blocks(astronaut, 1)).transpose(1, 2, 0)
    assert ours == pytest.approx(skimage.color.rgb2lab(astronaut), abs=0.05)


@pytest.mark.parametrize("sigma", [3, 10, 25])
def test_the_estimate_of_noise_finds_the_noise(sigma: float) -> None:
    flat = 128 + np.random.default_rng(0).normal(0, sigma, (256, 256, 1))
    grey = np.clip(np.rint(np.repeat(flat, 3, -1)), 0, 255).astype(np.uint8)
    assert noise_of(grey) == pytest.approx(sigma, rel=0.03)


def test_bounds_are_used_by_what_changes(astronaut: Pixels) -> None:
    default = traits(astronaut)
    red = np.clip(astronaut * np.array([1.3, 1, 1]), 0, 255).astype(np.uint8)
    used = Bounds().used(default, traits(red))
    assert used["colour"] > 1
    assert Bounds().excess(default, traits(red)) > 0
    assert UNBOUNDED.used(default, traits(red)) == {}
    assert Bounds().excess(default, default) == Bounds().strain(default, default) == 0


@given(st.floats(0, 200))
def test_half_of_a_bound_strains_it_by_a_quarter(far: float) -> None:
    default = Traits(0, 20, 0, 0, 10, 0, 2)
    now = dataclasses.replace(default, lightness=far)
    bounds = Bounds(lightness=100)
    assert bounds.strain(default, now) == pytest.approx(min(far / 100, 1) ** 2)
    assert bounds.excess(default, now) == pytest.approx(max(far / 100 - 1, 0))


@pytest.mark.parametrize("limits", [{"colour": 0}, {"noise": 1}, {"clipped": float("nan")}])
def test_impossible_bounds_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"bound {next(iter(limits))} must be a number above"):
        Bounds(**limits)


def test_a_camera_matrix_keeps_white(astronaut: Pixels) -> None:
    nikon_d750 = np.array(  # xyz -> camera, Adobe's DNG converter, as in dcraw
        [[0.9020, -0.2890, -0.0715], [-0.4535, 1.2436, 0.2348], [-0.0934, 0.1919, 0.7086]]
    )
    assert camera_to_srgb(nikon_d750) @ np.ones(3) == pytest.approx(np.ones(3))
    assert camera_to_srgb(np.zeros((3, 3))) == pytest.approx(np.eye(3))


def test_what_is_no_raw_file_is_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("rawpy")
    path = tmp_path / "a.dng"
    with pytest.raises(ImageNotFoundError, match="does not exist"):
        read_raw(path)
    path.write_bytes(b"not raw at all" * 100)
    with pytest.raises(ImageDecodeError, match="no raw file that can be read") as caught:
        read_raw(path)
    assert "\n" not in str(caught.value)

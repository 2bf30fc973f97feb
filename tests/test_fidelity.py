"""The full-reference measures, against other people's implementations."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import pytorch_msssim
import skimage.data
import skimage.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from ssimulacra2 import ssimulacra2 as their_ssimulacra2

import qinsight_plugin
from qinsight_plugin.errors import ImageTooSmallError, ReferenceMissingError, ScorerError
from qinsight_plugin.fidelity.ms_ssim import SINGLE_SCALE, MsSsim
from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.plugins import PluginHost

from .conftest import Pixels

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def jpeg(pixels: Pixels, quality: int) -> Pixels:
    buffer = io.BytesIO()
    PILImage.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(PILImage.open(buffer))


PAIRS = [
    (skimage.data.astronaut(), 30),
    (skimage.data.astronaut(), 90),
    (skimage.data.coffee()[:352, :512], 10),
    (skimage.data.chelsea()[:288, :432], 75),
]


@pytest.mark.parametrize(("pixels", "quality"), PAIRS)
def test_ms_ssim_is_that_of_pytorch_msssim(pixels: Pixels, quality: int) -> None:
    worse = jpeg(pixels, quality)
    planes = [torch.tensor((p.astype(np.float32) @ LUMA)[None, None]) for p in (pixels, worse)]
    expected = float(pytorch_msssim.ms_ssim(*planes, data_range=255))
    assert MsSsim(pixels).score(worse) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("pixels", "quality"), PAIRS)
def test_ssim_is_that_of_skimage(pixels: Pixels, quality: int) -> None:
    worse = jpeg(pixels, quality)
    a, b = (p.astype(np.float64) @ LUMA.astype(np.float64) for p in (pixels, worse))
    _, full = skimage.metrics.structural_similarity(
        a,
        b,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    expected = full[5:-5, 5:-5].mean()
    assert MsSsim(pixels, SINGLE_SCALE).score(worse) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize(("pixels", "quality"), [*PAIRS, (skimage.data.coffee()[:201, :163], 60)])
def test_ssimulacra2_is_that_of_the_package(pixels: Pixels, quality: int, tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    worse = jpeg(pixels, quality)
    for path, picture in zip(paths, (pixels, worse), strict=True):
        PILImage.fromarray(picture).save(path)
    expected = their_ssimulacra2.compute_ssimulacra2(*map(str, paths))
    assert Ssimulacra2(pixels).score(worse) == pytest.approx(expected, abs=0.02)


@settings(max_examples=15)
@given(
    height=st.integers(11, 80),
    width=st.integers(11, 80),
    seed=st.integers(0, 5),
)
def test_equal_pictures_are_perfect_in_any_size(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    assert MsSsim(pixels).score(pixels) == pytest.approx(1, abs=1e-5)
    assert MsSsim(pixels, SINGLE_SCALE).score(pixels) == pytest.approx(1, abs=1e-5)
    assert Ssimulacra2(pixels).score(pixels) == pytest.approx(100, abs=1e-3)
    assert MsSsim(pixels).score(255 - pixels) < 0.5


def test_they_are_scorers_as_any_other(tmp_path: Path, astronaut: Pixels) -> None:
    specs = PluginHost(discover=False).scorer_specs()
    assert all(specs[name].kind == "FR" for name in ("ssim", "ms-ssim", "ssimulacra2"))
    path = tmp_path / "worse.jpg"
    path.write_bytes(b"")
    PILImage.fromarray(astronaut).save(path, quality=50)
    report = qinsight_plugin.score(path, scorer="ssimulacra2", reference=astronaut)
    assert 40 < report.value < 75
    with pytest.raises(ReferenceMissingError):
        qinsight_plugin.score(path, scorer="ms-ssim")
    with pytest.raises(ScorerError, match="equal sizes"):
        qinsight_plugin.score(path, scorer="ssim", reference=astronaut[:100])
    with pytest.raises(ImageTooSmallError, match="from 11x11 up"):
        qinsight_plugin.score(astronaut[:9], scorer="ssim", reference=astronaut[:9])

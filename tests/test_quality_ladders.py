"""What spoils a good photograph lowers its score, and more when done more.

The distortions are skimage's and Pillow's, not those of the training code; the photographs ship in
packages and no student has been trained on them. `pytest -rP` prints the table.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import skimage.exposure
import skimage.filters
import skimage.util
import sklearn.datasets
from PIL import Image

import qinsight_plugin

from .conftest import Pixels


def photographs() -> dict[str, Pixels]:
    names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
    found = {name: getattr(skimage.data, name)() for name in names}
    found["motorcycle"] = skimage.data.stereo_motorcycle()[0]
    samples = sklearn.datasets.load_sample_images()
    names_of_samples = [Path(name).stem for name in samples.filenames]
    found |= dict(zip(names_of_samples, samples.images, strict=True))
    hopper = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    found["grace_hopper"] = np.asarray(Image.open(hopper).convert("RGB"))
    return found


def to_bytes(values: npt.NDArray[np.floating]) -> Pixels:
    pixels: Pixels = skimage.util.img_as_ubyte(np.clip(values, 0, 1))
    return pixels


def blur(pixels: Pixels, sigma: float) -> Pixels:
    channel_axis = -1 if pixels.ndim == 3 else None
    return to_bytes(skimage.filters.gaussian(pixels, sigma, channel_axis=channel_axis))


def noise(pixels: Pixels, variance: float) -> Pixels:
    return to_bytes(skimage.util.random_noise(pixels, var=variance, rng=0))


def compress(pixels: Pixels, quality_factor: float) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality_factor))
    return np.asarray(Image.open(buffer))


def darken(pixels: Pixels, gamma: float) -> Pixels:
    return to_bytes(skimage.exposure.adjust_gamma(pixels / 255.0, gamma))


LEVELS: dict[str, tuple[Callable[[Pixels, float], Pixels], tuple[float, ...]]] = {
    "blur": (blur, (0.8, 1.5, 2.5, 4, 7)),
    "noise": (noise, (0.001, 0.003, 0.01, 0.03, 0.1)),
    "compression": (compress, (60, 35, 20, 10, 4)),
    "darken": (darken, (1.4, 2, 3, 4.5, 7)),
}
"""Distortion -> its implementation and five settings, slight to catastrophic."""


@pytest.mark.parametrize("scorer", ["student", "student:large"])
def test_scores_fall_along_ladders_of_distortions(scorer: str) -> None:
    steps = ordered = 0
    for distortion, (distort, settings) in LEVELS.items():
        print(f"{distortion:<12}{'':<14}as it is  " + "  ".join(f"{s:>6g}" for s in settings))
        for name, photograph in photographs().items():
            versions = [photograph, *(distort(photograph, setting) for setting in settings)]
            scores = [qinsight_plugin.score(version, scorer=scorer).value for version in versions]
            falls = [better > worse for better, worse in pairwise(scores)]
            steps += len(falls)
            ordered += sum(falls)
            shown = "  ".join(f"{value:6.2f}" for value in scores)
            print(f"{'':<12}{name:<14}  {shown}  {sum(falls)} of {len(falls)}")
            assert scores[0] > scores[-1], (distortion, name)
    print(f"{ordered} of {steps} neighbouring levels are in the right order")
    assert ordered >= 0.9 * steps

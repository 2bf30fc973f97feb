"""Suggested edits: faults found, good pictures left alone, nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qinsight_plugin.degradations import gaussian_noise, underexposure
from qinsight_plugin.errors import ConfigError, ImageTooSmallError
from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.srgb import LINEAR
from qinsight_plugin.tune import suggest
from qinsight_plugin.tune.edits import EDITS, apply_all, developed
from qinsight_plugin.tune.illuminant import cast

from .conftest import Pixels, Run


@pytest.fixture(scope="module")
def small(astronaut: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(astronaut).resize((256, 256), Image.Resampling.LANCZOS))


def tinted(pixels: Pixels, red: float, blue: float) -> Pixels:
    return developed((LINEAR[pixels] * np.exp([red, 0, blue])).astype(np.float32))


def test_a_good_photograph_is_left_alone(small: Pixels) -> None:
    found = suggest(small)
    assert found.edits == ()
    assert found.after == found.before
    assert (found.edited == found.original).all()


@pytest.mark.slow
def test_faults_are_found_and_the_edit_brings_the_picture_closer(small: Pixels) -> None:
    rng = np.random.default_rng(0)
    faulty = {
        "exposure": underexposure(small, 2.5, rng),
        "denoise": gaussian_noise(small, 20, rng),
    }
    measure = Ssimulacra2(small)
    for edit, picture in faulty.items():
        found = suggest(picture)
        assert found.edits[0].edit == edit
        assert found.edits[0].worth >= 0.15
        assert measure.score(found.edited) > measure.score(picture)
        assert found.after >= found.before - 0.03 * len(found.edits)


@settings(max_examples=20)
@given(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4))
def test_a_grey_picture_tells_the_colour_of_its_light(red: float, blue: float) -> None:
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(40, 130, (32, 32, 1)), 8, 0).repeat(8, 1)
    shown = tinted(np.repeat(grey, 3, -1).astype(np.uint8), red, blue)
    assert cast(shown) == pytest.approx([red, blue], abs=0.05)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.name)
def test_an_edit_of_no_strength_changes_nothing(edit: object, small: Pixels) -> None:
    one = next(known for known in EDITS if known is edit)
    assert np.abs(one.apply(small, 0.0).astype(int) - small).max() <= 1
    for strength in (min(one.strengths), max(one.strengths)):
        changed = one.apply(small, strength)
        assert changed.shape == small.shape
        assert changed.dtype == np.uint8
    assert (apply_all(small, {}) == small).all()


@pytest.mark.parametrize("level", [0, 255])
def test_a_picture_of_nothing_is_no_error(level: int) -> None:
    found = suggest(np.full((64, 64, 3), level, np.uint8))
    assert np.isfinite(found.after)


def test_what_cannot_be_judged_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_gain must be 0 or more, not nan"):
        suggest(np.full((64, 64, 3), 90, np.uint8), min_gain=float("nan"))
    with pytest.raises(ImageTooSmallError, match="16x64"):
        suggest(np.zeros((64, 16, 3), np.uint8))
    with pytest.raises(ConfigError, match="cannot be maximised"):
        suggest(np.zeros((64, 64, 3), np.uint8), scorer="ssim")


@pytest.mark.slow
def test_the_command_writes_json_and_pictures(tmp_path: Path, small: Pixels, qinsight: Run) -> None:
    Image.fromarray(underexposure(small, 2.5, np.random.default_rng(0))).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"junk")
    out = tmp_path / "out"
    done = qinsight("suggest", tmp_path / "a.png", tmp_path / "b.png", "--json", "-o", out)
    assert done.returncode == 3
    dark, junk = map(json.loads, done.stdout.splitlines())
    assert dark["edits"][0]["edit"] == "exposure"
    with Image.open(dark["picture"]) as pair:
        assert pair.size == (256 * 2 + 8, 256)
    assert "error" in junk
    again = qinsight("suggest", tmp_path / "a.png", "-o", out)
    assert "a-before-after-1.jpg" in again.stdout  # no picture is overwritten

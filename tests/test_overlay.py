"""What an overlay must keep, and skimage's interpolation and colour space as judges of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.color import rgb2lab
from skimage.transform import resize

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.overlay import overlay

from .conftest import Pixels

Map = npt.NDArray[np.float32]

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3))
maps = arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.floats(0, 6, width=32),
)


def level(shape: tuple[int, int], value: float) -> Map:
    return np.full(shape, value, np.float32)


@given(arrays(np.uint8, sizes), st.floats(5, 9, width=32))
def test_under_a_map_of_top_scores_the_picture_is_as_it_was(pixels: Pixels, top: float) -> None:
    shown = overlay(pixels, level((2, 3), top))
    assert np.array_equal(shown[: len(pixels)], pixels)
    assert shown.dtype == np.uint8


@given(arrays(np.uint8, sizes), maps)
def test_the_legend_does_not_depend_on_the_picture_or_its_map(pixels: Pixels, quality: Map) -> None:
    height, width, _ = pixels.shape
    shown = overlay(pixels, quality)
    plain = overlay(np.zeros_like(pixels), level((1, 1), 3))
    assert shown.shape == plain.shape
    assert shown.shape[1:] == (width, 3)
    assert np.array_equal(shown[height:], plain[height:])


@given(arrays(np.uint8, sizes), maps)
def test_a_scale_may_run_the_other_way(pixels: Pixels, quality: Map) -> None:
    height = len(pixels)
    upward, downward = overlay(pixels, quality), overlay(pixels, 6 - quality, low=5, high=1)
    difference = upward[:height].astype(int) - downward[:height]
    assert np.abs(difference).max() <= 2  # 6 - x is rounded


@given(arrays(np.uint8, sizes), maps)
def test_beyond_the_scale_counts_as_its_end(pixels: Pixels, quality: Map) -> None:
    assert np.array_equal(overlay(pixels, quality), overlay(pixels, quality.clip(1, 5)))


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 3)])
def test_a_bad_cell_changes_its_own_region_most(astronaut: Pixels, cell: tuple[int, int]) -> None:
    quality = level((4, 4), 4)
    quality[cell] = 1
    change = np.abs(overlay(astronaut, quality)[:512].astype(float) - astronaut)
    regions = change.reshape(4, 128, 4, 128, 3).mean((1, 3, 4))
    assert np.unravel_index(regions.argmax(), regions.shape) == cell


def test_the_map_is_interpolated_between_the_centres_of_its_cells(astronaut: Pixels) -> None:
    quality = np.random.default_rng(0).uniform(1, 5, (7, 5)).astype(np.float32)
    smooth = resize(quality, (512, 512), order=1, mode="edge").astype(np.float32)
    difference = overlay(astronaut, quality).astype(int) - overlay(astronaut, smooth)
    assert np.abs(difference).max() <= 2


def test_the_colours_differ_in_lightness_the_worse_the_lighter() -> None:
    """On black nothing but the colour is seen: whoever sees no hue still sees the order."""
    black = np.zeros((1, 256, 3), np.uint8)
    shown = overlay(black, np.linspace(5, 1, 256, dtype=np.float32)[np.newaxis])[:1]
    lightness = rgb2lab(shown)[0, :, 0]
    assert np.diff(lightness).min() > -0.5  # steps of 8 bits
    assert np.diff(lightness[::32]).min() > 1
    red, _, blue = shown[0, -1]
    assert red > 1.5 * blue


def test_detail_is_still_seen_where_all_is_bad(astronaut: Pixels) -> None:
    shown = overlay(astronaut, level((1, 1), 1))[:512]
    both = np.corrcoef(shown.mean(2).ravel(), astronaut.mean(2).ravel())
    assert both[0, 1] > 0.95


@pytest.mark.parametrize("width", [64, 400])
def test_numbers_stand_under_both_ends_of_the_legend(width: int) -> None:
    pixels = np.zeros((10, width, 3), np.uint8)
    numbers = overlay(pixels, level((1, 1), 3))[-16:]
    inked = np.flatnonzero((numbers > 128).any((0, 2)))
    assert inked.min() < 4
    assert inked.max() > width - 5
    other = overlay(pixels, level((1, 1), 3), low=0, high=100)[-16:]
    assert not np.array_equal(numbers, other)


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    "arguments",
    [
        (PICTURE[..., 0], level((2, 2), 3)),
        (PICTURE.astype(np.float32), level((2, 2), 3)),
        (PICTURE[:0], level((2, 2), 3)),
        (PICTURE, level((2, 2), 3)[0]),
        (PICTURE, level((0, 2), 3)),
        (PICTURE, level((2, 2), np.nan)),
        (PICTURE, level((2, 2), 3), 2.0, 2.0),
        (PICTURE, level((2, 2), 3), 0.0, np.inf),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(arguments: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        overlay(*arguments)
    assert "\n" not in str(caught.value)

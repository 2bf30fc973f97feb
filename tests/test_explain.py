"""Sentences worked out by hand; the laws that places keep to when a map is turned over."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import mean

from qinsight_plugin.explain import EVEN, WORSE, explain, findings
from qinsight_plugin.records import Distortion, Score

Map = npt.NDArray[np.float32]

BLUR = (Distortion("blur", "obvious"),)
POOR = (0.2, 0.4, 0.2, 0.2, 0.0)  # mean level 2.4

LETTERS = np.array([list("abc"), list("def"), list("ghi")])

# Quarters of a level are exact, so no rounding decides on which side of a threshold they fall.
quarters = st.integers(4, 20).map(lambda number: number / 4)
grids = arrays(np.float32, (3, 3), elements=quarters) | arrays(
    np.float32, (3, 3), elements=st.sampled_from([1.5, 1.5, 3.0, 3.0, 3.0, 3.0, 3.25])
)
cells = st.integers(1, 4)


def flat(bad: str, low: float = 2.0, good: float = 3.0) -> Map:
    """A 6x6 map that is `low` in the ninths of these letters, which run from a to i."""
    ninths = np.where(np.isin(LETTERS, list(bad)), low, good).astype(np.float32)
    return np.kron(ninths, np.ones((2, 2), np.float32))


def blurred(quality_map: Map | None) -> Score:
    return Score(2.4, BLUR, 0.3, POOR, quality_map)


def test_the_place_of_what_is_wrong_is_named() -> None:
    assert explain(blurred(flat("adg"))) == "2.4 ± 0.3: obvious blur, worst on the left"


def test_what_is_wrong_all_over_is_everywhere() -> None:
    found = (Distortion("noise", "serious"), Distortion("darken", "slight"))
    score = Score(1.9, found, 0.3, (0.4, 0.4, 0.1, 0.1, 0.0), flat(""))
    assert explain(score) == "1.9 ± 0.3: serious noise and slight darkening, everywhere"


def test_three_distortions_are_enumerated() -> None:
    found = tuple(Distortion(name, "slight") for name in ("noise", "blur", "compression"))
    assert explain(Score(3.0, found)) == "3.00: slight noise, slight blur and slight compression"


def test_a_good_picture_has_nothing_wrong_or_a_worst_place_all_the_same() -> None:
    levels = (0.0, 0.0, 0.1, 0.5, 0.4)
    for quality_map in (None, flat("")):
        score = Score(4.3, (), 0.2, levels, quality_map)
        assert explain(score) == "4.3 ± 0.2: nothing wrong found"
    partly = Score(4.3, (), 0.2, levels, flat("a"))
    assert explain(partly) == "4.3 ± 0.2: nothing wrong on the whole, worst in the top left"


def test_a_low_score_without_a_distortion_is_not_called_faultless() -> None:
    score = Score(2.4, (), 0.3, POOR, flat("c"))
    assert explain(score) == "2.4 ± 0.3: poor, cause not found, worst in the top right"
    assert explain(Score(1.2, (), None, (0.8, 0.2, 0, 0, 0))) == "1.20: bad, cause not found"
    # Without levels nobody knows that 1.2 is low.
    assert explain(Score(1.2, ())) == "1.20: nothing wrong found"


def test_a_scorer_that_names_no_distortions_may_still_know_where() -> None:
    assert explain(Score(2.4, None, 0.3, POOR, flat("i"))) == (
        "2.4 ± 0.3: worst in the bottom right"
    )
    assert explain(Score(2.4, None, 0.3, POOR, flat(""))) == "2.4 ± 0.3"


@pytest.mark.parametrize(
    ("value", "uncertainty", "shown"),
    [
        (2.4, None, "2.40"),
        (34.567, None, "34.57"),
        (4.3125, 0.21, "4.3 ± 0.2"),
        (0.8712, 0.034, "0.87 ± 0.03"),
        (0.8712, 0.0004, "0.8712 ± 0.0004"),
        (172.4, 12.6, "172 ± 13"),
        (-3.5, 1.5, "-4 ± 2"),
        (2.4, 0.0, "2.40 ± 0.00"),
        (2.4, 1e-300, "2.400000000 ± 0.000000000"),
    ],
)
def test_a_number_of_any_scale_is_as_long_as_its_uncertainty_allows(
    value: float, uncertainty: float | None, shown: str
) -> None:
    assert explain(Score(value, None, uncertainty)) == shown


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ("a", "in the top left"),
        ("b", "at the top"),
        ("e", "in the centre"),
        ("f", "on the right"),
        ("abc", "at the top"),
        ("gi", "at the bottom"),
        ("cf", "on the right"),
        ("abde", "in the top left"),
        ("fhi", "in the bottom right"),
    ],
)
def test_a_ninth_a_side_and_a_corner_have_names(bad: str, place: str) -> None:
    assert findings(blurred(flat(bad))) == f"obvious blur, worst {place}"


@pytest.mark.parametrize("bad", ["ai", "be", "def", "acgi", "abcdef", "adgcfi"])
def test_no_single_place_is_named_where_there_are_several(bad: str) -> None:
    assert findings(blurred(flat(bad))) == "obvious blur"


def test_small_differences_name_no_place() -> None:
    assert findings(blurred(flat("a", low=3 - WORSE - 0.01))).endswith("worst in the top left")
    assert findings(blurred(flat("a", low=3 - WORSE + 0.01))) == "obvious blur"
    assert findings(blurred(flat("a", low=3 - EVEN - 0.01))) == "obvious blur"
    assert findings(blurred(flat("a", low=3 - EVEN + 0.01))) == "obvious blur, everywhere"


def test_nothing_is_claimed_of_places_without_a_map_large_enough_or_a_known_scale() -> None:
    assert findings(blurred(None)) == "obvious blur"
    assert findings(blurred(np.full((2, 6), 3, np.float32))) == "obvious blur"
    assert findings(Score(2.4, BLUR, 0.3, None, flat("adg"))) == "obvious blur"


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        (np.fliplr, {"left": "right", "right": "left"}),
        (np.flipud, {"top": "bottom", "bottom": "top"}),
    ],
)
@given(ninths=grids, down=cells, across=cells)
def test_a_mirrored_map_has_its_worst_place_mirrored(
    turn: Callable[[Map], Map], words: dict[str, str], ninths: Map, down: int, across: int
) -> None:
    quality_map = np.kron(ninths, np.ones((down, across), np.float32))
    sentence = findings(blurred(quality_map))
    mirrored = re.sub(r"\w+", lambda word: words.get(word[0], word[0]), sentence)
    assert findings(blurred(turn(quality_map))) == mirrored


@given(arrays(np.float32, st.tuples(st.integers(3, 9), st.integers(3, 9)), elements=quarters))
def test_a_place_that_is_named_is_worse_and_everywhere_is_alike(quality_map: Map) -> None:
    down, across = (np.floor(3 * (np.arange(n) + 0.5) / n) for n in quality_map.shape)
    ninths = mean(quality_map, np.add.outer(3 * down, across), np.arange(9))
    sentence = findings(blurred(quality_map))
    if "worst" in sentence:
        assert ninths.min() <= np.median(ninths) - WORSE + 1e-4
    if "everywhere" in sentence:
        assert np.ptp(ninths) <= EVEN + 1e-4

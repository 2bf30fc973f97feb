"""Views and families: labels that follow from what was done, the same again from the cache."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from qinsight_plugin.errors import LabelsError
from qinsight_plugin.fidelity.ssimulacra2 import Ssimulacra2
from qinsight_plugin.labels import Labels
from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.student import families as families_module
from qinsight_plugin.student.cache import Record, StemCache
from qinsight_plugin.student.families import (
    NEAR,
    RUNGS,
    Family,
    cache_families,
    draw_families,
    make_family,
)
from qinsight_plugin.student.views import (
    RatedSet,
    cache_rated,
    file_digest,
    smaller_view,
    with_ratings,
)

from .conftest import Pixels
from .toy import blurred_windows, toy_student, write_pictures

UNKNOWN = np.full(RUNGS, np.nan, np.float32)


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StemCache]:
    with closing(StemCache(tmp_path / "stem", toy_student())) as cache:
        yield cache


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "pictures"
    return [folder / name for name, _ in write_pictures(folder, 6)]


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_one_class_grows_from_rung_to_rung_and_the_others_stay(seed: int) -> None:
    pixels = np.ascontiguousarray(skimage.data.astronaut()[60:156, 180:260])
    members = make_family(pixels, np.random.default_rng(seed), measured=False)
    severities = np.stack([member.severities for member in members])
    assert severities.shape == (RUNGS, 4)
    growing = np.flatnonzero(severities[-1] != severities[0])
    assert len(growing) == 1
    (column,) = severities.T[growing]
    assert column[0] == 0
    assert all(milder < worse for milder, worse in pairwise(column))
    assert column[-1] > 4
    others = np.delete(severities, growing, 1)
    assert (others == others[0]).all()
    assert (others > 0).sum(1).max() <= 1
    assert others.max() <= 3
    assert len({member.pixels.shape for member in members}) == 1
    for milder, worse in pairwise(members):
        assert (milder.pixels != worse.pixels).any()


def test_likeness_is_that_to_the_undistorted_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is, to the view before anything was done to it."""
    seen: list[Pixels] = []

    def seen_as_it_is(view: Pixels, _: np.random.Generator) -> Pixels:
        seen.append(view)
        return view

    monkeypatch.setattr(families_module, "harmless", seen_as_it_is)
    pixels = blurred_windows(1, 96)[0][0]
    measured = 0
    for seed in range(12):
        members = make_family(pixels, np.random.default_rng(seed))
        for member in members:
            darkened = member.severities[DISTORTIONS.index("darken")] > 0
            mixed = np.count_nonzero(member.severities) > 1
            assert math.isnan(member.likeness) == (darkened or mixed)
            assert not member.likeness > 100
        if not members[0].severities.any():
            assert members[0].likeness == pytest.approx(100, abs=1e-6)
        if seen and not math.isnan(members[2].likeness):
            expected = max(0.0, Ssimulacra2(seen[-1]).score(members[2].pixels))
            assert members[2].likeness == pytest.approx(expected, abs=1e-4)
            measured += 1
        seen.clear()
    assert measured >= 3


def test_what_is_not_measured_is_the_same_but_for_its_likeness() -> None:
    pixels = blurred_windows(1, 96)[0][0]
    pair = [make_family(pixels, np.random.default_rng(1), measured=m) for m in (True, False)]
    for known, unknown in zip(*pair, strict=True):
        assert (known.pixels == unknown.pixels).all()
        assert (known.severities == unknown.severities).all()
        assert math.isnan(unknown.likeness)


def test_about_a_quarter_of_the_families_have_a_second_distortion() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    drawn = (np.random.default_rng(seed) for seed in range(80))
    families = [make_family(pixels, rng, measured=False) for rng in drawn]
    spoilt = sum(members[0].severities.any() for members in families)
    assert spoilt == pytest.approx(20, abs=4 * math.sqrt(80 * 0.25 * 0.75))


def labels_of(families: list[Family]) -> list[str]:
    """And their likeness; as text, since NaN is not equal to itself."""
    return [str((family.severities.tolist(), family.likeness.tolist())) for family in families]


def test_families_from_the_cache_are_those_that_were_made(
    cache: StemCache, pictures: list[Path], tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    first = cache_families(cache, [pictures], 4, seed=3)
    held = len(cache)
    again = cache_families(cache, [pictures], 4, seed=3, on_cached=lambda *now: told.append(now))
    assert held == len(cache) == 4 * RUNGS
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [family.records for family in again] == [family.records for family in first]
    assert labels_of(again) == labels_of(first)
    with closing(StemCache(tmp_path / "other", toy_student())) as other:
        anew = cache_families(other, [pictures], 4, seed=3)
        assert labels_of(anew) == labels_of(first)
        for mine, theirs in zip(first, anew, strict=True):
            for a, b in zip(mine.records, theirs.records, strict=True):
                assert (cache.whole(a).feature_map == other.whole(b).feature_map).all()


def test_another_seed_makes_other_families(cache: StemCache, pictures: list[Path]) -> None:
    first, second = (cache_families(cache, [pictures], 3, seed) for seed in (0, 1))
    assert labels_of(first) != labels_of(second)


def sources(families: list[Family]) -> list[str]:
    return [family.records[0].key.partition(":")[0] for family in families]


def test_pools_share_equally_however_large_they_are(cache: StemCache, pictures: list[Path]) -> None:
    """And a picture whose turn comes again makes another family."""
    families = cache_families(cache, [pictures[:1], [], pictures[1:]], 6, seed=0)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in pictures]
    assert sorted(sources(families)) == sorted([digests[0]] * 3 + digests[1:4])
    assert len({family.records[0].key for family in families}) == 6


def test_without_pictures_there_are_no_families(cache: StemCache) -> None:
    assert cache_families(cache, [[], []], 6, seed=0) == []


def test_every_family_is_drawn_sooner_or_later(cache: StemCache, pictures: list[Path]) -> None:
    families = cache_families(cache, [pictures], 3, seed=0)
    rng = np.random.default_rng(0)
    drawn = [family for _ in range(30) for family in draw_families(families, 2, rng)]
    assert {id(family) for family in drawn} == {id(family) for family in families}


def test_families_that_are_drawn_together_are_near_in_size() -> None:
    families = [family_of_side(side) for side in range(64, 464)]
    rng = np.random.default_rng(0)
    starts = []
    for _ in range(200):
        sides = [family.records[0].height for family in draw_families(families, 4, rng)]
        assert max(sides) - min(sides) < NEAR * 4
        starts.append(min(sides))
    assert min(starts) < 80
    assert max(starts) > 420


def family_of_side(side: int) -> Family:
    return Family(
        [Record("x", 0, side, 2 * side)] * RUNGS, np.zeros((RUNGS, 4), np.float32), UNKNOWN
    )


# Views of rated pictures


@given(st.integers(32, 120), st.integers(32, 120), st.integers(0, 99))
def test_a_smaller_view_keeps_the_proportions_and_the_least_side(
    height: int, width: int, seed: int
) -> None:
    view = smaller_view(np.zeros((height, width, 3), np.uint8), np.random.default_rng(seed))
    assert min(view.shape[:2]) >= 32
    factors = [small / whole for small, whole in zip(view.shape, (height, width), strict=False)]
    assert factors[0] == pytest.approx(factors[1], abs=0.5 / height + 0.5 / width)
    if min(height, width) >= 64:
        assert all(0.49 < factor < 0.91 for factor in factors)


def rated_set(paths: list[Path], **columns: object) -> RatedSet:
    mos = tuple(1.0 + k % 5 for k in range(len(paths)))
    return RatedSet(Labels(tuple(paths), mos, **columns), range(len(paths)))  # type: ignore[arg-type]


def test_a_picture_is_cached_once_by_its_content(cache: StemCache, pictures: list[Path]) -> None:
    copy = pictures[0].with_name("copy.png")
    copy.write_bytes(pictures[0].read_bytes())
    rated = cache_rated(cache, [rated_set([pictures[0], copy])])
    assert len(cache) == 1
    assert rated.views[0] == rated.views[1]


def test_with_jitter_a_picture_has_a_smaller_view_after_its_own(
    cache: StemCache, pictures: list[Path]
) -> None:
    told: list[tuple[int, int]] = []
    rated = cache_rated(
        cache, [rated_set(pictures)], jitter=0, on_cached=lambda *now: told.append(now)
    )
    assert {(own.height, own.width) for own, _ in rated.views} == {(4, 4)}
    assert {smaller.height for _, smaller in rated.views} == {3, 4}
    assert all(own.key.endswith(":native") for own, _ in rated.views)
    assert told[-1] == (6, 6)
    again = cache_rated(cache, [rated_set(pictures)], jitter=0)
    assert again.views == rated.views
    assert len(cache) == 12


def test_what_the_cache_holds_is_what_the_scorer_sees(
    cache: StemCache, pictures: list[Path]
) -> None:
    rated = cache_rated(cache, [rated_set(pictures[:1])])
    with PILImage.open(pictures[0]) as picture:
        pixels: Pixels = np.asarray(picture)
    expected = cache.whole(cache.add("expected", pixels))
    assert (cache.whole(rated.views[0][0]).feature_map == expected.feature_map).all()


def test_ratings_keep_to_their_pictures_and_groups_to_their_set() -> None:
    paths = [Path(f"{k}.png") for k in range(3)]
    first = Labels(tuple(paths), (1.0, 2.0, 3.0), group=("x", "y", "x"), std=(0.5, 0.0, 1.0))
    second = Labels(tuple(paths), (4.0, 5.0, 4.5), group=("x", "x", "x"))
    severities = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight = np.array([0.1, 0.2, 0.3], np.float32)
    rated = with_ratings(
        [[]] * 4, [RatedSet(first, [2, 0]), RatedSet(second, [1, 2], weight, severities)]
    )
    assert rated.mos.tolist() == [3, 1, 5, 4.5]
    assert rated.variance.tolist() == [1, 0.25, 0, 0]
    assert rated.weight.tolist() == pytest.approx([1, 1, 0.2, 0.3])
    assert rated.scale.tolist() == [0, 0, 1, 1]
    assert rated.group[0] == rated.group[1] != rated.group[2] == rated.group[3]
    assert np.isnan(rated.severities[:2]).all()
    assert (rated.severities[2:] == severities[1:]).all()
    assert len(rated) == 4


def test_a_picture_that_cannot_be_used_is_named(cache: StemCache, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    gone = tmp_path / "gone.png"
    with pytest.raises(LabelsError, match=r"^2 of 2 pictures .*broken\.png .*gone\.png.*rows out"):
        cache_rated(cache, [rated_set([broken, gone])])
    with pytest.raises(LabelsError, match=r"cannot read .*gone\.png"):
        file_digest(tmp_path / "gone.png")

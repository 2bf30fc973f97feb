"""Calibration against scipy's optimiser, and what it promises by simulation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import torch

from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.calibrate import calibrate, logit, predict, score_all
from qinsight_plugin.student.heads import SPREAD_RANGE, on_scale
from qinsight_plugin.student.network import Student
from qinsight_plugin.student.views import Rated

from .toy import blurred_windows, toy_student

Vector = npt.NDArray[np.float32]
PICTURES = 40


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StemCache]:
    with closing(StemCache(tmp_path_factory.mktemp("stem"), toy_student())) as cache:
        for k, (pixels, _) in enumerate(blurred_windows(PICTURES, side=48)):
            cache.add(str(k), pixels)
        yield cache


@pytest.fixture
def student() -> Student:
    """One whose scores and spreads differ from picture to picture."""
    student = toy_student()
    torch.manual_seed(1)
    torch.nn.init.normal_(student.heads.spreader.weight, std=0.05)
    return student


def rated(cache: StemCache, mos: npt.NDArray[np.floating]) -> Rated:
    """The pictures in turn, with these ratings."""
    count = len(mos)
    ones = np.ones(count, np.float32)
    return Rated(
        views=[[cache[str(k % PICTURES)]] for k in range(count)],
        mos=mos.astype(np.float32),
        variance=0 * ones,
        weight=ones,
        severities=np.full((count, 4), np.nan, np.float32),
        group=np.zeros(count, np.int64),
        scale=np.zeros(count, np.int64),
    )


def test_logit_undoes_the_scale() -> None:
    z = torch.linspace(-6, 6, 101, dtype=torch.float64)
    assert logit(on_scale(z)).tolist() == pytest.approx(z.tolist(), abs=1e-9)
    assert torch.isfinite(logit(torch.tensor([1.0, 5.0]))).all()


def test_gain_offset_and_widening_are_those_that_scipy_finds(
    cache: StemCache, student: Student
) -> None:
    before, spread = predict(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    z = scipy.special.logit((before.astype(float) - 1) / 4)
    rng = np.random.default_rng(0)
    mos = 1 + 4 * scipy.special.expit(1.7 * z - 0.4) + rng.normal(0, 0.15, PICTURES)

    def mapped(affine: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        curve: npt.NDArray[np.float64] = 1 + 4 * scipy.special.expit(affine[0] * z + affine[1])
        return curve

    best = scipy.optimize.minimize(lambda p: np.mean((mapped(p) - mos) ** 2), (1, 0)).x
    calibrate(student, cache, rated(cache, mos))
    after, wide = predict(student, cache, rated(cache, mos))
    assert after == pytest.approx(mapped(best), abs=2e-3)
    factor = math.sqrt(np.mean(((mapped(best) - mos) / spread) ** 2))
    assert wide == pytest.approx(np.clip(factor * spread, *SPREAD_RANGE), rel=5e-3)


def test_nine_in_ten_ratings_lie_in_the_interval_of_ninety_percent(
    cache: StemCache, student: Student
) -> None:
    """Ratings are scores plus Gaussian errors of half the stated spread, drawn afresh after
    calibration; the share of 400 has a deviation of 0.015, and the factor is estimated too."""
    truth, stated = predict(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    rng = np.random.default_rng(0)

    def simulated(count: int) -> npt.NDArray[np.float64]:
        which = np.arange(count) % PICTURES
        drawn: npt.NDArray[np.float64] = rng.normal(truth[which], stated[which] / 2)
        return drawn

    calibrate(student, cache, rated(cache, simulated(200)))
    scores, spread = predict(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    errors = np.abs(simulated(400) - np.tile(scores, 10))
    inside = errors <= scipy.stats.norm.ppf(0.95) * np.tile(spread, 10)
    assert inside.mean() == pytest.approx(0.9, abs=0.06)


@pytest.mark.parametrize(("error", "factor"), [(0.5, 1.0), (1.5, 1.5)])
def test_errors_on_pictures_that_were_trained_on_do_not_narrow_the_spread(
    cache: StemCache, student: Student, error: float, factor: float
) -> None:
    """Errors in turn to either side, so that gain and offset stay about as they are."""
    scores, spread = predict(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    turns = np.where(np.arange(2 * PICTURES) < PICTURES, error, -error)
    seen = rated(cache, np.tile(scores, 2) + turns * np.tile(spread, 2))
    calibrate(student, cache, seen, unseen=False)
    _, after = predict(student, cache, seen)
    expected = np.clip(factor * spread, *SPREAD_RANGE)
    assert after[:PICTURES] == pytest.approx(expected, rel=0.02)


def test_ratings_that_contradict_the_order_do_not_turn_it(
    cache: StemCache, student: Student
) -> None:
    before, _ = predict(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    calibrate(student, cache, rated(cache, 6 - before))
    after, _ = predict(student, cache, rated(cache, 6 - before))
    assert scipy.stats.spearmanr(before, after).statistic == pytest.approx(1)


def test_the_scores_that_are_measured_are_those_that_the_student_gives(
    cache: StemCache, student: Student
) -> None:
    """Not the centres of its beliefs: near the ends of the scale they differ."""
    scores = score_all(student, cache, rated(cache, np.full(PICTURES, 3.0)))
    pixels = [pixels for pixels, _ in blurred_windows(PICTURES, side=48)]
    with torch.inference_mode():
        whole = student(torch.from_numpy(np.stack(pixels))).score.numpy()
    assert scores == pytest.approx(whole, abs=0.01)

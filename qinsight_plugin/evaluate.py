"""How well scores agree with human ratings: correlations and errors, with intervals.

SRCC, PLCC and KRCC say whether scores order and space pictures as people do; RMSE and bias, whether
the numbers themselves are right. A pooled figure flatters a scorer that merely tells subsets of
different mean quality apart: report `agreement_by_group` beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, LabelsError, ScoreRangeError

Vector: TypeAlias = npt.NDArray[np.float64]

NORMAL_90 = 1.6448536269514722
"""Standard deviations either side of the mean that hold 90 % of a normal distribution."""

LEAST = 3  # two points always agree perfectly, one way or the other


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure measured on a sample of pictures, with its bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far scores agree with ratings.

    Attributes:
        n: number of pictures.
        srcc: Spearman's rank correlation, ties by average rank.
        plcc: Pearson's correlation of scores and ratings as they are, without a fit.
        krcc: Kendall's tau-b.
        rmse: root mean squared difference of scores and ratings as they are.
        bias: mean of score minus rating; positive where scores flatter.
        plcc_logistic: PLCC after VQEG's 4-parameter logistic has been fitted to map scores to
            ratings; None where that fit does not converge, or has no more pictures than
            parameters. The fit may fall as well as rise: read the direction from `srcc`.
        confidence: the share of the bootstrap distribution that every interval spans.
    """

    n: int
    srcc: Estimate
    plcc: Estimate
    krcc: Estimate
    rmse: Estimate
    bias: float
    plcc_logistic: float | None
    confidence: float


@dataclass(frozen=True, slots=True)
class GroupedAgreement:
    """The agreement over all pictures, and within each group."""

    pooled: Agreement
    groups: Mapping[str, Agreement]


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """What people said of the pictures that were scored from `low` up to `high`.

    Attributes:
        n: number of pictures.
        score, mos: means over them; equal where the scale means what it says.
    """

    low: float
    high: float
    n: int
    score: float
    mos: float


@dataclass(frozen=True, slots=True)
class Foresight:
    """How well stated uncertainties foretell errors.

    Attributes:
        n: number of pictures.
        srcc: rank correlation of the uncertainty with the absolute error; 0 where it tells nothing.
        coverage: share of ratings inside the central 90 % of the normal distribution that score
            and uncertainty state; 0.9 where it means what it says.
    """

    n: int
    srcc: Estimate
    coverage: Estimate


def evaluate(
    scores: npt.ArrayLike,
    mos: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Agreement:
    """Measure how far scores agree with ratings of the same pictures.

    The correlations of a constant scorer are 0, not NaN: it orders nothing. A NaN would vanish
    from averages and pass or fail comparisons at random, and a collapsed model is just what must
    not go unseen.

    Intervals are those of the percentile bootstrap (Efron 1979): whole pictures are drawn with
    replacement. They say how figures would vary with other pictures of the same kind, not how the
    scorer would do on pictures of another kind.

    Args:
        scores: [n], finite.
        mos: [n] ratings, finite, on the scale of the scores; n >= 3, not all equal.
        resamples: how many samples are drawn.
        seed: makes the draw repeatable.
        confidence: between 0 and 1.

    Raises:
        LabelsError: fewer than 3 ratings, or constant or non-finite ones.
        ScoreRangeError: a score is not finite.
        ConfigError: scores and ratings do not pair up, or a setting is out of range.
        MissingExtraError: scipy is not installed.
    """
    x, y = paired(scores, mos)
    if resamples < 1:
        raise ConfigError(f"resamples {resamples}: too few to make an interval: use 1000")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence}: not between 0 and 1: use 0.95, say")
    stats = _scipy("scipy.stats")
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, x.size, x.size) for _ in range(resamples))
    drawn = np.array([_figures(x[draw], y[draw], stats) for draw in draws])
    tail = (1 - confidence) / 2
    lows, highs = np.quantile(drawn, (tail, 1 - tail), axis=0)
    figures = zip(_figures(x, y, stats), lows, highs, strict=True)
    srcc, plcc, krcc, rmse = (Estimate(value, float(lo), float(hi)) for value, lo, hi in figures)
    return Agreement(
        n=x.size,
        srcc=srcc,
        plcc=plcc,
        krcc=krcc,
        rmse=rmse,
        bias=float(np.mean(x - y)),
        plcc_logistic=_plcc_logistic(x, y),
        confidence=confidence,
    )


def agreement_by_group(
    scores: npt.ArrayLike,
    mos: npt.ArrayLike,
    groups: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> GroupedAgreement:
    """Measure the agreement over all pictures and within each group; see `evaluate`.

    Args:
        groups: [n], the name of each picture's group.

    Raises:
        LabelsError: also where a single group has too few ratings, or constant ones.
    """
    x, y = paired(scores, mos)
    members = group_members(groups, x.size)
    settings: dict[str, Any] = {"resamples": resamples, "seed": seed, "confidence": confidence}
    pooled = evaluate(x, y, **settings)
    within = {}
    for name, rows in members.items():
        try:
            within[name] = evaluate(x[rows], y[rows], **settings)
        except LabelsError as error:
            raise LabelsError(
                f"group {name}: {error}; or leave the group out, or merge it with another"
            ) from error
    return GroupedAgreement(pooled, within)


def foresight(
    scores: npt.ArrayLike,
    uncertainties: npt.ArrayLike,
    mos: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Foresight:
    """Measure stated standard deviations against the errors, with 95 % bootstrap intervals.

    Args:
        uncertainties: [n], standard deviations, finite and not negative.

    Raises:
        LabelsError, ScoreRangeError, ConfigError: as for `evaluate`; an uncertainty is no such
            number.
        MissingExtraError: scipy is not installed.
    """
    x, y = paired(scores, mos)
    spread = np.asarray(uncertainties, dtype=np.float64)
    if spread.shape != x.shape or not (np.isfinite(spread) & (spread >= 0)).all():
        raise ConfigError("uncertainties: give a finite number from 0 up for each score")
    error = np.abs(x - y)
    covered = error <= spread * NORMAL_90
    rng = np.random.default_rng(seed)
    draws = rng.integers(x.size, size=(resamples, x.size))
    correlations = [rank_correlation(spread[draw], error[draw]) for draw in draws]

    def estimate(value: float, sample: npt.ArrayLike) -> Estimate:
        low, high = np.quantile(np.asarray(sample), [0.025, 0.975])
        return Estimate(value, float(low), float(high))

    return Foresight(
        x.size,
        estimate(rank_correlation(spread, error), correlations),
        estimate(float(covered.mean()), covered[draws].mean(1)),
    )


def calibration(
    scores: npt.ArrayLike, mos: npt.ArrayLike, width: float = 0.5
) -> tuple[CalibrationBin, ...]:
    """Mean rating by score, in bins that start at multiples of `width`; empty ones left out.

    Raises:
        LabelsError, ScoreRangeError, ConfigError: as for `evaluate`.
    """
    x, y = paired(scores, mos)
    index = np.floor(x / width).astype(int)
    return tuple(
        CalibrationBin(
            low=float(k * width),
            high=float((k + 1) * width),
            n=int((index == k).sum()),
            score=float(x[index == k].mean()),
            mos=float(y[index == k].mean()),
        )
        for k in np.unique(index)
    )


def paired(scores: npt.ArrayLike, mos: npt.ArrayLike) -> tuple[Vector, Vector]:
    try:
        x, y = np.asarray(scores, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"scores and ratings: not all numbers ({error})") from error
    if x.ndim != 1 or x.shape != y.shape:
        raise ConfigError(
            f"scores {list(x.shape)} and ratings {list(y.shape)} do not pair up: "
            "give one of each a picture"
        )
    if not np.isfinite(x).all():
        raise ScoreRangeError(
            f"score {np.flatnonzero(~np.isfinite(x))[0]} of {x.size} is not finite: "
            "leave out pictures that could not be scored"
        )
    if not np.isfinite(y).all():
        raise LabelsError(
            f"rating {np.flatnonzero(~np.isfinite(y))[0]} of {y.size} is not finite: correct it"
        )
    if y.size < LEAST:
        raise LabelsError(f"{y.size} ratings are too few to agree with: rate at least {LEAST}")
    if np.ptp(y) == 0:
        raise LabelsError(
            f"all {y.size} ratings are {y[0]:g}, so there is no order to agree with: "
            "rate better and worse pictures"
        )
    return x, y


def rank_correlation(x: Vector, y: Vector) -> float:
    """SRCC of [n] scores and [n] ratings; 0 where either is constant."""
    stats = _scipy("scipy.stats")
    return _pearson(stats.rankdata(x), stats.rankdata(y))


def linear_correlation(x: Vector, y: Vector) -> float:
    """PLCC of [n] scores and [n] ratings as they are; 0 where either is constant."""
    return _pearson(x, y)


def _scipy(module: str) -> ModuleType:
    return require(module, package="scipy", extra="eval", purpose="measuring agreement")


def group_members(groups: Sequence[str], n: int) -> dict[str, npt.NDArray[np.intp]]:
    """Group -> indices of its pictures, in order of the names."""
    if len(groups) != n:
        raise ConfigError(f"{len(groups)} groups for {n} scores: name one for each")
    names = np.array(list(groups))
    return {str(name): np.flatnonzero(names == name) for name in sorted(set(groups))}


def _figures(x: Vector, y: Vector, stats: ModuleType) -> tuple[float, float, float, float]:
    """SRCC, PLCC, KRCC and RMSE. A sample in which either side is constant orders nothing: 0."""
    srcc = _pearson(stats.rankdata(x), stats.rankdata(y))
    krcc = float(stats.kendalltau(x, y, method="asymptotic").statistic)  # the quick p-value
    rmse = math.sqrt(np.mean((x - y) ** 2))
    return srcc, _pearson(x, y), 0.0 if math.isnan(krcc) else krcc, rmse


def _pearson(x: Vector, y: Vector) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x, y = _centred(x), _centred(y)
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1, 1))


def _centred(x: Vector) -> Vector:
    """Mean 0, largest magnitude 1: the squares of very small numbers would underflow."""
    centred: Vector = x - x.mean()
    centred /= np.abs(centred).max()
    return centred


def _plcc_logistic(x: Vector, y: Vector) -> float | None:
    """PLCC after the logistic fit of VQEG's FR-TV tests, from its starting point."""
    if np.ptp(x) == 0:
        return 0.0
    if x.size <= 4:
        return None
    optimize, special = _scipy("scipy.optimize"), _scipy("scipy.special")
    z = _centred(x)
    z = z / z.std()

    def mapped(parameters: Vector) -> Vector:
        top, bottom, middle, width = parameters
        curve: Vector = bottom + (top - bottom) * special.expit((z - middle) / abs(width))
        return curve

    # curve_fit without its covariance, which warns where a parameter is free. Where scores are
    # nearly linear in MOS the ends drift far out, which takes thousands of evaluations.
    fit = optimize.least_squares(
        lambda parameters: mapped(parameters) - y,
        (y.max(), y.min(), 0.0, 1.0),
        method="lm",
        max_nfev=10_000,
    )
    return _pearson(mapped(fit.x), y) if fit.success else None

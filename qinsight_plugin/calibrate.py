"""Thresholds that fit a site, from pictures that it accepted and rejected.

What is fitted here is where a gate cuts. The scale of the scores is left as it is: making that mean
what people say is what `qinsight fit` does, from ratings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, LabelsError
from qinsight_plugin.evaluate import Estimate

Vector: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]

LEAST = 20
"""Pictures of each kind."""

FOLDS = 10


@dataclass(frozen=True, slots=True)
class Aims:
    """What a threshold is to achieve.

    Attributes:
        wrong_rejection_cost, wrong_acceptance_cost: of one picture, in any unit.
        rejected_share: the part of a site's traffic that ought to be rejected; None: as in the
            examples.
        most_wrong_rejections: the share that may be rejected of the pictures that ought to be
            accepted; 1 for no bound.
        confidence: with which that bound holds, and each interval.
    """

    wrong_rejection_cost: float = 1.0
    wrong_acceptance_cost: float = 1.0
    rejected_share: float | None = None
    most_wrong_rejections: float = 0.05
    confidence: float = 0.95


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The receiver operating characteristic of "rejected below the threshold".

    Attributes:
        thresholds: float64 [T], rising, from one that rejects nothing to one that rejects all.
        wrong_rejections: float64 [T], the share of the accepted pictures that score below each.
        wrong_acceptances: float64 [T], the share of the rejected ones that do not.
    """

    thresholds: Vector
    wrong_rejections: Vector
    wrong_acceptances: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A threshold, and what to expect of it.

    Attributes:
        min_score: the threshold.
        accepted, rejected: numbers of pictures.
        auc: the probability that an accepted picture scores above a rejected one, ties half.
        wrong_rejections, wrong_acceptances: the rates to expect on other pictures like these:
            each tenth of the pictures is judged by a threshold that the other nine gave.
        bound: the largest threshold that keeps the bound on wrong rejections.
        curve: over these pictures.
        aims: what was aimed at.
        warnings: what is doubtful about it.
    """

    min_score: float
    accepted: int
    rejected: int
    auc: Estimate
    wrong_rejections: Estimate
    wrong_acceptances: Estimate
    bound: float
    curve: Curve
    aims: Aims
    warnings: tuple[str, ...]


def calibrate(
    accepted: npt.ArrayLike, rejected: npt.ArrayLike, aims: Aims | None = None, *, seed: int = 0
) -> Calibration:
    """The threshold of least expected cost among those that keep the bound on wrong rejections.

    The bound is a tolerance limit (Wilks, Annals of Mathematical Statistics 12, 1941). Of n
    accepted pictures k may score below the threshold, k the largest number for which
    P(Beta(k + 1, n - k) > most) <= 1 - confidence. k follows from n alone, so the bound holds for
    the share of all such pictures, whatever their distribution, although the threshold is chosen
    on the same ones; to cut lower only rejects fewer. It presumes that the examples are a random
    sample.

    Args:
        accepted, rejected: [N], [M] scores; larger is better.

    Raises:
        ConfigError: the aims are impossible.
        LabelsError: fewer than 20 pictures of a kind, or too few for the bound; or a score is not
            finite.
        MissingExtraError: scipy is not installed.
    """
    good, bad = _scores("accepted", accepted), _scores("rejected", rejected)
    aims = check_aims(aims or Aims())
    if aims.rejected_share is None:
        aims = dataclasses.replace(aims, rejected_share=bad.size / (good.size + bad.size))
    curve = roc(good, bad)
    allowed = allowed_below(good.size, aims)
    cut = _choose(curve, good.size, allowed, aims)
    wrong_rejections = wrong_acceptances = 0
    for out, bad_out in zip(_folds(good.size, seed), _folds(bad.size, seed), strict=True):
        kept = good[~out]
        fewer = max(0, _most_below(kept.size, aims))
        inner = _choose(roc(kept, bad[~bad_out]), kept.size, fewer, aims)
        wrong_rejections += int((good[out] < inner).sum())
        wrong_acceptances += int((bad[bad_out] >= inner).sum())
    auc = area(good, bad, aims.confidence)
    return Calibration(
        min_score=_rounded(cut, np.concatenate([good, bad])),
        accepted=good.size,
        rejected=bad.size,
        auc=auc,
        wrong_rejections=proportion(wrong_rejections, good.size, aims.confidence),
        wrong_acceptances=proportion(wrong_acceptances, bad.size, aims.confidence),
        bound=_largest(curve, good.size, allowed),
        curve=curve,
        aims=aims,
        warnings=tuple(_warnings(curve, cut, good.size, allowed, auc, aims)),
    )


def check_aims(aims: Aims) -> Aims:
    """Return the aims, provided that they are possible.

    Raises:
        ConfigError: a cost is negative, or a share is not one.
    """
    costs = aims.wrong_rejection_cost, aims.wrong_acceptance_cost
    if not all(0 < cost < math.inf for cost in costs):
        raise ConfigError(f"costs {costs[0]:g} and {costs[1]:g}: each must be greater than 0")
    if aims.rejected_share is not None and not 0 < aims.rejected_share < 1:
        raise ConfigError(f"rejected share {aims.rejected_share:g} is not between 0 and 1")
    if not 0 < aims.most_wrong_rejections <= 1:
        raise ConfigError(
            f"at most {aims.most_wrong_rejections:g} wrong rejections: not a share from 0 to 1"
        )
    if not 0.5 <= aims.confidence < 1:
        raise ConfigError(f"confidence {aims.confidence:g} is not from 0.5 to 1")
    return aims


def roc(good: Vector, bad: Vector) -> Curve:
    """The curve of all thresholds that differ in effect, midway between neighbouring scores."""
    scores = np.unique(np.concatenate([good, bad]))
    between = (scores[:-1] + scores[1:]) / 2
    # Halving the sum of neighbouring floats may give the lower one, which would not be rejected.
    between = np.where(between > scores[:-1], between, scores[1:])
    thresholds = np.concatenate([scores[:1], between, [np.nextafter(scores[-1], np.inf)]])
    return Curve(
        thresholds,
        np.searchsorted(np.sort(good), thresholds) / good.size,
        1 - np.searchsorted(np.sort(bad), thresholds) / bad.size,
    )


def allowed_below(n: int, aims: Aims) -> int:
    """How many of n accepted pictures may score below a threshold that keeps the bound.

    Raises:
        LabelsError: not even none may.
    """
    most = _most_below(n, aims)
    if most < 0:
        needed = math.ceil(math.log(1 - aims.confidence) / math.log1p(-aims.most_wrong_rejections))
        raise LabelsError(
            f"examples: {n} accepted pictures cannot show that at most "
            f"{aims.most_wrong_rejections:.2%} of such are rejected, {needed} can: add some, or "
            "allow more by --max-wrong-rejections"
        )
    return most


def _most_below(n: int, aims: Aims) -> int:
    """The same, or -1."""
    if aims.most_wrong_rejections == 1:
        return n
    below = np.arange(n)
    exceeds = _scipy("scipy.stats").beta.sf(aims.most_wrong_rejections, below + 1, n - below)
    return int((exceeds <= 1 - aims.confidence).sum()) - 1


def _choose(curve: Curve, n: int, allowed: int, aims: Aims) -> float:
    """The cheapest threshold of those that keep the bound, the lowest among equals."""
    cost = np.where(_kept(curve, n, allowed), costs(curve, aims), np.inf)
    return float(curve.thresholds[np.argmin(cost)])


def costs(curve: Curve, aims: Aims) -> Vector:
    """Expected cost of a picture at each threshold, in the unit of the aims' costs."""
    share = 0.5 if aims.rejected_share is None else aims.rejected_share
    found: Vector = (
        aims.wrong_rejection_cost * (1 - share) * curve.wrong_rejections
        + aims.wrong_acceptance_cost * share * curve.wrong_acceptances
    )
    return found


def _kept(curve: Curve, n: int, allowed: int) -> Mask:
    kept: Mask = np.rint(curve.wrong_rejections * n) <= allowed
    return kept


def _largest(curve: Curve, n: int, allowed: int) -> float:
    return float(curve.thresholds[_kept(curve, n, allowed)][-1])


def _rounded(cut: float, scores: Vector) -> float:
    """The threshold with as few decimals, from two up, as reject the same pictures."""
    rejected = (scores < cut).sum()
    short = (round(cut, decimals) for decimals in range(2, 16))
    return next((r for r in short if (scores < r).sum() == rejected), cut)


def _folds(n: int, seed: int) -> Iterator[Mask]:
    """Masks of tenths, in random order."""
    order = np.random.default_rng(seed).permutation(n)
    for fold in range(FOLDS):
        mask = np.zeros(n, bool)
        mask[order[fold::FOLDS]] = True
        yield mask


def area(good: Vector, bad: Vector, confidence: float) -> Estimate:
    """Area under the curve, its interval by DeLong, DeLong and Clarke-Pearson (Biometrics 44,
    1988)."""
    below = np.searchsorted(np.sort(bad), good), np.searchsorted(np.sort(bad), good, "right")
    above = np.searchsorted(np.sort(good), bad), np.searchsorted(np.sort(good), bad, "right")
    of_good = (below[0] + below[1]) / 2 / bad.size
    of_bad = 1 - (above[0] + above[1]) / 2 / good.size
    value = float(of_good.mean())
    error = math.sqrt(of_good.var(ddof=1) / good.size + of_bad.var(ddof=1) / bad.size)
    reach = error * float(_scipy("scipy.stats").norm.isf((1 - confidence) / 2))
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach))


def proportion(count: int, n: int, confidence: float) -> Estimate:
    """A share and its interval, by Clopper and Pearson (Biometrika 26, 1934)."""
    interval = _scipy("scipy.stats").binomtest(count, n).proportion_ci(confidence, "exact")
    return Estimate(count / n, float(interval.low), float(interval.high))


def _warnings(
    curve: Curve, cut: float, n: int, allowed: int, auc: Estimate, aims: Aims
) -> Iterator[str]:
    if auc.low <= 0.5:
        yield f"the scores hardly tell the two kinds apart: AUC {auc}"
    if cut == curve.thresholds[0]:
        yield "it rejects nothing: every threshold that rejects any picture costs more"
    if cut == curve.thresholds[-1]:
        yield "it rejects everything: every threshold that accepts any picture costs more"
    free = _choose(curve, n, n, aims)
    if free > cut and allowed < n:
        yield (
            f"the bound on wrong rejections decides: without it, {free:.2f} would cost less in "
            "these pictures"
        )


def _scores(kind: str, values: npt.ArrayLike) -> Vector:
    scores = np.asarray(values, np.float64).ravel()
    if scores.size < LEAST:
        raise LabelsError(
            f"examples: {scores.size} {kind} pictures have a score, {LEAST} are the least: add some"
        )
    if not np.isfinite(scores).all():
        raise LabelsError(f"examples: a score of the {kind} pictures is not finite")
    return scores


def _scipy(module: str) -> ModuleType:
    return require(module, package="scipy", extra="eval", purpose="calibrating a gate")

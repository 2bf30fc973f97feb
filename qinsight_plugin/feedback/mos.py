"""Ratings by several people -> one MOS a picture, with what each person's ratings are like.

`p910` is the model of ITU-T P.910, annex E (Li et al., "A simple model for subject behavior in
subjective experiments", 2020), which has a bias and an inconsistency for each person; see
`alternating_projection`. The others are sureal's: `p910-ml`, the same by maximum likelihood;
`p913`, which removes bias and rejects; `bt500`, which rejects (ITU-R BT.500); `mean`.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import LabelsError
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.tables import first_few

Vector: TypeAlias = npt.NDArray[np.float64]
Model: TypeAlias = Literal["p910", "p910-ml", "p913", "bt500", "mean"]

_CLASSES = {
    "p910-ml": "SubjectMLEModelProjectionSolver2",
    "p913": "BiasremvSubjrejMosModel",
    "bt500": "SubjrejMosModel",
    "mean": "MosModel",
}
LEAST_RATERS = 3
LEAST_RATINGS = 5
"""Of a person, on pictures that others rated too: of fewer, an inconsistency cannot be told."""

_ROUNDS, _CLOSE = 1000, 1e-9

STEP = 1 / math.sqrt(12)
"""Standard deviation of rounding to whole levels: nobody's ratings are more exact than that."""


@dataclass(frozen=True, slots=True)
class Opinions:
    """Ratings as a table.

    Attributes:
        pictures, raters: names of rows and columns.
        ratings: [pictures, raters, repetitions], NaN where there is none.
    """

    pictures: tuple[str, ...]
    raters: tuple[str, ...]
    ratings: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Mos:
    """Scaled ratings, on 1 to 5.

    Attributes:
        value: [pictures]
        error: [pictures]: standard error of `value`.
        spread: [pictures]: standard deviation of the opinions; NaN where there is but one.
        count: [pictures]: ratings.
        bias: rater -> by how much they rate higher than others; empty for models without.
        inconsistency: rater -> standard deviation about that, in MOS; likewise.
        rejected: raters whom the model left out: of `bt500` and `p913` only.
    """

    pictures: tuple[str, ...]
    value: Vector
    error: Vector
    spread: Vector
    count: npt.NDArray[np.int64]
    bias: Mapping[str, float]
    inconsistency: Mapping[str, float]
    rejected: tuple[str, ...] = ()


def tabulate(judgements: Sequence[Judgement]) -> Opinions:
    """The ratings among judgements, golden ones left out."""
    rated = [one for one in judgements if one.kind == "rating" and one.role != "golden"]
    cells: dict[tuple[str, str], list[float]] = {}
    for one in sorted(rated, key=lambda one: one.order):
        cells.setdefault((one.pictures[0], one.rater), []).append(float(one.value))
    pictures = tuple(sorted({path for path, _ in cells}))
    raters = tuple(sorted({rater for _, rater in cells}))
    depth = max((len(own) for own in cells.values()), default=1)
    ratings = np.full((len(pictures), len(raters), depth), np.nan)
    row = {path: k for k, path in enumerate(pictures)}
    column = {rater: k for k, rater in enumerate(raters)}
    for (path, rater), own in cells.items():
        ratings[row[path], column[rater], : len(own)] = own
    return Opinions(pictures, raters, ratings)


def suited_model(opinions: Opinions) -> Model:
    """`p910` where it can be had: three people or more of five shared ratings or more."""
    enough = len(opinions.raters) >= LEAST_RATERS and not too_few(opinions)
    return "p910" if enough else "mean"


def too_few(opinions: Opinions) -> list[str]:
    """Raters with too few ratings of pictures that others rated too."""
    given = ~np.isnan(opinions.ratings).all(2)
    shared = given & (given.sum(1, keepdims=True) > 1)
    return [
        name
        for name, count in zip(opinions.raters, shared.sum(0), strict=True)
        if count < LEAST_RATINGS
    ]


def scale(opinions: Opinions, model: Model) -> Mos:
    """MOS by one of the models.

    Raises:
        LabelsError: there are too few ratings for it.
        MissingExtraError: sureal is not installed.
    """
    if not opinions.pictures:
        raise LabelsError("ratings: there are none to scale")
    if model != "mean":
        _check_enough(opinions, model)
    result = alternating_projection(opinions) if model == "p910" else run_model(opinions, model)
    if model == "p910-ml" and (names := infallible(opinions, result)):
        raise LabelsError(
            f"ratings: the model p910-ml takes {first_few(names)} for infallible, as it may with "
            "few people: take --model p910"
        )
    value = np.asarray(result["quality_scores"], np.float64)
    if lost := [path for path, own in zip(opinions.pictures, value, strict=True) if np.isnan(own)]:
        raise LabelsError(
            f"ratings: the model {model} leaves none of {first_few(lost)}: take --model mean"
        )
    # sureal's own are less what it rejects and, by p913, less biases: its means are of those.
    kept = result.get("raw_scores", opinions.ratings)
    flat = np.asarray(kept, np.float64).reshape(len(opinions.pictures), -1)
    count = (~np.isnan(flat)).sum(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of one rating: there is no deviation
        spread = np.nanstd(flat, 1, ddof=1)
    bias = dict(zip(opinions.raters, map(float, result.get("observer_bias", ())), strict=False))
    consistency = map(float, result.get("observer_inconsistency", ()))
    inconsistency = dict(zip(opinions.raters, consistency, strict=False))
    flags = result.get("observer_rejected", ())
    rejected = tuple(name for name, out in zip(opinions.raters, flags, strict=False) if out)
    return Mos(
        opinions.pictures,
        value,
        _errors(opinions, inconsistency, spread, count),
        spread,
        count,
        bias,
        inconsistency,
        rejected,
    )


def alternating_projection(opinions: Opinions) -> Mapping[str, Any]:
    """P.910's model, solved as its annex does, by MOS, biases and inconsistencies in turn, with two
    differences: an inconsistency is divided by the degrees of freedom that MOS leaves it, and it is
    never below rounding's.

    Without them the likelihood has no upper bound: where one person's inconsistency goes to 0, MOS
    becomes what that person said. Of crowds of five honest people every second one ended there, and
    its MOS was worse than the mean. With many ratings both solutions are the same.
    """
    given = ~np.isnan(opinions.ratings)
    ratings = np.where(given, opinions.ratings, 0)
    count, total = given.sum(2), ratings.sum(2)
    bias, inconsistency = np.zeros(count.shape[1]), np.ones(count.shape[1])
    for _ in range(_ROUNDS):
        each = 1 / inconsistency**2  # the weight of one rating
        weight = (count * each).sum(1)
        value = ((total - count * bias) * each).sum(1) / weight
        bias = (total - count * value[:, None]).sum(0) / count.sum(0)
        bias -= bias.mean()
        rest = np.where(given, ratings - value[:, None, None] - bias[None, :, None], 0)
        freedom = (count * (1 - each / weight[:, None])).sum(0) - 1
        found = np.maximum(np.sqrt((rest**2).sum((0, 2)) / np.maximum(freedom, 1)), STEP)
        change, inconsistency = np.abs(found - inconsistency).max(), found
        if change < _CLOSE:
            break
    return {
        "quality_scores": value,
        "observer_bias": bias,
        "observer_inconsistency": inconsistency,
    }


def infallible(opinions: Opinions, result: Mapping[str, Any]) -> list[str]:
    """Whom a result of `p910-ml` takes to rate more exactly than whole levels allow."""
    inconsistency = result["observer_inconsistency"]
    return [n for n, own in zip(opinions.raters, inconsistency, strict=True) if own < STEP]


def run_model(opinions: Opinions, model: Model) -> Mapping[str, Any]:
    """sureal's own result; what it writes on standard output is swallowed."""
    models = require(
        "sureal.subjective_model", package="sureal", extra="label", purpose="scaling ratings"
    )
    readers = require(
        "sureal.dataset_reader", package="sureal", extra="label", purpose="scaling ratings"
    )
    videos = [
        {"content_id": 0, "asset_id": k, "path": path, "os": opinions.ratings[k].tolist()}
        for k, path in enumerate(opinions.pictures)
    ]
    dataset = SimpleNamespace(
        dataset_name="", ref_videos=[{"content_id": 0, "path": ""}], dis_videos=videos
    )
    run = getattr(models, _CLASSES[model])(readers.RawDatasetReader(dataset)).run_modeling
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # Means of nothing, kurtoses of the same: sureal means the NaN that comes of them.
        warnings.simplefilter("ignore", RuntimeWarning)
        result: Mapping[str, Any] = run()
    return result


def _errors(
    opinions: Opinions,
    inconsistency: Mapping[str, float],
    spread: Vector,
    count: npt.NDArray[np.int64],
) -> Vector:
    """Standard errors: from each rater's inconsistency where the model has one, else from the
    spread; of one opinion alone, from the mean spread of others, or a level."""
    if inconsistency:
        own = np.array([max(inconsistency[name], STEP) for name in opinions.raters])
        weight = (~np.isnan(opinions.ratings)).sum(2) / own**2
        error: Vector = 1 / np.sqrt(weight.sum(1))
        return error
    usual = float(np.nanmean(spread)) if np.isfinite(spread).any() else 1.0
    deviation = np.maximum(np.where(np.isfinite(spread), spread, usual), STEP)
    plain: Vector = deviation / np.sqrt(count)
    return plain


def _check_enough(opinions: Opinions, model: Model) -> None:
    if len(opinions.raters) < LEAST_RATERS:
        raise LabelsError(
            f"ratings by {len(opinions.raters)} people: the model {model} needs {LEAST_RATERS}: "
            "take --model mean"
        )
    few = too_few(opinions)
    if few and model == "p910":
        raise LabelsError(
            f"ratings: {', '.join(few[:3])} rated under {LEAST_RATINGS} pictures that others rated "
            "too, and would be taken for infallible: --leave-out them, or take --model mean"
        )

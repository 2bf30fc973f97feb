"""Ratings and comparisons on one scale: MOS, 1 to 5, with a standard error for each picture.

Comparisons have a scale of their own. Pictures that were both rated and compared tell how its units
and its zero translate to MOS (by maximum likelihood); then the two are combined as what they are,
two measurements with errors: each rating tells something of every picture that is connected to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.feedback.comparisons import Comparison, Latent, latent_scale
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.mos import STEP, Mos

Vector: TypeAlias = npt.NDArray[np.float64]

LEAST_SHARED = 5
"""Pictures both rated and compared, from which the translation is told."""

_UNKNOWN_ZERO = 16.0
"""Prior variance of the zero, in MOS: it is as good as unknown."""

_BETTER = {"left": 1.0, "right": 0.0, "same": 0.5}


@dataclass(frozen=True, slots=True)
class Joined:
    """Every picture that has a place on the scale.

    Attributes:
        pictures: their paths.
        value: [n]: MOS; may lie a little outside 1 to 5.
        error: [n]: its standard error.
        spread: [n]: standard deviation of the opinions behind it.
        ratings, comparisons: [n]: how many there were.
        unit: MOS to a unit of the comparisons' scale; None where nothing was joined.
        unplaced: pictures that were compared only, and could not be joined.
    """

    pictures: tuple[str, ...]
    value: Vector
    error: Vector
    spread: Vector
    ratings: npt.NDArray[np.int64]
    comparisons: npt.NDArray[np.int64]
    unit: float | None
    unplaced: tuple[str, ...] = ()


def compared(judgements: Sequence[Judgement]) -> tuple[tuple[str, ...], list[Comparison]]:
    """Pictures, and comparisons of them by index. The best of a set was better than each other one
    of it, as in Luce's model."""
    named: list[tuple[str, str, float]] = []
    for one in judgements:
        if one.role == "golden":
            continue
        if one.kind == "pair":
            left, right = one.pictures
            named.append((left, right, _BETTER[one.value]))
        elif one.kind == "best":
            best = one.pictures[one.value]
            named += [(best, other, 1.0) for other in one.pictures if other != best]
    pictures = tuple(sorted({path for first, second, _ in named for path in (first, second)}))
    place = {path: k for k, path in enumerate(pictures)}
    return pictures, [(place[a], place[b], better) for a, b, better in named]


def join(mos: Mos, judgements: Sequence[Judgement]) -> Joined:
    """Bring comparisons to the scale of the ratings.

    Raises:
        LabelsError: the comparisons have no scale.
        MissingExtraError: choix is not installed.
    """
    names, given = compared(judgements)
    rated = {path: k for k, path in enumerate(mos.pictures)}
    shared = [k for k, name in enumerate(names) if name in rated]
    counts = np.bincount([k for a, b, _ in given for k in (a, b)], minlength=len(names))
    if len(shared) < LEAST_SHARED:
        tally = dict(zip(names, counts, strict=True))
        own = np.array([tally.get(path, 0) for path in mos.pictures], np.int64)
        unplaced = tuple(name for name in names if name not in rated)
        return Joined(
            mos.pictures,
            mos.value,
            mos.error,
            _filled(mos.spread, None),
            mos.count,
            own,
            None,
            unplaced,
        )
    latent = latent_scale(len(names), given)
    rows = [rated[names[k]] for k in shared]
    value, error = mos.value[rows], mos.error[rows]
    unit, zero = _translation(latent, shared, value, error)
    mean, covariance = _combined(latent, shared, value, error, unit, zero)
    alone = [path for path in mos.pictures if path not in set(names)]
    alone_rows = [rated[path] for path in alone]
    ratings = np.array([mos.count[rated[n]] if n in rated else 0 for n in names], np.int64)
    spread = np.array([mos.spread[rated[n]] if n in rated else np.nan for n in names])
    return Joined(
        (*names, *alone),
        np.concatenate([mean, mos.value[alone_rows]]),
        np.concatenate([np.sqrt(np.diag(covariance)), mos.error[alone_rows]]),
        _filled(np.concatenate([spread, mos.spread[alone_rows]]), unit),
        np.concatenate([ratings, mos.count[alone_rows]]),
        np.concatenate([counts, np.zeros(len(alone), np.int64)]),
        unit,
    )


def _filled(spread: Vector, unit: float | None) -> Vector:
    """A spread for each picture. Of one that two people never rated, it is that of Thurstone's
    model, whose looks differ with a deviation of one unit; else the mean of the others'."""
    known = np.isfinite(spread)
    if unit is not None:
        usual = max(unit / np.sqrt(2), STEP)
    elif known.any():
        usual = float(spread[known].mean())
    else:
        return spread
    filled: Vector = np.where(known, spread, usual)
    return filled


def _translation(
    latent: Latent, shared: Sequence[int], value: Vector, error: Vector
) -> tuple[float, float]:
    """Unit and zero under which the ratings are likeliest."""
    from scipy.optimize import minimize_scalar

    mean = latent.mean[list(shared)]
    covariance = latent.covariance[np.ix_(shared, shared)]

    def at(log_unit: float) -> tuple[float, float]:
        unit = np.exp(log_unit)
        total = unit**2 * covariance + np.diag(error**2)
        inverse = np.linalg.inv(total)
        rest = value - unit * mean
        zero = float(inverse.sum(0) @ rest / inverse.sum())
        off = rest - zero
        return float(off @ inverse @ off + np.linalg.slogdet(total)[1]), zero

    found = minimize_scalar(
        lambda x: at(x)[0], bounds=(np.log(0.02), np.log(4.0)), method="bounded"
    )
    return float(np.exp(found.x)), at(found.x)[1]


def _combined(
    latent: Latent, shared: Sequence[int], value: Vector, error: Vector, unit: float, zero: float
) -> tuple[Vector, npt.NDArray[np.float64]]:
    """The comparisons' posterior, translated, updated by the ratings (a Kalman step)."""
    mean = unit * latent.mean + zero
    covariance = unit**2 * latent.covariance + _UNKNOWN_ZERO
    seen = list(shared)
    gain = np.linalg.solve(covariance[np.ix_(seen, seen)] + np.diag(error**2), covariance[seen]).T
    return mean + gain @ (value - mean[seen]), covariance - gain @ covariance[seen]

"""What people prefer, mixed into the score.

People compare pairs of pictures (a CSV of `a, b, better`, as the rating tool writes it). From these
a correction of the score by the pictures' traits is learnt: a Bradley-Terry model with covariates,
whose prior is that the score alone decides. Few answers change little; many outvote the score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.pairs import read_pairs
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.tune.bounds import Traits, traits

Vector: TypeAlias = npt.NDArray[np.float64]

SCALES: dict[str, float] = {
    "lightness": 10.0,
    "contrast": 5.0,
    "a": 5.0,
    "b": 5.0,
    "chroma": 5.0,
    "noise": 2.0,
}
"""The traits that are learnt of, and a difference in each that is easily seen."""

_SPREAD = 0.25
"""Prior deviation of a weight: MOS for one such difference."""

_DISCRIMINAL = 0.6
"""MOS difference at which the logistic law says 73 %: the student's typical error twice over."""


@dataclass(frozen=True, slots=True)
class Taste:
    """
    Attributes:
        weights: trait -> MOS for one unit of it.
        answers: from how many it was learnt.
    """

    weights: dict[str, float]
    answers: int

    def addition(self, found: Traits) -> float:
        """MOS to add to a picture's score; only its differences between pictures mean anything."""
        added: float = sum(weight * getattr(found, name) for name, weight in self.weights.items())
        return added


def learn(csv_path: Path, images: Path | None = None, scorer: str = DEFAULT_SCORER) -> Taste:
    """Learn from a file of pairs.

    Raises:
        LabelsError: see `pairs.read_pairs`.
        QInsightError: a picture cannot be decoded or scored.
    """
    pairs = read_pairs(csv_path, images=images)
    pipeline = Pipeline(scorer)
    seen = [pipeline.decode(path) for path in pairs.paths]
    scores = np.array([score.value for image in seen for score in pipeline.score_images([image])])
    found = np.array([described(traits(image.pixels)) for image in seen])
    a, b = np.array(pairs.a), np.array(pairs.b)
    return fit(scores[a] - scores[b], found[a] - found[b], np.array(pairs.preference))


def described(found: Traits) -> list[float]:
    return [getattr(found, name) / scale for name, scale in SCALES.items()]


def fit(scores: Vector, differences: Vector, preferred: Vector) -> Taste:
    """The most probable weights.

    Args:
        scores: [n], the score of A less that of B.
        differences: [n, traits], of `described`.
        preferred: [n], 1 where A is better, 0 where B is, 0.5 for similar.
    """
    if not len(scores):
        raise ConfigError("there are no answers to learn a taste from: compare some pairs")
    optimize = require("scipy.optimize", package="scipy", extra="tune", purpose="learning a taste")

    def loss(weights: Vector) -> tuple[float, Vector]:
        leads = (scores + differences @ weights) / _DISCRIMINAL
        likely = np.logaddexp(0, leads) - preferred * leads
        slope = (1 / (1 + np.exp(-leads)) - preferred) / _DISCRIMINAL
        prior = weights / _SPREAD
        return float(likely.sum() + prior @ prior / 2), slope @ differences + prior / _SPREAD

    found = optimize.minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B")
    weights = {
        name: float(weight / scale)
        for (name, scale), weight in zip(SCALES.items(), found.x, strict=True)
    }
    return Taste(weights, len(scores))

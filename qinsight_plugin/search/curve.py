"""What is known beforehand of value over setting: a Gaussian process learnt from whole curves.

Curves of many pictures are close to a mean curve plus a few common ways to differ from it. So a
normal distribution over curves, its mean and covariance at a few knots, predicts the rest of a new
picture's curve, and how surely, from one or two probes (conditioning of a normal distribution).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.errors import ConfigError

Vector: TypeAlias = "npt.NDArray[np.float64]"
Link: TypeAlias = Literal["identity", "decibel"]
"""What makes values more nearly linear and normal; "decibel" is for 0 to 1, where 1 is perfect."""

_PERFECT = 1e-6


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """A distribution over curves.

    Attributes:
        knots: [K] settings, ascending.
        mean: [K], on the scale that `link` makes.
        scatter: [K, K], the sum of squared deviations; over `count` it is the covariance.
        count: curves that it was learnt from.
        noise: variance, on that scale, of what straight lines between knots do not explain.
        link: see `Link`.
    """

    knots: Vector
    mean: Vector
    scatter: Vector
    count: float
    noise: float
    link: Link = "identity"

    @classmethod
    def learn(
        cls,
        knots: Sequence[float],
        curves: npt.ArrayLike,
        link: Link = "identity",
        noise: float = 0.0,
    ) -> Curve:
        """Of whole curves: [N, K] values at the knots.

        Raises:
            ConfigError: fewer than two curves, or a shape or a value that is of no use.
        """
        values = np.asarray(curves, np.float64)
        if values.ndim != 2 or values.shape[1] != len(knots) or len(values) < 2:
            raise ConfigError(
                f"a curve needs two examples or more of {len(knots)} values, not {values.shape}"
            )
        linked = linked_values(values, link)
        if not np.isfinite(linked).all():
            raise ConfigError("a curve cannot be learnt from values that are not finite")
        mean = linked.mean(axis=0)
        away = linked - mean
        return cls(np.asarray(knots, np.float64), mean, away.T @ away, len(values), noise, link)

    @property
    def covariance(self) -> Vector:
        return self.scatter / self.count

    def posterior(self, observed: Mapping[float, float]) -> tuple[Vector, Vector]:
        """Mean [K] and covariance [K, K] at the knots, given {setting: value}."""
        if not observed:
            return self.mean, self.covariance
        design = self._design(np.array(list(observed), np.float64))
        values = linked_values(np.array(list(observed.values()), np.float64), self.link)
        covariance = self.covariance
        common = covariance @ design.T
        # A little noise always: two probes side by side must not outweigh the prior.
        noise = (self.noise + 1e-4 * np.diag(covariance).mean()) * np.eye(len(values))
        gain = np.linalg.solve(design @ common + noise, common.T).T
        return (
            self.mean + gain @ (values - design @ self.mean),
            covariance - gain @ common.T,
        )

    def predict(
        self, settings: Sequence[float], observed: Mapping[float, float]
    ) -> tuple[Vector, Vector]:
        """Mean and standard deviation of the values at `settings`, on the link's scale."""
        mean, covariance = self.posterior(observed)
        design = self._design(np.asarray(settings, np.float64))
        variance = np.einsum("nk,kj,nj->n", design, covariance, design)
        floor = 1e-12 + self.noise
        return design @ mean, np.sqrt(np.maximum(variance, 0) + floor)

    def updated(self, observed: Mapping[float, float]) -> Curve:
        """With one more picture, of which a few values are known (a step of online EM)."""
        guess, doubt = self.posterior(observed)
        away, count = guess - self.mean, self.count + 1
        mean = self.mean + away / count
        scatter = self.scatter + np.outer(away, guess - mean) + doubt
        return dataclasses.replace(self, mean=mean, scatter=scatter, count=count)

    def _design(self, settings: Vector) -> Vector:
        """[N, K]: the weights of the knots in each setting, by straight lines."""
        columns = np.eye(len(self.knots))
        weights = [np.interp(settings, self.knots, column) for column in columns]
        return np.stack(weights, axis=1)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `from_json` takes them."""
        return {
            "knots": self.knots.tolist(),
            "mean": [round(value, 4) for value in self.mean.tolist()],
            "scatter": [[round(value, 3) for value in row] for row in self.scatter.tolist()],
            "count": self.count,
            "noise": self.noise,
            "link": self.link,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Curve:
        """What `to_json` gave.

        Raises:
            ConfigError: it is something else.
        """
        try:
            knots, mean, scatter = (
                np.asarray(document[name], np.float64) for name in ("knots", "mean", "scatter")
            )
            count, noise = float(document["count"]), float(document["noise"])
            link = document["link"]
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"no curve of a search: {type(error).__name__} {error}") from error
        size = len(knots)
        finite = all(np.isfinite(array).all() for array in (knots, mean, scatter))
        if (
            mean.shape != (size,)
            or scatter.shape != (size, size)
            or not finite
            or not count > 0
            or not noise >= 0
            or link not in ("identity", "decibel")
        ):
            raise ConfigError("no curve of a search: its numbers do not fit together")
        return cls(knots, mean, scatter, count, noise, link)


def linked_values(values: Vector, link: Link) -> Vector:
    """Values on the link's scale."""
    if link == "identity":
        return values
    return -10 * np.log10(np.maximum(1 - values, 0) + _PERFECT)


def linked(value: float, link: Link) -> float:
    """One value on the link's scale; infinities stay what they are."""
    return value if math.isinf(value) else float(linked_values(np.array(value), link))

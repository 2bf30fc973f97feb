"""What is maximised: the score over all scenes, their worst decile, less what oversteps bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.tune.bounds import Bounds, Traits, traits

if TYPE_CHECKING:
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.records import Image
    from qinsight_plugin.tune.taste import Taste


@dataclass(frozen=True, slots=True)
class Look:
    """One scene at one setting: its score, and what people would add to that; its traits; the
    seconds that rendering took."""

    score: float
    traits: Traits
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One setting on a set of scenes.

    Attributes:
        mean, worst: of the scenes' scores: the mean, and the mean of the worst decile.
        excess, strain: see `Bounds`; the means over scenes.
        quality: what is maximised.
        seconds: to render a scene, on average.
    """

    mean: float
    worst: float
    excess: float
    strain: float
    quality: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Objective:
    """
    Attributes:
        bounds: how far a scene's look may go from its default.
        worst: the weight of the worst decile, from 0 to 1; the mean's is the rest.
        penalty: what one width of a bound beyond it costs, in units of the score.
        leash: what it costs to go as far as a bound allows; less, by the square, on the way.
    """

    bounds: Bounds = field(default_factory=Bounds)
    worst: float = 0.3
    penalty: float = 1.0
    leash: float = 0.3

    def __post_init__(self) -> None:
        if not 0 <= self.worst <= 1:
            raise ConfigError(f"worst must be from 0 to 1, not {self.worst}")
        for name, cost in (("penalty", self.penalty), ("leash", self.leash)):
            if not 0 <= cost < math.inf:
                raise ConfigError(f"{name} must be 0 or more, not {cost}")

    def outcome(self, looks: Sequence[Look], defaults: Sequence[Traits]) -> Outcome:
        """Of one setting, given the traits of the same scenes at the default setting."""
        scores = np.sort([look.score for look in looks])
        mean = float(scores.mean())
        worst = float(scores[: math.ceil(len(scores) / 10)].mean())
        pairs = list(zip(defaults, (look.traits for look in looks), strict=True))
        excess = float(np.mean([self.bounds.excess(*pair) for pair in pairs]))
        strain = float(np.mean([self.bounds.strain(*pair) for pair in pairs]))
        quality = (1 - self.worst) * mean + self.worst * worst
        quality -= self.penalty * excess + self.leash * strain
        seconds = float(np.mean([look.seconds for look in looks]))
        return Outcome(mean, worst, excess, strain, quality, seconds)


class Eye:
    """Looks at rendered pictures.

    Args:
        pipeline: who scores; a scorer without reference whose larger scores are better.
        taste: what people's comparisons add to the score.
    """

    def __init__(self, pipeline: Pipeline, taste: Taste | None = None) -> None:
        spec = pipeline.scorer.spec
        if spec.kind == "FR" or not spec.higher_is_better:
            raise ConfigError(
                f"scorer {pipeline.name} cannot be maximised here: choose one that needs no "
                "reference and gives higher scores to better pictures"
            )
        self._pipeline = pipeline
        self._taste = taste

    def look(self, image: Image, seconds: float = 0.0) -> Look:
        """Raises ScorerError where there is no usable score."""
        (score,) = self._pipeline.score_images([self._pipeline.decode(image)])
        found = traits(image.pixels)
        liking = 0.0 if self._taste is None else self._taste.addition(found)
        return Look(score.value + liking, found, seconds)

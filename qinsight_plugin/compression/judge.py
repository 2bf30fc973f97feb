"""Whether a compressed picture is as good as asked: each criterion a number, higher is better."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL.Image import fromarray

from qinsight_plugin.compression.original import Original
from qinsight_plugin.compression.presets import Preset
from qinsight_plugin.decode import decode
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline, decode_for
from qinsight_plugin.plugins import PluginHost

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

    from qinsight_plugin.records import Image

BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing to be met.

    Attributes:
        pipeline: of the scorer.
        least: the lowest value that passes, for values as `Judge.value` gives them.
    """

    pipeline: Pipeline
    least: float

    @property
    def name(self) -> str:
        return self.pipeline.name

    @property
    def is_drop(self) -> bool:
        """Whether it is the fall of a no-reference score under the source's."""
        return self.pipeline.scorer.spec.kind == "NR"

    @property
    def sign(self) -> int:
        return 1 if self.pipeline.scorer.spec.higher_is_better else -1

    def shown(self, value: float) -> float:
        """A value on the scorer's own scale; of a drop, the drop."""
        return abs(value) if self.is_drop else self.sign * value

    def in_words(self, value: float) -> str:
        """A value, beside what it has to be."""
        name = f"drop of {self.name}" if self.is_drop else self.name
        return f"{name} {self.shown(value):.4g} (asked: {self.shown(self.least):g})"


class Criteria:
    """The criteria of a preset, their scorers loaded once. Thread-safe.

    Raises:
        ConfigError: a floor of a scorer without references.
        ScorerError, MissingExtraError: from loading scorers.
    """

    def __init__(
        self, preset: Preset, host: PluginHost | None = None, student: str = DEFAULT_SCORER
    ) -> None:
        self.preset = preset
        self.all = [self._floor(name, least, host) for name, least in preset.floors.items()]
        self.student: Pipeline | None = None
        if preset.max_drop is not None or preset.min_source > 1:
            self.student = Pipeline(student, host)
            if self.student.scorer.spec.kind != "NR":
                raise ConfigError(f"scorer {student} needs a reference: it cannot judge a source")
        if preset.max_drop is not None and self.student is not None:
            self.all.append(Criterion(self.student, -preset.max_drop))

    @staticmethod
    def _floor(name: str, least: float, host: PluginHost | None) -> Criterion:
        pipeline = Pipeline(name, host)
        if pipeline.scorer.spec.kind != "FR":
            raise ConfigError(
                f"{name} cannot be a floor: it looks at no reference, and a score alone can be "
                "fooled; use max_drop"
            )
        sign = 1 if pipeline.scorer.spec.higher_is_better else -1
        return Criterion(pipeline, sign * least)


class Judge:
    """The criteria, bound to one source.

    Attributes:
        source_score: the student's, MOS; None where it is not asked.
    """

    def __init__(self, criteria: Criteria, original: Original) -> None:
        self._criteria = criteria
        self._reference = beside(original.picture, original.name)
        student = criteria.student
        flat = over(original.picture, original.name, WHITE)
        self._scores = {} if student is None else {student.name: score_of(student, flat)}
        self.source_score = None if student is None else self._scores[student.name]

    def value(self, criterion: Criterion, candidate: PILImage) -> float:
        """What it is worth by one criterion; a gain over the source counts as none.

        Raises:
            ScorerError: the scorer failed, or the sizes differ.
            ImageTooSmallError: the scorer cannot judge pictures so small.
        """
        name = self._reference.source
        if criterion.is_drop:
            after = score_of(criterion.pipeline, over(candidate, name, WHITE))
            return min(0.0, criterion.sign * (after - self._scores[criterion.name]))
        image = beside(candidate, name)
        (score,) = criterion.pipeline.score_images([image], [self._reference])
        return criterion.sign * float(score.value)

    def values(self, candidate: PILImage) -> Iterator[tuple[Criterion, float]]:
        for criterion in self._criteria.all:
            yield criterion, self.value(criterion, candidate)


def score_of(pipeline: Pipeline, image: Image) -> float:
    """By a scorer without reference, at the size that it looks at."""
    small = decode_for(pipeline.scorer.spec, image, pipeline.host)
    return pipeline.score_images([small])[0].value


def beside(picture: PILImage, name: str) -> Image:
    """In sRGB; what is transparent over white, and under that the same over black: an error in
    alpha shows on one of them."""
    image = over(picture, name, WHITE)
    if not picture.has_transparency_data:
        return image
    both = np.concatenate([image.pixels, over(picture, name, BLACK).pixels])
    return over(fromarray(both), name, WHITE)


def over(picture: PILImage, name: str, background: tuple[int, int, int]) -> Image:
    """In sRGB, opaque."""
    return dataclasses.replace(decode(picture, background=background), source=name)

"""The student as it enters a comparison: on so many threads, and looking at every pixel."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Image, Score
from qinsight_plugin.scorers.student import StudentScorer, weights_named

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

SIZE = (1152, 864)
"""Width and height of one megapixel, as comparisons use it."""


@dataclass(frozen=True, slots=True)
class Student:
    """A student on the CPU.

    Attributes:
        name: what the user called it.
        weights: its file.
        budget: pixels it was made to look at; None: all. In a comparison it looks at all.
    """

    name: str
    weights: Path
    budget: int | None
    scorer: StudentScorer

    @classmethod
    def open(cls, name: str, threads: int) -> Student:
        """Open `student` or `student:PATH`.

        Raises:
            ConfigError: the name is another scorer's.
            QInsightError: as `StudentScorer`.
        """
        base, _, path = name.partition(":")
        if base != "student":
            raise ConfigError(
                f"scorer {name} cannot be held to a number of threads; compare student or "
                "student:PATH"
            )
        weights = weights_named(path)
        scorer = StudentScorer(weights, threads=threads)
        budget = scorer.spec.max_pixels
        # Without a limit the scorer does not cut the picture into windows: one run of the network.
        scorer.spec = dataclasses.replace(scorer.spec, max_pixels=None)
        return cls(name, weights, budget, scorer)

    def judge(self, pixels: Pixels) -> list[Score]:
        height, width = pixels.shape[:2]
        return self.scorer.score([Image(pixels, "<bench>", width, height)])

"""Degrades a pristine picture in every way and asks a scorer about each version.

`evaluate_distortions` makes figures of the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from qinsight_plugin.decode import decode
from qinsight_plugin.degradations import DEGRADATIONS, LEVELS, degrade, encoded
from qinsight_plugin.errors import ScorerError
from qinsight_plugin.evaluate_distortions import (
    CODECS,
    NONE,
    QUALITY_FACTORS,
    Case,
    Finding,
    Outcome,
)
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion, Image, Score

if TYPE_CHECKING:
    from qinsight_plugin.pipeline import Pipeline
    from qinsight_plugin.records import Pixels, Source

WINDOW = 512
WHOLE = 1.5
"""Pictures with no side over WHOLE windows are taken whole."""


def spaced(count: int, limit: int) -> list[int]:
    """Indices of at most `limit` of `count` items, spread evenly from the first to the last."""
    return sorted({round(i) for i in np.linspace(0, count - 1, min(limit, count))})


def cases(rng: np.random.Generator, every_variant: bool = False) -> list[Case]:
    """What is done to one picture: nothing, and each class at each level.

    Args:
        rng: draws one variant for each class and level.
        every_variant: take them all instead.
    """
    chosen = [Case()]
    for distortion, variants in DEGRADATIONS.items():
        for level in LEVELS:
            names = list(variants) if every_variant else [str(rng.choice(list(variants)))]
            chosen += [Case(distortion, name, level) for name in names]
    return chosen


def window(pixels: Pixels, side: int = WINDOW) -> Pixels:
    """The central side x side pixels, or fewer where a picture has fewer; small ones are whole."""
    height, width = pixels.shape[:2]
    if max(height, width) <= WHOLE * side:
        return pixels
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def examine(
    pipeline: Pipeline,
    source: Source,
    *,
    seed: int = 0,
    side: int = WINDOW,
    every_variant: bool = False,
) -> Outcome:
    """Degrade one pristine picture in every way and score the results. Thread-safe.

    Args:
        pipeline: with the scorer; one that needs a reference gets the pristine picture.
        source: the picture; its size is not changed, but see `window`.
        seed: makes variants and noise repeatable; give each picture its own.
        side: of the window, in pixels.
        every_variant: see `cases`.

    Raises:
        QInsightError: the picture cannot be used, or the scorer failed on it.
    """
    spec = pipeline.scorer.spec
    pristine = decode(source)
    pixels = window(pristine.pixels, side)
    references = [as_seen(pipeline, pixels, pristine.source)] if spec.kind == "FR" else None

    def score(degraded: Pixels, how: str) -> Score:
        image = as_seen(pipeline, degraded, f"{pristine.source} ({how})")
        return pipeline.score_images([image], references)[0]

    sign = 1 if spec.higher_is_better else -1
    ladders = {
        codec: tuple(
            sign * score(encoded(pixels, codec, factor), f"{codec} {factor}").value
            for factor in QUALITY_FACTORS
        )
        for codec in CODECS
    }
    return Outcome(find(score, pixels, np.random.default_rng(seed), every_variant), ladders)


def as_seen(pipeline: Pipeline, pixels: Pixels, name: str) -> Image:
    """Pixels as the scorer looks at them."""
    return pipeline.decode(Image(pixels, name, pixels.shape[1], pixels.shape[0]))


def find(
    score: Callable[[Pixels, str], Score],
    pixels: Pixels,
    rng: np.random.Generator,
    every_variant: bool,
) -> tuple[Finding, ...] | None:
    """The findings for all cases of a picture; None where the scorer does not look for any."""
    found = []
    for case in cases(rng, every_variant):
        degraded = pixels
        if case.level:
            degraded = degrade(pixels, case.distortion, case.variant, case.level, rng)
        how = f"{case.distortion} {case.variant} {case.level}" if case.level else "pristine"
        named = score(degraded, how).distortions
        if named is None:
            return None
        found.append(first_named(case, named))
    return tuple(found)


def first_named(case: Case, named: Sequence[Distortion]) -> Finding:
    if not named:
        return Finding(case, NONE, 0)
    name, severity = named[0].name, named[0].severity
    if name not in DISTORTIONS or severity not in SEVERITIES:
        raise ScorerError(
            f"the scorer named {name!r} at {severity!r}: only {', '.join(DISTORTIONS)} at "
            f"{', '.join(SEVERITIES)} can be measured"
        )
    return Finding(case, name, 1 + SEVERITIES.index(severity))

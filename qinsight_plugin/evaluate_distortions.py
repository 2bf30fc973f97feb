"""How well a scorer names what is wrong with a picture, and falls with an encoder's quality.

`examine` degrades pristine pictures, so the truth is known and nobody has to rate anything.
Pictures that a scorer was trained on flatter it: bring others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.evaluate import Estimate
from qinsight_plugin.records import DISTORTIONS

Key = TypeVar("Key", str, int)

NONE = "none"
CLASSES = (NONE, *DISTORTIONS)

CODECS = ("JPEG", "WEBP", "AVIF")
QUALITY_FACTORS = (90, 80, 70, 60, 50, 40, 30, 20, 10)
RISE = 0.02
"""In units of the score: a smaller rise as quality falls is not held against a scorer."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Case:
    """What was done to a picture; `variant` is "" and `level` 0 where `distortion` is "none"."""

    distortion: str = NONE
    variant: str = ""
    level: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What the scorer made of a case: the distortion it named first, at a level from 1 to 5."""

    case: Case
    distortion: str
    level: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was measured on one pristine picture.

    Attributes:
        findings: None where the scorer does not look for distortions.
        ladders: codec -> scores at `QUALITY_FACTORS`; larger is better, whatever the scale.
    """

    findings: tuple[Finding, ...] | None
    ladders: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Naming:
    """How well distortions are named.

    Attributes:
        accuracy: mean over `CLASSES` of the share named rightly, so that each class counts alike;
            0.2 for a scorer that always says the same.
        by_class: that share in each class; for "none", 1 - false alarms.
        by_level: over the four distortions together.
        by_variant: keys are "class/variant".
        confusion: number of cases, a row for each true class and a column for each named one, both
            in the order of `CLASSES`.
        near: share of severities at most one level off, among the distorted cases whose class is
            right; None where there are none.
        near_of_all: the same among all distorted cases, a wrong class being a miss.
    """

    accuracy: Estimate
    by_class: Mapping[str, Estimate]
    by_level: Mapping[int, Estimate]
    by_variant: Mapping[str, Estimate]
    confusion: tuple[tuple[int, ...], ...]
    near: Estimate | None
    near_of_all: Estimate


@dataclass(frozen=True, slots=True)
class Inversions:
    """How often scores rise between neighbouring steps of a ladder as quality falls.

    Attributes:
        steps: pairs of neighbours looked at.
        share: of them, those that rise by more than `RISE`.
        any_rise: those that rise at all.
    """

    steps: int
    share: Estimate
    any_rise: Estimate


@dataclass(frozen=True, slots=True)
class Result:
    """The yardstick's reading; every interval spans 95 % of a bootstrap over source pictures.

    Attributes:
        pictures: how many pristine pictures it rests on.
        naming: None where the scorer does not look for distortions.
        inversions: by codec.
    """

    pictures: int
    naming: Naming | None
    inversions: Mapping[str, Inversions]


def summarise(outcomes: Sequence[Outcome]) -> Result:
    """Figures over all pictures, with intervals.

    Intervals are those of the percentile bootstrap over source pictures: a picture is drawn with
    all that was made of it, since its versions share what makes it hard. A share of exactly 0 or 1
    gets an interval of no width, which says little unless there are many pictures.

    Raises:
        ConfigError: fewer than 2 pictures.
    """
    if len(outcomes) < 2:
        raise ConfigError(
            f"pictures that could be measured: {len(outcomes)}, too few for an interval: "
            "bring 2 or, better, 50"
        )
    found = [outcome.findings for outcome in outcomes if outcome.findings is not None]
    return Result(
        pictures=len(outcomes),
        naming=summarise_naming(found) if len(found) == len(outcomes) else None,
        inversions={
            codec: summarise_ladders([outcome.ladders[codec] for outcome in outcomes])
            for codec in CODECS
        },
    )


def summarise_naming(found: Sequence[Sequence[Finding]]) -> Naming:
    """Figures over the findings of each picture."""
    distorted = [[f for f in row if f.case.level] for row in found]
    right = [[f for f in row if is_right(f)] for row in distorted]
    classes = split(found, lambda f: f.case.distortion)
    levels = split(distorted, lambda f: f.case.level)
    variants = split(distorted, lambda f: f"{f.case.distortion}/{f.case.variant}")
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    for f in chain.from_iterable(found):
        confusion[CLASSES.index(f.case.distortion), CLASSES.index(f.distortion)] += 1
    return Naming(
        accuracy=estimate(*(tally(classes[name]) for name in CLASSES)),
        by_class={name: estimate(tally(classes[name])) for name in CLASSES},
        by_level={level: estimate(tally(rows)) for level, rows in levels.items()},
        by_variant={name: estimate(tally(rows)) for name, rows in variants.items()},
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        near=estimate(tally(right, is_near)) if any(right) else None,
        near_of_all=estimate(tally(distorted, is_near)),
    )


def is_right(finding: Finding) -> bool:
    return finding.distortion == finding.case.distortion


def is_near(finding: Finding) -> bool:
    return is_right(finding) and abs(finding.level - finding.case.level) <= 1


def split(
    found: Sequence[Sequence[Finding]], key: Callable[[Finding], Key]
) -> dict[Key, list[list[Finding]]]:
    """Key, in sorted order -> the findings of each picture that have it."""
    keys = sorted({key(f) for f in chain.from_iterable(found)})
    return {own: [[f for f in row if key(f) == own] for row in found] for own in keys}


def tally(
    found: Sequence[Sequence[Finding]], hit: Callable[[Finding], bool] = is_right
) -> npt.NDArray[np.int64]:
    """[n, 2]: hits and cases of each picture."""
    return np.array([(sum(map(hit, row)), len(row)) for row in found])


def summarise_ladders(ladders: Sequence[Sequence[float]]) -> Inversions:
    steps = [len(scores) - 1 for scores in ladders]
    over = [rises(scores, RISE) for scores in ladders]
    at_all = [rises(scores) for scores in ladders]
    return Inversions(
        steps=sum(steps),
        share=estimate(np.column_stack((over, steps))),
        any_rise=estimate(np.column_stack((at_all, steps))),
    )


def rises(scores: Sequence[float], threshold: float = 0.0) -> int:
    """Neighbours of which the latter scores more than `threshold` over the former."""
    return sum(after - before > threshold for before, after in pairwise(scores))


def estimate(*groups: npt.NDArray[np.number], seed: int = 0) -> Estimate:
    """The share of hits, mean over groups, with its 95 % cluster bootstrap interval.

    Args:
        groups: each [n, 2]: hits and cases of each of the n pictures.
        seed: makes the draw repeatable.
    """
    counts = np.stack(groups)
    n = counts.shape[1]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    resampled = shares(np.einsum("rn,gnc->rgc", drawn, counts))
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return Estimate(float(shares(counts.sum(axis=1))), float(low), float(high))


def shares(counts: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """[..., groups, 2] hits and cases -> [...] mean share; NaN where a draw missed a group."""
    with np.errstate(invalid="ignore"):
        mean: npt.NDArray[np.float64] = (counts[..., 0] / counts[..., 1]).mean(axis=-1)
    return mean

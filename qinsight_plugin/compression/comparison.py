"""What other ways to choose a quality give, beside our search at equal quality."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qinsight_plugin.compression import rivals
from qinsight_plugin.compression.presets import DRIVER
from qinsight_plugin.compression.priors import Priors
from qinsight_plugin.compression.study import Subject
from qinsight_plugin.search import search

SSIM_FLOOR = 0.95
"""What a user who searches by SSIM asks for."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a way to choose the quality gives on one picture."""

    way: str
    format: str
    picture: str
    setting: float
    size: int
    value: float


def choices(subject: Subject, picture: str) -> list[Choice]:
    """What a user would pick: a fixed quality, or binary search on SSIM."""

    def choice(way: str, setting: float) -> Choice:
        size, value = subject.size(setting), subject.value(DRIVER, setting)
        return Choice(way, subject.still.name, picture, setting, size, value)

    def ssim(setting: float) -> float:
        return subject.value("ssim", setting)

    settings = list(subject.still.spec.quality_factors)
    return [
        choice("quality 75", 75),
        choice("quality 80", 80),
        choice(f"SSIM {SSIM_FLOOR:g}", rivals.binary(ssim, SSIM_FLOOR, settings)[0]),
    ]


def answers(subject: Subject, picture: str, floor: float, way: str, priors: Priors) -> Choice:
    """What our search finds for a floor."""
    found = search(
        lambda setting: subject.value(DRIVER, setting),
        floor,
        list(subject.still.spec.quality_factors),
        curve=priors.curve(subject.still.name, DRIVER),
    )
    size = subject.size(found.setting)
    return Choice(way, subject.still.name, picture, found.setting, size, found.value)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A rival's way beside ours, over all pictures, in one format.

    Attributes:
        mean, low: SSIMULACRA2 of the rival's files: their mean and 10th percentile.
        saved_at_mean, saved_at_low: the share of bytes that ours saves when its floor is that mean,
            or that percentile.
        interval: of `saved_at_low`, 95 %, by bootstrap over pictures.
    """

    way: str
    format: str
    n: int
    mean: float
    low: float
    saved_at_mean: float
    saved_at_low: float
    interval: tuple[float, float]


def comparisons(
    rows: Sequence[tuple[str, Sequence[Subject]]], priors: Priors
) -> tuple[list[Comparison], list[Choice]]:
    """Each rival against ours at equal quality, and all that was chosen."""
    found: list[Comparison] = []
    seen: list[Choice] = []
    names = dict.fromkeys(subject.still.name for _, row in rows for subject in row)
    for name in names:
        column = [(picture, s) for picture, row in rows for s in row if s.still.name == name]
        by_way: dict[str, list[Choice]] = {}
        for picture, subject in column:
            for choice in choices(subject, picture):
                by_way.setdefault(choice.way, []).append(choice)
        for way, theirs in by_way.items():
            values = np.array([choice.value for choice in theirs])
            mean, low = float(values.mean()), float(np.percentile(values, 10))
            at = {
                label: [answers(s, picture, floor, label, priors) for picture, s in column]
                for label, floor in (("mean", mean), (f"ours for {way}", low))
            }
            at_mean, at_low = at["mean"], at[f"ours for {way}"]
            saved = saving(theirs, at_low)
            found.append(
                Comparison(
                    way, name, len(theirs), mean, low, saving(theirs, at_mean), saved,
                    bootstrap(theirs, at_low),
                )
            )  # fmt: skip
            seen += [*theirs, *at_low]
    return found, seen


def saving(theirs: Sequence[Choice], ours: Sequence[Choice]) -> float:
    """The mean over pictures of the logarithm of sizes, as a share: no large picture dominates."""
    ratios = [o.size / t.size for t, o in zip(theirs, ours, strict=True)]
    return 1 - float(np.exp(np.mean(np.log(ratios))))


def bootstrap(theirs: Sequence[Choice], ours: Sequence[Choice]) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    logs = np.log([o.size / t.size for t, o in zip(theirs, ours, strict=True)])
    means = rng.choice(logs, (2000, len(logs))).mean(axis=1)
    high, low = 1 - np.exp(np.percentile(means, [2.5, 97.5]))
    return float(low), float(high)


def as_rows(records: Sequence[Comparison]) -> list[dict[str, object]]:
    return [dataclasses.asdict(record) for record in records]

"""Measuring the search on a folder of pictures: priors to learn, probes to count, bytes to compare.

All values go through a cache of probes, so that a study can be stopped and gone on with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qinsight_plugin.compression import rivals
from qinsight_plugin.compression.judge import Criteria, Criterion, Judge
from qinsight_plugin.compression.original import open_original
from qinsight_plugin.compression.picture import load_encoder
from qinsight_plugin.compression.presets import DRIVER, Preset
from qinsight_plugin.compression.priors import Priors
from qinsight_plugin.compression.still import Still
from qinsight_plugin.errors import ConfigError, QInsightError
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.search import Curve, Link, search
from qinsight_plugin.search.probes import ProbeCache

KNOTS = (2, 8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 86, 89, 90, 94, 97, 99)
MEASURES: dict[str, tuple[Link, float]] = {DRIVER: ("identity", 0.3), "ms-ssim": ("decibel", 0.02)}
"""What priors are learnt of: the link, and the variance that straight lines leave."""

TOLERANCE = 1.0
SSIM_FLOOR = 0.95
"""What a user who searches by SSIM asks for."""


@dataclass(frozen=True)
class Subject:
    """A picture and an encoder, whose values are made as they are asked for."""

    still: Still
    criteria: dict[str, Criterion]

    def value(self, scorer: str, quality_factor: float) -> float:
        return self.still.value(self.criteria[scorer], round(quality_factor))

    def size(self, quality_factor: float) -> int:
        return len(self.still.file(round(quality_factor)))


def subjects(
    paths: Sequence[Path],
    formats: Sequence[str],
    cache: ProbeCache,
    host: PluginHost | None = None,
) -> Iterator[tuple[Path, list[Subject]]]:
    """Each picture with a subject for each format; what cannot be read is left out."""
    host = host or default_host()
    floors = {DRIVER: 0.0, "ms-ssim": 0.0, "ssim": 0.0}
    criteria = Criteria(Preset(floors, min_source=1.0), host)
    by_name = {criterion.name: criterion for criterion in criteria.all}
    encoders = [load_encoder(name, host) for name in formats]
    for path in paths:
        try:
            original = open_original(path)
        except QInsightError:
            continue
        judge = Judge(criteria, original)
        yield (
            path,
            [
                Subject(Still(original, spec, name, encoder, judge, cache), by_name)
                for name, spec, encoder in encoders
            ],
        )


def learn(paths: Sequence[Path], formats: Sequence[str], cache: ProbeCache, corpus: str) -> Priors:
    """Prior curves of each format, from all pictures.

    Raises:
        ConfigError: there are fewer than two pictures.
    """
    seen: dict[tuple[str, str], list[list[float]]] = {}
    for _, row in subjects(paths, formats, cache):
        for subject in row:
            knots = knots_of(subject)
            for scorer in MEASURES:
                values = [subject.value(scorer, knot) for knot in knots]
                seen.setdefault((subject.still.name, scorer), []).append(values)
    if not seen:
        raise ConfigError("no pictures to learn from: name a folder of photographs")
    curves = {
        (name, scorer): Curve.learn(KNOTS[: len(values[0])], values, *MEASURES[scorer])
        for (name, scorer), values in seen.items()
    }
    return Priors(curves, corpus)


def knots_of(subject: Subject) -> list[int]:
    return [knot for knot in KNOTS if knot in subject.still.spec.quality_factors]


@dataclass(frozen=True, slots=True)
class Run:
    """One search of one method.

    Attributes:
        method, format, picture, floor, steps: what was asked; `steps` is the number of settings.
        setting, probes: what it found, and in how many.
        excess: by how much its file is larger than that of the true answer, which is known where
            every setting was tried; else the answer of binary search stands for it.
        passes: whether the value of what it found reaches the floor.
    """

    method: str
    format: str
    picture: str
    floor: float
    steps: int
    setting: float
    probes: int
    excess: float
    passes: bool
    brute: bool


def races(
    subject: Subject,
    picture: str,
    floors: Sequence[float],
    priors: Priors,
    *,
    brute: bool = False,
    step: int = 2,
) -> Iterator[Run]:
    """Every method for every floor that the best setting reaches, on every `step`-th setting."""
    settings = list(subject.still.spec.quality_factors)[step - 1 :: step]
    curve = priors.curve(subject.still.name, DRIVER)

    def measure(setting: float) -> float:
        return subject.value(DRIVER, setting)

    def ours(tolerance: float) -> rivals.Search:
        def run(
            measure: rivals.Measure, floor: float, settings: Sequence[float]
        ) -> tuple[float, int]:
            found = search(measure, floor, settings, curve=curve, tolerance=tolerance)
            return found.setting, len(found.probes)

        return run

    methods: dict[str, rivals.Search] = {
        "binary search": rivals.binary,
        "as ab-av1": rivals.ab_av1,
        "ours, exact": ours(0.0),
        f"ours, tolerance {TOLERANCE:g}": ours(TOLERANCE),
    }
    for floor in floors:
        if measure(settings[-1]) < floor:
            continue
        answer, _ = rivals.binary(measure, floor, settings)
        if brute:
            answer = next(s for s in settings if measure(s) >= floor)
        for name, method in methods.items():
            setting, probes = method(measure, floor, settings)
            excess = subject.size(setting) / subject.size(answer) - 1
            passes = measure(setting) >= floor
            spec = subject.still.name, picture, floor, len(settings), setting, probes
            yield Run(name, *spec, excess, passes, brute)


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


def race_rows(runs: Sequence[Run]) -> list[dict[str, object]]:
    """A line a method: means over all of its runs, and how many miss the floor."""
    lines: list[dict[str, object]] = []
    for method in dict.fromkeys(run.method for run in runs):
        own = [run for run in runs if run.method == method]
        probes = np.array([run.probes for run in own])
        rng = np.random.default_rng(0)
        pictures = sorted({run.picture for run in own})
        by_picture = np.array(
            [np.mean([r.probes for r in own if r.picture == picture]) for picture in pictures]
        )
        means = rng.choice(by_picture, (2000, len(pictures))).mean(axis=1)
        brute = [run for run in own if run.brute]
        lines.append(
            {
                "method": method,
                "n": len(own),
                "probes": round(float(probes.mean()), 2),
                "95 %": tuple(round(float(p), 2) for p in np.percentile(means, [2.5, 97.5])),
                "most": int(probes.max()),
                "larger, %": round(100 * float(np.mean([run.excess for run in own])), 2),
                "below floor": sum(not run.passes for run in own),
                "checked by brute force": len(brute),
                "of these not optimal": sum(run.excess != 0 for run in brute),
            }
        )
    return lines


def as_rows(records: Sequence[Comparison]) -> list[dict[str, object]]:
    return [dataclasses.asdict(record) for record in records]

"""Measuring the search on a folder of pictures: priors to learn, probes to count, bytes to compare.

All values go through a cache of probes, so that a study can be stopped and gone on with.
"""

from __future__ import annotations

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
MEASURES: dict[str, tuple[Link, float]] = {
    DRIVER: ("identity", 0.3),
    "ms-ssim": ("decibel", 0.02),
    "ssim": ("decibel", 0.02),
}
"""What priors are learnt of: the link, and the variance that straight lines leave."""

TOLERANCE = 1.0


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
    knots: dict[str, list[int]] = {}
    for _, row in subjects(paths, formats, cache):
        for subject in row:
            own = knots[subject.still.name] = knots_of(subject)
            for scorer in MEASURES:
                values = [subject.value(scorer, knot) for knot in own]
                seen.setdefault((subject.still.name, scorer), []).append(values)
    if not seen:
        raise ConfigError("no pictures to learn from: name a folder of photographs")
    curves = {
        (name, scorer): Curve.learn(knots[name], values, *MEASURES[scorer])
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

"""What is to be known of labels before anything is trained on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.feedback.coverage import LOOKED_AT, clusters, describe
from qinsight_plugin.feedback.duplicates import near_duplicates, thumbnail
from qinsight_plugin.feedback.showing import pixels_of
from qinsight_plugin.labels import Labels
from qinsight_plugin.parallel import in_order
from qinsight_plugin.records import Score

Matrix: TypeAlias = npt.NDArray[np.float64]

BIN = 0.5
THIN = 0.02
"""Share of the pictures under which a stretch of the scale is hardly covered."""

LEAST_IN_GROUP = 8
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Looks:
    """What pictures look like.

    Attributes:
        features: [n, 176], see `coverage.describe`.
        thumbnails: n of [32, 32], luma.
    """

    features: Matrix
    thumbnails: tuple[Matrix, ...]


@dataclass(frozen=True, slots=True)
class Bias:
    """By how much scores are above ratings in a part of the pictures.

    Attributes:
        part: what they have in common.
        n: pictures. A team's ratings of one picture are averaged first, as they share the score's
            error.
        bias: mean of score minus rating, in MOS; `low` and `high` its 95 % t interval.
        sure: whether it is beyond chance, all parts considered (Holm 1979, at 5 %).
        pictures: of the part, by index.
    """

    part: str
    n: int
    bias: float
    low: float
    high: float
    sure: bool
    pictures: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """All findings about labels; pictures are indices into them.

    Attributes:
        leaks: groups of near-duplicates that are in more than one split, and not of one cluster.
        duplicates: all groups of near-duplicates.
        bins: lower end of a stretch of the scale -> pictures in it.
        thin: lower ends of stretches with hardly any pictures.
        content: clusters of pictures that look alike, the largest first.
        unlabelled: of the folder's clusters those without a label, as indices into the folder's
            pictures; None without a folder.
        distortions: (distortion, severity) -> pictures in which the scorer sees it.
        disagreement: the pictures on which people disagree most.
        biases: of groups of labels, of content, and of raters' teams.
    """

    leaks: tuple[tuple[int, ...], ...]
    duplicates: tuple[tuple[int, ...], ...]
    bins: Mapping[float, int]
    thin: tuple[float, ...]
    content: tuple[tuple[int, ...], ...]
    unlabelled: tuple[tuple[int, ...], ...] | None
    distortions: Mapping[tuple[str, str], int]
    disagreement: tuple[int, ...]
    biases: tuple[Bias, ...]


def look(paths: Sequence[Path], on_looked: Callable[[], None] | None = None) -> Looks:
    """Raises ImageError for a picture that cannot be used."""

    def one(path: Path) -> tuple[Matrix, Matrix]:
        pixels = pixels_of(path, LOOKED_AT)
        return describe(pixels), thumbnail(pixels)

    features, thumbnails = [], []
    for feature, small in in_order(one, paths):
        features.append(feature)
        thumbnails.append(small)
        if on_looked is not None:
            on_looked()
    return Looks(np.array(features), tuple(thumbnails))


def check(
    labels: Labels,
    looks: Looks,
    scores: Sequence[Score | None],
    *,
    folder: Looks | None = None,
    teams: Mapping[str, Sequence[tuple[int, float]]] | None = None,
) -> Checks:
    """Look for what spoils a training or hides that it is spoilt.

    Args:
        labels: ratings.
        looks: of the labels' pictures.
        scores: the student's, of each; None where it has none.
        folder: of all pictures, labelled or not, that the student is to be good at.
        teams: team of raters -> (picture, rating) of its members.
    """
    duplicates = near_duplicates(looks.thumbnails)
    counts = Counter(math.floor(min(value, 5 - 1e-9) / BIN) * BIN for value in labels.mos)
    bins = {1 + BIN * k: counts[1 + BIN * k] for k in range(round(4 / BIN))}
    content = groups_of(looks.features)
    seen = [score.distortions or () for score in scores if score is not None]
    distortions = Counter((one.name, one.severity) for own in seen for one in own)
    return Checks(
        leaks=tuple(tuple(group) for group in duplicates if _leaks(group, labels)),
        duplicates=tuple(map(tuple, duplicates)),
        bins=bins,
        thin=tuple(low for low, count in bins.items() if count < THIN * len(labels.mos)),
        content=tuple(content),
        unlabelled=None if folder is None else _unlabelled(looks, folder),
        distortions=distortions,
        disagreement=_disagreement(labels),
        biases=tuple(_biases(labels, scores, content, teams or {})),
    )


def groups_of(features: Matrix) -> list[tuple[int, ...]]:
    """Clusters of pictures that look alike, about one for twenty pictures and twelve at most."""
    count = min(12, len(features) // 20)
    if count < 2:
        return [tuple(range(len(features)))]
    found = clusters(features, count)
    groups = [tuple(np.flatnonzero(found == k).tolist()) for k in np.unique(found)]
    return sorted(groups, key=len, reverse=True)


def _leaks(group: Sequence[int], labels: Labels) -> bool:
    if labels.split is None or len({labels.split[k] for k in group}) < 2:
        return False
    known = {labels.cluster[k] for k in group} if labels.cluster else {""}
    return len(known) > 1 or known == {""}


def _unlabelled(looks: Looks, folder: Looks) -> tuple[tuple[int, ...], ...]:
    """Clusters of the folder in which no labelled picture falls."""
    count = min(40, max(2, len(folder.features) // 10))
    together = np.vstack([folder.features, looks.features])
    found = clusters(together, count)
    own, labelled = found[: len(folder.features)], set(found[len(folder.features) :].tolist())
    groups = [tuple(np.flatnonzero(own == k).tolist()) for k in np.unique(own) if k not in labelled]
    return tuple(sorted(groups, key=len, reverse=True))


def _disagreement(labels: Labels) -> tuple[int, ...]:
    if labels.std is None:
        return ()
    order = np.argsort(-np.asarray(labels.std), kind="stable")
    return tuple(int(k) for k in order[:12] if labels.std[k] > 0)


def _biases(
    labels: Labels,
    scores: Sequence[Score | None],
    content: Sequence[Sequence[int]],
    teams: Mapping[str, Sequence[tuple[int, float]]],
) -> list[Bias]:
    off = {k: score.value - labels.mos[k] for k, score in enumerate(scores) if score is not None}
    parts: list[tuple[str, list[tuple[int, float]]]] = []
    for name in sorted(set(labels.group or ())):
        rows = [k for k, group in enumerate(labels.group or ()) if group == name]
        parts.append((f"group {name}", [(k, off[k]) for k in rows if k in off]))
    for number, rows_of in enumerate(content, 1):
        parts.append((f"content {number}", [(k, off[k]) for k in rows_of if k in off]))
    for team, ratings in sorted(teams.items()):
        own: dict[int, list[float]] = {}
        for k, rating in ratings:
            own.setdefault(k, []).append(rating)
        values = [
            (k, score.value - float(np.mean(said)))
            for k, said in own.items()
            if (score := scores[k]) is not None
        ]
        parts.append((f"team {team}", values))
    parts = [(name, own) for name, own in parts if len(own) >= LEAST_IN_GROUP]
    return _tested(parts)


def _tested(parts: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> list[Bias]:
    from scipy.stats import t, ttest_1samp

    found = []
    for name, own in parts:
        values = np.array([value for _, value in own])
        half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        chance = float(ttest_1samp(values, 0).pvalue) if values.std() else float(values[0] == 0)
        found.append((chance, name, own, float(values.mean()), float(half)))
    sure: dict[str, bool] = {}
    still = True
    for rank, (chance, name, *_) in enumerate(sorted(found, key=lambda one: one[0])):
        still = still and chance <= _SIGNIFICANT / (len(found) - rank)
        sure[name] = still
    return [
        Bias(name, len(own), mean, mean - half, mean + half, sure[name], tuple(k for k, _ in own))
        for _, name, own, mean, half in found
    ]

"""Files that `fit`, `train grpo`, `calibrate` and `eval` read."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.feedback.joining import Joined
from qinsight_plugin.feedback.judgements import Gathered, Judgement
from qinsight_plugin.feedback.questions import LEVELS
from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.sorting import write_into

NORMAL_95 = 1.959964


def write_labels(joined: Joined, folder: Path, target: Path) -> int:
    """One row a picture: path, mos, std (of the opinions), low and high (95 %), and counts.

    What lies beyond the ends of the scale, as the mean of people who rate mildly may, is written
    as the end.

    Returns:
        how many were.
    """
    rows = []
    clipped = 0
    with_std = bool(np.isfinite(joined.spread).all())
    for k in np.argsort(joined.pictures):
        value, error = float(joined.value[k]), float(joined.error[k])
        mos = min(5.0, max(1.0, value))
        clipped += mos != value
        std = [f"{min(4.0, joined.spread[k]):.4f}"] if with_std else []
        ends = [
            f"{max(1.0, mos - NORMAL_95 * error):.4f}",
            f"{min(5.0, mos + NORMAL_95 * error):.4f}",
        ]
        counts = [int(joined.ratings[k]), int(joined.comparisons[k])]
        name = name_from(target, folder / joined.pictures[k])
        rows.append([name, f"{mos:.4f}", *std, *ends, *counts])
    header = [
        "path",
        "mos",
        *(["std"] if with_std else []),
        "low",
        "high",
        "ratings",
        "comparisons",
    ]
    _write(target, header, rows)
    return clipped


def write_pairs(judgements: Sequence[Judgement], folder: Path, target: Path) -> int:
    """One row a pair: a, b, better (what most said, or similar), answers, agreeing.

    Returns:
        how many pairs.
    """
    votes: dict[tuple[str, str], Counter[str]] = {}
    for one in judgements:
        if one.kind == "pair" and one.role != "golden":
            left, right = one.pictures
            a, b = sorted(one.pictures)
            word = {"left": "a" if left == a else "b", "right": "a" if right == a else "b"}
            votes.setdefault((a, b), Counter())[word.get(one.value, "similar")] += 1
    rows = []
    for (a, b), counts in sorted(votes.items()):
        ahead = counts["a"] - counts["b"]
        tie = ahead == 0 or counts["similar"] > max(counts["a"], counts["b"])
        better = "similar" if tie else "a" if ahead > 0 else "b"
        names = [name_from(target, folder / path) for path in (a, b)]
        rows.append([*names, better, counts.total(), counts[better]])
    _write(target, ["a", "b", "better", "answers", "agreeing"], rows)
    return len(rows)


def write_severities(judgements: Sequence[Judgement], folder: Path, target: Path) -> int:
    """One row a picture: path, distortion, severity, as `train grpo` reads its task degradation:
    of each distortion the median of what was said, halves rounded up, and of a picture's
    distortions the worst. That nothing is wrong is known only of a picture about which all of
    `DISTORTIONS` were asked; others without a finding are left out."""
    said: dict[str, dict[str, list[int]]] = {}
    for one in judgements:
        if one.kind == "severity" and one.role != "golden":
            own = said.setdefault(one.pictures[0], {})
            own.setdefault(one.about["distortion"], []).append(LEVELS.index(one.value))
    rows = []
    for path, by_name in sorted(said.items()):
        levels = {name: math.floor(np.median(own) + 0.5) for name, own in by_name.items()}
        worst = max(levels, key=lambda name: levels[name])
        level = levels[worst]
        if not level and not levels.keys() >= set(DISTORTIONS):
            continue
        words = [worst, LEVELS[level]] if level else ["null", "null"]
        rows.append([name_from(target, folder / path), *words])
    _write(target, ["path", "distortion", "severity"], rows)
    return len(rows)


def write_settings(judgements: Sequence[Judgement], folder: Path, target: Path) -> int:
    """One row a picture and parameter: path, parameter, value (the median), low, high, answers."""
    said: dict[tuple[str, str], list[float]] = {}
    for one in judgements:
        if one.kind == "adjust" and one.role != "golden":
            said.setdefault((one.pictures[0], one.about["parameter"]), []).append(float(one.value))
    rows = [
        [name_from(target, folder / path), parameter, *_span(own), len(own)]
        for (path, parameter), own in sorted(said.items())
    ]
    _write(target, ["path", "parameter", "value", "low", "high", "answers"], rows)
    return len(rows)


def _span(values: Sequence[float]) -> list[str]:
    return [f"{value:.4g}" for value in (np.median(values), min(values), max(values))]


def name_from(target: Path, picture: Path) -> str:
    """The picture's path as the label file should have it: readers start from its folder."""
    try:
        return Path(os.path.relpath(picture.resolve(), target.resolve().parent)).as_posix()
    except ValueError:  # another drive
        return str(picture.resolve())


def _write(target: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_into(text.getvalue().encode(), target, overwrite=True)


def without(gathered: Gathered, raters: Sequence[str]) -> Gathered:
    """Less what these people said.

    Raises:
        ConfigError: one of them said nothing.
    """
    known = {one.rater for one in gathered.judgements}
    for name in raters:
        if name not in known:
            raise ConfigError(
                f"--leave-out {name}: there is no such rater; there are {sorted(known)}"
            )
    kept = tuple(one for one in gathered.judgements if one.rater not in raters)
    return Gathered(kept, gathered.stale)

"""What each person's answers are like, and whose one might leave out; nobody is left out here."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.evaluate import rank_correlation
from qinsight_plugin.feedback.choosing import flat_prior, posterior
from qinsight_plugin.feedback.joining import compared
from qinsight_plugin.feedback.judgements import Judgement
from qinsight_plugin.feedback.mos import Mos, tabulate

Vector: TypeAlias = npt.NDArray[np.float64]

FAST_SECONDS = 0.6
"""Nobody looks, judges and presses a key in less."""

_LEAST = 10  # answers, below which nothing is said of someone
_NORMAL_95 = 1.96


@dataclass(frozen=True, slots=True)
class RaterReport:
    """One person's answers. None: too few to say, or nobody to compare with.

    Attributes:
        ratings, pairs: how many, repetitions included.
        agreement: rank correlation of their ratings with the mean of the others'.
        pair_agreement: share of their choices on the side that the others' answers put higher.
        bias, inconsistency: of the model of P.910, in MOS.
        repeat_error: mean difference between two ratings of one picture.
        repeat_same: share of repeated pairs answered alike.
        drift: change of their ratings against the others' from their first to their last.
        seconds: the median.
        golden: failed, of how many.
        left: share of the left side among their choices.
        notes: what is remarkable, in words.
        leave_out: why one might leave them out, in words; empty for most.
    """

    rater: str
    team: str
    ratings: int
    pairs: int
    agreement: float | None
    pair_agreement: float | None
    bias: float | None
    inconsistency: float | None
    repeat_error: float | None
    repeat_same: float | None
    drift: float | None
    seconds: float | None
    golden: tuple[int, int]
    left: float | None
    notes: tuple[str, ...]
    leave_out: tuple[str, ...]


def report(judgements: Sequence[Judgement], mos: Mos | None) -> list[RaterReport]:
    """One report a person, in the order of their names."""
    everyone = sorted({one.rater for one in judgements})
    others = _means_of_others(judgements)
    agreements = {name: _agreement(judgements, name, others) for name in everyone}
    usual = _median([value for value, _ in agreements.values() if value is not None])
    return [_report(judgements, name, mos, agreements[name], usual, others) for name in everyone]


def _report(
    judgements: Sequence[Judgement],
    name: str,
    mos: Mos | None,
    agreement: tuple[float | None, int],
    usual: float | None,
    others: Mapping[tuple[str, str], float],
) -> RaterReport:
    own = sorted((one for one in judgements if one.rater == name), key=lambda one: one.order)
    ratings = [one for one in own if one.kind == "rating" and one.role != "golden"]
    pairs = [one for one in own if one.kind == "pair" and one.role != "golden"]
    golden = [one.right for one in own if one.right is not None]
    failed = golden.count(False)
    seconds = [one.seconds for one in own if not math.isnan(one.seconds)]
    drift, drift_sure = _drift(ratings, others)
    choices = [one.value for one in pairs if one.value != "same"]
    left = choices.count("left") / len(choices) if len(choices) >= _LEAST else None
    pair_agreement, chosen = _pair_agreement(judgements, name)
    notes, leave_out = [], []
    if drift is not None and drift_sure and abs(drift) > 0.5:
        notes.append(f"ratings drift by {drift:+.1f}")
    if seconds and sum(s < FAST_SECONDS for s in seconds) > 0.2 * len(seconds):
        share = sum(s < FAST_SECONDS for s in seconds) / len(seconds)
        notes.append(f"{share:.0%} of answers in under {FAST_SECONDS:g} s")
    if left is not None and _unlikely(choices.count("left"), len(choices)):
        notes.append(f"chooses the left side in {left:.0%}")
    if failed > 1 and failed / len(golden) > 0.3:
        leave_out.append(f"failed {failed} of {len(golden)} golden questions")
    common = Counter(one.value for one in ratings).most_common(1)
    if len(ratings) >= _LEAST and common[0][1] >= 0.9 * len(ratings):
        leave_out.append(f"rates {common[0][0]:g} in {common[0][1]} of {len(ratings)} cases")
    value, count = agreement
    if value is not None and usual is not None and _upper(value, count) < 0.75 * usual:
        leave_out.append(f"agrees little with the others ({value:.2f}; the usual is {usual:.2f})")
    if pair_agreement is not None and _upper_share(pair_agreement, chosen) < 0.65:
        leave_out.append(f"chooses like a coin ({pair_agreement:.0%} with the others)")
    return RaterReport(
        name,
        next((one.team for one in own if one.team), ""),
        len(ratings),
        len(pairs),
        value,
        pair_agreement,
        mos.bias.get(name) if mos else None,
        mos.inconsistency.get(name) if mos else None,
        _repeat_error(ratings),
        _repeat_same(pairs),
        drift,
        _median(seconds),
        (failed, len(golden)),
        left,
        tuple(notes),
        tuple(leave_out),
    )


def _means_of_others(judgements: Sequence[Judgement]) -> dict[tuple[str, str], float]:
    """(rater, picture) -> mean of what the others rated it, where they did."""
    table = tabulate(judgements)
    if not table.pictures:
        return {}
    given = ~np.isnan(table.ratings)
    counts, sums = given.sum(2), np.where(given, table.ratings, 0).sum(2)
    others = counts.sum(1, keepdims=True) - counts
    means = (sums.sum(1, keepdims=True) - sums) / np.maximum(others, 1)
    return {
        (rater, picture): float(means[row, column])
        for row, picture in enumerate(table.pictures)
        for column, rater in enumerate(table.raters)
        if counts[row, column] and others[row, column]
    }


def _agreement(
    judgements: Sequence[Judgement], name: str, others: Mapping[tuple[str, str], float]
) -> tuple[float | None, int]:
    pairs = [
        (float(one.value), others[name, one.pictures[0]])
        for one in judgements
        if one.rater == name
        and one.kind == "rating"
        and one.role != "golden"
        and (name, one.pictures[0]) in others
    ]
    if len(pairs) < _LEAST:
        return None, len(pairs)
    mine, theirs = (np.array(column) for column in zip(*pairs, strict=True))
    return rank_correlation(mine, theirs), len(pairs)


def _pair_agreement(judgements: Sequence[Judgement], name: str) -> tuple[float | None, int]:
    rest = [one for one in judgements if one.rater != name]
    pictures, given = compared(rest)
    place = {path: k for k, path in enumerate(pictures)}
    chosen = [
        one
        for one in judgements
        if one.rater == name
        and one.kind == "pair"
        and one.role != "golden"
        and one.value != "same"
        and all(path in place for path in one.pictures)
    ]
    if len(chosen) < _LEAST:
        return None, len(chosen)
    mean = posterior(flat_prior(len(pictures)), given).mean
    higher = [
        (mean[place[one.pictures[0]]] > mean[place[one.pictures[1]]]) == (one.value == "left")
        for one in chosen
    ]
    return float(np.mean(higher)), len(chosen)


def _drift(
    ratings: Sequence[Judgement], others: Mapping[tuple[str, str], float]
) -> tuple[float | None, bool]:
    """Change over all of a person's ratings, and whether it is more than chance (p < 0.01)."""
    from scipy.stats import linregress

    off = [
        float(one.value) - others[one.rater, one.pictures[0]]
        for one in ratings
        if (one.rater, one.pictures[0]) in others
    ]
    if len(off) < 2 * _LEAST:
        return None, False
    fit = linregress(np.linspace(0, 1, len(off)), off)
    return float(fit.slope), bool(fit.pvalue < 0.01)


def _repeat_error(ratings: Sequence[Judgement]) -> float | None:
    seen: dict[str, list[float]] = {}
    for one in ratings:
        seen.setdefault(one.pictures[0], []).append(float(one.value))
    off = [abs(own[1] - own[0]) for own in seen.values() if len(own) > 1]
    return float(np.mean(off)) if off else None


def _repeat_same(pairs: Sequence[Judgement]) -> float | None:
    seen: dict[frozenset[str], list[str | None]] = {}
    for one in pairs:
        index = {"left": 0, "right": 1}.get(one.value)
        better = None if index is None else one.pictures[index]
        seen.setdefault(frozenset(one.pictures), []).append(better)
    alike = [own[0] == own[1] for own in seen.values() if len(own) > 1]
    return float(np.mean(alike)) if alike else None


def _upper(correlation: float, count: int) -> float:
    """Upper end of its 95 % interval (Fisher's z; Fieller's error for rank correlations)."""
    z = math.atanh(max(-0.999, min(0.999, correlation)))
    return math.tanh(z + _NORMAL_95 * math.sqrt(1.06 / (count - 3)))


def _upper_share(share: float, count: int) -> float:
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(0.95, "wilson")
    return float(interval.high)


def _unlikely(left: int, count: int) -> bool:
    from scipy.stats import binomtest

    return bool(binomtest(left, count).pvalue < 0.01)


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None

"""The built-in rewards: pure functions of what was asked and what was answered.

Where they depart from those that Q-Insight was trained with (`qinsight_multi_task.py` in
github.com/bytedance/Q-Insight, commit 08308fdb21c1): the published `format` refuses the one-line
form that its own system prompt shows, and fenced JSON; the published degradation reward gives
nothing to JSON's null; answers are found by patterns that take "4.2.2" for a rating. Here they are
read as the scorer reads them.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence

from qinsight_plugin.attempts import TASKS, Attempt, RewardSpec
from qinsight_plugin.records import Distortion

# Thoughts, then the answer, and nothing before, between and after but white space.
_FORM = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)
_TAG = re.compile(r"</?(?:think|answer)>")


def well_formed(attempts: Sequence[Attempt]) -> list[float]:
    """1 for thoughts and a readable answer in the tags that the system prompt asks for, else 0.

    Line breaks, and a fence around JSON, are as the model likes.
    """
    return [float(one.readable and _has_form(one.reply)) for one in attempts]


def _has_form(reply: str) -> bool:
    form = _FORM.fullmatch(reply)
    return form is not None and not any(_TAG.search(part) for part in form.groups())


def threshold(attempts: Sequence[Attempt], *, width: float) -> list[float]:
    """1 for a rating that is less than `width` from the truth, else 0."""
    return [float(_off(one) < width) for one in attempts]


def continuous(attempts: Sequence[Attempt], *, width: float) -> list[float]:
    """1 for the true rating, falling off as a Gaussian whose standard deviation is `width`."""
    return [math.exp(-0.5 * (_off(one) / width) ** 2) for one in attempts]


def _off(attempt: Attempt) -> float:
    """MOS by which a rating is off; infinitely many where there is none."""
    answer, truth = attempt.answer, attempt.row.truth
    if isinstance(answer, float) and isinstance(truth, float):
        return abs(answer - truth)
    return math.inf


def rank(attempts: Sequence[Attempt], *, spread: float) -> list[float]:
    """How well a rating orders its picture among the others of the batch, 0 to 1.

    After VisualQuality-R1 (arXiv 2505.14460): by Thurstone's law the chance that picture i is
    better than j is Phi((r - m_j) / sqrt(v_i + v_j + spread)), for one rating r of i, the mean m_j
    of the ratings of j, and the variances v of each picture's ratings. The reward is the fidelity
    sqrt(p q) + sqrt((1-p)(1-q)) of that chance p and the truth q (1, 0, or 1/2 where both are
    rated alike), mean over all other pictures that have a readable rating. Without any there is
    nothing to order, and the reward is 0 for all.
    """
    ratings: dict[int, list[float]] = {}
    for one in attempts:
        if isinstance(one.answer, float):
            ratings.setdefault(one.group, []).append(one.answer)
    truths = {one.group: _mos(one) for one in attempts}
    means = {group: statistics.fmean(values) for group, values in ratings.items()}
    variances = {
        group: statistics.variance(values) if len(values) > 1 else 0.0
        for group, values in ratings.items()
    }
    rewards = []
    for one in attempts:
        others = [group for group in ratings if group != one.group]
        if not isinstance(one.answer, float) or not others:
            rewards.append(0.0)
            continue
        fidelities = []
        for other in others:
            deviation = math.sqrt(variances[one.group] + variances[other] + spread)
            chance = _normal((one.answer - means[other]) / deviation)
            truth = 0.5 + 0.5 * _sign(truths[one.group] - truths[other])
            fidelities.append(math.sqrt(chance * truth) + math.sqrt((1 - chance) * (1 - truth)))
        rewards.append(statistics.fmean(fidelities))
    return rewards


def _mos(attempt: Attempt) -> float:
    if not isinstance(attempt.row.truth, float):
        raise TypeError(f"the truth {attempt.row.truth!r} is no rating")
    return attempt.row.truth


def _normal(z: float) -> float:
    """The standard normal distribution function."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)


def degradation(attempts: Sequence[Attempt], *, name: float, severity: float) -> list[float]:
    """`name` for the right class, `severity` more for its right level; both for a rightful null."""
    return [
        0.0 if not one.readable else _degradation(one.answer, one.row.truth, name, severity)
        for one in attempts
    ]


def _degradation(answer: object, truth: object, name: float, severity: float) -> float:
    if answer == truth:
        return name + severity
    if isinstance(answer, Distortion) and isinstance(truth, Distortion):
        return name if answer.name == truth.name else 0.0
    return 0.0


def comparison(attempts: Sequence[Attempt]) -> list[float]:
    """1 for the right choice, else 0."""
    return [float(one.readable and one.answer == one.row.truth) for one in attempts]


SPECS = (
    RewardSpec("format", well_formed, TASKS, "thoughts and a readable answer, in their tags"),
    RewardSpec(
        "threshold", threshold, ("score",), "1 for a rating near the truth", {"width": 0.35}
    ),
    RewardSpec(
        "continuous", continuous, ("score",), "the nearer a rating, the more", {"width": 0.5}
    ),
    RewardSpec(
        "rank", rank, ("score",), "the order among the pictures of a batch", {"spread": 1e-3}
    ),
    RewardSpec(
        "degradation",
        degradation,
        ("degradation",),
        "the class, and then the severity",
        {"name": 0.25, "severity": 0.75},
    ),
    RewardSpec("comparison", comparison, ("comparison",), "which picture is better"),
)

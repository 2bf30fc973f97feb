"""A teacher's answers -> what a student can learn: a MOS a picture, and how far to trust it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.answers import Answer, Finding
from qinsight_plugin.errors import LabelsError
from qinsight_plugin.records import DISTORTIONS

Vector: TypeAlias = npt.NDArray[np.float32]

LEAST_TO_LEARN = 30
"""Pictures with an answer."""

PRIOR_FREEDOM = 4
"""Degrees of freedom as which the variance common to all pictures counts for each of them."""


@dataclass(frozen=True, slots=True, eq=False)
class TeacherLabels:
    """What training needs; item i of every field is about picture i. See `teacher_labels`.

    Attributes:
        paths: the N pictures that have an answer.
        mos: float32 [N], mean replies, 1 to 5.
        variance: float32 [N], squared standard errors of `mos`; NaN where every picture has but
            one reply, since nothing is known of it then.
        reliability: float32 [N], 0 to 1, the weights to learn with.
        severities: float32 [N, 4], mean severity of each of `DISTORTIONS`, 0 to 5; NaN in the rows
            of pictures whose distortions were not judged.
    """

    paths: tuple[Path, ...]
    mos: Vector
    variance: Vector
    reliability: Vector
    severities: Vector


def teacher_labels(answers: Sequence[Answer]) -> TeacherLabels:
    """The answers as a student can learn from them; pictures without a readable reply are left out.

    The variance of a picture's replies is moderated (Smyth 2004): with s_i^2 from n_i replies and
    s^2 pooled over all pictures, it is (4 s^2 + (n_i - 1) s_i^2) / (4 + n_i - 1), for a few replies
    may agree by chance. Over n_i it is the variance v_i of their mean. The reliability is that of
    classical test theory, B / (B + v_i): the share of the differences between pictures that is not
    chance, where B, the variance between pictures, is that of the means less the mean v_i. It is 1
    where every picture has one reply, or all replies agree. What the teacher says of its own
    uncertainty is not part of it: asking more often does not reduce that.

    Raises:
        LabelsError: more than half of the replies are unreadable, fewer than 30 pictures have an
            answer, or the answers do not tell the pictures apart.
    """
    _require_readable(answers)
    usable = [answer for answer in answers if answer.readable]
    if len(usable) < LEAST_TO_LEARN:
        raise LabelsError(
            f"teacher: {len(usable)} of {len(answers)} pictures have an answer, {LEAST_TO_LEARN} "
            "are the least to learn from: add pictures"
        )
    means = np.array([answer.mean for answer in usable], np.float64)
    if np.ptp(means) == 0:
        raise LabelsError(
            f"teacher: all {len(usable)} pictures were given {means[0]:.3g}, so there is nothing "
            "to learn: choose another teacher, or better and worse pictures"
        )
    variance = _variance_of_means(usable)
    noise = np.nan_to_num(variance)
    between = means.var(ddof=1) - noise.mean()
    if between <= 0:
        raise LabelsError(
            f"teacher: its replies differ as much about one picture as between all {len(usable)} "
            "of them: ask for more samples, choose another teacher, or add better and worse "
            "pictures"
        )
    unknown = dict.fromkeys(DISTORTIONS, Finding(math.nan, math.nan))
    found = [unknown if a.distortions is None else a.distortions for a in usable]
    return TeacherLabels(
        paths=tuple(answer.path for answer in usable),
        mos=means.astype(np.float32),
        variance=variance.astype(np.float32),
        reliability=(between / (between + noise)).astype(np.float32),
        severities=np.array([[f[name].severity for name in DISTORTIONS] for f in found], "f4"),
    )


def _require_readable(answers: Sequence[Answer]) -> None:
    shown = [answer for answer in answers if answer.error is None]
    replies = sum(answer.samples for answer in shown)
    unreadable = replies - sum(answer.readable for answer in shown)
    if unreadable > replies / 2:
        raise LabelsError(
            f"teacher: {unreadable} of {replies} replies could not be read: let it write longer, "
            "lower its temperature, or choose another teacher"
        )


def _variance_of_means(usable: Sequence[Answer]) -> npt.NDArray[np.float64]:
    replies = np.array([answer.readable for answer in usable])
    spread = np.array([answer.spread for answer in usable], np.float64)
    freedom = replies - 1
    if not freedom.any():
        return np.full(len(usable), math.nan)
    own = freedom * spread**2
    pooled = own.sum() / freedom.sum()
    moderated = (PRIOR_FREEDOM * pooled + own) / (PRIOR_FREEDOM + freedom)
    return np.asarray(moderated / replies, np.float64)

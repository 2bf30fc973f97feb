"""Replies -> attempts -> rewards: what a training calls for each batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from qinsight_plugin.attempts import Attempt, Row, Truth
from qinsight_plugin.errors import QInsightError, RewardError, ScoreParseError, described
from qinsight_plugin.grpo.config import Wanted
from qinsight_plugin.reasoning.replies import read_distortion, read_preference, read_rating


def attempt_at(row: Row, group: int, reply: str, cut: bool = False) -> Attempt:
    """The reply, read as strictly as the scorer reads it."""
    try:
        answer: Truth
        if row.task == "score":
            answer = read_rating(reply, cut=cut).value
        elif row.task == "degradation":
            answer = read_distortion(reply, cut=cut).distortion
        else:
            answer = read_preference(reply, cut=cut).better
    except ScoreParseError:
        return Attempt(row, group, reply, None, False, cut)
    return Attempt(row, group, reply, answer, True, cut)


class Judge:
    """Gives attempts their rewards.

    Args:
        wanted: the rewards, their weights and settings.
    """

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.wanted = tuple(wanted)

    def judge(self, attempts: Sequence[Attempt]) -> list[list[float | None]]:
        """By reward, in the order of `wanted`, a number for each attempt; None: not its task.

        Raises:
            RewardError: a reward raised, or gave anything but a finite number an attempt.
        """
        return [self._column(one, attempts) for one in self.wanted]

    def totals(self, columns: Sequence[Sequence[float | None]]) -> list[float]:
        """The weighted sum for each attempt."""
        weights = [one.weight for one in self.wanted]
        return [
            sum(w * value for w, value in zip(weights, row, strict=True) if value is not None)
            for row in zip(*columns, strict=True)
        ]

    def _column(self, wanted: Wanted, attempts: Sequence[Attempt]) -> list[float | None]:
        own = [k for k, one in enumerate(attempts) if one.row.task in wanted.spec.tasks]
        column: list[float | None] = [None] * len(attempts)
        if own:
            values = _rewarded(wanted, [attempts[k] for k in own])
            for k, value in zip(own, values, strict=True):
                column[k] = value
        return column


def _rewarded(wanted: Wanted, attempts: Sequence[Attempt]) -> list[float]:
    name, reward = wanted.spec.name, wanted.spec.reward
    try:
        values: list[Any] = list(reward(attempts, **wanted.settings))
    except QInsightError:
        raise
    except Exception as error:
        where = _describe(_culprit(wanted, attempts))
        raise RewardError(f"reward {name} failed on {where}: {described(error)}") from error
    if len(values) != len(attempts):
        raise RewardError(
            f"reward {name} gave {len(values)} numbers for {len(attempts)} attempts, such as "
            f"{_describe(attempts[0])}"
        )
    for value, one in zip(values, attempts, strict=True):
        if not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RewardError(
                f"reward {name} gave {value!r}, no finite number, to {_describe(one)}"
            )
    return [float(value) for value in values]


def _culprit(wanted: Wanted, attempts: Sequence[Attempt]) -> Attempt:
    """The first attempt on which the reward fails by itself; the first, if it takes several."""
    for one in attempts:
        try:
            wanted.spec.reward([one], **wanted.settings)
        except Exception:
            return one
    return attempts[0]


def _describe(one: Attempt) -> str:
    words = repr(" ".join(one.reply.split()))
    short = words if len(words) <= 80 else f"{words[:77]}..."
    return f"{one.row.place} ({one.row.pictures[0].name}), whose reply was {short}"

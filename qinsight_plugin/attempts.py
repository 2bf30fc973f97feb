"""What a model in training is asked, what it answered, and what a reward is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from qinsight_plugin.records import Better, Distortion

Task: TypeAlias = Literal["score", "degradation", "comparison"]
"""Q-Insight's three questions: how good, what is wrong, which is better."""

TASKS: tuple[Task, ...] = ("score", "degradation", "comparison")

Truth: TypeAlias = "float | Distortion | Better | None"


@dataclass(frozen=True, slots=True)
class Row:
    """One question whose answer is known.

    Attributes:
        task: which question.
        pictures: what is shown: one; to compare, A and B, and what both were made from, if known.
        truth: by task the MOS from 1 (bad) to 5 (excellent); the distortion, None where nothing is
            wrong; "A", "B" or "similar".
        place: where it was read, such as "labels.csv line 7".
        proxy: the truth was computed by a program, not said by people.
    """

    task: Task
    pictures: tuple[Path, ...]
    truth: Truth
    place: str
    proxy: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One reply to a row.

    Attributes:
        row: what was asked.
        group: the same number for all replies to one asking of the row.
        reply: all that the model wrote.
        answer: what that says, in the terms of `Row.truth`; None too where it cannot be read.
        readable: whether it can be read, by the strict rules of `reasoning.replies`.
        cut: it ended at the limit of tokens.
    """

    row: Row
    group: int
    reply: str
    answer: Truth
    readable: bool
    cut: bool = False


Reward: TypeAlias = Callable[..., Sequence[float]]
"""`reward(attempts, **settings)`: a number for each attempt, in order; the more the better."""


@dataclass(frozen=True, slots=True)
class RewardSpec:
    """A reward that a training may use.

    Attributes:
        name: how the settings of a training ask for it.
        reward: a pure function: it is given all attempts of a batch at its tasks, several groups of
            them, for a reward may compare them. What it raises ends the training, with the row
            named.
        tasks: whose attempts it judges; the others have no such reward, which is not 0.
        summary: one line.
        settings: its settings and their defaults.
    """

    name: str
    reward: Reward
    tasks: tuple[Task, ...]
    summary: str
    settings: Mapping[str, float] = field(default_factory=dict)

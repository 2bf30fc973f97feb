"""What a person can be asked, and what counts as an answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import ACR_LEVELS, SEVERITIES

Kind: TypeAlias = Literal["rating", "pair", "best", "severity", "adjust"]
Role: TypeAlias = Literal["practice", "main", "repeat", "golden"]

SIDES = ("left", "right", "same")
LEVELS = ("none", *SEVERITIES)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture as it was when it was shown.

    Attributes:
        path: from the study's folder, with forward slashes.
        digest: SHA-256 of the file: an answer is about these bytes and no others.
    """

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question to one person.

    Attributes:
        number: in the store; unique.
        rater: who is asked, by number.
        kind: what is asked.
        role: "main" counts; "repeat" asks a main one again; "golden" has a known answer;
            "practice" never counts.
        pictures: in the order in which they are shown: left before right.
        about: what else belongs to the question: the distortion's name, the parameter's range.
        truth: the known answer of a golden question, else None.
    """

    number: int
    rater: int
    kind: Kind
    role: Role
    pictures: tuple[Shown, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    truth: Any = None


def check_answer(question: Question, value: Any) -> Any:
    """The answer, if it is one to this question.

    Returns:
        rating: a whole number from 1 to 5; pair: "left", "right" or "same"; best: the index of a
        picture; severity: one of `LEVELS`; adjust: a number of the parameter's range.

    Raises:
        ConfigError: it is none.
    """
    kind = question.kind
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "rating":
        fits = number and value in range(1, len(ACR_LEVELS) + 1)
    elif kind == "pair":
        fits = value in SIDES
    elif kind == "best":
        fits = number and value in range(len(question.pictures))
    elif kind == "severity":
        fits = value in LEVELS
    else:
        low, high = question.about["low"], question.about["high"]
        fits = number and math.isfinite(value) and low <= value <= high
    if not fits:
        raise ConfigError(f"question {question.number}: {value!r} is no answer to a {kind}")
    return int(value) if kind in ("rating", "best") else value


def is_right(question: Question, value: Any) -> bool | None:
    """Whether a golden question was answered as it should be; None where nothing is known.

    A rating may be a level off the known MOS, and half a level more, since that is seldom whole.
    """
    if question.truth is None:
        return None
    if question.kind == "rating":
        return abs(float(value) - float(question.truth)) <= 1.5
    return bool(value == question.truth)

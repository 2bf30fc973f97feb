"""What people said about pictures, wherever it was written down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qinsight_plugin.feedback.questions import Kind, Role


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one person said once.

    Attributes:
        rater, team: who; "" is no team.
        kind, role, about: see `Question`.
        pictures: paths from the folder of pictures; a pair's left one first.
        value: as `check_answer` returns it; a rating may be any number from 1 to 5.
        seconds: that it took; NaN where unknown.
        order: when, as a number that grows.
        right: whether a golden question was answered rightly; None for others.
    """

    rater: str
    kind: Kind
    pictures: tuple[str, ...]
    value: Any
    team: str = ""
    role: Role = "main"
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan
    order: float = 0.0
    right: bool | None = None


@dataclass(frozen=True, slots=True)
class Gathered:
    """Judgements that count, practice left out.

    Attributes:
        stale: pictures whose file has changed or gone since they were judged, and how many
            judgements were about them; those are left out.
    """

    judgements: tuple[Judgement, ...]
    stale: Mapping[str, int] = field(default_factory=dict)

    def of(self, kind: Kind) -> list[Judgement]:
        return [one for one in self.judgements if one.kind == kind]

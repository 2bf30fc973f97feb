"""How well a model in training answers about what was held back, asked as a scorer asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qinsight_plugin.attempts import TASKS, Attempt, Row
from qinsight_plugin.errors import ScorerError
from qinsight_plugin.evaluate import LEAST, linear_correlation, rank_correlation
from qinsight_plugin.grpo.judge import Judge, attempt_at
from qinsight_plugin.grpo.processor import prompt_of
from qinsight_plugin.reasoning.model import LanguageModel, Sampling
from qinsight_plugin.records import Distortion


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What to ask, and how.

    Attributes:
        rows: of all tasks.
        pixels, max_tokens: as in training.
    """

    rows: tuple[Row, ...]
    pixels: int
    max_tokens: int


def replies(model: LanguageModel, held: HeldOut, rows: Sequence[Row]) -> list[Attempt]:
    """The likeliest reply to each row, once: an unreadable one is counted, not asked for again.

    Raises:
        ImageError, ScorerError: a picture cannot be shown.
    """
    return list(_replies(model, held, rows))


def _replies(model: LanguageModel, held: HeldOut, rows: Sequence[Row]) -> Iterator[Attempt]:
    sampling = Sampling(max_tokens=held.max_tokens)
    for start in range(0, len(rows), 8):  # few pictures in memory at a time
        asked = rows[start : start + 8]
        prompts = [prompt_of(row, held.pixels) for row in asked]
        answers = model.complete(prompts, [sampling] * len(asked))
        for k, (row, answer) in enumerate(zip(asked, answers, strict=True), start):
            if isinstance(answer, ScorerError):
                raise answer
            yield attempt_at(row, k, answer.text, answer.cut)


def figures(attempts: Sequence[Attempt], judge: Judge) -> dict[str, float]:
    """The figures of one measurement, of one reply to each row.

    `reward`: mean of the weighted sum; and of each task that has rows: `TASK/reward`,
    `TASK/unreadable`, the share of replies that cannot be read; `score/srcc` and `score/plcc` over
    those that can, 0 for a model that says the same of every picture; `degradation/accuracy` for
    class and severity, `degradation/class`; `comparison/accuracy`.
    """
    # Each process numbered its own from 0.
    attempts = [replace(one, group=k) for k, one in enumerate(attempts)]
    totals = judge.totals(judge.judge(attempts))
    found = {"reward": float(np.mean(totals))}
    for task in TASKS:
        own = [k for k, one in enumerate(attempts) if one.row.task == task]
        if not own:
            continue
        mine = [attempts[k] for k in own]
        found[f"{task}/reward"] = float(np.mean([totals[k] for k in own]))
        found[f"{task}/unreadable"] = float(np.mean([not one.readable for one in mine]))
        if task == "score":
            found |= _correlations(mine)
        else:
            right = [one.readable and one.answer == one.row.truth for one in mine]
            found[f"{task}/accuracy"] = float(np.mean(right))
        if task == "degradation":
            named = [one.readable and _name(one.answer) == _name(one.row.truth) for one in mine]
            found["degradation/class"] = float(np.mean(named))
    return found


def _correlations(attempts: Sequence[Attempt]) -> dict[str, float]:
    told = [
        (one.answer, one.row.truth)
        for one in attempts
        if isinstance(one.answer, float) and isinstance(one.row.truth, float)
    ]
    if len(told) < LEAST:
        return {"score/srcc": 0.0, "score/plcc": 0.0}
    ratings, truths = np.array(told, np.float64).T
    return {
        "score/srcc": rank_correlation(ratings, truths),
        "score/plcc": linear_correlation(ratings, truths),
    }


def _name(truth: object) -> str | None:
    return truth.name if isinstance(truth, Distortion) else None


def merit(found: dict[str, float], metric: str) -> float:
    """By which the best checkpoint is kept: the metric, times the share of readable replies, lest
    a model be kept that answers about easy pictures only."""
    if metric == "accuracy":
        values = [value for name, value in found.items() if name.endswith("/accuracy")]
        return float(np.mean(values)) if values else 0.0
    readable = 1 - found.get("score/unreadable", 1.0)
    return readable * found.get(f"score/{metric}", 0.0)

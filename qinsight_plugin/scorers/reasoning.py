"""A vision-language model as a scorer: it is asked, it writes, and what it writes is read.

Where the model runs is no concern of this module; see `local` and `remote`.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from qinsight_plugin.errors import ConfigError, ScoreParseError, ScorerError
from qinsight_plugin.reasoning.asking import Asking, Question, ask, cost_of, notes_of
from qinsight_plugin.reasoning.model import LanguageModel, NextToken
from qinsight_plugin.reasoning.prompts import (
    ANSWER_PREFIX,
    ask_distortion,
    ask_preference,
    ask_rating,
)
from qinsight_plugin.reasoning.replies import (
    Diagnosis,
    Rating,
    read_distortion,
    read_preference,
    read_rating,
)
from qinsight_plugin.records import Cost, Image, Preference, Score, ScorerSpec

DIGITS = "12345"
MIDDLES = (1.5, 2.5, 3.5, 4.5, 5.0)
"""The middle of the ratings that begin with each digit: their decimals are not written yet."""

LEAST_SURE = 0.5
"""Probability that a digit comes next, under which the model is not giving a rating."""


class ReasoningScorer:
    """Asks for the rating and the distortion of a picture. Thread-safe.

    The same answers in every batch, and every time, as far as the model keeps that promise.

    Args:
        spec: what it is registered as; its version is made of the model's and `asking`.
    """

    def __init__(self, spec: ScorerSpec, model: LanguageModel, asking: Asking) -> None:
        self.spec = replace(spec, version=f"{model.version} {asking}")
        self._model = model
        self._asking = asking

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One score an image; references are not looked at.

        Raises:
            ScoreParseError: no reply about one of them could be read; it carries the last.
            ScorerError: the model gave no reply.
        """
        judge = self._direct if self._asking.mode == "direct" else self._thinking
        scores = []
        for score in judge(images):
            if isinstance(score, ScorerError):
                raise score
            scores.append(score)
        return scores

    def sample(self, image: Image, count: int) -> list[Score | ScorerError]:
        """That many scores of one image, each of replies drawn at random, or why there is none.

        They are not asked for again: a teacher's unreadable replies are to be counted.

        Raises:
            ConfigError: the mode is "direct", in which nothing is drawn.
            ScorerError: there is no use in asking on.
        """
        if self._asking.mode == "direct":
            raise ConfigError("mode=direct draws nothing at random: ask for one sample")
        once = replace(self._asking, retries=0)
        ratings = [rating(image, once, number, drawn=True) for number in range(count)]
        findings = [
            distortion(image, once, number, drawn=True) if once.distortions else None
            for number in range(count)
        ]
        seconds = timed_ask(self._model, [*ratings, *filter(None, findings)], once) / count
        return [
            scored([own], finding, seconds) for own, finding in zip(ratings, findings, strict=True)
        ]

    def _thinking(self, images: Sequence[Image]) -> list[Score | ScorerError]:
        asking = self._asking
        count, drawn = asking.samples, asking.samples > 1
        ratings = [[rating(image, asking, k, drawn) for k in range(count)] for image in images]
        findings = [distortion(image, asking) if asking.distortions else None for image in images]
        asked = [question for own in ratings for question in own]
        seconds = timed_ask(self._model, [*asked, *filter(None, findings)], asking)
        return [
            scored(own, finding, seconds) for own, finding in zip(ratings, findings, strict=True)
        ]

    def _direct(self, images: Sequence[Image]) -> list[Score | ScorerError]:
        begin = time.monotonic()
        prompts = [ask_rating(image) for image in images]
        answers = self._model.next_token(prompts, ANSWER_PREFIX, DIGITS)
        seconds = time.monotonic() - begin
        return [
            answer if isinstance(answer, ScorerError) else expected(answer, image.source, seconds)
            for answer, image in zip(answers, images, strict=True)
        ]


class ReasoningComparer:
    """Asks which of two pictures is better. Thread-safe; arguments as of `ReasoningScorer`."""

    def __init__(self, spec: ScorerSpec, model: LanguageModel, asking: Asking) -> None:
        self.spec = replace(spec, version=f"{model.version} {asking}")
        self._model = model
        self._asking = asking

    def compare(self, a: Image, b: Image, reference: Image | None = None) -> Preference:
        """Which is better, the model being shown both at once, and the reference if there is one.

        Raises:
            ScoreParseError: no reply could be read; it carries the last.
            ScorerError: the model gave no reply.
        """
        question = Question(
            ask_preference(a, b, reference),
            self._asking.likeliest(),
            lambda reply: read_preference(reply.text, cut=reply.cut),
        )
        seconds = timed_ask(self._model, [question], self._asking)
        if question.answer is None:
            raise no_answer([question])
        choice, cost = question.answer, cost_of([question], seconds)
        return Preference(choice.better, choice.reasoning or None, cost, notes_of([question]))


def timed_ask(model: LanguageModel, questions: Sequence[Question[Any]], asking: Asking) -> float:
    """`ask`, and how many seconds it took."""
    begin = time.monotonic()
    ask(model, questions, asking)
    return time.monotonic() - begin


def rating(image: Image, asking: Asking, number: int, drawn: bool) -> Question[Rating]:
    sampling = asking.drawn(number) if drawn else asking.likeliest()
    return Question(
        ask_rating(image),
        sampling,
        lambda reply: read_rating(reply.text, cut=reply.cut),
        number,
    )


def distortion(
    image: Image, asking: Asking, number: int = 0, drawn: bool = False
) -> Question[Diagnosis]:
    sampling = asking.drawn(number) if drawn else asking.likeliest()
    return Question(
        ask_distortion(image),
        sampling,
        lambda reply: read_distortion(reply.text, cut=reply.cut),
        number,
    )


def scored(
    ratings: Sequence[Question[Rating]], finding: Question[Diagnosis] | None, seconds: float
) -> Score | ScorerError:
    """The score that readable replies make together, or the error if there is no readable rating.

    Of several, the reasons are those of the first. A distortion that could not be read is not
    known, and the notes say so.
    """
    answers = [question.answer for question in ratings if question.answer is not None]
    if not answers:
        return no_answer(ratings)
    questions: list[Question[Any]] = [*ratings, *([finding] if finding else [])]
    values, notes = [answer.value for answer in answers], notes_of(questions)
    thoughts, distortions = [answers[0].reasoning], None
    if finding is not None and finding.answer is not None:
        thoughts.append(finding.answer.reasoning)
        named = finding.answer.distortion
        distortions = () if named is None else (named,)
    elif finding is not None:
        notes = (*notes, f"no distortion known: {no_answer([finding])}")
    return Score(
        value=statistics.fmean(values),
        uncertainty=statistics.stdev(values) if len(values) > 1 else None,
        distortions=distortions,
        reasoning="\n\n".join(filter(None, thoughts)) or None,
        cost=cost_of(questions, seconds),
        notes=notes,
    )


def expected(answer: NextToken, source: str, seconds: float) -> Score | ScorerError:
    """The mean of `MIDDLES` by the digits' probabilities. Decimals count as evenly spread between
    a digit and the next, so that their variance is 1/12 (none after a 5)."""
    total = sum(answer.probabilities)
    if total < LEAST_SURE:
        return ScoreParseError(
            f"the model would begin its rating of {source} with a digit from 1 to 5 by a "
            f"probability of {total:.2g} only: it does not know Q-Insight's form of reply; use "
            "mode=thinking, or another model"
        )
    shares = [probability / total for probability in answer.probabilities]
    mean = sum(share * middle for share, middle in zip(shares, MIDDLES, strict=True))
    digits = sum(
        share * (middle - mean) ** 2 for share, middle in zip(shares, MIDDLES, strict=True)
    )
    return Score(
        value=mean,
        uncertainty=math.sqrt(digits + (1 - shares[-1]) / 12),
        cost=Cost(1, 0, answer.prompt_tokens, 0, seconds),
        notes=answer.notes,
    )


def no_answer(questions: Sequence[Question[Any]]) -> ScorerError:
    """The last failure, and how often it was tried."""
    last = [question.failure for question in questions if question.failure is not None][-1]
    replies = sum(len(question.replies) for question in questions)
    if isinstance(last, ScoreParseError) and replies > 1:
        return type(last)(f"none of {replies} replies could be read; the last: {last}", last.reply)
    return last

"""How a model is asked, and asked again until its reply can be read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from qinsight_plugin.errors import ConfigError, ScoreParseError, ScorerError
from qinsight_plugin.reasoning.model import Completion, LanguageModel, Prompt, Sampling
from qinsight_plugin.records import Cost

A = TypeVar("A")
Mode: TypeAlias = Literal["thinking", "direct"]


@dataclass(frozen=True, slots=True)
class Asking:
    """How a model is asked.

    Attributes:
        mode: "thinking": it writes its thoughts, then the rating. "direct": it writes nothing; the
            rating is the mean of the digits that it might begin it with, by their probabilities,
            each taken for the middle of the ratings that begin so. Fast, and without reasons.
        samples: ratings that are asked for, drawn at random if more than one; the score is their
            mean, its uncertainty their standard deviation.
        distortions: whether the model is also asked what is wrong with the picture, which takes
            about as long as the rating; never in direct mode.
        retries: how many more times a reply that cannot be read is asked for, drawn at random
            then: the likeliest reply would be the same again.
        temperature: of what is drawn at random.
        seed: of the same.
        max_tokens: the longest reply.

    Raises:
        ConfigError: a value is out of range.
    """

    mode: Mode = "thinking"
    samples: int = 1
    distortions: bool = True
    retries: int = 2
    temperature: float = 1.0
    seed: int = 0
    max_tokens: int = 1024

    def __post_init__(self) -> None:
        if self.mode not in ("thinking", "direct"):
            raise ConfigError(f"mode must be thinking or direct, not {self.mode!r}")
        if self.mode == "direct" and self.samples != 1:
            raise ConfigError("mode=direct draws nothing at random: leave out samples")
        for name, least in (("samples", 1), ("retries", 0), ("seed", 0), ("max_tokens", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be {least} or more, not {getattr(self, name)}")
        if not 0 < self.temperature < math.inf:
            raise ConfigError(f"temperature must be above 0, not {self.temperature}")

    def likeliest(self) -> Sampling:
        """The sampling that has the same reply every time."""
        return Sampling(max_tokens=self.max_tokens)

    def drawn(self, number: int, attempt: int = 0) -> Sampling:
        """The sampling of attempt `attempt` at reply `number`; each draws on its own."""
        seed = self.seed + number * (self.retries + 1) + attempt
        return Sampling(self.temperature, seed=seed, max_tokens=self.max_tokens)


@dataclass(slots=True)
class Question(Generic[A]):
    """One thing asked once, until it is answered or given up.

    Attributes:
        prompt, sampling: what is asked; the sampling changes from attempt to attempt.
        read: finds the answer in a reply, or raises ScoreParseError.
        number: tells apart several askings of the same.
        answer: None until there is one.
        failure: why there is none.
        replies: what came, readable or not.
    """

    prompt: Prompt
    sampling: Sampling
    read: Callable[[Completion], A]
    number: int = 0
    answer: A | None = None
    failure: ScorerError | None = None
    replies: list[Completion] = field(default_factory=list)

    def take(self, reply: Completion | ScorerError) -> None:
        if isinstance(reply, ScorerError):
            self.failure = reply
            return
        self.replies.append(reply)
        try:
            self.answer, self.failure = self.read(reply), None
        except ScoreParseError as error:
            self.failure = error

    @property
    def unreadable(self) -> int:
        return len(self.replies) - (self.answer is not None)


def ask(model: LanguageModel, questions: Sequence[Question[Any]], asking: Asking) -> None:
    """Put all questions at once, and those again whose replies cannot be read."""
    pending = list(questions)
    for attempt in range(asking.retries + 1):
        if attempt:
            for question in pending:
                question.sampling = asking.drawn(question.number, attempt)
        replies = model.complete(
            [question.prompt for question in pending],
            [question.sampling for question in pending],
        )
        for question, reply in zip(pending, replies, strict=True):
            question.take(reply)
        pending = [each for each in pending if isinstance(each.failure, ScoreParseError)]
        if not pending:
            return


def cost_of(questions: Sequence[Question[Any]], seconds: float) -> Cost:
    replies = [reply for question in questions for reply in question.replies]
    return Cost(
        replies=len(replies),
        unreadable=sum(question.unreadable for question in questions),
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
        seconds=seconds,
    )


def notes_of(questions: Sequence[Question[Any]]) -> tuple[str, ...]:
    """What had to be decided, each thing once."""
    replies = [reply for question in questions for reply in question.replies]
    return tuple(dict.fromkeys(note for reply in replies for note in reply.notes))

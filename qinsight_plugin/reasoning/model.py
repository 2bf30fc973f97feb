"""What a vision-language model is to the rest of the house: questions in, words out.

`local.LocalModel` runs one in this process, `wire.RemoteModel` asks a server. Neither knows what is
asked: the questions are in `prompts`, the reading of the answers in `replies`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qinsight_plugin.errors import ScorerError
from qinsight_plugin.records import Image


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One conversation up to the model's turn.

    Attributes:
        system: the system message.
        parts: the user's message, texts and pictures in their order.
    """

    system: str
    parts: tuple[str | Image, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the likeliest token every time; the others are then without effect.
        top_k, top_p: only the k likeliest tokens, and of those the likeliest that together reach
            the probability p, can be drawn. 50 and 0.95 are Q-Insight's own demo's.
        seed: what is drawn depends on this and the prompt alone, where the model runs here; a
            server may or may not honour it.
        max_tokens: after so many the reply is cut.
    """

    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 0.95
    seed: int = 0
    max_tokens: int = 1024


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model wrote.

    Attributes:
        text: its reply, without special tokens.
        prompt_tokens, completion_tokens: how many were read, pictures included, and written.
        cut: the reply ended because it reached `max_tokens`.
        notes: what had to be decided about the pictures, such as "scaled to 1008x756".
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NextToken:
    """How likely a reply goes on with each of some choices.

    Attributes:
        probabilities: one a choice; their sum is under 1 by what anything else is likely.
        prompt_tokens: how many were read.
        notes: see `Completion`.
    """

    probabilities: tuple[float, ...]
    prompt_tokens: int
    notes: tuple[str, ...] = ()


class LanguageModel(Protocol):
    """A vision-language model. Must be safe to call from several threads, and may answer what
    several threads ask in one batch: a prompt's answer does not depend on the others in it.

    Attributes:
        name: what to call it in a message.
        version: changes whenever its answers may; "" where that is not known.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    def complete(
        self, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[Completion | ScorerError]:
        """A reply to each prompt, each in its own way of sampling, or why there is none.

        Raises:
            ScorerError: there is no use in asking on: the server is gone, the memory is not enough.
        """
        ...

    def next_token(
        self, prompts: Sequence[Prompt], prefix: str, choices: Sequence[str]
    ) -> list[NextToken | ScorerError]:
        """How likely the reply to each prompt, having begun with `prefix`, goes on with each of
        `choices`, every one of which must be one token to the model.

        Raises:
            ConfigError: a choice is more than one token, where that can be told.
            ScorerError: as `complete`.
        """
        ...

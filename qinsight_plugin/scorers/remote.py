"""`remote:URL?setting=value`: a vision-language model behind an OpenAI-style server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.arguments import require_none_left, split_argument, take_settings
from qinsight_plugin.reasoning.asking import Asking
from qinsight_plugin.reasoning.loading import PIXELS, seen_pixels
from qinsight_plugin.records import ScorerSpec
from qinsight_plugin.scorers.reasoning import ReasoningComparer, ReasoningScorer

if TYPE_CHECKING:
    from qinsight_plugin.reasoning.wire import RemoteModel

NAME = "remote"


@dataclass(frozen=True, slots=True)
class Serving:
    """See `RemoteModel` for what is not said here.

    Attributes:
        model: the server's name for the model; None takes the only one that it lists.
        key: whether the server is shown the key in QINSIGHT_API_KEY.
    """

    model: str | None = None
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 5
    deadline: float = 600.0
    key: bool = True


def load(argument: str) -> ReasoningScorer:
    """The scorer that `remote:ARGUMENT` asks for; for the errors see `RemoteModel`."""
    return ReasoningScorer(SPEC, *open_model(argument))


def load_comparer(argument: str) -> ReasoningComparer:
    return ReasoningComparer(SPEC, *open_model(argument))


def open_model(argument: str) -> tuple[RemoteModel, Asking]:
    from qinsight_plugin.reasoning.wire import RemoteModel

    url, settings = split_argument(argument)
    if not url:
        raise ConfigError("remote needs the server's address, such as remote:http://host:8000/v1")
    asking, serving = take_settings(Asking, settings, NAME), take_settings(Serving, settings, NAME)
    require_none_left(settings, NAME, Asking, Serving)
    model = RemoteModel(
        url,
        serving.model,
        concurrency=serving.concurrency,
        timeout=serving.timeout,
        attempts=serving.attempts,
        deadline=serving.deadline,
        key=None if serving.key else "",
    )
    return model, asking


SPEC = ScorerSpec(
    name=NAME,
    load=load,
    load_comparer=load_comparer,
    summary="the same on an OpenAI-style server (vLLM, SGLang, transformers serve); ARG is its "
    "address, and settings: http://host:8000/v1?model=NAME",
    max_pixels=seen_pixels(PIXELS),
)

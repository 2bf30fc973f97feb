"""`reasoning:MODEL?setting=value`: a vision-language model in this process."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.reasoning.arguments import require_none_left, split_argument, take_settings
from qinsight_plugin.reasoning.asking import Asking
from qinsight_plugin.reasoning.finding import DEFAULT_TARGET, Purpose
from qinsight_plugin.reasoning.loading import PIXELS, Loading, seen_pixels
from qinsight_plugin.records import ScorerSpec
from qinsight_plugin.scorers.reasoning import ReasoningComparer, ReasoningScorer

if TYPE_CHECKING:
    from qinsight_plugin.reasoning.local import LocalModel

NAME = "reasoning"


@dataclass(frozen=True, slots=True)
class Batching:
    """
    Attributes:
        batch: most questions that are answered at once.
    """

    batch: int = 8

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be 1 or more, not {self.batch}")


def load(argument: str) -> ReasoningScorer:
    """The scorer that `reasoning:ARGUMENT` asks for; for the errors see `load_checkpoint`."""
    return ReasoningScorer(*open_model(argument, "score_degradation"))


def load_comparer(argument: str) -> ReasoningComparer:
    return ReasoningComparer(*open_model(argument, "comparison"))


def open_model(argument: str, purpose: Purpose) -> tuple[ScorerSpec, LocalModel, Asking]:
    from qinsight_plugin.reasoning.local import LocalModel

    target, settings = split_argument(argument)
    asking, loading, batching = (
        take_settings(Asking, settings, NAME),
        take_settings(Loading, settings, NAME),
        take_settings(Batching, settings, NAME),
    )
    require_none_left(settings, NAME, Asking, Loading, Batching)
    target = target or DEFAULT_TARGET
    model = LocalModel.load(target, purpose, loading, batching.batch)
    return replace(SPEC, max_pixels=seen_pixels(loading.pixels)), model, asking


SPEC = ScorerSpec(
    name=NAME,
    load=load,
    load_comparer=load_comparer,
    summary="Q-Insight, or another vision-language model: MOS with reasons, distortions, "
    "comparison. ARG is a folder or hub id, and settings: DIR?samples=5",
    max_pixels=seen_pixels(PIXELS),
)

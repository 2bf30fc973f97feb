"""The scorer that asks a language model: what it asks, what it makes of replies it is given.

The model here writes what the test tells it to; the real ones are in test_local_model and
test_wire, and `test_reasoning_cli` joins the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.comparing import told_by
from qinsight_plugin.errors import ConfigError, ReplyCutError, ScoreParseError, ScorerError
from qinsight_plugin.reasoning.asking import Asking
from qinsight_plugin.reasoning.model import Completion, NextToken, Prompt, Sampling
from qinsight_plugin.reasoning.prompts import ANSWER_PREFIX, DISTORTION_QUESTION, RATING_QUESTION
from qinsight_plugin.records import Cost, Distortion, Image, Preference, Score, ScorerSpec
from qinsight_plugin.scorers.reasoning import ReasoningComparer, ReasoningScorer


def load(argument: str) -> ReasoningScorer:
    return ReasoningScorer(SPEC, Scripted(), Asking())


SPEC = ScorerSpec("scripted", load, "")
NOTHING_WRONG = '{"distortion_class": "null", "severity": "null"}'


def image(name: str = "a.png") -> Image:
    return Image(np.zeros((40, 60, 3), np.uint8), name, 60, 40)


def rated(value: str) -> str:
    return f'<think>I see {value}.</think><answer>{{"rating": {value}}}</answer>'


class Scripted:
    """Answers each question by `reply(prompt, sampling)`, and keeps what it was asked."""

    name, version = "scripted", "v7"

    def __init__(
        self,
        reply: Callable[[Prompt, Sampling], str | ScorerError] = lambda prompt, sampling: "",
        digits: tuple[float, ...] = (0, 0, 0, 0, 0),
    ) -> None:
        self.reply, self.digits = reply, digits
        self.asked: list[tuple[Prompt, Sampling]] = []

    def complete(
        self, prompts: Sequence[Prompt], samplings: Sequence[Sampling]
    ) -> list[Completion | ScorerError]:
        self.asked += zip(prompts, samplings, strict=True)
        replies = map(self.reply, prompts, samplings)
        return [
            reply
            if isinstance(reply, ScorerError)
            else Completion(reply, 100, 10, cut=reply.endswith("<answer>"), notes=("scaled",))
            for reply in replies
        ]

    def next_token(
        self, prompts: Sequence[Prompt], prefix: str, choices: Sequence[str]
    ) -> list[NextToken | ScorerError]:
        assert (prefix, choices) == (ANSWER_PREFIX, "12345")
        return [NextToken(self.digits, 100, ("scaled",)) for _ in prompts]


def by_question(rating: str, distortion: str) -> Callable[[Prompt, Sampling], str]:
    return lambda prompt, sampling: rating if RATING_QUESTION in prompt.parts else distortion


def score(model: Scripted, **settings: object) -> Score:
    asking = Asking(**settings)  # type: ignore[arg-type]
    (only,) = ReasoningScorer(SPEC, model, asking).score([image()])
    return only


def test_a_score_is_the_rating_with_reasons_distortion_and_cost() -> None:
    model = Scripted(
        by_question(
            rated("2.35"),
            '<think>Soft edges.</think><answer>{"distortion_class": "blur", '
            '"severity": "serious"}</answer>',
        )
    )
    told = score(model)
    assert told.value == 2.35
    assert told.distortions == (Distortion("blur", "serious"),)
    assert told.uncertainty is None
    assert told.reasoning == "I see 2.35.\n\nSoft edges."
    assert told.notes == ("scaled",)
    assert told.cost is not None
    assert told.cost == Cost(2, 0, 200, 20, told.cost.seconds)
    assert {
        part for prompt, _ in model.asked for part in prompt.parts if isinstance(part, str)
    } == {
        RATING_QUESTION,
        DISTORTION_QUESTION,
    }


def test_the_first_asking_is_greedy_and_all_pictures_are_asked_about_at_once() -> None:
    model = Scripted(by_question(rated("4.00"), NOTHING_WRONG))
    scores = ReasoningScorer(SPEC, model, Asking()).score([image("a"), image("b"), image("c")])
    assert [told.distortions for told in scores] == [(), (), ()]
    assert len(model.asked) == 6
    assert {sampling.temperature for _, sampling in model.asked} == {0.0}


def test_what_cannot_be_read_is_asked_again_at_random_and_counted() -> None:
    def mumble(prompt: Prompt, sampling: Sampling) -> str:
        return rated("3.10") if sampling.temperature else "hm"

    model = Scripted(mumble)
    told = score(model, distortions=False)
    assert told.value == 3.10
    assert told.cost is not None
    assert (told.cost.replies, told.cost.unreadable) == (2, 1)
    assert [sampling.temperature for _, sampling in model.asked] == [0.0, 1.0]


def test_there_is_no_score_when_no_reply_can_be_read_and_the_error_has_the_last() -> None:
    model = Scripted(lambda prompt, sampling: f"hm {sampling.seed}")
    with pytest.raises(ScoreParseError, match="none of 3 replies could be read") as caught:
        score(model, distortions=False)
    assert caught.value.reply == "hm 2"
    assert len({sampling.seed for _, sampling in model.asked}) == 3


def test_a_reply_that_was_cut_is_named_so() -> None:
    with pytest.raises(ReplyCutError):
        score(Scripted(lambda prompt, sampling: "<think>well</think><answer>"), retries=0)


def test_a_distortion_that_cannot_be_read_is_not_known_and_the_notes_say_so() -> None:
    told = score(Scripted(by_question(rated("4.20"), "no idea")))
    assert told.value == 4.20
    assert told.distortions is None
    assert any("no distortion known: none of 3 replies" in note for note in told.notes)
    assert told.cost is not None
    assert told.cost.unreadable == 3


def test_a_failing_model_is_not_asked_again() -> None:
    model = Scripted(lambda prompt, sampling: ScorerError("out of memory"))
    with pytest.raises(ScorerError, match="out of memory"):
        score(model)
    assert len(model.asked) == 2


@given(st.lists(st.integers(100, 500), min_size=2, max_size=8))
def test_samples_give_mean_and_standard_deviation(hundredths: list[int]) -> None:
    values = [number / 100 for number in hundredths]
    drawn = iter(values)
    model = Scripted(lambda prompt, sampling: rated(f"{next(drawn):.2f}"))
    told = score(model, samples=len(values), distortions=False)
    assert told.value == pytest.approx(np.mean(values))
    assert told.uncertainty == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    samplings = [sampling for _, sampling in model.asked]
    assert {sampling.temperature for sampling in samplings} == {1.0}
    assert len({sampling.seed for sampling in samplings}) == len(values)


def test_no_two_draws_share_a_seed_whatever_was_unreadable() -> None:
    asking = Asking(samples=5, retries=3)
    seeds = [asking.drawn(number, attempt).seed for number in range(5) for attempt in range(4)]
    assert len(set(seeds)) == len(seeds)


def test_a_teacher_gets_single_draws_and_unreadable_ones_as_errors() -> None:
    def every_other(prompt: Prompt, sampling: Sampling) -> str:
        if DISTORTION_QUESTION in prompt.parts:
            return '{"distortion_class": "noise", "severity": "slight"}'
        return "hm" if sampling.seed % 2 else rated("3.00")

    model = Scripted(every_other)
    answers = ReasoningScorer(SPEC, model, Asking()).sample(image(), 4)
    kinds = [type(answer) for answer in answers]
    assert kinds == [Score, ScoreParseError, Score, ScoreParseError]
    assert isinstance(answers[0], Score)
    assert answers[0].distortions == (Distortion("noise", "slight"),)
    assert {sampling.temperature for _, sampling in model.asked} == {1.0}
    assert len(model.asked) == 8


def test_nothing_can_be_drawn_in_direct_mode() -> None:
    with pytest.raises(ConfigError, match="ask for one sample"):
        ReasoningScorer(SPEC, Scripted(), Asking(mode="direct")).sample(image(), 4)


def test_direct_mode_is_the_mean_of_the_digits_middles() -> None:
    told = score(Scripted(digits=(0.0, 0.1, 0.2, 0.5, 0.1)), mode="direct")
    shares = np.array([0.0, 0.1, 0.2, 0.5, 0.1]) / 0.9
    middles = np.array([1.5, 2.5, 3.5, 4.5, 5.0])
    mean = float(shares @ middles)
    # Law of total variance: of the middles, and of decimals that are uniform on [0, 1).
    variance = float(shares @ (middles - mean) ** 2) + (1 - shares[4]) / 12
    assert told.value == pytest.approx(mean)
    assert told.uncertainty == pytest.approx(math.sqrt(variance))
    assert told.distortions is None
    assert told.reasoning is None


def test_direct_mode_refuses_a_model_that_would_not_give_a_rating() -> None:
    with pytest.raises(ScoreParseError, match=r"rating of a\.png .* probability of 0\.4 only"):
        score(Scripted(digits=(0.1, 0.1, 0.1, 0.1, 0.0)), mode="direct")


def test_a_comparison_tells_the_choice_with_reasons() -> None:
    model = Scripted(lambda prompt, sampling: "<think>B is sharp.</think><answer>Image B</answer>")
    told = ReasoningComparer(SPEC, model, Asking()).compare(image("a"), image("b"), image("r"))
    assert (told.better, told.reasoning) == ("B", "B is sharp.")
    ((prompt, _),) = model.asked
    shown = [part.source for part in prompt.parts if isinstance(part, Image)]
    assert shown == ["r", "a", "b"]


def test_a_comparison_without_a_readable_reply_is_an_error() -> None:
    with pytest.raises(ScoreParseError, match="none of 3"):
        ReasoningComparer(SPEC, Scripted(), Asking()).compare(image(), image())


def test_the_version_tells_model_and_manner_of_asking() -> None:
    versions = {
        ReasoningScorer(SPEC, Scripted(), asking).spec.version
        for asking in (Asking(), Asking(samples=3), Asking(mode="direct"))
    }
    assert len(versions) == 3
    assert all(version.startswith("v7 ") for version in versions)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "fast"}, "mode must be thinking or direct"),
        ({"mode": "direct", "samples": 2}, "leave out samples"),
        ({"samples": 0}, "samples must be 1 or more"),
        ({"retries": -1}, "retries must be 0 or more"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"max_tokens": 0}, "max_tokens must be 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Asking(**settings)  # type: ignore[arg-type]


def test_a_comparer_that_breaks_is_named_with_the_pictures() -> None:
    class Broken:
        spec = SPEC

        def compare(self, a: Image, b: Image, reference: Image | None = None) -> Preference:
            raise ValueError("out of\nluck")

    with pytest.raises(ScorerError, match=r"scripted failed on a, b: ValueError: out of luck"):
        told_by(Broken(), [image("a"), image("b")])

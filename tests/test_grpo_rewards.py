"""Rewards against their formulas, and against what the published ones get wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.attempts import Attempt, RewardSpec, Row, Truth
from qinsight_plugin.errors import PluginError, RewardError
from qinsight_plugin.grpo.config import Wanted
from qinsight_plugin.grpo.judge import Judge, attempt_at
from qinsight_plugin.grpo.rewards import (
    SPECS,
    comparison,
    continuous,
    degradation,
    rank,
    threshold,
    well_formed,
)
from qinsight_plugin.grpo.validation import figures
from qinsight_plugin.hookspecs import hookimpl
from qinsight_plugin.plugins import PluginHost
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion


def scored(truth: float, group: int = 0) -> Row:
    return Row("score", (Path(f"{group}.png"),), truth, f"labels.csv line {group + 2}")


def rated(truth: float, rating: float | None, group: int = 0) -> Attempt:
    reply = "?" if rating is None else f'{{"rating": {rating:.2f}}}'
    return attempt_at(scored(truth, group), group, reply)


def damaged(truth: Distortion | None) -> Row:
    return Row("degradation", (Path("d.png"),), truth, "d.jsonl line 1")


RATING = '{"rating": 3.50}'


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>\nIt is sharp.\n</think>\n<answer>\n{RATING}\n</answer>",
        f"<think> It is sharp. </think><answer> {RATING} </answer>",  # as the system prompt shows
        f"<think></think><answer>{RATING}</answer>\n",
        f"<think>It is sharp.</think>\n<answer>\n```json\n{RATING}\n```\n</answer>",
        f'<think>{{"rating": 1}} is too low.</think><answer>{RATING}</answer>',
    ],
)
def test_every_form_that_the_system_prompt_allows_is_well_formed(reply: str) -> None:
    assert well_formed([attempt_at(scored(3.0), 0, reply)]) == [1.0]


@pytest.mark.parametrize(
    "reply",
    [
        RATING,
        f"<answer>{RATING}</answer>",
        f"<think>It is sharp.</think>{RATING}",
        f"<think>It is sharp.<answer>{RATING}</answer>",
        f"<think>a</think><answer>{RATING}</answer> Thank you.",
        f"Well: <think>a</think><answer>{RATING}</answer>",
        f"<think>a</think><think>b</think><answer>{RATING}</answer>",
        f"<think>a</think><answer>{RATING}</answer><answer>{RATING}</answer>",
        '<think>a</think><answer>{"rating": 4.2.2}</answer>',
        '<think>a</think><answer>{"rating": 7}</answer>',
        "<think>a</think><answer>good</answer>",
        "",
    ],
)
def test_no_other_form_is(reply: str) -> None:
    assert well_formed([attempt_at(scored(3.0), 0, reply)]) == [0.0]


def test_threshold_is_the_published_one() -> None:
    """`abs(model_score - true_sol) < 0.35`, and nothing for a reply without a rating."""
    ratings = [3.0, 3.34, 2.66, 3.36, 5.0, None]
    rewards = threshold([rated(3.0, r) for r in ratings], width=0.35)
    assert rewards == [1, 1, 1, 0, 0, 0]


def test_a_rating_that_repeats_its_point_is_worth_nothing() -> None:
    one = attempt_at(scored(4.2), 0, '<answer>{"rating": 4.2.2}</answer>')
    assert threshold([one], width=0.35) == continuous([one], width=0.5) == [0.0]


@given(st.floats(1, 5), st.floats(1, 5), st.floats(0.05, 3))
def test_continuous_is_a_gaussian(truth: float, rating: float, width: float) -> None:
    one = Attempt(scored(truth), 0, "", rating, True)
    density = scipy.stats.norm(truth, width).pdf
    assert continuous([one], width=width)[0] == pytest.approx(density(rating) / density(truth))


def rank_as_written(groups: Sequence[tuple[float, Sequence[float]]], spread: float) -> list[float]:
    """VisualQuality-R1's equations by scipy, one loop a sum, every rating readable."""
    rewards = []
    for i, (mos, ratings) in enumerate(groups):
        for rating in ratings:
            total = 0.0
            for j, (other, theirs) in enumerate(groups):
                if i == j:
                    continue
                variance = scipy.stats.tvar(ratings) + scipy.stats.tvar(theirs) + spread
                mean = sum(theirs) / len(theirs)
                p = scipy.stats.norm.cdf((rating - mean) / math.sqrt(variance))
                q = 1.0 if mos > other else 0.0 if mos < other else 0.5
                total += math.sqrt(p * q) + math.sqrt((1 - p) * (1 - q))
            rewards.append(total / (len(groups) - 1))
    return rewards


def test_rank_follows_its_equations() -> None:
    groups = [(1.5, (1.2, 2.0, 3.1)), (3.0, (3.0, 2.5, 4.0)), (3.0, (3.5, 3.6, 3.2))]
    attempts = [rated(mos, r, k) for k, (mos, ratings) in enumerate(groups) for r in ratings]
    assert rank(attempts, spread=1e-3) == pytest.approx(rank_as_written(groups, 1e-3))


def test_rank_gives_nothing_for_what_cannot_be_read_or_ordered() -> None:
    assert rank([rated(2.0, 2.0), rated(2.0, 3.0)], spread=1e-3) == [0.0, 0.0]
    first, second = rank([rated(2.0, None), rated(4.0, 4.0, 1)], spread=1e-3)
    assert first == 0.0  # the other has no one to be compared with, either
    assert second == 0.0


@given(st.permutations([1.0, 2.0, 3.0, 4.0]))
def test_rank_does_not_depend_on_the_order_in_the_batch(truths: list[float]) -> None:
    def reward_of(order: Sequence[float]) -> dict[float, float]:
        attempts = [rated(mos, 6 - mos if mos < 3 else mos, int(mos)) for mos in order]
        rewards = rank(attempts, spread=1e-3)
        return {one.row.truth: r for one, r in zip(attempts, rewards, strict=True)}  # type: ignore[misc]

    assert reward_of(truths) == pytest.approx(reward_of([1.0, 2.0, 3.0, 4.0]))


@pytest.mark.parametrize("null", ["null", '"null"', '"None"'])
def test_null_is_right_where_nothing_is_wrong(null: str) -> None:
    """The published pattern looks for quotes, and gives JSON's own null nothing."""
    reply = f'<answer>{{"distortion_class": {null}, "severity": {null}}}</answer>'
    assert degradation([attempt_at(damaged(None), 0, reply)], name=0.25, severity=0.75) == [1.0]


def test_degradation_gives_a_quarter_for_the_class() -> None:
    truth = Distortion("blur", "serious")
    replies = {
        '{"distortion_class": "blur", "severity": "serious"}': 1.0,
        '{"distortion_class": "blur", "severity": "slight"}': 0.25,
        '{"distortion_class": "noise", "severity": "serious"}': 0.0,
        '{"distortion_class": null, "severity": null}': 0.0,
        '{"distortion_class": "blur", "severity": "awful"}': 0.0,
        "blur": 0.0,
    }
    attempts = [attempt_at(damaged(truth), k, reply) for k, reply in enumerate(replies)]
    assert degradation(attempts, name=0.25, severity=0.75) == list(replies.values())


@given(st.sampled_from(DISTORTIONS), st.sampled_from(SEVERITIES))
def test_an_unreadable_reply_is_not_taken_for_nothing_wrong(name: str, level: str) -> None:
    for truth in (None, Distortion(name, level)):
        one = attempt_at(damaged(truth), 0, "I cannot say.")
        assert degradation([one], name=0.25, severity=0.75) == [0.0]


def test_comparison_is_all_or_nothing() -> None:
    row = Row("comparison", (Path("a"), Path("b")), "A", "pairs.csv line 2")
    replies = ("<answer>Image A</answer>", "<answer>Image B</answer>", "Similar", "A or B")
    rewards = comparison([attempt_at(row, 0, reply) for reply in replies])
    assert rewards == [1.0, 0.0, 0.0, 0.0]


def judge(*specs: tuple[RewardSpec, float]) -> Judge:
    return Judge([Wanted(spec, weight, spec.settings) for spec, weight in specs])


BUILT_IN = {spec.name: spec for spec in SPECS}


def test_a_reward_of_another_task_is_none_and_not_nought() -> None:
    mixed = [rated(3.0, 3.0), attempt_at(damaged(None), 1, '{"distortion_class": null}')]
    both = judge((BUILT_IN["threshold"], 2.0), (BUILT_IN["degradation"], 1.0))
    columns = both.judge(mixed)
    assert columns == [[1.0, None], [None, 1.0]]
    assert both.totals(columns) == [2.0, 1.0]


def spec_of(reward: object) -> RewardSpec:
    return RewardSpec("own", reward, ("score",), "of a plugin")  # type: ignore[arg-type]


def test_what_a_reward_raises_names_the_row_and_the_reply() -> None:
    def fails_on_four(attempts: Sequence[Attempt]) -> list[float]:
        return [1 / (4.0 - one.answer) for one in attempts]  # type: ignore[operator]

    attempts = [rated(3.0, 3.0, 0), rated(3.0, 4.0, 5)]
    message = (
        r"reward own failed on labels.csv line 7 \(5.png\), whose reply was "
        r"'{\"rating\": 4.00}': ZeroDivisionError"
    )
    with pytest.raises(RewardError, match=message):
        judge((spec_of(fails_on_four), 1.0)).judge(attempts)


@pytest.mark.parametrize("given", [[1.0], [float("nan")] * 2, [None, 1.0], ["1", "2"]])
def test_a_reward_must_give_one_finite_number_an_attempt(given: list[object]) -> None:
    with pytest.raises(RewardError, match=r"reward own gave .*labels.csv line 2"):
        judge((spec_of(lambda attempts: given), 1.0)).judge([rated(3.0, 3.0), rated(3.0, 4.0)])


def test_plugins_add_rewards_and_take_no_name_twice() -> None:
    class Plugin:
        @hookimpl
        def qinsight_register_rewards(self, register: object) -> None:
            register(spec_of(len))  # type: ignore[operator]

    host = PluginHost(discover=False)
    assert list(host.reward_specs()) == list(BUILT_IN)
    host.add(Plugin(), "plugin", "here")
    assert {*host.reward_specs()} == {*BUILT_IN, "own"}
    host.add(Plugin(), "another", "here")
    with pytest.raises(PluginError, match="a reward named 'own' is registered already"):
        host.reward_specs()


@pytest.mark.parametrize(
    ("row", "reply", "answer"),
    [
        (scored(3.0), RATING, 3.5),
        (damaged(None), '{"distortion_class": null, "severity": null}', None),
        (Row("comparison", (Path("a"), Path("b")), "A", "x"), "Similar", "similar"),
    ],
)
def test_replies_are_read_as_the_scorer_reads_them(row: Row, reply: str, answer: Truth) -> None:
    one = attempt_at(row, 0, reply)
    assert one.readable
    assert one.answer == answer


@pytest.mark.parametrize("processes", [1, 2])
def test_perfect_replies_are_worth_as_much_by_several_processes(processes: int) -> None:
    truths = [1.0, 2.0, 3.0, 4.0]
    gathered = [
        rated(mos, mos, k)
        for place in range(processes)
        for k, mos in enumerate(truths[place::processes])  # each numbers its own
    ]
    found = figures(gathered, judge((BUILT_IN["rank"], 1.0)))
    assert found["score/reward"] == pytest.approx(1.0)

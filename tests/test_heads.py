"""The student's heads: levels by numerical integration, names by what must follow from logits,
and which output may teach which weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.records import DISTORTIONS
from qinsight_plugin.student.heads import (
    SPREAD_RANGE,
    JudgingHeads,
    level_probabilities,
    name_distortions,
    outputs_of,
)

WIDTH, CHANNELS = 12, 7

beliefs = st.tuples(st.floats(1, 5), st.floats(*SPREAD_RANGE))
logits = st.lists(st.floats(-25, 25, width=32), min_size=20, max_size=20)


def levels_of(mos: float, spread: float) -> list[float]:
    levels: list[float] = level_probabilities(torch.tensor([mos]), torch.tensor([spread]))[
        0
    ].tolist()
    return levels


def expected(function: Callable[[float], float], mos: float, spread: float) -> float:
    """E[function(x)] for x of N(mos, spread^2), between the kinks at 1 to 5 one by one."""
    density = scipy.stats.norm(mos, spread).pdf
    ends = np.clip([-np.inf, 1, 2, 3, 4, 5, np.inf], mos - 10 * spread, mos + 10 * spread)
    parts = [
        scipy.integrate.quad(lambda x: function(x) * density(x), low, high)[0]
        for low, high in pairwise(ends)
        if high - low > 1e-9  # narrower ones hold nothing, and quad warns of rounding in them
    ]
    return math.fsum(parts)


def hat(level: int) -> Callable[[float], float]:
    """Linear interpolation's weight of a level, for what is cut at 1 and 5."""
    return lambda x: max(0.0, 1 - abs(min(max(x, 1), 5) - level))


@settings(max_examples=25)
@given(beliefs)
def test_level_probabilities_are_the_hat_weights_under_the_belief(
    belief: tuple[float, float],
) -> None:
    wanted = [expected(hat(level), *belief) for level in range(1, 6)]
    assert levels_of(*belief) == pytest.approx(wanted, abs=1e-5)


@settings(max_examples=25)
@given(beliefs)
def test_the_mean_of_the_levels_is_the_mean_of_the_belief_cut_at_its_ends(
    belief: tuple[float, float],
) -> None:
    mean = np.dot(levels_of(*belief), range(1, 6))
    assert mean == pytest.approx(expected(lambda x: min(max(x, 1), 5), *belief), abs=2e-5)


@given(beliefs)
def test_level_probabilities_are_probabilities(belief: tuple[float, float]) -> None:
    levels = levels_of(*belief)
    assert sum(levels) == pytest.approx(1, abs=1e-6)
    assert min(levels) >= 0


@pytest.mark.parametrize("mos", [1.8, 2.0, 3.1, 4.2])
def test_no_level_is_a_hair_under_zero(mos: float) -> None:
    """Rounding used to leave some at -1e-7, which no reader of scores accepts."""
    spread = torch.linspace(*SPREAD_RANGE, 2000)
    assert level_probabilities(torch.full((2000,), mos), spread).min() >= 0


@given(logits)
def test_none_and_the_classes_share_all_of_the_probability(values: list[float]) -> None:
    probabilities, severities = name_distortions(torch.tensor(values).reshape(1, 4, 5))
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-6)
    assert probabilities.min().item() >= 0
    steps = scipy.special.expit(np.reshape(values, (4, 5)))
    assert severities[0].tolist() == pytest.approx(steps.sum(1), abs=1e-5)


def test_probabilities_are_whole_where_every_class_is_unlikely_but_not_absent() -> None:
    """One in 3000 of the first level and no other."""
    at_least = torch.full((1, 4, 5), -30.0)
    at_least[:, :, 0] = -8.0
    assert name_distortions(at_least)[0].sum().item() == pytest.approx(1, abs=1e-6)


def levels_reached(*counts: int, sure: float = 9.0) -> torch.Tensor:
    """Logits that say for sure how many levels each class reaches."""
    reached = torch.arange(5)[None] < torch.tensor(counts)[:, None]
    return torch.where(reached, sure, -sure)[None]


@pytest.mark.parametrize("worst", range(4))
def test_the_worst_of_several_distortions_is_named(worst: int) -> None:
    counts = [2, 2, 2, 2]
    counts[worst] = 4
    probabilities, severities = name_distortions(levels_reached(*counts))
    assert probabilities[0].argmax().item() == 1 + worst
    assert probabilities[0, 0].item() < 1e-3
    assert severities[0].tolist() == pytest.approx(counts, abs=0.01)


def test_where_no_level_is_reached_none_is_named() -> None:
    probabilities, severities = name_distortions(levels_reached(0, 0, 0, 0))
    assert probabilities[0].argmax().item() == 0
    assert probabilities[0, 0].item() > 0.99
    assert severities.max().item() < 0.01


def test_a_class_as_likely_as_not_leaves_half_to_none() -> None:
    at_least = levels_reached(0, 0, 0, 0, sure=30.0)
    at_least[0, 2] = 0.0
    probabilities, severities = name_distortions(at_least)
    assert probabilities[0].tolist() == pytest.approx([0.5, 0, 0, 0.5, 0], abs=1e-5)
    assert severities[0].tolist() == pytest.approx([0, 0, 2.5, 0], abs=1e-5)


@pytest.fixture
def heads() -> JudgingHeads:
    torch.manual_seed(0)
    heads = JudgingHeads(WIDTH, CHANNELS).eval()
    torch.nn.init.normal_(heads.spreader.weight, std=0.1)
    return heads


def described(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pooled = torch.randn(count, WIDTH, generator=generator)
    local = torch.randn(count, CHANNELS, 3, 2, generator=generator)
    return pooled.requires_grad_(), local.requires_grad_()


def taught(heads: JudgingHeads) -> set[str]:
    """The parts whose weights have a gradient that is not zero."""
    return {
        name.split(".")[0]
        for name, weight in heads.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }


def test_how_sure_the_score_is_does_not_decide_what_it_is(heads: JudgingHeads) -> None:
    pooled, local = described()
    heads(pooled, local).spread.sum().backward()
    assert taught(heads) == {"spreader"}
    assert pooled.grad is None


def test_the_map_teaches_neither_the_score_nor_the_backbone(heads: JudgingHeads) -> None:
    pooled, local = described()
    heads(pooled, local).quality_map.sum().backward()
    assert taught(heads) == {"mapper"}
    assert local.grad is None


def test_score_and_distortions_teach_the_backbone(heads: JudgingHeads) -> None:
    pooled, local = described()
    outputs = heads(pooled, local)
    (outputs.mos.sum() + outputs.at_least.sum()).backward()
    assert taught(heads) == {"regressor", "distortions"}
    assert pooled.grad is not None


@given(st.floats(0.2, 3), st.floats(-1, 1))
def test_recalibration_is_affine_in_logits(gain: float, offset: float) -> None:
    torch.manual_seed(0)
    heads = JudgingHeads(WIDTH, CHANNELS).eval()
    with torch.inference_mode():
        before = heads(*described()).mos
        heads.recalibrate(gain, offset)
        after = heads(*described()).mos
    old, new = (scipy.special.logit((mos.double().numpy() - 1) / 4) for mos in (before, after))
    assert new == pytest.approx(gain * old + offset, abs=1e-4)


@given(st.floats(0.5, 2))
def test_widening_multiplies_the_spread_and_leaves_the_score(factor: float) -> None:
    torch.manual_seed(0)
    heads = JudgingHeads(WIDTH, CHANNELS).eval()
    with torch.inference_mode():
        before = heads(*described())
        heads.widen(factor)
        after = heads(*described())
    assert after.spread.numpy() == pytest.approx(factor * before.spread.numpy(), rel=1e-5)
    assert (after.mos == before.mos).all()


def test_a_spread_stays_within_what_can_be_stated(heads: JudgingHeads) -> None:
    for factor, limit in zip((1e-6, 1e12), SPREAD_RANGE, strict=True):
        heads.widen(factor)
        assert heads(*described()).spread.tolist() == pytest.approx([limit] * 6)


def test_outputs_have_the_shapes_and_ranges_that_they_promise(heads: JudgingHeads) -> None:
    outputs = outputs_of(heads(*described()))
    classes = len(DISTORTIONS)
    shapes = [tuple(part.shape) for part in outputs]
    assert shapes == [(6,), (6,), (6, 5), (6, 1 + classes), (6, classes), (6, 3, 2)]
    for part, low, high in ((outputs.score, 1, 5), (outputs.severity, 0, 5)):
        assert low <= part.min().item() <= part.max().item() <= high
    assert 1 <= outputs.quality_map.min().item() <= outputs.quality_map.max().item() <= 5
    mean = (outputs.levels * torch.arange(1, 6)).sum(1)
    assert outputs.score.tolist() == pytest.approx(mean.tolist(), abs=1e-6)


def test_what_lies_far_outside_the_training_pictures_does_not_run_away(heads: JudgingHeads) -> None:
    """Six deviations are as far as a description counts."""
    pooled, local = described()
    far, farther = (heads(pooled.sign() * scale, local).mos for scale in (6.0, 1e6))
    assert (far == farther).all()

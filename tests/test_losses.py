"""Losses against scipy, sklearn, hand computation and PyTorch's numerical gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.student.losses import (
    disagreement,
    distortion_loss,
    fidelity_loss,
    ladder_loss,
    likeness_loss,
    plcc_loss,
    plcc_loss_within,
    preference,
    spread_loss,
    weighted_mean,
)

ratings = st.lists(st.floats(1, 5, width=32), min_size=3, max_size=20).filter(
    lambda values: np.std(values) > 0.1
)
seeds = st.integers(0, 1000)


def double(values: object) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(seed: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3, 1, count))


@given(ratings, seeds)
def test_plcc_loss_is_pearsons_correlation(rated: list[float], seed: int) -> None:
    predicted = drawn(seed, len(rated))
    expected = (1 - scipy.stats.pearsonr(predicted, rated).statistic) / 2
    assert plcc_loss(predicted, double(rated)).item() == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.integers(0, 3), min_size=8, max_size=40), seeds)
def test_plcc_within_groups_is_the_mean_of_their_correlations(groups: list[int], seed: int) -> None:
    predicted, rated = drawn(seed, len(groups)), drawn(seed + 1, len(groups))
    group = np.array(groups)
    own = [group == g for g in set(groups) if (group == g).sum() >= 4]
    parts = [(1 - scipy.stats.pearsonr(predicted[g], rated[g]).statistic) / 2 for g in own]
    loss = plcc_loss_within(predicted, rated, torch.from_numpy(group))
    assert loss.item() == pytest.approx(np.mean(parts) if parts else 0, abs=1e-6)


def test_telling_groups_apart_is_not_rewarded() -> None:
    """Each group in the wrong order, and the better group far above: correlation 0.8 over all."""
    rated = double([1, 2, 1, 2, 4, 5, 4, 5])
    predicted = double([2, 1, 2, 1, 5, 4, 5, 4])
    group = torch.tensor([0] * 4 + [1] * 4)
    assert plcc_loss(predicted, rated).item() < 0.15
    assert plcc_loss_within(predicted, rated, group).item() == pytest.approx(1)


def fidelity(rated: float, predicted: float, spread: float = 0.35) -> float:
    """FRank's 1 - sqrt(p p') - sqrt((1-p)(1-p')) with Thurstone's probabilities, by scipy."""
    p, q = (scipy.stats.norm.cdf(lead / (math.sqrt(2) * spread)) for lead in (rated, predicted))
    return 1 - math.sqrt(p * q) - math.sqrt((1 - p) * (1 - q))


def test_fidelity_loss_is_the_formula_of_the_paper() -> None:
    loss = fidelity_loss(double([2.0, 2.5]), double([4.0, 3.0]), torch.tensor([0, 0]))
    assert loss.item() == pytest.approx(fidelity(1.0, -0.5), abs=1e-4)


def test_likeness_loss_is_the_fidelity_of_pairs_across_families_that_lost_unlike_amounts() -> None:
    likeness = [[80.0, 70.0, 60.0], [78.0, 66.0, math.nan], [70.0, 60.0, 50.0]]
    mos = [[3.2, 3.1, 2.9], [3.0, 3.05, 1.0], [1.0, 2.0, 3.0]]
    loss = likeness_loss(double(mos), double(likeness), torch.tensor([1, 1, 2]))
    parts = [
        fidelity((likeness[0][i] - likeness[1][j]) / 25, mos[0][i] - mos[1][j])
        for i, j in ((0, 1), (2, 0))
    ]
    assert loss.item() == pytest.approx(np.mean(parts), abs=1e-4)


def test_likeness_loss_asks_nothing_of_pictures_that_lost_as_much() -> None:
    mos = double([[4.0, 3.0], [2.0, 1.0]]).requires_grad_()
    for likeness in ([[90.0, 85.0], [85.0, 90.0]], [[math.nan] * 2] * 2):
        loss = likeness_loss(mos, double(likeness), torch.tensor([0, 0]))
        loss.backward()
        assert loss.item() == 0


def test_fidelity_loss_weighs_a_pair_by_both_of_its_ratings() -> None:
    predicted, rated, weight = [2.0, 2.5, 4.0], [4.0, 3.0, 3.5], [1.0, 0.5, 0.2]
    pairs = [(0, 1), (0, 2), (1, 2)]
    weights = [weight[i] * weight[j] for i, j in pairs]
    parts = [fidelity(rated[i] - rated[j], predicted[i] - predicted[j]) for i, j in pairs]
    loss = fidelity_loss(
        double(predicted), double(rated), torch.zeros(3, dtype=torch.int64), double(weight)
    )
    assert loss.item() == pytest.approx(np.average(parts, weights=weights), abs=1e-4)


def test_fidelity_loss_ignores_pairs_across_groups() -> None:
    rated, groups = torch.tensor([1.0, 5.0]), torch.tensor([0, 1])
    assert fidelity_loss(torch.tensor([5.0, 1.0]), rated, groups).item() == 0


def test_fidelity_loss_ignores_what_weighs_nothing() -> None:
    group = torch.zeros(3, dtype=torch.int64)
    loss = fidelity_loss(
        double([2.0, 2.5, 1.0]), double([4.0, 3.0, 5.0]), group, double([1.0, 1.0, 0.0])
    )
    assert loss.item() == pytest.approx(fidelity(1.0, -0.5), abs=1e-4)


@pytest.mark.parametrize("wanted", [0.0, 0.5, 0.8, 1.0])
def test_agreeing_on_a_preference_costs_least(wanted: float) -> None:
    grid = torch.linspace(0, 1, 1001)
    losses = disagreement(torch.tensor(wanted), grid)
    assert grid[losses.argmin()].item() == pytest.approx(wanted, abs=0.002)
    assert losses.min().item() == pytest.approx(0, abs=0.002)


@given(st.floats(-4, 4), st.floats(0.1, 2))
def test_preference_is_thurstones_case_five(lead: float, spread: float) -> None:
    expected = scipy.stats.norm.cdf(lead / (math.sqrt(2) * spread))
    assert preference(double(lead), spread).item() == pytest.approx(expected, abs=1e-9)


def test_ladder_loss_asks_for_the_margin_between_neighbours() -> None:
    predicted = torch.tensor([[4.0, 3.9, 3.0], [4.0, 4.5, 1.0]])
    expected = (0.1 + 0.0 + 0.7 + 0.0) / 4
    assert ladder_loss(predicted, 0.2).item() == pytest.approx(expected, abs=1e-6)


def test_a_weighted_mean_of_nothing_is_nothing() -> None:
    assert weighted_mean(double([1, 5]), double([3, 1])).item() == pytest.approx(2)
    assert weighted_mean(double([1, 5]), double([0, 0])).item() == 0


@pytest.mark.parametrize("variance", [0.0, 0.25])
def test_the_best_spread_is_the_root_mean_square_of_errors_and_opinions(variance: float) -> None:
    rng = np.random.default_rng(0)
    rated = rng.uniform(1, 5, 200)
    predicted = rated + rng.normal(0.1, 0.6, 200)

    def loss(spread: float) -> float:
        count = torch.ones(200, dtype=torch.float64)
        return spread_loss(
            count * spread, double(predicted), double(rated), count * variance, count
        ).item()

    best = scipy.optimize.minimize_scalar(loss, bounds=(0.05, 3), method="bounded").x
    assert best == pytest.approx(math.sqrt(np.mean((predicted - rated) ** 2) + variance), abs=1e-4)


@pytest.mark.parametrize("case", [(0.4, 3.0, 3.5, 0.2), (1.2, 2.0, 4.0, 0.05)])
def test_spread_loss_is_the_cross_entropy_of_two_gaussians(
    case: tuple[float, float, float, float],
) -> None:
    """Up to the constant log sqrt(2 pi), by numerical integration."""
    spread, predicted, rated, variance = case
    opinions, belief = scipy.stats.norm(rated, variance**0.5), scipy.stats.norm(predicted, spread)
    cross = scipy.integrate.quad(
        lambda x: -opinions.pdf(x) * belief.logpdf(x), rated - 6, rated + 6
    )
    arguments = (double([value]) for value in (*case, 1.0))
    constant = 0.5 * math.log(2 * math.pi)
    assert spread_loss(*arguments).item() == pytest.approx(cross[0] - constant, abs=1e-6)


def test_being_unsure_does_not_excuse_being_wrong() -> None:
    predicted = double([2.0]).requires_grad_()
    spread = double([0.5]).requires_grad_()
    spread_loss(spread, predicted, double([4.0]), double([0.0]), double([1.0])).backward()
    assert predicted.grad is None
    assert spread.grad is not None
    assert spread.grad.item() < 0


def test_distortion_loss_is_sklearns_log_loss_of_every_level() -> None:
    at_least = drawn(0, 6 * 20).reshape(6, 4, 5)
    severities = np.random.default_rng(1).integers(0, 6, (6, 4))
    reached = severities[..., None] >= np.arange(1, 6)
    probabilities = 1 / (1 + np.exp(-at_least.numpy()))
    expected = sklearn.metrics.log_loss(reached.ravel(), probabilities.ravel())
    loss = distortion_loss(at_least, torch.from_numpy(severities.astype(float)))
    assert loss.item() == pytest.approx(expected, abs=1e-9)


def test_a_severity_between_two_levels_counts_in_part() -> None:
    """At 2.3 the best logits say: levels 1 and 2 for sure, level 3 with a chance of 0.3."""
    at_least = torch.zeros(1, 1, 5, requires_grad=True)
    optimizer = torch.optim.LBFGS([at_least], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = distortion_loss(at_least, torch.tensor([[2.3]]))
        loss.backward()
        return loss

    optimizer.step(closure)
    best = torch.sigmoid(at_least)[0, 0].tolist()
    assert best == pytest.approx([1, 1, 0.3, 0, 0], abs=0.01)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_the_best_constant_logit_states_how_often_a_level_is_reached(share: float) -> None:
    severities = torch.zeros(100, 4, dtype=torch.float64)
    severities[: round(100 * share)] = 5

    def loss(logit: float) -> float:
        at_least = torch.full((100, 4, 5), logit, dtype=torch.float64)
        return distortion_loss(at_least, severities).item()

    best = scipy.optimize.minimize_scalar(loss, bounds=(-9, 9), method="bounded").x
    assert 1 / (1 + math.exp(-best)) == pytest.approx(share, abs=1e-4)


def test_pictures_of_unknown_distortions_teach_nothing_about_them() -> None:
    at_least = drawn(0, 3 * 20).reshape(3, 4, 5).requires_grad_()
    severities = double([[1, 0, 0, 2], [math.nan] * 4, [0, 0, 5, 0]])
    loss = distortion_loss(at_least, severities)
    assert loss.item() == pytest.approx(
        distortion_loss(at_least[[0, 2]], severities[[0, 2]]).item(), abs=1e-12
    )
    loss.backward()
    assert at_least.grad is not None
    assert (at_least.grad[1] == 0).all()
    assert at_least.grad[[0, 2]].abs().min() > 0


def test_where_no_distortion_is_known_the_loss_is_zero() -> None:
    at_least = torch.zeros(2, 4, 5, requires_grad=True)
    loss = distortion_loss(at_least, torch.full((2, 4), math.nan))
    loss.backward()
    assert loss.item() == 0
    assert at_least.grad is not None
    assert (at_least.grad == 0).all()


RATED, GROUP, WEIGHT = drawn(5, 8), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), drawn(8, 8).abs()


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: plcc_loss(x, RATED),
        lambda x: plcc_loss_within(x, RATED, GROUP),
        lambda x: fidelity_loss(x, RATED, GROUP, WEIGHT),
        lambda x: spread_loss(x.abs() + 0.2, RATED + 1, RATED, WEIGHT, WEIGHT),
        lambda x: distortion_loss(
            x.reshape(2, 1, 4).repeat(1, 4, 2)[..., :5], drawn(6, 8).view(2, 4)
        ),
        lambda x: ladder_loss(x.reshape(2, 4), 0.2),
    ],
    ids=["plcc", "plcc within", "fidelity", "spread", "distortion", "ladder"],
)
def test_gradients_are_those_of_finite_differences(
    loss: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    assert torch.autograd.gradcheck(loss, drawn(7, 8).requires_grad_())

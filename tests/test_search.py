"""The search: what it certifies, how few probes it takes, and what it must never do."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.search import Curve, even_settings, search

SETTINGS = range(1, 101)
KNOTS = (1.0, 20.0, 40.0, 60.0, 80.0, 100.0)


def family(seed: int, count: int) -> list[list[float]]:
    """Curves that differ in offset and slope, at the knots."""
    rng = np.random.default_rng(seed)
    offsets, slopes = rng.normal(0, 6, count), rng.normal(1, 0.08, count)
    base = 95 * (np.array(KNOTS) / 100) ** 0.6
    return (offsets[:, None] + slopes[:, None] * base).tolist()  # type: ignore[no-any-return]


PRIOR = Curve.learn(KNOTS, family(0, 60), noise=0.01)


def along(curve: list[float]) -> Callable[[float], float]:
    return lambda setting: float(np.interp(setting, KNOTS, curve))


def monotone(steps: list[float]) -> list[float]:
    return np.cumsum(np.abs(steps)).tolist()  # type: ignore[no-any-return]


@given(
    steps=st.lists(st.floats(0.001, 5), min_size=2, max_size=80),
    floor=st.floats(-1, 200),
    with_prior=st.booleans(),
)
def test_of_a_monotone_curve_the_lowest_setting_that_passes(
    steps: list[float], floor: float, with_prior: bool
) -> None:
    values = monotone(steps)
    curve = PRIOR if with_prior else None
    found = search(lambda q: values[int(q)], floor, range(len(values)), curve=curve, budget=100)
    expected = bisect.bisect_left(values, floor)
    if expected == len(values):
        assert found.certificate == "unreached"
        assert found.value == max(values)
    else:
        assert (found.setting, found.certificate) == (expected, "optimal")


@given(
    values=st.lists(st.floats(0, 10), min_size=1, max_size=60),
    floor=st.floats(0, 10),
    tolerance=st.sampled_from([0.0, 0.5]),
    budget=st.integers(1, 12),
    with_prior=st.booleans(),
)
def test_of_any_curve_what_it_certifies_is_so(
    values: list[float], floor: float, tolerance: float, budget: int, with_prior: bool
) -> None:
    found = search(
        lambda q: values[int(q)],
        floor,
        range(len(values)),
        curve=PRIOR if with_prior else None,
        tolerance=tolerance,
        budget=budget,
    )
    assert found.value == values[int(found.setting)]
    assert len(found.probes) <= budget
    assert len({probe.setting for probe in found.probes}) == len(found.probes)
    if found.certificate == "unreached":
        assert all(probe.value < floor for probe in found.probes)
        assert found.probes[-1].setting == len(values) - 1 or values[-1] < floor
        return
    assert found.value >= floor
    if found.certificate == "optimal":
        below = int(found.setting) - 1
        assert below < 0 or values[below] < floor
    if found.certificate == "tolerance":
        assert found.value <= floor + tolerance


def test_a_prior_saves_probes_and_no_result_is_worse() -> None:
    curves = family(1, 200)
    floors = (40.0, 60.0, 75.0)
    with_prior, without = (
        [search(along(curve), floor, SETTINGS, curve=prior) for curve in curves for floor in floors]
        for prior in (PRIOR, None)
    )
    assert [f.setting for f in with_prior] == [f.setting for f in without]
    mean = np.mean([len(found.probes) for found in with_prior])
    assert mean < 3.2  # two are needed to certify an optimum, and one to see the curve
    assert mean < np.mean([len(found.probes) for found in without]) - 1


def test_a_tolerance_saves_more() -> None:
    curves = family(2, 200)
    exact = [search(along(c), 60, SETTINGS, curve=PRIOR) for c in curves]
    near = [search(along(c), 60, SETTINGS, curve=PRIOR, tolerance=0.6) for c in curves]
    assert np.mean([len(f.probes) for f in near]) < np.mean([len(f.probes) for f in exact])
    assert all(n.setting >= e.setting for n, e in zip(near, exact, strict=True))


def test_the_posterior_is_that_of_a_normal_distribution() -> None:
    """Conditioned on values at two knots: no curve nearby through both is likelier (scipy)."""
    prior = Curve.learn(KNOTS, family(0, 60))
    observed = {20.0: 45.0, 80.0: 90.0}
    mean, covariance = prior.posterior(observed)
    joint = scipy.stats.multivariate_normal(prior.mean, prior.covariance, allow_singular=True)
    # The most likely curve through both values: no other one nearby is likelier.
    best = mean.copy()
    best[[1, 4]] = 45, 90
    away = np.linalg.norm(mean - best)
    assert away < 0.1
    for row in np.linalg.cholesky(covariance + 1e-9 * np.eye(len(KNOTS))).T:
        nearby = best + row
        nearby[[1, 4]] = 45, 90
        assert joint.logpdf(nearby) <= joint.logpdf(best) + 1e-3


def test_learning_from_whole_curves_one_by_one_is_learning_from_all() -> None:
    curves = np.array(family(3, 40))
    grown = Curve.learn(KNOTS, curves[:20])
    for curve in curves[20:]:
        grown = grown.updated(dict(zip(KNOTS, curve, strict=True)))
    at_once = Curve.learn(KNOTS, curves)
    assert grown.count == 40
    np.testing.assert_allclose(grown.mean, at_once.mean, atol=0.05)
    np.testing.assert_allclose(grown.covariance, at_once.covariance, rtol=0.02, atol=0.1)


def test_a_users_own_runs_move_the_prior() -> None:
    moved = PRIOR
    for _ in range(300):
        moved = moved.updated({40.0: 20.0, 60.0: 35.0})
    predicted, _ = moved.predict([50.0], {})
    before, _ = PRIOR.predict([50.0], {})
    assert abs(predicted[0] - 27.5) < abs(before[0] - 27.5) / 4


def test_a_curve_survives_being_written() -> None:
    again = Curve.from_json(PRIOR.to_json())
    np.testing.assert_allclose(again.mean, PRIOR.mean, atol=1e-3)
    np.testing.assert_allclose(again.scatter, PRIOR.scatter, atol=1e-2)


@pytest.mark.parametrize(
    "change",
    [
        {"mean": [1.0]},
        {"scatter": [[1.0]]},
        {"count": 0},
        {"noise": -1},
        {"link": "no"},
        {"knots": "x"},
        {"mean": [math.nan] * 6},
    ],
)
def test_what_is_no_curve_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="no curve of a search"):
        Curve.from_json({**PRIOR.to_json(), **change})


def test_a_continuous_parameter_is_found_to_its_resolution() -> None:
    settings = even_settings(0.0, 15.0, 0.01)
    assert max(b - a for a, b in pairwise(settings)) <= 0.01 + 1e-9
    found = search(lambda x: x * x, 2.0, settings, budget=30)
    assert found.certificate == "optimal"
    assert math.sqrt(2) <= found.setting <= math.sqrt(2) + 0.01


def test_what_is_known_costs_no_probe() -> None:
    known = {float(q): float(q) for q in (49, 50)}
    found = search(float, 50.0, SETTINGS, known=known)
    assert (found.setting, found.probes, found.certificate) == (50, (), "optimal")


def test_a_floor_out_of_reach_says_the_best() -> None:
    found = search(float, 500.0, SETTINGS, curve=PRIOR)
    assert (found.setting, found.value, found.certificate) == (100, 100.0, "unreached")


@pytest.mark.parametrize(
    ("settings", "more"),
    [([], {}), ([2, 1], {}), ([1, 2], {"budget": 0}), ([1, 2], {"tolerance": -1.0})],
)
def test_nonsense_is_refused(settings: list[float], more: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="search needs"):
        search(float, 1.0, settings, **more)  # type: ignore[arg-type]


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="not a number"):
        search(lambda _: math.nan, 1.0, SETTINGS)

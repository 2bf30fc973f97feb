"""The last stage of training: two heads, on whole pictures, with everything else at rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.utils.class_weight import compute_sample_weight

from qinsight_plugin.student import settle as settling
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.calibrate import predict
from qinsight_plugin.student.families import Family
from qinsight_plugin.student.heads import name_distortions
from qinsight_plugin.student.losses import plcc_loss
from qinsight_plugin.student.network import AnyStudent
from qinsight_plugin.student.settle import balance, settle
from qinsight_plugin.student.views import Rated

from .toy import BLURS, blurred_windows, seeing_student, toy_recipe

PICTURES = 48


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass over few pictures has no step in batches as large as usual."""
    monkeypatch.setattr(settling, "BATCH", 8)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StemCache]:
    with closing(StemCache(tmp_path_factory.mktemp("stem"), seeing_student())) as cache:
        for k, (pixels, _) in enumerate(blurred_windows(PICTURES)):
            cache.add(str(k), pixels)
        yield cache


@pytest.fixture(scope="module")
def families(cache: StemCache) -> list[Family]:
    """Six pictures in six degrees of blur; the other classes are never met."""
    severities = np.zeros((6, 4), np.float32)
    severities[:, 2] = range(6)
    firsts = range(0, PICTURES, BLURS)
    likeness = np.linspace(100, 0, 6, dtype=np.float32)
    return [
        Family([cache[str(k + rung)] for rung in range(6)], severities, likeness) for k in firsts
    ]


@pytest.fixture(scope="module")
def rated(cache: StemCache) -> Rated:
    count = PICTURES
    return Rated(
        views=[[cache[str(k)]] for k in range(count)],
        mos=np.array([4.5 - 0.5 * (k % BLURS) for k in range(count)], np.float32),
        variance=np.zeros(count, np.float32),
        weight=np.ones(count, np.float32),
        severities=np.full((count, 4), np.nan, np.float32),
        group=np.zeros(count, np.int64),
        scale=np.zeros(count, np.int64),
    )


def standardised(cache: StemCache, rated: Rated) -> AnyStudent:
    student = seeing_student()
    with torch.inference_mode():
        pooled = [student.describe(cache.whole(own[0]))[0] for own in rated.views]
        student.heads.pooled_mean.copy_(torch.cat(pooled).mean(0))
        student.heads.pooled_scale.copy_(1 / (torch.cat(pooled).std(0) + 1e-3))
    return student


def changed(one: AnyStudent, other: AnyStudent) -> set[str]:
    theirs = other.state_dict()
    return {name for name, tensor in one.state_dict().items() if (tensor != theirs[name]).any()}


def parts(names: set[str]) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in names}


def test_every_kind_weighs_alike_as_sklearn_has_it() -> None:
    severities = torch.zeros(12, 4)
    severities[4:, 0] = 2.0
    severities[7:, 1] = 3.0
    severities[9:, 2] = 5.0
    severities[11:, 3] = 5.5
    kinds = [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2 + [4]
    expected = compute_sample_weight("balanced", kinds)
    assert balance(severities).tolist() == pytest.approx(expected.tolist())


@pytest.mark.slow
def test_blur_is_named_and_nothing_else_of_the_student_changes(
    cache: StemCache, rated: Rated, families: list[Family]
) -> None:
    student, start = standardised(cache, rated), standardised(cache, rated)
    settle(student, cache, rated, families, toy_recipe(settle_epochs=0.0, naming_epochs=40.0))
    assert parts(changed(student, start)) == {"heads.distortions"}
    assert not any(part.training for part in student.modules())
    assert student.heads.distortions[0].p == start.heads.distortions[0].p
    with torch.inference_mode():
        named = [
            int(name_distortions(student.tail(cache.whole(r)).at_least)[0].argmax())
            for family in families
            for r in (family.records[0], family.records[5])
        ]
    assert set(named) <= {0, 3}
    assert named[1::2].count(3) >= 5


@pytest.mark.slow
def test_the_score_settles_on_the_ratings_and_nothing_else_of_the_student_changes(
    cache: StemCache, rated: Rated, families: list[Family]
) -> None:
    student, start = standardised(cache, rated), standardised(cache, rated)
    settle(student, cache, rated, families, toy_recipe(settle_epochs=20.0, naming_epochs=0.0))
    assert parts(changed(student, start)) == {"heads.regressor", "heads.spreader"}
    before, after = (
        scipy.stats.spearmanr(predict(own, cache, rated)[0], rated.mos).statistic
        for own in (start, student)
    )
    assert after > max(0.8, before)


@pytest.mark.slow
def test_the_squared_error_counts_as_much_as_the_recipe_says(
    cache: StemCache, rated: Rated, families: list[Family]
) -> None:
    """Correlation and order, which are learnt beside it, say nothing of how high a score is."""
    off = []
    for weight in (0.0, 5.0):
        student = standardised(cache, rated)
        recipe = toy_recipe(settle_epochs=20.0, naming_epochs=0.0, settle_mse=weight)
        settle(student, cache, rated, families, recipe)
        off.append(abs(float((predict(student, cache, rated)[0] - rated.mos).mean())))
    assert off[1] < 0.5 * off[0]


@pytest.mark.slow
def test_dropout_is_the_recipes_and_put_back(
    cache: StemCache, rated: Rated, families: list[Family], monkeypatch: pytest.MonkeyPatch
) -> None:
    student = standardised(cache, rated)
    layers = [m for m in student.heads.regressor.modules() if isinstance(m, torch.nn.Dropout)]
    usual, seen = [layer.p for layer in layers], set[float]()

    def noting(*arguments: torch.Tensor) -> torch.Tensor:
        seen.update(layer.p for layer in layers)
        return plcc_loss(*arguments)

    monkeypatch.setattr(settling, "plcc_loss", noting)
    recipe = toy_recipe(settle_epochs=1.0, naming_epochs=0.0, settle_dropout=0.7)
    settle(student, cache, rated, families, recipe)
    assert layers
    assert seen == {0.7}
    assert [layer.p for layer in layers] == usual


@pytest.mark.slow
def test_a_seed_settles_the_same_way_again(
    cache: StemCache, rated: Rated, families: list[Family]
) -> None:
    students = [standardised(cache, rated) for _ in range(2)]
    for student in students:
        settle(student, cache, rated, families, toy_recipe(settle_epochs=2.0, naming_epochs=2.0))
    assert changed(*students) == set()


@pytest.mark.slow
def test_without_epochs_nothing_changes(
    cache: StemCache, rated: Rated, families: list[Family]
) -> None:
    student, start = standardised(cache, rated), standardised(cache, rated)
    settle(student, cache, rated, families, toy_recipe(settle_epochs=0.0, naming_epochs=0.0))
    assert changed(student, start) == set()


@pytest.mark.slow
def test_without_families_nothing_changes(cache: StemCache, rated: Rated) -> None:
    student, start = standardised(cache, rated), standardised(cache, rated)
    settle(student, cache, rated, [], toy_recipe(settle_epochs=2.0, naming_epochs=2.0))
    assert changed(student, start) == set()

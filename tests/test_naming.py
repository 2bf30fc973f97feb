"""The last stage of training: one head, on all rungs of all families."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.families import Family
from qinsight_plugin.student.heads import name_distortions
from qinsight_plugin.student.losses import distortion_loss
from qinsight_plugin.student.naming import balance, learn_naming, naming_loss

from .toy import BLURS, blurred_windows, seeing_student, toy_recipe


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StemCache]:
    with closing(StemCache(tmp_path_factory.mktemp("stem"), seeing_student())) as cache:
        yield cache


@pytest.fixture(scope="module")
def families(cache: StemCache) -> list[Family]:
    """Six pictures in six degrees of blur; the other classes are never met."""
    records = [
        cache.add(str(k), pixels)
        for k, (pixels, blur) in enumerate(blurred_windows(6 * BLURS))
        if blur < 6
    ]
    severities = np.zeros((6, 4), np.float32)
    severities[:, 2] = range(6)
    return [Family(records[first : first + 6], severities) for first in range(0, 36, 6)]


def test_every_kind_weighs_alike_as_sklearn_has_it() -> None:
    severities = torch.zeros(12, 4)
    severities[4:, 0] = 2.0
    severities[7:, 1] = 3.0
    severities[9:, 2] = 5.0
    severities[11:, 3] = 5.5
    kinds = [0] * 4 + [1] * 3 + [2] * 2 + [3] * 2 + [4]
    expected = compute_sample_weight("balanced", kinds)
    assert balance(severities).tolist() == pytest.approx(expected.tolist())


def test_weighing_all_alike_the_loss_is_that_of_the_other_stages() -> None:
    torch.manual_seed(0)
    logits, severities = torch.randn(7, 4, 5), 5 * torch.rand(7, 4)
    assert naming_loss(logits, severities, torch.ones(7)).item() == pytest.approx(
        distortion_loss(logits, severities).item(), rel=1e-5
    )


def test_blur_is_named_and_nothing_else_of_the_student_changes(
    cache: StemCache, families: list[Family]
) -> None:
    student, reference = seeing_student(), seeing_student()
    learn_naming(student, cache, families, toy_recipe(naming_epochs=60.0))
    before, after = reference.state_dict(), student.state_dict()
    changed = {name for name, tensor in after.items() if (tensor != before[name]).any()}
    assert changed
    assert all(name.startswith("heads.distortions.") for name in changed)
    assert not any(part.training for part in student.modules())
    assert student.heads.distortions[0].p == reference.heads.distortions[0].p
    with torch.inference_mode():
        named = [
            name_distortions(student.tail(cache.whole(family.records[rung])).at_least)[0].argmax()
            for family in families
            for rung in (0, 5)
        ]
    assert np.mean([int(name) in (0, 3) for name in named]) == 1
    assert np.mean([int(name) == 3 for name in named[1::2]]) > 0.8


def test_without_families_or_epochs_nothing_changes(
    cache: StemCache, families: list[Family]
) -> None:
    student, reference = seeing_student(), seeing_student()
    learn_naming(student, cache, [], toy_recipe(naming_epochs=1.0))
    learn_naming(student, cache, families, toy_recipe(naming_epochs=0.0))
    before, after = reference.state_dict(), student.state_dict()
    assert all((tensor == before[name]).all() for name, tensor in after.items())

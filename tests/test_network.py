"""The student network: its arithmetic against PyTorch's and numpy's, its shapes as documented."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.student.network import (
    Student,
    load_features,
    mean_and_deviation,
    mean_of_tails,
)

from .conftest import Pixels
from .toy import toy_student


@pytest.fixture(scope="module")
def student() -> Student:
    return toy_student()


def test_a_backbone_with_tensors_missing_is_refused_by_name(student: Student) -> None:
    state = student.state_dict()
    del state["features.3.conv.2.bias"]
    with pytest.raises(WeightsError, match=r"w\.onnx does not fit the student: 1 tensors"):
        load_features(Student(), state, "w.onnx")


def test_a_backbone_of_another_width_is_refused(student: Student) -> None:
    state = student.state_dict()
    state["features.3.conv.2.bias"] = torch.zeros(5)
    with pytest.raises(WeightsError, match=r"w\.onnx does not fit the student: .*size mismatch"):
        load_features(Student(), state, "w.onnx")


def test_a_mean_of_tails_is_the_mean_of_each_weight_above_the_stem(student: Student) -> None:
    others = [copy.deepcopy(student) for _ in range(3)]
    for number, other in enumerate(others):
        for weights in other.tail_features.parameters():
            weights.data += number
    mean, start = mean_of_tails(others).state_dict(), student.state_dict()
    for key, weights in start.items():
        tail = key.startswith("features.") and int(key.split(".")[1]) >= student.stem_blocks
        torch.testing.assert_close(mean[key], weights + 1 if tail else weights)


def test_a_mean_of_one_student_is_that_student(student: Student) -> None:
    images = torch.full((1, 64, 64, 3), 90, dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(mean_of_tails([student])(images).score, student(images).score)


def test_students_of_two_starts_have_no_mean(student: Student) -> None:
    other = copy.deepcopy(student)
    next(other.features[2].parameters()).data += 0.01
    with pytest.raises(WeightsError, match="were not trained from one start"):
        mean_of_tails([student, other])


def test_mean_and_deviation_are_numpys(student: Student) -> None:
    x = np.random.default_rng(0).normal(100, 3, (2, 3, 5, 7)).astype(np.float32)
    pooled = mean_and_deviation(torch.from_numpy(x)).numpy()
    assert pooled[:, :3] == pytest.approx(x.mean((2, 3)), rel=1e-5)
    assert pooled[:, 3:] == pytest.approx(x.std((2, 3)), rel=1e-4)


@settings(max_examples=8)
@given(st.integers(32, 100), st.integers(32, 100))
def test_pictures_of_any_size_have_the_documented_shapes(height: int, width: int) -> None:
    student = toy_student()
    images = torch.zeros(1, height, width, 3, dtype=torch.uint8)
    with torch.inference_mode():
        stem = student.stem(images)
        outputs = student(images)
    cells = (math.ceil(height / 16), math.ceil(width / 16))
    assert stem.feature_map.shape == (1, student.stem_channels, *cells)
    assert stem.shallow.shape == (1, student.stem_shallow)
    cells = (math.ceil(height / 32), math.ceil(width / 32))
    assert outputs.quality_map.shape == (1, *cells)
    assert 1 <= outputs.score.item() <= 5


def test_a_picture_scores_alike_alone_and_in_a_batch(student: Student, astronaut: Pixels) -> None:
    images = torch.from_numpy(np.stack([astronaut[:64, :96], astronaut[200:264, 100:196]]))
    with torch.inference_mode():
        together, alone = student(images), student(images[1:])
    for batch, one in zip(together, alone, strict=True):
        torch.testing.assert_close(batch[1:], one, rtol=1e-4, atol=1e-5)


def test_the_map_of_a_stem_is_the_map_of_its_picture(student: Student, astronaut: Pixels) -> None:
    image = torch.from_numpy(astronaut[None, :64, :96].copy())
    with torch.inference_mode():
        drawn = student.draw_map(student.stem(image).feature_map)
        torch.testing.assert_close(drawn, student(image).quality_map)

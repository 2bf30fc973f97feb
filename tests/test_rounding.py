"""Weights rounded together: against rounding each by itself, the best there is, and PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qinsight_plugin.scorers.student import SHIPPED_WEIGHTS
from qinsight_plugin.student import rounding
from qinsight_plugin.student.graph import (
    backbone_nodes,
    filters,
    read_float_graph,
    set_filters,
    tensors,
)
from qinsight_plugin.student.merge import merge_pointwise
from qinsight_plugin.student.rounding import (
    Moments,
    moments_of,
    patches,
    round_together,
    round_weights,
)
from qinsight_plugin.student.spare import use_spare_channels

from .conftest import Pixels
from .test_export import crops, run

Array = npt.NDArray[Any]

LEVELS = 127
exact_weights = arrays(
    np.float64, (3, 2, 6), elements=st.floats(-2, 2).filter(lambda x: abs(x) > 1e-3)
)


def steps_of(weight: Array) -> Array:
    steps: Array = np.abs(weight).max(2) / LEVELS
    return steps


def lost(weight: Array, rounded: Array, covariance: Array) -> Array:
    """The variance of what rounding changes in the outputs, [G, O]."""
    error = weight - rounded
    variance: Array = np.einsum("goi,gij,goj->go", error, covariance, error)
    return variance


@given(exact_weights)
def test_where_inputs_have_nothing_in_common_each_weight_is_rounded_by_itself(
    weight: Array,
) -> None:
    step = steps_of(weight)
    covariance = np.stack([np.diag([1.0, 2, 3, 4, 5, 6])] * 3)
    nearest = np.rint(weight / step[..., None]) * step[..., None]
    found = round_together(weight, covariance, step, LEVELS)
    np.testing.assert_allclose(found, nearest, atol=1e-12)


@given(exact_weights)
def test_rounding_keeps_the_answer_to_what_all_inputs_share(weight: Array) -> None:
    """A depthwise filter that takes differences of neighbours must not answer to brightness."""
    step = steps_of(weight)
    found = round_together(weight, np.ones((3, 6, 6)), step, LEVELS)
    assert (np.abs((found - weight).sum(2)) <= step).all()
    whole = found / step[..., None]
    np.testing.assert_allclose(whole, np.rint(whole), atol=1e-9)
    assert (np.abs(whole) <= LEVELS + 1e-9).all()


def test_rounded_together_little_more_is_lost_than_by_the_best_of_all_roundings() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(40, 6, 6))
    covariance = mixing @ mixing.swapaxes(1, 2)
    weight = rng.normal(size=(40, 1, 6))
    step = np.abs(weight).max(2) / 7
    found = lost(weight, round_together(weight, covariance, step, 7), covariance)
    nearest = np.rint(weight / step[..., None]) * step[..., None]
    around = np.floor(weight / step[..., None])
    candidates = [
        lost(weight, (around + np.array(up)) * step[..., None], covariance)
        for up in itertools.product((0, 1), repeat=6)
    ]
    best = np.min(candidates, 0).mean()
    assert found.mean() < 0.7 * lost(weight, nearest, covariance).mean()
    assert best <= found.mean() < 2 * best


class Drawn:
    """In place of a generator: places that are known."""

    def __init__(self, *draws: list[int]) -> None:
        self.draws = iter(draws)

    def integers(self, low: int, high: int, size: int) -> Array:
        del low, high, size
        return np.array(next(self.draws))


@pytest.mark.parametrize(
    ("groups", "kernel", "stride"), [(1, 3, 2), (4, 3, 1), (4, 5, 2), (1, 1, 1)]
)
def test_the_inputs_are_what_pytorch_multiplies_the_weights_with(
    groups: int, kernel: int, stride: int
) -> None:
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(4, 8, kernel, stride, kernel // 2, groups=groups)
    source = torch.randn(4, 9, 7)
    with torch.inference_mode():
        expected = (conv(source[None])[0] - conv.bias[:, None, None]).numpy()  # type: ignore[index]
    pad = [kernel // 2] * 4
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=pad)
    rows, columns = [0, 1, 3, 4], [3, 0, 2, 1]
    weight = conv.weight.detach().numpy()
    drawn: Any = Drawn(rows, columns)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(rounding, "MOST_PLACES", 4)
        seen = patches(node, source.numpy(), weight.shape, drawn)
    found = weight.reshape(groups, -1, seen.shape[1]) @ seen
    np.testing.assert_allclose(found.reshape(8, 4), expected[:, rows, columns], atol=1e-5)


def test_moments_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(3, 1, (2, 5, n)) for n in (7, 30)]
    moments = Moments(np.float64(0), np.float64(0))
    for batch in batches:
        moments.add(batch)
    together = np.concatenate(batches, 2)
    np.testing.assert_allclose(moments.mean, together.mean(2))
    np.testing.assert_allclose(moments.covariance, [np.cov(one, ddof=0) for one in together])


@pytest.fixture(scope="module")
def seen() -> list[Pixels]:
    return crops(8, 96)


def test_merged_blocks_compute_what_they_did(seen: list[Pixels]) -> None:
    model = read_float_graph(SHIPPED_WEIGHTS)
    before = len(backbone_nodes(model))
    merge_pointwise(model)
    onnx.checker.check_model(model, full_check=True)
    assert len(backbone_nodes(model)) == before - 1  # the second block's, and no other
    expected = run(SHIPPED_WEIGHTS, np.stack(seen))
    for name, found in run(model.SerializeToString(), np.stack(seen)).items():
        np.testing.assert_allclose(found, expected[name], atol=1e-3, err_msg=name)


def test_the_student_with_rounded_weights_says_what_it_said(seen: list[Pixels]) -> None:
    expected = run(SHIPPED_WEIGHTS, np.stack(seen))["score"]
    drifts = []
    for levels in (LEVELS, 15):
        model = read_float_graph(SHIPPED_WEIGHTS)
        steps = round_weights(model, seen, levels)
        for name, step in steps.items():
            weight = onnx.numpy_helper.to_array(tensors(model)[name])
            whole = weight / step.reshape(-1, 1, 1, 1)
            np.testing.assert_allclose(whole, np.rint(whole), atol=1e-3)
            assert np.abs(whole).max() <= levels + 1e-3
        found = run(model.SerializeToString(), np.stack(seen))["score"]
        drifts.append(np.abs(found - expected).mean())
    assert drifts[0] < 0.02 < drifts[1]


def test_inputs_that_never_vary_are_no_harm() -> None:
    """Of large numbers, sums of squares leave a variance that is rounding, and may be below 0."""
    rng = np.random.default_rng(0)
    inputs = np.repeat(rng.uniform(-30, 30, (1, 96, 1)).astype(np.float32), 301, 2)
    moments = Moments(np.float64(0), np.float64(0))
    for _ in range(7):
        moments.add(inputs)
    weight = rng.normal(size=(1, 4, 96))
    step = steps_of(weight)
    found = round_together(weight, moments.covariance, step, LEVELS)
    assert (np.abs(found - weight) <= step[..., None]).all()


def test_what_is_looked_at_is_the_picture(seen: list[Pixels]) -> None:
    model = read_float_graph(SHIPPED_WEIGHTS)
    first = backbone_nodes(model)[0]
    found = moments_of(model, [first], seen)[first.input[1]].mean[0]
    channels = np.mean([pixels.mean((0, 1)) for pixels in seen], 0) / 127.5 - 1
    # 9 products of each channel, over places drawn at random.
    np.testing.assert_allclose(found.reshape(3, 9), np.tile(channels[:, None], 9), atol=0.05)


def test_copies_of_channels_in_spare_ones_change_nothing(seen: list[Pixels]) -> None:
    model = read_float_graph(SHIPPED_WEIGHTS)
    merge_pointwise(model)
    stem = backbone_nodes(model)[0]
    before, _ = filters(model, stem)
    use_spare_channels(model)
    onnx.checker.check_model(model, full_check=True)
    after, _ = filters(model, stem)
    assert (np.abs(before).max((1, 2, 3)) == 0).sum() == 8
    assert (np.abs(after).max((1, 2, 3)) > 0).all()
    assert len({row.tobytes() for row in after}) == 24
    expected = run(SHIPPED_WEIGHTS, np.stack(seen))
    found = run(model.SerializeToString(), np.stack(seen))
    np.testing.assert_allclose(found["score"], expected["score"], atol=0.005)


def test_without_spare_channels_all_stays() -> None:
    model = read_float_graph(SHIPPED_WEIGHTS)
    merge_pointwise(model)
    stem = backbone_nodes(model)[0]
    weight, bias = filters(model, stem)
    set_filters(model, stem, weight + 1e-3, bias)
    before = model.SerializeToString(deterministic=True)
    use_spare_channels(model)
    assert model.SerializeToString(deterministic=True) == before

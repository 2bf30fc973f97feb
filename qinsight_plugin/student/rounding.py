"""Weights rounded so that what they answer to pictures changes least.

Rounding each weight by itself takes no account of the others: errors that add up on real pictures
are as likely as errors that cancel. Here weights are rounded one input after the other, and those
that are still exact take up what has been lost so far, as the covariance of the inputs says they
can (GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", ICLR 2023, after Hassibi and Stork's "Optimal Brain Surgeon"). The bias takes up what
is lost on the mean input, so that only the variation of inputs counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper

from qinsight_plugin.records import Pixels
from qinsight_plugin.scorers.student import open_session
from qinsight_plugin.student.graph import (
    Array,
    also_giving,
    backbone_nodes,
    filters,
    set_filters,
    tensors,
)

MOST_PLACES = 1500
"""Of a picture, drawn at random, at which a convolution's inputs are looked at."""

DAMPING, LEAST_VARIANCE = 0.01, 1e-9
"""Share of the mean variance that is added to each input's, since inputs that hardly vary on these
pictures may on others; and what is added even where none varies, or sums would not be exact enough
to invert."""


@dataclass(slots=True)
class Moments:
    """Of the inputs of a convolution in G groups, I products each: sums over `count` places.

    Attributes:
        total: float64 [G, I].
        products: float64 [G, I, I].
    """

    total: Array
    products: Array
    count: int = 0

    def add(self, inputs: Array) -> None:
        """inputs: [G, I, places]."""
        inputs = inputs.astype(np.float64)
        self.total = self.total + inputs.sum(2)
        self.products = self.products + inputs @ inputs.swapaxes(1, 2)
        self.count += inputs.shape[2]

    @property
    def mean(self) -> Array:
        mean: Array = self.total / self.count
        return mean

    @property
    def covariance(self) -> Array:
        mean = self.mean
        covariance: Array = self.products / self.count - mean[:, :, None] * mean[:, None, :]
        return covariance


def round_weights(model: ModelProto, pictures: Iterable[Pixels], levels: int) -> dict[str, Array]:
    """Put the weights of the backbone's convolutions on a grid, and change their biases to suit.

    Args:
        model: changed in place.
        pictures: uint8 [H, W, 3] each, that show the inputs.
        levels: steps from 0 to a filter's greatest weight.

    Returns:
        of each weight tensor, by name, the step of each output channel's grid: float32 [C].
    """
    convolutions = [node for node in backbone_nodes(model) if node.op_type == "Conv"]
    moments = moments_of(model, convolutions, pictures)
    steps = {}
    for node in convolutions:
        name = node.input[1]
        weight, bias = filters(model, node)
        seen = moments[name]
        exact = weight.reshape(len(seen.total), -1, seen.total.shape[1])
        step = np.abs(exact).max(2).astype(np.float32) / np.float32(levels)
        step[step == 0] = 1.0
        rounded = round_together(exact, seen.covariance, step, levels)
        lost = ((exact - rounded) * seen.mean[:, None, :]).sum(2).ravel()
        steps[name] = step.ravel()
        set_filters(model, node, rounded.reshape(weight.shape), bias + lost)
    return steps


def round_together(weight: Array, covariance: Array, step: Array, levels: int) -> Array:
    """float64 [G, O, I] -> the same on the grid: whole multiples, up to `levels`, of its step.

    Args:
        covariance: of the inputs, [G, I, I].
        step: [G, O].
    """
    variance = np.diagonal(covariance, axis1=1, axis2=2)
    # Those that count most come first, while there are others to make up for them.
    order = np.argsort(-variance, axis=1, kind="stable")
    left = np.take_along_axis(weight, order[:, None, :], 2)
    sorted_rows = np.take_along_axis(covariance, order[:, :, None], 1)
    damped = np.take_along_axis(sorted_rows, order[:, None, :], 2)
    added = DAMPING * variance.mean(1) + LEAST_VARIANCE
    damped = damped + added[:, None, None] * np.eye(weight.shape[2])
    factor = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
    rounded = np.empty_like(left)
    for i in range(weight.shape[2]):
        whole = np.clip(np.rint(left[:, :, i] / step), -levels, levels)
        rounded[:, :, i] = whole * step
        error = (left[:, :, i] - rounded[:, :, i]) / factor[:, i, i, None]
        left[:, :, i + 1 :] -= error[:, :, None] * factor[:, None, i, i + 1 :]
    in_place = np.empty_like(rounded)
    np.put_along_axis(in_place, order[:, None, :], rounded, 2)
    return in_place


def moments_of(
    model: ModelProto, convolutions: Sequence[NodeProto], pictures: Iterable[Pixels]
) -> dict[str, Moments]:
    """What these convolutions of the model are given, by the names of their weights."""
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors(model).items()}
    sources = list(dict.fromkeys(node.input[0] for node in convolutions))
    watched = also_giving(model, sources)
    session = open_session(Path("student"), watched.SerializeToString(), "cpu")
    rng = np.random.default_rng(0)
    found: dict[str, Moments] = {}
    for pixels in pictures:
        maps = dict(zip(sources, session.run(sources, {"image": pixels[None]}), strict=True))
        for node in convolutions:
            name = node.input[1]
            inputs = patches(node, maps[node.input[0]][0], shapes[name], rng)
            moments = found.setdefault(name, Moments(np.float64(0), np.float64(0)))
            moments.add(inputs)
    return found


def patches(
    node: NodeProto, source: Array, shape: tuple[int, ...], rng: np.random.Generator
) -> Array:
    """What a convolution of `shape` multiplies its weights with at places of [C, H, W] drawn at
    random: [G, I, places]."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    kernel, strides = shape[2:], attributes.get("strides", [1, 1])
    pads = attributes.get("pads", [0, 0, 0, 0])
    padded = np.pad(source, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    seen = np.lib.stride_tricks.sliding_window_view(padded, kernel, (1, 2))
    seen = seen[:, :: strides[0], :: strides[1]]
    height, width = seen.shape[1:3]
    places = min(MOST_PLACES, height * width)
    rows, columns = (rng.integers(0, size, places) for size in (height, width))
    taken = seen[:, rows, columns]  # [C, places, *kernel]
    products = shape[1] * kernel[0] * kernel[1]
    return np.moveaxis(taken, 1, -1).reshape(-1, products, places)

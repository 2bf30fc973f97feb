"""Spare channels of the first convolution, put to work against rounding.

What the first convolution says of a smooth picture lies on a few of 256 steps, and the steps look
like detail to what follows: on blurred pictures this was nearly all that 8 bits lost. But in
MobileNetV2 a quarter of its filters are 0. These channels carry the channels that matter most once
more, half a step higher: the mean of the two has steps of half the height, at no cost.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto

from qinsight_plugin.student.graph import Array, backbone_nodes, filters, set_filters

LIMIT = 6.0
"""Of a ReLU6."""

HALF_STEP = 0.5 * LIMIT / 255
"""Of bytes that stand for 0 to `LIMIT`."""


def use_spare_channels(model: ModelProto) -> None:
    """Where a depthwise and a pointwise convolution follow the first one, and it has channels that
    are the same everywhere: replace these by copies. What the graph computes stays the same, but
    for constants at the border, and for channels that are 0 up to half a step."""
    convolutions = [node for node in backbone_nodes(model) if node.op_type == "Conv"][:3]
    weights, biases = zip(*(filters(model, node) for node in convolutions), strict=True)
    stem, depthwise, pointwise = weights
    if depthwise.shape[:2] != (len(stem), 1) or pointwise.shape[1:] != (len(stem), 1, 1):
        return
    spare = np.abs(stem).max((1, 2, 3)) == 0
    if not 0 < spare.sum() <= len(spare) / 2:
        return
    noise = (depthwise**2).sum((1, 2, 3)) * (pointwise**2).sum((0, 2, 3))
    noise[spare] = 0.0
    doubled = np.argsort(-noise, kind="stable")[: spare.sum()]
    order = np.concatenate([np.flatnonzero(~spare), doubled])

    sums = depthwise.sum((1, 2, 3))
    constant = relu6(sums * relu6(biases[0]) + biases[1])[spare]
    raised = np.concatenate([np.zeros((~spare).sum()), np.full(len(doubled), HALF_STEP)])
    share = np.where(np.isin(order, doubled), 0.5, 1.0)
    changed = (
        (stem[order], biases[0][order] + raised),
        (depthwise[order], biases[1][order] - raised * sums[order]),
        (
            pointwise[:, order] * share[:, None, None],
            biases[2] + pointwise[:, spare, 0, 0] @ constant,
        ),
    )
    for node, (weight, bias) in zip(convolutions, changed, strict=True):
        set_filters(model, node, weight, bias)


def relu6(x: Array) -> Array:
    clipped: Array = np.clip(x, 0.0, LIMIT)
    return clipped

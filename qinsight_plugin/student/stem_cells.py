"""The first convolution, made to read the picture's own bytes, four columns at a time.

8-bit convolutions are fast where channels come in fours, and a picture has three. But a row of it
is also a row of cells of 4 columns x 3 channels, without moving a byte; and what a cell makes, 2
columns of 32 channels each, lies in memory as these two columns should. So the stem becomes a
convolution of 12 channels to 64: more products, most of them by 0, and half the time.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.student.graph import Array, backbone_nodes, replace_nodes, tensors

STEM_WEIGHT, STEM_BIAS = "features.0.0.weight", "features.0.0.bias"
BYTE_SCALE, BYTE_ZERO = np.array(1 / 127.5, np.float32), np.array(128, np.uint8)
"""A byte b stands for (b - 128) / 127.5. The network wants b / 127.5 - 1: the bias takes up the
half level between them, except over the border, where padding is 128 instead of 127.5."""

CELL = 4
STRIDE = 2
COLUMNS = CELL // STRIDE
"""Columns of the picture in a cell, and columns that come out of it."""


def read_in_cells(model: ModelProto) -> list[str]:
    """Change the graph; what it computes stays the same but for the border.

    Returns:
        the names of the nodes after the stem's activation that put its columns back in a row.

    Raises:
        WeightsError: the stem is no 3x3 convolution of three channels.
    """
    weights = tensors(model)
    weight = numpy_helper.to_array(weights[STEM_WEIGHT])
    if weight.shape[1:] != (3, 3, 3):
        raise WeightsError(f"the first convolution is {weight.shape}, not 3x3 of 3 channels")
    bias = numpy_helper.to_array(weights[STEM_BIAS])
    bias = bias + 0.5 * BYTE_SCALE * weight.sum((1, 2, 3))
    conv, clip = backbone_nodes(model)[:2]
    nodes = list(model.graph.node)
    after = nodes.index(clip) + 1
    old = clip.output[0]
    spread = cells_to_columns(old, f"{old}_columns", weight.shape[0])
    for node in nodes[after:]:
        node.input[:] = [f"{old}_columns" if name == old else name for name in node.input]
    packed = helper.make_node(
        "Conv",
        ["stem_bytes", STEM_WEIGHT, STEM_BIAS],
        conv.output,
        name=conv.name,
        kernel_shape=[3, 2],
        strides=[STRIDE, 1],
        pads=[1, 1, 1, 0],
    )
    replace_nodes(model, [*columns_to_cells(), packed, clip, *spread, *nodes[after:]])
    constants = {
        STEM_WEIGHT: weight_of_cells(weight),
        STEM_BIAS: np.tile(bias, COLUMNS).astype(np.float32),
        "byte_scale": BYTE_SCALE,
        "byte_zero": BYTE_ZERO,
        "cells_shape": np.array([0, 0, -1, CELL * 3]),
        "columns_shape": np.array([0, 0, -1, weight.shape[0]]),
        **{f"cells_{k}": np.array([k]) for k in (0, 1, 2, CELL)},
    }
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in constants]
    made = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend([*kept, *made])
    return [node.name for node in spread]


def weight_of_cells(weight: Array) -> Array:
    """float [C, 3, 3, 3] -> [COLUMNS * C, 3 * CELL, 3, 2]: from the cell on the left, of which
    the last column is seen, and from the own cell."""
    outputs = weight.shape[0]
    packed = np.zeros((COLUMNS, outputs, CELL, 3, 3, 2), weight.dtype)
    for column in range(COLUMNS):
        for tap in range(3):
            seen = STRIDE * column + tap - 1
            packed[column, :, seen % CELL, :, :, int(seen >= 0)] = weight[:, :, :, tap]
    return packed.reshape(COLUMNS * outputs, CELL * 3, 3, 2)


def columns_to_cells() -> list[NodeProto]:
    """image, uint8 [B, H, W, 3] -> stem_bytes, float [B, 12, H, ceil(W / 4)]."""
    return [
        helper.make_node("Shape", ["image"], ["width"], start=2, end=3),
        helper.make_node("Neg", ["width"], ["minus_width"]),
        helper.make_node("Mod", ["minus_width", f"cells_{CELL}"], ["missing"]),
        helper.make_node("Concat", ["cells_0", "missing"], ["padding"], axis=0),
        helper.make_node("Pad", ["image", "padding", "byte_zero", "cells_2"], ["whole_cells"]),
        helper.make_node("Reshape", ["whole_cells", "cells_shape"], ["cells"]),
        helper.make_node("Transpose", ["cells"], ["cells_first"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "DequantizeLinear", ["cells_first", "byte_scale", "byte_zero"], ["stem_bytes"]
        ),
    ]


def cells_to_columns(source: str, target: str, channels: int) -> list[NodeProto]:
    """float [B, 2 * C, h, ceil(W / 4)] -> [B, C, h, ceil(W / 2)]."""
    # Between two transpositions everything is as it lies in memory; ONNX Runtime drops them.
    return [
        helper.make_node("Add", ["width", "cells_1"], ["width_1"]),
        helper.make_node("Div", ["width_1", "cells_2"], ["half_width"]),
        helper.make_node(
            "Transpose", [source], ["stem_cells"], name="stem_cells", perm=[0, 2, 3, 1]
        ),
        helper.make_node(
            "Reshape", ["stem_cells", "columns_shape"], ["stem_spread"], name="stem_spread"
        ),
        helper.make_node(
            "Slice",
            ["stem_spread", "cells_0", "half_width", "cells_2"],
            ["stem_cut"],
            name="stem_cut",
        ),
        helper.make_node("Transpose", ["stem_cut"], [target], name="stem_done", perm=[0, 3, 1, 2]),
    ]

"""Two pointwise convolutions in a row are one: nothing between them is stored, or rounded."""

from __future__ import annotations

from itertools import pairwise

from onnx import ModelProto, NodeProto

from qinsight_plugin.student.graph import (
    backbone_nodes,
    filters,
    replace_nodes,
    set_filters,
    tensors,
)

MOST_PRODUCTS = 1.5
"""A narrow map between two wide ones saves products: at most so many times as many are worth it."""


def merge_pointwise(model: ModelProto) -> None:
    """Replace each such pair of the backbone by their product, under the names of the second."""
    nodes = list(model.graph.node)
    for first, second in pairwise(backbone_nodes(model)):
        uses = [node for node in nodes if first.output[0] in node.input]
        if uses != [second] or not (is_pointwise(first, model) and is_pointwise(second, model)):
            continue
        (inner, inner_bias), (outer, outer_bias) = (filters(model, n) for n in (first, second))
        if len(outer) * inner.shape[1] > MOST_PRODUCTS * (inner.size + outer.size):
            continue
        product = outer[:, :, 0, 0] @ inner[:, :, 0, 0]
        bias = outer[:, :, 0, 0] @ inner_bias + outer_bias
        set_filters(model, second, product[:, :, None, None], bias)
        second.input[0] = first.input[0]
    replace_nodes(model, nodes)


def is_pointwise(node: NodeProto, model: ModelProto) -> bool:
    if node.op_type != "Conv":
        return False
    strides = [list(entry.ints) for entry in node.attribute if entry.name == "strides"]
    return tensors(model)[node.input[1]].dims[2:] == [1, 1] and strides in ([], [[1, 1]])

"""Counts the multiplications of an ONNX graph."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, one_line

if TYPE_CHECKING:
    import onnx

KERNEL_INPUT = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}
"""Convolutions, and which of their inputs is the kernel [out, in/group, height, width]."""

PRODUCTS = ("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul")
"""Matrix products; the first input of each is the left factor."""


def count_macs(model: onnx.ModelProto, input_shape: Sequence[int]) -> int:
    """Multiply-accumulate operations of convolutions and matrix products, for one run.

    Element-wise operations, pooling and additions of biases are left out, as is usual.

    Args:
        model: with one input.
        input_shape: of that input.

    Raises:
        MissingExtraError: onnx is not installed.
        ConfigError: a shape cannot be inferred, or a product is of a kind not known here.
    """
    known = shapes(model, input_shape)
    return sum(node_macs(node, known) for node in model.graph.node)


def shapes(model: onnx.ModelProto, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor whose shape can be inferred, by name."""
    require("onnx", package="onnx", extra="train", purpose="counting operations")
    from onnx import ModelProto, shape_inference

    fixed = ModelProto()
    fixed.CopyFrom(model)
    dims = fixed.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, input_shape, strict=True):
        dim.dim_value = size
    try:
        inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
    except shape_inference.InferenceError as error:
        reason = one_line(error)
        raise ConfigError(f"cannot count the model's operations: {reason}") from error
    found = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def node_macs(node: onnx.NodeProto, known: Mapping[str, tuple[int, ...]]) -> int:
    kind = node.op_type
    try:
        if kind in KERNEL_INPUT:
            return math.prod(known[node.output[0]]) * math.prod(
                known[node.input[KERNEL_INPUT[kind]]][1:]
            )
        if kind in PRODUCTS:
            left = known[node.input[0]]
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            return math.prod(known[node.output[0]]) * left[0 if transposed else -1]
    except KeyError as error:
        raise ConfigError(
            f"cannot count the operations of {kind} {node.name}: the shape of {error} is not known"
        ) from error
    if any(part in kind for part in ("Conv", "MatMul", "Gemm", "Attention", "Einsum")):
        raise ConfigError(f"cannot count the operations of {kind} {node.name}")
    return 0

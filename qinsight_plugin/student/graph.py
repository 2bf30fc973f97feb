"""A student's ONNX file as a graph: read, walked, changed and written."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.scorers.student import METADATA_KEY, read_verified

Array = npt.NDArray[Any]

PRECISION = "precision"
"""Key in a student's metadata: "float32" (where it is missing too), "float16" or "int8"."""


def read_graph(path: Path) -> ModelProto:
    """The graph of a student's .onnx, whatever its precision.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file.
    """
    data, _ = read_verified(path)
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's own kinds
        raise WeightsError(
            f"{path} is no ONNX model ({' '.join(str(error).split())}); give a student's .onnx"
        ) from error
    if not metadata(model):
        raise WeightsError(f"{path} is not a qinsight student; make one with qinsight fit")
    return model


def read_float_graph(path: Path) -> ModelProto:
    """The graph of a float32 student: what training goes on from, and other precisions are made of.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file; also where it has
            been converted already, or has no blocks of ours.
    """
    model = read_graph(path)
    precision = metadata(model).get(PRECISION, "float32")
    if precision != "float32":
        raise WeightsError(
            f"{path} is {precision}; start from the float32 file that it was made from"
        )
    if not backbone_nodes(model):
        raise WeightsError(f"{path} has none of a student's features; give a file made by fit")
    return model


def metadata(model: ModelProto) -> dict[str, Any]:
    """What the package keeps in a student's file; empty for other models."""
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            values: dict[str, Any] = json.loads(entry.value)
            return values
    return {}


def set_metadata(model: ModelProto, values: dict[str, Any]) -> None:
    """Replace it; other entries of the file are dropped."""
    del model.metadata_props[:]
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(values, sort_keys=True))


def write_graph(model: ModelProto, path: Path) -> None:
    """Write the file, and its checksum beside it in the form that `sha256sum -c` reads."""
    data = model.SerializeToString(deterministic=True)
    path.write_bytes(data)
    checksum = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    path.with_name(path.name + ".sha256").write_text(checksum, "ascii")


def backbone_nodes(model: ModelProto) -> list[NodeProto]:
    """The convolutions of `features.*` with their activations and shortcuts, in order.

    Known by the names of the weights, which are those of the PyTorch state dict; the exporter's
    names of nodes change from version to version.
    """
    convolved: set[str] = set()
    inside: set[str] = set()
    found: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1].startswith("features."):
            convolved.update(node.output)
        elif not (
            (node.op_type == "Clip" and node.input[0] in convolved)
            or (node.op_type == "Add" and inside.issuperset(node.input))
        ):
            continue
        inside.update(node.output)
        found.append(node)
    return found


def tensors(model: ModelProto) -> dict[str, TensorProto]:
    """The initializers by name."""
    return {tensor.name: tensor for tensor in model.graph.initializer}


def also_giving(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """A copy of which these floats inside the graph are outputs too."""
    watched = copy.deepcopy(model)
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    return watched


def filters(model: ModelProto, convolution: NodeProto) -> tuple[Array, Array]:
    """A convolution's weight and bias, in float64."""
    held = tensors(model)
    weight, bias = (numpy_helper.to_array(held[name]) for name in convolution.input[1:3])
    return weight.astype(np.float64), bias.astype(np.float64)


def set_filters(model: ModelProto, convolution: NodeProto, weight: Array, bias: Array) -> None:
    """Replace them, in float32."""
    held = tensors(model)
    for name, array in zip(convolution.input[1:3], (weight, bias), strict=True):
        held[name].CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


def replace_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    """Make these, in this order, the graph's nodes; drop those of which nothing comes, and what
    was known of shapes."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    left = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    copies = [NodeProto.FromString(node.SerializeToString()) for node in reversed(kept)]
    weights = [TensorProto.FromString(tensor.SerializeToString()) for tensor in left]
    for field, items in (("node", copies), ("initializer", weights)):
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(items)
    model.graph.ClearField("value_info")

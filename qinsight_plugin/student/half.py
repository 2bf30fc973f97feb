"""Student -> fp16, for GPUs: convolutions in half precision, statistics and heads in float32.

Done here, in a few lines, because the general converters round every tensor of a graph to half
precision, those between operators that they were told to leave in float32 included.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qinsight_plugin.student.graph import (
    PRECISION,
    backbone_nodes,
    metadata,
    read_float_graph,
    replace_nodes,
    set_metadata,
    tensors,
    write_graph,
)


def to_fp16(source: Path, out: Path) -> None:
    """Write `out` and `out.sha256`. Input and outputs have the types that they had.

    Sums over pixels, squares and the heads stay in float32: half precision ends at 65504, and
    would lose the small deviations of flat pictures.

    Args:
        source: a float32 student.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the source.
    """
    model = read_float_graph(source)
    about = metadata(model)
    halve_backbone(model)
    set_metadata(model, {**about, PRECISION: "float16", "made_from": source.name})
    write_graph(model, out)


def halve_backbone(model: ModelProto) -> None:
    """Cast to half precision before the first convolution, and back wherever a tensor leaves."""
    backbone = backbone_nodes(model)
    inside = {node.output[0] for node in backbone}
    weights = tensors(model)
    entry = backbone[0].input[0]
    halved = {entry} | {name for node in backbone for name in node.input if name in weights}
    outside = [node for node in model.graph.node if node.output[0] not in inside]
    leaving = {name for node in outside for name in node.input} & inside

    nodes: list[NodeProto] = []
    for node in model.graph.node:
        into, renamed = ("_half", halved) if node.output[0] in inside else ("_float", leaving)
        node.input[:] = [name + into if name in renamed else name for name in node.input]
        nodes.append(node)
        for name, kind, suffix in (
            (entry, TensorProto.FLOAT16, "_half"),
            *((name, TensorProto.FLOAT, "_float") for name in sorted(leaving)),
        ):
            if name in node.output:
                nodes.append(helper.make_node("Cast", [name], [name + suffix], to=kind))
    model.graph.initializer.extend(
        numpy_helper.from_array(
            numpy_helper.to_array(weights[name]).astype(np.float16), name + "_half"
        )
        for name in sorted(halved - {entry})
    )
    replace_nodes(model, nodes)

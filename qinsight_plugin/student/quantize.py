"""Student -> int8, for CPUs: convolutions in 8 bits, statistics and heads in float.

Static quantisation by ONNX Runtime's own tool, in QDQ form: activations uint8 with the least and
greatest value that the calibration pictures show, weights int8 per channel. Where a CPU has VNNI
or the like, products are exact; without it sums of two products saturate at 16 bits, which the
scorer avoids by slower sums, and `reduce_range` by weights of 7 bits.

Three things are added to the tool's work. A depthwise filter often takes differences of neighbours,
and rounding each weight by itself makes it answer to plain brightness too: here the weights of a
filter are rounded so that their sum stays. The picture's bytes are taken for what they are,
8-bit numbers, instead of being made float and quantised again; see `stem_cells`. And the heads are
taught what they see now; see `relearn`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, numpy_helper

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Pixels
from qinsight_plugin.student.graph import (
    PRECISION,
    backbone_nodes,
    metadata,
    read_float_graph,
    set_metadata,
    tensors,
    write_graph,
)
from qinsight_plugin.student.relearn import relearn_heads
from qinsight_plugin.student.stem_cells import BYTE_SCALE, BYTE_ZERO, read_in_cells

Weight = npt.NDArray[np.floating[Any]]

LEAST_PICTURES, MOST_FOR_RANGES = 16, 128
"""Fewer do not show how far activations range; from 64 on more change little."""


def to_int8(
    source: Path, out: Path, pictures: Sequence[Pixels], *, reduce_range: bool = False
) -> None:
    """Write `out` and `out.sha256`.

    Args:
        source: a float32 student.
        pictures: uint8 [H, W, 3] each, as the scorer will see them: good ones and bad ones. Up to
            `MOST_FOR_RANGES` of them show the ranges; the heads learn from all.
        reduce_range: weights of 7 bits: less exact, and faster on CPUs without VNNI.

    Raises:
        ConfigError: there are fewer than `LEAST_PICTURES`.
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the source.
    """
    if len(pictures) < LEAST_PICTURES:
        raise ConfigError(
            f"{len(pictures)} pictures are too few to calibrate int8; give {LEAST_PICTURES} at "
            "least, better 64 or more"
        )
    model = read_float_graph(source)
    about = metadata(model)
    round_depthwise(model, levels=64 if reduce_range else 127)
    layout = read_in_cells(model)
    chosen = [node.name for node in backbone_nodes(model)] + layout
    ranging = pictures[:: math.ceil(len(pictures) / MOST_FOR_RANGES)]
    quantised = quantise(model, chosen, ranging, reduce_range)
    relearn_heads(quantised, source, pictures)
    set_metadata(
        quantised,
        {
            **about,
            PRECISION: "int8",
            "made_from": source.name,
            "int8": {
                "pictures": len(pictures),
                "ranges": f"min-max of {len(ranging)}",
                "reduce_range": reduce_range,
            },
        },
    )
    write_graph(quantised, out)


def round_depthwise(model: ModelProto, levels: int) -> None:
    """Put the weights of depthwise convolutions on the grid that the tool will choose."""
    weights = tensors(model)
    for node in backbone_nodes(model):
        if node.op_type == "Conv":
            weight = numpy_helper.to_array(weights[node.input[1]])
            if weight.shape[1] == 1:
                rounded = numpy_helper.from_array(round_keeping_sums(weight, levels), node.input[1])
                weights[node.input[1]].CopyFrom(rounded)


def round_keeping_sums(weight: Weight, levels: int) -> Weight:
    """float [C, 1, h, w] -> whole multiples of each filter's greatest weight / levels, each less
    than one such step from what it was, and their sum half a step at most."""
    flat = weight.reshape(len(weight), -1).astype(np.float64)
    step = np.abs(flat).max(axis=1, keepdims=True) / levels
    step[step == 0] = 1.0
    exact = flat / step
    rounded = np.round(exact)
    error = exact - rounded
    owed = np.round(error.sum(axis=1, keepdims=True))
    # Those that were rounded furthest the other way take one step each.
    rank = np.argsort(np.argsort(-error * np.sign(owed), axis=1), axis=1)
    rounded += np.sign(owed) * (rank < np.abs(owed))
    kept: Weight = (rounded * step).reshape(weight.shape).astype(weight.dtype)
    return kept


def quantise(
    model: ModelProto, nodes: Sequence[str], pictures: Sequence[Pixels], reduce_range: bool
) -> ModelProto:
    """ONNX Runtime's static quantisation of these nodes."""
    require("onnxruntime", package="onnxruntime", extra="export", purpose="quantising a student")
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Pixels] = iter(pictures)

        def get_next(self) -> dict[str, Pixels] | None:
            picture = next(self.left, None)
            return None if picture is None else {"image": picture[None]}

    as_bytes = {"quant_type": QuantType.QUInt8, "scale": BYTE_SCALE, "zero_point": BYTE_ZERO}
    with tempfile.TemporaryDirectory() as folder:
        inferred, quantised = Path(folder, "inferred.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(model, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            extra_options={"TensorQuantOverrides": {"stem_bytes": [as_bytes]}},
        )
        return onnx.load(quantised)

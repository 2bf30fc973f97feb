"""Student -> int8, for CPUs: convolutions in 8 bits, statistics and heads in float.

Static quantisation by ONNX Runtime's own tool, in QDQ form: activations uint8 with the least and
greatest value that the calibration pictures show, weights int8 per channel. Where a CPU has VNNI
or the like, products are exact; without it sums of two products saturate at 16 bits, which the
scorer avoids by slower sums, and `reduce_range` by weights of 7 bits.

Five things are added to the tool's work. Of two pointwise convolutions in a row one is left; see
`merge`. Channels that the first convolution does not use halve its steps; see `spare`. Weights are
rounded together instead of each by itself; see `rounding`. The picture's bytes are taken for what
they are, 8-bit numbers, instead of being made float and quantised again; see `stem_cells`. And the
heads are taught what they see now; see `relearn`.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.records import Pixels
from qinsight_plugin.student.distort import WORST, spoil
from qinsight_plugin.student.graph import (
    PRECISION,
    backbone_nodes,
    metadata,
    read_float_graph,
    set_metadata,
    write_graph,
)
from qinsight_plugin.student.merge import merge_pointwise
from qinsight_plugin.student.relearn import Watch, relearn_heads, unwatched
from qinsight_plugin.student.rounding import round_weights
from qinsight_plugin.student.spare import use_spare_channels
from qinsight_plugin.student.stem_cells import (
    BYTE_SCALE,
    BYTE_ZERO,
    COLUMNS,
    STEM_WEIGHT,
    read_in_cells,
)

LEAST_PICTURES, MOST_FOR_RANGES = 16, 128
"""Fewer do not show how far activations range; from 64 on more change little."""


def to_int8(
    source: Path,
    out: Path,
    pictures: Sequence[Pixels],
    *,
    reduce_range: bool = False,
    watch: Watch = unwatched,
) -> None:
    """Write `out` and `out.sha256`.

    Args:
        source: a float32 student.
        pictures: uint8 [H, W, 3] each, as the scorer will see them: good ones and bad ones. Up to
            `MOST_FOR_RANGES` of them show the ranges, and how to round; the heads learn from all.
        reduce_range: weights of 7 bits: less exact, and faster on CPUs without VNNI.
        watch: told of what takes minutes.

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
    ranging = pictures[:: math.ceil(len(pictures) / MOST_FOR_RANGES)]
    merge_pointwise(model)
    use_spare_channels(model)
    rng = np.random.default_rng(0)
    spoilt = [spoil(pixels, rng, worst=WORST)[0] for pixels in ranging]
    looked_at = watch([*ranging, *spoilt], 2 * len(ranging), "Rounding")
    steps = round_weights(model, looked_at, levels=64 if reduce_range else 127)
    layout = read_in_cells(model)
    steps[STEM_WEIGHT] = np.tile(steps[STEM_WEIGHT], COLUMNS)
    chosen = [node.name for node in backbone_nodes(model)] + layout
    quantised = quantise(model, chosen, ranging, steps)
    relearn_heads(quantised, source, pictures, watch)
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


def quantise(
    model: ModelProto,
    nodes: Sequence[str],
    pictures: Sequence[Pixels],
    steps: Mapping[str, npt.NDArray[np.float32]],
) -> ModelProto:
    """ONNX Runtime's static quantisation of these nodes, with these steps of their weights."""
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
    on_grid = {"axis": 0, "quant_type": QuantType.QInt8, "zero_point": np.int8(0)}
    chosen = {name: [on_grid | {"scale": step} for step in own] for name, own in steps.items()}
    with tempfile.TemporaryDirectory() as folder:
        inferred, quantised = Path(folder, "inferred.onnx"), Path(folder, "int8.onnx")
        quant_pre_process(model, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            quantised,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(nodes),
            extra_options={"TensorQuantOverrides": {"stem_bytes": [as_bytes], **chosen}},
        )
        return onnx.load(quantised)

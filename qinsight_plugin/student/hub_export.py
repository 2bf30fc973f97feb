"""A student on a hub backbone -> ONNX, and on to int8: both through optimum.

The files keep the contract of `student.export`, so `--scorer student:FILE.onnx` runs them.
optimum-onnx wants transformers below 4.58: the extra `optimum` has an environment of its own.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, cast

import onnx
import torch
from torch import Tensor, nn

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.reasoning.libraries import quiet
from qinsight_plugin.records import Pixels
from qinsight_plugin.student.export import CONTRACT, OPSET, parity, strip_provenance
from qinsight_plugin.student.graph import (
    PRECISION,
    metadata,
    read_graph,
    set_metadata,
    write_graph,
)
from qinsight_plugin.student.heads import Outputs
from qinsight_plugin.student.hub import HubStudent, first_sentence
from qinsight_plugin.student.quantize import LEAST_PICTURES

Axes: TypeAlias = dict[str, dict[int, str]]
"""Of each input or output, the names of the axes whose sizes stay free."""

BACKBONE_NODES = "/backbone/model/"
"""How the names of the backbone's nodes begin in the graph."""

QUANTISED_OPERATORS = ["Conv", "Gemm", "MatMul", "Relu", "Clip", "MaxPool"]
"""Additions stay in float: the residual sums of transformers have outliers that 8 bits lose."""


def export_hub_onnx(student: HubStudent, path: Path, about: Mapping[str, Any]) -> float:
    """Write `path` and `path.sha256` with optimum's exporter, at opset 20.

    The graph takes `image`, uint8 [B, H, W, 3], all three sizes free, and gives the fields of
    `Outputs`.

    Args:
        about: JSON values kept in the file's metadata.

    Returns:
        the largest difference between PyTorch and ONNX Runtime in any output.

    Raises:
        MissingExtraError: optimum is not installed.
        WeightsError: the backbone cannot be exported, or the two disagree by more than
            `PARITY_TOLERANCE`.
    """
    student = student.eval()
    model = trace(student, path)
    strip_provenance(model)
    set_metadata(model, {**CONTRACT, **about})
    try:
        difference = parity(cast(Any, student), model.SerializeToString(), path)
    except WeightsError:
        raise
    except Exception as error:  # shapes that differ, or onnxruntime's own kinds
        raise WeightsError(
            f"{path}: the graph does not take pictures of every size ({first_sentence(error)}); "
            "choose another backbone"
        ) from error
    write_graph(model, path)
    return difference


def trace(student: HubStudent, path: Path) -> onnx.ModelProto:
    exporters = require_optimum("optimum.exporters.onnx", purpose="exporting a hub student")
    with tempfile.TemporaryDirectory() as folder, quiet_tracing():
        file = Path(folder) / "student.onnx"
        try:
            exporters.export(
                student, onnx_config(student), file, opset=OPSET, disable_dynamic_axes_fix=True
            )
        except Exception as error:  # the tracer's, the exporter's and the model's own kinds
            raise WeightsError(
                f"{path}: optimum cannot export {type(student.backbone.model).__name__} "
                f"({first_sentence(error)}); choose another backbone"
            ) from error
        return onnx.load(file)


def onnx_config(student: HubStudent) -> Any:
    """What optimum's exporter has to know of a student."""
    from optimum.exporters.onnx import OnnxConfig
    from optimum.exporters.onnx.model_patcher import PatchingSpec
    from optimum.utils import NormalizedVisionConfig
    from transformers.models.mobilenet_v1 import modeling_mobilenet_v1
    from transformers.models.mobilenet_v2 import modeling_mobilenet_v2

    class StudentOnnxConfig(OnnxConfig):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS = NormalizedVisionConfig
        PATCHING_SPECS: ClassVar[list[PatchingSpec]] = [
            PatchingSpec(modeling_mobilenet_v1, "apply_tf_padding", padded_as_tensorflow_does),
            PatchingSpec(modeling_mobilenet_v2, "apply_tf_padding", padded_as_tensorflow_does),
            # It prints the graph of an export that fails.
            PatchingSpec(torch._C, "_jit_onnx_log", lambda *_: None),
        ]
        inputs: ClassVar[Axes] = {"images": {0: "B", 1: "H", 2: "W"}}
        outputs: ClassVar[Axes] = {
            **{name: {0: "B"} for name in Outputs._fields},
            "quality_map": {0: "B", 1: "h", 2: "w"},
        }
        torch_to_onnx_input_map: ClassVar[dict[str, str]] = {"images": "image"}

        def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Tensor]:
            return {"images": torch.zeros(2, 64, 96, 3, dtype=torch.uint8)}

    return StudentOnnxConfig(student.config)


def padded_as_tensorflow_does(features: Tensor, conv: nn.Conv2d) -> Tensor:
    """MobileNet's "SAME" padding, for a size that stays free in the graph.

    transformers' own turns the size into a number, which tracing then takes for a constant.
    """
    if conv.kernel_size == (1, 1):
        return features  # a node that pads by nothing costs a copy
    pads: list[Any] = []
    for axis in (1, 0):  # torch pads the last axis first
        stride, kernel = conv.stride[axis], conv.kernel_size[axis]
        total = kernel - stride
        if stride > 1:
            total += -features.shape[2 + axis] % stride
        pads += [total // 2 * conv.dilation[axis], (total - total // 2) * conv.dilation[axis]]
    return nn.functional.pad(features, pads)


def hub_to_int8(
    source: Path, out: Path, pictures: Sequence[Pixels], *, reduce_range: bool = False
) -> None:
    """Write `out` and `out.sha256`: the backbone in int8, heads and statistics in float.

    optimum's static quantisation, in QDQ form: activations uint8 with the ranges that the pictures
    show, weights int8 per channel. Convolutions with ReLU gain; networks with GELU may get slower.

    Args:
        source: written by `export_hub_onnx`.
        pictures: uint8 [H, W, 3] each, as varied as what is to be scored: where those go beyond
            the ranges that these show, they are clipped.
        reduce_range: weights of 7 bits: less exact, and faster on CPUs without VNNI.

    Raises:
        MissingExtraError: optimum is not installed.
        ConfigError: there are fewer pictures than `quantize.LEAST_PICTURES`.
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the source.
    """
    if len(pictures) < LEAST_PICTURES:
        raise ConfigError(
            f"{len(pictures)} pictures are too few to calibrate int8; give {LEAST_PICTURES} at "
            "least, better 64 or more"
        )
    model = read_graph(source)
    about = metadata(model)
    nodes = [node.name for node in model.graph.node if node.name.startswith(BACKBONE_NODES)]
    if not nodes or about.get(PRECISION) != "float32":
        raise WeightsError(
            f"{source} is no float32 student on a hub backbone; give one that fit --backbone made"
        )
    quantised = quantise(model, nodes, pictures, reduce_range)
    calibration = {"pictures": len(pictures), "ranges": "min-max", "reduce_range": reduce_range}
    made = {PRECISION: "int8", "made_from": source.name, "int8": calibration}
    set_metadata(quantised, {**about, **made})
    write_graph(quantised, out)


def quantise(
    model: onnx.ModelProto, nodes: list[str], pictures: Sequence[Pixels], reduce_range: bool
) -> onnx.ModelProto:
    """optimum's static quantisation of these nodes."""
    ort = require_optimum("optimum.onnxruntime", purpose="quantising a hub student")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat
    from optimum.onnxruntime.configuration import CalibrationConfig
    from transformers import PretrainedConfig

    recipe = ort.QuantizationConfig(
        is_static=True,
        format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=reduce_range,
        nodes_to_quantize=nodes,
        operators_to_quantize=QUANTISED_OPERATORS,
    )
    ranges = CalibrationConfig("pictures", "", "", len(pictures), CalibrationMethod.MinMax)
    with tempfile.TemporaryDirectory() as folder, quiet_tracing():
        file = Path(folder) / "student.onnx"
        onnx.save(model, file)
        quantizer = ort.ORTQuantizer(file, PretrainedConfig())
        found = quantizer.fit(
            [{"image": picture} for picture in pictures],
            ranges,
            Path(folder) / "augmented.onnx",
            QUANTISED_OPERATORS,
        )
        quantizer.quantize(recipe, folder, "int8", found)
        return onnx.load(Path(folder) / "student_int8.onnx")


def require_optimum(module: str, purpose: str) -> Any:
    return require(module, package="optimum-onnx", extra="optimum", purpose=purpose)


@contextmanager
def quiet_tracing() -> Iterator[None]:
    """Tracing warns of each Python value that it makes a constant; `parity` is what tells."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet():
            yield
    finally:
        logging.disable(disabled)

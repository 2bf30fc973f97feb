"""A student on a hub backbone -> ONNX, and on to int8: both through optimum.

The files keep the contract of `student.export`, so `--scorer student:FILE.onnx` runs them.
optimum-onnx wants transformers below 4.58: the extra `optimum` has an environment of its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.records import Pixels
from qinsight_plugin.scorers.student import METADATA_KEY, SPEC, open_session, read_verified
from qinsight_plugin.student.export import (
    OPSET,
    PARITY_SHAPES,
    PARITY_TOLERANCE,
    strip_provenance,
)
from qinsight_plugin.student.heads import Outputs
from qinsight_plugin.student.hub import HubStudent, one_line, quiet_transformers

Axes: TypeAlias = dict[str, dict[int, str]]
"""Of each input or output, the names of the axes whose sizes stay free."""

BACKBONE_NODES = "/features/features.0/model/"
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
    contract = {"max_pixels": SPEC.max_pixels, "min_side": SPEC.min_side, "range": SPEC.range}
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({**contract, **about}, sort_keys=True)
    data = model.SerializeToString(deterministic=True)
    difference = parity(student, data, path)
    write_with_checksum(path, data)
    return difference


def trace(student: HubStudent, path: Path) -> onnx.ModelProto:
    exporters = require_optimum("optimum.exporters.onnx", purpose="exporting a hub student")
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "student.onnx"
        try:
            exporters.export(
                student, onnx_config(student), file, opset=OPSET, disable_dynamic_axes_fix=True
            )
        except Exception as error:  # the tracer's, the exporter's and the model's own kinds
            raise WeightsError(
                f"{path}: optimum cannot export {type(student.backbone.model).__name__} "
                f"({one_line(error)}); choose another backbone"
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
    pads: list[Any] = []
    for axis in (1, 0):  # torch pads the last axis first
        stride, kernel = conv.stride[axis], conv.kernel_size[axis]
        total = kernel - stride
        if stride > 1:
            total += -features.shape[2 + axis] % stride
        pads += [total // 2 * conv.dilation[axis], (total - total // 2) * conv.dilation[axis]]
    return nn.functional.pad(features, pads)


def parity(student: HubStudent, model: bytes, path: Path) -> float:
    session = open_session(path, model, "cpu")
    generator = np.random.default_rng(0)
    worst = 0.0
    for shape in PARITY_SHAPES:
        images = generator.integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            expected = student(torch.from_numpy(images))
        try:
            actual = session.run(list(Outputs._fields), {"image": images})
        except Exception as error:  # onnxruntime's own errors share no base class
            raise WeightsError(
                f"{path}: the graph does not take a picture of {shape[2]}x{shape[1]} "
                f"({one_line(error)}); choose a backbone that takes any size"
            ) from error
        for ours, theirs in zip(expected, actual, strict=True):
            same_shape = ours.shape == theirs.shape
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()) if same_shape else np.inf)
    if not worst <= PARITY_TOLERANCE:
        raise WeightsError(
            f"{path}: ONNX Runtime is {worst:.4f} away from PyTorch, more than "
            f"{PARITY_TOLERANCE}; the export is wrong, choose another backbone"
        )
    return worst


def quantise_hub_onnx(source: Path, out: Path, pictures: Sequence[Pixels]) -> None:
    """Write `out` and `out.sha256`: the backbone in int8, heads and statistics in float.

    Static, in QDQ form: activations uint8 with the ranges that the pictures show (min-max),
    weights int8 per channel. Without VNNI such products saturate: measure the file where it is to
    run. Convolutions with ReLU gain; networks with GELU may get slower.

    Args:
        source: written by `export_hub_onnx`.
        pictures: uint8 [H, W, 3] each, as the scorer is to see; 50 to 200 varied ones will do.

    Raises:
        MissingExtraError: optimum is not installed.
        ConfigError: there are no pictures.
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the source.
    """
    if not pictures:
        raise ConfigError(f"int8 for {source} needs pictures to calibrate on; give at least one")
    ort = require_optimum("optimum.onnxruntime", purpose="int8")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat
    from optimum.onnxruntime.configuration import CalibrationConfig
    from transformers import PretrainedConfig

    data, _ = read_verified(source)
    model = onnx.load_model_from_string(data)
    names = [node.name for node in model.graph.node if node.name.startswith(BACKBONE_NODES)]
    recipe = ort.QuantizationConfig(
        is_static=True,
        format=QuantFormat.QDQ,
        per_channel=True,
        nodes_to_quantize=names,
        operators_to_quantize=QUANTISED_OPERATORS,
    )
    ranges = CalibrationConfig("pictures", "", "", len(pictures), CalibrationMethod.MinMax)
    with tempfile.TemporaryDirectory() as folder, quiet():
        file = Path(folder) / "student.onnx"
        file.write_bytes(data)
        quantizer = ort.ORTQuantizer(file, PretrainedConfig())
        found = quantizer.fit(
            [{"image": picture} for picture in pictures],
            ranges,
            Path(folder) / "augmented.onnx",
            QUANTISED_OPERATORS,
        )
        quantizer.quantize(recipe, folder, "int8", found)
        quantised = onnx.load(Path(folder) / "student_int8.onnx")
    write_with_checksum(out, quantised.SerializeToString(deterministic=True))


def write_with_checksum(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    checksum = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    path.with_name(path.name + ".sha256").write_text(checksum, "ascii")


def require_optimum(module: str, purpose: str) -> Any:
    return require(module, package="optimum-onnx", extra="optimum", purpose=purpose)


@contextmanager
def quiet() -> Iterator[None]:
    """Tracing warns of each Python value that it makes a constant; `parity` is what tells."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

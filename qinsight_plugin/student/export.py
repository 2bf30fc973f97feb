"""Student -> ONNX and back: one file holds the weights for inference and for training on."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from qinsight_plugin import __version__
from qinsight_plugin.errors import WeightsError
from qinsight_plugin.scorers.student import SPEC, open_session, read_verified
from qinsight_plugin.student.graph import (
    PRECISION,
    metadata,
    read_float_graph,
    set_metadata,
    tensors,
    write_graph,
)
from qinsight_plugin.student.heads import Outputs
from qinsight_plugin.student.layouts import LAYOUTS, pretrained_weights
from qinsight_plugin.student.network import Student, load_features

SHIPPED_NETWORK = next(iter(LAYOUTS))

OPSET = 20
"""The first opset at which cv2.dnn reads every network of this package rightly."""

PARITY_TOLERANCE = 1e-3
"""Largest accepted difference between PyTorch and ONNX Runtime, in any output."""

PARITY_SHAPES = ((1, 32, 32, 3), (2, 64, 96, 3), (1, 257, 191, 3))

CONTRACT = {
    "max_pixels": SPEC.max_pixels,
    "min_side": SPEC.min_side,
    "range": SPEC.range,
    "preprocessing": "uint8 sRGB, upright, alpha over white; both sides halved by 2x2 means until "
    "max_pixels is met; the graph does the rest",
    "version": __version__,
    PRECISION: "float32",
}
"""What every exported file says of itself."""


def export_onnx(student: Student, path: Path, about: Mapping[str, Any]) -> float:
    """Write `path` and `path.sha256`.

    The graph takes `image`, uint8 [B, H, W, 3], all three sizes free, and gives the fields of
    `Outputs`, in their order.

    Args:
        about: JSON values kept in the file's metadata beside `CONTRACT`: the data, the recipe, how
            it was calibrated, the figures.

    Returns:
        the largest difference between PyTorch and ONNX Runtime in any output.

    Raises:
        WeightsError: it is more than `PARITY_TOLERANCE`.
    """
    student = student.eval().cpu()
    model = trace(student)
    strip_provenance(model)
    set_metadata(model, {**CONTRACT, "network": student.network, **about})
    difference = parity(student, model.SerializeToString(), path)
    write_graph(model, path)
    return difference


def trace(student: Student) -> onnx.ModelProto:
    batch = torch.export.Dim("B", min=1)
    height, width = torch.export.Dim("H", min=32), torch.export.Dim("W", min=32)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every package that it could have used
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                student,
                (torch.zeros(2, 96, 128, 3, dtype=torch.uint8),),
                input_names=["image"],
                output_names=list(Outputs._fields),
                dynamic_shapes=({0: batch, 1: height, 2: width},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise WeightsError("torch.onnx.export returned nothing; run it on the student by hand")
    return program.model_proto


def strip_provenance(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold stack traces with the paths of this machine."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del item.metadata_props[:]
        item.doc_string = ""
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.doc_string = ""


def parity(student: Student, model: bytes, path: Path) -> float:
    session = open_session(path, model, "cpu")
    generator = np.random.default_rng(0)
    worst = 0.0
    for shape in PARITY_SHAPES:
        images = generator.integers(0, 256, shape, dtype=np.uint8)
        with torch.inference_mode():
            expected = student(torch.from_numpy(images))
        actual = session.run(list(Outputs._fields), {"image": images})
        for ours, theirs in zip(expected, actual, strict=True):
            worst = max(worst, float(np.abs(ours.numpy() - theirs).max()))
    if not worst <= PARITY_TOLERANCE:
        raise WeightsError(
            f"{path}: ONNX Runtime is {worst:.4f} away from PyTorch, more than "
            f"{PARITY_TOLERANCE}; the export is wrong, keep the old file"
        )
    return worst


def load_student(path: Path, network: str | None = None) -> tuple[Student, bool]:
    """A student with the weights of a student's .onnx, or on a pretrained backbone.

    Args:
        path: a float32 .onnx written by `export_onnx`, torchvision's MobileNetV2 as .safetensors,
            or an EfficientNet-Lite's .pth (see `layouts`).
        network: a name of `LAYOUTS`; None: the one that ships.

    Returns:
        the student, and whether its heads are fresh, that is, were not in the file. Blocks that a
        backbone has no weights for are drawn anew; see `imitate`.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file.
    """
    if path.suffix in (".pth", ".safetensors"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # new blocks are the same in each process: a killed run goes on
            student = Student(network or SHIPPED_NETWORK).eval()
        found = pretrained_weights(read_pretrained(path), student.layout, str(path))
        student.load_state_dict(found, strict=False)
        return student, True
    model = read_float_graph(path)
    held = metadata(model).get("network", SHIPPED_NETWORK)  # files of version 2 do not say
    if network not in (None, held):
        raise WeightsError(
            f"{path} holds the network {held}, not {network}; leave --network out, or "
            "start from a pretrained network"
        )
    student = Student(held).eval()
    state = read_tensors(model)
    load_features(student, state, str(path))
    heads = {key for key in student.state_dict() if not key.startswith("features.")}
    if missing := heads - state.keys():
        raise WeightsError(
            f"{path} was made by an older version: it scores, but training cannot go on from "
            f"it, since {min(missing)} and more are missing; start from a newer student or "
            "from MobileNetV2 as .safetensors"
        )
    student.load_state_dict({key: state[key] for key in heads}, strict=False)
    return student, False


def read_tensors(model: onnx.ModelProto) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(onnx.numpy_helper.to_array(tensor).copy())
        for name, tensor in tensors(model).items()
    }


def read_pretrained(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors or .pth file; neither runs code when it is read."""
    import safetensors.torch

    data, _ = read_verified(path)
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data)
        state: dict[str, Tensor] = torch.load(io.BytesIO(data), "cpu", weights_only=True)
    except Exception as error:  # safetensors, torch, zipfile and pickle raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(
            f"{path} holds no weights that can be read ({reason}); give a student's .onnx, a "
            ".safetensors or a .pth"
        ) from error
    return state

"""Student -> ONNX and back: one file holds the weights for inference and for training on."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from qinsight_plugin.errors import WeightsError
from qinsight_plugin.scorers.student import METADATA_KEY, SPEC, open_session, read_verified
from qinsight_plugin.student.network import Student, fold_batch_norm, load_backbone

OPSET = 20
"""The first opset at which cv2.dnn reads every network of this package rightly."""

PARITY_TOLERANCE = 1e-3
"""Largest accepted difference, in MOS, between PyTorch and ONNX Runtime."""

PARITY_SHAPES = ((1, 32, 32, 3), (2, 64, 96, 3), (1, 257, 191, 3))


def export_onnx(student: Student, path: Path, about: Mapping[str, Any]) -> float:
    """Write `path` and `path.sha256`; return the largest difference from PyTorch, in MOS.

    The graph takes `image`, uint8 [B, H, W, 3], all three sizes free, and gives `score`, float [B].

    Args:
        about: JSON values kept in the file's metadata: the data, the recipe, the figures.

    Raises:
        WeightsError: ONNX Runtime disagrees with PyTorch by more than `PARITY_TOLERANCE`.
    """
    student = student.eval()
    model = trace(student)
    strip_provenance(model)
    contract = {"max_pixels": SPEC.max_pixels, "min_side": SPEC.min_side, "range": SPEC.range}
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps({**contract, **about}, sort_keys=True)
    data = model.SerializeToString(deterministic=True)
    difference = parity(student, data, path)
    path.write_bytes(data)
    checksum = f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
    path.with_name(path.name + ".sha256").write_text(checksum, "ascii")
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
                output_names=["score"],
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
            expected = student(torch.from_numpy(images)).numpy()
        (actual,) = session.run(["score"], {"image": images})
        worst = max(worst, float(np.abs(actual - expected).max()))
    if not worst <= PARITY_TOLERANCE:
        raise WeightsError(
            f"{path}: ONNX Runtime is {worst:.4f} MOS away from PyTorch, more than "
            f"{PARITY_TOLERANCE}; the export is wrong, keep the old file"
        )
    return worst


def load_student(path: Path) -> tuple[Student, bool]:
    """A student with the weights of a student's .onnx, or with a pretrained backbone only.

    Args:
        path: an .onnx written by `export_onnx`, or torchvision's MobileNetV2 as .safetensors.

    Returns:
        the student, and whether its regressor is fresh, that is, was not in the file.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file.
    """
    student = Student().eval()
    state = read_state(path)
    load_backbone(student, state, str(path))
    rest = {key for key in student.state_dict() if not key.startswith("features.")}
    fresh = not rest <= state.keys()
    if not fresh:
        student.load_state_dict({key: state[key] for key in rest}, strict=False)
    return student, fresh


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a weights file; BatchNorm folded."""
    data, _ = read_verified(path)
    try:
        if path.suffix == ".safetensors":
            import safetensors.torch

            return fold_batch_norm(safetensors.torch.load(data))
        tensors = onnx.load_model_from_string(data).graph.initializer
        return {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in tensors}
    except Exception as error:  # protobuf and safetensors raise their own kinds
        raise WeightsError(
            f"{path} holds no weights that can be read ({' '.join(str(error).split())}); give a "
            "student's .onnx or a .safetensors"
        ) from error

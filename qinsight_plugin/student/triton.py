"""A student as a model repository for Triton Inference Server, with dynamic batching.

Triton runs the graph; decoding stays with the client. A picture is sent as the scorer sees it:
uint8 RGB, upright, its sides halved until it has at most `max_pixels`. Triton batches pictures of
one size only, so a client that wants batches brings its pictures to few sizes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.scorers.student import METADATA_KEY, contract_of, read_verified
from qinsight_plugin.sorting import write_into
from qinsight_plugin.student.graph import read_graph

VERSION = 1
_TYPES = {1: "TYPE_FP32", 2: "TYPE_UINT8", 10: "TYPE_FP16"}
"""ONNX's numbers of element types, and Triton's names."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How Triton is to run it.

    Attributes:
        name: of the model; requests go to /v2/models/NAME/infer.
        max_batch: pictures computed at once, at most.
        delay_us: how long the first of them waits for others, in microseconds.
        instances: copies of the model a device; None: Triton's own choice.
        gpu: whether it runs on GPUs.
    """

    name: str = "qinsight"
    max_batch: int = 8
    delay_us: int = 2000
    instances: int | None = None
    gpu: bool = False


def write_repository(student: Path, folder: Path, serving: Serving | None = None) -> Path:
    """Write `FOLDER/NAME/config.pbtxt` and `FOLDER/NAME/1/model.onnx`. Returns `FOLDER/NAME`.

    Raises:
        ConfigError: the name is none, a number is too small, or something is there already.
        WeightsError: the file is no student.
    """
    serving = serving or Serving()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", serving.name):
        raise ConfigError(f"model name {serving.name!r}: use letters, digits, _, . and -")
    if serving.max_batch < 1 or serving.delay_us < 0:
        raise ConfigError("a batch has 1 picture or more, and waits 0 microseconds or more")
    data, digest = read_verified(student)
    graph = read_graph(student)
    told = {entry.key: entry.value for entry in graph.metadata_props}
    limits = contract_of(told.get(METADATA_KEY), student)
    target = folder / serving.name
    try:
        write_into(data, target / str(VERSION) / "model.onnx")
        text = configuration(graph.graph, serving, digest, **limits)
        write_into(text.encode(), target / "config.pbtxt")  # last: with it Triton sees the model
    except FileExistsError as error:
        raise ConfigError(f"{target} is there already: choose another name or folder") from error
    return target


def configuration(
    graph: Any, serving: Serving, digest: str, *, max_pixels: int, min_side: int
) -> str:
    """The text of a ModelConfig (model_config.proto, in protobuf's text format)."""
    device = "KIND_GPU" if serving.gpu else "KIND_CPU"
    count = f"count: {serving.instances}, " if serving.instances else ""
    return "\n".join(
        [
            f'name: "{serving.name}"',
            'backend: "onnxruntime"',
            'default_model_filename: "model.onnx"',
            f"max_batch_size: {serving.max_batch}",
            *(_tensor("input", tensor) for tensor in graph.input),
            *(_tensor("output", tensor) for tensor in graph.output),
            f"dynamic_batching {{ max_queue_delay_microseconds: {serving.delay_us} }}",
            f"instance_group [ {{ {count}kind: {device} }} ]",
            _parameter("scorer_version", f"sha256:{digest[:16]}"),
            _parameter("max_pixels", str(max_pixels)),
            _parameter("min_side", str(min_side)),
            "",
        ]
    )


def _tensor(role: str, tensor: Any) -> str:
    kind = tensor.type.tensor_type
    _, *shape = kind.shape.dim  # Triton adds the dimension of the batch
    # A scalar a picture has no dimension left, and Triton wants one: it is reshaped away.
    sides = ", ".join(str(d.dim_value or -1) for d in shape)
    dims = f"dims: [ {sides} ]" if shape else "dims: [ 1 ], reshape: { shape: [ ] }"
    return f'{role} [ {{ name: "{tensor.name}", data_type: {_TYPES[kind.elem_type]}, {dims} }} ]'


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}", value: {{ string_value: "{value}" }} }}'

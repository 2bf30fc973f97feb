"""The student under OpenCV's own runner, `cv2.dnn`, for those who may install nothing else."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.records import Image, Score, ScorerSpec
from qinsight_plugin.scorers.opinion import score_of
from qinsight_plugin.scorers.student import (
    METADATA_KEY,
    SHIPPED_WEIGHTS,
    contract_of,
    long_axis,
    read_verified,
    require_side,
    weights_named,
    windows,
)

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

LEAST_VERSION = 5
"""Older ones read such graphs wrongly, and do not say so."""

FLOAT32 = "float32"

METADATA_FIELD, KEY_FIELD, VALUE_FIELD = 14, 1, 2
"""Of `ModelProto.metadata_props` and its entries, in onnx.proto."""


class OpenCvScorer:
    """As `StudentScorer`, for float32 files. Thread-safe; one picture at a time.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file.
        MissingExtraError: there is no cv2.
        ConfigError: OpenCV is older than 5.
    """

    def __init__(self, weights: Path = SHIPPED_WEIGHTS) -> None:
        import numpy as np

        model, digest = read_verified(weights)
        cv2: Any = require("cv2", package="OpenCV", extra="opencv", purpose="the scorer opencv")
        if int(cv2.__version__.split(".")[0]) < LEAST_VERSION:
            raise ConfigError(
                f"OpenCV {cv2.__version__} reads this kind of network wrongly; install "
                f"opencv-python>={LEAST_VERSION}, or score with student, which needs onnxruntime"
            )
        metadata = metadata_of(model).get(METADATA_KEY)
        declared = contract_of(metadata, weights)
        require_float32(str(json.loads(metadata or "{}").get("precision", FLOAT32)), str(weights))
        try:
            self._net = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))
        except cv2.error as error:
            reason = " ".join(error.err.split()).lstrip("> ")
            raise WeightsError(f"{weights} is no model that OpenCV can run: {reason}") from error
        self._outputs = list(self._net.getUnconnectedOutLayersNames())
        version = f"sha256:{digest[:16]} OpenCV {cv2.__version__}"
        self.spec = dataclasses.replace(SPEC, version=version, **declared)
        self._lock = threading.Lock()

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One score an image; references are not looked at.

        Raises:
            ImageTooSmallError: a side is shorter than `spec.min_side` pixels.
        """
        return [self._judge(image) for image in images]

    def _judge(self, image: Image) -> Score:
        require_side(image, self.spec.min_side)
        parts = [self._run(window) for window in windows(image.pixels, self.spec.max_pixels)]
        return score_of(parts, long_axis(image.pixels))

    def _run(self, window: Pixels) -> Mapping[str, Any]:
        import numpy as np

        with self._lock:
            self._net.setInput(np.ascontiguousarray(window[np.newaxis]), "image")
            found = self._net.forward(self._outputs)
            return {n: np.array(v[0]) for n, v in zip(self._outputs, found, strict=True)}


def require_float32(precision: str, name: str) -> None:
    if precision != FLOAT32:
        raise ConfigError(
            f"{name} is {precision}, which OpenCV runs wrongly: take the float32 file, or score "
            "with student"
        )


def metadata_of(model: bytes) -> dict[str, str]:
    """The texts that an ONNX file carries, read without the package onnx; none of a broken file."""
    found = {}
    try:
        for number, entry in fields(model):
            if number == METADATA_FIELD:
                texts = dict(fields(entry))
                found[texts[KEY_FIELD].decode()] = texts[VALUE_FIELD].decode()
    except (IndexError, KeyError, ValueError):
        return {}
    return found


def fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a Protocol Buffers message's fields; numbers are left out.

    Raises:
        ValueError, IndexError: it is none.
    """
    data, place = memoryview(message), 0
    while place < len(data):
        tag, place = varint(data, place)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _, place = varint(data, place)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        elif wire == 2:
            size, place = varint(data, place)
            if place + size > len(data):
                raise ValueError("a field is longer than its message")
            yield number, bytes(data[place : place + size])
            place += size
        else:
            raise ValueError(f"wire type {wire}")


def varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at `place`, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, place


def load(argument: str) -> OpenCvScorer:
    """Load `opencv` (the shipped weights) or `opencv:PATH`."""
    return OpenCvScorer(weights_named(argument))


SPEC = ScorerSpec(
    name="opencv",
    load=load,
    summary="the student run by OpenCV 5 itself, without ONNX Runtime; opencv:PATH loads your own",
    max_pixels=600_000,
    min_side=32,
)

"""The student: a small no-reference network that ONNX Runtime runs on the CPU or a GPU."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import (
    ConfigError,
    ImageTooSmallError,
    WeightsChecksumError,
    WeightsError,
    WeightsNotFoundError,
)
from qinsight_plugin.records import Image, Score, ScorerSpec
from qinsight_plugin.scorers import tensorrt
from qinsight_plugin.scorers.opinion import score_of
from qinsight_plugin.scorers.saturation import sums_saturate

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

SHIPPED_WEIGHTS = Path(__file__).parent.parent / "student" / "weights" / "student-v2.onnx"
SHIPPED = {
    "": SHIPPED_WEIGHTS,
    "int8": SHIPPED_WEIGHTS.with_name("student-v2-int8.onnx"),
    "fp16": SHIPPED_WEIGHTS.with_name("student-v2-fp16.onnx"),
    "large": SHIPPED_WEIGHTS.with_name("student-large-v1.onnx"),
    "large-int8": SHIPPED_WEIGHTS.with_name("student-large-v1-int8.onnx"),
}
"""By what follows `student:`."""

METADATA_KEY = "qinsight_student"
DEVICE_VARIABLE = "QINSIGHT_DEVICE"
"""Environment variable: `cpu` (default), `cuda` or `tensorrt`."""

THREADS_VARIABLE = "QINSIGHT_THREADS"
"""Environment variable: threads that one picture is computed on, on a CPU; as many as there are
cores when unset. For hosts that run several processes."""

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
GPU_BATCH = tensorrt.MAX_BATCH


class StudentScorer:
    """Predicts MOS, 1 (bad) to 5 (excellent), and what else the file's version has learnt to tell.

    Thread-safe; the same bits for the same pixels.

    Args:
        weights: an ONNX file written by `qinsight fit` or `qinsight export`; its checksum file lies
            beside it.
        device: "cpu", "cuda" or "tensorrt". With the last, the first use of a file takes minutes:
            its engine is built then, and kept.
        threads: how many one picture is computed on; None: as many as there are cores.

    Raises:
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about the file.
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the device is unknown or not to be had.
    """

    def __init__(
        self, weights: Path = SHIPPED_WEIGHTS, device: str = "cpu", threads: int | None = None
    ) -> None:
        model, digest = read_verified(weights)
        self._session = open_session(weights, model, device, threads, digest=digest)
        version = f"sha256:{digest[:16]}"
        self.spec = dataclasses.replace(SPEC, version=version, **contract(self._session, weights))
        self._device = device
        # On a CPU a batch is no faster than its pictures one by one, and takes more memory.
        self._batch = 1 if device == "cpu" else GPU_BATCH
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def score(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One score an image; references are not looked at.

        Raises:
            ImageTooSmallError: a side is shorter than `spec.min_side` pixels.
            ImageTooLargeError: a side is longer than TensorRT engines are built for.
        """
        return list(self._scores(images))

    def _scores(self, images: Sequence[Image]) -> Iterator[Score]:
        for _, group in itertools.groupby(images, key=lambda image: image.pixels.shape):
            members = list(group)
            for start in range(0, len(members), self._batch):
                yield from self._judge(members[start : start + self._batch])

    def _judge(self, images: Sequence[Image]) -> list[Score]:
        """The scores of images of one shape."""
        import numpy as np

        for image in images:
            require_side(image, self.spec.min_side)
            if self._device == "tensorrt":
                tensorrt.require_shape(image)
        parts = [windows(image.pixels, self.spec.max_pixels) for image in images]
        # Windows of one index have one shape, since the images do.
        answers = [self._run(np.stack(window)) for window in zip(*parts, strict=True)]
        axis = long_axis(images[0].pixels)
        return [
            score_of([{name: a[name][k] for name in a} for a in answers], axis)
            for k in range(len(images))
        ]

    def _run(self, batch: Pixels) -> Mapping[str, Any]:
        """uint8 [B, H, W, 3] -> the graph's outputs by name."""
        return dict(
            zip(self._outputs, self._session.run(self._outputs, {self._input: batch}), strict=True)
        )


def require_side(image: Image, min_side: int) -> None:
    if min(image.pixels.shape[:2]) < min_side:
        raise ImageTooSmallError(
            f"{image.source} is {image.width}x{image.height}; the student judges pictures from "
            f"{min_side}x{min_side} up"
        )


def windows(pixels: Pixels, max_pixels: int | None) -> list[Pixels]:
    """Cut what is too long to be halved further into near-equal windows along its long side.

    Decoding has halved the picture to `max_pixels` wherever its short side allowed; what is left
    over is a strip, and its score is the mean of its windows'. They are views: a strip of 100
    megapixels is not copied as a whole.
    """
    import numpy as np

    height, width = pixels.shape[:2]
    count = 1 if max_pixels is None else -(-height * width // max_pixels)
    return np.array_split(pixels, count, axis=long_axis(pixels))


def long_axis(pixels: Pixels) -> int:
    return 0 if pixels.shape[0] > pixels.shape[1] else 1


def read_verified(weights: Path) -> tuple[bytes, str]:
    """The file's bytes and their SHA-256, compared with `<file>.sha256` where that exists."""
    try:
        data = weights.read_bytes()
    except FileNotFoundError as error:
        raise WeightsNotFoundError(f"no model file at {weights}; check the path") from error
    except OSError as error:
        raise WeightsError(f"cannot read the model file {weights}: {error.strerror}") from error
    digest = hashlib.sha256(data).hexdigest()
    published = weights.with_name(weights.name + ".sha256")
    if published.exists():
        expected = published.read_text("ascii", "replace").split(maxsplit=1)[:1]
        if expected != [digest]:
            raise WeightsChecksumError(
                f"{weights} does not match {published.name}: the file is damaged or was changed; "
                "install or export it again"
            )
    return data, digest


def open_session(
    weights: Path, model: bytes, device: str, threads: int | None = None, *, digest: str = ""
) -> Any:
    """An ONNX Runtime session that runs on `device` and nowhere else.

    Args:
        weights: what to call the model in errors.
        threads: how many one picture is computed on; None: as many as there are cores.
        digest: SHA-256 of the model; TensorRT's engines are kept under it.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ConfigError: the device is unknown, not to be had, or cannot run this kind of file.
        WeightsError: the model cannot be run.
    """
    if device not in PROVIDERS:
        raise ConfigError(f"device {device!r} is not one of {', '.join(PROVIDERS)}")
    if device == "tensorrt":
        tensorrt.require_float(model, weights)
    # onnxruntime writes a telemetry identity under the home directory when imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    onnxruntime = require(
        "onnxruntime",
        package="onnxruntime",
        extra="cpu" if device == "cpu" else "gpu",
        purpose="the student scorer",
    )
    provider = PROVIDERS[device]
    if provider not in onnxruntime.get_available_providers():
        raise ConfigError(
            f"onnxruntime here has no {provider}; uninstall onnxruntime and install "
            "'qinsight-plugin[gpu]', or choose device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if threads is not None:
        options.intra_op_num_threads = threads
    # Spinning workers win a millisecond when idle and starve the host program under load.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if device == "cpu" and b"QuantizeLinear" in model and sums_saturate():
        options.add_session_config_entry("session.x64quantprecision", "1")
    settings: dict[str, str] = {}
    if device == "tensorrt":
        settings = tensorrt.provider_options(digest, SPEC.min_side)
        # What TensorRT cannot parse would else run on the CPU, and nobody be told.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, settings)])
    except Exception as error:  # onnxruntime's own errors share no base class
        reason = str(error).splitlines()[0]
        if device != "cpu" and runs_on_cpu(weights, model):
            raise ConfigError(
                f"{weights} does not run on {device}, though on the CPU: {reason}; check the "
                "driver, CUDA and TensorRT, or choose device cpu"
            ) from error
        raise WeightsError(
            f"{weights} is no ONNX model that onnxruntime can run: {reason}"
        ) from error
    if session.get_providers()[0] != provider:
        raise ConfigError(
            f"{device} was asked for but did not start; check the driver, CUDA and TensorRT"
        )
    return session


def runs_on_cpu(weights: Path, model: bytes) -> bool:
    try:
        open_session(weights, model, "cpu")
    except WeightsError:
        return False
    return True


def contract(session: Any, weights: Path) -> dict[str, Any]:
    """The fields of the spec that the model file itself decides."""
    return contract_of(session.get_modelmeta().custom_metadata_map.get(METADATA_KEY), weights)


def contract_of(text: str | None, weights: Path) -> dict[str, Any]:
    """The same, of the file's metadata under `METADATA_KEY`."""
    try:
        metadata = json.loads(text or "")
        return {"max_pixels": int(metadata["max_pixels"]), "min_side": int(metadata["min_side"])}
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{weights} is not a qinsight student; make one with qinsight fit"
        ) from error


def weights_named(name: str) -> Path:
    """A shipped file by its name in `SHIPPED`, or the file of that path."""
    return SHIPPED.get(name) or Path(name)


def load(argument: str) -> StudentScorer:
    """Load `student` (the shipped weights), `student:int8` or `student:fp16` (the same, in other
    precisions), `student:large` or `student:large-int8` (a larger network), or `student:PATH`."""
    return StudentScorer(
        weights_named(argument), os.environ.get(DEVICE_VARIABLE, "cpu"), threads_asked_for()
    )


def threads_asked_for() -> int | None:
    asked = os.environ.get(THREADS_VARIABLE)
    if not asked:
        return None
    if not asked.isdecimal() or int(asked) < 1:
        raise ConfigError(f"{THREADS_VARIABLE} is {asked!r}, not a whole number from 1 up")
    return int(asked)


SPEC = ScorerSpec(
    name="student",
    load=load,
    summary="small network, MOS 1-5, milliseconds on a CPU; student:int8 is faster, student:large "
    "and student:large-int8 agree better with people, student:PATH loads your own",
    max_pixels=600_000,
    min_side=32,
)

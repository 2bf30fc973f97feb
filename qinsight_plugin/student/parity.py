"""Do the files of a student say what PyTorch says? Differences per file and runner.

The reference is the float32 file's weights under PyTorch. Each file is run by ONNX Runtime, the
float32 one also by `cv2.dnn` from OpenCV 5 on: older ones read such graphs wrongly, and 8-bit and
half-precision ones no OpenCV reads rightly.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError, WeightsError
from qinsight_plugin.records import Pixels
from qinsight_plugin.scorers.student import open_session, read_verified
from qinsight_plugin.student.export import load_student
from qinsight_plugin.student.graph import PRECISION, metadata, read_graph
from qinsight_plugin.student.heads import Outputs

Answer: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Runner: TypeAlias = Callable[[Pixels], Answer]

ODD_SHAPES = ((32, 32), (33, 47), (257, 191), (50, 258))
"""Height and width of windows that are cut from pictures: sides that no stride divides."""

LEAST_OPENCV = 5

NEAR = 0.05
"""MOS; a difference that nobody needs to care about."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one output from PyTorch's, in its own units, over pictures and the output's elements.

    Attributes:
        p95: 95 % of them are no greater.
        near: share of them that are no greater than `NEAR`.
    """

    maximum: float
    p95: float
    mean: float
    near: float


@dataclass(frozen=True, slots=True)
class Parity:
    """One file under one runner.

    Attributes:
        file: its name.
        precision: "float32", "float16" or "int8".
        runner: "ONNX Runtime 1.31.1", "OpenCV 5.0.0".
        pictures: how many were compared.
        outputs: the differences by output, over whole pictures; empty where `note` says why.
        srcc: rank correlation of the scores with PyTorch's; None for fewer than three pictures,
            or where the scores do not differ.
        odd: largest difference of the score over windows of `ODD_SHAPES`.
        note: why nothing was compared, else "".
    """

    file: str
    precision: str
    runner: str
    pictures: int
    outputs: Mapping[str, Difference]
    srcc: float | None
    odd: float | None
    note: str = ""


def parity_report(student: Path, files: Sequence[Path], pictures: Sequence[Pixels]) -> list[Parity]:
    """Compare the student's own file, and those made from it, with PyTorch.

    Args:
        student: a float32 .onnx.
        files: made from it.
        pictures: uint8 [H, W, 3] each, as the scorer will see them.

    Raises:
        ConfigError: there are no pictures.
        WeightsNotFoundError, WeightsChecksumError, WeightsError: about a file.
    """
    if not pictures:
        raise ConfigError("there are no pictures to compare the files on; name a folder with some")
    torch_student, _ = load_student(student)
    odd = windows_of(pictures[0])

    def in_torch(picture: Pixels) -> Answer:
        with torch.inference_mode():
            outputs = torch_student(torch.from_numpy(picture[None].copy()))
        return {name: value.numpy() for name, value in zip(Outputs._fields, outputs, strict=True)}

    expected = [in_torch(picture) for picture in pictures]
    expected_odd = [in_torch(picture) for picture in odd]

    def compared(file: Path, runner: str, run: Runner) -> Parity:
        found = [run(picture) for picture in pictures]
        found_odd = [run(picture) for picture in odd]
        return Parity(
            file.name,
            precision_of(file),
            runner,
            len(pictures),
            {name: difference(name, expected, found) for name in Outputs._fields},
            rank_correlation(expected, found),
            difference("score", expected_odd, found_odd).maximum,
        )

    rows = []
    for file in (student, *files):
        rows.append(compared(file, *onnxruntime_runner(file)))
        if file == student:
            rows.append(opencv_row(file, compared))
    return rows


def precision_of(file: Path) -> str:
    return str(metadata(read_graph(file)).get(PRECISION, "float32"))


def windows_of(picture: Pixels) -> list[Pixels]:
    """The top left corner in each of `ODD_SHAPES`, repeated where the picture is smaller."""
    height, width = picture.shape[:2]
    return [np.tile(picture, (-(-h // height), -(-w // width), 1))[:h, :w] for h, w in ODD_SHAPES]


def onnxruntime_runner(file: Path) -> tuple[str, Runner]:
    """ONNX Runtime's name, and the file in it."""
    import onnxruntime

    data, _ = read_verified(file)
    session = open_session(file, data, "cpu")

    def run(picture: Pixels) -> Answer:
        names = list(Outputs._fields)
        return dict(zip(names, session.run(names, {"image": picture[None]}), strict=True))

    return f"ONNX Runtime {onnxruntime.__version__}", run


def opencv_row(file: Path, compared: Callable[[Path, str, Runner], Parity]) -> Parity:
    """The file under OpenCV's own runner, or why it was not checked there."""

    def unchecked(runner: str, note: str) -> Parity:
        return Parity(file.name, precision_of(file), runner, 0, {}, None, None, note)

    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        return unchecked("OpenCV", f"not checked: {error}")
    name = f"OpenCV {cv2.__version__}"
    if int(cv2.__version__.split(".")[0]) < LEAST_OPENCV:
        return unchecked(name, f"not checked: {name} is under {LEAST_OPENCV}")
    names = list(Outputs._fields)
    try:
        net = cv2.dnn.readNetFromONNX(str(file))

        def run(picture: Pixels) -> Answer:
            net.setInput(picture[None], "image")
            return dict(zip(names, net.forward(names), strict=True))

        return compared(file, name, run)
    except cv2.error as error:
        reason = " ".join(error.err.split()).lstrip("> ")
        return unchecked(name, f"cannot run it: {reason}")


def difference(name: str, expected: Sequence[Answer], found: Sequence[Answer]) -> Difference:
    for ours, theirs in zip(expected, found, strict=True):
        if ours[name].shape != theirs[name].shape:
            raise WeightsError(
                f"{name} is {theirs[name].shape} where PyTorch gives {ours[name].shape}; the "
                "export is wrong"
            )
    pairs = zip(expected, found, strict=True)
    apart = np.concatenate([np.abs(a[name] - b[name]).ravel() for a, b in pairs])
    p95, near = np.quantile(apart, 0.95), np.mean(apart <= NEAR)
    return Difference(float(apart.max()), float(p95), float(apart.mean()), float(near))


def rank_correlation(expected: Sequence[Answer], found: Sequence[Answer]) -> float | None:
    stats = require("scipy.stats", package="scipy", extra="export", purpose="comparing files")
    scores = [np.concatenate([answer["score"] for answer in each]) for each in (expected, found)]
    if len(expected) < 3 or min(np.ptp(each) for each in scores) == 0:
        return None
    return float(stats.spearmanr(*scores).statistic)

"""A frame of OpenCV's -> a report."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

import qinsight_plugin
from qinsight_plugin.errors import (
    BrokenExtraError,
    ConfigError,
    ImageDecodeError,
    MissingExtraError,
)
from qinsight_plugin.records import Image

Backend: TypeAlias = Literal["onnxruntime", "cv2.dnn"]
Frame: TypeAlias = Any
"""uint8, uint16, or float from 0 to 1; [H, W] gray, [H, W, 3] BGR or [H, W, 4] BGRA; an array, of
any strides, or a `cv2.UMat`."""

STUDENT = "student"
RUNNERS = {"onnxruntime": STUDENT, "cv2.dnn": "opencv"}


def score(
    bgr: Frame, *, scorer: str = STUDENT, backend: Backend = "onnxruntime"
) -> qinsight_plugin.Report:
    """Score what `cv2.imread` or `VideoCapture.read` returned.

    Args:
        bgr: uint8 as it is; uint16 is divided by 257; floats run from 0 to 1. BGRA is seen over
            white. `imread` and `read` return None for what they cannot read, which is an
            `ImageError` here.
        scorer: as for `qinsight_plugin.score`.
        backend: what runs the student: ONNX Runtime, or with "cv2.dnn" OpenCV itself, from 5 on.

    Returns:
        The report; `report.value` is the MOS, 1 (bad) to 5 (excellent).

    Raises:
        QInsightError: as `qinsight_plugin.score`. ConfigError: that backend cannot run the scorer.
    """
    return qinsight_plugin.score(to_source(bgr), scorer=scorer_for(scorer, backend))


def scorer_for(scorer: str, backend: Backend) -> str:
    """The name under which the package knows that scorer on that backend.

    Raises:
        ConfigError: there is none.
    """
    if backend not in RUNNERS:
        raise ConfigError(f"backend {backend!r} is not one of {', '.join(RUNNERS)}")
    name, colon, argument = scorer.partition(":")
    if backend == "onnxruntime":
        return scorer
    if name != STUDENT:
        raise ConfigError(f"backend {backend} runs student files only, not {scorer}")
    return RUNNERS[backend] + colon + argument


def to_source(frame: Frame) -> Any:
    """The frame in RGB, as `qinsight_plugin.score` takes it.

    Raises:
        ImageDecodeError: it is no frame.
    """
    array = to_array(frame)
    if array.ndim == 3 and array.shape[2] in (3, 4):
        array = to_rgb(array)
        if array.dtype == np.uint8 and array.shape[2] == 3 and array.size:
            return Image(array, "<frame>", array.shape[1], array.shape[0])
    return array


def to_array(frame: Frame) -> npt.NDArray[Any]:
    if frame is None:
        raise ImageDecodeError(
            "there is no frame: imread or read gave None, so check the path or the camera"
        )
    if not isinstance(frame, np.ndarray) and hasattr(frame, "get"):
        frame = frame.get()  # a cv2.UMat
    if not isinstance(frame, np.ndarray):
        raise ImageDecodeError(f"a {type(frame).__name__} is no frame: pass an array or a UMat")
    return frame


def to_rgb(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[H, W, 3 or 4] with red and blue changed places; a copy, C-contiguous."""
    if array.dtype == np.uint8 and array.size:
        cv2 = import_cv2("scoring frames")
        code = cv2.COLOR_BGR2RGB if array.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
        swapped: npt.NDArray[Any] = cv2.cvtColor(np.ascontiguousarray(array), code)
        return swapped
    return np.ascontiguousarray(array[..., [2, 1, 0, 3][: array.shape[2]]])


def import_cv2(purpose: str) -> Any:
    """Whichever OpenCV is installed.

    Raises:
        MissingExtraError: none is.
        BrokenExtraError: it does not load, as `opencv-python` where there is no libGL.
    """
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise MissingExtraError("OpenCV", "opencv", purpose) from error
    except ImportError as error:
        raise BrokenExtraError(
            f"{purpose} needs OpenCV, which is installed and does not load ({error}): without a "
            "screen install opencv-python-headless in its place"
        ) from error
    return cv2

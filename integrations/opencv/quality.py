"""The student as one of `cv2.quality`'s classes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

import qinsight_plugin
from qinsight_plugin.errors import ConfigError

from .frames import STUDENT, Backend, Frame, import_cv2, score, scorer_for, to_array


class QualityQInsight:
    """Quality without a reference, called as `cv2.quality.QualityBRISQUE` is.

    Larger is better, 1 (bad) to 5 (excellent): the other way round than BRISQUE, of which 0 is the
    best.

    Attributes:
        higher_is_better, range: the direction and the ends of the scale.
        report: of the last frame; None before the first.
    """

    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (1.0, 5.0)

    def __init__(self, scorer: str, backend: Backend) -> None:
        scorer_for(scorer, backend)
        self._scorer, self._backend = scorer, backend
        self.report: qinsight_plugin.Report | None = None
        self._size = (0, 0)

    @classmethod
    def create(cls, model: str = "", backend: Backend = "onnxruntime") -> QualityQInsight:
        """
        Args:
            model: path of an ONNX file that `qinsight fit` wrote; the shipped student without.
            backend: see `score`.
        """
        return cls(f"{STUDENT}:{model}" if model else STUDENT, backend)

    def compute(self, img: Frame) -> tuple[float, float, float, float]:
        """The score of a frame, in the first place of an OpenCV Scalar; the others are 0.

        Raises:
            QInsightError: see `score`.
        """
        self.clear()
        array = to_array(img)
        self.report = score(array, scorer=self._scorer, backend=self._backend)
        self._size = (array.shape[1], array.shape[0])
        return (self.report.value, 0.0, 0.0, 0.0)

    def getQualityMap(self) -> npt.NDArray[np.float32]:  # noqa: N802 (OpenCV's name)
        """float32 [H, W], 1 to 5, of the last frame: what it would score if it looked everywhere as
        it does there; interpolated between the network's cells.

        Raises:
            ConfigError: nothing has been computed, or the model draws no map.
        """
        drawn = None
        if self.report is not None and self.report.score is not None:
            drawn = self.report.score.quality_map
        if drawn is None:
            raise ConfigError("there is no quality map: call compute first, with a model that has")
        cv2 = import_cv2("the quality map")
        linear = cv2.INTER_LINEAR
        return np.asarray(cv2.resize(drawn, self._size, interpolation=linear), np.float32)

    def clear(self) -> None:
        """Forget the last frame."""
        self.report = None

    def empty(self) -> bool:
        """Whether there is no last frame."""
        return self.report is None

    def getDefaultName(self) -> str:  # noqa: N802
        return "QualityQInsight"

"""A gate for a capture loop."""

from __future__ import annotations

from collections.abc import Iterator
from numbers import Real
from typing import Any

import qinsight_plugin
from qinsight_plugin.errors import ConfigError, ImageUnreadableError

from .frames import STUDENT, Backend, Frame, scorer_for, to_source


class Gate:
    """Tells of each frame whether it is good enough.

    Args:
        gate: the rules, or a number: the least score, from 1 to 5.
        every: judge one frame in so many; those between share its verdict. A camera of 30 frames a
            second leaves 33 ms for each.
        scorer, backend: see `score`.

    Attributes:
        report, verdict: of the frame that was judged last.
    """

    def __init__(
        self,
        gate: qinsight_plugin.Gate | float,
        *,
        every: int = 1,
        scorer: str = STUDENT,
        backend: Backend = "onnxruntime",
    ) -> None:
        if every < 1:
            raise ConfigError(f"every must be 1 or more, not {every}")
        self._gate = gate if isinstance(gate, qinsight_plugin.Gate) else least(gate)
        self._every, self._seen = every, 0
        self._scorer = scorer_for(scorer, backend)
        self.report: qinsight_plugin.Report | None = None
        self.verdict: qinsight_plugin.Verdict | None = None

    def __call__(self, frame: Frame) -> bool:
        """Whether it passes; a frame that cannot be scored is as `Gate.unscorable` says.

        Raises:
            ImageDecodeError: there is no frame.
            QInsightError: the scorer cannot be had, or a plugin with a policy has failed.
        """
        if self.verdict is None or self._seen % self._every == 0:
            (self.report,) = qinsight_plugin.score_many([to_source(frame)], scorer=self._scorer)
            self.verdict = qinsight_plugin.judge(self.report, self._gate)
        self._seen += 1
        return self.verdict.accepted

    def passed(self, capture: Any) -> Iterator[Frame]:
        """The frames of a `cv2.VideoCapture` that pass, up to its end.

        Raises:
            ImageUnreadableError: it is not open, which OpenCV itself does not say.
        """
        if not capture.isOpened():
            raise ImageUnreadableError("the capture is not open: check the path or the camera")
        self._seen = 0  # a new capture shares no verdict with the last
        while True:
            read, frame = capture.read()
            if not read:
                return
            if self(frame):
                yield frame


def least(score: Any) -> qinsight_plugin.Gate:
    """The rule that a number stands for, NumPy's included.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(score, Real) or isinstance(score, bool):
        raise ConfigError(
            f"the gate must be a number from 1 to 5 or a qinsight_plugin.Gate, not {score!r}"
        )
    return qinsight_plugin.Gate(min_score=float(score))

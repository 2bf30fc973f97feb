"""OpenCV frames, which are BGR where everything else is RGB."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

import qinsight_plugin


def score_frame(frame: npt.NDArray[Any], *, scorer: str = "student") -> qinsight_plugin.Report:
    """Score what `cv2.imread` or `VideoCapture.read` returned.

    Args:
        frame: uint8 or uint16 [H, W], [H, W, 3] BGR or [H, W, 4] BGRA; `imread` and `read` return
            None for a file or frame that they cannot read, which is an `ImageError` here.
        scorer: as for `qinsight_plugin.score`.

    Raises:
        QInsightError: as `qinsight_plugin.score`.
    """
    is_colour = frame is not None and frame.ndim == 3 and frame.shape[2] >= 3
    order = [2, 1, 0, 3][: frame.shape[2]] if is_colour else None
    return qinsight_plugin.score(frame if order is None else frame[..., order], scorer=scorer)

"""The quality map over the frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

import qinsight_plugin
from qinsight_plugin.errors import ConfigError
from qinsight_plugin.overlay import overlay

from .frames import Frame, import_cv2, to_array, to_rgb


def draw(frame: Frame, report: qinsight_plugin.Report) -> npt.NDArray[np.uint8]:
    """Show where a frame is bad, and its score in the corner.

    The worse a place, the more it turns grey under a colour, from violet over red to bright yellow.

    Args:
        frame: uint8 gray, BGR or BGRA, of any strides, or a UMat; not changed.
        report: its own.

    Returns:
        uint8 [H, W, 3] BGR, for `cv2.imshow` and `VideoWriter`.

    Raises:
        ConfigError: the frame is no 8-bit picture, or the report has no quality map.
    """
    cv2 = import_cv2("drawing")
    array = to_array(frame)
    if array.dtype != np.uint8:
        raise ConfigError(f"cannot draw on a {array.dtype} frame: scale it to uint8")
    if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (1, 3, 4)):
        raise ConfigError(
            f"cannot draw on a uint8 frame of shape {list(array.shape)}: pass gray, BGR or BGRA"
        )
    if report.score is None or report.score.quality_map is None:
        raise ConfigError(f"the report of {report.source} has no quality map: score the frame")
    gray = array.ndim == 2 or array.shape[2] == 1
    rgb = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2) if gray else to_rgb(array)
    shown = overlay(np.ascontiguousarray(rgb[..., :3]), report.score.quality_map)
    drawn: npt.NDArray[np.uint8] = cv2.cvtColor(shown[: len(array)], cv2.COLOR_RGB2BGR)
    scale = max(array.shape[0] / 600, 0.4)
    place = (round(10 * scale), round(28 * scale))
    for colour, width in (((0, 0, 0), 4), ((255, 255, 255), 1)):
        cv2.putText(
            drawn,
            f"{report.value:.2f}",
            place,
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            colour,
            max(1, round(width * scale)),
            cv2.LINE_AA,
        )
    return drawn

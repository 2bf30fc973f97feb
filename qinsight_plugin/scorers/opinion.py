"""What the student's graph puts out -> a `Score`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Distortion, Score

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Outputs: TypeAlias = "Mapping[str, npt.NDArray[np.float32]]"
"""One picture's outputs by name: those of `student.heads.Outputs`, without the batch axis. The
first version of the student had `score` only."""

PRESENT = 1.0
"""Least severity at which a distortion is named beside the likeliest one."""


def score_of(parts: Sequence[Outputs], axis: int) -> Score:
    """The score of a picture that was looked at as a whole or in several windows.

    Windows count alike for score and levels. Errors of one network on one picture go together, so
    the uncertainty is the root mean square of theirs and does not shrink with their number.

    Args:
        parts: the outputs for each window.
        axis: along which the windows lie: 0 from top to bottom, 1 from left to right.
    """
    import numpy as np

    def over_windows(name: str) -> Any:
        return np.stack([part[name] for part in parts]).astype(np.float64)

    value = float(over_windows("score").mean())
    if "levels" not in parts[0]:
        return Score(value)
    return Score(
        value,
        distortions=distortions_of(over_windows("distortion"), over_windows("severity")),
        uncertainty=float(np.sqrt(np.mean(over_windows("uncertainty") ** 2))),
        levels=tuple(float(p) for p in over_windows("levels").mean(axis=0)),
        quality_map=np.concatenate([part["quality_map"] for part in parts], axis=axis),
    )


def distortions_of(probabilities: Any, severities: Any) -> tuple[Distortion, ...]:
    """The distortions to name, the worst first.

    The window that is least likely free of them decides: none are named where even there `none` is
    the likeliest class; else the likeliest, and after it whatever is at least `PRESENT` in any
    window, by falling severity.

    Args:
        probabilities: [windows, 5], of none and each of `DISTORTIONS`.
        severities: [windows, 4], 0 to 5, of each of `DISTORTIONS`.
    """
    likeliest = int(probabilities[probabilities[:, 0].argmin()].argmax()) - 1
    if likeliest < 0:
        return ()
    worst = severities.max(axis=0)
    order = sorted(range(len(DISTORTIONS)), key=lambda k: (k != likeliest, -worst[k]))
    return tuple(
        Distortion(DISTORTIONS[k], severity_name(worst[k]))
        for k in order
        if k == likeliest or worst[k] >= PRESENT
    )


def severity_name(severity: float) -> str:
    """The name of the nearest level; what is named at all is at least slight."""
    level = min(max(round(float(severity)), 1), len(SEVERITIES))
    return SEVERITIES[level - 1]

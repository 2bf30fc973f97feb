"""Where a video cuts from one scene to the next."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qinsight_plugin.video.clip import frames

SHORTEST = 24  # frames: a keyframe costs more than a scene of its own may save
THUMB = (64, 36)
THRESHOLD = 30.0
"""Levels by which neighbouring thumbnails differ at a cut, and by thrice what they do around it."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Frames from `start` up to, not with, `stop`."""

    start: int
    stop: int

    def middle(self, rate: float, seconds: float = 2.0) -> tuple[float, float]:
        """(start, length) in seconds of a piece from its middle."""
        whole = (self.stop - self.start) / rate
        length = min(seconds, whole)
        return self.start / rate + (whole - length) / 2, length

    def filter(self) -> list[str]:
        """What tells ffmpeg to encode these frames only."""
        trim = f"trim=start_frame={self.start}:end_frame={self.stop},setpts=PTS-STARTPTS"
        return ["-vf", trim]


def find_scenes(path: Path) -> list[Scene]:
    """The scenes of a video, in order; together they hold every frame.

    Raises:
        VideoError: it cannot be decoded.
    """
    changes, last = [0.0], None
    for thumb in frames(path, size=THUMB):
        now = thumb.astype(np.float32)
        if last is not None:
            changes.append(float(np.abs(now - last).mean()))
        last = now
    return split(np.array(changes))


def split(changes: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> list[Scene]:
    """Scenes from how much each frame differs from the one before it, in levels."""
    cuts = [0]
    for index in range(1, len(changes)):
        around = np.delete(changes[max(1, index - 3) : index + 4], min(3, index - 1))
        usual = float(np.median(around)) if around.size else 0.0
        is_cut = changes[index] > THRESHOLD and changes[index] > 3 * usual
        if is_cut and index - cuts[-1] >= SHORTEST and len(changes) - index >= SHORTEST:
            cuts.append(index)
    return [Scene(a, b) for a, b in zip(cuts, [*cuts[1:], len(changes)], strict=True)]

"""Pieces that stand for a whole video, and how pictures in them are scored and pooled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qinsight_plugin.errors import VideoError
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import Image, Pixels
from qinsight_plugin.video import ffmpeg
from qinsight_plugin.video.clip import Clip, count_frames, frames

EVERY, SAMPLED, PIECE, LEAST_PIECES = 720.0, 20.0, 2.0, 5
"""Of each 12 minutes 20 seconds are looked at, as ab-av1 does, but in pieces of two, so that more
places are seen; of short clips no more than a quarter, in five pieces."""

LOW = 10
"""The percentile that is asked for beside the mean: people remember the worst part."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How true frames are to the source's, by one full-reference scorer.

    Attributes:
        mean, low: over frames: their mean, and their `LOW`-th percentile from the bad end.
        frames: how many were looked at.
    """

    mean: float
    low: float
    frames: int


def pieces(seconds: float) -> list[tuple[float, float]]:
    """(start, length) of the pieces of a video to look at, in seconds; spread evenly."""
    wanted = min(math.ceil(seconds / EVERY) * SAMPLED, seconds / 4)
    if seconds <= 2 * PIECE:
        return [(0.0, seconds)]
    count = max(LEAST_PIECES, round(wanted / PIECE))
    gap, length = seconds / count, wanted / count
    return [(gap * (index + 0.5) - length / 2, length) for index in range(count)]


def take_samples(program: str, clip: Clip, folder: Path) -> Path:
    """One lossless file of all pieces.

    Raises:
        EncoderError, ConfigError: from ffmpeg.
    """
    parts = []
    for index, (start, seconds) in enumerate(pieces(clip.seconds)):
        parts.append(folder / f"piece{index}.mkv")
        ffmpeg.cut(program, clip.path, start, seconds, parts[-1])
    if len(parts) == 1:
        return parts[0]
    joined = folder / "samples.mkv"
    ffmpeg.join(program, parts, joined)
    for part in parts:
        part.unlink()
    return joined


def spread(total: int, count: int) -> list[int]:
    """Indices of `count` frames of `total`, evenly; keyframes are hit no more often than others."""
    count = min(count, total)
    return sorted({int((index + 0.5) * total / count) for index in range(count)})


class Yardstick:
    """Frames of a source, decoded once, to hold encodes against.

    Args:
        source: a video file.
        count: how many frames to look at.

    Raises:
        VideoError: it has no frames, or cannot be decoded.
    """

    def __init__(self, source: Path, count: int) -> None:
        self.total = count_frames(source)
        if not self.total:
            raise VideoError(f"{source} holds no frames: give another file")
        self.wanted = spread(self.total, count)
        self._references = [wrapped(pixels) for pixels in frames(source, self.wanted)]

    def quality(self, encoded: Path, scorer: Pipeline) -> Quality:
        """Of an encode of the same frames; one in another size is scaled to the source's.

        Raises:
            VideoError: it has lost frames.
            ScorerError: from the scorer.
        """
        reference = self._references[0]
        size = (reference.width, reference.height)
        values = [
            scorer.score_images([wrapped(pixels)], [against])[0].value
            for pixels, against in zip(
                frames(encoded, self.wanted, size), self._references, strict=True
            )
        ]
        return pooled(values, higher_is_better=scorer.scorer.spec.higher_is_better)

    def scores(self, scorer: Pipeline) -> list[float]:
        """The source's own, by a no-reference scorer."""
        return list(no_reference(self._references, scorer))


def no_reference(images: Sequence[Image], scorer: Pipeline) -> Iterator[float]:
    for image in images:
        yield scorer.score_images([scorer.decode(image)])[0].value


def pooled(values: Sequence[float], *, higher_is_better: bool = True) -> Quality:
    percentile = LOW if higher_is_better else 100 - LOW
    return Quality(float(np.mean(values)), float(np.percentile(values, percentile)), len(values))


def wrapped(pixels: Pixels) -> Image:
    height, width = pixels.shape[:2]
    return Image(pixels, "<frame>", width, height)

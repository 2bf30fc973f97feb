"""A video file: what it is, and its frames, decoded by PyAV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qinsight_plugin._imports import require
from qinsight_plugin.errors import VideoError

if TYPE_CHECKING:
    from qinsight_plugin.records import Pixels

_HDR = {16: "PQ", 18: "HLG"}  # transfer characteristics, ITU-T H.273


@dataclass(frozen=True, slots=True)
class Clip:
    """What is known of a video before its frames are decoded.

    Attributes:
        width, height: in pixels, upright.
        rate: frames a second, on average.
        seconds: its length.
        bits: a second, of the whole file.
    """

    path: Path
    width: int
    height: int
    rate: Fraction
    seconds: float
    bits: float

    @property
    def frames(self) -> int:
        """About how many there are."""
        return max(1, round(self.seconds * self.rate))


def open_clip(path: Path) -> Clip:
    """Look at a video file.

    Raises:
        VideoError: it is none, holds no frames, or what 8-bit SDR cannot keep.
        MissingExtraError: PyAV is not installed.
    """
    av = import_av()
    if not path.is_file():
        raise VideoError(f"{path} does not exist: check the path")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video: give another file")
            stream = container.streams.video[0]
            first = next(container.decode(stream), None)
            if first is None:
                raise VideoError(f"{path} holds no frames: give another file")
            require_plain(path, stream, first)
            rate = stream.average_rate or stream.guessed_rate or Fraction(25)
            seconds = length(container, stream)
            size = path.stat().st_size
            width, height = stream.width, stream.height
            if quarter_turns(first) % 2:
                width, height = height, width
    except av.FFmpegError as error:
        raise VideoError(f"{path} is no video that can be read: {error.strerror}") from error
    if not seconds > 0:
        seconds = sum(1 for _ in frames(path)) / float(rate)
    return Clip(path, width, height, Fraction(rate), seconds, 8 * size / seconds)


def length(container: Any, stream: Any) -> float:
    """In seconds; 0 where the container does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1_000_000 if container.duration else 0.0


def require_plain(path: Path, stream: Any, frame: Any) -> None:
    """Raises VideoError for what 8 bits of SDR cannot keep."""
    bits = max(component.bits for component in frame.format.components)
    transfer = int(getattr(stream.codec_context, "color_trc", 0) or 0)
    if transfer in _HDR:
        raise VideoError(
            f"{path} is HDR ({_HDR[transfer]}), which is not kept: convert it to SDR first"
        )
    if bits > 8:
        raise VideoError(
            f"{path} has {bits} bits a sample, which would be cut to 8: convert it first"
        )


def frames(path: Path, wanted: Sequence[int] | None = None, size: Any = None) -> Iterator[Pixels]:
    """uint8 [H, W, 3] of all frames, or of those with the wanted indices, ascending.

    Args:
        size: (width, height) to scale to, upright, by a bicubic filter; None: as stored.

    Raises:
        VideoError: it cannot be decoded, or ends before the last wanted one.
    """
    av = import_av()
    left = None if wanted is None else list(wanted)
    if left is not None and not left:
        return
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for index, frame in enumerate(container.decode(stream)):
                if left is not None and index != left[0]:
                    continue
                yield as_pixels(frame, size)
                if left is not None:
                    left.pop(0)
                    if not left:
                        return
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be decoded: {error.strerror}") from error
    if left:
        raise VideoError(f"{path} ends before frame {left[0]}: it lost frames")


def as_pixels(frame: Any, size: tuple[int, int] | None) -> Pixels:
    """Upright, as ffmpeg encodes what a telephone filmed on its side."""
    turns = quarter_turns(frame)
    if size is not None and turns % 2:
        size = size[1], size[0]
    if size is None or size == (frame.width, frame.height):
        pixels: Pixels = frame.to_ndarray(format="rgb24")
    else:
        pixels = frame.reformat(*size, format="rgb24", interpolation="BICUBIC").to_ndarray()
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def quarter_turns(frame: Any) -> int:
    """By how many quarters, anticlockwise, a frame is to be turned to be seen as it was meant."""
    return round(getattr(frame, "rotation", 0) / 90) % 4  # PyAV 14.0 does not tell


def count_frames(path: Path) -> int:
    """By decoding them all.

    Raises:
        VideoError: it cannot be decoded.
    """
    av = import_av()
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            return sum(1 for _ in container.decode(stream))
    except av.FFmpegError as error:
        raise VideoError(f"{path} cannot be decoded: {error.strerror}") from error


def import_av() -> Any:
    return require("av", package="av", extra="video", purpose="reading video")

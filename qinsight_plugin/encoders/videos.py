"""Encoders of video that ffmpeg runs: x264, x265, SVT-AV1."""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
from collections.abc import Mapping
from typing import ClassVar

from qinsight_plugin.encoders.stills import read
from qinsight_plugin.errors import EncoderMissingError, MissingExtraError
from qinsight_plugin.records import EncoderSpec

FFMPEG_VARIABLE = "QINSIGHT_FFMPEG"
"""Environment variable: the ffmpeg program to use."""


@dataclasses.dataclass(frozen=True)
class X264Settings:
    preset: str = "medium"
    """ultrafast to veryslow."""

    codec: ClassVar[str] = "libx264"
    more: ClassVar[tuple[str, ...]] = ()


@dataclasses.dataclass(frozen=True)
class X265Settings:
    preset: str = "medium"

    codec: ClassVar[str] = "libx265"
    more: ClassVar[tuple[str, ...]] = ("-x265-params", "log-level=error", "-tag:v", "hvc1")


@dataclasses.dataclass(frozen=True)
class SvtAv1Settings:
    preset: int = 8
    """0 (slow) to 13."""

    codec: ClassVar[str] = "libsvtav1"
    more: ClassVar[tuple[str, ...]] = ()


@dataclasses.dataclass(frozen=True)
class FfmpegEncoder:
    """See `records.VideoEncoder`."""

    ffmpeg: str
    version: str
    codec: str
    preset: str
    more: tuple[str, ...] = ()

    def arguments(self, quality_factor: int) -> list[str]:
        crf = str(quality_factor)
        # 8-bit 4:2:0 is what every player shows; what is more has been refused before.
        chroma = ("-pix_fmt", "yuv420p")
        return ["-c:v", self.codec, "-preset", self.preset, "-crf", crf, *chroma, *self.more]


def find_ffmpeg() -> str:
    """The ffmpeg program: the one that `QINSIGHT_FFMPEG` names, on the path, or from PyPI.

    Raises:
        MissingExtraError: there is none.
        EncoderMissingError: the one that was named does not run.
    """
    named = os.environ.get(FFMPEG_VARIABLE)
    if named:
        if shutil.which(named) is None:
            raise EncoderMissingError(
                f"{FFMPEG_VARIABLE}={named} is no program that runs: mend or unset it"
            )
        return named
    if found := shutil.which("ffmpeg"):
        return found
    try:
        from imageio_ffmpeg import get_ffmpeg_exe

        return str(get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingExtraError("ffmpeg", "video", "encoding video") from error


@functools.cache
def described(ffmpeg: str) -> tuple[str, frozenset[str]]:
    """The version line of an ffmpeg, and the encoders that it was built with.

    Raises:
        EncoderMissingError: it does not run.
    """
    try:
        version, encoders = (
            subprocess.run(
                [ffmpeg, "-hide_banner", flag], capture_output=True, text=True, check=True
            ).stdout
            for flag in ("-version", "-encoders")
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EncoderMissingError(f"{ffmpeg} does not run ({error}): reinstall ffmpeg") from error
    listed = encoders.rpartition("------")[2].splitlines()
    names = frozenset(line.split()[1] for line in listed if len(line.split()) > 1)
    return version.partition("\n")[0], names


def load_ffmpeg(
    kind: type[X264Settings | X265Settings | SvtAv1Settings], settings: Mapping[str, str], name: str
) -> FfmpegEncoder:
    """The encoder, if this machine's ffmpeg has it.

    Raises:
        ConfigError: a setting that there is not.
        MissingExtraError: there is no ffmpeg.
        EncoderMissingError: it was built without this encoder.
    """
    chosen = read(kind, settings, name)
    ffmpeg = find_ffmpeg()
    version, encoders = described(ffmpeg)
    if kind.codec not in encoders:
        raise EncoderMissingError(
            f"{ffmpeg} was built without {kind.codec}: install Debian's package ffmpeg, or "
            f"imageio-ffmpeg from PyPI and name its program in {FFMPEG_VARIABLE}"
        )
    return FfmpegEncoder(ffmpeg, version, kind.codec, str(chosen.preset), kind.more)


def spec(
    name: str,
    kind: type[X264Settings | X265Settings | SvtAv1Settings],
    summary: str,
    worst: int,
) -> EncoderSpec:
    return EncoderSpec(
        name,
        lambda settings: load_ffmpeg(kind, settings, name),
        summary,
        ".mp4",
        range(worst, 0, -1),
        media="video",
    )


SPECS = (
    spec("x264", X264Settings, "H.264 by x264; x264?preset=slow (ffmpeg)", 51),
    spec("x265", X265Settings, "H.265 by x265; x265?preset=slow (ffmpeg)", 51),
    spec("svt-av1", SvtAv1Settings, "AV1 by SVT-AV1; svt-av1?preset=6 (ffmpeg)", 63),
)

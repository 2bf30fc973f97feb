"""Runs ffmpeg."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from qinsight_plugin.errors import ConfigError, EncoderError

LOSSLESS = ("-c:v", "ffv1", "-level", "3", "-g", "1", "-an", "-sn", "-dn")


def run(ffmpeg: str, arguments: Sequence[str | Path], purpose: str) -> None:
    """Run it to its end; it is ended when this is interrupted.

    Raises:
        EncoderError: it failed; the last line of what it said.
        ConfigError: the disk is full.
    """
    command = [ffmpeg, "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == 0:
        return
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    if any("No space left" in line for line in said):
        raise ConfigError(f"{purpose}: no space left on the disk; free some and run it again")
    reason = said[-1] if said else f"exit code {done.returncode}"
    raise EncoderError(f"{purpose}: ffmpeg failed: {reason}")


def cut(ffmpeg: str, source: Path, start: float, seconds: float, target: Path) -> None:
    """A piece of a video, without loss."""
    piece = ("-ss", f"{start:.6f}", "-t", f"{seconds:.6f}", "-i", source, "-map", "0:v:0")
    run(ffmpeg, [*piece, *LOSSLESS, target], f"cutting a sample of {source}")


def join(ffmpeg: str, parts: Sequence[Path], target: Path, more: Sequence[str | Path] = ()) -> None:
    """Parts one after the other, as they are."""
    listing = target.with_name(target.name + ".txt")
    lines = ("file '{}'".format(str(part.resolve()).replace("'", "'\\''")) for part in parts)
    listing.write_text("\n".join(lines) + "\n", "utf-8")
    run(
        ffmpeg,
        ["-f", "concat", "-safe", "0", "-i", listing, *more, "-c", "copy", target],
        f"joining the parts of {target.name}",
    )


def encode(ffmpeg: str, source: Path, codec: Sequence[str], target: Path | str) -> None:
    """The pictures of a video, without its sound."""
    frames = ("-map", "0:v:0", "-fps_mode", "passthrough", "-an", "-sn", "-dn")
    run(ffmpeg, ["-i", source, *frames, *codec, target], f"encoding {source}")

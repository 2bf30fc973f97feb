"""Steady quality at a varying bit rate: for each bandwidth, the rendition that looks best.

A rendition is a height and a CRF. Samples of the clip are encoded at a few CRFs for each height and
compared with the source at the source's size, as players show them; the convex hull of quality over
the logarithm of the bit rate holds those worth having (Netflix's per-title encoding, 2015). Between
two CRFs of one height, rate and quality are interpolated, and what is picked is encoded and
measured once more.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qinsight_plugin.errors import ConfigError, EncoderError
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.video import ffmpeg
from qinsight_plugin.video.clip import Clip, open_clip
from qinsight_plugin.video.sample_search import load_codec
from qinsight_plugin.video.samples import Yardstick, take_samples

FRAMES = 10
HEIGHTS = (1080, 720, 540, 360, 240)
POINTS = 5
CODECS = {"x264": "avc1.640028", "x265": "hvc1.1.6.L120.90", "svt-av1": "av01.0.08M.08"}
"""What a playlist calls them (RFC 6381): the profiles of ffmpeg's defaults, levels up to 1080p."""


@dataclass(frozen=True, slots=True)
class Rendition:
    """One way to send a clip.

    Attributes:
        width, height: in pixels.
        quality_factor: the CRF.
        kbps: the bit rate of the pictures, in thousands a second.
        quality: mean over frames, at the source's size.
        measured: whether it was encoded, or lies between two that were.
    """

    width: int
    height: int
    quality_factor: int
    kbps: float
    quality: float
    measured: bool = True


@dataclass(frozen=True, slots=True)
class Rung:
    """A bandwidth and the best rendition within it; None where the smallest one is too large."""

    bandwidth: float
    rendition: Rendition | None


@dataclass(frozen=True, slots=True)
class Ladder:
    """What was found for a clip.

    Attributes:
        codec, scorer: the encoder, and who judged.
        points: every rendition that was measured.
        hull: those of them worth having, the smallest first.
        rungs: one for each bandwidth asked for, ascending.
    """

    clip: Clip
    codec: str
    scorer: str
    points: tuple[Rendition, ...]
    hull: tuple[Rendition, ...]
    rungs: tuple[Rung, ...]


def make_ladder(
    source: Path,
    bandwidths: Iterable[float],
    *,
    codec: str = "x264",
    heights: Sequence[int] = HEIGHTS,
    scorer: str = "ssimulacra2",
    host: PluginHost | None = None,
) -> Ladder:
    """Work out the best rendition for each bandwidth, in kilobits a second.

    Args:
        heights: to try; those over the source's are left out.
        scorer: full-reference, higher is better.

    Raises:
        VideoError, EncoderError, ConfigError: the clip, ffmpeg or an argument is of no use.
    """
    wanted = sorted(set(bandwidths))
    if not wanted or not wanted[0] > 0:
        raise ConfigError("a ladder needs bandwidths over 0, in kilobits a second")
    host = host or default_host()
    judge = Pipeline(scorer, host)
    if judge.scorer.spec.kind != "FR" or not judge.scorer.spec.higher_is_better:
        raise ConfigError(f"{scorer} cannot judge renditions: a full-reference scorer is needed")
    name, spec, encoder = load_codec(codec, host)
    clip = open_clip(source)
    with tempfile.TemporaryDirectory(prefix="qinsight-") as temporary:
        folder = Path(temporary)
        sample = take_samples(encoder.ffmpeg, clip, folder)
        yardstick = Yardstick(sample, FRAMES)
        seconds = yardstick.total / float(clip.rate)

        def render(height: int, factor: int) -> Rendition:
            width = 2 * round(clip.width * height / clip.height / 2)
            encoded = folder / "rendition.mkv"
            scale = (
                [] if height == clip.height else ["-vf", f"scale={width}:{height}:flags=lanczos"]
            )
            ffmpeg.encode(encoder.ffmpeg, sample, [*scale, *encoder.arguments(factor)], encoded)
            kbps = 8 * encoded.stat().st_size / seconds / 1000
            quality = yardstick.quality(encoded, judge).mean
            return Rendition(width, height, factor, kbps, quality)

        points = [
            render(height, factor)
            for height in usable(heights, clip)
            for factor in factors(spec.quality_factors)
        ]
        rungs = [Rung(kbps, best(points, kbps, render)) for kbps in wanted]
    return Ladder(clip, name, scorer, tuple(points), tuple(hull(points)), tuple(rungs))


def usable(heights: Sequence[int], clip: Clip) -> list[int]:
    """Even heights, no taller than the source, its own among them."""
    own = clip.height - clip.height % 2
    kept = {height for height in heights if 16 <= height < own and height % 2 == 0}
    return sorted({own, *kept}, reverse=True)


def factors(every: range) -> list[int]:
    """A few CRFs over the part of the scale that people use, the smallest files first."""
    worst, best = every[0], every[-1]
    low, high = best + 0.33 * (worst - best), best + 0.86 * (worst - best)
    return [round(high + (low - high) * index / (POINTS - 1)) for index in range(POINTS)]


def hull(points: Sequence[Rendition]) -> list[Rendition]:
    """The upper convex hull of quality over log rate: each better than any mixture of others."""
    kept: list[Rendition] = []
    for point in sorted(points, key=lambda p: (p.kbps, -p.quality)):
        if kept and point.quality <= kept[-1].quality:
            continue
        while len(kept) > 1 and slope(kept[-2], kept[-1]) <= slope(kept[-2], point):
            kept.pop()
        kept.append(point)
    return kept


def slope(a: Rendition, b: Rendition) -> float:
    return (b.quality - a.quality) / max(math.log(b.kbps / a.kbps), 1e-9)


def best(
    points: Sequence[Rendition], bandwidth: float, render: Callable[[int, int], Rendition]
) -> Rendition | None:
    """The best rendition within a bandwidth: predicted between measured ones, then measured."""
    guesses = [g for g in predicted(points) if g.kbps <= bandwidth]
    within = [p for p in points if p.kbps <= bandwidth]
    top = max(within, key=lambda p: p.quality, default=None)
    for guess in sorted(guesses, key=lambda g: -g.quality)[:3]:
        if top is not None and guess.quality <= top.quality:
            break
        made = render(guess.height, guess.quality_factor)
        if made.kbps <= bandwidth and (top is None or made.quality > top.quality):
            return made
    return top


def predicted(points: Sequence[Rendition]) -> list[Rendition]:
    """Every CRF between the measured ones of each height, by straight lines."""
    found = []
    for height in dict.fromkeys(point.height for point in points):
        own = sorted((p for p in points if p.height == height), key=lambda p: p.quality_factor)
        known = [p.quality_factor for p in own]
        for factor in range(known[0], known[-1] + 1):
            if factor in known:
                continue
            rate = np.interp(factor, known, [math.log(p.kbps) for p in own])
            quality = np.interp(factor, known, [p.quality for p in own])
            width = own[0].width
            found.append(
                Rendition(width, height, factor, math.exp(rate), float(quality), measured=False)
            )
    return found


def playlist(ladder: Ladder) -> str:
    """An HLS master playlist (RFC 8216); a line a rendition, each once.

    BANDWIDTH is the bandwidth that a rendition's average was held to; RFC 8216 means the peak,
    which is the packager's to cap (ffmpeg's -maxrate).

    Raises:
        EncoderError: no rendition fits any bandwidth.
    """
    seen: dict[Rendition, float] = {}
    for rung in ladder.rungs:
        if rung.rendition is not None:
            seen.setdefault(rung.rendition, rung.bandwidth)
    if not seen:
        raise EncoderError(
            f"no rendition of {ladder.clip.path} fits {ladder.rungs[-1].bandwidth:g} kbit/s: allow "
            "smaller heights or more bandwidth"
        )
    base = ladder.codec.partition("?")[0]
    codecs = f',CODECS="{CODECS[base]}"' if base in CODECS else ""
    lines = ["#EXTM3U", "#EXT-X-VERSION:6", "#EXT-X-INDEPENDENT-SEGMENTS"]
    for rendition, bandwidth in seen.items():
        lines += [
            f"#EXT-X-STREAM-INF:BANDWIDTH={round(1000 * bandwidth)},"
            f"AVERAGE-BANDWIDTH={round(1000 * rendition.kbps)},"
            f"RESOLUTION={rendition.width}x{rendition.height},"
            f"FRAME-RATE={float(ladder.clip.rate):.3f}{codecs}",
            f"{rendition.height}p-{rendition.quality_factor}.m3u8",
        ]
    return "\n".join(lines) + "\n"

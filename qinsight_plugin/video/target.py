"""The highest CRF at which a video still looks as good: searched on samples, verified on the whole.

The first floor of the preset drives the search on the samples. What is promised holds for the
finished file: frames of all of it are compared with the source by every floor; where it falls
short, the search goes on from there, asking for as much more than the samples had, and the whole
is encoded again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qinsight_plugin.compression.original import Metadata
from qinsight_plugin.compression.presets import Preset, find_preset
from qinsight_plugin.errors import ConfigError, FloorUnreachedError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.search import Certificate
from qinsight_plugin.sorting import publish
from qinsight_plugin.video import ffmpeg
from qinsight_plugin.video.clip import Clip, open_clip
from qinsight_plugin.video.sample_search import SampleSearch, load_codec, margin
from qinsight_plugin.video.samples import Quality, Yardstick, take_samples
from qinsight_plugin.video.scenes import Scene, find_scenes

VERIFIED_FRAMES = 24
ATTEMPTS = 3
TOLERANCE = 1.0


@dataclass(frozen=True, slots=True)
class CompressedVideo:
    """A finished video, or why the original was kept.

    Attributes:
        source, path: the original, and what was written.
        codec: the encoder.
        quality_factors: the CRF of each scene; of one scene where they were not told apart.
        bytes_before, bytes_after: of the files.
        quality: scorer -> what it says of the finished file.
        certificate: of the search on the samples, see `search.Certificate`.
        kept: why the original was kept; "" where it was not.
        probes: encodes of samples that were measured.
        encodes: of the whole.
        seconds: that it took; `encode_seconds` of these by the last encode of the whole.
        score_before: the student's mean score of the source's frames.
    """

    source: str
    path: str
    codec: str
    quality_factors: tuple[int, ...]
    bytes_before: int
    bytes_after: int
    quality: Mapping[str, Quality] = field(default_factory=dict)
    certificate: str = ""
    kept: str = ""
    probes: int = 0
    encodes: int = 0
    seconds: float = 0.0
    encode_seconds: float = 0.0
    score_before: float | None = None


class VideoCompressor:
    """A codec and criteria, for any number of videos.

    Args:
        codec: an encoder of videos, as `NAME` or `NAME?SETTING=VALUE&...`.
        preset: see `compress.Compressor`; `max_drop` is not asked of videos.
        scenes: search a CRF for each scene.
        metadata: whether titles, dates and places go with it.

    Raises:
        ConfigError: no such codec, setting or preset.
        MissingExtraError, EncoderMissingError: no ffmpeg, or one without this encoder.
    """

    def __init__(
        self,
        codec: str,
        preset: str | Preset = "high",
        *,
        scenes: bool = False,
        metadata: Metadata = "keep",
        host: PluginHost | None = None,
    ) -> None:
        host = host or default_host()
        self.name, self.spec, self.encoder = load_codec(codec, host)
        self.preset = find_preset(preset)
        self.scorers = [Pipeline(name, host) for name in self.preset.floors]
        for scorer in self.scorers:
            if scorer.scorer.spec.kind != "FR":
                raise ConfigError(f"{scorer.name} cannot be a floor: it looks at no reference")
        self.student = Pipeline(DEFAULT_SCORER, host) if self.preset.min_source > 1 else None
        self.scenes, self.metadata = scenes, metadata

    def compress(self, source: Path, target: Path, *, overwrite: bool = False) -> CompressedVideo:
        """Write the smallest video that meets the preset, or say why not.

        Args:
            target: what to write; the folder is made if need be.

        Raises:
            VideoError: the source is none, or cannot be kept right.
            FloorUnreachedError: no CRF is good enough.
            FileExistsError: the target is there, and `overwrite` is not set.
            EncoderError, ConfigError: ffmpeg failed, or the disk is full.
        """
        begun = time.perf_counter()
        clip = open_clip(source)
        if target.exists() and not overwrite:
            raise FileExistsError(f"{target} is there already")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {target.parent}: {error.strerror}") from error
        # Beside the target, so that the finished file can be given its name at once.
        with tempfile.TemporaryDirectory(prefix=".qinsight-", dir=target.parent) as temporary:
            job = _Job(self, clip, Path(temporary), target.suffix)
            if poor := job.too_poor():
                return job.kept(poor, begun)
            finished = job.finish()
            if finished.stat().st_size >= source.stat().st_size:
                return job.kept("the result is not smaller", begun)
            size = finished.stat().st_size
            publish(finished, target, overwrite=overwrite)
        return job.result(target, size, begun)


class _Job:
    """One video at work."""

    def __init__(self, how: VideoCompressor, clip: Clip, folder: Path, suffix: str) -> None:
        self._how, self._clip, self._folder, self._suffix = how, clip, folder, suffix
        self._probes = self._encodes = 0
        self._encode_seconds = 0.0
        self._certificate: Certificate = "optimal"
        self._factors: list[int] = []
        self._quality: dict[str, Quality] = {}
        self._whole = Yardstick(clip.path, VERIFIED_FRAMES)
        self._score: float | None = None

    def too_poor(self) -> str:
        if self._how.student is None:
            return ""
        scores = self._whole.scores(self._how.student)
        self._score = sum(scores) / len(scores)
        least = self._how.preset.min_source
        return "" if self._score >= least else f"it scores {self._score:.2f}, under {least:g}"

    def finish(self) -> Path:
        """The finished file, verified."""
        scenes = [Scene(0, self._whole.total)]
        if self._how.scenes:
            scenes = find_scenes(self._clip.path)
        how = self._how
        codec, driver = (how.name, how.spec, how.encoder), how.scorers[0]
        floor = how.preset.floors[driver.name]
        tolerance = how.preset.tolerance or TOLERANCE
        searches = [
            SampleSearch(codec, driver, floor, *sample, str(self._clip.path))
            for sample in self._samples(scenes)
        ]
        more = [0.0] * len(searches)
        for _ in range(ATTEMPTS):
            founds = [one.find(least, tolerance) for one, least in zip(searches, more, strict=True)]
            self._factors = [factor for factor, _, _ in founds]
            self._certificate = founds[-1][1]
            self._probes = sum(one.probes for one in searches)
            finished = self._encode(scenes)
            short = self._shortfall(finished)
            if short <= 0:
                return finished
            more = [over + short for _, _, over in founds]
        raise FloorUnreachedError(
            f"{self._clip.path}: after {ATTEMPTS} encodes of the whole, CRF {self._factors[0]}, it "
            f"is still {short:.3g} under its floor; ask for less"
        )

    def _samples(self, scenes: Sequence[Scene]) -> list[tuple[Path, Path]]:
        """(sample, folder to work in) for each scene."""
        program = self._how.encoder.ffmpeg
        if len(scenes) == 1:
            return [(take_samples(program, self._clip, self._folder), self._folder)]
        found = []
        for index, scene in enumerate(scenes):
            folder = self._folder / f"scene{index}"
            folder.mkdir()
            start, seconds = scene.middle(float(self._clip.rate))
            ffmpeg.cut(program, self._clip.path, start, seconds, folder / "sample.mkv")
            found.append((folder / "sample.mkv", folder))
        return found

    def _encode(self, scenes: Sequence[Scene]) -> Path:
        """The whole, with the sound of the original."""
        begun = time.perf_counter()
        program, pictures = self._how.encoder.ffmpeg, self._folder / "pictures.mkv"
        if len(scenes) == 1:
            codec = self._how.encoder.arguments(self._factors[0])
            ffmpeg.encode(program, self._clip.path, codec, pictures)
        else:
            parts = []
            for index, (scene, factor) in enumerate(zip(scenes, self._factors, strict=True)):
                parts.append(self._folder / f"part{index}.mkv")
                codec = [*scene.filter(), *self._how.encoder.arguments(factor)]
                ffmpeg.encode(program, self._clip.path, codec, parts[-1])
            ffmpeg.join(program, parts, pictures)
        finished = self._folder / f"finished{self._suffix}"
        told = "1" if self._how.metadata == "keep" else "-1"  # which file's title, place, ...
        sound = ("-map", "0:v:0", "-map", "1:a?", "-map_metadata", told, "-c", "copy")
        tag = ("-tag:v", "hvc1") if "libx265" in codec and self._suffix != ".mkv" else ()
        ffmpeg.run(
            program,
            ["-i", pictures, "-i", self._clip.path, *sound, *tag, finished],
            f"joining pictures and sound of {self._clip.path}",
        )
        pictures.unlink()
        self._encodes += 1
        self._encode_seconds = time.perf_counter() - begun
        return finished

    def _shortfall(self, finished: Path) -> float:
        """By how much the driver must rise for every floor to hold in the finished file."""
        short = 0.0
        for position, scorer in enumerate(self._how.scorers):
            quality = self._whole.quality(finished, scorer)
            self._quality[scorer.name] = quality
            missing = -margin(quality, scorer, self._how.preset.floors[scorer.name])
            if missing > 0:
                # What another scorer lacks is not in the driver's units: a step at a time.
                short = max(short, missing if position == 0 else 2 * TOLERANCE)
        return short

    def kept(self, why: str, begun: float) -> CompressedVideo:
        size = self._clip.path.stat().st_size
        return CompressedVideo(
            str(self._clip.path), "", "", (), size, size, kept=why, probes=self._probes,
            encodes=self._encodes, seconds=time.perf_counter() - begun, score_before=self._score,
        )  # fmt: skip

    def result(self, target: Path, size: int, begun: float) -> CompressedVideo:
        return CompressedVideo(
            str(self._clip.path),
            str(target),
            self._how.name,
            tuple(self._factors),
            self._clip.path.stat().st_size,
            size,
            self._quality,
            self._certificate,
            probes=self._probes,
            encodes=self._encodes,
            seconds=time.perf_counter() - begun,
            encode_seconds=self._encode_seconds,
            score_before=self._score,
        )


def target_name(source: Path, folder: Path) -> Path:
    """Where the result goes: MP4, or Matroska where the source was no relative of it."""
    related = source.suffix.lower() in (".mp4", ".m4v", ".mov")
    return folder / f"{source.stem}{'.mp4' if related else '.mkv'}"

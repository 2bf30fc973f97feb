"""One picture, several formats: the smallest file that still looks as good."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from qinsight_plugin.compression.judge import Criteria, Judge
from qinsight_plugin.compression.original import Metadata, Original, Profile, open_original
from qinsight_plugin.compression.presets import Preset, find_preset
from qinsight_plugin.compression.priors import Priors, load_priors
from qinsight_plugin.compression.still import Pick, Still, smallest
from qinsight_plugin.errors import (
    ConfigError,
    EncoderError,
    FloorUnreachedError,
    ImageTooSmallError,
    ImageUnsupportedError,
    QInsightError,
)
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.records import EncoderSpec, StillEncoder
from qinsight_plugin.search.probes import ProbeCache

if TYPE_CHECKING:
    from qinsight_plugin.records import Source

DEFAULT_FORMATS = ("jpeg", "webp", "avif")


@dataclass(frozen=True, slots=True)
class Compressed:
    """A picture, compressed, or the original where that is the better choice.

    Attributes:
        source: what the picture is called.
        data: the file's bytes.
        suffix: of its name, with the dot.
        format: the encoder, "" where the original was kept.
        quality_factor: its setting; None where the original was kept.
        original_bytes: size of the source file; None for arrays and PIL images.
        score_before, score_after: the student's, MOS, the latter no higher than the former: gains
            count as none. None where it was not asked.
        values: scorer -> value against the source, of full-reference scorers.
        certificate: what is known of the quality factor, see `search.Certificate`.
        kept: why the original was kept; "" where it was not.
        picks: all formats that gave a file, the smallest first.
        probes: encodes made, over all formats.
        seconds: that it took.
        notes: what had to be decided, and formats that were left out.
    """

    source: str
    data: bytes = field(repr=False)
    suffix: str
    format: str = ""
    quality_factor: int | None = None
    original_bytes: int | None = None
    score_before: float | None = None
    score_after: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    certificate: str = ""
    kept: str = ""
    picks: tuple[Pick, ...] = field(default=(), repr=False)
    probes: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def saved(self) -> int | None:
        """Bytes fewer than the source file's; None where there was none."""
        return None if self.original_bytes is None else self.original_bytes - len(self.data)


class Compressor:
    """Formats, criteria and priors, loaded once for any number of pictures. Thread-safe.

    Args:
        preset: a name of `PRESETS`, or a `Preset`.
        formats: encoders, as `NAME` or `NAME?SETTING=VALUE&...`; the smallest result is taken.
        metadata, profile: see `open_original`.
        priors: the shipped ones when None.
        cache: of probes; see `ProbeCache`.
        host: the plugins; the shared default host when None.

    Raises:
        ConfigError: a preset, a format or a setting that there is not.
        EncoderMissingError, MissingExtraError: an encoder that this machine has not.
        ScorerError, WeightsError: from loading scorers.
    """

    def __init__(
        self,
        preset: str | Preset = "high",
        formats: Sequence[str] = DEFAULT_FORMATS,
        *,
        metadata: Metadata = "keep",
        profile: Profile = "keep",
        priors: Priors | None = None,
        cache: ProbeCache | None = None,
        host: PluginHost | None = None,
    ) -> None:
        host = host or default_host()
        self.preset = find_preset(preset)
        self.criteria = Criteria(self.preset, host)
        if not formats:
            raise ConfigError("no format to compress to: name one, such as webp")
        self.encoders = [load_encoder(name, host) for name in dict.fromkeys(formats)]
        self.priors = priors or load_priors()
        self._metadata, self._profile, self._cache = metadata, profile, cache

    def compress(self, source: Source) -> Compressed:
        """The smallest file of all formats that meets the preset, or the original.

        Raises:
            ImageError: the source cannot be read, or not be kept right.
            FloorUnreachedError: no format reaches the floors, and there is no file to keep.
            EncoderError, ScorerError: from encoding and measuring.
        """
        begun = time.perf_counter()
        original = open_original(source, metadata=self._metadata, profile=self._profile)
        try:
            judge = Judge(self.criteria, original)
            poor = self._too_poor(judge.source_score)
            picks, notes, probes = ([], [], 0) if poor else self._picks(original, judge)
        except ImageTooSmallError as error:
            return self._kept(original, f"it is too small to be judged ({error})", begun)
        if poor:
            return self._kept(original, poor, begun, judge.source_score)
        return self._chosen(original, judge, picks, notes, probes, begun)

    def _too_poor(self, score: float | None) -> str:
        if score is None or score >= self.preset.min_source:
            return ""
        return (
            f"it scores {score:.2f} already, under {self.preset.min_source:g}: nothing tells what "
            "of it is worth keeping"
        )

    def _picks(self, original: Original, judge: Judge) -> tuple[list[Pick], list[str], int]:
        """What each format gave, the smallest first; why others gave nothing; encodes made."""
        picks, notes, probes = [], [], 0
        failure: QInsightError | None = None
        for name, spec, encoder in self.encoders:
            still: Still | None = None
            try:
                still = Still(original, spec, name, encoder, judge, self._cache)
                picks.append(smallest(still, self.criteria.all, self.preset.tolerance, self.priors))
            except (EncoderError, FloorUnreachedError, ImageUnsupportedError) as error:
                notes.append(str(error))
                failure = failure or error
            probes += still.probes if still else 0
        refused = not isinstance(failure, FloorUnreachedError)
        if failure and not picks and (original.data is None or refused):
            raise failure
        return sorted(picks, key=lambda pick: len(pick.data)), notes, probes

    def _kept(
        self,
        original: Original,
        why: str,
        begun: float,
        score: float | None = None,
        picks: Sequence[Pick] = (),
        notes: Sequence[str] = (),
        probes: int = 0,
    ) -> Compressed:
        """The original, untouched, and why.

        Raises:
            FloorUnreachedError: there is no file to keep.
        """
        if original.data is None:
            raise FloorUnreachedError(f"{original.name} is not compressed: {why}")
        if self._metadata == "strip" or self._profile == "srgb":
            why += "; it is as it was, with all of its metadata"
        return Compressed(
            original.name,
            original.data,
            original.suffix,
            original_bytes=len(original.data),
            score_before=score,
            score_after=score,
            kept=why,
            picks=tuple(picks),
            probes=probes,
            seconds=time.perf_counter() - begun,
            notes=(*original.notes, *notes),
        )

    def _chosen(
        self,
        original: Original,
        judge: Judge,
        picks: list[Pick],
        notes: list[str],
        probes: int,
        begun: float,
    ) -> Compressed:
        size = None if original.data is None else len(original.data)
        kept = ""
        if not picks:
            kept = "no format reaches the floors"
        elif size is not None and len(picks[0].data) >= size:
            kept = f"the smallest result, {len(picks[0].data):,} bytes, is not smaller"
        if kept:
            return self._kept(
                original, kept, begun, judge.source_score, picks, notes=notes, probes=probes
            )
        best = picks[0]
        values, after = dict(best.values), None
        if self.criteria.student is not None and self.preset.max_drop is not None:
            drop = values.pop(self.criteria.student.name)
            after = None if judge.source_score is None else judge.source_score - drop
        return Compressed(
            original.name,
            best.data,
            best.suffix,
            best.encoder,
            best.quality_factor,
            size,
            judge.source_score,
            after,
            values,
            best.certificate,
            picks=tuple(picks),
            probes=probes,
            seconds=time.perf_counter() - begun,
            notes=(*original.notes, *notes),
        )


def load_encoder(name: str, host: PluginHost) -> tuple[str, EncoderSpec, StillEncoder]:
    """An encoder as users ask for it, `NAME` or `NAME?SETTING=VALUE&...`.

    Raises:
        ConfigError: no such encoder, or setting.
        EncoderMissingError, MissingExtraError: this machine has not got it.
    """
    base, _, query = name.partition("?")
    spec = host.find_encoder(base.strip(), "image")
    settings: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    return name.strip(), spec, spec.load(settings)


def compress(
    source: Source,
    *,
    preset: str | Preset = "high",
    formats: Sequence[str] = DEFAULT_FORMATS,
    metadata: Metadata = "keep",
    profile: Profile = "keep",
) -> Compressed:
    """The smallest file that still looks as good as the source; `result.data` are its bytes.

    Args:
        source: a path, bytes, a binary file, a uint8 array, or a PIL image.
        preset: visually-lossless, high, medium or low; or a `Preset` of one's own.
        formats: the smallest of these is taken.
        metadata: "keep" or "strip" EXIF and XMP.
        profile: "keep" the ICC profile, or convert to "srgb".

    Raises:
        QInsightError: what stood in the way, in one line.
    """
    return Compressor(preset, formats, metadata=metadata, profile=profile).compress(source)

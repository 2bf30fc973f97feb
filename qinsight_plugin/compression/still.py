"""One picture, one encoder: the lowest quality factor that meets every criterion."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qinsight_plugin.compression.judge import Criterion, Judge
from qinsight_plugin.compression.original import Original
from qinsight_plugin.compression.priors import Priors
from qinsight_plugin.errors import EncoderError, FloorUnreachedError, QInsightError, one_line
from qinsight_plugin.records import EncoderSpec, StillEncoder
from qinsight_plugin.search import Certificate, Found, search
from qinsight_plugin.search.probes import ProbeCache, probe_key

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True, slots=True)
class Pick:
    """What an encoder gave.

    Attributes:
        encoder: as asked for, settings included.
        suffix: of its files.
        quality_factor: the encoder's setting.
        data: the file; decoded and measured as it is here.
        values: scorer -> its value against the source; of the student, its drop.
        certificate: what is known of the quality factor, see `search.Certificate`.
        probes: encodes that were measured; those remembered from earlier runs are not counted.
        seen: scorer -> {quality factor: value}, what priors can learn from.
    """

    encoder: str
    suffix: str
    quality_factor: int
    data: bytes
    values: Mapping[str, float]
    certificate: Certificate
    probes: int
    seen: Mapping[str, Mapping[float, float]] = field(repr=False)


class Still:
    """A picture and an encoder, with a memory.

    Args:
        original: the picture.
        spec, name: the encoder and what it was asked for by, settings included.
        encoder: it, loaded.
        judge: bound to the same picture.
        cache: a memory that outlives this picture; None: there is none.

    Raises:
        ImageUnsupportedError: the encoder cannot hold the picture.
    """

    def __init__(
        self,
        original: Original,
        spec: EncoderSpec,
        name: str,
        encoder: StillEncoder,
        judge: Judge,
        cache: ProbeCache | None = None,
    ) -> None:
        self.name, self.spec, self.source = name, spec, original.name
        self._encoder, self._judge = encoder, judge
        self._picture = original.for_encoder(spec)
        self._cache = cache
        self._content = content_hash(self._picture) if cache else ""
        self._files: dict[int, bytes] = {}
        self._shown: tuple[int, PILImage] | None = None
        self._values: dict[str, dict[float, float]] = {}
        self._remembered: set[tuple[str, int]] = set()

    @property
    def probes(self) -> int:
        return len(self._files)

    @property
    def encoded(self) -> Sequence[int]:
        """The quality factors of the files that there are."""
        return tuple(self._files)

    @property
    def seen(self) -> Mapping[str, Mapping[float, float]]:
        return self._values

    def file(self, quality_factor: int) -> bytes:
        if quality_factor not in self._files:
            self._files[quality_factor] = self._encoder.encode(self._picture, quality_factor)
        return self._files[quality_factor]

    def decoded(self, quality_factor: int) -> PILImage:
        """The picture in that file, as a viewer sees it."""
        if self._shown is None or self._shown[0] != quality_factor:
            try:
                picture = self._encoder.decode(self.file(quality_factor))
            except QInsightError:
                raise
            except Exception as error:
                raise EncoderError(
                    f"what {self.name} made of {self.source} at quality {quality_factor} cannot "
                    f"be decoded: {one_line(error)}"
                ) from error
            if picture.size != self._picture.size:
                raise EncoderError(
                    f"{self.name} made {picture.size[0]}x{picture.size[1]} pixels of the "
                    f"{self._picture.size[0]}x{self._picture.size[1]} of {self.source}"
                )
            self._shown = quality_factor, picture
        return self._shown[1]

    def value(self, criterion: Criterion, quality_factor: int, *, fresh: bool = False) -> float:
        """Measured, or remembered; `fresh`: in this run, on what `file` gives."""
        values = self._values.setdefault(criterion.name, {})
        remembered = (criterion.name, quality_factor) in self._remembered
        if quality_factor in values and not (fresh and remembered):
            return values[quality_factor]
        key = self._key(criterion, quality_factor) if self._cache else ""
        kept = self._cache.get(key) if self._cache and not fresh else None
        if kept is not None:
            self._remembered.add((criterion.name, quality_factor))
            values[quality_factor] = kept
            return kept
        self._remembered.discard((criterion.name, quality_factor))
        values[quality_factor] = self._judge.value(criterion, self.decoded(quality_factor))
        if self._cache:
            self._cache.put(key, values[quality_factor])
        return values[quality_factor]

    def _key(self, criterion: Criterion, quality_factor: int) -> str:
        scorer = criterion.pipeline.scorer.spec
        return probe_key(
            content=self._content,
            encoder=self.name,
            encoder_version=self._encoder.version,
            quality_factor=quality_factor,
            scorer=criterion.name,
            scorer_version=scorer.version,
        )


def content_hash(picture: PILImage) -> str:
    """Of the pixels and of what is written with them."""
    digest = hashlib.sha256(f"{picture.mode} {picture.size}".encode())
    digest.update(picture.tobytes())
    for key, value in sorted(picture.info.items()):
        digest.update(f"{key} {len(value)}".encode() + value)
    return digest.hexdigest()


def smallest(still: Still, criteria: Sequence[Criterion], tolerance: float, priors: Priors) -> Pick:
    """The lowest quality factor at which the picture meets every criterion.

    The first criterion drives the search. Where another one fails on what was found, the search
    goes on by it, upwards. In the end all hold for one and the same file.

    Raises:
        FloorUnreachedError: not even the highest quality factor does.
        EncoderError, ScorerError: from encoding and measuring.
    """
    settings = list(still.spec.quality_factors)
    failing: Criterion | None = criteria[0]
    quality_factor = settings[0]
    certificate: Certificate = "optimal"
    while failing is not None:
        found = search_on(still, failing, settings, tolerance, priors)
        quality_factor, certificate = round(found.setting), found.certificate
        # What lies below has failed by one criterion or another, and is not looked at again.
        settings = settings[settings.index(quality_factor) :]
        tolerance = 0.0
        failing = next(
            (c for c in criteria if still.value(c, quality_factor, fresh=True) < c.least), None
        )
    return Pick(
        still.name,
        still.spec.suffix,
        quality_factor,
        still.file(quality_factor),
        {c.name: c.shown(still.value(c, quality_factor)) for c in criteria},
        certificate,
        still.probes,
        still.seen,
    )


def search_on(
    still: Still, by: Criterion, settings: Sequence[int], tolerance: float, priors: Priors
) -> Found:
    """The lowest of the settings that meets one criterion."""
    for quality_factor in still.encoded:  # to measure what is there costs no encode
        still.value(by, quality_factor)
    found = search(
        lambda setting: still.value(by, round(setting)),
        by.least,
        settings,
        curve=priors.curve(still.name, by.name),
        tolerance=tolerance,
        known=still.seen.get(by.name),
    )
    if found.certificate == "unreached":
        raise FloorUnreachedError(
            f"{still.name} cannot make {still.source} as good as asked: the best reached is "
            f"{by.in_words(found.value)} at quality {found.setting:g}; lower the floor or choose "
            "another format"
        )
    return found

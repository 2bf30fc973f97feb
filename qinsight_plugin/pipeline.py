"""The joining of the stages: source -> Image -> Score -> Report -> Verdict. Calls all the hooks."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    PluginError,
    QInsightError,
    ReferenceMissingError,
    ScorerError,
)
from qinsight_plugin.parallel import in_order
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.records import (
    Gate,
    Image,
    Report,
    Score,
    Scorer,
    ScorerSpec,
    Source,
    Verdict,
)
from qinsight_plugin.usable import require_usable

DEFAULT_SCORER = "student"


@dataclass(frozen=True, slots=True)
class Reference:
    """An untouched picture, decoded once, and scored once if the scorer needs no reference."""

    image: Image
    score: Score | None


class Pipeline:
    """A scorer and a plugin host, joined. Thread-safe.

    Args:
        scorer: `NAME` or `NAME:ARGUMENT`; see `qinsight plugins`.
        host: the plugins; the shared default host when None.

    Raises:
        ScorerUnknownError, WeightsError, MissingExtraError: from loading the scorer.
    """

    def __init__(self, scorer: str = DEFAULT_SCORER, host: PluginHost | None = None) -> None:
        self.name = scorer
        self.host = host or default_host()
        self.scorer: Scorer = self.host.scorer(scorer)

    def decode(self, source: Source) -> Image:
        """The picture, no larger than the scorer looks at.

        Raises:
            ImageError: see `qinsight_plugin.errors`.
            PluginError: a decoding plugin failed.
        """
        return decode_for(self.scorer.spec, source, self.host)

    def score_images(
        self, images: Sequence[Image], references: Sequence[Image] | None = None
    ) -> list[Score]:
        """One checked score an image.

        Raises:
            ReferenceMissingError: a full-reference scorer got no references.
            ScoreRangeError, ScorerError: the scorer's answer is unusable.
        """
        if self.scorer.spec.kind == "FR" and references is None:
            raise ReferenceMissingError(
                f"scorer {self.name} compares with a reference; pass one with --reference or "
                "reference="
            )
        scores = self.host.decide(
            "qinsight_score_images", scorer=self.scorer, images=images, references=references
        )
        if not (isinstance(scores, Sequence) and all(isinstance(one, Score) for one in scores)):
            raise ScorerError(f"scorer {self.name}, or a plugin for it, gave what is no Score")
        if len(scores) != len(images):
            raise ScorerError(
                f"scorer {self.name} gave {len(scores)} scores for {len(images)} images"
            )
        for score, image in zip(scores, images, strict=True):
            require_usable(score, self.scorer.spec, self.name, image.source)
        return list(scores)

    def reference(self, source: Source) -> Reference:
        """Prepare a reference for any number of reports.

        Raises:
            QInsightError: whatever stood in the way.
        """
        image = self.decode(source)
        needs_none = self.scorer.spec.kind == "NR"
        return Reference(image, self.score_images([image])[0] if needs_none else None)

    def report(self, source: Source, reference: Reference | None = None) -> Report:
        """Decode, score, enrich.

        Raises:
            QInsightError: whatever stood in the way.
        """
        image = self.decode(source)
        against = None if reference is None else [reference.image]
        (score,) = self.score_images([image], against)
        return self._told(image, score, reference)

    def reports_of(self, images: Sequence[Image]) -> list[Report]:
        """`report_or_error` of pictures that `decode` gave, scored in one call. Where that fails,
        each is scored by itself, so that only those that are to blame have errors."""
        try:
            scores = self.score_images(images)
            return [self._told(*pair) for pair in zip(images, scores, strict=True)]
        except QInsightError as error:
            if len(images) == 1:
                return [self.failure(images[0].source, error)]
            return [report for image in images for report in self.reports_of([image])]

    def _told(self, image: Image, score: Score, reference: Reference | None = None) -> Report:
        report = Report(
            source=image.source,
            scorer=self.name,
            scorer_version=self.scorer.spec.version,
            score=score,
            reference_score=None if reference is None else reference.score,
            width=image.width,
            height=image.height,
            format=image.format,
            notes=(*image.notes, *score.notes),
        )
        return dataclasses.replace(report, blocks=self._blocks(report, image))

    def _blocks(self, report: Report, image: Image) -> dict[str, Any]:
        blocks: dict[str, Any] = {}
        for plugin, answer in self.host.each("qinsight_enrich_report", report=report, image=image):
            try:
                json.dumps(answer, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise PluginError(
                    plugin, f"added a block that JSON cannot hold: {error}"
                ) from error
            if not isinstance(answer, dict):
                raise PluginError(
                    plugin, f"gave a {type(answer).__name__}, no dict of named blocks"
                )
            if taken := blocks.keys() & answer.keys():
                raise PluginError(plugin, f"adds the block {min(taken)!r}, which is taken")
            blocks.update(answer)
        return blocks

    def report_or_error(self, source: Source, reference: Reference | None = None) -> Report:
        """As `report`, but what stood in the way becomes the report's error."""
        try:
            return self.report(source, reference)
        except QInsightError as error:
            return self.failure(source_name(source), error)

    def failure(self, name: str, error: QInsightError) -> Report:
        """The report of a picture that could not be scored."""
        return Report(
            source=name,
            scorer=self.name,
            scorer_version=self.scorer.spec.version,
            error=str(error),
            error_type=type(error).__name__,
        )

    def reports(self, sources: Iterable[Source], workers: int | None = None) -> Iterator[Report]:
        """`report_or_error` of each source, in order, several at work at once."""
        return in_order(self.report_or_error, sources, workers)

    def judge(self, report: Report, gate: Gate) -> Verdict:
        """The verdict of the site's own policy, or else of the gate's rules.

        Raises:
            PluginError: a plugin did not load, which may have been a policy; or one failed.
        """
        return judge(report, gate, host=self.host)

    def require_judgeable(self) -> None:
        """Check, before the first picture, that a gate can rely on the plugins and the scorer.

        Raises:
            PluginError: a plugin did not load, which may have been a policy.
            ConfigError: the scorer gives lower numbers to better pictures.
        """
        self.host.require_all()
        if not self.scorer.spec.higher_is_better:
            raise ConfigError(
                f"scorer {self.name} gives lower numbers to better pictures, and a gate's "
                "min_score would keep the worst; choose another scorer"
            )

    def ready(self, report: Report, verdict: Verdict | None = None) -> None:
        """Tell the observers that a report is final.

        Raises:
            PluginError: an observer failed; all of them have been told.
        """
        self.host.call("qinsight_report_ready", report=report, verdict=verdict)


def decode_for(spec: ScorerSpec, source: Source, host: PluginHost) -> Image:
    """The picture, no larger than that scorer looks at; errors as `Pipeline.decode`."""
    return decode_within(host, source, spec.max_pixels, spec.min_side)


def decode_within(
    host: PluginHost,
    source: Source,
    max_pixels: int | None,
    min_side: int,
    limit: int | None = None,
) -> Image:
    """The picture, for a scorer that looks at `max_pixels`; see `decode` for the rest.

    Raises:
        ImageTooLargeError: it has more pixels than `limit`.
        ImageError, PluginError: as `Pipeline.decode`.
    """
    from qinsight_plugin.decode import DEFAULT_LIMIT, decode

    image: Image = host.decide(
        "qinsight_decode_image",
        source=source,
        max_pixels=max_pixels,
        min_side=min_side,
        limit=DEFAULT_LIMIT if limit is None else limit,
    )
    # A plugin may have left the shrinking to us; what fits already comes back as it is.
    return decode(image, max_pixels=max_pixels, min_side=min_side)


def source_name(source: object) -> str:
    """What to call a source that may be none."""
    from qinsight_plugin.decode import name_of

    if isinstance(source, Image):
        return source.source
    try:
        return name_of(source)
    except ImageDecodeError:
        return f"<{type(source).__name__}>"


def score(
    source: Source, *, scorer: str = DEFAULT_SCORER, reference: Source | None = None
) -> Report:
    """Score one picture; `report.value` is the MOS, from 1 (bad) to 5 (excellent).

    Args:
        source: a path, bytes, a binary file object, an ndarray (RGB), or a PIL image.
        scorer: `NAME` or `NAME:ARGUMENT`; see `qinsight plugins`.
        reference: the untouched picture, for full-reference scorers and `Gate.max_drop`.

    Raises:
        QInsightError: the picture cannot be used, or the scorer not loaded; one line each.
    """
    pipeline = Pipeline(scorer)
    against = None if reference is None else pipeline.reference(reference)
    report = pipeline.report(source, against)
    pipeline.ready(report)
    return report


def score_many(
    sources: Iterable[Source], *, scorer: str = DEFAULT_SCORER, workers: int | None = None
) -> Iterator[Report]:
    """Score many pictures, in order; one that fails is a report with its `error` set.

    Args:
        sources: as for `score`; read as needed, so it may be endless.
        workers: pictures decoded and scored at once; the number of cores when None.

    Raises:
        ConfigError: `sources` is one picture, or `workers` no number from 1 up.
        QInsightError: the scorer cannot be loaded.
    """
    if isinstance(sources, (str, bytes, os.PathLike)):
        raise ConfigError(
            f"score_many takes a list of pictures, not a {type(sources).__name__}: put it into a "
            "list, or call score"
        )
    if workers is not None and not (isinstance(workers, int) and workers >= 1):
        raise ConfigError(f"workers must be a whole number from 1 up, not {workers!r}")
    return _told_as_they_come(Pipeline(scorer), sources, workers)


def _told_as_they_come(
    pipeline: Pipeline, sources: Iterable[Source], workers: int | None
) -> Iterator[Report]:
    for report in pipeline.reports(sources, workers=workers):
        pipeline.ready(report)
        yield report


def judge(report: Report, gate: Gate, *, host: PluginHost | None = None) -> Verdict:
    """Apply a gate to a report.

    Raises:
        ConfigError: the two are no report and no gate.
        PluginError: a plugin did not load, which may have been a policy; or one failed.
    """
    if not isinstance(report, Report) or not isinstance(gate, Gate):
        found = " and ".join(type(given).__name__ for given in (report, gate))
        raise ConfigError(f"judge takes a Report and a Gate, as Gate(min_score=3), not {found}")
    host = host or default_host()
    host.require_all()
    verdict = host.decide("qinsight_judge_report", report=report, gate=gate)
    if not isinstance(verdict, Verdict):
        raise PluginError(
            "unknown",
            f"qinsight_judge_report answered a {type(verdict).__name__}, no Verdict; see `qinsight "
            "plugins` for who is asked",
        )
    return verdict

"""The joining of the stages: source -> Image -> Score -> Report -> Verdict. Calls all the hooks."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import (
    ConfigError,
    ImageDecodeError,
    PluginError,
    QInsightError,
    ReferenceMissingError,
    ScorerError,
)
from qinsight_plugin.parallel import in_order
from qinsight_plugin.plugins import PluginHost, default_host, one_line
from qinsight_plugin.records import (
    Better,
    Comparer,
    Comparison,
    Gate,
    Image,
    Preference,
    Report,
    Score,
    Scorer,
    ScorerSpec,
    Verdict,
)
from qinsight_plugin.usable import require_usable

if TYPE_CHECKING:
    from qinsight_plugin.records import Source

DEFAULT_SCORER = "student"
SIMILAR_MARGIN = 0.1
"""MOS difference within which two pictures are called similar."""


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
    """
    pipeline = Pipeline(scorer)
    for report in pipeline.reports(sources, workers=workers):
        pipeline.ready(report)
        yield report


def compare(
    a: Source,
    b: Source,
    *,
    scorer: str = DEFAULT_SCORER,
    margin: float | None = None,
    reference: Source | None = None,
) -> Comparison:
    """Which of two pictures is better: by their scores, and how sure that is; or in the words of a
    scorer that is shown both at once, as the reasoning model is.

    Args:
        margin: scores this close, or closer, are called similar; 0.1 when None. A scorer that is
            shown both decides for itself.
        reference: what both were made from.

    Raises:
        QInsightError: as `score`. ConfigError: the margin is negative, or of no use.
    """
    return compare_by(default_host(), a, b, scorer, margin, reference)


def compare_by(
    host: PluginHost,
    a: Source,
    b: Source,
    scorer: str,
    margin: float | None = None,
    reference: Source | None = None,
) -> Comparison:
    """`compare`, with the plugins of that host."""
    if margin is not None and not margin >= 0:
        raise ConfigError(f"margin {margin} is not a number from 0 up")
    comparer = host.comparer(scorer)
    if comparer is None:
        return compare_scores(Pipeline(scorer, host), a, b, margin, reference)
    if margin is not None:
        raise ConfigError(
            f"scorer {scorer} is shown both pictures and decides itself what is similar: leave out "
            "the margin"
        )
    sources = (a, b) if reference is None else (a, b, reference)
    images = [decode_for(comparer.spec, source, host) for source in sources]
    told = told_by(comparer, images)
    first, second = (
        Report(
            image.source,
            scorer,
            width=image.width,
            height=image.height,
            format=image.format,
            notes=image.notes,
            scorer_version=comparer.spec.version,
        )
        for image in images[:2]
    )
    return Comparison(told.better, None, first, second, preference=told)


def told_by(comparer: Comparer, images: Sequence[Image]) -> Preference:
    """Its answer about A and B, and the reference if there is one."""
    try:
        return comparer.compare(*images)
    except QInsightError:
        raise
    except Exception as error:  # a third party's comparer may raise anything
        names = ", ".join(image.source for image in images)
        raise ScorerError(
            f"scorer {comparer.spec.name} failed on {names}: {type(error).__name__}: "
            + one_line(error)
        ) from error


def compare_scores(
    pipeline: Pipeline, a: Source, b: Source, margin: float | None, reference: Source | None
) -> Comparison:
    """`compare`, by the scores of the two."""
    margin = SIMILAR_MARGIN if margin is None else margin
    against = None if reference is None else pipeline.reference(reference)
    first, second = pipeline.report(a, against), pipeline.report(b, against)
    lead = first.value - second.value
    if not pipeline.scorer.spec.higher_is_better:
        lead = -lead
    better: Better = "A" if lead > 0 else "B"
    if abs(lead) <= margin:
        better = "similar"
    return Comparison(better, margin, first, second, preference(lead, first.score, second.score))


def preference(lead: float, a: Score | None, b: Score | None) -> float | None:
    """The probability that people prefer A, whose score is better by `lead`.

    Thurstone's law of comparative judgement (Psychological Review 34, 1927), case III: each score
    errs by a normal deviate of its own uncertainty, independently. None if one states none.
    """
    if a is None or b is None or a.uncertainty is None or b.uncertainty is None:
        return None
    deviation = math.hypot(a.uncertainty, b.uncertainty)
    if deviation == 0:
        return 0.5 if lead == 0 else float(lead > 0)
    return 0.5 * math.erfc(-lead / deviation / math.sqrt(2))  # erf would round small ones to 0


def judge(report: Report, gate: Gate, *, host: PluginHost | None = None) -> Verdict:
    """Apply a gate to a report.

    Raises:
        PluginError: a plugin did not load, which may have been a policy; or one failed.
    """
    host = host or default_host()
    host.require_all()
    verdict: Verdict = host.decide("qinsight_judge_report", report=report, gate=gate)
    return verdict

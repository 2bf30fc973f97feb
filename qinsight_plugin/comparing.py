"""Which of two pictures is better: by their scores, or in the words of a scorer that sees both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline, decode_for
from qinsight_plugin.plugins import PluginHost, default_host
from qinsight_plugin.records import (
    Better,
    Comparer,
    Comparison,
    Image,
    Preference,
    Report,
    Score,
    Source,
)
from qinsight_plugin.usable import scorer_errors

SIMILAR_MARGIN = 0.1
"""MOS difference within which two pictures are called similar."""


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
    if margin is not None and not (isinstance(margin, Real) and margin >= 0):
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
    names = ", ".join(image.source for image in images)
    with scorer_errors(f"scorer {comparer.spec.name} failed on {names}"):
        return comparer.compare(*images)


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

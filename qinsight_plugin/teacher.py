"""Asking a teacher about pictures that nobody rated.

Any registered scorer can teach. A reasoning model samples its words, so that it answers the same
question differently: it is asked several times, and the scatter of its replies tells how far their
mean can be trusted. Asking is slow, so every answer is kept on disk as soon as may be.
"""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from qinsight_plugin.answers import Answer, AnswerCache, Finding
from qinsight_plugin.errors import (
    ConfigError,
    ImageError,
    ImageNotFoundError,
    ImageUnreadableError,
    ScoreParseError,
    ScoreRangeError,
    ScorerError,
    one_line,
)
from qinsight_plugin.parallel import in_order
from qinsight_plugin.pipeline import Pipeline
from qinsight_plugin.records import DISTORTIONS, SEVERITIES, Image, SampledScorer, Score
from qinsight_plugin.scales import to_mos
from qinsight_plugin.usable import require_usable

__all__ = ["Answer", "Finding", "sample_teacher"]

OnAnswer: TypeAlias = Callable[[Answer], None]


def sample_teacher(
    teacher: Pipeline | str,
    paths: Iterable[Path],
    *,
    samples: int,
    cache: Path,
    on_answer: OnAnswer | None = None,
    workers: int = 1,
) -> list[Answer]:
    """Ask a teacher `samples` times about each picture, but for what the cache knows already.

    A reply that cannot be read, or is outside the teacher's declared range, is counted and left
    out. A picture that cannot be decoded is an answer with its `error` set. Anything else that
    goes wrong ends the run; what was answered until then is kept.

    The cache is a Parquet dataset; `AnswerCache` names its columns. A process that is killed loses
    the last 64 pictures or 30 seconds at most, and what was being asked. A picture is asked about
    anew when its bytes, the teacher or its version, or `samples` change.

    Args:
        teacher: a pipeline, or the name of its scorer. A plugin that answers repeated questions
            from memory would make all samples the same.
        paths: picture files; one that is there twice, by content, is asked about once.
        samples: 1 or more; more than 1 is wasted on a scorer that always answers the same.
        cache: a folder, NAME.parquet; made where it is missing.
        on_answer: called with each answer, in order, known ones too.
        workers: pictures at work at once.

    Returns:
        one answer a path, in order.

    Raises:
        ConfigError: the teacher cannot teach, or `samples` or `cache` is no good.
        LabelsError: a file of the cache is damaged, or of another kind.
        MissingExtraError: pyarrow is not installed; or from the teacher.
        QInsightError: whatever else the teacher failed with.
    """
    pipeline = Pipeline(teacher) if isinstance(teacher, str) else teacher
    _require_teacher(pipeline)
    if samples < 1:
        raise ConfigError(f"samples {samples}: ask for 1 or more replies a picture")
    kept = AnswerCache(cache, pipeline.name, pipeline.scorer.spec.version, samples)
    known = dict(kept.held)

    def questions() -> Iterator[tuple[Path, str, bool]]:
        settled = set(known)
        for path in map(Path, paths):
            digest = _digest(path)
            yield path, digest, digest in settled
            if digest:
                settled.add(digest)

    def ask(question: tuple[Path, str, bool]) -> tuple[Path, str, Answer | None]:
        path, digest, settled = question
        return path, digest, None if settled else _ask(pipeline, path, digest, samples)

    answers: list[Answer] = []
    try:
        for path, digest, answer in in_order(ask, questions(), workers):
            if answer is None:  # an equal picture came before, in this run or another
                answer = replace(known[digest], path=path)
            else:
                known[digest] = answer
                if answer.digest:
                    kept.add(answer)
            answers.append(answer)
            if on_answer is not None:
                on_answer(answer)
    finally:
        kept.flush()
    return answers


def _require_teacher(pipeline: Pipeline) -> None:
    spec = pipeline.scorer.spec
    if spec.kind == "FR":
        raise ConfigError(
            f"scorer {pipeline.name} compares with a reference, and a student sees none: choose "
            "another teacher"
        )
    if not spec.higher_is_better:
        raise ConfigError(
            f"scorer {pipeline.name} gives lower numbers to better pictures, and a student learns "
            "a MOS: choose another teacher"
        )
    low, high = spec.range
    if not (math.isfinite(high - low) and low < high):
        raise ConfigError(
            f"scorer {pipeline.name} declares scores from {low:g} to {high:g}, which cannot be "
            "mapped to a MOS of 1 to 5: choose a teacher with a finite scale"
        )


def _digest(path: Path) -> str:
    """SHA-256 of the file, or "" where it cannot be read; decoding it will tell why."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError):
        return ""
    return digest.hexdigest()


def _ask(pipeline: Pipeline, path: Path, digest: str, samples: int) -> Answer:
    try:
        image = pipeline.decode(os.fspath(path))
        replies = _replies(pipeline, image, samples)
    except ImageError as error:
        if isinstance(error.__cause__, MemoryError):  # the machine's fault, not the picture's
            raise
        passing = isinstance(error, (ImageNotFoundError, ImageUnreadableError))
        return Answer(path, "" if passing else digest, samples, error=one_line(error))
    readable = [reply for reply in replies if reply is not None]
    return _sum_up(Answer(path, digest, samples, len(readable)), readable, pipeline)


def _replies(pipeline: Pipeline, image: Image, samples: int) -> list[Score | None]:
    """None for a reply that cannot be read. Asked by itself, a scorer that can draw its replies at
    random would give the likeliest every time."""
    scorer = pipeline.scorer
    if samples == 1 or not isinstance(scorer, SampledScorer):
        return [_readable(lambda: pipeline.score_images([image])[0]) for _ in range(samples)]
    return [
        _readable(partial(_checked, answer, pipeline, image))
        for answer in scorer.sample(image, samples)
    ]


def _checked(answer: Score | ScorerError, pipeline: Pipeline, image: Image) -> Score:
    if isinstance(answer, ScorerError):
        raise answer
    require_usable(answer, pipeline.scorer.spec, pipeline.name, image.source)
    return answer


def _readable(reply: Callable[[], Score]) -> Score | None:
    try:
        return reply()
    except (ScoreParseError, ScoreRangeError):
        return None


def _sum_up(answer: Answer, replies: Sequence[Score], pipeline: Pipeline) -> Answer:
    if not replies:
        return answer
    low, high = pipeline.scorer.spec.range
    values = [to_mos(reply.value, (low, high)) for reply in replies]
    stated = [reply.uncertainty for reply in replies if reply.uncertainty is not None]
    levels = [reply.levels for reply in replies if reply.levels is not None]
    judged = [reply for reply in replies if reply.distortions is not None]
    try:
        return replace(
            answer,
            mean=statistics.fmean(values),
            spread=statistics.stdev(values) if len(values) > 1 else 0.0,
            distortions=_findings([_severities(reply) for reply in judged]),
            uncertainty=statistics.fmean(stated) * 4 / (high - low) if stated else None,
            levels=_mean_levels(levels),
        )
    except ValueError as error:
        raise ScorerError(
            f"scorer {pipeline.name} gave {answer.path} an answer that cannot be summed up "
            f"({error}): report it to the scorer's makers"
        ) from error


def _mean_levels(replies: Sequence[tuple[float, ...]]) -> tuple[float, ...] | None:
    if not replies:
        return None
    return tuple(statistics.fmean(level) for level in zip(*replies, strict=True))


def _severities(reply: Score) -> dict[str, int]:
    """0 to 5 for each class, the worst where it is named twice; ValueError for unknown words."""
    severities = dict.fromkeys(DISTORTIONS, 0)
    for found in reply.distortions or ():
        if found.name not in DISTORTIONS or found.severity not in SEVERITIES:
            raise ValueError(f"there is no {found.severity} {found.name}")
        level = SEVERITIES.index(found.severity) + 1
        severities[found.name] = max(severities[found.name], level)
    return severities


def _findings(replies: Sequence[Mapping[str, int]]) -> dict[str, Finding] | None:
    if not replies:
        return None
    columns = {name: [reply[name] for reply in replies] for name in DISTORTIONS}
    return {
        name: Finding(statistics.fmean(column), statistics.fmean(map(bool, column)))
        for name, column in columns.items()
    }

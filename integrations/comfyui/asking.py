"""Pictures -> answers: told as progress, let go when the user cancels, nothing asked twice."""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import comfy.model_management
import comfy.utils

import qinsight_plugin as qi
from qinsight_plugin.errors import ImageError, QInsightError

from .pictures import Levels, Picture, levels_of, read, source_of

T = TypeVar("T")

QUICK = ("student",)
"""Scorers that take milliseconds: cancelling may wait for one picture, and no thread is needed."""

POLL_SECONDS = 0.05
REMOTE_WORKERS = 8
REMEMBERED = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is known of a picture.

    Attributes:
        levels: uint8 [H, W, C]; None for a picture that is broken.
        report: says why where there is no score.
    """

    picture: Picture
    levels: Levels | None
    report: qi.Report

    @property
    def broken(self) -> bool:
        """Whether it is no picture at all, which no mode lets through."""
        return self.levels is None


_remembered: OrderedDict[object, qi.Report] = OrderedDict()
"""Reports by scorer and pixels: a Score, a Gate and a Save in one workflow ask once."""


def answers(pictures: Sequence[Picture], scorer: str) -> Iterator[Answer]:
    """An answer a picture, in order.

    Raises:
        QInsightError: the scorer cannot be had.
        InterruptProcessingException: the user cancelled.
    """
    bar = comfy.utils.ProgressBar(len(pictures))
    is_quick = scorer.partition(":")[0] in QUICK
    answered = _answers(pictures, scorer)
    for answer in between(answered) if is_quick else cancellable(answered):
        bar.update(1)
        yield answer


@dataclass(slots=True)
class _Place:
    """A picture in line, and its report once there is one."""

    picture: Picture
    levels: Levels | None = None
    key: object = None
    report: qi.Report | None = None


def _answers(pictures: Sequence[Picture], scorer: str) -> Generator[Answer, None, None]:
    line: deque[_Place] = deque()
    sources = (source for p in pictures if (source := put_in_line(line, p, scorer)) is not None)
    workers = REMOTE_WORKERS if scorer.startswith("remote:") else 1
    for report in qi.score_many(sources, scorer=scorer, workers=workers):
        place = next(place for place in line if place.report is None)
        place.report = named(report, place.picture)
        remember(place.key, report)
        yield from served(line)
    yield from served(line)


def put_in_line(line: deque[_Place], picture: Picture, scorer: str) -> Any:
    """What to score; None where the report is known at once."""
    try:
        levels, fingerprint = read(picture)
    except ImageError as error:
        line.append(_Place(picture, report=failure(picture, scorer, error)))
        return None
    key = (scorer, fingerprint)
    known = _remembered.get(key)
    if known is not None:
        line.append(_Place(picture, levels, key, named(known, picture)))
        return None
    line.append(_Place(picture, levels, key))
    return source_of(picture, levels)


def served(line: deque[_Place]) -> Iterator[Answer]:
    """Those at the head of the line that have their report."""
    while line and (report := line[0].report) is not None:
        place = line.popleft()
        yield Answer(place.picture, place.levels, report)


def unscored(pictures: Sequence[Picture], scorer: str, error: QInsightError) -> Iterator[Answer]:
    """What is known of pictures where the scorer cannot be had."""
    for picture in pictures:
        try:
            yield Answer(picture, levels_of(picture), failure(picture, scorer, error))
        except ImageError as broken:
            yield Answer(picture, None, failure(picture, scorer, broken))


def failure(picture: Picture, scorer: str, error: QInsightError) -> qi.Report:
    height, width = picture.size
    return qi.Report(
        picture.name,
        scorer,
        width=width,
        height=height,
        error=str(error),
        error_type=type(error).__name__,
    )


def named(report: qi.Report, picture: Picture) -> qi.Report:
    """The report under this picture's name, since equal pictures share one."""
    return dataclasses.replace(report, source=picture.name)


def remember(key: object, report: qi.Report) -> None:
    if report.error is None:
        _remembered[key] = report
        while len(_remembered) > REMEMBERED:
            _remembered.popitem(last=False)


def between(items: Iterator[T]) -> Iterator[T]:
    """The items; cancelled between them."""
    for item in items:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield item


def cancellable(items: Generator[T, None, None]) -> Iterator[T]:
    """The items, made in a thread, so that cancelling does not wait for one that takes minutes.

    Raises:
        InterruptProcessingException: the user cancelled; the item at work is let go.
    """
    results: queue.SimpleQueue[Callable[[], T] | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def work() -> None:
        try:
            for item in items:
                results.put(lambda item=item: item)  # type: ignore[misc]
                if stopped.is_set():
                    break
            results.put(None)
        except BaseException as error:
            results.put(lambda error=error: throw(error))  # type: ignore[misc]
        finally:
            items.close()

    threading.Thread(target=work, name="qinsight-node", daemon=True).start()
    try:
        while (result := next_of(results)) is not None:
            yield result()
    finally:
        stopped.set()


def next_of(results: queue.SimpleQueue[T]) -> T:
    while True:
        comfy.model_management.throw_exception_if_processing_interrupted()
        try:
            return results.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue


def throw(error: BaseException) -> Any:
    raise error


def call(function: Callable[[], T]) -> T:
    """One call, as in `cancellable`."""

    def once() -> Generator[T, None, None]:
        yield function()

    (result,) = cancellable(once())
    return result

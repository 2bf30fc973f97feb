"""The heart of a server: pictures in, reports out; a bounded number inside at any time.

    submit -> (decode in a process that can be killed) -> (wait for a batch) -> score -> Report

Whatever was accepted is answered exactly once: by a report, which may hold an error, or by an
error.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from qinsight_plugin.batcher import Batcher
from qinsight_plugin.comparing import compare_by
from qinsight_plugin.errors import BusyError, QInsightError, ServingError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.plugins import new_host
from qinsight_plugin.records import Comparison, Gate, Image, Report, Verdict
from qinsight_plugin.serving.decoders import DecoderPool
from qinsight_plugin.serving.events import Events
from qinsight_plugin.serving.limits import Limits

_REMEMBERED = 64  # answers by which the rate is reckoned
_LONGEST_WAIT = 60  # seconds that anyone is told to wait


@dataclass(frozen=True, slots=True)
class Picture:
    """The bytes of a file, and what to call it."""

    data: bytes
    name: str = "picture"


Ask = Callable[[Pipeline, Sequence[Image]], Any]


@dataclass(eq=False)
class _Job:
    """One question on its way.

    Attributes:
        ask: what to do with the decoded pictures; None: score the only one, in a batch.
        outcome: its answer. Cancelled by whoever asked and left.
    """

    pictures: tuple[Picture, ...]
    pipeline: Pipeline
    ask: Ask | None
    accepted: float = field(default_factory=time.perf_counter)
    decoding: float = 0.0
    images: list[Image] = field(default_factory=list)
    outcome: Future[Any] = field(default_factory=Future)


class Engine:
    """Scores pictures for a server. Thread-safe.

    Args:
        scorer: `NAME` or `NAME:ARGUMENT`; see `qinsight plugins`.
        limits: what one picture may cost.
        capacity: most pictures inside at once, at work or waiting.
        batch: most pictures that the scorer is given at once. What waits while a batch runs is the
            next one.
        lanes: batches that run at once; the number of cores when None.
        decoders: processes that decode; the number of cores when None.
        events: is told what happens, for metrics.

    Raises:
        ScorerUnknownError, WeightsError, MissingExtraError: from loading the scorer.
        ConfigError, PluginError: a gate could not rely on the scorer or the plugins.
    """

    def __init__(
        self,
        scorer: str = DEFAULT_SCORER,
        *,
        limits: Limits | None = None,
        capacity: int = 64,
        batch: int = 8,
        lanes: int | None = None,
        decoders: int | None = None,
        events: Events | None = None,
    ) -> None:
        cores = os.cpu_count() or 1
        self.pipeline = gating(scorer)
        self.capacity = capacity
        self._events = events or Events()
        self._inside = 0
        self._progress = time.monotonic()
        self._answered: deque[float] = deque(maxlen=_REMEMBERED)
        self._change = threading.Condition()
        self._pool = DecoderPool(decoders or cores, limits or Limits(), self._events)
        self._decoding = ThreadPoolExecutor(decoders or cores, "qinsight-decode")
        self._batcher: Batcher[_Job, Any] = Batcher(self._answer, batch, lanes=lanes or cores)

    @property
    def inside(self) -> int:
        """Pictures at work or waiting."""
        return self._inside

    @property
    def stalled(self) -> float:
        """Seconds for which pictures have been inside and none was answered."""
        return time.monotonic() - self._progress if self._inside else 0.0

    def require_room(self, pictures: int = 1) -> None:
        """
        Raises:
            BusyError: there is no room for so many now.
        """
        if self._inside + pictures > self.capacity:
            raise BusyError(
                f"{self._inside} of at most {self.capacity} pictures are being worked on: try "
                "again later",
                self._retry_after(),
            )

    def submit(
        self, pictures: Sequence[Picture], reference: Picture | None = None
    ) -> list[Future[Report]]:
        """A report of each picture to come; all are accepted, or none.

        Args:
            reference: what all were made from.

        Raises:
            BusyError: there is no room for so many.
        """
        against = () if reference is None else (reference,)
        ask = None if reference is None else report_against
        return [job.outcome for job in self._accept([(p, *against) for p in pictures], ask)]

    def submit_comparison(
        self,
        a: Picture,
        b: Picture,
        margin: float | None = None,
        reference: Picture | None = None,
    ) -> Future[Comparison]:
        """Which of two is better, to come; see `qinsight_plugin.compare`.

        Raises:
            BusyError: there is no room.
        """

        def ask(pipeline: Pipeline, images: Sequence[Image]) -> Comparison:
            first, second, *made_from = images
            return compare_by(pipeline.host, first, second, pipeline.name, margin, *made_from)

        pictures = (a, b) if reference is None else (a, b, reference)
        (job,) = self._accept([pictures], ask)
        return job.outcome

    def conclude(
        self, reports: Sequence[Report], gate: Gate | None = None
    ) -> list[tuple[Report, Verdict | None]]:
        """Judge reports, if there is a gate, and tell the observers that they are final.

        Raises:
            PluginError: a policy or an observer failed.
        """
        concluded = []
        for report in reports:
            verdict = None if gate is None else self.pipeline.judge(report, gate)
            self.pipeline.ready(report, verdict)
            concluded.append((report, verdict))
        return concluded

    def reload(self) -> None:
        """Load the scorer and the plugins anew. What was accepted before is still answered by the
        old ones; if the new ones do not load, everything is.

        Raises:
            QInsightError: why they do not load.
        """
        self.pipeline = gating(self.pipeline.name)

    def close(self) -> None:
        """Wait until all that was accepted is answered, then end the processes. Submit no more."""
        with self._change:
            self._change.wait_for(lambda: self._inside == 0)
        self._decoding.shutdown()
        self._pool.close()

    def _accept(self, asked: Sequence[tuple[Picture, ...]], ask: Ask | None) -> list[_Job]:
        with self._change:
            self.require_room(len(asked))
            if not self._inside:
                self._progress = time.monotonic()
            self._inside += len(asked)
        jobs = [_Job(pictures, self.pipeline, ask) for pictures in asked]
        for job in jobs:
            job.outcome.add_done_callback(self._leave)
            self._decoding.submit(self._begin, job)
        return jobs

    def _leave(self, outcome: Future[Any]) -> None:
        with self._change:
            self._inside -= 1
            if not outcome.cancelled():
                self._progress = time.monotonic()
                self._answered.append(self._progress)
            self._change.notify_all()

    def _retry_after(self) -> int:
        """Seconds in which half of what is inside should be answered, at the rate of late."""
        if len(self._answered) < 2:
            return 1
        rate = (len(self._answered) - 1) / max(self._answered[-1] - self._answered[0], 1e-3)
        return max(1, min(_LONGEST_WAIT, math.ceil(self._inside / 2 / rate)))

    def _begin(self, job: _Job) -> None:
        """In a decoding thread: decode, and join a batch."""
        if job.outcome.cancelled():
            return
        try:
            self._decode(job)
            (answer,) = self._batcher.enqueue([job])
        except BaseException as error:  # whatever it is, whoever asked is told
            settle(job, self._refusal(job, error))
        else:
            answer.add_done_callback(lambda done: settle(job, done.exception() or done.result()))

    def _decode(self, job: _Job) -> None:
        begin, spec = time.perf_counter(), job.pipeline.scorer.spec
        try:
            job.images = [self._pool.decode(p.data, p.name, spec) for p in job.pictures]
        finally:
            job.decoding = time.perf_counter() - begin
            self._events.decoded(job.decoding)

    def _refusal(self, job: _Job, error: BaseException) -> Report | BaseException:
        """A report with the error; or the error, where it is not the picture's: nothing is to be
        rejected because a server ails."""
        scoring = job.ask in (None, report_against)
        if scoring and isinstance(error, QInsightError) and not isinstance(error, ServingError):
            return job.pipeline.failure(job.pictures[0].name, error)
        return error

    def _answer(self, jobs: list[_Job]) -> list[Any]:
        """The answers, or errors, of a batch; what nobody waits for any more is left out."""
        now = time.perf_counter()
        wanted = [job for job in jobs if not job.outcome.cancelled()]
        answers: dict[_Job, Any] = dict.fromkeys(jobs)
        for job in wanted:
            self._events.waited(now - job.accepted - job.decoding)
        for (pipeline, ask), group in groupby(wanted, key=lambda job: (job.pipeline, job.ask)):
            together = list(group)
            if ask is None:
                reports = pipeline.reports_of([job.images[0] for job in together])
                answers.update(zip(together, reports, strict=True))
            else:
                answers.update((job, self._asked(ask, job)) for job in together)
        if wanted:
            self._events.scored(time.perf_counter() - now, len(wanted))
        return [answers[job] for job in jobs]

    def _asked(self, ask: Ask, job: _Job) -> Any:
        try:
            return ask(job.pipeline, job.images)
        except Exception as error:
            return self._refusal(job, error)


def gating(scorer: str) -> Pipeline:
    """A pipeline of its own, on which a gate can rely."""
    pipeline = Pipeline(scorer, new_host())
    pipeline.require_judgeable()
    return pipeline


def report_against(pipeline: Pipeline, images: Sequence[Image]) -> Report:
    picture, reference = images
    return pipeline.report(picture, pipeline.reference(reference))


def settle(job: _Job, answer: Any) -> None:
    """Hand the answer to whoever asked, if they are still there."""
    if not job.outcome.set_running_or_notify_cancel():
        return
    if isinstance(answer, BaseException):
        job.outcome.set_exception(answer)
    else:
        job.outcome.set_result(answer)

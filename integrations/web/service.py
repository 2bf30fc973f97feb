"""What the routes have in common: an engine, a gate, keys, books."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from qinsight_plugin.errors import QInsightError
from qinsight_plugin.records import Comparison, Gate, Report, Verdict
from qinsight_plugin.serving import Engine, Picture

from .fetching import Fetcher
from .keys import Keys
from .logs import say
from .metrics import Metrics
from .settings import Settings
from .uploads import IMAGE, REFERENCE, A, B, Bodies, Upload, received

T = TypeVar("T")
_SMALLEST = b"P6 64 64 255\n" + bytes(range(192)) * 64  # a picture that needs no encoder


@dataclass
class Told:
    """What the log is told of a request."""

    pictures: int = 0
    bytes: int = 0
    accepted: int = 0
    rejected: int = 0
    failed: int = 0


class Service:
    """
    Raises:
        QInsightError: the scorer, the policy or the keys cannot be had, or nothing can be decoded.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.gate = settings.gate()
        self.keys = Keys(settings.keys())
        self.metrics = Metrics(lambda: self.engine.inside, settings.capacity)
        self.bodies = Bodies(settings.bodies_memory)
        self.fetcher = (
            Fetcher(settings.fetch_from, settings.fetch_seconds) if settings.fetch_from else None
        )
        self._reloading = threading.Lock()
        self.engine = Engine(
            settings.scorer,
            limits=settings.limits,
            capacity=settings.capacity,
            batch=settings.batch,
            lanes=settings.lanes,
            decoders=settings.decoders,
            events=self.metrics,
        )
        self.engine.submit([Picture(_SMALLEST)])[0].result()  # what cannot start, does not

    def reload(self) -> None:
        """Read the policy and load the scorer anew; on failure all stays as it is, and the log and
        the metrics tell."""
        # One after the other, lest one that began earlier end later and bring an old policy back.
        with self._reloading:
            try:
                gate = self.settings.gate()
                self.engine.reload()
            except QInsightError as error:
                self.metrics.reloaded("failed")
                say("reload failed", level=logging.ERROR, error=str(error))
                return
            self.gate = gate
            self.metrics.reloaded("done")
            say("reloaded", scorer_version=self.engine.pipeline.scorer.spec.version)

    def close(self) -> None:
        self.engine.close()

    async def score(
        self, request: Request, gate: Gate | None = None
    ) -> list[tuple[Report, Verdict | None]]:
        """The reports, and verdicts if there is a gate, of the pictures of a request."""

        async def ask(upload: Upload) -> list[tuple[Report, Verdict | None]]:
            pictures = numbered(upload.many(IMAGE))
            reference = upload.maybe(REFERENCE)
            reports = await unless_gone(request, self.engine.submit(pictures, reference))
            return await asyncio.to_thread(self.engine.conclude, reports, gate)

        concluded = await self._received(request, (IMAGE, REFERENCE), ask)
        for report, verdict in concluded:
            self.metrics.concluded(report, verdict, gate)
            count(told(request), report, verdict)
        return concluded

    async def compare(self, request: Request, margin: float | None) -> Comparison:
        """Which of the two pictures of a request is better."""

        async def ask(upload: Upload) -> Comparison:
            a, b, reference = upload.one(A), upload.one(B), upload.maybe(REFERENCE)
            asked = self.engine.submit_comparison(a, b, margin, reference)
            (comparison,) = await unless_gone(request, [asked])
            return comparison

        return await self._received(request, (A, B, REFERENCE), ask)

    async def _received(
        self, request: Request, fields: tuple[str, ...], ask: Callable[[Upload], Awaitable[T]]
    ) -> T:
        self.engine.require_room()  # rather than receive what will be refused
        async with received(request, fields, self.bodies, self.settings, self.fetcher) as upload:
            told(request).pictures, told(request).bytes = upload.count, upload.size
            return await ask(upload)


def numbered(pictures: Sequence[Picture]) -> list[Picture]:
    """The pictures, each with a name of its own where there are several without one."""
    if len(pictures) < 2:
        return list(pictures)
    return [
        Picture(p.data, f"{p.name} {number}") if p.name == IMAGE else p
        for number, p in enumerate(pictures, 1)
    ]


def told(request: Request) -> Told:
    """The request's own, which the middleware has put there."""
    found: Any = request.scope.setdefault("qinsight", Told())
    assert isinstance(found, Told)
    return found


def count(told: Told, report: Report, verdict: Verdict | None) -> None:
    told.failed += report.score is None
    if verdict is not None:
        told.accepted += verdict.accepted
        told.rejected += not verdict.accepted


async def unless_gone(request: Request, futures: Sequence[Future[T]]) -> list[T]:
    """What all of them come to, or nothing when the client hangs up before.

    Raises:
        ClientDisconnect: it did; what has not begun is not done.
    """
    answers = [asyncio.wrap_future(future) for future in futures]
    gone: asyncio.Future[Any] = asyncio.ensure_future(_gone(request))
    waiting: set[asyncio.Future[Any]] = {gone, *answers}
    try:
        while len(waiting) > 1:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                raise ClientDisconnect()
        for failed in [error for answer in answers if (error := answer.exception())]:
            raise failed
        return [answer.result() for answer in answers]
    finally:
        gone.cancel()
        for answer in answers:
            answer.cancel()  # does nothing to those that are done


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

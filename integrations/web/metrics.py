"""The server's books, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from qinsight_plugin.gate import judge_report
from qinsight_plugin.records import Gate, Report, Verdict
from qinsight_plugin.serving import Events

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics(Events):
    """
    Args:
        inside: tells how many pictures are at work or waiting.
        capacity: how many may be.
    """

    def __init__(self, inside: Callable[[], int], capacity: int) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = _SECONDS) -> Histogram:
            return Histogram(name, text, buckets=buckets, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        queue = Gauge("qinsight_queue_pictures", "At work or waiting.", registry=registry)
        queue.set_function(inside)
        most = Gauge("qinsight_queue_capacity", "Most pictures inside.", registry=registry)
        most.set(capacity)
        self._queue = histogram("qinsight_queue_seconds", "From acceptance to scoring, undecoded.")
        self._decode = histogram("qinsight_decode_seconds", "Decoding a picture.")
        self._inference = histogram("qinsight_inference_seconds", "Scoring a batch.")
        self._batch = histogram("qinsight_batch_pictures", "Pictures in a batch.", _SIZES)
        self._request = histogram("qinsight_request_seconds", "From a request to its answer.")
        self._requests = counter("qinsight_requests", "By route and status.", "route", "status")
        self._ended = counter("qinsight_decoders_ended", "Decoding processes.", "reason")
        self._errors = counter("qinsight_errors", "Pictures without a score.", "type")
        self._verdicts = counter("qinsight_verdicts", "By verdict.", "accepted")
        self._reasons = counter("qinsight_verdict_reasons", "Rules that objected.", "reason")
        self._reloads = counter("qinsight_reloads", "Of scorer and policy.", "outcome")
        self.lost_lines = counter("qinsight_log_lines_lost", "That could not be written.")

    def text(self) -> bytes:
        return bytes(generate_latest(self._registry))

    def decoded(self, seconds: float) -> None:
        self._decode.observe(seconds)

    def waited(self, seconds: float) -> None:
        self._queue.observe(seconds)

    def scored(self, seconds: float, pictures: int) -> None:
        self._inference.observe(seconds)
        self._batch.observe(pictures)

    def decoder_ended(self, reason: str) -> None:
        self._ended.labels(reason).inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._request.observe(seconds)

    def reloaded(self, outcome: str) -> None:
        self._reloads.labels(outcome).inc()

    def concluded(self, report: Report, verdict: Verdict | None, gate: Gate | None) -> None:
        if report.error_type is not None:
            self._errors.labels(report.error_type).inc()
        if verdict is None or gate is None:
            return
        self._verdicts.labels(str(verdict.accepted).lower()).inc()
        for reason in objections(report, verdict, gate):
            self._reasons.labels(reason).inc()


def objections(report: Report, verdict: Verdict, gate: Gate) -> list[str]:
    """The names of the rules that object to a report; "unscorable" where it has no score, and
    "policy" where only a plugin of the site can know."""
    if not verdict.reasons:
        return []
    if report.score is None:
        return ["unscorable"]
    names = [field.name for field in fields(gate) if field.name != "unscorable"]
    ruled = [name for name in names if judge_report(report, only(gate, name)).reasons]
    return ruled or ["policy"]


def only(gate: Gate, rule: str) -> Gate:
    return Gate(**{rule: getattr(gate, rule)})

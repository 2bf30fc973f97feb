"""What Prometheus scrapes of a watch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError

if TYPE_CHECKING:
    from qinsight_plugin.watch.watching import Sample


class Metrics:
    """Metrics in a registry of their own, served over HTTP until `close`.

    Args:
        source: the label `source`.
        port: of the server; 0: any free one.
        address: on which it listens.

    Raises:
        ConfigError: the port cannot be had.
        MissingExtraError: prometheus-client is not installed.
    """

    def __init__(self, source: str, port: int, address: str = "127.0.0.1") -> None:
        client = require(
            "prometheus_client",
            package="prometheus-client",
            extra="watch",
            purpose="metrics for Prometheus",
        )
        self._registry = client.CollectorRegistry()

        def made(kind: str, name: str, text: str, *more: str) -> Any:
            labels = ("source", *more)
            return getattr(client, kind)(f"qinsight_{name}", text, labels, registry=self._registry)

        self._source = source
        self._score = made("Gauge", "score", "Score of the last frame")
        self._smoothed = made("Gauge", "score_smoothed", "Median score of the last frames")
        self._degraded = made("Gauge", "degraded", "1 while quality is below the policy")
        self._frames = made(
            "Counter", "frames", "Frames scored, unscorable, skipped, dropped", "fate"
        )
        self._events = made("Counter", "events", "Events", "kind")
        self._latency = made("Histogram", "latency_seconds", "From a frame to its report")
        try:
            self._server, self._thread = client.start_http_server(
                port, address, registry=self._registry
            )
        except OSError as error:
            raise ConfigError(
                f"metrics: cannot listen on {address}:{port}: {error.strerror}"
            ) from error

    @property
    def port(self) -> int:
        number: int = self._server.server_port
        return number

    def add(self, sample: Sample) -> None:
        source = self._source
        for event in sample.events:
            self._events.labels(source, event.kind).inc()
        self._degraded.labels(source).set(sample.degraded)
        self._frames.labels(source, "skipped").inc(sample.skipped)
        self._frames.labels(source, "dropped").inc(sample.dropped)
        if sample.report is None:
            return
        self._latency.labels(source).observe(sample.latency)
        scored = sample.report.score is not None
        self._frames.labels(source, "scored" if scored else "unscorable").inc()
        if sample.report.score is not None:
            self._score.labels(source).set(sample.report.score.value)
        if sample.smoothed is not None:
            self._smoothed.labels(source).set(sample.smoothed)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

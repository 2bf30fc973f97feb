"""A stream's history in little memory, and as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qinsight_plugin._imports import require
from qinsight_plugin.errors import ConfigError

if TYPE_CHECKING:
    from qinsight_plugin.watch.alarms import Event
    from qinsight_plugin.watch.watching import Sample

MOST = 2048
"""Spans, and events, that are kept: beyond, spans are merged by twos, and the oldest events go."""


@dataclass(slots=True)
class Span:
    """The scores from `start` to `end`: lowest, mean, highest."""

    start: float
    end: float
    low: float
    mean: float
    high: float
    count: int

    def merged(self, other: Span) -> Span:
        count = self.count + other.count
        mean = (self.mean * self.count + other.mean * other.count) / count
        low, high = min(self.low, other.low), max(self.high, other.high)
        return Span(self.start, other.end, low, mean, high, count)


class Timeline:
    """The scores of any number of samples, the finer the fewer there were."""

    def __init__(self, most: int = MOST) -> None:
        self.spans: list[Span] = []
        self.events: list[Event] = []
        self._most, self._samples = most, 1

    def add(self, sample: Sample) -> None:
        self.events = [*self.events, *sample.events][-self._most :]
        if sample.report is None or sample.report.score is None:
            return
        value = sample.report.score.value
        now = Span(sample.seconds, sample.seconds, value, value, value, 1)
        if self.spans and self.spans[-1].count < self._samples:
            self.spans[-1] = self.spans[-1].merged(now)
        else:
            self.spans.append(now)
        if len(self.spans) > self._most:
            self.spans = list(halved(self.spans))
            self._samples *= 2

    def draw(self, path: Path, title: str, least: float | None = None) -> None:
        """Write it as .png or .svg.

        Args:
            least: the policy's lowest score.

        Raises:
            ConfigError: it cannot be written.
            MissingExtraError: matplotlib is not installed.
        """
        require("matplotlib", package="matplotlib", extra="watch", purpose="drawing a timeline")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        times = [(span.start + span.end) / 2 for span in self.spans]
        axes.fill_between(
            times, [s.low for s in self.spans], [s.high for s in self.spans], color="#56B4E9"
        )
        axes.plot(times, [s.mean for s in self.spans], color="#0072B2", linewidth=1)
        if least is not None:
            axes.axhline(least, color="0.4", linestyle="--", linewidth=1)
        for event in self.events:
            good = event.kind in ("recovered", "returned", "moving")
            axes.axvline(event.seconds, color="#009E73" if good else "#D55E00", linewidth=1)
            axes.annotate(
                event.kind, (event.seconds, 1.02), rotation=60, xycoords=("data", "axes fraction")
            )
        axes.set(xlabel="seconds", ylabel="score")
        axes.set_title(title, loc="left", pad=42, parse_math=False)
        axes.grid(color="0.93")
        try:
            figure.savefig(path, dpi=100)
        except (OSError, ValueError) as error:
            raise ConfigError(f"plot {path}: cannot be written ({error})") from error


def halved(spans: list[Span]) -> Iterator[Span]:
    for index in range(0, len(spans) - 1, 2):
        yield spans[index].merged(spans[index + 1])
    if len(spans) % 2:
        yield spans[-1]

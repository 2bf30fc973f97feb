"""The loop: take a frame, score it, smooth, judge, tell."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qinsight_plugin.errors import ConfigError, QInsightError
from qinsight_plugin.pipeline import DEFAULT_SCORER, Pipeline
from qinsight_plugin.records import Gate, Report, Verdict
from qinsight_plugin.watch.alarms import Alarm, Event, Smoothed, Smoother, Usual
from qinsight_plugin.watch.feeds import Feed, FolderFeed, open_feed
from qinsight_plugin.watch.sampling import Pace, Taken, sampled

if TYPE_CHECKING:
    from qinsight_plugin.records import Image

_STILL = 0.6
"""Mean difference between the means of blocks, in levels, under which two frames are the same: what
a codec makes of the same picture differs."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What is expected of a stream.

    Attributes:
        gate: the rules, applied to the smoothed score.
        lasting: seconds for which they must be broken until that is an event, and met until it
            is over.
        margin: how far over the gate's `min_score` the smoothed score must be to count as
            recovered.
        smooth: samples of which the median is taken.
        freeze: seconds of the same picture that are an event; None: none are, since a scene may
            stand still.
        fall: MOS under what the stream usually scores (see `Usual`) that breaks the policy too;
            None: only the gate counts. What a good picture scores depends on what it shows, so
            this suits a camera that keeps its view; a cut to another one may be called a fall.
    """

    gate: Gate = field(default_factory=Gate)
    lasting: float = 2.0
    margin: float = 0.2
    smooth: int = 3
    freeze: float | None = None
    fall: float | None = None

    def __post_init__(self) -> None:
        for name in ("lasting", "margin", "freeze", "fall"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name} must be 0 or more, not {value}")

    @property
    def recovered(self) -> Gate:
        """What must be met for an alarm to end."""
        least = self.gate.min_score
        if least is None:
            return self.gate
        return dataclasses.replace(self.gate, min_score=least + self.margin)


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a stream.

    Attributes:
        seconds: since it began.
        report: of the frame; None where none came.
        smoothed: the median score of the last samples; None where there is no score yet.
        verdict: of the policy, on the smoothed score.
        events: what became certain now.
        degraded: whether quality has been too low for long enough, and not yet recovered.
        skipped, dropped: see `Taken`; since the last sample.
        latency: seconds from the frame's arrival to its report.
    """

    seconds: float
    report: Report | None
    smoothed: float | None
    verdict: Verdict | None
    events: tuple[Event, ...]
    degraded: bool
    skipped: int
    dropped: int
    latency: float


def watch(
    source: str | int | Path | Feed,
    *,
    scorer: str = DEFAULT_SCORER,
    rate: float | None = 5.0,
    budget: float | None = None,
    policy: Policy | None = None,
    realtime: bool = False,
    duration: float | None = None,
    driver: Callable[[Any], Any] | None = None,
) -> Iterator[Sample]:
    """Score what goes by; each report goes to the hook `qinsight_report_ready`, too.

    Of a live source the newest frame is taken, and what could not be looked at in time is counted
    as dropped. A source that drops out is opened again until it is back.

    Args:
        source: a video file, a folder that is being filled, the number of a camera, an address
            (rtsp://, http://, ...), or a `Feed`.
        rate: frames a second to look at; None: every one. Of a folder every picture.
        budget: share of a core that scoring may take; lowers the rate as need be.
        realtime: play a file, as if it were live.
        duration: seconds after which to end.
        driver: makes the capture of a camera; None: OpenCV's.

    Raises:
        ConfigError: an argument is wrong.
        VideoError: the source cannot be opened, or a file breaks off.
        PluginError: a plugin failed, or one did not load that may have been a policy.
    """
    feed = open_feed(source, driver) if isinstance(source, (str, int, Path)) else source
    pace = Pace(None if isinstance(feed, FolderFeed) else rate, budget)
    if duration is not None and not duration > 0:
        raise ConfigError(f"duration must be above 0 seconds, not {duration}")
    pipeline = Pipeline(scorer)
    if pipeline.scorer.spec.kind == "FR":
        raise ConfigError(f"scorer {scorer} needs a reference, which a stream has none of")
    policy = policy or Policy()
    pipeline.require_judgeable()
    pipeline.judge(Report("", scorer), policy.gate)  # rules that are impossible show at once
    return _watch(feed, pace, Watcher(pipeline, policy, feed.name), realtime, duration)


def _watch(
    feed: Feed, pace: Pace, watcher: Watcher, realtime: bool, duration: float | None
) -> Iterator[Sample]:
    for taken in sampled(feed, pace, realtime):
        if duration is not None and taken.seconds >= duration:
            return
        busy = time.process_time()
        sample = watcher.look(taken)
        pace.spent(time.process_time() - busy)
        if sample is not None:
            yield sample


class Watcher:
    """What is known of a stream: its smoothed score and its alarms."""

    def __init__(self, pipeline: Pipeline, policy: Policy, name: str) -> None:
        self._pipeline, self._policy, self._name = pipeline, policy, name
        self._smoother = Smoother(policy.smooth)
        self._usual = Usual()
        self._quality = Alarm("degraded", "recovered", policy.lasting)
        self._signal = Alarm("lost", "returned", policy.lasting)
        self._motion = Alarm("frozen", "moving", policy.freeze or 0)
        self._size: tuple[int, int] | None = None
        self._thumbnail: Any = None
        self._heard = 0.0

    def look(self, taken: Taken) -> Sample | None:
        """None where nothing came, and that is no news."""
        if taken.frame is None:
            return self._silence(taken)
        began = time.perf_counter()
        report, image = self._report(taken)
        smoothed = None
        if report.score is not None:
            smoothed = self._smoother.add(taken.seconds, report.score.value)
        verdict, events = self._judged(taken.seconds, report, smoothed)
        events += self._returned(taken.seconds)
        if image is not None:
            events += self._seen(taken.seconds, image)
        self._heard = taken.seconds
        self._pipeline.ready(report, verdict)
        return Sample(
            taken.seconds,
            report,
            None if smoothed is None else smoothed.value,
            verdict,
            tuple(events),
            self._quality.active,
            taken.skipped,
            taken.dropped,
            time.perf_counter() - began,
        )

    def _report(self, taken: Taken) -> tuple[Report, Image | None]:
        assert taken.frame is not None
        name = f"{self._name} at {taken.seconds:.3f} s"
        try:
            source = taken.frame.source()
            if isinstance(source, str):  # a picture in a folder
                name = source
            image = dataclasses.replace(self._pipeline.decode(source), source=name)
            return self._pipeline.report(image), image
        except QInsightError as error:
            return self._pipeline.failure(name, error), None

    def _judged(
        self, seconds: float, report: Report, smoothed: Smoothed | None
    ) -> tuple[Verdict, list[Event]]:
        judged = report
        if smoothed is not None and report.score is not None:
            score = dataclasses.replace(report.score, value=smoothed.value)
            judged = dataclasses.replace(report, score=score)
        verdict = self._pipeline.judge(judged, self._policy.gate)
        good = self._pipeline.judge(judged, self._policy.recovered).accepted
        since = None
        if smoothed is not None:
            since = smoothed.above if self._quality.active else smoothed.below
            verdict, good = self._compared(seconds, smoothed.value, verdict, good)
        event = self._quality.update(
            seconds, not verdict.accepted, good, since, "; ".join(verdict.reasons)
        )
        return verdict, [] if event is None else [event]

    def _compared(
        self, seconds: float, value: float, verdict: Verdict, good: bool
    ) -> tuple[Verdict, bool]:
        """Verdict and recovery once the score is held against what is usual."""
        usual, fall = self._usual.value, self._policy.fall
        if fall is not None and usual is not None:
            if value < usual - fall:
                reason = f"score {value:.2f} is {usual - value:.2f} under the usual {usual:.2f}"
                reasons = (*verdict.reasons, reason)
                verdict = dataclasses.replace(verdict, accepted=False, reasons=reasons)
            good = good and value >= usual - fall + min(self._policy.margin, fall)
        if verdict.accepted and not self._quality.active:
            self._usual.add(seconds, value)
        return verdict, good

    def _silence(self, taken: Taken) -> Sample | None:
        event = self._signal.update(
            taken.seconds, not self._signal.active, False, self._heard, taken.problem
        )
        if event is None:
            return None
        return Sample(taken.seconds, None, None, None, (event,), self._quality.active, 0, 0, 0.0)

    def _returned(self, seconds: float) -> list[Event]:
        """A frame that comes ends a loss at once."""
        lost = self._signal.active
        self._signal = Alarm("lost", "returned", self._policy.lasting)
        return [Event("returned", seconds, self._heard)] if lost else []

    def _seen(self, seconds: float, image: Image) -> list[Event]:
        events = []
        size = (image.width, image.height)
        if self._size not in (None, size):
            before = f"{self._size[0]}x{self._size[1]}" if self._size else ""
            detail = f"{before} to {size[0]}x{size[1]}"
            events.append(Event("resized", seconds, seconds, detail))
        if self._policy.freeze is not None:
            still = self._is_still(image)
            since = self._heard if still else None
            event = self._motion.update(seconds, still, not still, since)
            events += [] if event is None else [event]
        self._size = size
        return events

    def _is_still(self, image: Image) -> bool:
        """Whether it shows what the last one did."""
        import numpy as np

        height, width = (side // 8 * 8 for side in image.pixels.shape[:2])
        tiles = image.pixels[:height, :width].reshape(height // 8, 8, width // 8, 8, 3)
        thumbnail = tiles.mean((1, 3), dtype=np.float32)
        last, self._thumbnail = self._thumbnail, thumbnail
        if last is None or last.shape != thumbnail.shape or not thumbnail.size:
            return False
        return bool(np.abs(thumbnail - last).mean() < _STILL)

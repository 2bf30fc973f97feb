"""Which frames are looked at: at a rate, within a budget, and never later than they come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from qinsight_plugin.errors import ConfigError, VideoError, described
from qinsight_plugin.watch.feeds import Feed, Frame

_AWAKE = 0.2
"""Seconds between two looks at whether a live feed still lives."""

_BACKOFF = (0.25, 5.0)
"""First and longest pause before a feed that broke off is opened again."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame to look at, or news of a live feed that gives none.

    Attributes:
        frame: None: nothing came.
        seconds: when.
        skipped: frames since the last one that were not due.
        dropped: frames that were due, and came while the last one was being looked at.
        problem: why nothing comes; "" where that is not known.
    """

    frame: Frame | None
    seconds: float
    skipped: int = 0
    dropped: int = 0
    problem: str = ""


class Pace:
    """When the next frame is due.

    Args:
        rate: frames a second; None: every one.
        budget: share of a core that looking at frames may take; None: all it needs.
    """

    def __init__(self, rate: float | None, budget: float | None) -> None:
        if rate is not None and not rate > 0:
            raise ConfigError(f"rate must be above 0 frames a second, not {rate}")
        if budget is not None and not budget > 0:
            raise ConfigError(f"budget must be above 0 of a core, not {budget}")
        self._least = 0.0 if rate is None else 1 / rate
        self._budget = budget
        self._interval = self._least
        self._next = float("-inf")

    def is_due(self, seconds: float) -> bool:
        """Whether a frame of that time is; if so, the next one is due an interval later."""
        # Half a millisecond: the clocks of streams are rounded.
        if seconds + 5e-4 < self._next:
            return False
        late = seconds - self._next
        on_grid = late < self._interval  # a gap starts the grid anew
        self._next = (self._next if on_grid else seconds) + self._interval
        return True

    def spent(self, cpu_seconds: float) -> None:
        """What looking at a frame took."""
        if self._budget is not None:
            needed = cpu_seconds / self._budget
            self._interval = max(self._least, 0.8 * self._interval + 0.2 * needed)


def sampled(feed: Feed, pace: Pace, realtime: bool = False) -> Iterator[Taken]:
    """What to look at, in order.

    Of a live feed always the newest frame that was due: nobody waits. A feed that broke off is
    opened again, and again. What is not live is read as fast as it is looked at, and nothing of
    it is lost; with `realtime`, it is played.

    Raises:
        VideoError: the feed cannot be opened at the start, or what is not live breaks off.
    """
    if feed.live or realtime:
        yield from _Reader(feed, pace, realtime).taken()
        return
    skipped = 0
    for frame in feed.frames():
        if pace.is_due(frame.seconds):
            yield Taken(frame, frame.seconds, skipped)
            skipped = 0
        else:
            skipped += 1


class _Reader:
    """A thread that reads a feed, and holds the newest frame that is due."""

    def __init__(self, feed: Feed, pace: Pace, realtime: bool) -> None:
        self._feed, self._pace, self._realtime = feed, pace, realtime
        self._began = time.monotonic()
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._at = 0.0
        self._skipped = self._dropped = 0
        self._problem = ""
        self._opened = self._ended = False
        self._stop = threading.Event()

    def taken(self) -> Iterator[Taken]:
        thread = threading.Thread(target=self._run, name="qinsight-watch", daemon=True)
        thread.start()
        try:
            while True:
                with self._changed:
                    if self._newest is None and not self._ended:
                        self._changed.wait(_AWAKE)
                    taken = self._take()
                    ended = self._ended and taken.frame is None
                    fatal = self._problem if ended or not self._opened else ""
                if fatal:
                    raise VideoError(fatal)
                if ended:
                    return
                yield taken
        finally:
            self._stop.set()
            thread.join(2)  # it may hang in a read, until that times out

    def _take(self) -> Taken:
        frame, self._newest = self._newest, None
        if frame is None:
            return Taken(None, time.monotonic() - self._began, problem=self._problem)
        taken = Taken(frame, self._at, self._skipped, self._dropped)
        self._skipped = self._dropped = 0
        return taken

    def _run(self) -> None:
        pause = _BACKOFF[0]
        while not self._stop.is_set():
            problem = f"{self._feed.name} ended"
            try:
                for frame in self._feed.frames():
                    pause = _BACKOFF[0]
                    self._came(frame)
                    if self._stop.is_set():
                        return
            except VideoError as error:
                problem = str(error)
            except Exception as error:  # a driver may raise anything
                problem = f"{self._feed.name} failed: {described(error)}"
            with self._changed:
                ends = self._realtime and not self._feed.live
                self._problem = "" if ends and self._opened else problem
                self._ended = ends or not self._opened
                self._changed.notify()
            if self._ended:
                return
            self._stop.wait(pause)
            pause = min(2 * pause, _BACKOFF[1])

    def _came(self, frame: Frame) -> None:
        if self._realtime and not self._feed.live:
            self._stop.wait(max(0.0, frame.seconds - (time.monotonic() - self._began)))
        seconds = time.monotonic() - self._began
        with self._changed:
            self._opened, self._problem = True, ""
            if not self._pace.is_due(seconds):
                self._skipped += 1
                return
            self._dropped += self._newest is not None
            self._newest, self._at = frame, seconds
            self._changed.notify()

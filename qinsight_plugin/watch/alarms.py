"""When a state is worth an event: once it has lasted, and again once it has been over as long."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from typing import Literal, TypeAlias

from qinsight_plugin.errors import ConfigError

Kind: TypeAlias = Literal[
    "degraded", "recovered", "lost", "returned", "frozen", "moving", "resized"
]


@dataclass(frozen=True, slots=True)
class Event:
    """
    Attributes:
        kind: "degraded" and "recovered": quality against the policy; "lost" and "returned": no
            frame came; "frozen" and "moving": the same picture; "resized".
        seconds: when it was certain; `since` when it began.
        detail: why, in words.
    """

    kind: Kind
    seconds: float
    since: float
    detail: str = ""


class Alarm:
    """Raised by a state that lasts, lowered by its opposite that lasts: what is neither changes
    nothing (hysteresis).

    Args:
        after: seconds that the state must last, and its opposite too.
    """

    def __init__(self, raised: Kind, lowered: Kind, after: float) -> None:
        self.active = False
        self._names = (raised, lowered)
        self._after = after
        self._since: float | None = None

    def update(
        self, seconds: float, bad: bool, good: bool, since: float | None = None, detail: str = ""
    ) -> Event | None:
        """Tell it how things are.

        Args:
            bad, good: never both; neither while it is in between.
            since: when that began, where it was before now.
        """
        turning = good if self.active else bad
        if not turning:
            self._since = None
            return None
        if self._since is None:
            self._since = seconds if since is None else since
        if seconds - self._since < self._after - 1e-6:
            return None
        event = Event(self._names[self.active], seconds, self._since, detail)
        self.active = not self.active
        self._since = None
        return event


@dataclass(frozen=True, slots=True)
class Smoothed:
    """
    Attributes:
        value: the median of the last samples.
        below: the time of the first of them under it or equal, `above` of the first over it or
            equal: when a change that now shows began.
    """

    value: float
    below: float
    above: float


class Smoother:
    """The running median: one odd frame moves it little, a change shows after half a window."""

    def __init__(self, window: int) -> None:
        if window < 1:
            raise ConfigError(f"smooth must be 1 frame or more, not {window}")
        self._last: deque[tuple[float, float]] = deque(maxlen=window)

    def add(self, seconds: float, value: float) -> Smoothed:
        self._last.append((seconds, value))
        # The lower median: of two samples the worse one counts.
        median = statistics.median_low(value for _, value in self._last)
        return Smoothed(
            median,
            next(at for at, one in self._last if one <= median),
            next(at for at, one in self._last if one >= median),
        )


class Usual:
    """What a stream scores when nothing is wrong: the median of the last minute of that.

    Args:
        least: samples before which nothing is called usual.
    """

    SECONDS = 60.0

    def __init__(self, least: int = 5) -> None:
        self._least = least
        self._last: deque[tuple[float, float]] = deque(maxlen=4096)

    def add(self, seconds: float, value: float) -> None:
        self._last.append((seconds, value))
        while self._last[0][0] < seconds - self.SECONDS:
            self._last.popleft()

    @property
    def value(self) -> float | None:
        if len(self._last) < self._least:
            return None
        return statistics.median(value for _, value in self._last)

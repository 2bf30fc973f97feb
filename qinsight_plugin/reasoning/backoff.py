"""When to try again what a server did not do, and when to give up.

Exponential back-off with full jitter, because clients that failed together would otherwise come
back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before trying again, in seconds.

    Attributes:
        first: the most after the first failure; doubles with every further one.
        longest: where it stops doubling. A server that is back is found within this time.
        longest_asked: the most that a server's own wish (Retry-After) is followed.
    """

    first: float = 0.5
    longest: float = 15.0
    longest_asked: float = 60.0

    def delay(self, failures: int, asked: float = 0.0) -> float:
        """A random wait after so many failures in a row, 1 or more; not under what was asked."""
        ceiling = min(self.longest, self.first * 2.0 ** min(failures - 1, 100))
        return max(random.uniform(0, ceiling), min(asked, self.longest_asked))


def retry_after(header: str | None) -> float:
    """Seconds from now that a Retry-After header asks for (RFC 9110, 10.2.3); 0 if unreadable."""
    text = (header or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if when.tzinfo is None:  # "-0000" is UTC too, RFC 5322, 3.3
        when = when.replace(tzinfo=timezone.utc)
    return max(0.0, (when - datetime.now(timezone.utc)).total_seconds())


class Again(Exception):
    """An attempt failed; another may not.

    Attributes:
        turned_away: the server did not begin with it.
        asked: seconds that it wants to be left alone.
    """

    def __init__(self, what: str, *, turned_away: bool = False, asked: float = 0.0) -> None:
        super().__init__(what)
        self.turned_away = turned_away
        self.asked = asked


class GivenUp(Exception):
    """There were attempts enough.

    Attributes:
        silent: the server gave no sign of life all the time.
    """

    def __init__(self, message: str, *, silent: bool) -> None:
        super().__init__(message)
        self.silent = silent


class Retrier:
    """Tries until it is done. All that one server is asked for shares one, on one event loop.

    Args:
        attempts: how often something is tried. Being turned away counts only as long as the
            server never gave a sign of life: later it is taken to be starting again, or busy.
        deadline: seconds after which nothing is tried again.
        backoff: the waits between.
    """

    def __init__(self, attempts: int, deadline: float, backoff: Backoff) -> None:
        self._attempts = attempts
        self._deadline = deadline
        self._backoff = backoff
        self._heard: float | None = None

    def heard(self) -> None:
        """The server has given a sign of life."""
        self._heard = time.monotonic()

    async def run(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns.

        Raises:
            GivenUp: it raised `Again` too often, or for too long; chained to the last one's cause.
        """
        begun = time.monotonic()
        tried = counted = 0
        while True:
            try:
                return await attempt()
            except Again as again:
                tried += 1
                counted += not (again.turned_away and self._heard is not None)
                delay = self._backoff.delay(tried, again.asked)
                passed = time.monotonic() - begun
                if counted >= self._attempts or passed + delay >= self._deadline:
                    tries = "1 attempt" if tried == 1 else f"{tried} attempts"
                    raise GivenUp(
                        f"no answer after {tries} in {passed:.3g} s; the last: {again}",
                        silent=self._heard is None or self._heard < begun,
                    ) from again.__cause__
            await asyncio.sleep(delay)

"""Fair timing: those compared take turns, so that a slow spell of the machine hits them all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

Stage = Callable[[], object]

ROUNDS_AT_LEAST = 3


def take_turns(stages: Sequence[Stage], seconds: float) -> list[tuple[float, ...]]:
    """The milliseconds of each stage, one a round.

    At its turn a stage runs twice, and the second run counts: after another's the first is slower.

    Args:
        seconds: time after which no new round begins; three rounds at least are made.
    """
    rounds: list[list[float]] = []
    until = time.perf_counter() + seconds
    while len(rounds) < ROUNDS_AT_LEAST or time.perf_counter() < until:
        rounds.append([milliseconds(stage) for stage in stages])
    return list(zip(*rounds, strict=True))


def milliseconds(stage: Stage) -> float:
    stage()
    start = time.perf_counter()
    stage()
    return 1000 * (time.perf_counter() - start)

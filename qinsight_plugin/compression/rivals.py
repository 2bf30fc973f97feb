"""Other ways to search, to be measured beside ours: plain functions of the same arguments.

Each returns the setting and the number of probes; the highest setting where none passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

Measure: TypeAlias = Callable[[float], float]
Search: TypeAlias = Callable[[Measure, float, Sequence[float]], tuple[float, int]]


def binary(measure: Measure, floor: float, settings: Sequence[float]) -> tuple[float, int]:
    """Halving; every step is a probe."""
    low, high, probes = -1, len(settings), 0
    while high - low > 1:
        middle = (low + high) // 2
        probes += 1
        if measure(settings[middle]) >= floor:
            high = middle
        else:
            low = middle
    return settings[min(high, len(settings) - 1)], probes


def ab_av1(
    measure: Measure, floor: float, settings: Sequence[float], slack: float = 0.5
) -> tuple[float, int]:
    """As ab-av1's crf-search goes: first the middle, then halfway to the end, then straight lines
    between the bounds; a pass within `slack` over the floor, or of neighbours, ends it."""
    values: dict[int, float] = {}
    low, high = -1, len(settings)
    index = len(settings) // 2
    while True:
        values[index] = value = measure(settings[index])
        if value >= floor:
            high = index
            if value <= floor + slack:
                break
        else:
            low = index
        if high - low <= 1:
            break
        if low in values and high in values:
            share = (floor - values[low]) / (values[high] - values[low])
            index = min(max(round(low + share * (high - low)), low + 1), high - 1)
        elif high == len(settings):
            index = (low + high) // 2 if low < len(settings) - 2 else low + 1
        else:
            index = (low + high) // 2
    return settings[min(high, len(settings) - 1)], len(values)

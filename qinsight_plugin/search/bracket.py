"""The search: among ordered settings, the lowest whose value reaches a floor.

Two bounds are kept: the highest setting known to fail below the lowest known to pass. Each probe
lies between them, so the answer has been measured to pass whatever shape the curve has; where the
curve is not monotone there may be another, lower setting that passes too. A prior curve says where
to look first and how surely; each probe corrects it. Without one, what is known of a falling curve
is interpolated.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin.errors import ConfigError
from qinsight_plugin.search.curve import Curve, Vector, linked

Certificate: TypeAlias = Literal["optimal", "tolerance", "budget", "unreached"]
"""What is known of an answer: it passes and the next lower setting fails (or there is none); it
passes by no more than the tolerance; it passes, and the budget is spent; nothing passes."""

BUDGET = 12
_HOPELESS = 0.05  # a chance of ending within tolerance below this is not worth aiming at


@dataclass(frozen=True, slots=True)
class Probe:
    """One measurement."""

    setting: float
    value: float


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    Attributes:
        setting, value: the answer and its measured value; of "unreached" the best that was seen.
        certificate: see `Certificate`.
        probes: what was measured, in order; what was known before is not in it.
    """

    setting: float
    value: float
    certificate: Certificate
    probes: tuple[Probe, ...]


def even_settings(low: float, high: float, resolution: float) -> Sequence[float]:
    """A continuous parameter as settings, from `low` to `high`, no further apart than that.

    Raises:
        ConfigError: the numbers span nothing.
    """
    if not (low < high and resolution > 0 and math.isfinite(high - low)):
        raise ConfigError(f"no settings from {low} to {high} in steps of {resolution}")
    count = math.ceil((high - low) / resolution) + 1
    return tuple(np.linspace(low, high, count).tolist())


def search(
    measure: Callable[[float], float],
    floor: float,
    settings: Sequence[float],
    *,
    curve: Curve | None = None,
    tolerance: float = 0.0,
    budget: int = BUDGET,
    known: Mapping[float, float] | None = None,
) -> Found:
    """Find the lowest setting whose value is `floor` or more.

    Args:
        measure: the value at a setting; higher is better.
        floor: the lowest value that passes.
        settings: ascending, such as range(1, 101); see `even_settings` for continuous parameters.
        curve: what is known beforehand.
        tolerance: a passing value this close to the floor ends the search; in units of the value.
        budget: the most probes. The last one is of the highest setting if none has passed yet.
        known: values measured earlier, which cost no probe.

    Raises:
        ConfigError: no settings, not ascending, a budget under 1, or a negative tolerance.
        What `measure` raises.
    """
    if not len(settings) or any(a >= b for a, b in itertools.pairwise(settings)):
        raise ConfigError("a search needs settings in ascending order")
    if budget < 1 or not tolerance >= 0:
        raise ConfigError(f"a search needs a probe and no negative tolerance, not {tolerance}")
    values = dict(known or {})
    probes: list[Probe] = []
    while True:
        low, high = bounds(settings, values, floor)
        if high < len(settings):
            passing = settings[high]
            certificate: Certificate | None = None
            if high - low == 1:
                certificate = "optimal"
            elif values[passing] - floor <= tolerance and tolerance > 0:
                certificate = "tolerance"
            elif len(probes) >= budget:
                certificate = "budget"
            if certificate:
                return Found(passing, values[passing], certificate, tuple(probes))
        elif low == len(settings) - 1 or len(probes) >= budget:
            best = max(values, key=lambda setting: values[setting])
            return Found(best, values[best], "unreached", tuple(probes))
        elif len(probes) == budget - 1:
            low = len(settings) - 2  # the last resort
        index = next_probe(settings, values, floor, tolerance, (low, high), curve)
        setting = settings[index]
        values[setting] = measure(setting)
        if math.isnan(values[setting]):
            raise ConfigError(f"the value at {setting} is not a number")
        probes.append(Probe(setting, values[setting]))


def bounds(
    settings: Sequence[float], values: Mapping[float, float], floor: float
) -> tuple[int, int]:
    """Indices of the lowest setting that passes, and of the highest below it that fails."""
    tried = [(index, values[s] >= floor) for index, s in enumerate(settings) if s in values]
    high = min((index for index, passes in tried if passes), default=len(settings))
    low = max((index for index, passes in tried if not passes and index < high), default=-1)
    return low, high


def next_probe(
    settings: Sequence[float],
    values: Mapping[float, float],
    floor: float,
    tolerance: float,
    between: tuple[int, int],
    curve: Curve | None,
) -> int:
    """The index to probe, strictly between two bounds."""
    low, high = between
    inside = np.arange(low + 1, min(high, len(settings)))
    candidates = [settings[int(index)] for index in inside]
    if curve is None:
        chance = chance_by_lines(settings, values, floor, between)
        return int(inside[np.argmin(np.abs(chance - 0.5))])
    mean, deviation = curve.predict(candidates, values)
    chance = normal_cdf((mean - linked(floor, curve.link)) / deviation)
    if tolerance > 0:
        above = normal_cdf((mean - linked(floor + tolerance, curve.link)) / deviation)
        done = chance - above
        if done.max() > _HOPELESS:
            return int(inside[np.argmax(done)])
    # Halves what may still be the answer, by probability; monotone, as the curve nearly is.
    return int(inside[np.argmin(np.abs(np.maximum.accumulate(chance) - 0.5))])


def chance_by_lines(
    settings: Sequence[float],
    values: Mapping[float, float],
    floor: float,
    between: tuple[int, int],
) -> Vector:
    """Probability that each setting between two bounds passes, without a prior curve.

    The floor is crossed near where the line between both bounds crosses it; where a bound has no
    value yet, anywhere.
    """
    low, high = between
    inside = np.arange(low + 1, min(high, len(settings)))
    if low < 0 or high >= len(settings) or settings[low] not in values:
        return (inside - low) / (high - low)
    under, over = values[settings[low]], values[settings[high]]
    share = (floor - under) / (over - under) if math.isfinite(over - under) else 0.5
    crossing = low + share * (high - low)
    # Centred half a step up: the first setting at or above the crossing passes.
    return normal_cdf((inside + 0.5 - crossing) / max(0.15 * (high - low), 0.5))


def normal_cdf(deviates: npt.NDArray[np.floating[Any]]) -> Vector:
    return np.array([0.5 * math.erfc(-deviate / math.sqrt(2)) for deviate in deviates])

"""What may be turned: named parameters, each a number in a range or one of several words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from qinsight_plugin.errors import ConfigError

Value: TypeAlias = "float | int | str | bool"


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low` to `high`.

    Attributes:
        default: where tuning starts, and what it must beat.
        step: between allowed values; None: any.
        log: search on a logarithmic scale.
        whole: an integer.
    """

    low: float
    high: float
    default: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    def check(self, name: str) -> None:
        numbers = (self.low, self.high, self.default)
        if not all(isinstance(n, (int, float)) and math.isfinite(n) for n in numbers):
            raise ConfigError(f"parameter {name}: low, high and default must be finite numbers")
        if not math.isfinite(self.high - self.low):
            raise ConfigError(f"parameter {name}: its range is too large to search")
        if not self.low < self.high:
            raise ConfigError(f"parameter {name}: low {self.low:g} is not below high {self.high:g}")
        if not self.low <= self.default <= self.high:
            raise ConfigError(
                f"parameter {name}: default {self.default:g} is not from {self.low:g} to "
                f"{self.high:g}"
            )
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise ConfigError(f"parameter {name}: no step of {self.step:g} fits into the range")
        if self.step is not None and any(
            not math.isclose(n, round(n), abs_tol=1e-6)
            for n in ((self.high - self.low) / self.step, (self.default - self.low) / self.step)
        ):
            raise ConfigError(
                f"parameter {name}: high and default must be whole steps of {self.step:g} above low"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ConfigError(f"parameter {name}: log needs a low above 0, and no step")
        if self.whole and any(n != int(n) for n in (*numbers, self.step or 1)):
            raise ConfigError(
                f"parameter {name}: is whole, and so must be low, high, default and step"
            )

    def ask(self, trial: Any, name: str) -> Value:
        if self.whole:
            step = int(self.step or 1)
            whole: int = trial.suggest_int(
                name, int(self.low), int(self.high), step=step, log=self.log
            )
            return whole
        number: float = trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)
        return number


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several values."""

    values: tuple[Value, ...]
    default: Value

    def check(self, name: str) -> None:
        if not all(isinstance(value, (int, float, str)) for value in self.values):
            raise ConfigError(f"parameter {name}: values must be numbers, words, true or false")
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ConfigError(f"parameter {name}: give at least two values, none of them twice")
        if self.default not in self.values:
            raise ConfigError(f"parameter {name}: default {self.default!r} is none of its values")

    def ask(self, trial: Any, name: str) -> Value:
        chosen: Value = trial.suggest_categorical(name, self.values)
        return chosen


@dataclass(frozen=True, slots=True)
class Space:
    """Names -> parameters.

    Raises:
        ConfigError: there is none, or one cannot be searched.
    """

    parameters: Mapping[str, Number | Choice]

    def __post_init__(self) -> None:
        if not self.parameters:
            raise ConfigError("the space has no parameter: name at least one to tune")
        for name, parameter in self.parameters.items():
            parameter.check(name)

    @property
    def defaults(self) -> dict[str, Value]:
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def ask(self, trial: Any) -> dict[str, Value]:
        """What an optuna trial proposes."""
        return {name: p.ask(trial, name) for name, p in self.parameters.items()}

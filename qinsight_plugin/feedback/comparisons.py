"""Answers to "which is better?" -> a latent scale with its uncertainty.

Thurstone's model, case V (1927): each look at a picture gives its quality plus a normal error, and
the better-looking one is named. The unit is the standard deviation of the difference of two looks.
The posterior is choix's expectation propagation under a normal prior.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from qinsight_plugin._imports import require
from qinsight_plugin.errors import LabelsError

Vector: TypeAlias = npt.NDArray[np.float64]
Matrix: TypeAlias = npt.NDArray[np.float64]
Comparison: TypeAlias = tuple[int, int, float]
"""Two pictures, and 1.0 where the first was better, 0.0 where the second was, 0.5 if the same."""

PRIOR_DEVIATION = 2.0
"""Of a picture's quality: five levels of ACR are about 5 of these units wide."""


@dataclass(frozen=True, slots=True)
class Latent:
    """Where pictures lie on the latent scale.

    Attributes:
        mean: [n]
        covariance: [n, n]
    """

    mean: Vector
    covariance: Matrix

    def variance(self) -> Matrix:
        """[n, n]: of the difference between two pictures."""
        own = np.diag(self.covariance)
        spread: Matrix = own[:, None] + own[None, :] - 2 * self.covariance
        return spread


def latent_scale(
    count: int, comparisons: Iterable[Comparison], deviation: float = PRIOR_DEVIATION
) -> Latent:
    """The posterior over `count` pictures' qualities.

    "The same" counts as half an answer each way: the posterior is the geometric mean of the one
    without such answers and the one where each counts as a whole answer each way, and of normal
    distributions' logarithms the mean is that of their precisions, and of these times means.

    Raises:
        LabelsError: the posterior is not found.
        MissingExtraError: choix is not installed.
    """
    choix = require("choix", package="choix", extra="label", purpose="scaling pairs")
    given = list(comparisons)
    won = [(a, b) if better == 1.0 else (b, a) for a, b, better in given if better != 0.5]
    tied = [pair for a, b, better in given if better == 0.5 for pair in ((a, b), (b, a))]

    def posterior(wins: Sequence[tuple[int, int]]) -> Latent:
        try:
            with _repeatable():
                return Latent(
                    *choix.ep_pairwise(count, wins, deviation**-2, "probit", max_iter=1000)
                )
        except RuntimeError as error:
            raise LabelsError(
                f"pairs: no scale is found for them ({error}): look for bad answers"
            ) from error

    without = posterior(won)
    if not tied:
        return without
    both = posterior(won + tied)
    first, second = (np.linalg.inv(one.covariance) for one in (without, both))
    covariance = np.asarray(np.linalg.inv((first + second) / 2), np.float64)
    shift = (first @ without.mean + second @ both.mean) / 2
    return Latent(covariance @ shift, covariance)


@contextmanager
def _repeatable() -> Iterator[None]:
    """choix draws the order of its updates from NumPy's process-wide generator."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def components(count: int, pairs: Iterable[Sequence[int]]) -> list[list[int]]:
    """Groups of pictures that comparisons connect; between groups nothing is known."""
    home = list(range(count))

    def root(one: int) -> int:
        while home[one] != one:
            home[one] = home[home[one]]
            one = home[one]
        return one

    for first, second, *_ in pairs:
        home[root(int(first))] = root(int(second))
    groups: dict[int, list[int]] = {}
    for one in range(count):
        groups.setdefault(root(one), []).append(one)
    return list(groups.values())

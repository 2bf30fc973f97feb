"""Answers to "which is better?" -> a latent scale with its uncertainty, and the next pair to ask.

Thurstone's model, case V (1927): each look at a picture gives its quality plus a normal error, and
the better-looking one is named. The unit is the standard deviation of the difference of two looks.
The posterior is choix's expectation propagation under a normal prior.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
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

_ENTROPY_WIDTH = math.sqrt(math.pi * math.log(2) / 2)


@dataclass(frozen=True, slots=True)
class Latent:
    """Where pictures lie on the latent scale.

    Attributes:
        mean: [n]
        covariance: [n, n]
    """

    mean: Vector
    covariance: Matrix

    def probability(self, first: int, second: int) -> float:
        """That a look finds the first better."""
        from scipy.special import ndtr

        mean = self.mean[first] - self.mean[second]
        return float(ndtr(mean / math.sqrt(1 + self._variance()[first, second])))

    def _variance(self) -> Matrix:
        """[n, n]: of the difference between two pictures."""
        own = np.diag(self.covariance)
        spread: Matrix = own[:, None] + own[None, :] - 2 * self.covariance
        return spread

    def information(self) -> Matrix:
        """[n, n]: bits that the answer to each pair is expected to tell about the whole scale.

        The mutual information of answer and scale (Lindley 1956), in the closed form that Houlsby
        et al. give for probit models (arXiv:1112.5745, equation 3).
        """
        from scipy.special import entr, ndtr

        mean = self.mean[:, None] - self.mean[None, :]
        variance = self._variance()
        chance = ndtr(mean / np.sqrt(1 + variance))
        total = (entr(chance) + entr(1 - chance)) / math.log(2)
        width = variance + _ENTROPY_WIDTH**2
        noise = _ENTROPY_WIDTH / np.sqrt(width) * np.exp(-(mean**2) / (2 * width))
        gain: Matrix = np.clip(total - noise, 0, None)
        np.fill_diagonal(gain, 0)
        return gain


def latent_scale(
    count: int, comparisons: Iterable[Comparison], deviation: float = PRIOR_DEVIATION
) -> Latent:
    """The posterior over `count` pictures' qualities.

    "The same" counts as half an answer each way. For that every answer is counted twice, and the
    prior too; the covariance, half of what it should be then, is doubled.

    Raises:
        LabelsError: the posterior is not found.
        MissingExtraError: choix is not installed.
    """
    choix = require("choix", package="choix", extra="label", purpose="scaling pairs")
    given = list(comparisons)
    precision = deviation**-2
    halved = any(better == 0.5 for *_, better in given)
    data = [pair for one in given for pair in _wins(one, 2 if halved else 1)]
    if not data:
        return Latent(np.zeros(count), np.eye(count) * deviation**2)
    weight = 2 if halved else 1
    try:
        with _repeatable():
            mean, covariance = choix.ep_pairwise(
                count, data, precision * weight, "probit", max_iter=1000
            )
    except RuntimeError as error:
        raise LabelsError(f"pairs: no scale is found for them ({error}): look for bad answers") from error
    return Latent(mean, covariance * weight)


def _wins(one: Comparison, times: int) -> list[tuple[int, int]]:
    """Winner before loser."""
    first, second, better = one
    if better == 0.5:
        return [(first, second), (second, first)]
    return [(first, second) if better == 1.0 else (second, first)] * times


@contextmanager
def _repeatable() -> Iterator[None]:
    """choix draws the order of its updates from NumPy's process-wide generator."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def best_pairs(latent: Latent, taken: Collection[frozenset[int]], count: int) -> list[tuple[int, int]]:
    """The pairs that tell most, the best first; none shares a picture with another, since their
    answers would tell the same.

    Args:
        taken: pairs that are not to be asked (again).
    """
    gain = np.triu(latent.information())
    for pair in taken:
        first, second = sorted(pair)
        gain[first, second] = 0
    chosen: list[tuple[int, int]] = []
    while len(chosen) < count and gain.max() > 0:
        first, second = divmod(int(gain.argmax()), len(gain))
        chosen.append((first, second))
        for one in (first, second):
            gain[one, :] = gain[:, one] = 0
    return chosen


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

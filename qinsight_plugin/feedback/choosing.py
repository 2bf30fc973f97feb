"""Which pair to ask about next: the one whose answer is expected to tell most.

The model is that of `comparisons`, but its prior holds what the student thinks of each picture,
which choix's has no room for, and its posterior is Laplace's: quick enough between two answers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np

from qinsight_plugin.feedback.comparisons import PRIOR_DEVIATION, Comparison, Latent, Matrix, Vector

LOOK = 0.7
"""MOS to a unit of the latent scale: two looks at one picture differ by about half a level each."""

OWN_WAYS = 0.5
"""Standard deviation, in MOS, of how far a new domain's people are from what the student learnt."""

_ENTROPY_WIDTH = math.sqrt(math.pi * math.log(2) / 2)
_STEPS = 50
_CLOSE = 1e-6


def flat_prior(count: int) -> Latent:
    """Nothing is known of any picture."""
    return Latent(np.zeros(count), np.eye(count) * PRIOR_DEVIATION**2)


def prior_of(scores: Sequence[float], uncertainty: Sequence[float]) -> Latent:
    """What a student's scores (MOS) and the standard deviations of their errors say."""
    mean = np.asarray(scores, np.float64)
    deviation = np.hypot(np.asarray(uncertainty, np.float64), OWN_WAYS)
    return Latent((mean - mean.mean()) / LOOK, np.diag((deviation / LOOK) ** 2))


def posterior(prior: Latent, comparisons: Sequence[Comparison]) -> Latent:
    """What is known after the answers, by Laplace's approximation (Newton's method to the mode)."""
    from scipy.special import log_ndtr
    from threadpoolctl import threadpool_limits

    if not comparisons:
        return prior
    first, second, better = (np.array(column) for column in zip(*comparisons, strict=True))
    weight = np.concatenate([better, 1 - better])
    winner, loser = np.concatenate([first, second]), np.concatenate([second, first])
    precision = np.linalg.inv(prior.covariance)
    mean = prior.mean.copy()
    # Threads that wait for a busy core cost more than they save on so small a system.
    with threadpool_limits(1, "blas"):
        for _ in range(_STEPS):
            apart = mean[winner] - mean[loser]
            slope = np.exp(-(apart**2) / 2 - 0.5 * math.log(2 * math.pi) - log_ndtr(apart))
            gradient = precision @ (prior.mean - mean)
            curvature = precision.copy()
            pull, bend = weight * slope, weight * slope * (slope + apart)
            np.add.at(gradient, winner, pull)
            np.add.at(gradient, loser, -pull)
            for one, other, sign in ((winner, winner, 1), (loser, loser, 1), (winner, loser, -1)):
                np.add.at(curvature, (one, other), sign * bend)
            np.add.at(curvature, (loser, winner), -bend)
            step = np.linalg.solve(curvature, gradient)
            mean += step
            if np.abs(step).max() < _CLOSE:
                break
        return Latent(mean, np.linalg.inv(curvature))


def information(latent: Latent) -> Matrix:
    """[n, n]: bits that the answer to each pair is expected to tell about the whole scale.

    The mutual information of answer and scale (Lindley 1956), in the closed form that Houlsby et
    al. give for probit models (arXiv:1112.5745, equation 3).
    """
    from scipy.special import entr, ndtr

    mean: Vector = latent.mean[:, None] - latent.mean[None, :]
    variance = latent.variance()
    chance = ndtr(mean / np.sqrt(1 + variance))
    total = (entr(chance) + entr(1 - chance)) / math.log(2)
    width = variance + _ENTROPY_WIDTH**2
    noise = _ENTROPY_WIDTH / np.sqrt(width) * np.exp(-(mean**2) / (2 * width))
    gain: Matrix = np.clip(total - noise, 0, None)
    np.fill_diagonal(gain, 0)
    return gain


def best_pairs(
    latent: Latent, taken: Collection[frozenset[int]], count: int
) -> list[tuple[int, int]]:
    """The pairs that tell most, the best first; none shares a picture with another, since their
    answers would tell the same.

    Args:
        taken: pairs that are not to be asked (again).
    """
    gain = np.triu(information(latent))
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

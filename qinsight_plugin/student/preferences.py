"""Learning from pairs: which of two pictures people called the better."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qinsight_plugin.evaluate import Estimate
from qinsight_plugin.labels import draw_apart
from qinsight_plugin.pairs import Pairs
from qinsight_plugin.student.losses import disagreement, preference

OPINION_SPREAD = 0.35
"""Standard deviation of one opinion about one picture, in MOS, as in `fidelity_loss`."""


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Answers about pairs of pictures.

    Attributes:
        first, second: int64 [N], indices of pictures.
        preferred: float32 [N], 1 where the first was called better, 0 the second, 0.5 neither.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    preferred: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)

    def at(self, rows: npt.NDArray[np.int64]) -> Compared:
        return Compared(self.first[rows], self.second[rows], self.preferred[rows])


def split_pairs(pairs: Pairs, hold_out: float, seed: int) -> tuple[Compared, Compared]:
    """What to train on, and what to measure on: the file's own `test` rows, or else the pairs of
    pictures drawn at random. Pairs of one that is drawn and one that is not are in neither, or
    knowing pictures by heart would pass for judging them. `val` rows train.

    Args:
        hold_out: about the share of the pairs to measure on.
    """
    everything = Compared(
        np.array(pairs.a, np.int64),
        np.array(pairs.b, np.int64),
        np.array(pairs.preference, np.float32),
    )
    if pairs.split is not None:
        first = second = np.array([name == "test" for name in pairs.split])
    else:
        sides: dict[Hashable, bool] = {}
        rows = [frozenset(own) for own in zip(pairs.a, pairs.b, strict=True)]
        draw_apart(rows, hold_out, str(seed), sides)
        first, second = (np.array([sides[k] for k in own]) for own in (pairs.a, pairs.b))
    return (
        everything.at(np.flatnonzero(~(first | second))),
        everything.at(np.flatnonzero(first & second)),
    )


def pair_loss(first: Tensor, second: Tensor, preferred: Tensor) -> Tensor:
    """Fidelity loss between the answers and what the scores foretell; float [B] each."""
    return disagreement(preferred, preference(first - second, OPINION_SPREAD)).mean()


def pair_accuracy(
    mos: npt.NDArray[np.float32], compared: Compared, *, resamples: int = 1000, seed: int = 0
) -> Estimate | None:
    """Share of the decided answers that the scores foretell, with a 95 % bootstrap interval over
    answers; None where no answer is decided.

    Args:
        mos: the score of every picture that `compared` points to.
    """
    decided = compared.preferred != 0.5
    if not decided.any():
        return None
    lead = mos[compared.first[decided]] - mos[compared.second[decided]]
    right = ((lead > 0) == (compared.preferred[decided] > 0.5)) & (lead != 0)
    rng = np.random.default_rng(seed)
    means = right[rng.integers(len(right), size=(resamples, len(right)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(right.mean()), float(low), float(high))


def batch_of_pairs(
    compared: Compared, size: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Tensor]:
    rows = rng.integers(len(compared), size=max(1, size))
    drawn = compared.at(rows)
    return drawn.first, drawn.second, torch.from_numpy(drawn.preferred)

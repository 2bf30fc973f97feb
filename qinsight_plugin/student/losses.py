"""Losses that make a scorer agree with ratings: in value, in correlation, in order."""

from __future__ import annotations

import torch
from torch import Tensor


def plcc_loss(predicted: Tensor, rated: Tensor) -> Tensor:
    """(1 - Pearson's correlation) / 2 over a batch; float [B] each, result in 0..1."""
    x = predicted - predicted.mean()
    y = rated - rated.mean()
    correlation: Tensor = (x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-6)
    return (1 - correlation) / 2


def fidelity_loss(predicted: Tensor, rated: Tensor, group: Tensor, spread: float = 0.35) -> Tensor:
    """Mean fidelity loss over the pairs inside each group.

    Tsai et al., "FRank: a ranking method with fidelity loss", SIGIR 2007, with Thurstone's Case V
    for the probability that one picture is the better of two. Pairs across groups teach what the
    groups are, not which picture is better, so they are left out.

    Args:
        predicted, rated: MOS, float [B].
        group: int [B].
        spread: standard deviation of one opinion about one picture, in MOS.
    """
    first, second = torch.triu_indices(len(rated), len(rated), offset=1)
    inside = group[first] == group[second]
    first, second = first[inside], second[inside]
    if len(first) == 0:
        return predicted.sum() * 0.0
    wanted = preference(rated[first] - rated[second], spread)
    given = preference(predicted[first] - predicted[second], spread)
    # The square root's slope is infinite at 0.
    agreement = ((wanted * given) + 1e-6).sqrt() + ((1 - wanted) * (1 - given) + 1e-6).sqrt()
    return (1 - agreement).mean()


def preference(difference: Tensor, spread: float) -> Tensor:
    return 0.5 * (1 + torch.erf(difference / (2 * spread)))


def ladder_loss(predicted: Tensor, margin: float) -> Tensor:
    """Hinge on neighbouring levels: each must score `margin` under the one before it.

    Args:
        predicted: MOS, float [B, levels], best level first.
    """
    return torch.relu(margin - (predicted[:, :-1] - predicted[:, 1:])).mean()

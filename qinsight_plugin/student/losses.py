"""Losses that make a scorer agree with ratings: in value, in correlation, in order; and those that
teach it to name distortions, to know how sure it is, and to see where the fault lies."""

from __future__ import annotations

import torch
from torch import Tensor

from qinsight_plugin.records import SEVERITIES

ONE_OPINION = 0.35
"""Standard deviation of one opinion about one picture, in MOS."""

LIKENESS_PER_MOS = 25.0
"""Points of SSIMULACRA2 that are about one level of a rating: its own scale has 90 for no visible
loss, 30 for low quality."""


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp_min(1e-6)


def plcc_loss(predicted: Tensor, rated: Tensor) -> Tensor:
    """(1 - Pearson's correlation) / 2 over a batch; float [B] each, result in 0..1."""
    x = predicted - predicted.mean()
    y = rated - rated.mean()
    correlation: Tensor = (x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-6)
    return (1 - correlation) / 2


def plcc_loss_within(predicted: Tensor, rated: Tensor, group: Tensor, least: int = 4) -> Tensor:
    """Mean of `plcc_loss` over the groups with at least that many pictures in the batch.

    Correlation over all of a batch rewards telling the groups apart, which is not quality: without
    this a network learns what a collection looks like, and fails on the next collection.
    """
    parts = [
        plcc_loss(predicted[group == g], rated[group == g])
        for g in group.unique()  # type: ignore[no-untyped-call]
        if int((group == g).sum()) >= least
    ]
    return torch.stack(parts).mean() if parts else predicted.sum() * 0.0


def fidelity_loss(
    predicted: Tensor,
    rated: Tensor,
    group: Tensor,
    weight: Tensor | None = None,
    spread: float = ONE_OPINION,
) -> Tensor:
    """Mean fidelity loss over the pairs inside each group.

    Tsai et al., "FRank: a ranking method with fidelity loss", SIGIR 2007, with Thurstone's Case V
    for the probability that one picture is the better of two. Pairs across groups teach what the
    groups are, not which picture is better, so they are left out.

    Args:
        predicted, rated: MOS, float [B].
        group: int [B].
        weight: reliability of each rating, float [B]; a pair weighs the product of its two.
        spread: standard deviation of one opinion about one picture, in MOS.
    """
    first, second = torch.triu_indices(len(rated), len(rated), offset=1, device=rated.device)
    inside = group[first] == group[second]
    first, second = first[inside], second[inside]
    if len(first) == 0:
        return predicted.sum() * 0.0
    wanted = preference(rated[first] - rated[second], spread)
    given = preference(predicted[first] - predicted[second], spread)
    loss = disagreement(wanted, given)
    return loss.mean() if weight is None else weighted_mean(loss, weight[first] * weight[second])


def disagreement(wanted: Tensor, given: Tensor) -> Tensor:
    """Fidelity loss between two probabilities of the same preference."""
    # The square root's slope is infinite at 0.
    agreement = ((wanted * given) + 1e-6).sqrt() + ((1 - wanted) * (1 - given) + 1e-6).sqrt()
    return 1 - agreement


def preference(difference: Tensor, spread: float) -> Tensor:
    return 0.5 * (1 + torch.erf(difference / (2 * spread)))


def spread_loss(
    spread: Tensor, predicted: Tensor, rated: Tensor, variance: Tensor, weight: Tensor
) -> Tensor:
    """How badly N(predicted, spread^2) foretells the ratings, each N(rated, variance).

    The cross-entropy of two Gaussians. The prediction is taken as it is: being unsure may not
    excuse being wrong.
    """
    error = (predicted.detach() - rated) ** 2 + variance
    return weighted_mean(torch.log(spread) + error / (2 * spread**2), weight)


def ladder_loss(predicted: Tensor, margin: float) -> Tensor:
    """Hinge on neighbouring levels: each must score `margin` under the one before it.

    Args:
        predicted: MOS, float [B, levels], best level first.
    """
    return torch.relu(margin - (predicted[:, :-1] - predicted[:, 1:])).mean()


def likeness_loss(predicted: Tensor, likeness: Tensor, kind: Tensor, apart: float = 10.0) -> Tensor:
    """Fidelity loss over pairs of pictures from different families, of which one, a full-reference
    metric says, lost more than the other.

    Only families of one kind of distortion are compared: how a blur compares with noise, the metric
    knows less well. And nothing is asked of pairs that lost about as much: which of two good
    photographs is better, it does not know at all.

    Args:
        predicted: MOS, float [families, rungs].
        likeness: float of the same shape, see `Family`; NaN: not known.
        kind: int [families].
        apart: least difference in `likeness` of a pair.
    """
    count, rungs = likeness.shape
    family = torch.arange(count, device=likeness.device).repeat_interleave(rungs)
    lost = (likeness.flatten()[:, None] - likeness.flatten()) / LIKENESS_PER_MOS
    comparable = (kind[family][:, None] == kind[family]) & (family[:, None] != family)
    # False, too, where one of the two is not known.
    first, second = torch.nonzero(comparable & (lost > apart / LIKENESS_PER_MOS), as_tuple=True)
    if len(first) == 0:
        return predicted.sum() * 0.0
    mos = predicted.flatten()
    given = preference(mos[first] - mos[second], ONE_OPINION)
    return disagreement(preference(lost[first, second], ONE_OPINION), given).mean()


def distortion_loss(at_least: Tensor, severities: Tensor) -> Tensor:
    """Binary cross-entropy of every class's every level (Frank and Hall, "A simple approach to
    ordinal classification", ECML 2001).

    Args:
        at_least: logits [B, 4, 5].
        severities: float [B, 4], 0 to 5; between two levels counts in part. NaN: not known.
    """
    level = torch.arange(1.0, 1.0 + len(SEVERITIES), device=severities.device)
    wanted = (severities[..., None] - level + 1).clamp(0, 1)
    known = ~wanted.isnan()
    if not bool(known.any()):
        return at_least.sum() * 0.0
    return torch.nn.functional.binary_cross_entropy_with_logits(at_least[known], wanted[known])

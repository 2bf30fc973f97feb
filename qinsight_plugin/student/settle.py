"""The last stage of training: score and naming heads, on whole pictures, with the tail at rest.

While the tail learns, it shows the heads windows of pictures, a few hundred steps long. With the
tail at rest every picture is described once, and many passes take seconds. Here, too, the score
learns how collections of pictures compare, which the tail had better not: it would learn to tell
the collections apart instead of what is good in them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qinsight_plugin.student.cache import Cache, Record, of_one_size
from qinsight_plugin.student.families import RUNGS, Family
from qinsight_plugin.student.heads import JudgingHeads, on_scale
from qinsight_plugin.student.losses import (
    fidelity_loss,
    ladder_loss,
    likeness_loss,
    plcc_loss,
    plcc_loss_within,
    spread_loss,
    weighted_mean,
)
from qinsight_plugin.student.network import AnyStudent, device_of, half_precision, stem_of
from qinsight_plugin.student.recipe import Recipe
from qinsight_plugin.student.views import Rated

BATCH, FAMILIES = 128, 16
SCORE_RATE, NAMING_RATE = 5e-4, 1e-3
NAMING_DROPOUT = 0.2


@dataclass(frozen=True, slots=True)
class Described:
    """Whole pictures as the heads see them.

    Attributes:
        rated: float [N, width], of the rated pictures.
        rungs: float [F, 6, width], of the families.
        severities: float [F, 6, 4].
        likeness: float [F, 6].
        kind: int [F].
    """

    rated: Tensor
    rungs: Tensor
    severities: Tensor
    likeness: Tensor
    kind: Tensor


def settle(
    student: AnyStudent,
    cache: Cache[Any],
    rated: Rated,
    families: Sequence[Family],
    recipe: Recipe,
) -> None:
    """Train the two heads for `recipe.settle_epochs` and `recipe.naming_epochs`; without families
    there is nothing to settle by."""
    if not families or not (recipe.settle_epochs or recipe.naming_epochs):
        return
    rungs = [record for family in families for record in family.records]
    described = Described(
        describe(student, cache, [views[0] for views in rated.views], recipe),
        describe(student, cache, rungs, recipe).view(len(families), RUNGS, -1),
        torch.from_numpy(np.stack([family.severities for family in families])),
        torch.from_numpy(np.stack([family.likeness for family in families])),
        torch.tensor([family.kind for family in families]),
    )
    torch.manual_seed(recipe.seed)
    settle_score(student.heads, described, rated, recipe)
    settle_naming(student.heads, described, recipe.naming_epochs)


@torch.inference_mode()
def describe(
    student: AnyStudent, cache: Cache[Any], records: Sequence[Record], recipe: Recipe
) -> Tensor:
    student.eval()
    with half_precision(device_of(student), recipe.bfloat16):
        stems = (stem_of(student, cache.all_of(batch)) for batch in of_one_size(records))
        pooled = [student.describe(stem)[0] for stem in stems]
    return student.heads.standardise(torch.cat(pooled)).clone()


def settle_score(heads: JudgingHeads, described: Described, rated: Rated, recipe: Recipe) -> None:
    """Squared error and correlation over the first set, where scores are meant to be compared;
    correlation and order inside every group; order inside families and between them."""
    columns = (rated.mos, rated.variance, rated.weight, rated.group, rated.scale)
    mos, variance, weight, group, scale = (torch.from_numpy(column) for column in columns)

    def step() -> Tensor:
        rows = torch.randint(len(mos), (BATCH,))
        hidden = heads.regressor[:-1](described.rated[rows])
        predicted, first = on_scale(heads.last_layer(hidden)[:, 0]), scale[rows] == 0
        squares = (predicted - mos[rows]) ** 2
        own = weight[rows] * first
        families = torch.randint(len(described.rungs), (FAMILIES,))
        rungs = on_scale(heads.regressor(described.rungs[families])[..., 0])
        lost = likeness_loss(rungs, described.likeness[families], described.kind[families])
        return (
            recipe.settle_mse * weighted_mean(squares, own)
            + plcc_loss(predicted[first], mos[rows][first])
            + plcc_loss_within(predicted, mos[rows], group[rows])
            + fidelity_loss(predicted, mos[rows], group[rows], weight[rows])
            + recipe.ladder * ladder_loss(rungs, recipe.ladder_margin)
            + recipe.likeness * lost
            + spread_loss(heads.spread(hidden), predicted, mos[rows], variance[rows], own)
        )

    steps = steps_of(recipe.settle_epochs, len(mos), BATCH)
    train([heads.regressor, heads.spreader], step, steps, SCORE_RATE, 0.05, recipe.settle_dropout)


def settle_naming(heads: JudgingHeads, described: Described, epochs: float) -> None:
    """Rungs without a distortion count as much, together, as those of one class: else "nothing
    wrong" would be the rarest answer, and a good picture would be called slightly bad."""
    pooled, severities = described.rungs.flatten(0, 1), described.severities.flatten(0, 1)
    weight = balance(severities)
    level = torch.arange(1.0, 6.0)

    def step() -> Tensor:
        rows = torch.randint(len(pooled), (2 * BATCH,))
        wanted = (severities[rows][..., None] - level + 1).clamp(0, 1)
        entropy = nn.functional.binary_cross_entropy_with_logits(
            heads.distortions(pooled[rows]).view_as(wanted), wanted, reduction="none"
        )
        return weighted_mean(entropy.mean((1, 2)), weight[rows])

    steps = steps_of(epochs, len(pooled), 2 * BATCH)
    train([heads.distortions], step, steps, NAMING_RATE, 0.01, NAMING_DROPOUT)


def steps_of(epochs: float, rows: int, batch: int) -> int:
    return math.ceil(epochs * rows / batch)


def balance(severities: Tensor) -> Tensor:
    """[N, 4] -> weights [N]: none and each class have equal sums; mixtures go to the worst."""
    kind = torch.where(severities.amax(1) > 0, 1 + severities.argmax(1), 0)
    counts = torch.bincount(kind, minlength=1 + severities.shape[1]).clamp_min(1)
    return (len(severities) / (len(counts) * counts))[kind].float()


def train(
    parts: Sequence[nn.Module],
    loss_of_step: Callable[[], Tensor],
    steps: int,
    rate: float,
    decay: float,
    dropout: float,
) -> None:
    """AdamW on one cycle; the dropout of the parts is put back at the end."""
    if steps < 1:
        return
    head = nn.ModuleList(parts).train().requires_grad_(True)
    usual = {layer: layer.p for layer in head.modules() if isinstance(layer, nn.Dropout)}
    for layer in usual:
        layer.p = dropout
    optimizer = torch.optim.AdamW(head.parameters(), lr=rate, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1)
    for _ in range(steps):
        loss = loss_of_step()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for layer, probability in usual.items():
        layer.p = probability
    head.eval()

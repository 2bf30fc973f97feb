"""Training the student on ratings: the tail of the network, on cached activations of its stem.

Read `fit` from top to bottom. Two kinds of data teach it: human ratings, by value, correlation
and order; and ladders of synthetic distortions, by order alone, since nobody rated those.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qinsight_plugin.labels import Labels
from qinsight_plugin.student.cache import StemCache
from qinsight_plugin.student.losses import fidelity_loss, ladder_loss, plcc_loss
from qinsight_plugin.student.network import STEM_BLOCKS, Student
from qinsight_plugin.student.views import OnCached, Rated, cache_ladders, cache_rated

Vector: TypeAlias = npt.NDArray[np.float32]
OnStep: TypeAlias = Callable[[int, Mapping[str, float]], None]


LEAST_TO_CALIBRATE = 30
"""Pictures; to fewer, two parameters would fit the noise of their ratings."""


def calibration_set(train: Sequence[int], validation: Sequence[int]) -> list[int]:
    """Held-back pictures where there are enough; else all, which at worst changes little."""
    enough = len(validation) >= LEAST_TO_CALIBRATE
    return [*validation] if enough else [*train, *validation]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; the defaults made the shipped weights.

    Attributes:
        epochs: passes over the rated pictures, counting one view of each.
        batch: rated pictures a step.
        crop: window of the stem's map that a step sees, in cells of 16 pixels.
        backbone_rate, regressor_rate: peak learning rates of AdamW's one-cycle schedule.
        weight_decay: AdamW's.
        averaging: decay of the moving average of the weights, which is what is kept.
        ladders: distortion ladders to make; `ladders_per_step` of them are seen a step.
        ladder_margin: MOS by which a level must score under the one before it.
        validation: share of the training clusters held back for calibration.
        seed: of everything random.
    """

    epochs: int = 8
    batch: int = 32
    crop: int = 20
    backbone_rate: float = 2e-4
    regressor_rate: float = 1e-3
    weight_decay: float = 0.01
    averaging: float = 0.995
    ladders: int = 1400
    ladders_per_step: int = 3
    ladder_margin: float = 0.2
    validation: float = 0.08
    seed: int = 0

    def steps(self, pictures: int) -> int:
        """Optimiser steps for that many pictures to train on."""
        return max(1, pictures // self.batch) * self.epochs


def fit(
    student: Student,
    labels: Labels,
    train: Sequence[int],
    validation: Sequence[int],
    recipe: Recipe,
    *,
    fresh: bool,
    on_step: OnStep | None = None,
    on_cached: OnCached | None = None,
) -> Student:
    """Train the student's tail on the labels at `train`, and calibrate it.

    Args:
        student: where to start from; not changed.
        train, validation: indices into the labels; see `calibration_set` for what calibrates.
        fresh: the student's regressor has never been trained.
        on_step: called with the step, from 1, and its losses.
        on_cached: called with the pictures cached so far and their total.

    Returns:
        the trained student, on the CPU, in eval mode.

    Raises:
        ImageError: a picture cannot be decoded.
    """
    torch.manual_seed(recipe.seed)
    student = copy.deepcopy(student).eval()
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rated = cache_rated(student, labels, train, jitter=recipe.seed, on_cached=on_cached)
    ladders_cache, ladders = cache_ladders(student, labels, train, recipe.ladders, recipe.seed)
    if fresh:
        prepare_regressor(student, rated)
    student.features[:STEM_BLOCKS].requires_grad_(False)
    average = copy.deepcopy(student)
    rng = np.random.default_rng(recipe.seed)

    steps = recipe.steps(len(train))
    optimizer, schedule = make_optimizer(student, recipe, steps)
    batches = view_batches(rated.views, recipe.batch, rng)
    student.train()
    for step in range(1, steps + 1):
        chosen, views = next(batches)
        predicted = student.tail(rated.cache.cropped(views, recipe.crop, rng))
        mos = torch.from_numpy(rated.mos[chosen])
        losses = {
            "mse": torch.nn.functional.mse_loss(predicted, mos),
            "plcc": plcc_loss(predicted, mos),
            "fidelity": fidelity_loss(predicted, mos, torch.from_numpy(rated.group[chosen])),
        }
        if ladders:
            losses["ladder"] = ladder_step(student, ladders_cache, ladders, recipe, rng)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        update_average(average, student, min(recipe.averaging, step / (step + 20)))
        if on_step is not None:
            on_step(step, {name: loss.item() for name, loss in losses.items()})

    calibrate(average, cache_rated(average, labels, calibration_set(train, validation)))
    return average.eval()


@torch.no_grad()
def prepare_regressor(student: Student, rated: Rated, sample: int = 400) -> None:
    """Standardise the pooled features, and start from the mean rating."""
    some = [views[0] for views in rated.views[:: max(1, len(rated.views) // sample)]]
    pooled = torch.cat([student.pool(rated.cache.whole(index)) for index in some])
    student.pooled_mean.copy_(pooled.mean(0))
    student.pooled_scale.copy_(1 / (pooled.std(0) + 1e-3))
    student.last_layer.bias.fill_(float(logit(torch.tensor(rated.mos.mean()))))


def logit(mos: Tensor) -> Tensor:
    """MOS in (1, 5) -> the value of which it is the scaled sigmoid."""
    return torch.logit((mos - 1) / 4, eps=1e-3)


def make_optimizer(
    student: Student, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    rates = [recipe.backbone_rate, recipe.regressor_rate]
    parts = [student.features[STEM_BLOCKS:], student.regressor]
    optimizer = torch.optim.AdamW(
        [
            {"params": part.parameters(), "lr": rate}
            for part, rate in zip(parts, rates, strict=True)
        ],
        weight_decay=recipe.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=rates, total_steps=steps + 1, pct_start=0.1
    )
    return optimizer, schedule


def view_batches(
    views: Sequence[Sequence[int]], size: int, rng: np.random.Generator
) -> Iterator[tuple[list[int], list[int]]]:
    """Endless batches of (picture, one of its views), every pair once before any comes again."""
    pairs = [(picture, view) for picture, own in enumerate(views) for view in own]
    size = min(size, len(pairs))
    while True:
        order = rng.permutation(len(pairs))
        for start in range(0, len(order) - size + 1, size):
            batch = [pairs[k] for k in order[start : start + size]]
            yield [picture for picture, _ in batch], [view for _, view in batch]


def ladder_step(
    student: Student,
    cache: StemCache,
    ladders: Sequence[Sequence[int]],
    recipe: Recipe,
    rng: np.random.Generator,
    rungs: int = 4,
) -> Tensor:
    """Ranking loss of a few ladders, four of their six rungs each: neighbours at times, and at
    times two steps apart."""
    losses = []
    for choice in rng.choice(len(ladders), recipe.ladders_per_step):
        ladder_views = ladders[choice]
        picked = [ladder_views[k] for k in sorted(rng.permutation(len(ladder_views))[:rungs])]
        predicted = student.tail(cache.aligned(picked, recipe.crop, rng))
        losses.append(ladder_loss(predicted[None], recipe.ladder_margin))
    return torch.stack(losses).mean()


@torch.no_grad()
def update_average(average: Student, student: Student, decay: float) -> None:
    for kept, current in zip(average.parameters(), student.parameters(), strict=True):
        kept.lerp_(current, 1 - decay)


@torch.inference_mode()
def predict(student: Student, rated: Rated) -> Vector:
    """The MOS of each picture's native view."""
    student.eval()
    scores = [student.tail(rated.cache.whole(views[0])) for views in rated.views]
    return torch.cat(scores).numpy()


def calibrate(student: Student, rated: Rated) -> None:
    """Fit gain and offset in logits, by least squares in MOS, so that the scale means what it says.

    A drawn-in scale is what averaging and regularising leave behind; order is not changed.
    """
    z = logit(torch.from_numpy(predict(student, rated)))
    mos = torch.from_numpy(rated.mos)
    affine = torch.tensor([1.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([affine], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(1 + 4 * torch.sigmoid(affine[0] * z + affine[1]), mos)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    gain, offset = affine.tolist()
    # A gain of 0 or less would erase or turn the order: there is nothing to calibrate then.
    if gain > 0:
        student.recalibrate(gain, offset)


def split_labels(labels: Labels, recipe: Recipe) -> tuple[list[int], list[int]]:
    """Indices to train on, and to calibrate on; near-duplicates stay on one side.

    Rows that the labels themselves put in `val` are used for calibration, those in `test` not at
    all.
    """
    splits = labels.split or ("train",) * len(labels.mos)
    train = [i for i, split in enumerate(splits) if split == "train"]
    given = [i for i, split in enumerate(splits) if split == "val"]
    if given:
        return train, given
    names = labels.cluster or ("",) * len(labels.mos)
    clusters = {i: names[i] or f"#{i}" for i in train}
    rng = np.random.default_rng(recipe.seed)
    order = rng.permutation(sorted(set(clusters.values())))
    held = set(order[: max(1, round(recipe.validation * len(order)))])
    return [i for i in train if clusters[i] not in held], [i for i in train if clusters[i] in held]

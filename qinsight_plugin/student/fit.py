"""Training the student: all of the network on pictures, or its tail on what the stem made of them.

Read `fit` from top to bottom. Two kinds of data teach it: human ratings, or a teacher's, by value,
correlation and order; and families of synthetic distortions, by order, class and severity, since
nobody rated those. Where all of the network learns from pictures, larger students can be its
teachers too: they are shown each window that it is shown.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from qinsight_plugin.student.cache import Cache, Record
from qinsight_plugin.student.calibrate import logit
from qinsight_plugin.student.checkpoint import Checkpoint, name_of_run
from qinsight_plugin.student.families import RUNGS, Family, draw_families
from qinsight_plugin.student.heads import Heads, on_scale
from qinsight_plugin.student.losses import (
    distortion_loss,
    fidelity_loss,
    ladder_loss,
    likeness_loss,
    plcc_loss_within,
    spread_loss,
    weighted_mean,
)
from qinsight_plugin.student.network import (
    AnyStudent,
    Seen,
    StemOutput,
    device_of,
    half_precision,
    stem_of,
)
from qinsight_plugin.student.preferences import Compared, batch_of_pairs, pair_loss
from qinsight_plugin.student.recipe import Recipe
from qinsight_plugin.student.views import Rated

OnStep: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
Losses: TypeAlias = dict[str, Tensor]

LARGEST_GRADIENT = 10.0
"""Norm above which a step's gradient is shortened: without BatchNorm, one odd batch could undo what
was learnt."""


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What `fit` learns from, all of it in the cache.

    Attributes:
        compared: answers about pairs of the rated pictures.
        teachers: students whose mean score of every picture is learnt as well; for them the cache
            must hold pictures.
    """

    cache: Cache[Any]
    rated: Rated
    families: Sequence[Family]
    compared: Compared | None = None
    teachers: Sequence[AnyStudent] = ()


class Scales(torch.nn.Module):
    """A monotone map a set of ratings: which score on the first set's scale it calls what.

    Two sets of raters are two scales. The first set's own is the student's; of every other set a
    gain and an offset, in logits, are learnt.
    """

    def __init__(self, sets: int) -> None:
        super().__init__()
        self.log_gain = torch.nn.Parameter(torch.zeros(sets))
        self.offset = torch.nn.Parameter(torch.zeros(sets))

    def forward(self, mos: Tensor, scale: Tensor) -> Tensor:
        z = self.log_gain.exp()[scale] * logit(mos) + self.offset[scale]
        return torch.where(scale == 0, mos, on_scale(z))


@dataclass
class State:
    """All that changes from step to step, and `pairs`: each (picture, view) there is."""

    student: AnyStudent
    average: AnyStudent
    scales: Scales
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    rng: np.random.Generator
    pairs: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    step: int = 0


def fit(
    student: AnyStudent,
    data: TrainingData,
    recipe: Recipe,
    *,
    fresh: bool,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
) -> AnyStudent:
    """Train the student's tail, or with `recipe.whole` all of it.

    Args:
        student: where to start from; not changed. Its stem filled the cache, unless that holds
            pictures.
        fresh: the student's heads have never been trained.
        checkpoint: a file from which training goes on if it was killed, and which is written every
            `recipe.checkpoint_seconds`; on a CPU the result is the same bits as without a kill.
        on_step: called with the step, from 1, how many there are, and its losses.

    Returns:
        the trained student, not yet calibrated, in eval mode.

    Raises:
        ConfigError: the checkpoint is of another run.
    """
    if fresh:
        student = with_new_heads(student, recipe.seed)
    state = start(student, data, recipe, fresh)
    run = name_of_run(student, data, recipe)
    keeper = Checkpoint(checkpoint, run, recipe.checkpoint_seconds)
    keeper.restore(state)
    steps = recipe.steps(len(data.rated))
    while state.step < steps:
        state.step += 1
        train_backbone = state.step > recipe.probe * steps
        learning_part(state.student, recipe).requires_grad_(train_backbone)
        losses = rated_losses(state, data, recipe)
        if data.families and recipe.families_per_step:
            losses |= family_losses(state, data, recipe)
        if data.compared is not None:
            losses["pairs"] = recipe.pairs * compared_loss(state, data, data.compared, recipe)
        state.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(state.student.parameters(), LARGEST_GRADIENT)
        state.optimizer.step()
        state.schedule.step()
        decay = min(recipe.averaging, state.step / (state.step + 20))
        update_average(state.average, state.student, decay)
        keeper.save_now_and_then(state, last=state.step == steps)
        if on_step is not None:
            on_step(state.step, steps, {name: loss.item() for name, loss in losses.items()})
    return state.average.eval()


def with_new_heads(student: AnyStudent, seed: int) -> AnyStudent:
    """A copy with heads drawn anew: what a process draws by itself is different every time, and a
    run that was killed could not go on."""
    torch.manual_seed(seed)
    student = copy.deepcopy(student)
    student.heads = student.heads.anew().to(device_of(student))
    return student


def start(student: AnyStudent, data: TrainingData, recipe: Recipe, fresh: bool) -> State:
    torch.manual_seed(recipe.seed)
    student = copy.deepcopy(student).eval()
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    student.requires_grad_(False)
    student.heads.requires_grad_(True)
    if fresh:
        prepare_heads(student, data)
    scales = Scales(int(data.rated.scale.max()) + 1).to(device_of(student))
    average = copy.deepcopy(student)
    optimizer, schedule = make_optimizer(student, scales, recipe, recipe.steps(len(data.rated)))
    rng = np.random.default_rng(recipe.seed)
    pairs = np.array([(i, v) for i, own in enumerate(data.rated.views) for v in range(len(own))])
    order = np.zeros(0, np.int64)
    return State(student.train(), average, scales, optimizer, schedule, rng, pairs, order)


def learning_part(student: AnyStudent, recipe: Recipe) -> torch.nn.Module:
    """What learns beside the heads."""
    return student.all_features if recipe.whole else student.tail_features


def judged(student: AnyStudent, recipe: Recipe, seen: Seen) -> tuple[StemOutput, Heads]:
    """What the stem and the rest make of pictures."""
    with half_precision(device_of(student), recipe.bfloat16):
        stem = stem_of(student, seen)
        pooled, local = student.describe(stem)
    heads: Heads = student.heads(pooled, local.float())
    return stem, heads


@torch.no_grad()
def taught(data: TrainingData, recipe: Recipe, seen: Seen) -> Tensor | None:
    """The teachers' mean score of what the student sees; None without teachers."""
    if not data.teachers:
        return None
    return torch.stack([judged(t, recipe, seen)[1].mos for t in data.teachers]).mean(0)


@torch.no_grad()
def prepare_heads(student: AnyStudent, data: TrainingData, sample: int = 400) -> None:
    """Standardise the pooled features, and start from the mean rating of the first set."""
    views = data.rated.views[:: max(1, len(data.rated) // sample)]
    stems = (stem_of(student, data.cache.whole(view[0])) for view in views)
    pooled = torch.cat([student.describe(stem)[0] for stem in stems])
    heads = student.heads
    heads.pooled_mean.copy_(pooled.mean(0))
    heads.pooled_scale.copy_(1 / (pooled.std(0) + 1e-3))
    mean = float(data.rated.mos[data.rated.scale == 0].mean())
    heads.last_layer.bias.fill_(float(logit(torch.tensor(mean))))


def make_optimizer(
    student: AnyStudent, scales: Scales, recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    parts = [
        (learning_part(student, recipe), recipe.backbone_rate, recipe.weight_decay),
        (student.heads, recipe.heads_rate, recipe.weight_decay),
        (scales, recipe.heads_rate, 0.0),
    ]
    groups = [
        {"params": list(part.parameters()), "lr": rate, "weight_decay": decay}
        for part, rate, decay in parts
        if any(True for _ in part.parameters())
    ]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=[float(group["lr"]) for group in groups],  # type: ignore[arg-type]
        total_steps=steps + 1,
        # Of a warm-up of exactly one step, PyTorch would divide by the length.
        pct_start=max(0.1, 2 / (steps + 1)),
    )
    return optimizer, schedule


def rated_losses(state: State, data: TrainingData, recipe: Recipe) -> Losses:
    rated, device = data.rated, device_of(state.student)
    chosen, views = next_batch(state, rated, recipe.batch)
    seen = data.cache.cropped(views, recipe.crop, state.rng)
    _, heads = judged(state.student, recipe, seen)
    mos, variance, weight, group, scale, severities = (
        torch.from_numpy(column[chosen]).to(device)
        for column in (
            rated.mos,
            rated.variance,
            rated.weight,
            rated.group,
            rated.scale,
            rated.severities,
        )
    )
    predicted = state.scales(heads.mos, scale)
    losses = {
        "mse": recipe.mse * weighted_mean((predicted - mos) ** 2, weight),
        "plcc": recipe.plcc * plcc_loss_within(predicted, mos, group),
        "fidelity": recipe.fidelity * fidelity_loss(predicted, mos, group, weight),
        # Only of the first set is it known on the student's own scale how far off it is.
        "spread": spread_loss(heads.spread, predicted, mos, variance, weight * (scale == 0)),
        "map": recipe.quality_map * map_loss(heads.quality_map.mean((1, 2)), heads.mos),
    }
    if not bool(torch.isnan(severities).all()):
        losses["naming"] = recipe.distortion * distortion_loss(heads.at_least, severities)
    if (lesson := taught(data, recipe, seen)) is not None:
        losses["taught"] = recipe.taught * torch.nn.functional.mse_loss(heads.mos, lesson)
    return losses


def next_batch(state: State, rated: Rated, size: int) -> tuple[list[int], list[Record]]:
    """Pictures, and of each one of its views: every view once before any comes again."""
    size = min(size, len(state.pairs))
    if len(state.order) < size:
        state.order = batches_of_one_view(state.pairs[:, 1], size, state.rng)
    batch, state.order = state.pairs[state.order[:size]], state.order[size:]
    return batch[:, 0].tolist(), [rated.views[picture][view] for picture, view in batch]


def batches_of_one_view(
    view: npt.NDArray[np.int64], size: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """A random order of all views in which batches are native views or smaller ones, but for a few:
    a batch's windows are as large as its smallest picture."""
    order = rng.permutation(len(view))
    order = order[np.argsort(view[order], kind="stable")]
    whole = len(order) // size
    batches = order[: whole * size].reshape(whole, size)
    return np.concatenate([*rng.permutation(batches), order[whole * size :]])


def family_losses(state: State, data: TrainingData, recipe: Recipe, rungs: int = 4) -> Losses:
    """Of a few families, four of the six rungs each: neighbours at times, and at times two steps
    apart. For the map, half of each is shown at one rung and half at another."""
    families = draw_families(data.families, recipe.families_per_step, state.rng)
    picked = [np.sort(state.rng.permutation(RUNGS)[:rungs]) for _ in families]
    chosen = list(zip(families, picked, strict=True))
    versions = [[family.records[k] for k in own] for family, own in chosen]
    seen = data.cache.aligned(versions, recipe.crop, state.rng)
    stem, heads = judged(state.student, recipe, seen)
    severities = np.concatenate([family.severities[own] for family, own in chosen])
    mos = heads.mos.view(len(families), rungs)
    losses = {
        "ladder": recipe.ladder * ladder_loss(mos, recipe.ladder_margin),
        "distortion": recipe.distortion
        * distortion_loss(heads.at_least, torch.from_numpy(severities).to(mos.device)),
        "patches": recipe.quality_map * patched_map_loss(state, stem.feature_map, heads, rungs),
    }
    if recipe.likeness > 0:
        likeness = torch.from_numpy(np.stack([family.likeness[own] for family, own in chosen]))
        kind = torch.tensor([family.kind for family in families])
        loss = likeness_loss(mos, likeness.to(mos.device), kind.to(mos.device))
        losses["likeness"] = recipe.likeness * loss
    if (lesson := taught(data, recipe, seen)) is not None:
        losses["rungs"] = recipe.taught * torch.nn.functional.mse_loss(heads.mos, lesson)
    return losses


def compared_loss(state: State, data: TrainingData, compared: Compared, recipe: Recipe) -> Tensor:
    """Of half a batch of pairs, each picture in one of its views."""
    first, second, preferred = batch_of_pairs(compared, recipe.batch // 2, state.rng)
    views = [data.rated.views[picture] for picture in (*first, *second)]
    chosen = [own[state.rng.integers(len(own))] for own in views]
    _, heads = judged(state.student, recipe, data.cache.cropped(chosen, recipe.crop, state.rng))
    mos = heads.mos
    return pair_loss(mos[: len(first)], mos[len(first) :], preferred.to(mos.device))


def map_loss(quality_map: Tensor, mos: Tensor) -> Tensor:
    """A map explains the score; it does not change it."""
    return torch.nn.functional.mse_loss(quality_map, mos.detach())


def patched_map_loss(state: State, feature_map: Tensor, heads: Heads, rungs: int) -> Tensor:
    """Maps of pictures that look alike everywhere, and of pictures put together from two rungs of
    a family: each part should be drawn as it is where it fills the picture."""
    mos = heads.mos.detach()
    uniform = map_loss(heads.quality_map, mos[:, None, None].expand_as(heads.quality_map))
    # Batches are families of `rungs` pictures: of each, two that differ.
    starts = rungs * np.arange(len(mos) // rungs)
    two = np.stack([state.rng.permutation(rungs)[:2] for _ in starts], 1)
    first, second = torch.from_numpy(starts + two).to(mos.device)
    axis = int(state.rng.integers(2, 4))
    step = state.student.map_step
    cut = step * int(state.rng.integers(1, max(2, feature_map.shape[axis] // step)))
    rest = feature_map.shape[axis] - cut
    if rest <= 0:
        return uniform
    parts = (
        feature_map[first].narrow(axis, 0, cut),
        feature_map[second].narrow(axis, cut, rest),
    )
    drawn = state.student.draw_map(torch.cat(parts, axis).detach().float())
    wanted = mos[second][:, None, None].expand_as(drawn).clone()
    part = wanted.narrow(axis - 1, 0, cut // step)
    part.copy_(mos[first][:, None, None].expand_as(part))
    return uniform + map_loss(drawn, wanted)


@torch.no_grad()
def update_average(average: AnyStudent, student: AnyStudent, decay: float) -> None:
    for kept, current in zip(average.parameters(), student.parameters(), strict=True):
        if current.requires_grad:
            kept.lerp_(current, 1 - decay)

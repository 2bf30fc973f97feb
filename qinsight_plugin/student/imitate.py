"""New blocks that learn to do what the pretrained ones did which they replace.

Features are matched, not answers (Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015),
at the end of every stage that both networks have: the first blocks thus learn from pictures alone,
without a label, and the later ones get over what the first cannot imitate and what was left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from qinsight_plugin.student.cache import CELL, PictureCache, Record
from qinsight_plugin.student.layouts import Layout
from qinsight_plugin.student.network import Student, half_precision
from qinsight_plugin.student.recipe import Recipe

OnStep: TypeAlias = Callable[[int, int, Mapping[str, float]], None]

NEW_RATE, KEPT_RATE = 4e-3, 2e-4
"""Peak learning rates of blocks drawn anew, and of those that only follow."""


def imitate(
    student: Student,
    original: Student,
    cache: PictureCache,
    records: Sequence[Record],
    recipe: Recipe,
    on_step: OnStep | None = None,
) -> Student:
    """Train the blocks on windows of pictures, without labels.

    Args:
        student: some of its blocks are new; not changed.
        original: the network that the others come from.
        records: pictures, of any quality: distorted ones too, since their features will be needed.
        on_step: called with the step, from 1, how many there are, and the loss: the mean squared
            difference of features, each of deviation 1.

    Returns:
        the student after `recipe.imitation` passes over the pictures.
    """
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    student = copy.deepcopy(student).train().requires_grad_(True)
    student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    original = original.eval().requires_grad_(False)
    original.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    device = next(student.parameters()).device
    pairs = common_ends(student.layout, original.layout)
    new = [n for n, block in enumerate(student.layout.blocks) if block.origin is None]
    kept = [n for n in range(len(student.features)) if n not in new]
    groups = [
        {"params": [p for n in part for p in student.features[n].parameters()], "lr": rate}
        for part, rate in ((new, NEW_RATE), (kept, KEPT_RATE))
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    records = [r for r in records if min(r.height, r.width) >= CELL * recipe.crop] or list(records)
    steps = max(1, round(len(records) * recipe.imitation / recipe.batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [NEW_RATE, KEPT_RATE], total_steps=steps + 1, pct_start=0.15
    )
    for step in range(1, steps + 1):
        drawn = rng.choice(len(records), recipe.batch)
        images = cache.cropped([records[n] for n in drawn], recipe.crop, rng)
        with half_precision(device, recipe.bfloat16):
            with torch.no_grad():
                wanted = features_at(original, images, [theirs for _, theirs in pairs])
            given = features_at(student, images, [ours for ours, _ in pairs])
        loss = torch.stack([difference(a, b) for a, b in zip(given, wanted, strict=True)]).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(step, steps, {"imitation": loss.item()})
    return student.eval()


def common_ends(ours: Layout, theirs: Layout) -> list[tuple[int, int]]:
    """Blocks of both at whose end the same is to come out: the last of each width that both have
    at the same stride, from stride 4 on."""
    there = {(theirs.blocks[n].outputs, theirs.strides[n]): n for n in theirs.ends}
    here = {(ours.blocks[n].outputs, ours.strides[n]): n for n in ours.ends}
    return [(n, there[key]) for key, n in here.items() if key in there and key[1] >= 4]


def features_at(student: Student, images: Tensor, ends: Sequence[int]) -> list[Tensor]:
    x, found = student.normalised(images), []
    for index in range(max(ends) + 1):
        x = student.features[index](x)
        if index in ends:
            found.append(x)
    return found


def difference(given: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference, in units of each wanted channel's variance over the batch."""
    given, wanted = given.float(), wanted.float()
    variance = wanted.var((0, 2, 3), keepdim=True) + 1e-4
    return ((given - wanted) ** 2 / variance).mean()
